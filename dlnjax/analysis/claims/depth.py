"""What depth does to the rate: nothing at a fixed step and under middle scaling, 1/N at the best step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlnjax.analysis.claims._claim import TOLERANCE, Claim, made, name, plain, span
from dlnjax.analysis.tables import Row, groups

_SLOPE, _SLOPE_WITHIN, _SLOPE_EXACT, _DEEP = -1.0, 0.02, 1e-3, 32


def flat(rows: Sequence[Row]) -> list[Claim]:
    """The factor at a fixed step, and under middle scaling, is the same at every depth (whitened data)."""
    rows = [
        r
        for r in plain(rows)
        if r["step_rule"] in ("fixed", "middle") and r["measured_factor"] is not None and r["data"] != "raw"
    ]
    claims = []
    for key, group in groups(rows, without=("depth", "seed", "engine")).items():
        depths = {row["depth"] for row in group}
        if len(depths) > 1:
            factors = [row["measured_factor"] for row in group]
            spread, limit = max(factors) - min(factors), TOLERANCE[group[0]["precision"]][0]
            what = f"`{name(key, rows)}`: the factor is flat in depth, N = {span(depths)}"
            claims.append(
                made(
                    "flat",
                    what,
                    f"spread <= {limit:.0e}",
                    f"spread {spread:.1e} at {np.median(factors):.8f}",
                    spread <= limit,
                    len(group),
                )
            )
    return claims


def slopes(rows: Sequence[Row]) -> list[Claim]:
    """``1 - factor`` at the best step falls like 1/N from N = 32 on."""
    rows = [
        r
        for r in rows
        if r["step_rule"] == "optimal"
        and r["measured_factor"] is not None
        and r["data"] != "raw"
        and r["depth"] >= _DEEP
    ]
    claims = []
    for key, group in groups(rows, without=("depth", "seed")).items():
        slope = loglog_slope(group)
        if slope is not None:
            what = (
                f"`{name(key, rows)}`: log-log slope of 1 - factor, N = {span({r['depth'] for r in group})}"
            )
            wanted, limit = _expected_slope(group)
            expected = f"{wanted:.4g} +- {limit:g}"
            claims.append(
                made("slope", what, expected, f"{slope:.4f}", abs(slope - wanted) <= limit, len(group))
            )
    return claims


def _expected_slope(rows: Sequence[Row]) -> tuple[float, float]:
    """``(slope, tolerance)``: -1, or what is predicted at these depths where that is still on its way to -1."""
    predicted = loglog_slope(rows, "predicted_factor")
    if predicted is None or abs(predicted - _SLOPE) <= _SLOPE_WITHIN:
        return _SLOPE, _SLOPE_WITHIN
    return predicted, _SLOPE_EXACT


def loglog_slope(rows: Sequence[Row], column: str = "measured_factor") -> float | None:
    """Least squares slope of ``log(1 - factor)`` in ``log N``; None with fewer than two depths."""
    rows = [row for row in rows if row.get(column) is not None and 0 <= row[column] < 1]
    depths = np.log([row["depth"] for row in rows])
    if len(rows) < 2 or np.ptp(depths) == 0:
        return None
    gaps = np.log1p([-row[column] for row in rows])
    return float(np.polyfit(depths, gaps, 1)[0])
