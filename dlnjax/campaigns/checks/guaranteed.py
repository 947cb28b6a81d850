"""The derived guarantee at every step of many runs, beside the rate predicted and the rate measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlnjax import optim, problem
from dlnjax.campaigns.checks import draw
from dlnjax.campaigns.checks.finding import Finding, Row, history, row
from dlnjax.problem import ProductLoss
from dlnjax.theory import gauge, guarantee, rates

#: Widths and the kind of loss.
Group = tuple[tuple[int, ...], Callable[[np.ndarray, float, np.random.Generator], ProductLoss]]
GUARANTEED: list[Group] = [
    ((6, 3, 5), draw.quadratic),
    ((5, 2, 2, 4), draw.quadratic),
    ((6, 3, 3, 3, 3), draw.quadratic),
    ((5, *[2] * 7, 4), draw.quadratic),
    ((4, 2, 2, 3), draw.weighted),
    ((3, 2, 2, 3), draw.sensing),
]
#: What rounding may add to a ratio of squared distances.
_SLACK = 1e-12


def guarantee_holds(
    instances: int = 200, num_steps: int = 25, seed: int = 0, groups: Sequence[Group] = GUARANTEED
) -> Finding:
    """The derived theorem: ``dist^2`` contracts at every step from its basin at its largest step [derived].

    Equal widths, N = 2..8; coloured data, weighted square losses and matrix sensing, of condition number up
    to 10; starts from a tenth of the basin to its boundary. Ratio: ``dist^2(t+1)`` over the promised
    ``(1 - 2 alpha mu / (5 kappa^2)) dist^2(t)``.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for (dims, kind), count in draw.groups(instances, groups):
        cases = [_case(rng, dims, kind) for _ in range(count)]
        dist = _distances(cases, num_steps)
        for case, squares in zip(cases, dist, strict=True):
            rows.append(_held(len(rows), dims, kind.__name__, case, squares))
    faster = [np.log(r["measured_factor"]) / np.log(r["guaranteed_factor"]) for r in rows]
    details = {"measured over guaranteed log-rate, least and median": [min(faster), float(np.median(faster))]}
    return Finding("guarantee", "the derived guarantee holds at every step", rows, details)


def _distances(cases: list[dict], num_steps: int) -> np.ndarray:
    """``dist^2`` of every case at every step, ``(cases, num_steps + 1)``."""
    starts, solutions, problems = (
        draw.stack([c[name] for c in cases]) for name in ("start", "goal", "whole")
    )
    steps, scales = (jnp.asarray([c[name] for c in cases]) for name in ("step", "scale"))
    run = jax.jit(jax.vmap(lambda p, q, mu, s: history(p, q, _discrepant(mu, s), num_steps)))
    seen = run(starts, problems, steps, scales)
    goal = tuple(jnp.broadcast_to(s[:, None], w.shape) for s, w in zip(solutions, seen, strict=True))
    return np.asarray(gauge.distance_squared(seen, goal))


def _held(instance: int, dims: tuple[int, ...], loss: str, case: dict, squares: np.ndarray) -> Row:
    each = squares[1:] / squares[:-1]
    ratio = each / case["factor"] ** 2
    return row(
        "guarantee", instance, dims, loss=loss, kappa=case["kappa"], alpha=case["alpha"], beta=case["beta"],
        step_size=case["step"], share_of_basin=case["share"], guaranteed_factor=case["factor"],
        predicted_factor=case["predicted"], worst_factor=np.sqrt(each.max()),
        measured_factor=(squares[-1] / squares[0]) ** (0.5 / each.size),
        checks=ratio.size, violations=int(np.sum(ratio > 1 + _SLACK)), ratio=ratio.max(),
    )  # fmt: skip


def _discrepant(step_size: jax.Array, scale: jax.Array) -> optax.GradientTransformation:
    """``optim.rgd`` with step mu on the first layer and ``scale * mu`` on the others."""

    def wrap(layers):
        return optim.rgd(step_size, scales=(jnp.ones_like(scale), *[scale] * (len(layers) - 1)))

    return optax.GradientTransformation(
        lambda params: wrap(params).init(params),
        lambda updates, state, params=None: wrap(params).update(updates, state, params),
    )


def _case(rng: np.random.Generator, dims: tuple[int, ...], kind: Callable) -> dict:
    rank = dims[1]
    sigma = np.sort(rng.uniform(0.3, 1.0, rank))[::-1] * rng.choice([0.5, 1.0, 3.0])
    solution = draw.solution(rng, dims, sigma)
    whole = kind(np.linalg.multi_dot(solution[::-1]), float(rng.choice([0.1, 0.5, 1.0])), rng)
    alpha, beta = guarantee.constants(whole)
    step = 3 * beta / (4 * (len(dims) - 1)) * rng.choice([1.0, 0.3])
    layers = tuple(jnp.asarray(w) for w in solution)
    scales = (1.0, *[1 / sigma[0] ** 2] * (len(dims) - 2))
    promised = guarantee.guarantee(layers, whole, step_size=step, scales=scales)
    assert promised.applies, promised.reason
    share = rng.choice([0.1, 0.5, 1.0])
    start = draw.at_distance(rng, solution, float(promised.radius or 0) * share * (1 - 1e-9))
    return {
        "start": tuple(start), "goal": tuple(solution), "whole": whole, "step": step, "share": share,
        "scale": 1 / sigma[0] ** 2, "kappa": sigma[0] / sigma[-1], "alpha": alpha, "beta": beta,
        "factor": float(promised.factor or 0), "predicted": _predicted(layers, whole, step, scales),
    }  # fmt: skip


def _predicted(layers, whole, step: float, scales) -> float:
    """The factor from the nonzero spectrum of ``M^{1/2} H M^{1/2}``, H the loss's Hessian on products [derived]."""
    product = np.linalg.multi_dot([np.asarray(w) for w in layers[::-1]])
    metric = rates.operator(layers, problem.whitened(jnp.asarray(product)), step_size=step, scales=scales)
    away = jnp.asarray(np.eye(product.size).reshape(-1, *product.shape)) + product[None]
    curvature = np.asarray(jax.vmap(whole.product_gradient)(away)).reshape(product.size, -1)
    values, vectors = np.linalg.eigh(metric)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    found = np.linalg.eigvalsh(root @ (curvature + curvature.T) @ root / 2)
    return float(np.max(np.abs(1 - found[found > 1e-10 * found[-1]])))
