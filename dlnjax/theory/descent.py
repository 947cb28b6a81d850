r"""Gradient descent on all layers with no constraint (Nguegnang, Rauhut and Terstiege, 2024), and what is certain.

Balancedness ``D_j = W_{j+1}^T W_{j+1} - W_j W_j^T`` is conserved by the flow and drifts at second order in
the step. The step rules bound that drift, and with it everything else: the loss falls by at least
``s eta ||grad||^2`` a step, the imbalance stays below delta, the layers stay bounded, at every step. One rule is
[derived] for this project; the other is the published one [paper, constants from memory, not checked].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

from dlnjax import network
from dlnjax._linalg import matmul, transpose
from dlnjax._types import Layers, Number, Params
from dlnjax.problem import Quadratic
from dlnjax.theory import _host, hessian

Array = jax.Array


def balancedness(params: Layers) -> tuple[Array, ...]:
    """``D_j = W_{j+1}^T W_{j+1} - W_j W_j^T`` for j = 1..N-1, ``(d_j, d_j)`` each; runs are taken apart.

    >>> import numpy as np, dlnjax.theory.descent as d; d.balancedness((2 * np.eye(1), 3 * np.eye(1)))[0].item()
    5.0
    """
    layers = network.unstack(params)
    return tuple(
        matmul(transpose(after), after) - matmul(before, transpose(before))
        for before, after in pairwise(layers)
    )


def drift(gradients: Layers, step_size: Number) -> tuple[Array, ...]:
    """What a step adds to each ``D_j``, exactly: ``eta^2 (g_{j+1}^T g_{j+1} - g_j g_j^T)`` [derived].

    Args:
      gradients: the layer gradients at the step's start. step_size: ``eta >= 0``.

    Raises:
      ValueError: a negative or infinite step (unless traced).

    >>> import numpy as np, dlnjax.theory.descent as d; round(d.drift((np.eye(1), 3 * np.eye(1)), 0.1)[0].item(), 6)
    0.08
    """
    _check_step(step_size)
    return tuple(step_size**2 * d for d in balancedness(gradients))


def _check_step(step_size: Number) -> None:
    if not isinstance(step_size, Tracer) and not np.all(
        np.isfinite(step_size) & (np.asarray(step_size) >= 0)
    ):
        raise ValueError(f"step_size={step_size}; give a finite number >= 0")


def imbalance(params: Layers) -> Array:
    """``max_j ||D_j||_2``; 0 for a single layer, which has nothing to balance.

    >>> import numpy as np, dlnjax.theory.descent as d; float(d.imbalance((2 * np.eye(1), 3 * np.eye(1))))
    5.0
    """
    if network.num_layers(params) < 2:
        return jnp.zeros((), params[0].dtype)
    return jnp.max(jnp.stack([jnp.linalg.norm(d, 2) for d in balancedness(params)]))


class Bound(NamedTuple):
    """A certified constant step.

    Attributes:
      step_size: the largest ``eta`` the rule allows.
      delta: the bound on the imbalance at every step.
      layer_bound: ``K >= ||W_j||_2^2`` at every step.
      decrease: s, in ``L+ <= L - s eta ||grad||_F^2``.
    """

    step_size: float
    delta: float
    layer_bound: float
    decrease: float


def step_bound(
    params: Layers, x: ArrayLike, y: ArrayLike, *, decrease: float = 0.5, share: float = 0.5
) -> Bound:
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
      ValueError: x without full row rank, s or a outside (0, 1), data that do not fit the layers or are not finite, a
        bound out of the range of numbers.

    >>> import numpy as np, dlnjax.theory.descent as d
    >>> round(d.step_bound((np.eye(2),), np.eye(2), 2 * np.eye(2)).step_size, 6)  # N = 1: 2 (1 - s) / ||X||^2
    1.0
    """
    known = _known(params, x, y, decrease, share)

    def rates(delta: float) -> tuple[float, float, float]:
        n, k = known.depth, known.product ** (2 / known.depth) + 1.5 * (known.depth - 1) * delta
        smooth = (2 * n - 1) * k ** (n - 1) * known.x**2 + (n - 1) * k ** (n / 2 - 1) * known.xy
        return 2 * (1 - decrease) / smooth, (1 - share) * delta * decrease / known.loss, k

    return _largest(rates, known.imbalance / share, decrease)


def published_bound(
    params: Layers, x: ArrayLike, y: ArrayLike, *, decrease: float = 0.5, share: float = 0.5
) -> Bound:
    r"""The step rule of Nguegnang, Rauhut and Terstiege, 2024 [paper, constants from memory, not checked];
    arguments as :func:`step_bound`.

    ``K = M^{2/N} + (N+1)^2 delta``, ``B = 2 e N K^{N-1} ||X||^2 + sqrt(e) N K^{N/2-1} ||X Y^T||``,
    ``eta <= min{2(1-s)/B, (1-a) delta s / (4 L(0))}``.

    >>> import numpy as np, dlnjax.theory.descent as d
    >>> network, x, y = (np.eye(2), np.eye(2)), np.eye(2), 2 * np.eye(2)
    >>> d.published_bound(network, x, y).step_size < d.step_bound(network, x, y).step_size
    True
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


def _known(params: Layers, x: ArrayLike, y: ArrayLike, decrease: float, share: float) -> _Known:
    if not (0 < decrease < 1 and 0 < share < 1):
        raise ValueError(f"decrease={decrease}, share={share}; both must lie strictly between 0 and 1")
    layers = _host.chain(params).layers
    x, y = _data(x, y)
    if (layers[-1].shape[0], layers[0].shape[1]) != (len(y), len(x)):
        raise ValueError(
            f"layers from {layers[0].shape[1]} inputs to {layers[-1].shape[0]} outputs, x {x.shape}, y "
            f"{y.shape}; give x "
            "(d_0, n) and y (d_N, n)"
        )
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


def _data(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = _host.array(x), _host.array(y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or 0 in (*x.shape, *y.shape):
        raise ValueError(
            f"x has shape {x.shape} and y {y.shape}; give x (d_0, n) and y (d_N, n), none of them empty"
        )
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        raise ValueError("x or y holds numbers that are not finite")
    return x, y


def _largest(rates, least: float, decrease: float) -> Bound:
    """The delta >= least that maximises the smaller of a falling and a rising bound: where they cross."""
    low = max(least, 1e-12)
    high = max(2 * low, 1.0)
    while rates(high)[0] > rates(high)[1] and high < 1e300:
        high *= 2
    for _ in range(200):  # geometric: more halvings than a logarithm of the range has digits
        middle = np.sqrt(low * high)
        low, high = (middle, high) if rates(middle)[0] > rates(middle)[1] else (low, middle)
    delta = max(high, least)
    first, second, layer_bound = rates(delta)
    if not (np.isfinite(layer_bound) and 0 < min(first, second) < np.inf):
        raise ValueError(
            f"the rule's step {min(first, second)} or its bound {layer_bound} is out of range; rescale the data "
            f"or the target"
        )
    return Bound(float(min(first, second)), float(delta), float(layer_bound), decrease)


class Certificate(NamedTuple):
    """A run compared with its bound: three ratios that the theory keeps at or below 1.

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
    params: Layers, problem: Quadratic, bound: Bound, num_steps: int, step_size: Number | None = None
) -> tuple[Params, Certificate]:
    """Gradient descent on all layers at the bound's step (or another), checked at every step.

    Pure; jit and vmap it over instances (``bound`` may hold arrays).

    Returns:
      ``(params, Certificate)``.

    Raises:
      ValueError: a negative step, no step to take. Traced values are not checked.

    >>> import jax.numpy as jnp, dlnjax; from dlnjax.theory import descent as d
    >>> network, target = (jnp.eye(2), jnp.eye(2)), dlnjax.problem.whitened(2 * jnp.eye(2))
    >>> _, ratios = d.certify(network, target, d.step_bound(network, jnp.eye(2), target.target), 5)
    >>> bool(ratios.decrease <= 1)
    True
    """
    eta = bound.step_size if step_size is None else step_size
    _check_step(eta)
    if num_steps != int(num_steps) or num_steps < 1:
        raise ValueError(f"num_steps={num_steps}; give a whole number of at least 1")

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

    begun: Params = tuple(map(jnp.asarray, params))
    end, (ratios, gaps, norms, losses) = jax.lax.scan(step, begun, None, length=num_steps)
    loss = jnp.concatenate([problem.loss(begun)[None], losses])
    return end, Certificate(jnp.max(ratios), jnp.max(gaps), jnp.max(norms), loss)


class Critical(NamedTuple):
    """What kind of point a network is.

    Attributes:
      kind: ``"none"`` (not critical), ``"saddle"`` (negative curvature), ``"minimum"`` (none below rounding).
      gradient_norm: over all layers, relative to what cancels in it (``Rate.gradient``): free of scale.
      curvature: the smallest eigenvalue of the Hessian over the layers; None where not critical.
      rank: of the product.
    """

    kind: str
    gradient_norm: float
    curvature: float | None
    rank: int


def critical_point(params: Layers, problem: Quadratic, tolerance: float = 1e-6) -> Critical:
    """Whether a point is critical for unconstrained descent, and a saddle or a minimum.

    The Hessian is formed: for networks of at most a few thousand entries. A saddle that is not strict (zero
    smallest eigenvalue, as at the origin for ``N >= 3``) counts as a minimum here: second order cannot tell.

    Args:
      params: layers, none constrained. problem: a square loss.
      tolerance: the relative gradient up to which a point is critical; curvature below minus ten times it, relative to
        the largest, is negative.

    Raises:
      ValueError: a problem that is not quadratic.

    >>> import jax.numpy as jnp, dlnjax; from dlnjax.theory import descent as d
    >>> d.critical_point((jnp.zeros((1, 1)),) * 2, dlnjax.problem.whitened(jnp.eye(1))).kind
    'saddle'
    """
    net = _host.chain(params, constrained=[False] * len(params))
    norm = _host.relative_gradient(net, _host.data(problem))
    rank = numerical_rank(net.product)
    if not norm <= tolerance:
        return Critical("none", norm, None, rank)
    values = np.linalg.eigvalsh(hessian.matrix(params, problem, constrained=[False] * len(params)))
    lowest = float(values[0])
    kind = "saddle" if lowest < -10 * tolerance * np.max(np.abs(values)) else "minimum"
    return Critical(kind, norm, lowest, rank)


def numerical_rank(product: ArrayLike, relative: float = 1e-3) -> int:
    """Singular values above this fraction of the largest (0 for the zero matrix).

    Raises:
      ValueError: not a matrix, not finite, or a fraction outside [0, 1).

    >>> import dlnjax.theory.descent as d; d.numerical_rank([[2, 0], [0, 1e-6]])
    1
    """
    product = _host.array(product)
    if product.ndim != 2 or not product.size or not np.all(np.isfinite(product)) or not 0 <= relative < 1:
        raise ValueError(
            f"product of shape {product.shape}, relative={relative}; give a finite matrix and a fraction"
        )
    values = np.linalg.svd(product, compute_uv=False)
    return int(np.sum(values > relative * values[0]))


def rank_optimum(x: ArrayLike, y: ArrayLike, rank: int) -> float:
    """The smallest loss of a product of at most this rank, ``1/2 (||Y||^2 - sum_{i<=k} s_i^2)`` (Eckart and
    Young, 1936).

    s are the singular values of ``Y X^T (X X^T)^{-1/2}``, that is of Y on the row space of X.

    Args:
      x: ``(d_0, n)``. y: ``(d_N, n)``. rank: 0 to ``min(d_0, d_N)``.

    Raises:
      ValueError: a rank that no product has; data that are none.

    >>> import dlnjax.theory.descent as d; d.rank_optimum([[1, 0], [0, 1]], [[2, 0], [0, -1]], 1)
    0.5
    """
    optima = rank_optima(x, y)
    if rank != int(rank) or not 0 <= rank < len(optima):
        raise ValueError(
            f"rank={rank}; give a whole number from 0 to {len(optima) - 1}, the least width of the data"
        )
    return float(optima[int(rank)])


def rank_optima(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """The loss of the best product of rank 0, 1, ..., min(d_0, d_N).

    Directions of x below ``max(d_0, n)`` rounding units of its largest singular value count as absent.

    Raises:
      ValueError: data that are empty, of different lengths or not finite.

    >>> import dlnjax.theory.descent as d; d.rank_optima([[1, 0], [0, 1]], [[2, 0], [0, -1]]).tolist()
    [2.5, 0.5, 0.0]
    """
    x, y = _data(x, y)
    scale = float(np.max(np.abs(y))) or 1.0
    y = y / scale
    _, values, rows = np.linalg.svd(x, full_matrices=False)
    kept = rows[values > max(x.shape) * np.finfo(float).eps * values[0]]
    inside = y @ kept.T
    found = np.linalg.svd(inside, compute_uv=False)
    count = min(x.shape[0], y.shape[0])
    found = np.concatenate([found, np.zeros(max(count - found.size, 0))])[:count]
    outside = np.sum((y - inside @ kept) ** 2)
    with np.errstate(over="ignore", under="ignore"):
        optima = (outside + np.concatenate([np.cumsum(found[::-1] ** 2)[::-1], [0.0]])) / 2 * scale * scale
    if not np.all(np.isfinite(optima)) or (optima[0] == 0 and np.any(y)):
        raise ValueError(f"y is of size {scale:.3g}, whose square is out of range; rescale the outputs")
    return optima


def reached_rank(loss: float, optima: Sequence[float], tolerance: float = 1e-3) -> int:
    """Which rank's optimum a loss is at; -1 where it is at none (to ``tolerance`` of the loss at zero).

    Raises:
      ValueError: no optima, or numbers that are not finite.

    >>> import dlnjax.theory.descent as d; d.reached_rank(0.5001, [2.5, 0.5, 0.0])
    1
    """
    known = np.asarray(optima, np.float64)
    if known.ndim != 1 or not known.size or not np.all(np.isfinite(known)) or not np.isfinite(loss):
        raise ValueError(f"loss={loss}, optima={optima}; give finite numbers, one optimum a rank at least")
    gaps = np.abs(known - loss)
    place = int(np.argmin(gaps))
    return place if gaps[place] <= tolerance * known[0] else -1
