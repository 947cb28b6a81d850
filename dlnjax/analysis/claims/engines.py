"""Two engines, one network: the exact reduction against layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlnjax.analysis.claims._claim import Claim, made
from dlnjax.analysis.tables import Row, groups

#: Steps and largest difference within which two engines must give one curve (float64).
_SAME_STEPS, _SAME = 300, 1e-12


def engines(rows: Sequence[Row]) -> list[Claim]:
    """The exact reduction against layer by layer: the same recorded error, cell for cell."""
    gaps = []
    for group in groups(rows, without=("engine",)).values():
        both = {row["engine"]: row for row in group if row.get("curve_distance") is not None}
        if len(both) == 2 and group[0]["precision"] == "float64":
            gap = _curve_gap(*both.values())
            gaps += [gap] if gap is not None else []
    if not gaps:
        return []
    count, worst = len(gaps), max(gaps)
    return [
        made(
            "engines",
            f"reduced engine = layer by layer, recorded errors of the first {_SAME_STEPS} steps",
            f"within {_SAME:.0e}",
            f"within {worst:.1e}",
            worst <= _SAME,
            2 * count,
        )
    ]


def _curve_gap(a: Row, b: Row) -> float | None:
    common, at, bt = np.intersect1d(a["curve_step"], b["curve_step"], return_indices=True)
    early = common <= _SAME_STEPS
    gap = np.abs(a["curve_distance"][at] - b["curve_distance"][bt])[early]
    return float(gap.max()) if gap.size and np.isfinite(gap).all() else None
