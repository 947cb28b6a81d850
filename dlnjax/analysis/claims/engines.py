"""Two engines, one network: the exact reduction against layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from dlnjax.analysis.claims._claim import Claim, made
from dlnjax.analysis.tables import SAME_STEPS, Row, engine_gap, engine_pairs

#: The largest difference of recorded errors that two engines may have (float64).
_SAME = 1e-12


def engines(rows: Sequence[Row]) -> list[Claim]:
    """The exact reduction against layer by layer: the same recorded error, cell for cell."""
    found = [engine_gap(a, b) for a, b in engine_pairs(rows) if a["precision"] == "float64"]
    gaps = [gap for gap in found if gap is not None]
    if not gaps:
        return []
    count, worst = len(gaps), max(gaps)
    return [
        made(
            "engines",
            f"reduced engine = layer by layer, recorded errors of the first {SAME_STEPS} steps",
            f"within {_SAME:.0e}",
            f"within {worst:.1e}",
            worst <= _SAME,
            2 * count,
        )
    ]
