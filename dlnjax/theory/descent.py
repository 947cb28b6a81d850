r"""Source B: gradient descent on all layers with no constraint, and what is certain about it.

Balancedness ``D_j = W_{j+1}^T W_{j+1} - W_j W_j^T`` is conserved by the flow and drifts at second order in
the step. The step rules bound that drift, and with it everything else: the loss falls by at least
``s eta ||grad||^2`` a step, the imbalance stays below delta, the layers stay bounded. One rule is
[derived] for this project; the other is the published one [paper, constants from memory, not checked].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import network
from dlnjax._linalg import matmul, transpose
from dlnjax._types import Params
from dlnjax.problem import Quadratic
from dlnjax.theory import _host, hessian

Array = jax.Array


def balancedness(params: Params) -> tuple[Array, ...]:
    """``D_j = W_{j+1}^T W_{j+1} - W_j W_j^T`` for j = 1..N-1, ``(d_j, d_j)`` each; runs are taken apart."""
    layers = network.unstack(params)
    return tuple(
        matmul(transpose(after), after) - matmul(before, transpose(before))
        for before, after in pairwise(layers)
    )


def drift(gradients: Params, step_size: Any) -> tuple[Array, ...]:
    """What a step adds to each ``D_j``, exactly: ``eta^2 (g_{j+1}^T g_{j+1} - g_j g_j^T)`` [derived].

    Args:
      gradients: the layer gradients at the step's start.
      step_size: ``eta``.
    """
    return tuple(step_size**2 * d for d in balancedness(gradients))


def imbalance(params: Params) -> Array:
    """``max_j ||D_j||_2``."""
    return jnp.max(jnp.stack([jnp.linalg.norm(d, 2) for d in balancedness(params)]))


class Bound(NamedTuple):
    """A certified constant step.

    Attributes:
      step_size: the largest ``eta`` the rule allows.
      delta: the bound on the imbalance for ever.
      layer_bound: ``K >= ||W_j||_2^2`` for ever.
      decrease: s, in ``L+ <= L - s eta ||grad||_F^2``.
    """

    step_size: float
    delta: float
    layer_bound: float
    decrease: float


def step_bound(params: Params, x: Any, y: Any, *, decrease: float = 0.5, share: float = 0.5) -> Bound:
    r"""The derived step rule, with the delta that allows the largest step [derived].

    With ``M = (sqrt(2 L(0)) + ||Y||)/sigma_min(X)``, ``K = M^{2/N} + 1.5 (N-1) delta`` and
    ``B' = (2N-1) K^{N-1} ||X||^2 + (N-1) K^{N/2-1} ||X Y^T||``: ``eta <= min{2(1-s)/B', (1-a) delta s/L(0)}``
    where the initial imbalance is at most ``a delta``.

    Args:
      params: the start, none of its layers constrained.
      x: ``(d_0, n)`` of full row rank; y: ``(d_N, n)``.
      decrease: s in (0, 1).
      share: a in (0, 1).

    Raises:
      ValueError: x without full row rank, or s, a outside (0, 1).
    """
    known = _known(params, x, y, decrease, share)

    def rates(delta: float) -> tuple[float, float, float]:
        n, k = known.depth, known.product ** (2 / known.depth) + 1.5 * (known.depth - 1) * delta
        smooth = (2 * n - 1) * k ** (n - 1) * known.x**2 + (n - 1) * k ** (n / 2 - 1) * known.xy
        return 2 * (1 - decrease) / smooth, (1 - share) * delta * decrease / known.loss, k

    return _largest(rates, known.imbalance / share, decrease)


def published_bound(params: Params, x: Any, y: Any, *, decrease: float = 0.5, share: float = 0.5) -> Bound:
    r"""Source B's step rule [paper, constants from memory, not checked]; arguments as :func:`step_bound`.

    ``K = M^{2/N} + (N+1)^2 delta``, ``B = 2 e N K^{N-1} ||X||^2 + sqrt(e) N K^{N/2-1} ||X Y^T||``,
    ``eta <= min{2(1-s)/B, (1-a) delta s / (4 L(0))}``.
    """
    known = _known(params, x, y, decrease, share)

    def rates(delta: float) -> tuple[float, float, float]:
        n, k = known.depth, known.product ** (2 / known.depth) + (known.depth + 1) ** 2 * delta
        smooth = 2 * np.e * n * k ** (n - 1) * known.x**2 + np.sqrt(np.e) * n * k ** (n / 2 - 1) * known.xy
        return 2 * (1 - decrease) / smooth, (1 - share) * delta * decrease / (4 * known.loss), k

    return _largest(rates, known.imbalance / share, decrease)


class _Known(NamedTuple):
    depth: int
    imbalance: float
    loss: float
    product: float  # M, which bounds ||W|| along the run
    x: float
    xy: float


def _known(params: Params, x: Any, y: Any, decrease: float, share: float) -> _Known:
    if not (0 < decrease < 1 and 0 < share < 1):
        raise ValueError(f"decrease={decrease}, share={share}; both must lie strictly between 0 and 1")
    layers = _host.chain(params).layers
    x, y = _host.array(x), _host.array(y)
    values = np.linalg.svd(x, compute_uv=False)
    if x.shape[1] < x.shape[0] or values[-1] <= 1e-12 * values[0]:
        raise ValueError(
            "x has not full row rank: the product is not bounded by the loss; whiten the data first"
        )
    residual = _host.compose(layers, layers[0].shape[1]) @ x - y
    loss = max(float(np.sum(residual**2)) / 2, np.finfo(float).tiny)
    gaps = [b.T @ b - a @ a.T for a, b in pairwise(layers)]
    product = (np.sqrt(2 * loss) + np.linalg.norm(y, 2)) / values[-1]
    worst = max((np.linalg.norm(d, 2) for d in gaps), default=0.0)
    return _Known(len(layers), float(worst), loss, product, values[0], float(np.linalg.norm(x @ y.T, 2)))


def _largest(rates, least: float, decrease: float) -> Bound:
    """The delta >= least that maximises the smaller of a falling and a rising bound: where they cross."""
    low = max(least, 1e-12)
    high = max(2 * low, 1.0)
    while rates(high)[0] > rates(high)[1]:
        high *= 2
    for _ in range(200):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if rates(middle)[0] > rates(middle)[1] else (low, middle)
    delta = max(high, least)
    first, second, layer_bound = rates(delta)
    return Bound(float(min(first, second)), float(delta), float(layer_bound), decrease)


class Certificate(NamedTuple):
    """A run held against its bound: three ratios that the theory keeps at or below 1.

    Attributes:
      decrease: largest of ``s eta ||grad||^2 / (L - L+)`` over steps above rounding.
      imbalance: largest of ``||D_j|| / delta``.
      layers: largest of ``||W_j||^2 / K``.
      loss: ``(T + 1,)`` the losses.
    """

    decrease: Array
    imbalance: Array
    layers: Array
    loss: Array


def certify(
    params: Params, problem: Quadratic, bound: Bound, num_steps: int, step_size: Any = None
) -> tuple[Params, Certificate]:
    """Gradient descent on all layers at the bound's step (or another), checked at every step.

    Pure; jit and vmap it over instances (``bound`` may hold arrays).

    Returns:
      ``(params, Certificate)``.
    """
    eta = bound.step_size if step_size is None else step_size

    def step(carry: Params, _):
        gradients = problem.gradients(carry, jnp.zeros((), jnp.int32))
        moved = jax.tree.map(lambda w, g: w - eta * g, carry, gradients)
        square = sum((jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients)), jnp.zeros(()))
        before, after = problem.loss(carry), problem.loss(moved)
        needed = bound.decrease * eta * square
        visible = needed > 1e-12 * (before - problem.floor) + 1e-14 * before
        ratio = jnp.where(visible, needed / jnp.where(visible, before - after, 1), 0)
        ratio = jnp.where(visible & (before <= after), jnp.inf, ratio)
        norms = jnp.max(jnp.stack([jnp.linalg.norm(w, 2) for w in network.unstack(moved)]))
        return moved, (ratio, imbalance(moved) / bound.delta, norms**2 / bound.layer_bound, after)

    start = problem.loss(params)
    end, (ratios, gaps, norms, losses) = jax.lax.scan(step, params, None, length=num_steps)
    loss = jnp.concatenate([start[None], losses])
    return end, Certificate(jnp.max(ratios), jnp.max(gaps), jnp.max(norms), loss)


class Critical(NamedTuple):
    """What kind of point a network is.

    Attributes:
      kind: ``"none"`` (not critical), ``"saddle"`` (negative curvature), ``"minimum"`` (none below rounding).
      gradient_norm: over all layers, relative to ``max(1, ||W||)``.
      curvature: the smallest eigenvalue of the Hessian over the layers; None where not critical.
      rank: of the product.
    """

    kind: str
    gradient_norm: float
    curvature: float | None
    rank: int


def critical_point(params: Params, problem: Quadratic, tolerance: float = 1e-6) -> Critical:
    """Whether a point is critical for unconstrained descent, and a saddle or a minimum.

    The Hessian is formed: for networks of at most a few thousand entries. A saddle that is not strict (zero
    smallest eigenvalue, as at the origin for ``N >= 3``) counts as a minimum here: second order cannot tell.
    """
    gradients = problem.gradients(params, jnp.zeros((), jnp.int32))
    layers = _host.chain(params).layers
    product = _host.compose(layers, layers[0].shape[1])
    norm = float(np.sqrt(sum(np.sum(_host.array(g) ** 2) for g in gradients)))
    norm /= max(1.0, float(np.linalg.norm(product)))
    rank = numerical_rank(product)
    if norm > tolerance:
        return Critical("none", norm, None, rank)
    lowest = hessian.smallest_curvature(params, problem)
    kind = "saddle" if lowest < -10 * tolerance else "minimum"
    return Critical(kind, norm, lowest, rank)


def numerical_rank(product: Any, relative: float = 1e-3) -> int:
    """Singular values above this fraction of the largest (0 for the zero matrix)."""
    values = np.linalg.svd(_host.array(product), compute_uv=False)
    return int(np.sum(values > max(relative * values[0], 1e-12)))


def rank_optimum(x: Any, y: Any, rank: int) -> float:
    """The smallest loss of a product of this rank, ``1/2 (||Y||^2 - sum_{i<=k} s_i^2)``.

    s are the singular values of ``Y X^T (X X^T)^{-1/2}``, that is of Y on the row space of X.
    """
    return float(rank_optima(x, y)[rank])


def rank_optima(x: Any, y: Any) -> np.ndarray:
    """The loss of the best product of rank 0, 1, ..., min(d_0, d_N)."""
    x, y = _host.array(x), _host.array(y)
    _, values, rows = np.linalg.svd(x, full_matrices=False)
    inside = y @ rows[values > 1e-12 * values[0]].T
    found = np.linalg.svd(inside, compute_uv=False)
    count = min(x.shape[0], y.shape[0])
    found = np.concatenate([found, np.zeros(max(count - found.size, 0))])[:count]
    outside = np.sum(y**2) - np.sum(inside**2)
    return (outside + np.concatenate([np.cumsum(found[::-1] ** 2)[::-1], [0.0]])) / 2


def reached_rank(loss: float, optima: Sequence[float], tolerance: float = 1e-3) -> int:
    """Which rank's optimum a loss is at; -1 where it is at none (to ``tolerance`` of the loss at zero)."""
    gaps = np.abs(np.asarray(optima) - loss)
    place = int(np.argmin(gaps))
    return place if gaps[place] <= tolerance * optima[0] else -1
