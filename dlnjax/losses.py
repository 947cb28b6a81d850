r"""Losses of the product beyond the square loss that keep its restricted correlated gradient.

Each is smooth and convex in the product ``W`` with curvature in ``[low, high]``, and so has the RCG constants
``alpha = low high / (low + high)``, ``beta = 1 / (low + high)`` [derived] that the guarantee needs
(``theory.guarantee.constants`` asks ``curvature()``, bounds of the Hessian of the loss in ``W``). A new loss is a
:class:`dlnjax.problem.ProductLoss` that gives ``product_loss`` and ``curvature``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlnjax._linalg import matmul, transpose
from dlnjax.problem import ProductLoss


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WeightedSquare(ProductLoss):
    """``1/2 sum_ab w_ab (W - W*)_ab^2``, weights positive: curvature between the extreme weights.

    Attributes:
      optimum: ``(d_N, d_0)``; weights: the same shape, positive.
    """

    optimum: jax.Array
    weights: jax.Array

    def product_loss(self, product: jax.Array) -> jax.Array:
        return jnp.sum(self.weights * jnp.square(product - self.optimum)) / 2

    def curvature(self) -> tuple[float, float]:
        """The extreme weights.

        Raises:
          ValueError: weights that are not positive, finite and of the optimum's shape.
        """
        low, high = float(jnp.min(self.weights)), float(jnp.max(self.weights))
        if self.weights.shape != self.optimum.shape or not 0 < low <= high < float("inf"):
            raise ValueError(
                f"weights from {low} to {high} of shape {self.weights.shape} for an optimum {self.optimum.shape}; give "
                "positive numbers, one an entry"
            )
        return low, high


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MatrixSensing(ProductLoss):
    """``1/2 sum_k <A_k, W - W*>^2``: a matrix seen through linear measurements.

    With as many measurements as unknowns its curvature is bounded on all matrices, which is what
    :meth:`curvature` returns. With fewer, only differences of low rank are bounded below, by ``1 - delta`` if
    the measurements have that restricted isometry constant; :meth:`restricted` estimates it.

    Attributes:
      optimum: ``(d_N, d_0)``; measurements: ``(m, d_N, d_0)``.
    """

    optimum: jax.Array
    measurements: jax.Array

    def product_loss(self, product: jax.Array) -> jax.Array:
        difference = (product - self.optimum).reshape(-1, 1)
        flat = self.measurements.reshape(self.measurements.shape[0], -1)
        return jnp.sum(jnp.square(matmul(flat, difference))) / 2

    def curvature(self) -> tuple[float, float]:
        """Extreme squared singular values of the measurements; 0 for directions that none of them sees (to rounding).

        Raises:
          ValueError: measurements that are none, not finite or all zero.
        """
        flat = self._flat()
        values = np.linalg.svd(flat, compute_uv=False)
        if not 0 < values[0] < np.inf:
            raise ValueError("the measurements are all zero: the loss has no curvature")
        low = values[-1] if flat.shape[0] >= flat.shape[1] else 0.0
        seen = low > max(flat.shape) * np.finfo(np.float64).eps * values[0]
        return (float(low**2) if seen else 0.0), float(values[0] ** 2)

    def _flat(self) -> np.ndarray:
        shape = self.measurements.shape
        flat = np.asarray(self.measurements, np.float64)
        if (
            len(shape) != 3
            or not flat.size
            or shape[1:] != self.optimum.shape
            or not np.all(np.isfinite(flat))
        ):
            raise ValueError(
                f"measurements of shape {shape} for an optimum {self.optimum.shape}; give (m, d_N, d_0), m >= 1, finite"
            )
        return flat.reshape(shape[0], -1)

    def restricted(self, rank: int, *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Extreme ``sum_k <A_k, Z>^2 / ||Z||^2`` over random Z of this rank: an estimate from inside.

        The true bounds over all differences of that rank are wider, so a guarantee built on it is a
        conjecture; take rank 2r for differences of rank-r products.

        Args:
          rank: 1 to ``min(d_N, d_0)``. draws: at least 1. seed: of the draws.

        Raises:
          ValueError: a rank or number of draws that is none.
        """
        flat = self._flat()
        if rank != int(rank) or not 1 <= rank <= min(self.optimum.shape) or not draws >= 1:
            raise ValueError(
                f"rank={rank}, draws={draws}; give a rank from 1 to {min(self.optimum.shape)}, draws >= 1"
            )
        rng = np.random.default_rng(seed)
        rows, columns = self.measurements.shape[1:]
        left, right = rng.standard_normal((draws, rows, rank)), rng.standard_normal((draws, rank, columns))
        z = (left @ right).reshape(draws, -1)
        ratios = np.sum((z @ flat.T) ** 2, axis=1) / np.sum(z**2, axis=1)
        return float(ratios.min()), float(ratios.max())


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RidgeLogistic(ProductLoss):
    """``sum log(1 + exp(f)) - y f + ridge/2 ||W||^2`` with ``f = W x``: independent logistic outputs.

    Attributes:
      x: ``(d_0, n)``; y: ``(d_N, n)`` in [0, 1].
      ridge: positive, a scalar.
      optimum: the minimiser (see :func:`ridge_logistic`).
    """

    x: jax.Array
    y: jax.Array
    ridge: jax.Array
    optimum: jax.Array

    def product_loss(self, product: jax.Array) -> jax.Array:
        scores = matmul(product, self.x)
        return jnp.sum(jnp.logaddexp(scores, 0) - self.y * scores) + self.ridge / 2 * jnp.sum(
            jnp.square(product)
        )

    def curvature(self) -> tuple[float, float]:
        """``ridge`` and ``ridge + ||x||_2^2 / 4``: the logistic function's slope is at most 1/4."""
        ridge = float(self.ridge)
        if not 0 < ridge < float("inf"):
            raise ValueError(f"ridge={ridge}; give a positive, finite number")
        return ridge, ridge + float(jnp.linalg.norm(self.x, 2)) ** 2 / 4


def ridge_logistic(
    x: jax.Array, y: jax.Array, ridge: float, *, num_steps: int = 200, tolerance: float | None = None
) -> RidgeLogistic:
    """The problem with its minimiser, by damped Newton steps on each output.

    Steps are halved until the loss falls by a part of what its slope promises (Armijo, 1966), so that every
    step descends from any start; the
    loss is strongly convex, and the last steps are whole and double the digits.

    Args:
      x: ``(d_0, n)``; y: ``(d_N, n)`` in [0, 1].
      ridge: positive, in the units of ``x^2``.
      num_steps: Newton steps at most.
      tolerance: the gradient at the minimiser, by the size of the terms that cancel in it; None is 256 rounding units.

    Returns:
      The loss; its ``optimum`` is nan in the rows that have not converged where x, y or the ridge are traced.

    Raises:
      ValueError: a ridge that is not positive, labels outside [0, 1], shapes that do not fit, numbers that are not
        finite, a minimiser not found to the tolerance.

    Example:
      >>> import jax.numpy as jnp
      >>> made = ridge_logistic(jnp.array([[1.0, -1.0]]), jnp.array([[1.0, 0.0]]), 0.5)
      >>> round(float(made.optimum[0, 0]), 5)
      1.0426
    """
    _check_labels(x, y, ridge)
    tolerance = 256 * float(jnp.finfo(x.dtype).eps) if tolerance is None else tolerance
    optimum, error = _minimisers(
        x, y, jnp.asarray(ridge, x.dtype), num_steps, jnp.asarray(tolerance, x.dtype)
    )
    if not isinstance(error, Tracer) and not bool(jnp.all(error <= tolerance)):
        raise ValueError(
            f"{int(jnp.sum(~(error <= tolerance)))} of {len(error)} minimisers have a relative gradient of up to "
            f"{float(jnp.max(error)):.2g}, above tolerance={tolerance:g}, after at most {num_steps} Newton "
            f"steps; centre and scale x, or "
            "give a larger ridge, tolerance or num_steps"
        )
    optimum = jnp.where((error <= tolerance)[:, None], optimum, jnp.nan)
    return RidgeLogistic(x, y, jnp.asarray(ridge, x.dtype), optimum)


def _check_labels(x: jax.Array, y: jax.Array, ridge: float) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not x.size or not y.size:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}; give x (d_0, n) and y (d_N, n), not empty")
    if not isinstance(ridge, Tracer) and not 0 < ridge < float("inf"):
        raise ValueError(f"ridge={ridge}; give a positive number, it is what makes the loss strongly convex")
    if not isinstance(x, Tracer) and not np.all(np.isfinite(np.asarray(x))):
        raise ValueError("x holds numbers that are not finite")
    if not isinstance(y, Tracer) and not np.all((np.asarray(y) >= 0) & (np.asarray(y) <= 1)):
        raise ValueError("y holds labels outside [0, 1]")


@partial(jax.jit, static_argnums=3)
def _minimisers(
    x: jax.Array, y: jax.Array, ridge: jax.Array, num_steps: int, tolerance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The minimiser of every output ``(d_N, d_0)`` and its relative gradient ``(d_N,)``."""
    identity = jnp.eye(x.shape[0], dtype=x.dtype)
    unit = jnp.finfo(x.dtype).eps

    def value(w: jax.Array, target: jax.Array) -> jax.Array:
        scores = matmul(w[None], x)[0]
        return jnp.sum(jnp.logaddexp(scores, 0) - target * scores) + ridge / 2 * jnp.sum(jnp.square(w))

    def slope(w: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Gradient, its size relative to the terms that cancel and to the rounding of the scores, and the variances."""
        scores = matmul(w[None], x)[0]
        high, low = jax.nn.sigmoid(scores), jax.nn.sigmoid(-scores)
        above, below = (
            (1 - target) * high,
            target * low,
        )  # their difference is the chance less the label, at full digits
        gradient = matmul(x, (above - below)[:, None])[:, 0] + ridge * w
        spread = high * low
        terms = jnp.maximum(above, below) + spread * matmul(jnp.abs(w)[None], jnp.abs(x))[0]
        scale = jnp.max(matmul(jnp.abs(x), terms[:, None])[:, 0] + ridge * jnp.abs(w))
        size = jnp.max(jnp.abs(gradient))  # no squares, which small numbers do not survive
        return gradient, jnp.where(size == 0, 0, size / jnp.where(scale > 0, scale, 1)), spread

    def step(w: jax.Array, target: jax.Array) -> jax.Array:
        gradient, _, spread = slope(w, target)
        data = matmul(x * spread[None], transpose(x))
        # a ridge below the rounding of the data would leave the system singular; there the gradient has no part
        curved = data + (ridge + 4 * unit * jnp.trace(data)) * identity
        direction = jnp.linalg.solve(curved, gradient)
        promised, before = jnp.sum(gradient * direction), value(w, target)
        slack = 16 * unit * jnp.abs(before)  # the rounding of the loss, of which the last steps are below

        def poor(length: jax.Array) -> jax.Array:
            gained = before - value(w - length * direction, target)
            return ~(gained >= 1e-4 * length * promised - slack) & (length > 1e-12)

        length = jax.lax.while_loop(poor, lambda t: t / 2, jnp.ones((), x.dtype))
        return w - length * direction

    def minimise(target: jax.Array) -> tuple[jax.Array, jax.Array]:
        def body(state: tuple[jax.Array, jax.Array, jax.Array]):
            w, _, count = state
            w = step(w, target)
            return w, slope(w, target)[1], count + 1

        start = jnp.zeros(x.shape[0], x.dtype)
        state = start, slope(start, target)[1], jnp.zeros((), jnp.int32)
        w, error, _ = jax.lax.while_loop(lambda s: ~(s[1] <= tolerance) & (s[2] < num_steps), body, state)
        return w, error

    return jax.lax.map(minimise, y)
