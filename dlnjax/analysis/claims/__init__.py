"""Theory held against what was measured: each claim with its expectation, the measurement and a verdict.

A config names the claims that its question needs (key ``claims``); each is a function in a small file of its
own, here a row of :data:`CLAIMS`. Only what the rows contain is claimed: without edge cells nothing is said of the
edge, without two depths nothing of flatness. Every cell that falls outside is named; none is dropped from a count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dlnjax.analysis.claims._claim import TOLERANCE, Claim, Outside, agrees, deviation, made, plain, to_rows
from dlnjax.analysis.claims.accuracy import accuracy
from dlnjax.analysis.claims.depth import flat, loglog_slope, slopes
from dlnjax.analysis.claims.edge import edges, switch
from dlnjax.analysis.claims.engines import engines
from dlnjax.analysis.claims.methods import algorithms, initialisation
from dlnjax.analysis.claims.noise import noise
from dlnjax.analysis.claims.parts import activations, free_layer, losses
from dlnjax.analysis.claims.rate import converged, guaranteed, predicted, spectrum
from dlnjax.analysis.claims.retractions import retractions
from dlnjax.analysis.claims.widths import widths
from dlnjax.analysis.tables import Row

__all__ = [
    "CLAIMS",
    "GENERAL",
    "TOLERANCE",
    "Claim",
    "Outside",
    "agrees",
    "check",
    "deviation",
    "loglog_slope",
    "made",
    "to_rows",
]

#: word of a config -> what it claims of rows; ``sweep.keys.CLAIMS`` lists the words.
CLAIMS: dict[str, Callable[[Sequence[Row]], list[Claim]]] = {
    "converged": converged,
    "predicted": predicted,
    "guaranteed": guaranteed,
    "flat": flat,
    "slope": slopes,
    "spectrum": spectrum,
    "engines": engines,
    "edge": edges,
    "switch": switch,
    "retractions": retractions,
    "widths": widths,
    "activations": activations,
    "algorithms": algorithms,
    "free_layer": free_layer,
    "initialisation": initialisation,
    "losses": losses,
    "noise": noise,
    "accuracy": accuracy,
}
#: What a config claims that names none.
GENERAL = ("converged", "predicted", "guaranteed", "flat", "slope", "spectrum", "engines", "edge")


def check(rows: Sequence[Row], names: Iterable[str] = GENERAL) -> tuple[list[Claim], list[Outside]]:
    """The claims that ``rows`` can support, and every cell outside of one.

    Args:
      rows: of ``tables.measure``.
      names: words of :data:`CLAIMS`, in the order wanted.

    Raises:
      ValueError: a word that is none, with those there are.
    """
    names = tuple(names)
    unknown = [name for name in names if name not in CLAIMS]
    if unknown:
        raise ValueError(f"claim {unknown[0]!r} is not known; there are: {', '.join(CLAIMS)}")
    return [claim for name in names for claim in CLAIMS[name](rows)], _outside(rows, names)


def _outside(rows: Sequence[Row], names: Sequence[str]) -> list[Outside]:
    """Cells that do not do what a claim in ``names`` wants of every cell."""
    found = []
    for row in plain(rows):
        why = _unconverged(row) if "converged" in names else None
        why = why or (_off(row) if "predicted" in names else None)
        found += [Outside(row, why)] if why else []
    for row in rows if {"edge", "switch"} & set(names) else ():
        beyond = row["step_rule"] == "edge" and row["step"] != 1
        if beyond and (row["status"] == "converged") != (row["step"] < 1):
            found.append(Outside(row, f"{row['status']} at {row['step']:g} of the edge"))
    return found


def _unconverged(row: Row) -> str | None:
    if row["status"] == "converged":
        return None
    return f"{row['status']}{': ' + row['reason'] if row['reason'] else ''}"


def _off(row: Row) -> str | None:
    """Why a converged cell is not as predicted; None if it is, or nothing is predicted."""
    if row["status"] != "converged" or row.get("predicted_factor") is None or agrees(row):
        return None
    if row["measured_factor"] is None:
        return f"converged, but {row['reason']}"
    gap = deviation(row)
    assert gap is not None
    return f"measured - predicted: {gap[0]:.1e}, {gap[1]:.1e} (1 - factor)"
