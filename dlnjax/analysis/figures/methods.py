"""Algorithms and starts on one grid of steps: how many steps each needs, the whole grid shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from dlnjax.analysis import style
from dlnjax.analysis.claims.methods import method, tuned
from dlnjax.analysis.figures._common import GREY, as_rows
from dlnjax.analysis.tables import Row, Table, groups

_LOOKS = (("blue", "o"), ("orange", "s"), ("green", "D"), ("pink", "^"))


@style.styled
def step_grid(table: Table) -> Figure | None:
    """Median steps to tolerance, a line a method, a column a step size, a panel a depth.

    A number is the median over the seeds that converged; below it, where some did not, how many did. The dearer the
    darker; a dash where none did, a frame around the best of a line at which all did.

    Args:
      table: rows of ``tables.measure`` or the table of ``sweep.read``; uses those of step rule ``fixed``.
    """
    rows = [{**row, "method": method(row)} for row in as_rows(table) if row["step_rule"] == "fixed"]
    if not rows:
        return None
    names = list(dict.fromkeys(row["method"] for row in rows))
    steps, depths = sorted({row["step"] for row in rows}), sorted({row["depth"] for row in rows})
    size = {"width": style.PAGE, "height": 0.9 + 0.27 * len(names)}
    figure, (panels,) = style.grid(1, len(depths), sharey=True, **size)
    known = [row["iterations"] for row in rows if row["iterations"]]
    ends = np.log(min(known, default=1)), np.log(max(known, default=10)) + 1e-9
    for axes, depth in zip(panels, depths, strict=True):
        for y, name in enumerate(names):
            here = [row for row in rows if (row["method"], row["depth"]) == (name, depth)]
            best = tuned(here)
            for x, step in enumerate(steps):
                cells = [row for row in here if row["step"] == step]
                _square(axes, x, y, cells, ends, best is not None and best[1] == step)
        axes.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
        axes.set(
            xlim=(-0.5, len(steps) - 0.5),
            ylim=(len(names) - 0.5, -0.5),
            xlabel=r"step $\mu$",
            title=f"$N$ = {depth}",
        )
        axes.set_yticks(range(len(names)), names)
        axes.grid(False)
    return figure


def _square(axes: Axes, x: int, y: int, rows: Sequence[Row], ends: tuple[float, float], best: bool) -> None:
    found = [r["iterations"] for r in rows if r["iterations"] is not None and r["status"] != "diverged"]
    if not found:
        axes.text(x, y, "–" if rows else "", ha="center", va="center", color=GREY)
        return
    middle = float(np.median(found))
    place = (np.log(middle) - ends[0]) / (ends[1] - ends[0])
    axes.add_patch(_patch(x, y, facecolor=colormaps["Blues"](0.1 + 0.75 * place), edgecolor="none"))
    if best:
        axes.add_patch(_patch(x, y, facecolor="none", edgecolor=style.COLOURS["orange"], linewidth=1.4))
    some = f"\n{len(found)}/{len(rows)}" if len(found) < len(rows) else ""
    axes.text(x, y, f"{middle:.0f}{some}", ha="center", va="center", fontsize=5 if some else 6, linespacing=0.9,
              color="white" if place > 0.6 else style.COLOURS["ink"])  # fmt: skip


def _patch(x: int, y: int, **look: Any) -> Rectangle:
    return Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, **look)


@style.styled
def steps_to_tolerance(table: Table) -> Figure | None:
    """Steps to tolerance against depth at the best step of the grid, a line a start, a panel a width.

    A start that has no step at which every seed converges has no point there.

    Args:
      table: rows of ``tables.measure`` or the table of ``sweep.read``.
    """
    rows = as_rows(table)
    if not rows:
        return None
    widths, depths = sorted({row["width"] for row in rows}), sorted({row["depth"] for row in rows})
    ratios = [*[1.0] * len(widths), 0.45]  # the last for the legend
    figure, ((*panels, key),) = style.grid(1, len(ratios), width=style.PAGE, height=2.5, width_ratios=ratios)
    starts = [
        s for s in ("haar", "balanced", "identity", "gaussian") if any(row["start"] == s for row in rows)
    ]
    for axes, width in zip(panels, widths, strict=True):
        axes.set_yscale("log")
        style.depth_axis(axes, depths)
        for i, start in enumerate(starts):
            colour, mark = _LOOKS[i]
            here = [row for row in rows if (row["width"], row["start"]) == (width, start)]
            found = {key[0][1]: tuned(group) for key, group in groups(here, by=("depth",)).items()}
            good = {depth: best[0] for depth, best in sorted(found.items()) if best is not None}
            lost = [depth for depth, best in found.items() if best is None]
            shift = 1 + 0.05 * (i - 1.5)
            axes.plot([d * shift for d in good], list(good.values()), mark, linestyle="-", color=style.COLOURS[colour],
                      markersize=4, label="orthogonal" if start == "haar" else start)  # fmt: skip
            if lost:
                axes.plot([d * shift for d in lost], [0.97] * len(lost), "x", color=style.COLOURS[colour], markersize=5,
                          transform=axes.get_xaxis_transform())  # fmt: skip
        axes.set_title(f"width {width}")
        axes.sharey(panels[0])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.label_outer()
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, high * 1.3)  # room for the crosses
    panels[0].set_ylabel("steps to tolerance, best step")
    key.set_axis_off()
    key.legend(*panels[0].get_legend_handles_labels(), loc="upper left", borderaxespad=0)
    return figure
