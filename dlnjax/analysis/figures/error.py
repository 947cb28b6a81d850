"""Error curves on a logarithmic axis, where a rate is a slope, with the predicted slopes on them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dlnjax.analysis import style, tables
from dlnjax.analysis.figures._common import (
    DASHES,
    ERROR,
    GREY,
    INK,
    as_rows,
    make_panels,
    relative_curve,
    title,
)
from dlnjax.analysis.tables import Row, Table

_MOST_CURVES = 5


@style.styled
def error_curves(table: Table, *, columns: int = 3) -> Figure | None:
    """Relative error against steps, a panel a step rule (and data, width, ...), a line a depth.

    Dashed: the slope predicted at the solution, through the middle of the fitted window. One seed (the
    lowest) is drawn; where both engines ran a depth, the layers.

    Args:
      table: rows of ``tables.measure`` or the table of ``sweep.read``.
      columns: panels side by side.
    """
    rows = [r for r in as_rows(table) if r["step_rule"] != "edge" and relative_curve(r) is not None]
    panels = tables.groups(rows, without=("depth", "seed", "engine"))
    if not panels:
        return None
    figure, all_axes = make_panels(len(panels), columns, height=2.35)
    colours = style.depth_colours(style.spread([row["depth"] for row in rows], _MOST_CURVES))
    for axes, group in zip(all_axes, panels.values(), strict=False):
        axes.set_yscale("log")
        axes.set_ylim(*_error_limits([row for row in rows if row["data"] == group[0]["data"]]))
        _error_panel(axes, _one_a_depth(group, list(colours)), colours)
        axes.set_title(title(group[0], rows))
    fitted = [any(row["measured_factor"] is not None for row in group) for group in panels.values()]
    if any(fitted):
        _dashed_key(all_axes[fitted.index(True)])
    for axes in all_axes[:: min(columns, len(panels))]:
        axes.set_ylabel(ERROR)
    return figure


def _one_a_depth(rows: Sequence[Row], depths: Sequence[int]) -> list[Row]:
    """One row for each of these depths that ``rows`` has: lowest seed, layers before reduced."""
    first: dict[int, Row] = {}
    for row in sorted(rows, key=lambda r: (r["seed"], r["engine"])):
        first.setdefault(row["depth"], row)
    return [first[depth] for depth in sorted(first) if depth in depths] or [first[min(first)]]


def _error_panel(axes: Axes, rows: Sequence[Row], colours: Mapping[int, tuple[float, ...]]) -> None:
    limit = _shown_steps(rows)
    ends, early = [], []
    for row in rows:
        step, error = relative_curve(row) or (np.zeros(1), np.ones(1))
        colour = colours.get(row["depth"], GREY)
        axes.plot(step, error, color=colour)
        _predicted_slope(axes, row)
        name = f"$N$ = {row['depth']}"
        if step[-1] < 0.7 * limit:
            early.append((float(step[-1]), float(error[-1]), name, colour))
        else:
            ends.append((float(np.interp(limit, step, error)), name, colour))
    axes.set_xlabel("step $t$")
    if any(row["measured_factor"] is not None for row in rows):
        axes.set_xlim(0, limit)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    else:  # no straight line to show: decades of steps say more
        axes.set_xscale("log")
        axes.set_xlim(min(relative_curve(row)[0][1] for row in rows), limit)  # pyright: ignore[reportOptionalSubscript]
    style.label_ends(axes, ends)
    style.label_below(axes, early)


def _dashed_key(axes: Axes) -> None:
    axes.plot([], [], color=INK, linewidth=0.7, linestyle=DASHES, label="predicted slope")
    axes.legend(loc="upper right", handlelength=2.2, borderaxespad=0.0)


def _error_limits(rows: Sequence[Row]) -> tuple[float, float]:
    """Common limits of the error axis, so that panels of one kind of data compare; names have room below the floors."""
    lowest = min(float((relative_curve(row) or (0, np.ones(1)))[1].min()) for row in rows)
    return (lowest * 0.6, 1.6) if lowest > 1e-4 else (max(lowest / 300, 1e-19), 30)


def _shown_steps(rows: Sequence[Row]) -> float:
    """Steps to show: until the middle depth is at its floor, so that a fan of slopes stays readable."""
    reached = []
    for row in rows:
        step, error = relative_curve(row) or (np.ones(1), np.ones(1))
        floor = 3 * error.min()
        reached.append(float(step[np.argmax(error <= floor)]) * 1.15 if floor < 1e-3 else float(step[-1]))
    longest = max(float(row["curve_step"][-1]) for row in rows)
    return min(max(sorted(reached)[len(reached) // 2], 1.0), longest)


def _predicted_slope(axes: Axes, row: Row) -> None:
    """Dashed: the predicted factor's line through the middle of the fitted window."""
    predicted, curve = row.get("predicted_factor"), relative_curve(row)
    if row["measured_factor"] is None or not predicted or curve is None:
        return
    step, error = curve
    middle = (row["window_first"] + row["window_last"]) / 2
    log = np.interp(middle, step, np.log(error)) + (step - middle) * math.log(predicted)
    inside = (log < 0) & (log > math.log(error.min()))
    axes.plot(step[inside], np.exp(log[inside]), color=INK, linewidth=0.7, linestyle=DASHES)
