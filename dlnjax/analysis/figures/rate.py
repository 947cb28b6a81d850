"""The rate against depth: measured on predicted, and how far they are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnjax.analysis import claims, style, tables
from dlnjax.analysis.figures._common import (
    DASHES,
    GREY,
    INK,
    as_rows,
    make_panels,
    rule_name,
    title,
)
from dlnjax.analysis.tables import Row, Table

_ENGINES = {
    "layers": {"marker": "o", "markersize": 3.4, "markeredgewidth": 0.0},
    "reduced": {"marker": "s", "markersize": 6.2, "markerfacecolor": "none", "markeredgewidth": 0.8},
}


@style.styled
def rate_against_depth(table: Table, *, columns: int = 3) -> Figure | None:
    """``1 - factor`` against depth, measured (markers) on predicted (lines), and how far they differ.

    Bars are the fits' intervals. The second panel (left out where several studies stand side by side) shows
    ``|measured - predicted| / (1 - predicted)``, the half width of the interval and the claim's tolerance.

    Args:
      table: rows of ``tables.measure`` or the table of ``sweep.read``.
      columns: panels side by side.
    """
    rows = [r for r in as_rows(table) if r["step_rule"] != "edge"]
    rows = [
        r for r in rows if r["measured_factor"] is not None or _gap(r.get("predicted_factor")) is not None
    ]
    panels = tables.groups(
        rows, by=tables.varying(rows), without=("step_rule", "step", "depth", "seed", "engine")
    )
    if not panels:
        return None
    if len(panels) == 1:
        figure, matrix = style.grid(1, 2, width=style.PAGE, height=2.6, width_ratios=[1.25, 1])
        _rate_panel(matrix[0, 0], rows, direct=True)
        _deviation_panel(matrix[0, 1], rows)
        matrix[0, 0].set_title("Rate against depth")
        matrix[0, 1].set_title("Measured minus predicted")
        return figure
    figure, flat = make_panels(len(panels), columns, height=2.4)
    for place, (axes, group) in enumerate(zip(flat, panels.values(), strict=False)):
        _rate_panel(axes, group, direct=False)
        axes.set_title(title(group[0], rows, hide=("step_rule", "step")))
        axes.set_ylabel("1 \u2212 factor per step" if place % min(columns, len(panels)) == 0 else "")
    return figure


def _gap(factor: float | None) -> float | None:
    """``1 - factor`` where the factor says convergence."""
    return 1 - factor if factor is not None and 0 <= factor < 1 else None


def _rate_panel(axes: Axes, rows: Sequence[Row], *, direct: bool) -> None:
    """Lines predicted, markers measured; named at their ends (``direct``) or in the legend."""
    groups = list(tables.groups(rows, without=("depth", "seed", "engine")).values())
    lines = [_by_depth(group, "predicted_factor") for group in groups]
    style.depth_axis(axes, [row["depth"] for row in rows])
    _decades(
        axes, [1 - v for row in rows for v in (row["measured_factor"], row["predicted_factor"]) if _gap(v)]
    )
    axes.set_ylabel("1 \u2212 factor per step")
    for group, line in zip(groups, lines, strict=True):
        colour, _ = style.RULES.get(group[0]["step_rule"], (GREY, "v"))
        name = f"predicted, {group[0]['step_rule']}" if not direct else None
        axes.plot(list(line), list(line.values()), color=colour, linewidth=1.0, label=name)
        _markers(axes, group, colour)
    if direct:
        axes.plot([], [], "-", color=GREY, linewidth=1, label="predicted")
        named = [
            (list(line.values())[-1], _short(g), g) for g, line in zip(groups, lines, strict=True) if line
        ]
        colours = [style.RULES.get(g[0]["step_rule"], (GREY,))[0] for _, _, g in named]
        style.label_ends(axes, [(y, n, c) for (y, n, _), c in zip(named, colours, strict=True)], gap=0.16)
    if not any(row["measured_factor"] is not None for row in rows):
        axes.text(0.5, 0.06, "no rate fitted", transform=axes.transAxes, ha="center", color=GREY)
    _engine_key(axes, rows)


def _engine_key(axes: Axes, rows: Sequence[Row]) -> None:
    for engine, look in _ENGINES.items():
        if any(row["engine"] == engine and row["measured_factor"] is not None for row in rows):
            axes.plot([], [], linestyle="none", color=GREY, label=f"measured, {engine}", **look)
    axes.legend(loc="best", handlelength=1.4, borderaxespad=0.0, labelspacing=0.3)


def _by_depth(rows: Sequence[Row], name: str) -> dict[int, float]:
    """depth -> median of ``1 - row[name]`` over seeds and engines, where it says convergence."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if (gap := _gap(row.get(name))) is not None and gap > 0:
            found.setdefault(row["depth"], []).append(gap)
    return {depth: float(np.median(found[depth])) for depth in sorted(found)}


def _markers(axes: Axes, rows: Sequence[Row], colour: str) -> None:
    for engine, look in _ENGINES.items():
        here = [r for r in rows if r["engine"] == engine and _gap(r["measured_factor"]) is not None]
        if here:
            gaps = np.array([1 - row["measured_factor"] for row in here])
            bars = np.abs([[r["measured_high"] - r["measured_factor"] for r in here],
                           [r["measured_factor"] - r["measured_low"] for r in here]])  # fmt: skip
            bars[0] = np.minimum(bars[0], gaps * (1 - 1e-9))
            depths = [row["depth"] for row in here]
            axes.errorbar(
                depths, gaps, bars, linestyle="none", color=colour, elinewidth=0.8, capsize=1.5, **look
            )


def _short(rows: Sequence[Row]) -> str:
    """A label of two lines: the rule, and its slope in depth."""
    name = rule_name(rows[0]).replace("optimal step", "optimum").replace("scaling, ", "scaling,\n")
    slope = claims.loglog_slope([row for row in rows if row["depth"] >= 32])
    return name if slope is None else f"{name}\nslope {round(slope, 3) + 0.0:.3f}".replace("-", "−")


def _decades(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis with room for a legend, on which a flat line stays flat to the eye."""
    low, high = (min(values), max(values)) if values else (1e-3, 1.0)
    if high / low < 30:
        low, high = math.sqrt(low * high) / 6, math.sqrt(low * high) * 6
    axes.set_yscale("log")
    axes.set_ylim(low / 2, high * 6)


def _deviation_panel(axes: Axes, rows: Sequence[Row]) -> None:
    """The largest deviation over seeds and engines, a mark a rule and depth; a bar to the half interval."""
    style.depth_axis(axes, [row["depth"] for row in rows])
    axes.set_yscale("log")
    tolerance = claims.TOLERANCE[rows[0]["precision"]][1]
    lowest = tolerance / 1e4
    named = {}
    for i, group in enumerate(tables.groups(rows, without=("depth", "seed", "engine")).values()):
        colour, marker = style.RULES.get(group[0]["step_rule"], (GREY, "v"))
        for depth, gap, half in _deviations(group):
            x = depth * 2 ** (0.22 * (i - 1))
            axes.vlines(x, min(gap, half), max(gap, half), color=colour, linewidth=0.8)
            axes.plot(x, half, color=colour, marker="_", markersize=4.5)
            named[group[0]["step_rule"]] = axes.plot(x, gap, marker, color=colour, markersize=3.2)[0]
            lowest = min(lowest, gap)
    axes.set_ylim(max(lowest, 1e-12) / 15, tolerance * 12)
    axes.axhline(tolerance, color=INK, linewidth=0.8, linestyle=DASHES)
    axes.text(
        0.02, tolerance * 1.3, "tolerance", transform=axes.get_yaxis_transform(), va="bottom", color=INK
    )
    axes.set_ylabel("|measured \u2212 predicted| / (1 \u2212 predicted)")
    if named:
        axes.legend(
            named.values(), named.keys(), loc="lower right", handletextpad=0.1, borderaxespad=0.0, ncols=2
        )


def _deviations(rows: Sequence[Row]) -> list[tuple[int, float, float]]:
    """``(depth, largest relative deviation, largest relative half width)``, at least 1e-12 for the axis."""
    found = []
    for depth in sorted({row["depth"] for row in rows}):
        here = [r for r in rows if r["depth"] == depth and claims.deviation(r) is not None]
        if here:
            gap = max((claims.deviation(row) or (0, 0))[1] for row in here)
            half = max(
                (r["measured_high"] - r["measured_low"]) / 2 / abs(1 - r["predicted_factor"]) for r in here
            )
            found.append((depth, max(gap, 1e-12), max(half, 1e-12)))
    return found
