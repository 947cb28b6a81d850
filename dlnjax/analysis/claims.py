"""Theory held against what was measured: each claim with its expectation, the measurement and a verdict.

Only what the rows contain is claimed: without edge cells nothing is said of the edge, without two depths
nothing of flatness. Every cell that falls outside is named; none is dropped from a count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dlnjax.analysis.tables import COORDINATES, Row, describe, groups, varying

#: Largest ``|measured - predicted|``, and the same relative to ``1 - factor``; flatness uses the first.
TOLERANCE = {"float64": (1e-6, 1e-4), "float32": (1e-3, 1e-1)}
_SLOPE, _SLOPE_WITHIN, _SLOPE_EXACT, _DEEP = -1.0, 0.02, 1e-3, 32
_LEAST_CONVERGED = 0.95
#: Steps and largest difference within which two engines must give one curve (float64).
_SAME_STEPS, _SAME = 300, 1e-12


class Claim(NamedTuple):
    """One line of the verdict.

    Attributes:
      kind: ``converged``, ``predicted``, ``guaranteed``, ``flat``, ``slope``, ``spectrum``, ``engines`` or
        ``edge``.
      claim: what is claimed, in words.
      expected: what theory says.
      measured: what the cells say.
      verdict: ``holds`` or ``fails``.
      cells: how many cells the claim rests on.
    """

    kind: str
    claim: str
    expected: str
    measured: str
    verdict: str
    cells: int


class Outside(NamedTuple):
    """A cell that does not do what is expected of it, and why."""

    row: Row
    why: str


def check(rows: Sequence[Row]) -> tuple[list[Claim], list[Outside]]:
    """Every claim that ``rows`` (of ``tables.measure``) can support, and every cell outside of one."""
    plain = [row for row in rows if row["step_rule"] != "edge"]
    edge = [row for row in rows if row["step_rule"] == "edge"]
    claims = [*_converged(plain), *_predicted(plain), *_guaranteed(plain)]
    claims += [*_flat(plain), *_slopes(plain), *_whitened(plain), *_engines(rows), *_edges(edge)]
    return claims, _outside(plain, edge)


def deviation(row: Row) -> tuple[float, float] | None:
    """``|measured - predicted|`` and the same relative to ``1 - predicted``; None where either is missing."""
    measured, predicted = row["measured_factor"], row.get("predicted_factor")
    if measured is None or predicted is None:
        return None
    gap = abs(measured - predicted)
    return gap, gap / abs(1 - predicted) if predicted != 1 else math.inf


def agrees(row: Row) -> bool:
    """Whether a row's measured factor is the predicted one within both tolerances."""
    gap = deviation(row)
    limits = TOLERANCE[row["precision"]]
    return gap is not None and gap[0] <= limits[0] and gap[1] <= limits[1]


def to_rows(claims: Iterable[Claim]) -> list[Row]:
    """For ``tables.to_csv`` with the columns ``Claim._fields``."""
    return [claim._asdict() for claim in claims]


def _made(kind: str, claim: str, expected: str, measured: str, holds: bool, cells: int) -> Claim:
    return Claim(kind, claim, expected, measured, "holds" if holds else "fails", cells)


def _converged(rows: list[Row]) -> list[Claim]:
    """Raw data is not held to it: its slowest modes may be out of any run's reach."""
    rows = [row for row in rows if row["data"] != "raw"]
    if not rows:
        return []
    count = sum(row["status"] == "converged" for row in rows)
    measured = f"{count} of {len(rows)} ({count / len(rows):.1%})"
    good = count >= _LEAST_CONVERGED * len(rows)
    return [_made("converged", "cells converge", "at least 95%", measured, good, len(rows))]


def _predicted(rows: list[Row]) -> list[Claim]:
    """Measured = predicted; a converged cell that has a prediction but no rate counts as a failure."""
    rows = [r for r in rows if r["status"] == "converged" and r.get("predicted_factor") is not None]
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
        _made(
            "predicted",
            "measured factor = predicted factor, converged cells",
            expected,
            measured,
            good == len(rows),
            len(rows),
        )
    ]


def _guaranteed(rows: list[Row]) -> list[Claim]:
    rows = [r for r in rows if r.get("guaranteed_factor") is not None and r["measured_factor"] is not None]
    if not rows:
        return []
    kept = sum(row["measured_low"] <= row["guaranteed_factor"] for row in rows)
    return [
        _made(
            "guaranteed",
            "the guaranteed factor is kept",
            "measured <= guaranteed",
            f"{kept} of {len(rows)} cells",
            kept == len(rows),
            len(rows),
        )
    ]


def _flat(rows: list[Row]) -> list[Claim]:
    """The factor at a fixed step, and under middle scaling, is the same at every depth (whitened data)."""
    rows = [
        r
        for r in rows
        if r["step_rule"] in ("fixed", "middle") and r["measured_factor"] is not None and r["data"] != "raw"
    ]
    claims = []
    for key, group in groups(rows, without=("depth", "seed", "engine")).items():
        depths = {row["depth"] for row in group}
        if len(depths) > 1:
            factors = [row["measured_factor"] for row in group]
            spread, limit = max(factors) - min(factors), TOLERANCE[group[0]["precision"]][0]
            what = f"`{_name(key, rows)}`: the factor is flat in depth, N = {_span(depths)}"
            claims.append(
                _made(
                    "flat",
                    what,
                    f"spread <= {limit:.0e}",
                    f"spread {spread:.1e} at {np.median(factors):.8f}",
                    spread <= limit,
                    len(group),
                )
            )
    return claims


def _slopes(rows: list[Row]) -> list[Claim]:
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
                f"`{_name(key, rows)}`: log-log slope of 1 - factor, N = {_span({r['depth'] for r in group})}"
            )
            wanted, limit = _expected_slope(group)
            expected = f"{wanted:.4g} +- {limit:g}"
            claims.append(
                _made("slope", what, expected, f"{slope:.4f}", abs(slope - wanted) <= limit, len(group))
            )
    return claims


def _expected_slope(rows: Sequence[Row]) -> tuple[float, float]:
    """``(slope, tolerance)``: -1, or what is predicted at these depths where that is still on its way to -1."""
    predicted = loglog_slope(rows, "predicted_factor")
    if predicted is None or abs(predicted - _SLOPE) <= _SLOPE_WITHIN:
        return _SLOPE, _SLOPE_WITHIN
    return predicted, _SLOPE_EXACT


def loglog_slope(rows: Sequence[Row], name: str = "measured_factor") -> float | None:
    """Least squares slope of ``log(1 - factor)`` in ``log N``; None with fewer than two depths."""
    rows = [row for row in rows if row.get(name) is not None and 0 <= row[name] < 1]
    depths = np.log([row["depth"] for row in rows])
    if len(rows) < 2 or np.ptp(depths) == 0:
        return None
    gaps = np.log1p([-row[name] for row in rows])
    return float(np.polyfit(depths, gaps, 1)[0])


def _whitened(rows: list[Row]) -> list[Claim]:
    """Whitened and no hidden width below d_N: the smallest eigenvalue is the step, whatever the data."""
    rows = [r for r in rows if r["data"] == "whitened" and r["output_dim"] and r["width"] >= r["output_dim"]]
    rows = [row for row in rows if row.get("eigenvalue_min") is not None and row.get("step_size")]
    if not rows:
        return []
    gap = max(abs(row["eigenvalue_min"] / row["step_size"] - 1) for row in rows)
    return [
        _made(
            "spectrum",
            "whitened, width at least the outputs: smallest eigenvalue = step",
            "within 1e-6, relatively",
            f"within {gap:.1e}",
            gap <= 1e-6,
            len(rows),
        )
    ]


def _engines(rows: Sequence[Row]) -> list[Claim]:
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
        _made(
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


def _edges(rows: list[Row]) -> list[Claim]:
    """The steps next to the edge: the largest fraction below 1 converges, the smallest above does not."""
    claims = []
    for key, group in groups(rows, without=("step", "depth", "seed")).items():
        steps = {row["step"] for row in group}
        for step, wanted in _nearest(steps):
            cells = [row for row in group if row["step"] == step]
            good = sum((row["status"] == "converged") == wanted for row in cells)
            name = _name(key, rows, hide=("step_rule",), default="edge")
            verb = "converges" if wanted else "does not converge"
            what = f"`{name}`: {step:g} of the edge {verb}, N = {_span({r['depth'] for r in cells})}"
            claims.append(
                _made("edge", what, "every cell", f"{good} of {len(cells)}", good == len(cells), len(cells))
            )
    return claims


def _nearest(steps: set[float]) -> list[tuple[float, bool]]:
    below, above = [s for s in steps if s < 1], [s for s in steps if s > 1]
    return [(max(near), True) for near in [below] if near] + [(min(near), False) for near in [above] if near]


def _outside(plain: list[Row], edge: list[Row]) -> list[Outside]:
    found = [Outside(row, why) for row in plain if (why := _fault(row))]
    for row in edge:
        if row["step"] != 1 and (row["status"] == "converged") != (row["step"] < 1):
            found.append(Outside(row, f"{row['status']} at {row['step']:g} of the edge"))
    return found


def _fault(row: Row) -> str | None:
    """Why a cell away from the edge is not as expected; None if it is."""
    if row["status"] != "converged":
        return f"{row['status']}{': ' + row['reason'] if row['reason'] else ''}"
    if row.get("predicted_factor") is None:
        return None
    if row["measured_factor"] is None:
        return f"converged, but {row['reason']}"
    if agrees(row):
        return None
    gap = deviation(row)
    assert gap is not None
    return f"measured - predicted: {gap[0]:.1e}, {gap[1]:.1e} (1 - factor)"


def _name(
    key: tuple[tuple[str, Any], ...], rows: Sequence[Row], hide: Sequence[str] = (), default: str = ""
) -> str:
    """A group's name: its step rule and whatever else tells it from the other groups."""
    values = dict(key)
    varied = varying(rows)
    names = [n for n in COORDINATES if n in values and n not in hide and (n == "step_rule" or n in varied)]
    return describe(values, names) or default


def _span(depths: set[int]) -> str:
    low, high = min(depths), max(depths)
    return str(low) if low == high else f"{low}..{high}"
