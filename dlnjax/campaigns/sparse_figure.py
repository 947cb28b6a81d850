"""The figure of the campaign ``sparse_coding``: bounds, factors, depth and features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnjax.analysis import style
from dlnjax.analysis.figures._common import DASHES, GREY, INK
from dlnjax.analysis.tables import Row

BLUE, ORANGE, GREEN, PINK = (style.COLOURS[name] for name in ("blue", "orange", "green", "pink"))
_DOT = {"linestyle": "none", "markersize": 2.6, "markeredgewidth": 0, "alpha": 0.75}


@style.styled
def sparse_coding(rows: Sequence[Row]) -> Figure:
    """Errors over their bounds; measured on predicted factors; what depth costs; accuracy against sparsity."""
    figure, ((first, second), (third, fourth)) = style.grid(2, 2, width=style.PAGE, height=5.4)
    parts = {
        name: [row for row in rows if row["part"] == name]
        for name in ("stability", "factors", "depth", "features")
    }
    _errors(first, parts["stability"])
    _factors(second, parts["factors"])
    _depth(third, parts["depth"])
    _features(fourth, parts["features"])
    return figure


def _errors(axes: Axes, rows: Sequence[Row]) -> None:
    depths = sorted({row["depth"] for row in rows})
    for depth, colour in zip(depths, (BLUE, ORANGE, GREEN), strict=False):
        here = [row for row in rows if row["depth"] == depth and row["ratio"] is not None]
        places = depth + 0.3 * (2 * np.mod(np.arange(len(here)) * 0.618033988749895, 1) - 1)
        axes.plot(places, [row["ratio"] for row in here], "o", color=colour, **_DOT)
    axes.axhline(1, color=INK, linewidth=1.0, linestyle=DASHES)
    axes.text(0.02, 1.01, "bound", transform=axes.get_yaxis_transform(), va="bottom", color=INK)
    axes.set_xticks(depths, [str(d) for d in depths])
    axes.set(xlabel="dictionaries $J$", ylabel="error / stability bound", title="Errors stay below the bound")
    axes.set_ylim(top=1.15)


def _factors(axes: Axes, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(row["network"] for row in rows))
    for y, name in enumerate(names):
        gaps = [
            max(r["difference"], 1e-16) for r in rows if r["network"] == name and r["difference"] is not None
        ]
        places = y + 0.25 * (2 * np.mod(np.arange(len(gaps)) * 0.618033988749895, 1) - 1)
        axes.plot(gaps, places, "o", color=BLUE, **_DOT)
    axes.axvline(1e-6, color=INK, linewidth=1.0, linestyle=DASHES)
    axes.text(8e-7, len(names) - 0.4, "tolerance", ha="right", va="center", color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.set(xscale="log", xlabel="|measured − predicted| factor per layer", title="Measured is predicted")
    axes.set_xlim(right=6e-6)
    axes.set_ylim(-0.6, len(names) - 0.1)


def _depth(axes: Axes, rows: Sequence[Row]) -> None:
    for kind, colour in (("orthonormal", BLUE), ("gaussian", ORANGE)):
        here = [row for row in rows if row["dictionary"] == kind and row["predicted_factor"] < 1]
        depths = sorted({row["depth"] for row in here})
        middle = [np.median([1 - r["predicted_factor"] for r in here if r["depth"] == j]) for j in depths]
        axes.plot(depths, middle, color=colour, linewidth=1, label=f"{kind}, joint (predicted)")
        seen = [row for row in here if row["measured_factor"] is not None]
        axes.plot(
            [r["depth"] for r in seen], [1 - r["measured_factor"] for r in seen], "o", color=colour, **_DOT
        )
        alone = [
            np.median([max(1 - r["layered_factor"], 1e-12) for r in here if r["depth"] == j]) for j in depths
        ]
        axes.plot(depths, alone, color=colour, linewidth=1, linestyle=DASHES, label=f"{kind}, layer by layer")
    axes.set(yscale="log", ylabel="1 − factor per layer", title="What depth costs (marks: measured)")
    style.depth_axis(axes, sorted({row["depth"] for row in rows}))
    axes.set_xlabel("dictionaries $J$")
    axes.set_ylim(bottom=1e-9)
    axes.legend(loc="lower left", borderaxespad=0.2)


def _features(axes: Axes, rows: Sequence[Row]) -> None:
    colours = {"random": GREY, "constant l1": BLUE, "falling threshold": ORANGE, "rising threshold": GREEN}
    for name, marker in (("digits", "o"), ("mnist", "s")):
        for strategy, colour in colours.items():
            here = [row for row in rows if (row["dataset"], row["strategy"]) == (name, strategy)]
            label = strategy if name == "digits" else None
            axes.plot([100 * r["nonzero_share"] for r in here], [r["accuracy"] for r in here], marker=marker,
                      markersize=3, linewidth=1, color=colour, label=label)  # fmt: skip
    axes.set(xscale="log", xlabel="nonzeros, % (circles: digits, squares: MNIST)", ylabel="test accuracy")
    axes.set_title("Sparsity against accuracy")
    axes.legend(loc="lower right", borderaxespad=0.2)
