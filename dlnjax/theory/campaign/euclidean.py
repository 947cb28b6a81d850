"""Campaigns without constraints: gradient descent's rules and limits, its flow, and the exact modes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import initial, network, problem
from dlnjax._types import Params
from dlnjax.theory import descent, flow, hessian, modes
from dlnjax.theory.campaign import draw
from dlnjax.theory.campaign.finding import Finding

RULED: list[tuple[int, ...]] = [(3, 3, 2), (3, 4, 3, 2), (2, 3, 3, 3, 3), (2, *[2] * 6, 2)]


def descent_rules(
    instances: int = 200, num_steps: int = 300, seed: int = 0, shapes: Sequence[tuple[int, ...]] = RULED
) -> Finding:
    """Source B's step rules, derived and published: decrease, balance and boundedness at every step.

    Ratio: the largest of the three in :class:`descent.Certificate`, over both rules.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list] = {"derived": [], "published": []}
    edges, wider = [], []
    for dims, count in draw.groups(instances, shapes):
        cases = [_descent_case(rng, dims) for _ in range(count)]
        run = jax.jit(jax.vmap(lambda p, q, b: descent.certify(p, q, b, num_steps)))
        bounds = {"derived": descent.step_bound, "published": descent.published_bound}
        given = {name: [rule(p, x, y) for p, x, y, _ in cases] for name, rule in bounds.items()}
        for name, each in given.items():
            _, certificate = run(
                draw.stack([c[0] for c in cases]), draw.stack([c[3] for c in cases]), draw.stack(each)
            )
            found[name] += list(zip(*(np.asarray(v) for v in certificate[:3]), strict=True))
        wider += [
            a.step_size / b.step_size for a, b in zip(given["derived"], given["published"], strict=True)
        ]
        sample = list(zip(cases, given["derived"], strict=True))[:5]
        edges += [bound.step_size / _edge(case[0], case[3]) for case, bound in sample]
    ratios = {name: np.array(v) for name, v in found.items()}
    details: dict[str, Any] = {
        f"{name}: decrease, imbalance, layers": list(r.max(axis=0)) for name, r in ratios.items()
    }
    details["derived step over published, least and median"] = [min(wider), float(np.median(wider))]
    details["derived step over 2/lambda_max at the start, median of a sample"] = float(np.median(edges))
    everything = np.concatenate(list(ratios.values()))
    violations = int(np.sum(everything > 1 + 1e-9))
    checks = everything.size * num_steps
    name = "gradient descent's step rules (source B)"
    return Finding(name, instances, checks, violations, float(everything.max()), details)


def _descent_case(rng: np.random.Generator, dims: tuple[int, ...]):
    x, y = rng.standard_normal((dims[0], 8)), rng.standard_normal((dims[-1], 8))
    layers = [rng.standard_normal((n, p)) / np.sqrt(p) for p, n in pairwise(dims)]
    covariance = x @ x.T
    target = y @ x.T @ np.linalg.inv(covariance)
    values, vectors = np.linalg.eigh(covariance)
    floor = np.sum((target @ x - y) ** 2) / 2
    arrays = target, target, floor, covariance, (vectors * np.sqrt(values)) @ vectors.T
    whole = problem.Quadratic(*(jnp.asarray(a) for a in arrays))
    return tuple(jnp.asarray(w) for w in layers), x, y, whole


def _edge(params: Params, whole: problem.Quadratic) -> float:
    """The step at which descent would be locally unstable, ``2 / lambda_max`` of the Hessian."""
    values = np.linalg.eigvalsh(hessian.matrix(params, whole, constrained=[False] * len(params)))
    return float(2 / values[-1])


def descent_ranks(instances: int = 1000, num_steps: int = 20000, seed: int = 0) -> Finding:
    """Source B's dichotomy: two layers reach the global minimum, deeper ones the best of some rank.

    A violation is a two-layer run that ends off the global minimum, or a deeper one off every rank's optimum.
    """
    rng = np.random.default_rng(seed)
    target = np.diag([2.0, 1.2, 0.7])
    made = problem.whitened(jnp.asarray(target))
    optima = descent.rank_optima(np.eye(3), target)
    details: dict[str, Any] = {}
    violations, worst = 0, 0.0
    for depth, count in ((2, instances), (3, instances // 10), (4, instances // 10)):
        layers = tuple(jnp.asarray(rng.standard_normal((count, 3, 3)) / 3) for _ in range(depth))
        run = jax.jit(jax.vmap(lambda p: made.loss(flow.descent(p, made, 0.02, num_steps))))
        losses = np.asarray(run(layers))
        reached = [descent.reached_rank(float(v), list(optima)) for v in losses]
        details[f"N={depth}: runs at rank 0, 1, 2, 3, none"] = [reached.count(k) for k in (0, 1, 2, 3, -1)]
        violations += sum(r != 3 for r in reached) if depth == 2 else reached.count(-1)
        worst = max(worst, float(losses.max()) if depth == 2 else 0.0)
    details["N=2: largest final loss"] = worst
    count = instances + 2 * (instances // 10)
    return Finding(
        "gradient descent's limits (source B)", count, count, violations, float(violations > 0), details
    )


def flow_limit(instances: int = 200, seed: int = 0) -> Finding:
    """Source C: the layers' flow and the product's agree; descent's gap falls like its step.

    Ratio: the difference of the two integrations over 4e-8 of the target's norm; slope within 0.05 of 1.
    """
    shapes = [(3, 3, 2), (2, 3, 3, 3)]
    times = jnp.linspace(0.0, 2.0, 5)
    gaps, slopes = [], []
    for place, (dims, count) in enumerate(draw.groups(instances, shapes)):
        keys = jax.random.split(jax.random.key(seed + place), count)
        params = jax.vmap(lambda k, d=dims: initial.balanced(k, d, 0.7))(keys)
        targets = jax.vmap(lambda k, d=dims: jax.random.normal(jax.random.fold_in(k, 9), (d[-1], d[0])))(keys)

        def compare(layers, target):
            made = problem.whitened(target)
            flowed = jax.vmap(network.end_to_end)(flow.integrate_layers(layers, made, times, tolerance=1e-10))
            alone = flow.integrate_product(flowed[0], made, times, len(layers), tolerance=1e-10)
            stepped = [network.end_to_end(flow.descent(layers, made, 2.0 / n, n)) for n in (400, 1600)]
            errors = jnp.stack([jnp.linalg.norm(w - flowed[-1]) for w in stepped])
            return jnp.max(jnp.abs(alone - flowed)) / jnp.linalg.norm(target), errors

        gap, errors = jax.jit(lambda a: jax.lax.map(lambda b: compare(*b), a))((params, targets))
        gaps += list(np.asarray(gap))
        slopes += list(np.log(np.asarray(errors[:, 0] / errors[:, 1])) / np.log(4))
    violations = int(np.sum(np.array(gaps) > 4e-8) + np.sum(np.abs(np.array(slopes) - 1) > 0.05))
    details = {"slope of descent's gap in the step, least and largest": [min(slopes), max(slopes)]}
    name = "balanced flow is a flow of the product (source C)"
    return Finding(name, instances, 2 * instances, violations, float(max(gaps) / 4e-8), details)


def modes_hold(instances: int = 200, seed: int = 0, depths: Sequence[int] = (2, 3, 5)) -> Finding:
    """Source E: descent with a small step follows the exact modes. Ratio: error over ``10 * step * s``."""
    rng = np.random.default_rng(seed)
    worst, step, violations = 0.0, 1e-3, 0
    for n, count in draw.groups(instances, depths):
        values = rng.uniform(0.5, 1.5, (count, 3))
        starts = rng.uniform(0.3, 0.7, count)

        def run(value, start, depth=n):
            made = problem.whitened(jnp.diag(value))
            ends = [
                flow.descent(initial.identity((3,) * (depth + 1), start), made, step, c) for c in (500, 2000)
            ]
            return jnp.stack([jnp.diagonal(network.end_to_end(w)) for w in ends])

        seen = np.asarray(jax.jit(jax.vmap(run))(jnp.asarray(values), jnp.asarray(starts)))
        for value, start, ends in zip(values, starts, seen, strict=True):
            for k in range(3):
                exact = modes.trajectory(np.array([500, 2000]) * step, start**n, value[k], n)
                ratio = np.max(np.abs(ends[:, k] - exact)) / (10 * step * value[k])
                worst, violations = max(worst, float(ratio)), violations + int(ratio > 1)
    name = "exact modes (source E), against descent at step 1e-3"
    return Finding(name, instances, 3 * instances, violations, worst, {})
