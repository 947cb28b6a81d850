"""The gauge: does the distance find its minimum, see no gauge, and do the steps commute with it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import optim, stiefel
from dlnjax._types import Params, Retraction
from dlnjax.campaigns.checks import draw
from dlnjax.campaigns.checks.finding import Finding, Row, history, row
from dlnjax.theory import gauge

Dims = tuple[int, ...]
TURNED: list[Dims] = [(5, 3, 4), (5, 3, 3, 3, 4), (5, 2, 3, 4), (4, *[2] * 6, 3)]
#: Noise per entry of a scrambled network; up to NEAR the chain start must find the minimum.
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
NEAR = 0.03
#: Relative excess over the best of all starts that counts as a miss.
MISS = 1e-6
#: Largest deviation of a step from the turned step of the network that is not turned.
COMMUTES = 1e-13
RETRACTIONS: dict[str, Retraction] = {
    "polar": stiefel.retract_polar,
    "cayley": stiefel.retract_cayley,
    "qr": stiefel.retract_qr,
}


def gauge_search(
    instances: int = 200, restarts: int = 20, seed: int = 0, shapes: Sequence[Dims] = TURNED
) -> Finding:
    """``dist^2`` from the chain start against random starts, on scrambled networks near and far.

    Ratio, near a solution (noise at most 0.03 an entry): the chain's value over the best one found. Far away
    the chain may miss; the share that does is reported and is no violation. So is the identity's.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for dims, count in draw.groups(instances, shapes):
        for i in range(count):
            rows.append(_searched(rng, len(rows), dims, NOISES[i % len(NOISES)], restarts))
    shares = {f"share that misses from the {k}": _shares(rows, k) for k in ("chain", "identity")}
    return Finding("search", "near a solution the chain start finds the gauge distance", rows, shares)


def _searched(rng: np.random.Generator, instance: int, dims: Dims, noise: float, restarts: int) -> Row:
    goal = draw.solution(rng, dims, np.sort(rng.uniform(0.3, 1, dims[1]))[::-1])
    moved = [w + noise * rng.standard_normal(w.shape) for w in goal]
    near = (moved[0], *(draw.polar(w) for w in moved[1:]))
    turned = gauge.transform(near, gauge.random_rotations(int(rng.integers(2**31)), dims))
    chain = gauge.distance_squared(turned, goal)
    plain = gauge.distance_squared(turned, goal, start="identity")
    best = min(chain, plain, gauge.distance_squared(turned, goal, restarts=restarts))
    missed = chain > best * (1 + MISS)
    counts = noise <= NEAR
    return row(
        "search", instance, dims, noise=noise, best=best, chain_excess=chain / best - 1,
        identity_excess=plain / best - 1, checks=int(counts), violations=int(missed and counts),
        ratio=chain / best / (1 + MISS) if counts else None,
    )  # fmt: skip


def _shares(rows: list[Row], start: str) -> str:
    found = []
    for noise in NOISES:
        here = [r for r in rows if r["noise"] == noise]
        if here:
            found.append(f"{sum(r[f'{start}_excess'] > MISS for r in here)}/{len(here)} at noise {noise:g}")
    return ", ".join(found)


def gauge_commutes(instances: int = 60, num_steps: int = 10, seed: int = 0) -> Finding:
    """A step of a turned network is the turned step, under polar and Cayley; QR is reported and deviates.

    Ratio: the largest difference of any layer over ten steps, over 1e-13.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for dims, count in draw.groups(instances, TURNED):
        for i in range(count):
            name = list(RETRACTIONS)[i % len(RETRACTIONS)]
            deviation = _deviation(rng, dims, RETRACTIONS[name], num_steps)
            counts = name != "qr"
            rows.append(
                row(
                    "commutes", len(rows), dims, retraction=name, deviation=deviation, checks=int(counts),
                    violations=int(counts and deviation > COMMUTES),
                    ratio=deviation / COMMUTES if counts else None,
                )
            )  # fmt: skip
    qr = [r["deviation"] for r in rows if r["retraction"] == "qr"]
    details = {"QR deviates by, least and largest": [min(qr, default=0.0), max(qr, default=0.0)]}
    return Finding("commutes", "polar and Cayley steps commute with the gauge", rows, details)


def _deviation(rng: np.random.Generator, dims: Dims, retraction: Callable, num_steps: int) -> float:
    goal = draw.solution(rng, dims, np.sort(rng.uniform(0.3, 1, dims[1]))[::-1])
    whole = draw.quadratic(np.linalg.multi_dot(goal[::-1]), 0.3, rng)
    start = draw.solution(rng, dims, np.sort(rng.uniform(0.3, 1, dims[1]))[::-1])
    rotations = gauge.random_rotations(int(rng.integers(2**31)), dims)
    ends: list[tuple[np.ndarray, ...]] = []
    for layers in (start, gauge.transform(start, rotations)):
        moved = _history(tuple(jnp.asarray(w) for w in layers), whole, retraction, num_steps)
        ends.append(tuple(np.asarray(w[-1]) for w in moved))
    expected = gauge.transform(ends[0], rotations)
    return max(float(np.max(np.abs(a - b))) for a, b in zip(ends[1], expected, strict=True))


def _history(layers: Params, whole, retraction: Callable, num_steps: int) -> Params:
    return _COMPILED(layers, whole, retraction, num_steps)


_COMPILED = jax.jit(
    lambda layers, whole, retraction, n: history(layers, whole, optim.rgd(0.1, retraction=retraction), n),
    static_argnums=(2, 3),
)
