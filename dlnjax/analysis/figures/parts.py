"""What parts change: the gauge directions under nonlinearity, the floor under noise."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dlnjax.analysis import style
from dlnjax.analysis.claims.noise import level
from dlnjax.analysis.claims.parts import share
from dlnjax.analysis.figures._common import DASHES, INK, as_rows
from dlnjax.analysis.tables import Row, Table, groups

_LOOKS = (("blue", "o"), ("orange", "s"), ("green", "D"), ("pink", "^"))


@style.styled
def gauge_directions(table: Table) -> Figure | None:
    """Left: the smallest eigenvalue over mu against depth, a mark a draw, lines through medians. Right: the error left.

    Args:
      table: rows of ``tables.measure`` or the table of ``sweep.read``.
    """
    rows = as_rows(table)
    names = list(dict.fromkeys(row["activation"] for row in rows))
    if not any(share(row) for row in rows):
        return None
    figure, ((left, right),) = style.grid(1, 2, width=style.PAGE, height=2.7)
    depths = sorted({row["depth"] for row in rows})
    ends = []
    for i, name in enumerate(names):
        colour, mark = style.COLOURS[_LOOKS[i][0]], _LOOKS[i][1]
        for axes, value in ((left, share), (right, _left)):
            found = [
                (row["depth"], v)
                for row in rows
                if row["activation"] == name and (v := value(row)) is not None
            ]
            shift = 1 + 0.05 * (i - 1.5)
            axes.plot([d * shift for d, _ in found], [v for _, v in found], mark, color=colour, markersize=3, alpha=0.7,
                      markeredgewidth=0)  # fmt: skip
            line = {
                d: float(np.median([v for at, v in found if at == d]))
                for d in depths
                if any(at == d for at, _ in found)
            }
            axes.plot([d * shift for d in line], list(line.values()), color=colour, linewidth=1)
            if axes is left and line:
                ends.append((list(line.values())[-1], name.replace("_", " "), colour))
    for axes, label, title in (
        (left, r"smallest eigenvalue / $\mu$", "Gauge directions become slow modes"),
        (right, "error left / error at the start", "What the budget leaves"),
    ):
        axes.set_yscale("log")
        style.depth_axis(axes, depths)
        axes.set(ylabel=label, title=title)
    style.label_ends(left, ends, gap=0.1)
    return figure


def _left(row: Row) -> float | None:
    curve = row.get("curve_distance")
    return (
        None if curve is None or not np.isfinite(curve[-1]) or curve[0] == 0 else float(curve[-1] / curve[0])
    )


@style.styled
def noise_floor(table: Table) -> Figure | None:
    """The error that is left against the step, a line a batch and noise: medians over seeds, bars to the quartiles.

    Args:
      table: rows of ``tables.measure`` or the table of ``sweep.read``.
    """
    rows = [{**row, "level": level(row)} for row in as_rows(table)]
    rows = [row for row in rows if row["level"] is not None and row["label_noise"] and row["batch_size"]]
    if not rows:
        return None
    figure, matrix = style.grid(1, 1, width=style.COLUMN * 1.5, height=2.7)
    axes, ends = matrix[0, 0], []
    axes.set(xscale="log", yscale="log")
    steps = sorted({row["step"] for row in rows})
    for i, (key, group) in enumerate(groups(rows, by=("batch_size", "label_noise")).items()):
        colour, mark = style.COLOURS[_LOOKS[i % 4][0]], _LOOKS[i % 4][1]
        at = [step for step in steps if any(row["step"] == step for row in group)]
        levels = [[row["level"] for row in group if row["step"] == step] for step in at]
        found = np.array([np.quantile(one, (0.25, 0.5, 0.75)) for one in levels]).T
        axes.errorbar(at, found[1], [found[1] - found[0], found[2] - found[1]], color=colour, marker=mark,
                      markersize=4, linewidth=1, capsize=1.5)  # fmt: skip
        batch, size = (value for _, value in key)
        ends.append((found[1][-1], f"batch {batch},\nnoise {size:g}", colour))
        if i == 0:
            guide = found[1][0] * np.sqrt(np.array(at) / at[0]) * 1.6
            axes.plot(at, guide, color=INK, linewidth=0.8, linestyle=DASHES, label="slope 1/2")
    axes.set_xticks(steps, [f"{step:g}" for step in steps])
    axes.set_xticks([], minor=True)
    axes.autoscale_view()
    style.label_ends(axes, ends, gap=0.17)
    axes.set(
        xlabel=r"step $\mu$",
        ylabel=r"$\Vert W-W_\ast\Vert$, late in the run",
        title="Where stochastic descent stops",
    )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")
    return figure
