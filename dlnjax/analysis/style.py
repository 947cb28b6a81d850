"""One look for every figure: sizes of a printed page, colours that survive colour blindness and grey, and
files that are the same, byte for byte, whenever the numbers are.

Figures are made without pyplot, so that nothing here touches matplotlib's global state.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType

#: Widths of a printed page in inches: one column, and the page.
COLUMN, PAGE = 3.4, 7.0
#: Okabe and Ito's colours for things without an order; they differ in lightness too.
COLOURS = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "sky": "#56B4E9",
    "amber": "#E69F00",
    "ink": "#222222",
    "grey": "#767676",
}
#: One colour and one marker a step rule, everywhere.
RULES = {
    "fixed": (COLOURS["blue"], "o"),
    "optimal": (COLOURS["orange"], "s"),
    "middle": (COLOURS["green"], "D"),
    "edge": (COLOURS["pink"], "^"),
}
_RC: dict[str, object] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.5,
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["ink"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.color": COLOURS["ink"],
    "ytick.color": COLOURS["ink"],
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "svg.fonttype": "none",
    "svg.hashsalt": "dlnjax",
    "figure.dpi": 100,
    "savefig.facecolor": "white",
    "path.simplify": True,
}

P = ParamSpec("P")
T = TypeVar("T")


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Run a drawing function under this style, whatever the user's own settings are."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> T:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_RC)  # pyright: ignore
            return draw(*args, **kwargs)

    return inside


@styled
def save(figure: Figure, path: Path | str) -> list[Path]:
    """Write ``path.png`` (300 dpi) and ``path.svg`` (text as text), whole or not; no dates, no random names inside."""
    from dlnjax.sweep.store import atomic

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    with atomic.whole(png) as temporary:
        figure.savefig(temporary, format="png", dpi=300, metadata={"Software": None})
    with atomic.whole(svg) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
    return [png, svg]


def grid(rows: int, columns: int, *, width: float, height: float, **kwargs: Any) -> tuple[Figure, np.ndarray]:
    """A figure of ``rows`` by ``columns`` axes, sizes in inches; the axes always a matrix."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05)  # type: ignore[union-attr]
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def depth_colours(depths: Sequence[int]) -> dict[int, tuple[float, ...]]:
    """A colour a depth, dark (shallow) to light (deep), evenly in the logarithm."""
    ordered = sorted(set(depths))
    places = np.linspace(0.0, 0.7, len(ordered)) if len(ordered) > 1 else [0.0]
    return {depth: colormaps["viridis"](place) for depth, place in zip(ordered, places, strict=True)}


def spread(values: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of the distinct values, evenly spaced in their order, the ends among them."""
    ordered = sorted(set(values))
    places = np.linspace(0, len(ordered) - 1, min(most, len(ordered)))
    return [ordered[int(place + 0.5)] for place in places]


def depth_axis(axes: Axes, depths: Sequence[int]) -> None:
    """A logarithmic axis of depths that is ticked at the depths themselves, every other one where crowded."""
    ordered = sorted(set(depths))
    axes.set_xscale("log", base=2)
    shown = ordered[:: 1 + (len(ordered) - 1) // 6] if len(ordered) > 6 else ordered
    axes.set_xticks(shown, [str(depth) for depth in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlim(ordered[0] / 1.4, ordered[-1] * 1.4)
    axes.set_xlabel("depth $N$")


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, ColorType]], *, gap: float = 0.075) -> None:
    """Write names at the right edge beside where their lines end, moved apart where they would overlap.

    Args:
      axes: with its final limits and scale.
      ends: ``(y in data units, name, colour)`` each.
      gap: least distance between two names, as a fraction of the axes' height.
    """
    heights = [_fraction(end[0], axes.get_ylim(), axes.get_yscale()) for end in ends]
    for i, place in zip(_levels(heights), _apart(sorted(heights), gap), strict=True):
        _, name, colour = ends[i]
        axes.annotate(
            name, (1, heights[i]), (1.06, place), "axes fraction", "axes fraction", color=colour, va="center",
            fontsize=7, annotation_clip=False, arrowprops=_leader(colour, (0, 0.5)),
        )  # fmt: skip


def label_below(
    axes: Axes, ends: Sequence[tuple[float, float, str, ColorType]], *, gap: float = 0.26
) -> None:
    """Write names in a row at the foot of the axes, below where their lines end, moved apart where they would overlap.

    Args:
      axes: with their final limits and scales, and nothing in the lowest tenth.
      ends: ``(x, y, name, colour)`` each, x and y in data units.
      gap: room for a name, as a fraction of the axes' width.
    """
    ends = sorted(ends, key=lambda end: end[0])
    wanted = [_fraction(end[0], axes.get_xlim(), axes.get_xscale()) for end in ends]
    places = _apart([min(max(x, gap / 2), 1 - gap / 2) for x in wanted], gap)
    for (x, y, name, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            name, (x, y), (place, 0.015), "data", "axes fraction", color=colour, ha="center", va="bottom",
            fontsize=7, arrowprops=_leader(colour, (0.5, 0.9)),
        )  # fmt: skip


def _leader(colour: ColorType, place: tuple[float, float]) -> dict[str, object]:
    """A thin line from this place of a name's box (not from where the box ends) to what it names."""
    return {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "relpos": place, "patchA": None,
            "shrinkA": 3, "shrinkB": 0}  # fmt: skip


def _fraction(value: float, limits: tuple[float, float], scale: str) -> float:
    low, high = limits
    if scale == "log":
        low, high, value = np.log(low), np.log(high), np.log(value)
    return float(np.clip((value - low) / (high - low), 0, 1))


def _levels(heights: Sequence[float], tie: float = 0.03) -> list[int]:
    """Indices from the lowest up; those that coincide to the eye stay in the order given."""
    upward = sorted(range(len(heights)), key=lambda i: heights[i])
    level = dict.fromkeys(upward, 0)
    for below, i in pairwise(upward):
        level[i] = level[below] + (heights[i] - heights[below] > tie)
    return sorted(upward, key=lambda i: (level[i], i))


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Sorted places moved as little as need be (in pairs, from below, then back) to keep ``gap`` between."""
    moved = list(places)
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    shift = max(0.0, moved[-1] - max(1.0, places[-1])) if moved else 0.0
    if moved:
        moved[-1] -= shift
    for i in range(len(moved) - 2, -1, -1):
        moved[i] = min(moved[i], moved[i + 1] - gap)
    return moved
