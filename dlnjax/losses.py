r"""Losses of the product beyond the square loss that keep its restricted correlated gradient.

Each is smooth and convex in the product ``W`` with curvature in ``[low, high]``, and so has the RCG constants
``alpha = low high / (low + high)``, ``beta = 1 / (low + high)`` [derived] that the guarantee needs
(``theory.guarantee.constants`` asks ``curvature()``, bounds of the Hessian of the loss in ``W``). A new loss is a
:class:`dlnjax.problem.ProductLoss` that gives ``product_loss`` and ``curvature``.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

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
        return float(jnp.min(self.weights)), float(jnp.max(self.weights))


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
        flat = np.asarray(self.measurements, np.float64).reshape(self.measurements.shape[0], -1)
        values = np.linalg.svd(flat, compute_uv=False) ** 2
        return (float(values[-1]) if flat.shape[0] >= flat.shape[1] else 0.0), float(values[0])

    def restricted(self, rank: int, *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Extreme ``sum_k <A_k, Z>^2 / ||Z||^2`` over random Z of this rank: an estimate from inside.

        The true bounds over all differences of that rank are wider, so a guarantee built on it is a
        conjecture; take rank 2r for differences of rank-r products.
        """
        rng = np.random.default_rng(seed)
        flat = np.asarray(self.measurements, np.float64).reshape(self.measurements.shape[0], -1)
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
        return ridge, ridge + float(jnp.linalg.norm(self.x, 2)) ** 2 / 4


def ridge_logistic(x: jax.Array, y: jax.Array, ridge: float, *, num_steps: int = 50) -> RidgeLogistic:
    """The problem with its minimiser, by Newton's method on each output.

    Args:
      x: ``(d_0, n)``; y: ``(d_N, n)`` in [0, 1].
      ridge: positive.

    Raises:
      ValueError: a ridge that is not positive.
    """
    if not ridge > 0:
        raise ValueError(f"ridge={ridge}; give a positive number, it is what makes the loss strongly convex")
    identity = jnp.eye(x.shape[0], dtype=x.dtype)

    def newton(w: jax.Array, target: jax.Array) -> jax.Array:
        chance = jax.nn.sigmoid(matmul(w[None], x)[0])
        slope = matmul(x, (chance - target)[:, None])[:, 0] + ridge * w
        curved = matmul(x * (chance * (1 - chance))[None], transpose(x)) + ridge * identity
        step = jnp.linalg.solve(curved, slope)
        return w - step / jnp.maximum(1.0, jnp.linalg.norm(step) / 2)

    def minimise(target: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, num_steps, lambda _, w: newton(w, target), jnp.zeros(x.shape[0], x.dtype))

    optimum = jax.lax.map(minimise, y)
    return RidgeLogistic(x, y, jnp.asarray(ridge, x.dtype), optimum)
