"""What momentum buys with depth: heavy ball through the exact reduction, held against its predicted factor.

At the best step plain descent pays ``1 - c/N`` for depth, heavy ball ``1 - c/sqrt(N)``. The run costs O(log N) a step,
so the exponent is read over depths up to thousands.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import problem, reduced
from dlnjax.campaigns.checks import draw
from dlnjax.campaigns.checks.finding import Finding, Row, row
from dlnjax.theory import closed, momentum

SIGMA = (1.0, 0.8, 0.6, 0.4)
ENDS = (8, 4, 8)
DEPTHS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
#: Of the best step, with the best momentum: the slowest mode is then real and alone; at the best step all modes have
#: one modulus.
SHARE = 0.5
#: Relative errors between which the factor is read, and the one between that splits the reading in two.
HIGH, MIDDLE, LOW = 1e-5, 1e-7, 1e-9
RECORDS = 512
_UNIT = reduced.LayerScales(1.0, 1.0, 1.0)


def momentum_depth(
    instances: int = 10, seed: int = 0, tolerance: float = 1e-6, depths: Sequence[int] = DEPTHS
) -> Finding:
    """Heavy ball with the best momentum at half its best step, against ``theory.momentum``, ``instances`` a depth.

    The factor is read while the relative error falls from 1e-5 to 1e-9; early and late
    readings differ by half the width of its interval. Ratio: |measured - predicted| over the tolerance.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for depth in depths:
        rate = closed.closed_form(SIGMA, dims=(8, *[4] * (depth - 1), 8), step_size=1.0, scales=_UNIT)
        best = momentum.best(rate, 1.0)
        mu = SHARE * best.step_size
        low, high = rate.eigenvalue_min * mu, rate.eigenvalue_max * mu
        factor = float(np.max(momentum.mode_factor([low, high], best.momentum)))
        curves = _curves(rng, instances, depth, mu, best.momentum, _length(factor))
        plain = (rate.eigenvalue_max - rate.eigenvalue_min) / (rate.eigenvalue_max + rate.eigenvalue_min)
        shared = {
            "momentum": best.momentum,
            "step_size": mu,
            "best_factor": best.factor,
            "best_plain_factor": plain,
        }
        rows += [
            _row(len(rows) + i, depth, shared, factor, curve, tolerance) for i, curve in enumerate(curves)
        ]
    return Finding("momentum", "heavy ball's measured factor = predicted, at every depth", rows, {})


def _length(factor: float) -> int:
    """Steps between records such that all of them together pass the window and its transient."""
    return max(1, int(np.ceil(1.5 * np.log(LOW) / np.log(factor) / RECORDS)))


def _curves(
    rng, instances: int, depth: int, mu: float, beta: float, every: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """``(step, relative distance)`` of every instance."""
    starts, targets = zip(*(_instance(rng, depth) for _ in range(instances)), strict=True)
    trace = _run(draw.stack(list(starts)), jnp.asarray(np.stack(targets)), depth, mu, beta, every)
    found = np.asarray(trace.distance)
    return list(zip(np.asarray(trace.step), found / found[:, :1], strict=True))


def _instance(rng: np.random.Generator, depth: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """A start near a solution of the reference spectrum, as ``(W_1, U)``, and the target."""
    first, frame = draw.solution(rng, ENDS, np.array(SIGMA))
    noise = 1e-2 / np.sqrt(depth)
    start = first + noise * rng.standard_normal(first.shape), frame + noise * rng.standard_normal(frame.shape)
    return (start[0], draw.polar(start[1])), frame @ first


@jax.jit
def _run(starts, targets, depth, mu, beta, every):
    """One program for all depths: every run has as many records."""

    def one(start, target):
        network = reduced.Reduced(start[0], start[1], depth)
        return reduced.train(
            network, problem.whitened(target), step_size=mu, scales=_UNIT, momentum=beta,
            record_intervals=jnp.full(RECORDS, every),
        )[1]  # fmt: skip

    return jax.vmap(one)(starts, targets)


def _row(instance: int, depth: int, shared: dict, predicted: float, curve: tuple, tolerance: float) -> Row:
    spans = ((HIGH, LOW), (HIGH, MIDDLE), (MIDDLE, LOW))
    measured, early, late = (_between(curve, *span) for span in spans)
    given: Row = dict.fromkeys(("measured_factor", "measured_low", "measured_high", "difference", "ratio"))
    gap = float("inf")
    if measured is not None and early is not None and late is not None:
        gap, half = abs(measured - predicted), abs(early - late)
        given = {"measured_factor": measured, "measured_low": measured - half, "measured_high": measured + half,
                 "difference": gap, "ratio": gap / tolerance}  # fmt: skip
    return row(
        "momentum", instance, None, depth=depth, **shared, predicted_factor=predicted, **given, checks=1,
        violations=int(not gap <= tolerance),
    )  # fmt: skip


def _between(curve: tuple[np.ndarray, np.ndarray], high: float, low: float) -> float | None:
    """Mean factor a step while the error falls from ``high`` to ``low``; None if it does not."""
    step, error = curve
    ends = [int(np.argmax(error <= level)) for level in (high, low)]
    if not ends[0] < ends[1]:
        return None
    return float((error[ends[1]] / error[ends[0]]) ** (1 / (step[ends[1]] - step[ends[0]])))
