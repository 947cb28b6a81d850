"""Test accuracy beside depth: what runs end at, and the steps that it takes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnjax.analysis import style, tables
from dlnjax.analysis.figures._common import DASHES, GREY, INK, as_rows
from dlnjax.analysis.tables import Table

_MARKS = ("o", "s", "D", "^")
_RULES = {"fixed": "fixed step", "optimal": "best step of the depth", "middle": "middle scaling"}


@style.styled
def accuracy(table: Table) -> Figure | None:
    """Steps to within .01 of the final test accuracy (above) and that accuracy (below) against depth.

    A panel a treatment of the data and a width, a colour a step rule; medians over seeds, bars from the least to the
    most. Dashed: the accuracy of the best product of the width's rank.

    Args:
      table: rows of ``tables.measure`` or the table of ``sweep.read``; uses those with a test accuracy.
    """
    rows = [row for row in as_rows(table) if row.get("accuracy_steps") is not None]
    panels = tables.groups(rows, by=("data", "width"))
    if not panels:
        return None
    depths = sorted({row["depth"] for row in rows})
    figure, matrix = style.grid(2, len(panels), width=style.PAGE, height=4.0, sharey="row")
    for (above, below), (key, group) in zip(matrix.T, _ordered(panels), strict=True):
        above.set_yscale("log")
        for axes, column in ((above, "accuracy_steps"), (below, "test_accuracy")):
            style.depth_axis(axes, depths)
            for i, ruled in enumerate(tables.groups(group, by=("step_rule", "step")).values()):
                _line(axes, ruled, column, 1 + 0.06 * (i - 1), _MARKS[i % len(_MARKS)])
        below.axhline(group[0]["optimum_accuracy"], color=INK, linewidth=0.8, linestyle=DASHES)
        above.set_title(f"{key[0][1]}\nwidth {key[1][1]}")
        for axes in (above, below):
            axes.label_outer()
    matrix[0, 0].set_ylabel("steps to final accuracy")
    matrix[1, 0].set_ylabel("final test accuracy")
    handles, labels = matrix[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _ordered(panels: dict) -> list:
    """Whitened data first, narrow networks first."""
    return sorted(panels.items(), key=lambda item: (item[0][0][1] == "raw", item[0][1][1]))


def _line(axes: Axes, rows: list[tables.Row], column: str, shift: float, mark: str) -> None:
    rule = rows[0]["step_rule"]
    colour, _ = style.RULES.get(rule, (GREY, "v"))
    found = {key[0][1]: [max(r[column], 1e-9) for r in group]
             for key, group in sorted(tables.groups(rows, by=("depth",)).items())}  # fmt: skip
    middle = np.array([np.median(values) for values in found.values()])
    ends = np.array([[min(values), max(values)] for values in found.values()])
    axes.errorbar(np.array(list(found)) * shift, middle, np.abs(ends.T - middle), color=colour, marker=mark,
                  markersize=3.5, linewidth=1, elinewidth=0.7, label=_RULES.get(rule, rule))  # fmt: skip
