"""The rate itself: do cells converge, as fast as predicted, no slower than guaranteed?"""

from __future__ import annotations

from collections.abc import Sequence

from dlnjax.analysis.claims._claim import TOLERANCE, Claim, agrees, deviation, made, plain
from dlnjax.analysis.tables import Row

_LEAST_CONVERGED = 0.95


def converged(rows: Sequence[Row]) -> list[Claim]:
    """At least 95% of the cells converge; raw data is not held to it, its slowest modes may be out of reach."""
    rows = [row for row in plain(rows) if row["data"] != "raw"]
    if not rows:
        return []
    count = sum(row["status"] == "converged" for row in rows)
    measured = f"{count} of {len(rows)} ({count / len(rows):.1%})"
    good = count >= _LEAST_CONVERGED * len(rows)
    return [made("converged", "cells converge", "at least 95%", measured, good, len(rows))]


def predicted(rows: Sequence[Row]) -> list[Claim]:
    """Measured = predicted; a converged cell that has a prediction but no rate counts as a failure."""
    rows = [r for r in plain(rows) if r["status"] == "converged" and r.get("predicted_factor") is not None]
    if not rows:
        return []
    gaps = [gap for gap in map(deviation, rows) if gap is not None]
    limit, relative = TOLERANCE[rows[0]["precision"]]
    good = sum(map(agrees, rows))
    inside = sum(
        r["fit"].factor is not None and r["measured_low"] <= r["predicted_factor"] <= r["measured_high"]
        for r in rows
    )
    worst = (
        f"at most {max(g[0] for g in gaps):.1e} and {max(g[1] for g in gaps):.1e} (1 - factor)"
        if gaps
        else "none measured"
    )
    measured = f"{good} of {len(rows)} cells; {worst}; the interval holds the prediction in {inside}"
    expected = f"within {limit:.0e} and within {relative:.0e} (1 - factor)"
    return [
        made(
            "predicted",
            "measured factor = predicted factor, converged cells",
            expected,
            measured,
            good == len(rows),
            len(rows),
        )
    ]


def guaranteed(rows: Sequence[Row]) -> list[Claim]:
    """No cell that the theorem applies to is slower than it says."""
    rows = [
        r for r in plain(rows) if r.get("guaranteed_factor") is not None and r["measured_factor"] is not None
    ]
    if not rows:
        return []
    kept = sum(row["measured_low"] <= row["guaranteed_factor"] for row in rows)
    return [
        made(
            "guaranteed",
            "the guaranteed factor is kept",
            "measured <= guaranteed",
            f"{kept} of {len(rows)} cells",
            kept == len(rows),
            len(rows),
        )
    ]


def spectrum(rows: Sequence[Row]) -> list[Claim]:
    """Whitened and no hidden width below d_N: the smallest eigenvalue is the step, whatever the data."""
    rows = [
        r
        for r in plain(rows)
        if r["data"] == "whitened" and r["output_dim"] and r["width"] >= r["output_dim"]
    ]
    rows = [row for row in rows if row.get("eigenvalue_min") is not None and row.get("step_size")]
    if not rows:
        return []
    gap = max(abs(row["eigenvalue_min"] / row["step_size"] - 1) for row in rows)
    return [
        made(
            "spectrum",
            "whitened, width at least the outputs: smallest eigenvalue = step",
            "within 1e-6, relatively",
            f"within {gap:.1e}",
            gap <= 1e-6,
            len(rows),
        )
    ]
