r"""Rates where no closed form reaches: automatic differentiation of any problem, in double precision.

The layers move along ``W + P(xi) - W P(xi)^T P(xi) / 2``, which stays on the manifold to second order, so
plain second derivatives along it are the Riemannian Hessian. For outputs that are fitted exactly the
Gauss-Newton part is all there is: the operator ``J diag(mu) P J^T``, J the Jacobian of the outputs. Both
form their matrix; they are for networks of at most a few thousand numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from dlnjax import network
from dlnjax._linalg import matmul, sym, transpose
from dlnjax._types import Layers, Number, Params, Problem, Rate
from dlnjax.network import Activation
from dlnjax.problem import ProductLoss
from dlnjax.theory import _host, spectrum
from dlnjax.theory._operator import layer_metric

P = TypeVar("P")


def matrix(
    params: Layers,
    problem: Problem,
    *,
    step_size: Number = 1.0,
    scales: Sequence[ArrayLike] | None = None,
    constrained: Sequence[bool] | None = None,
) -> np.ndarray:
    r"""``sqrt(mu) P H P sqrt(mu)``: the Riemannian Hessian of ``problem.loss``, weighted by the steps.

    Rows are all entries of all layers, in order; directions off a layer's manifold give zero rows.

    Args:
      params: layers, runs allowed (they are taken apart).
      problem: anything with ``loss(params)`` that is a pytree.
      step_size, scales, constrained: as in ``rates.predict``.

    >>> import numpy as np; from dlnjax import problem; from dlnjax.theory import hessian
    >>> layers, six = (2 * np.eye(1), 3 * np.eye(1)), problem.whitened(6 * np.eye(1))
    >>> hessian.matrix(layers, six, constrained=(False, False)).round(6).tolist()  # of (w2 w1 - 6)^2 / 2
    [[9.0, 6.0], [6.0, 4.0]]
    """
    net = _host.chain(params, step_size, scales, constrained)
    _host.check_orthonormal(net, 1e-4)
    return _derivatives(net, problem)[1]


def predict_hessian(
    params: Layers,
    problem: Problem,
    *,
    step_size: Number,
    scales: Sequence[ArrayLike] | None = None,
    constrained: Sequence[bool] | None = None,
    tolerance: float = 1e-5,
    zero: float | None = None,
) -> Rate:
    """The rate at a critical point of any problem, from the weighted Hessian over the layers [derived].

    ``num_zero`` counts in the layers' tangent spaces. A negative eigenvalue (a saddle) is reported as
    ``eigenvalue_min``, with ``step_max`` 0.

    Args:
      params, problem, step_size, scales, constrained: as in :func:`matrix`.
      tolerance: the largest relative gradient that passes for a critical point (``Rate.gradient``: the length of a
        gradient step at the inverse of the largest eigenvalue, by the length of the layers, both weighted by
        the steps).
      zero: eigenvalues up to this fraction of the largest count as zero. None: those of rounding, ten times the
        gradient
        (gauge directions are exactly zero at a critical point only); others below 1e-10 of the largest are refused.

    Raises:
      ValueError: layers that are not critical or not orthonormal; a spectrum of which it is not clear what is zero.

    >>> import numpy as np; from dlnjax import problem; from dlnjax.theory import hessian
    >>> layers, six = (2 * np.eye(1), 3 * np.eye(1)), problem.whitened(6 * np.eye(1))
    >>> rate = hessian.predict_hessian(layers, six, step_size=0.1, constrained=(False, False))
    >>> round(rate.factor, 6), rate.num_zero  # |1 - 0.1 (2^2 + 3^2)|
    (0.3, 1)
    """
    net = _host.chain(params, step_size, scales, constrained)
    _host.check_orthonormal(net, tolerance)
    slope, found = _derivatives(net, problem)
    values = np.linalg.eigvalsh(found)
    moving = net.steps > 0
    size = np.sqrt(sum(np.sum(w**2) / s for w, s in zip(net.layers, net.steps, strict=True) if s > 0))
    largest = float(np.max(np.abs(values)))
    gradient = float(np.linalg.norm(slope) / (largest * size)) if largest > 0 and moving.any() else 0.0
    _host.check_stationary(gradient, tolerance)
    if zero is None and gradient > 1e-14:
        zero = max(spectrum.ZERO, 10 * gradient)
    return spectrum.rate(spectrum.extremes(values, zero=zero), step_size, _tangent_size(net), gradient)


def _derivatives(net: _host.Chain, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian of the problem's loss in the weighted tangent coordinates."""
    with jax.enable_x64(True):
        function = _along(net, _double(problem).loss)
        both = jax.jit(lambda x: (jax.grad(function)(x), jax.hessian(function)(x)))
        slope, found = both(jnp.zeros(_size(net), jnp.float64))
        return np.asarray(slope), np.asarray(found)


def predict_outputs(
    params: Layers,
    outputs: Callable[..., jax.Array],
    *,
    step_size: Number,
    scales: Sequence[ArrayLike] | None = None,
    constrained: Sequence[bool] | None = None,
    target: ArrayLike | None = None,
    tolerance: float = 1e-5,
    zero: float | None = None,
) -> Rate:
    r"""The rate of ``1/2 ||outputs(params) - y||^2`` where the outputs are fitted exactly [derived].

    The nonzero spectrum of ``J diag(mu) P J^T``. Nonlinear activations lift the gauge directions to tiny
    eigenvalues: look at ``eigenvalue_min`` before reading a rate off a run.

    Args:
      params: layers, runs allowed.
      outputs: ``params -> array``, for instance ``lambda p: network.forward(p, x, jnp.tanh)``.
      step_size, scales, constrained: as in ``rates.predict``.
      target: y, of the outputs' shape. Without it that they are fitted is the caller's word (``Rate.gradient`` is nan).
      tolerance: the largest residual, relative to y, that passes for a fit (then ``Rate.gradient``).
      zero: eigenvalues up to this fraction of the largest count as zero. None: those of rounding, 1e-24; spectra with
        others below 1e-10 of the largest are refused.

    Returns:
      The rate; ``num_zero`` counts among the outputs.

    Raises:
      ValueError: outputs that are not fitted; layers that are not orthonormal; a spectrum of which it is not clear what
        is zero.

    >>> import numpy as np; from dlnjax.theory import hessian
    >>> layers, free = (2 * np.eye(1), 3 * np.eye(1)), (False, False)
    >>> rate = hessian.predict_outputs(layers, lambda w: w[1] @ w[0], step_size=0.1, constrained=free)
    >>> round(rate.factor, 6)  # |1 - 0.1 (2^2 + 3^2)|
    0.3
    """
    gradient = math.nan if target is None else _misfit(outputs(tuple(params)), target, tolerance)
    values = singular_values(params, outputs, step_size=step_size, scales=scales, constrained=constrained)
    count = int(np.prod(jax.eval_shape(outputs, tuple(params)).shape))
    return spectrum.rate(_squared(values, zero), step_size, count, gradient)


def _misfit(outputs: ArrayLike, target: ArrayLike, tolerance: float) -> float:
    """``||outputs - y||`` by the larger of both norms.

    Raises:
      ValueError: above the tolerance, or a target of another shape.
    """
    outputs, y = _host.array(outputs), _host.array(target)
    if outputs.shape != y.shape:
        raise ValueError(
            f"target has shape {y.shape}, the outputs {outputs.shape}; give one target an output"
        )
    scale = max(np.linalg.norm(y), np.linalg.norm(outputs))
    size = float(np.linalg.norm(outputs - y) / scale) if scale > 0 else 0.0
    if not size <= tolerance:
        raise ValueError(
            f"the outputs miss their target by {size:.2g} of its size, above tolerance={tolerance:g}: this rate "
            f"is for outputs "
            "that are fitted; with a residual use predict_hessian"
        )
    return size


def _squared(values: np.ndarray, zero: float | None) -> spectrum.Extremes:
    return spectrum.extremes(values**2, zero=zero, resolution=1e-24)


def singular_values(
    params: Layers,
    outputs: Callable[..., jax.Array],
    *,
    step_size: Number = 1.0,
    scales: Sequence[ArrayLike] | None = None,
    constrained: Sequence[bool] | None = None,
) -> np.ndarray:
    """Singular values of ``J P sqrt(mu)``, descending: the square roots of the operator's spectrum.

    >>> import numpy as np; from dlnjax.theory import hessian
    >>> hessian.singular_values((2 * np.eye(1), -np.eye(1)), lambda w: w[1] @ w[0]).tolist()  # W_1 moves by W_2
    [1.0]
    """
    net = _host.chain(params, step_size, scales, constrained)
    _host.check_orthonormal(net, 1e-4)
    with jax.enable_x64(True):
        function = _along(net, lambda p: outputs(p).ravel())
        jacobian = np.asarray(jax.jit(jax.jacfwd(function))(jnp.zeros(_size(net), jnp.float64)))
    return np.linalg.svd(jacobian, compute_uv=False)


def predict_network(
    params: Layers,
    x: ArrayLike,
    activation: Activation | None,
    *,
    step_size: Number,
    scales: Sequence[ArrayLike] | None = None,
    constrained: Sequence[bool] | None = None,
    target: ArrayLike | None = None,
    tolerance: float = 1e-5,
    zero: float | None = None,
) -> Rate:
    """:func:`predict_outputs` of ``network.forward(params, x, activation)``, compiled once for all params of a shape.

    Args:
      params: layers, runs allowed. x: ``(d_0, n)``. activation: elementwise; None is linear.
      step_size, scales, constrained: as in ``rates.predict``.
      target, tolerance, zero: as in :func:`predict_outputs`.

    Raises:
      ValueError: as :func:`predict_outputs`.

    >>> import numpy as np; from dlnjax.theory import hessian
    >>> layers = 2 * np.eye(2), np.eye(2)  # eigenvalues 0.1, and 0.1 (1 + 2^2) of the turn
    >>> round(hessian.predict_network(layers, np.eye(2), None, step_size=0.1).eigenvalue_max, 6)
    0.5
    """
    net = _host.chain(params, step_size, scales, constrained)
    _host.check_orthonormal(net, tolerance)
    with jax.enable_x64(True):
        inputs, layers = jnp.asarray(np.asarray(x), jnp.float64), tuple(jnp.asarray(w) for w in net.layers)
        made = network.forward(layers, inputs, activation)
        slopes = _jacobians(layers, inputs, activation)
    gradient = math.nan if target is None else _misfit(made, target, tolerance)
    parts = []
    for w, slope, step, held in zip(net.layers, slopes, net.steps, net.constrained, strict=True):
        rows = np.asarray(slope).reshape(-1, *w.shape)
        rows = _host.project_tangent(w, rows) if held else rows
        parts.append(np.sqrt(step) * rows.reshape(len(rows), w.size))
    values = np.linalg.svd(np.concatenate(parts, axis=1), compute_uv=False)
    return spectrum.rate(_squared(values, zero), step_size, len(parts[0]), gradient)


@partial(jax.jit, static_argnames="activation")
def _jacobians(layers: Layers, x: jax.Array, activation: Activation | None) -> Params:
    return jax.jacfwd(lambda w: network.forward(w, x, activation))(layers)


def predict_product(
    params: Layers,
    problem: ProductLoss,
    *,
    step_size: Number,
    scales: Sequence[ArrayLike] | None = None,
    constrained: Sequence[bool] | None = None,
    tolerance: float = 1e-5,
) -> Rate:
    r"""The rate of a loss of the product at a product where its gradient is zero: ``K^{1/2} H K^{1/2}`` [derived].

    ``K`` is the layers' metric on products, ``H`` the loss's Hessian there.

    Args:
      params: layers at a minimiser of the loss, runs allowed.
      problem: a pytree with ``product_loss(product)`` (``dlnjax.losses``).
      step_size, scales, constrained: as in ``rates.predict``.
      tolerance: the largest relative gradient of the product that passes for zero (``Rate.gradient``: the length of a
        gradient step at the inverse of the largest curvature, relative to the product).

    Raises:
      ValueError: a product that is not stationary for the loss; layers that are not orthonormal; a loss that is not
        convex there, or a spectrum that rounding hides.

    >>> import numpy as np; from dlnjax import problem; from dlnjax.theory import hessian
    >>> layers, goal = (2 * np.eye(2), np.eye(2)), problem.whitened(2 * np.eye(2))
    >>> round(hessian.predict_product(layers, goal, step_size=0.1).eigenvalue_max, 6)  # 0.1 (1 + 2^2)
    0.5
    """
    net = _host.chain(params, step_size, scales, constrained)
    _host.check_orthonormal(net, tolerance)
    product = net.product
    with jax.enable_x64(True):
        slope, curvature = _slope_and_curvature(_double(problem), jnp.asarray(product))
    slope, curvature = np.asarray(slope), np.asarray(curvature).reshape([product.size] * 2)
    bends = np.linalg.eigvalsh(curvature)
    gradient = float(np.linalg.norm(slope) / max(bends[-1] * np.linalg.norm(product), np.finfo(float).tiny))
    _host.check_stationary(gradient if np.any(slope) else 0.0, tolerance)
    if bends[0] < -spectrum.RESOLUTION * bends[-1]:
        raise ValueError("the loss is not convex in the product here; use predict_hessian")
    image = layer_metric(net)(np.eye(product.size).reshape(-1, *product.shape)).reshape(curvature.shape)
    weights, vectors = np.linalg.eigh((image + image.T) / 2)
    kept = weights > spectrum.RESOLUTION * weights[-1]
    root = vectors[:, kept] * np.sqrt(weights[kept])
    found = spectrum.extremes(np.linalg.eigvalsh(root.T @ curvature @ root))
    return spectrum.rate(found, step_size, product.size, gradient)


@jax.jit
def _slope_and_curvature(problem: ProductLoss, product: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.grad(problem.product_loss)(product), jax.hessian(problem.product_loss)(product)


def _along(net: _host.Chain, function: Callable[..., jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """``function`` of the layers as a function of the flat weighted tangent coordinates."""
    layers = [jnp.asarray(w) for w in net.layers]
    roots = np.sqrt(net.steps)

    def moved(flat: jax.Array) -> jax.Array:
        place, result = 0, []
        for w, root, held in zip(layers, roots, net.constrained, strict=True):
            xi = float(root) * flat[place : place + w.size].reshape(w.shape)
            place += w.size
            result.append(_curve(w, xi) if held else w + xi)
        return function(tuple(result))

    return moved


def _curve(point: jax.Array, vector: jax.Array) -> jax.Array:
    """A curve on the Stiefel manifold to second order, along the tangent part of ``vector``."""
    if point.shape[0] < point.shape[1]:
        return transpose(_curve(transpose(point), transpose(vector)))
    tangent = vector - matmul(point, sym(matmul(transpose(point), vector)))
    return point + tangent - matmul(point, matmul(transpose(tangent), tangent)) / 2


def _double(problem: P) -> P:
    """The problem with its floating arrays in double precision."""

    def cast(leaf: ArrayLike) -> ArrayLike:
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating):
            return jnp.asarray(np.asarray(leaf), jnp.float64)
        return leaf

    return jax.tree.map(cast, problem)


def _size(net: _host.Chain) -> int:
    return sum(w.size for w in net.layers)


def _tangent_size(net: _host.Chain) -> int:
    return sum(
        w.size - held * (min(w.shape) * (min(w.shape) + 1) // 2)
        for w, held in zip(net.layers, net.constrained, strict=True)
    )


def tangent_kernel(params: Layers) -> np.ndarray:
    r"""``Delta -> sum_i A_i A_i^T Delta B_i^T B_i``, ``(d_N d_0, d_N d_0)`` on row-major products.

    The neural tangent kernel of the product, all layers free. Square orthogonal layers give exactly
    ``N`` times the identity (Hu, Xiao and Pennington, 2020).

    >>> import numpy as np; from dlnjax.theory import hessian; hessian.tangent_kernel([np.eye(1)] * 3).tolist()
    [[3.0]]
    """
    net = _host.chain(params, constrained=[False] * len(params))
    shape = net.layers[-1].shape[0], net.layers[0].shape[1]
    size = shape[0] * shape[1]
    image = layer_metric(net)(np.eye(size).reshape(-1, *shape)).reshape(size, size)
    return (image + image.T) / 2


def kernel_condition(params: Layers) -> float:
    """Largest over smallest nonzero eigenvalue of the tangent kernel, from the singular values of the product's
    Jacobian.

    Those below 1e-12 of the largest count as zero, so that conditions up to 1e24 are seen.

    >>> import numpy as np; from dlnjax.theory import hessian
    >>> round(hessian.kernel_condition((np.diag([2.0, 1.0]), np.eye(2))), 6)  # (1 + 2^2) / (1 + 1^2)
    2.5
    """
    net = _host.chain(params, constrained=[False] * len(params))
    blocks = [np.kron(a, b.T) for a, b in zip(_host.afters(net), _host.befores(net), strict=True)]
    values = np.linalg.svd(np.concatenate(blocks, axis=1), compute_uv=False)
    kept = values[values > 1e-12 * values[0]]
    if not kept.size:
        raise ValueError("the tangent kernel is zero: no layer can change the product here")
    return float((kept[0] / kept[-1]) ** 2)


def smallest_curvature(params: Layers, problem: Problem) -> float:
    """The smallest eigenvalue of the Euclidean Hessian over the layers, none of them constrained.

    >>> import numpy as np; from dlnjax import problem; from dlnjax.theory import hessian
    >>> round(hessian.smallest_curvature((np.zeros((1, 1)),) * 2, problem.whitened(np.eye(1))), 6)
    -1.0
    """
    found = matrix(params, problem, constrained=[False] * network.num_layers(params))
    return float(np.linalg.eigvalsh(found)[0])
