"""What the retraction changes: its cost, and nothing in the number of steps."""

from __future__ import annotations

from collections.abc import Sequence

from dlnjax.analysis.claims._claim import Claim, made
from dlnjax.analysis.tables import Row, groups

#: Steps by which two retractions may differ: what a step count between two records is known to.
_WITHIN = 1
_REFERENCE = "polar"


def retractions(rows: Sequence[Row]) -> list[Claim]:
    """Every retraction needs the steps that the polar one needs, cell for cell, where both converge."""
    pairs: dict[str, list[tuple[Row, Row]]] = {}
    for group in groups(rows, without=("retraction",)).values():
        named = {row["retraction"]: row for row in group if row["iterations"] is not None}
        if _REFERENCE in named:
            for other in named.keys() - {_REFERENCE}:
                pairs.setdefault(other, []).append((named[_REFERENCE], named[other]))
    return [_same(other, pairs[other]) for other in sorted(pairs)]


def _same(other: str, pairs: list[tuple[Row, Row]]) -> Claim:
    gaps = [abs(a["iterations"] - b["iterations"]) for a, b in pairs]
    least = min(a["iterations"] for a, _ in pairs)
    what = f"{other} needs the steps that {_REFERENCE} needs, cells in which both converge"
    measured = f"at most {max(gaps)} apart; runs of {least} steps and more"
    return made("retraction", what, f"at most {_WITHIN} apart", measured, max(gaps) <= _WITHIN, len(pairs))
