"""The figures of a study: error curves with predicted slopes, rate against depth, the stability edge; and a gallery.

Each function takes rows of ``tables.measure`` (or the store's table, which it measures) and returns a
matplotlib ``Figure``, or None where the rows have nothing for it. ``save`` writes PNG and SVG.
The gallery's plots take arrays and belong to no study, but for ``phase_diagram``, which takes rows.
Panels follow the coordinates that vary: step rules, and for studies on data its whitening and the width.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from dlnjax.analysis.figures.accuracy import accuracy
from dlnjax.analysis.figures.edge import stability_edge
from dlnjax.analysis.figures.error import error_curves
from dlnjax.analysis.figures.gallery import (
    balancedness,
    cost_against_depth,
    orthonormality_drift,
    phase_diagram,
    singular_values,
    spectra,
)
from dlnjax.analysis.figures.methods import step_grid, steps_to_tolerance
from dlnjax.analysis.figures.parts import gauge_directions, noise_floor
from dlnjax.analysis.figures.rate import rate_against_depth
from dlnjax.analysis.figures.width import rate_against_width
from dlnjax.analysis.style import save
from dlnjax.analysis.tables import Table

__all__ = [
    "GENERAL",
    "STUDY",
    "accuracy",
    "balancedness",
    "cost_against_depth",
    "error_curves",
    "gauge_directions",
    "noise_floor",
    "orthonormality_drift",
    "phase_diagram",
    "rate_against_depth",
    "rate_against_width",
    "save",
    "singular_values",
    "spectra",
    "stability_edge",
    "step_grid",
    "steps_to_tolerance",
]

#: The figures that a config may name (key ``figures``): file name -> function of the rows.
STUDY: dict[str, Callable[[Table], Figure | None]] = {
    "error_curves": error_curves,
    "rate_against_depth": rate_against_depth,
    "stability_edge": stability_edge,
    "rate_against_width": rate_against_width,
    "phase_diagram": phase_diagram,
    "gauge_directions": gauge_directions,
    "step_grid": step_grid,
    "steps_to_tolerance": steps_to_tolerance,
    "noise_floor": noise_floor,
    "accuracy": accuracy,
}
#: Those drawn where a config names none.
GENERAL = ("error_curves", "rate_against_depth", "stability_edge")
