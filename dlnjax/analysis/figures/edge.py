"""The stability edge: which steps converge, and what error the others are left with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnjax.analysis import style, tables
from dlnjax.analysis.figures._common import (
    DASHES,
    ERROR,
    INK,
    as_rows,
    relative_curve,
    title,
)
from dlnjax.analysis.tables import Row, Table


@style.styled
def stability_edge(table: Table) -> Figure | None:
    """Which steps converge: depth against the fraction of the predicted edge, and the error left at the end.

    Args:
      table: rows of ``tables.measure`` or the table of ``sweep.read``; uses those of the step rule ``edge``.
    """
    rows = [r for r in as_rows(table) if r["step_rule"] == "edge"]
    panels = tables.groups(rows, without=("step", "depth", "seed", "engine"))
    if not panels:
        return None
    depths = len({row["depth"] for row in rows})
    size = {"width": style.PAGE, "height": max(2.5, 1.1 + 0.24 * depths) * len(panels)}
    figure, matrix = style.grid(len(panels), 2, width_ratios=[1.1, 1], **size)
    for (left, right), group in zip(matrix, panels.values(), strict=True):
        _phase_panel(left, group)
        _left_error_panel(right, group)
        name = title(group[0], rows, hide=("step_rule",))
        left.set_title(name or "Below and above the predicted edge")
        right.set_title("Error at the end of the run")
    return figure


def _phase_panel(axes: Axes, rows: Sequence[Row]) -> None:
    steps, depths = sorted({r["step"] for r in rows}), sorted({r["depth"] for r in rows})
    for x, step in enumerate(steps):
        for y, depth in enumerate(depths):
            cells = [r["status"] == "converged" for r in rows if (r["step"], r["depth"]) == (step, depth)]
            if cells:
                _phase_mark(axes, x, y, sum(cells), len(cells))
    above = sum(step < 1 for step in steps)
    axes.axvline(above - 0.5, color=INK, linewidth=1.0, linestyle=DASHES)
    blue, orange = style.COLOURS["blue"], style.COLOURS["orange"]
    for x, side, colour, word in (
        (-0.62, "right", blue, "converged"),
        (-0.38, "left", orange, "did not converge"),
    ):
        axes.text(above + x, len(depths) - 0.5, word, ha=side, va="center", color=colour)
    axes.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
    axes.set_yticks(range(len(depths)), [str(depth) for depth in depths])
    axes.set_xlim(-0.6, len(steps) - 0.4)
    axes.set_ylim(-0.6, len(depths) - 0.2)
    axes.set_xlabel(r"step / predicted edge $\mu_{\max}$")
    axes.set_ylabel("depth $N$")
    axes.grid(False)


def _phase_mark(axes: Axes, x: int, y: int, good: int, count: int) -> None:
    """A filled disc where every seed converges, a cross where none does, the count where they disagree."""
    if good == count:
        axes.plot(x, y, "o", color=style.COLOURS["blue"], markersize=8)
    elif good == 0:
        axes.plot(x, y, "X", color=style.COLOURS["orange"], markersize=7, markeredgewidth=0)
    else:
        axes.plot(
            x, y, "o", color=style.COLOURS["blue"], markersize=8, fillstyle="left", markerfacecoloralt="white"
        )
    if 0 < good < count:
        axes.annotate(f"{good}/{count}", (x, y), (7, 0), textcoords="offset points", va="center", fontsize=6)


def _left_error_panel(axes: Axes, rows: Sequence[Row]) -> None:
    colours = style.depth_colours([row["depth"] for row in rows])
    steps = sorted({row["step"] for row in rows})
    axes.set_yscale("log")
    ends = []
    for depth, colour in colours.items():
        levels = {s: _left(r for r in rows if (r["depth"], r["step"]) == (depth, s)) for s in steps}
        at = [(x, level) for x, (_, level) in enumerate(levels.items()) if level is not None]
        if at:
            for side in (True, False):  # the jump itself is not drawn: there is no run between
                half = [point for point in at if (steps[point[0]] < 1) is side]
                axes.plot([x for x, _ in half], [y for _, y in half], color=colour, marker="o", markersize=3)
            ends.append((at[-1][1], f"$N$ = {depth}", colour))
    axes.axvline(sum(step < 1 for step in steps) - 0.5, color=INK, linewidth=1.0, linestyle=DASHES)
    axes.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
    axes.set_xlabel(r"step / predicted edge $\mu_{\max}$")
    axes.set_ylabel(ERROR)
    style.label_ends(axes, ends, gap=0.085)


def _left(rows: Iterable[tables.Row]) -> float | None:
    """Median over seeds of the relative error at the last record."""
    ends = [curve[1][-1] for row in rows if (curve := relative_curve(row)) is not None]
    return float(np.median(ends)) if ends else None
