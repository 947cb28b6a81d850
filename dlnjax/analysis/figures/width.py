"""The rate against the width: measured on predicted, with the output dimension where it changes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnjax.analysis import style, tables
from dlnjax.analysis.figures._common import DASHES, GREY, INK, as_rows, rule_name
from dlnjax.analysis.tables import Table

_MARKS = ("o", "s", "D", "^")


@style.styled
def rate_against_width(table: Table) -> Figure | None:
    """``1 - factor`` against the hidden width, a line (predicted) and markers (measured) a step rule and depth.

    Bars are the fits' intervals. Dashed: the output dimension, from which on the last layer is wide.

    Args:
      table: rows of ``tables.measure`` or the table of ``sweep.read``.
    """
    rows = [
        row for row in as_rows(table) if row["step_rule"] != "edge" and row["measured_factor"] is not None
    ]
    if len({row["width"] for row in rows}) < 2:
        return None
    figure, matrix = style.grid(1, 1, width=style.COLUMN * 1.45, height=2.7)
    axes = matrix[0, 0]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    depths = sorted({row["depth"] for row in rows})
    for group in tables.groups(rows, without=("width", "depth", "seed", "engine")).values():
        colour, _ = style.RULES.get(group[0]["step_rule"], (GREY, "v"))
        _draw(axes, group, colour, depths)
        axes.plot([], [], color=colour, label=f"{rule_name(group[0])}, predicted")
    for depth, mark in zip(depths, _MARKS, strict=False):
        axes.plot(
            [], [], mark, color=GREY, markersize=3.5, fillstyle="none", label=f"measured, $N$ = {depth}"
        )
    widths = sorted({row["width"] for row in rows})
    axes.set_xticks(widths, [str(width) if _room(widths, i) else "" for i, width in enumerate(widths)])
    axes.set_xticks([], minor=True)
    outputs = rows[0]["output_dim"]
    low, high = axes.get_ylim()
    axes.set_ylim(low / 2, high * 6)
    if outputs:
        axes.axvline(outputs, ymax=0.8, color=INK, linewidth=0.8, linestyle=DASHES)
        axes.annotate(
            f"$d_N$ = {outputs}", (outputs, low / 1.7), (3, 0), textcoords="offset points", color=INK
        )
    axes.set(xlabel="hidden width $r$", ylabel="1 − factor per step", title="Rate against width")
    axes.legend(loc="upper left", borderaxespad=0.1, ncols=2, columnspacing=1.0, handlelength=1.4)
    return figure


def _draw(axes: Axes, group: list[tables.Row], colour: str, depths: list[int]) -> None:
    group = sorted(group, key=lambda row: row["width"])
    for depth, mark in zip(depths, _MARKS, strict=False):
        here = [row for row in group if row["depth"] == depth]
        gaps = np.array([1 - row["measured_factor"] for row in here])
        bars = [
            [r["measured_high"] - r["measured_factor"], r["measured_factor"] - r["measured_low"]]
            for r in here
        ]
        known = [row for row in here if row.get("predicted_factor") is not None]
        axes.plot(
            [r["width"] for r in known], [1 - r["predicted_factor"] for r in known], color=colour, linewidth=1
        )
        axes.errorbar([r["width"] for r in here], gaps, np.array(bars).T, color=colour, linestyle="none", marker=mark,
                      markersize=3 + 2.5 * depths.index(depth), fillstyle="none", elinewidth=0.8)  # fmt: skip


def _room(widths: list[int], i: int) -> bool:
    """Whether a tick's label stands clear of the one before."""
    return i == 0 or widths[i] / widths[i - 1] > 1.15
