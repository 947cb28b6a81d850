"""Gradient descent on all layers (source B): its step rules beside the true edge, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dlnjax import problem
from dlnjax._types import Params
from dlnjax.campaigns.checks import draw
from dlnjax.campaigns.checks.finding import Finding, Row, row
from dlnjax.problem import Quadratic
from dlnjax.theory import descent, flow

RULED: list[tuple[int, ...]] = [(3, 3, 2), (3, 4, 3, 2), (2, 3, 3, 3, 3), (2, *[2] * 6, 2)]
RULES = {"derived": descent.step_bound, "published": descent.published_bound}
#: Rounding that a ratio is allowed, and that the drift's identity is.
_SLACK, _DRIFT = 1e-9, 1e-13
#: A gradient below this is none.
CRITICAL = 1e-8
#: Entries of deep starts.
DEEP = (0.3, 0.05)
_BISECTIONS = 25


def descent_rules(
    instances: int = 200, num_steps: int = 300, seed: int = 0, shapes: Sequence[tuple[int, ...]] = RULED
) -> Finding:
    """Source B's step rules, derived and published: decrease, balance and boundedness at every step.

    Ratio: the largest of the three in ``descent.Certificate``, over both rules. Beside them the true edge:
    the largest step (by bisection) at which the loss still falls at each of the run's steps, and
    ``2 / lambda_max`` of the Hessian at the start. The drift of balancedness is held against its exact
    expression at the first step, with the edge's step, where it is largest.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for dims, count in draw.groups(instances, shapes):
        cases = [_case(rng, dims) for _ in range(count)]
        starts, problems = draw.stack([c[0] for c in cases]), draw.stack([c[3] for c in cases])
        bounds = {name: [rule(p, x, y) for p, x, y, _ in cases] for name, rule in RULES.items()}
        run = jax.jit(jax.vmap(lambda p, q, b: descent.certify(p, q, b, num_steps)[1]))
        seen = {name: run(starts, problems, draw.stack(each)) for name, each in bounds.items()}
        curved = 2 / np.asarray(jax.jit(jax.vmap(_largest_curvature))(starts, problems))
        safe = np.array([b.step_size for b in bounds["derived"]])
        edges = _edges(starts, problems, safe, 100 * curved, num_steps)
        drifts = np.asarray(jax.jit(jax.vmap(_drift_error))(starts, problems, jnp.asarray(edges)))
        for i in range(count):
            rules = {
                name: (each[i], tuple(float(v[i]) for v in seen[name][:3])) for name, each in bounds.items()
            }
            rows.append(_ruled(len(rows), dims, rules, (edges[i], curved[i], drifts[i]), num_steps))
    share = {
        f"{name} step over the true edge, least, median, largest": _spread(
            [r[f"{name}_step"] / r["true_edge"] for r in rows]
        )
        for name in RULES
    }
    return Finding("rules", "loss, balance and layers stay within the step rules' bounds", rows, share)


def _ruled(instance: int, dims: tuple[int, ...], rules: dict, known: tuple, num_steps: int) -> Row:
    edge, curved, drift = (float(v) for v in known)
    values: Row = {}
    ratios = [drift / _DRIFT]
    for name, (bound, held) in rules.items():
        ratios += held
        values |= {f"{name}_step": bound.step_size} | {
            f"{name}_{what}": v for what, v in zip(("decrease", "imbalance", "layers"), held, strict=True)
        }
    values |= {"true_edge": edge, "curvature_edge": curved, "drift_error": drift}
    limits = [1.0, *[1 + _SLACK] * 6]
    bad = sum(not r <= limit for r, limit in zip(ratios, limits, strict=True))
    checks = 6 * num_steps + 1
    return row("rules", instance, dims, **values, checks=checks, violations=bad, ratio=max(ratios[1:]))


def _spread(values: Sequence[float]) -> list[float]:
    return [min(values), float(np.median(values)), max(values)]


def _case(rng: np.random.Generator, dims: tuple[int, ...]):
    x, y = rng.standard_normal((dims[0], 8)), rng.standard_normal((dims[-1], 8))
    layers = [rng.standard_normal((n, p)) / np.sqrt(p) for p, n in pairwise(dims)]
    covariance = x @ x.T
    target = y @ x.T @ np.linalg.inv(covariance)
    values, vectors = np.linalg.eigh(covariance)
    floor = np.sum((target @ x - y) ** 2) / 2
    arrays = target, target, floor, covariance, (vectors * np.sqrt(values)) @ vectors.T
    whole = problem.Quadratic(*(jnp.asarray(a) for a in arrays))
    return tuple(jnp.asarray(w) for w in layers), x, y, whole


def _edges(
    starts: Params, problems: Quadratic, low: np.ndarray, high: np.ndarray, num_steps: int
) -> np.ndarray:
    """The largest step between ``low`` and ``high`` at which the loss falls at every step, by bisection."""

    def monotone(layers, whole, eta):
        def step(carry, _):
            layers, before, fine = carry
            gradients = whole.gradients(layers, jnp.zeros((), jnp.int32))
            moved = jax.tree.map(lambda w, g: w - eta * g, layers, gradients)
            after = whole.loss(moved)
            return (moved, after, fine & (after <= before * (1 + 1e-13))), None

        return jax.lax.scan(step, (layers, whole.loss(layers), jnp.array(True)), None, length=num_steps)[0][2]

    run = jax.jit(jax.vmap(monotone))
    for _ in range(_BISECTIONS):
        middle = np.sqrt(low * high)
        fine = np.asarray(run(starts, problems, jnp.asarray(middle)))
        low, high = np.where(fine, middle, low), np.where(fine, high, middle)
    return low


def _largest_curvature(layers: Params, whole: Quadratic) -> jax.Array:
    flat, back = ravel_pytree(layers)
    return jnp.linalg.eigvalsh(jax.hessian(lambda v: whole.loss(back(v)))(flat))[-1]


def _drift_error(layers: Params, whole: Quadratic, eta: jax.Array) -> jax.Array:
    """Largest deviation of a step's change of ``D_j`` from ``eta^2 (g_{j+1}^T g_{j+1} - g_j g_j^T)``, relative."""
    gradients = whole.gradients(layers, jnp.zeros((), jnp.int32))
    moved = jax.tree.map(lambda w, g: w - eta * g, layers, gradients)
    before, after = descent.balancedness(layers), descent.balancedness(moved)
    expected = descent.drift(gradients, eta)
    gaps = [jnp.max(jnp.abs(b - a - d)) for a, b, d in zip(before, after, expected, strict=True)]
    scale = [jnp.max(jnp.abs(w)) ** 2 for w in moved]
    return jnp.max(jnp.stack(gaps)) / jnp.maximum(1.0, jnp.max(jnp.stack(scale)))


def descent_ranks(
    instances: int = 1000, deep_instances: int = 200, num_steps: int = 20000, seed: int = 0
) -> Finding:
    """Source B's dichotomy: two layers reach the global minimum, deeper ones the best of some rank.

    A violation is a two-layer run that ends off the global minimum, or a deeper one that stands still
    (gradient below 1e-8) off every rank's optimum; others are under way, from one to the next. Deep runs are
    looked at after ``num_steps`` and after ten times as many: ranks below full are saddles, left in time.
    Starts are Gaussian, 1/3 an entry (two layers) and, in equal parts, 0.3 and 0.05 (deeper ones: the smaller
    the start, the longer the saddles of lower rank hold a run).
    """
    rng = np.random.default_rng(seed)
    target = np.diag([2.0, 1.2, 0.7])
    rows: list[Row] = []
    for depth, count, scales in (
        (2, instances, [1 / 3]),
        (3, deep_instances, DEEP),
        (4, deep_instances, DEEP),
    ):
        scale = np.resize(scales, count)
        layers = tuple(
            jnp.asarray(scale[:, None, None] * rng.standard_normal((count, 3, 3))) for _ in range(depth)
        )
        early, layers = _ended("ranks", len(rows), layers, target, num_steps)
        late = _ended("ranks", len(rows), layers, target, 9 * num_steps)[0] if depth > 2 else early
        for first, last, c in zip(early, late, scale, strict=True):
            rows.append(last | {"start_scale": float(c), "early_rank": first["rank"]})
    details: dict[str, object] = {}
    for depth in (2, 3, 4):
        for name, words in (("early_rank", ""), ("rank", ", ten times as long")):
            reached = [r[name] for r in rows if r["depth"] == depth]
            counts = str([reached.count(k) for k in (0, 1, 2, 3, -1)])
            details[f"N={depth}: runs at rank 0, 1, 2, 3, under way{words}"] = counts
    return Finding(
        "ranks", "descent ends at the global minimum (N = 2) or at the best of a rank", rows, details
    )


def _ended(
    part: str, first: int, layers: Params, target: np.ndarray, num_steps: int
) -> tuple[list[Row], Params]:
    """A row for each run of a batch, and the layers it ended with."""
    made = problem.whitened(jnp.asarray(target))
    depth, full = len(layers), target.shape[0]
    optima = list(descent.rank_optima(np.eye(full), target))

    def run(start):
        end = flow.descent(start, made, 0.02, num_steps)
        gradients = made.gradients(end, jnp.zeros((), jnp.int32))
        size = jnp.sqrt(sum((jnp.sum(jnp.square(g)) for g in gradients), jnp.zeros(())))
        return end, made.loss(end), size

    end, losses, sizes = jax.jit(jax.vmap(run))(layers)
    rows = []
    for i, (loss, size) in enumerate(zip(np.asarray(losses), np.asarray(sizes), strict=True)):
        rank = descent.reached_rank(float(loss), optima)
        bad = rank != full if depth == 2 else rank == -1 and size < CRITICAL
        values = {"final_loss": loss, "final_gradient": size, "rank": rank}
        counts = {"checks": 1, "violations": int(bad), "ratio": None}
        rows.append(row(part, first + i, (full,) * (depth + 1), **values, **counts))
    return rows, end


def descent_stalls(num_steps: int = 20000, seed: int = 0) -> Finding:
    """The rank-one stall: ``X = I``, ``Y = diag(2, -1)``, ``W_j(0) = I/2``, with noise 0 and 1e-2 an entry.

    Without noise every depth ends at ``diag(2, 0)``, loss 1/2 (N = 2 too: the start is in the measure-zero
    set); with noise every depth must leave it. The loss at the end of N = 3 is reached sublinearly.
    """
    rng = np.random.default_rng(seed)
    target = np.diag([2.0, -1.0])
    rows: list[Row] = []
    for depth in (2, 3, 4):
        for noise, wanted in ((0.0, 1), (1e-2, 2)):
            layers = [np.eye(2) / 2 + noise * rng.standard_normal((1, 2, 2)) for _ in range(depth)]
            for found in _ended("stall", len(rows), tuple(map(jnp.asarray, layers)), target, num_steps)[0]:
                rows.append(found | {"noise": noise, "violations": int(found["rank"] != wanted)})
    return Finding("stall", "the symmetric start stalls at rank one, a little noise escapes", rows, {})
