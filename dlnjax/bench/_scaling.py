"""How the time of a step grows with depth, width and number of cells: measured around one case, and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from matplotlib.figure import Figure

from dlnjax.analysis import style

#: What varies -> the cases ``(N, d, cells)``, by ``CENTRE`` in all else.
CENTRE = (8, 16, 64)
ALONG: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "depth N": tuple((depth, *CENTRE[1:]) for depth in (4, 8, 16, 32, 64, 128)),
    "width d": tuple((CENTRE[0], width, CENTRE[2]) for width in (4, 8, 16, 32, 64)),
    "cells": tuple((*CENTRE[:2], cells) for cells in (2, 8, 32, 128, 512)),
}
NAMES = ("layers", "own_products", "reduced")
_LOOKS = {
    "layers": (style.COLOURS["blue"], "o", "layers engine"),
    "own_products": (style.COLOURS["grey"], "s", "its products alone"),
    "reduced": (style.COLOURS["orange"], "D", "reduced engine"),
}

TimeCase = Callable[..., dict[str, float]]


class Timing(TypedDict):
    """Microseconds per step and network of each contestant, for depth, width and number of cells."""

    case: list[int]
    microseconds: dict[str, float]


def measure(time_case: TimeCase, *, rounds: int, seconds: float, builds: int) -> list[Timing]:
    """Microseconds per step and network of every case, once each, by ``sweep.time_case``."""
    # a run begins with a projection and a copy of its layers: in fewer steps those would show
    length = {"rounds": rounds, "seconds": seconds, "builds": builds, "least": 100}
    cases = dict.fromkeys(case for line in ALONG.values() for case in line)
    return [{"case": list(case), "microseconds": time_case(case, NAMES, **length)} for case in cases]


@style.styled
def draw(found: Sequence[Timing]) -> Figure:
    """A panel for depth, width and number of cells; times per step and network."""
    times = {tuple(entry["case"]): entry["microseconds"] for entry in found}
    figure, (panels,) = style.grid(1, len(ALONG), width=style.PAGE, height=2.4, sharey=True)
    for place, (axes, (what, cases)) in enumerate(zip(panels, ALONG.items(), strict=True)):
        x = [case[place] for case in cases]
        for name, (colour, marker, label) in _LOOKS.items():
            y = [times[case][name] for case in cases]
            axes.plot(x, y, marker=marker, color=colour, label=label, markersize=3.5, linewidth=1)
        style.depth_axis(axes, x)
        axes.set(xlabel=what, yscale="log")
    panels[0].set_ylabel("microseconds per step and network")
    panels[0].legend(loc="upper left")
    return figure
