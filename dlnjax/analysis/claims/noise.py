"""The floor of stochastic descent, as a function of step, batch and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dlnjax.analysis.claims._claim import Claim, made
from dlnjax.analysis.tables import Row

_WITHIN = 0.1


def level(row: Row) -> float | None:
    """Root mean square of the error over the last quarter of a run; None where it is not finite."""
    curve = row.get("curve_distance")
    if curve is None or not np.isfinite(curve).all():
        return None
    return float(np.sqrt(np.mean(np.square(curve[-len(curve) // 4 :]))))


def noise(rows: Sequence[Row]) -> list[Claim]:
    """Clean labels converge at any batch; noisy ones at full batch only, else a floor with three exponents."""
    claims = []
    for what, here in (
        ("clean labels: mini-batches converge", [r for r in rows if r["batch_size"] and not r["label_noise"]]),
        ("noisy labels, all samples: converge to their best product",
         [r for r in rows if not r["batch_size"] and r["label_noise"]]),
    ):  # fmt: skip
        if here:
            good = sum(row["status"] == "converged" for row in here)
            shown = f"{good} of {len(here)}"
            claims.append(made("converged", what, "every cell", shown, good == len(here), len(here)))
    floors = [(row, one) for row in rows if row["batch_size"] and row["label_noise"] and (one := level(row))]
    for column, wanted in (("step", 0.5), ("label_noise", 1.0), ("batch_size", -0.5)):
        claims += _exponent(column, wanted, floors)
    return claims


def _exponent(column: str, wanted: float, floors: list[tuple[Row, float]]) -> list[Claim]:
    """Slope of the log of the floor in the log of one column, the other two held fixed; its error from the seeds."""
    others = [name for name in ("step", "label_noise", "batch_size") if name != column]
    groups: dict[tuple, list[tuple[float, float]]] = {}
    for row, one in floors:
        key = (*(row[name] for name in others), row["seed"])
        groups.setdefault(key, []).append((math.log(row[column]), math.log(one)))
    points = [np.array(group).T for group in groups.values() if len({x for x, _ in group}) > 1]
    slopes = [float(np.polyfit(x, y, 1)[0]) for x, y in points]
    if not slopes:
        return []
    mean, error = float(np.mean(slopes)), float(np.std(slopes) / np.sqrt(len(slopes)))
    what = f"noisy labels, mini-batches: exponent of the floor in {column}"
    return [made("floor", what, f"{wanted:g} +- {_WITHIN:g}", f"{mean:.3f} +- {2 * error:.3f}",
                 abs(mean - wanted) <= _WITHIN, len(floors))]  # fmt: skip
