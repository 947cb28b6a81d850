"""Problems: data reduced to the statistics that the loss depends on, and the protocol that training asks for.

The square loss ``L = 1/2 ||W X - Y||_F^2`` (no 1/n) depends on the data through ``C = X X^T``, ``Y X^T`` and
``||Y||_F^2`` alone, so a step costs the same for ten samples and for a million. It is evaluated as
``L_min + 1/2 ||(W - W_ls) C^{1/2}||_F^2``, which does not cancel near the minimum as the expanded trace does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlnjax import network
from dlnjax._linalg import frobenius, matmul, transpose
from dlnjax._types import Count, Params


@dataclass_transform(frozen_default=True)
def _register(cls):
    """A frozen dataclass of arrays as a pytree, so that problems can be vmapped and passed to jit."""
    return jax.tree_util.register_dataclass(dataclass(frozen=True)(cls))


class ProductLoss:
    """A loss ``h(W)`` of the end-to-end product, in the form that training asks for.

    A subclass gives ``product_loss``, and ``product_gradient`` and ``product_distance`` where it knows better;
    gradients reach the layers through ``network.vjp``, in closed form.

    Attributes:
      optimum: ``W*``, ``(d_N, d_0)``: the product that errors are measured from.
    """

    if TYPE_CHECKING:
        optimum: jax.Array

    def product_loss(self, product: jax.Array) -> jax.Array:
        """``h(W)`` of a product ``(d_N, d_0)``."""
        raise NotImplementedError

    def product_gradient(self, product: jax.Array) -> jax.Array:
        """``G = dh/dW``, ``(d_N, d_0)``."""
        return jax.grad(self.product_loss)(product)

    def product_distance(self, product: jax.Array) -> jax.Array:
        """``||W - W*||_F``."""
        return frobenius(product - self.optimum)

    def loss(self, params: Params, depth: Count | None = None) -> jax.Array:
        return self.product_loss(network.end_to_end(params, depth))

    def gradients(self, params: Params, step: Count, depth: Count | None = None) -> Params:
        """The layer gradients; the same at every step."""
        product, pullback = network.vjp(params, depth)
        return pullback(self.product_gradient(product))

    def distance(self, params: Params, depth: Count | None = None) -> jax.Array:
        return self.product_distance(network.end_to_end(params, depth))


@_register
class Quadratic(ProductLoss):
    r"""``L(W) = floor + 1/2 ||(W - target) C^{1/2}||_F^2`` on the product ``W``.

    Attributes:
      target: ``W_ls = Y X^T C^+``, ``(d_N, d_0)``: the unconstrained minimiser.
      optimum: ``W*``, ``(d_N, d_0)``: the product that errors are measured from; ``target``, or the best of rank r.
      floor: ``L_min``, the loss of ``target``.
      covariance: ``C = X X^T``, ``(d_0, d_0)``; its diagonal ``(d_0,)`` in principal coordinates; None for
        whitened data, ``C = I``.
      root: ``C^{1/2}``, in the same form.
    """

    target: jax.Array
    optimum: jax.Array
    floor: jax.Array
    covariance: jax.Array | None = None
    root: jax.Array | None = None

    def product_loss(self, product: jax.Array) -> jax.Array:
        """The loss of a product ``(d_N, d_0)``."""
        return self.floor + jnp.sum(jnp.square(self._weigh(product - self.target))) / 2

    def product_gradient(self, product: jax.Array) -> jax.Array:
        """``G = dL/dW = (W - W_ls) C = (W X - Y) X^T``, ``(d_N, d_0)``."""
        return _times(product - self.target, self.covariance)

    def product_distance(self, product: jax.Array) -> jax.Array:
        """``||(W - W*) C^{1/2}||_F``."""
        return frobenius(self._weigh(product - self.optimum))

    def _weigh(self, difference: jax.Array) -> jax.Array:
        return _times(difference, self.root)


def _times(matrix: jax.Array, factor: jax.Array | None) -> jax.Array:
    """``matrix @ factor`` for a factor given as a matrix, as its diagonal, or as None for the identity."""
    if factor is None:
        return matrix
    return matrix * factor[None] if factor.ndim == 1 else matmul(matrix, factor)


def _check_finite(name: str, x: jax.Array) -> None:
    if not isinstance(x, Tracer) and not np.all(np.isfinite(np.asarray(x))):
        raise ValueError(f"{name} holds numbers that are not finite")


def loss(problem: Quadratic, product: jax.Array) -> jax.Array:
    """The loss of the product, ``L_min + 1/2 ||(W - W_ls) C^{1/2}||_F^2``."""
    return problem.product_loss(product)


def gradient(problem: Quadratic, product: jax.Array) -> jax.Array:
    """``G = dL/dW`` at the product, ``(d_N, d_0)``."""
    return problem.product_gradient(product)


def whitened(target: jax.Array | np.ndarray) -> Quadratic:
    """``L = 1/2 ||W - T||_F^2``: data with ``X X^T = I`` and ``T = Y X^T`` of shape ``(d_N, d_0)``."""
    target = jnp.asarray(target)
    if target.ndim != 2 or not target.size:
        raise ValueError(f"target has shape {target.shape}; give the matrix T of shape (d_N, d_0), not empty")
    _check_finite("target", target)
    return Quadratic(target, target, jnp.zeros((), target.dtype))


def regression(x: jax.Array, y: jax.Array, *, rank_tolerance: float | None = None) -> Quadratic:
    """The square loss ``1/2 ||W x - y||_F^2`` of inputs ``x`` and outputs ``y``, by its statistics.

    Args:
      x: ``(d_0, n)`` inputs, one a column.
      y: ``(d_N, n)`` outputs.
      rank_tolerance: singular values of x up to this fraction of the largest count as zero. None: those of rounding, 16
        units; where others lie below 128 units the rank is uncertain, and x is refused.

    Raises:
      ValueError: shapes that do not fit, no data; numbers that are not finite or whose square is out of range; an x
        whose rank is uncertain. Traced arrays are not checked.

    Example:
      >>> import jax.numpy as jnp
      >>> made = regression(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[2.0, 4.0, 6.0]]))
      >>> round(float(made.target[0, 0]), 4), round(float(made.covariance[0, 0]), 3)
      (2.0, 14.0)
    """
    basis, values, coordinates = _spectrum(x, y, rank_tolerance)
    _check_range(values)
    inverse = jnp.where(values > 0, 1 / jnp.where(values > 0, values, 1), 0)
    projected = matmul(y, transpose(jnp.where(values[:, None] > 0, coordinates, 0)))
    target = matmul(projected * inverse[None], transpose(basis))
    root = matmul(basis * values[None], transpose(basis))
    covariance = matmul(basis * jnp.square(values)[None], transpose(basis))
    _check_finite("the minimiser Y X^T C^+", target)
    return Quadratic(target, target, _unexplained(y, projected, coordinates), covariance, root)


def whiten(x: jax.Array, y: jax.Array, *, rank_tolerance: float | None = None) -> tuple[Quadratic, jax.Array]:
    """The regression of y on x in coordinates where ``X X^T = I``, on the numerical rank of x.

    Args:
      x: ``(d_0, n)`` inputs. y: ``(d_N, n)`` outputs.
      rank_tolerance: singular values above this fraction of the largest span the new coordinates. None: those above
        1e-10 (and 128 rounding units); where others lie above rounding, 16 units, x is refused.

    Returns:
      The whitened problem, of input width rho (the numerical rank), and the map ``(rho, d_0)`` that whitens an input.
      The rank depends on the values, so x must be concrete (not traced).

    Raises:
      ValueError: as :func:`regression`.
    """
    basis, values, coordinates = _kept(*_spectrum(x, y, rank_tolerance, WHITENED))
    target = matmul(y, transpose(coordinates))
    _check_finite("the whitening map", 1 / values)
    problem = replace(whitened(target), floor=_unexplained(y, target, coordinates))
    return problem, transpose(basis / values[None])


def _kept(basis: jax.Array, values: jax.Array, coordinates: jax.Array):
    """The triplets that are not zero."""
    rank = int(jnp.sum(values > 0))
    return basis[:, :rank], values[:rank], coordinates[:rank]


def principal(
    x: jax.Array, y: jax.Array, *, rank_tolerance: float | None = None
) -> tuple[Quadratic, jax.Array]:
    """The regression of y on x in the principal axes of x, where C is diagonal.

    Rotating the inputs rotates ``W_1`` and changes nothing else: gradient methods take the same steps as on the
    raw inputs, at a cost linear in the rank instead of quadratic in ``d_0``. Directions in which x
    is zero (to the tolerance) never move and are left out.

    Args, returns and refusals as :func:`whiten`, the map being a partial isometry. ``covariance`` and ``root`` of the
    problem are diagonals, ``(rho,)``.
    """
    basis, values, coordinates = _kept(*_spectrum(x, y, rank_tolerance, WHITENED))
    _check_range(values)
    projected = matmul(y, transpose(coordinates))
    target = projected / values[None]
    _check_finite("the minimiser Y X^T C^+", target)
    floor = _unexplained(y, projected, coordinates)
    return Quadratic(target, target, floor, jnp.square(values), values), transpose(basis)


#: Singular values of x above this fraction of the largest span whitened and principal coordinates.
WHITENED = 1e-10
#: Rounding units of the largest singular value: up to the first it is rounding, up to the second the rank is uncertain.
ROUNDING, AMBIGUOUS = 16, 128


def _spectrum(
    x: jax.Array, y: jax.Array, tolerance: float | None, least: float = 0.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Singular triplets of x, values below the tolerance set to zero; without one, nothing between rounding and
    ``least``."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not x.size or not y.size:
        raise ValueError(
            f"x has shape {x.shape} and y {y.shape}; give x (d_0, n) and y (d_N, n), one sample a column, not empty"
        )
    _check_finite("x", x)
    _check_finite("y", y)
    basis, values, coordinates = jnp.linalg.svd(x, full_matrices=False)
    unit = float(jnp.finfo(x.dtype).eps)
    if not isinstance(values, Tracer):
        largest = float(values[0])
        if not largest > 0:
            raise ValueError("x is zero; give features that are not")
        unclear = values[
            (values > ROUNDING * unit * largest) & (values <= max(AMBIGUOUS * unit, least) * largest)
        ]
        if tolerance is None and unclear.size:
            raise ValueError(
                f"ill-conditioned: {unclear.size} singular values of x lie at {float(unclear[0]) / largest:.2g} "
                f"of the largest "
                "and below; centre the features (subtract their means), or say with rank_tolerance from where on "
                "they count"
            )
    cut = ROUNDING * unit if tolerance is None else tolerance
    return basis, jnp.where(values > cut * values[0], values, 0), coordinates


def _check_range(values: jax.Array) -> None:
    """Squares of the singular values that are kept must be numbers of full precision."""
    if isinstance(values, Tracer):
        return
    sizes = np.asarray(values, np.float64)
    low, high = float(sizes[sizes > 0].min(initial=np.inf)), float(sizes[0])
    kind = jnp.finfo(values.dtype)
    if not (low * low >= float(kind.tiny) and high * high <= float(kind.max)):
        raise ValueError(
            f"the features' singular values go from {low:.3g} to {high:.3g}, whose squares are out of the range of "
            f"{values.dtype}; rescale the features"
        )


def _unexplained(y: jax.Array, projected: jax.Array, coordinates: jax.Array) -> jax.Array:
    """``1/2 ||y - y V V^T||^2``, from the residual itself and not as a difference of squares."""
    return jnp.sum(jnp.square(y - matmul(projected, coordinates))) / 2


def with_optimum(problem: Quadratic, rank: int) -> Quadratic:
    """The problem with errors measured from the best product of the given rank.

    ``W* C^{1/2}`` is the truncated singular value decomposition of ``W_ls C^{1/2}`` (Eckart and Young, 1936).

    Args:
      problem: a square loss. rank: at least 1; from ``min(d_0, d_N)`` on the optimum is the minimiser itself.

    Raises:
      ValueError: no whole number of at least 1; a singular value that ties with the next, of which the best product of
        this rank is not unique and no single one is approached (unless traced).
    """
    if rank != int(rank) or rank < 1:
        raise ValueError(f"rank={rank}; give a whole number of at least 1")
    weighed = problem._weigh(problem.target)
    left, values, right = jnp.linalg.svd(weighed, full_matrices=False)
    if rank < values.size and not isinstance(values, Tracer):
        gap, unit = float(values[rank - 1] - values[rank]), float(jnp.finfo(values.dtype).eps)
        if gap <= ROUNDING * unit * float(values[0]) < float(values[rank - 1]):
            raise ValueError(
                f"singular values {rank} and {rank + 1} of the target are both {float(values[rank]):.6g}: the "
                f"best product of "
                f"rank {rank} is not unique, so there is no error to it; take another width"
            )
    best = matmul(left[:, :rank] * values[None, :rank], right[:rank])
    if problem.root is not None:
        root = problem.root
        best = best / root[None] if root.ndim == 1 else matmul(best, jnp.linalg.pinv(root, hermitian=True))
    return replace(problem, optimum=best)


#: Activation and batch size.
_Static = tuple[network.Activation | None, int | None]


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Samples:
    """``L = 1/2 ||f(x) - y||_F^2`` of a network with activations, or on random mini-batches.

    Gradients come from automatic differentiation. On mini-batches of size b, drawn with replacement
    anew at each step from the key, they are the batch's times n/b: unbiased for the full loss.

    Attributes:
      x: ``(d_0, n)``; y: ``(d_N, n)``.
      key: a PRNG key, used only with ``batch_size``.
      activation: elementwise; None is linear.
      batch_size: None takes all samples at every step.
    """

    x: jax.Array
    y: jax.Array
    key: jax.Array | None = None
    activation: network.Activation | None = None
    batch_size: int | None = None

    def tree_flatten(self) -> tuple[tuple[jax.Array | None, ...], _Static]:
        """Arrays, and what is fixed in a compiled program."""
        return (self.x, self.y, self.key), (self.activation, self.batch_size)

    @classmethod
    def tree_unflatten(
        cls, static: _Static, children: tuple[jax.Array, jax.Array, jax.Array | None]
    ) -> Samples:
        """The inverse of :meth:`tree_flatten`."""
        return cls(*children, *static)

    def loss(self, params: Params) -> jax.Array:
        return self._loss(params, self.x, self.y)

    def gradients(self, params: Params, step: Count) -> Params:
        size = self.batch_size
        if size is None:
            return jax.grad(self._loss)(params, self.x, self.y)
        if self.key is None:
            raise ValueError(
                f"batch_size={size} without a key; give a PRNG key, mini-batches are drawn from it"
            )
        count = self.x.shape[1]
        chosen = jax.random.randint(jax.random.fold_in(self.key, step), (size,), 0, count)
        gradients = jax.grad(self._loss)(params, self.x[:, chosen], self.y[:, chosen])
        return jax.tree.map(lambda g: g * (count / size), gradients)

    def _loss(self, params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(network.forward(params, x, self.activation) - y)) / 2


def _check_samples(x: jax.Array, y: jax.Array) -> None:
    if jnp.ndim(x) != 2 or jnp.ndim(y) != 2 or x.shape[1] != y.shape[1] or not x.size or not y.size:
        raise ValueError(
            f"x has shape {jnp.shape(x)} and y {jnp.shape(y)}; give x (d_0, n) and y (d_N, n), one sample a "
            f"column, not empty"
        )


def nonlinear(x: jax.Array, y: jax.Array, activation: network.Activation | None) -> Samples:
    """The square loss of a network with this activation on every layer but the last; x ``(d_0, n)``.

    Raises:
      ValueError: shapes that do not fit, no samples.
    """
    _check_samples(x, y)
    return Samples(x, y, activation=activation)


def minibatch(
    x: jax.Array, y: jax.Array, batch_size: int, key: jax.Array, activation: network.Activation | None = None
) -> Samples:
    """The square loss with gradients from ``batch_size`` samples drawn anew at each step, with replacement.

    Raises:
      ValueError: shapes that do not fit, no samples, a batch size that is no whole number of at least 1.
    """
    _check_samples(x, y)
    if not batch_size >= 1 or batch_size != int(batch_size):
        raise ValueError(f"batch_size={batch_size}; give a whole number of at least 1")
    return Samples(x, y, key, activation, batch_size)
