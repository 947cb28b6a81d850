"""What the parts of a network change: which layer is free, which loss is trained, which activation stands between."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from dlnjax.analysis.claims._claim import Claim, made, span
from dlnjax.analysis.tables import Row

#: 1/2 sum (1 - sigma)^2 of the reference spectrum (1, .8, .6, .4): below it no network of orthonormal layers comes.
_FLOOR = 0.28
#: Largest relative spread of an eigenvalue that should not change.
_SAME = 1e-6


def free_layer(rows: Sequence[Row]) -> list[Claim]:
    """First and last mirror each other, none cannot fit, all converges."""
    claims = []
    for free in ("first", "last", "middle", "all"):
        here = [row for row in rows if row["free"] == free]
        if here:
            good = sum(row["status"] == "converged" for row in here)
            rates = [1 - row["measured_factor"] for row in here if row["measured_factor"] is not None]
            speed = f"; 1 - factor {min(rates):.5f} to {max(rates):.5f}" if rates else "; no rate fitted"
            claims.append(made("converged", f"free layer {free}: every cell converges", "all",
                               f"{good} of {len(here)}{speed}", good == len(here), len(here)))  # fmt: skip
    ends = [row for row in rows if row["free"] in ("first", "last") and row.get("eigenvalue_min") is not None]
    if {row["free"] for row in ends} == {"first", "last"}:
        found = [row["eigenvalue_min"] for row in ends]
        spread = max(found) / min(found) - 1
        claims.append(made("mirror", "free first or last: one smallest eigenvalue at all depths", f"within {_SAME:.0e}",
                           f"within {spread:.1e} of {min(found):.6g}", spread <= _SAME, len(found)))  # fmt: skip
    return claims + floor([row for row in rows if row["free"] == "none"])


def floor(rows: Sequence[Row]) -> list[Claim]:
    """With every layer orthonormal no loss below the floor."""
    rows = [row for row in rows if row["free"] == "none" and row["final_loss"] is not None]
    if not rows:
        return []
    least, middle = min(r["final_loss"] for r in rows), float(np.median([r["final_loss"] for r in rows]))
    return [made("floor", "every layer orthonormal: no loss below its floor", f">= {_FLOOR}",
                 f"at least {least:.6f}, median {middle:.6f}", least >= _FLOOR - 1e-9, len(rows))]  # fmt: skip


def losses(rows: Sequence[Row]) -> list[Claim]:
    """1 - factor of every loss is between m/M and 1 times the square loss's; for the weighted one m/M = 1/4."""
    claims = []
    square = {row["depth"]: 1 - row["measured_factor"] for row in rows if _is(row, "square")}
    for loss in sorted({row["loss"] for row in rows} - {"square"}):
        here = [row for row in rows if _is(row, loss) and row["depth"] in square]
        if here:
            shares = [(1 - row["measured_factor"]) / square[row["depth"]] for row in here]
            least = 0.25 if loss == "weighted" else 0.0
            holds = least * (1 - 1e-6) <= min(shares) and max(shares) <= 1 + 1e-6
            wanted = f"between {least:g} and 1" if least else "at most 1"
            claims.append(made("loss", f"{loss}: 1 - factor as a share of the square loss's", wanted,
                               f"{min(shares):.4f} to {max(shares):.4f}", holds, len(here)))  # fmt: skip
    return claims


def _is(row: Row, loss: str) -> bool:
    return row["loss"] == loss and row["measured_factor"] is not None


def activations(rows: Sequence[Row]) -> list[Claim]:
    """The smallest eigenvalue over the step: 1/kappa^2 where linear, tiny and falling with depth elsewhere."""
    claims = []
    for name in ("linear", "tanh", "leaky_relu", "relu"):
        here = [row for row in rows if row["activation"] == name]
        if here:
            claims += [_linear(here)] if name == "linear" else [_falling(name, here), _draws(name, here)]
            claims += _settled(name, here)
    return claims


def _linear(rows: list[Row]) -> Claim:
    shares = [row["eigenvalue_min"] / row["step_size"] / _units(row) for row in rows]
    spread = max(shares) / min(shares) - 1
    return made("spectrum", "linear: one smallest eigenvalue at every depth and seed", f"within {_SAME:.0e}",
                f"within {spread:.1e}, {min(shares):.6g} mu", spread <= _SAME, len(rows))  # fmt: skip


def _units(row: Row) -> float:
    """A fixed step is in units of one over the largest curvature; eigenvalues already contain it."""
    return row["step"] / row["step_size"]


def share(row: Row) -> float | None:
    """Smallest eigenvalue over ``mu``; None without one."""
    low = row.get("eigenvalue_min")
    return None if low is None or not low > 0 else low / row["step"]


def _medians(rows: list[Row], value: Callable[[Row], float | None]) -> dict[int, float]:
    """depth -> median over the rows that have a value."""
    found: dict[int, list[float]] = {}
    for row in rows:
        one = value(row)
        if one is not None:
            found.setdefault(row["depth"], []).append(one)
    return {depth: float(np.median(found[depth])) for depth in sorted(found)}


def _falling(name: str, rows: list[Row]) -> Claim:
    middle = list(_medians(rows, share).values())
    holds = len(middle) > 1 and all(b < a for a, b in itertools.pairwise(middle))
    shown = ", ".join(f"{value:.1e}" for value in middle)
    depths = span({row["depth"] for row in rows})
    return made("spectrum", f"{name}: the smallest eigenvalue over mu (median) falls with depth, N = {depths}",
                "falling", shown, holds, len(rows))  # fmt: skip


def _draws(name: str, rows: list[Row]) -> Claim:
    spans = []
    for depth in {row["depth"] for row in rows}:
        found = [s for row in rows if row["depth"] == depth and (s := share(row)) is not None]
        spans += [max(found) / min(found)] if found else []
    most = max(spans, default=math.nan)
    return made("spectrum", f"{name}: one draw differs from another by more than a factor 10 at some depth", "> 10",
                f"up to {most:.1e}", most > 10, len(rows))  # fmt: skip


def _settled(name: str, rows: list[Row]) -> list[Claim]:
    """Where a rate could be fitted it is the predicted one; elsewhere none is claimed."""
    known = [r for r in rows if r["measured_factor"] is not None and r.get("predicted_factor") is not None]
    inside = sum(r["measured_low"] <= r["predicted_factor"] <= r["measured_high"] for r in known)
    gaps = [
        abs(row["measured_factor"] - row["predicted_factor"]) / (1 - row["predicted_factor"]) for row in known
    ]
    if not known:
        return []
    good = sum(gap <= 1e-2 for gap in gaps)
    shown = f"{good} of {len(known)} ({len(rows) - len(known)} cells have no rate); intervals hold {inside}"
    return [made("predicted", f"{name}: measured = predicted where a rate could be fitted", "within 1% (1 - factor)",
                 shown, good == len(known), len(known))]  # fmt: skip
