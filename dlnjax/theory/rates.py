r"""Rates of linear convergence, from the spectrum of the linearised step at a solution.

At a solution with zero residual one step of Riemannian gradient descent maps the product error to
:math:`(I - K)\Delta` with

.. math:: K\Delta = \sum_i \mu_i A_i P_i(A_i^T \Delta B_i^T) B_i

(``P_1`` the identity; for data in the coordinates ``delta = Delta C^{1/2}``). With a residual the
Riemannian Hessian in the layers takes its place, weighted by the steps. The error's factor per step is
``max |1 - lambda|`` over the nonzero spectrum. A prediction is meaningful only at a solution: elsewhere
modes that are small but not zero decide, and say nothing of what follows. All of it is [derived].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dlnjax._types import Params, Problem, Rate
from dlnjax.theory import _host, spectrum
from dlnjax.theory._operator import layer_metric, product_hessian
from dlnjax.theory._reduced import reduced_extremes
from dlnjax.theory.closed import closed_form, tangent_dimension

__all__ = ["closed_form", "operator", "predict", "predict_reduced"]

#: Operators of at most this many rows are formed; larger ones are not.
DENSE = 640
#: A residual below this fraction of the data's size counts as none.
REALIZABLE = 1e-9


def predict(
    params: Params, problem: Problem, *, step_size: Any, scales: Any = None, constrained: Any = None
) -> Rate:
    """The rate at a solution, for any widths, steps and data [derived].

    Small problems form the operator; large ones with equal hidden widths go through the reduction, any
    other through Lanczos. The part of the residual that a step could still remove is left out, so a
    solution found to a few digits does.

    Args:
      params: layers at (or very near) a solution, runs allowed.
      problem: a quadratic problem.
      step_size: ``mu``.
      scales: one multiplier a leaf (a run: a scalar or ``(k,)``); None is all ones. Use those of the run.
      constrained: one bool a leaf; None is all but the first.

    Returns:
      A :class:`~dlnjax._types.Rate` in float64. ``num_zero`` counts in the space of products ``d_N d_0``
      (with a residual: in the layers' tangent spaces), and is -1 where Lanczos cannot count.

    Raises:
      ValueError: a problem that is not quadratic; a residual at a product of rank below the narrowest
        width with widths too large to form the Hessian; Lanczos not converging.
    """
    net = _host.chain(params, step_size, scales, constrained)
    data = _host.data(problem)
    normal = residual_gradient(net, data)
    dims = [net.layers[0].shape[1], *(w.shape[0] for w in net.layers)]
    size = dims[0] * dims[-1]
    total = size if normal is None else tangent_dimension_of(net, dims)
    if size > DENSE and net.reducible:
        found = reduced_extremes(net.layers[0], net.frame, net.steps, data, normal)
    elif normal is None:
        found = _realizable_extremes(net, data, size)
    else:
        found = _residual_extremes(net, data, normal, size)
    return spectrum.rate(found, step_size, total)


def predict_reduced(
    first: Any, frame: Any, num_layers: int, problem: Problem, step_size: Any, scales: Any = None
) -> Rate:
    """The same rate for equal hidden widths through the two-layer reduction, at a cost independent of depth.

    The step is linearised over ``(W_1, U)`` only, ``U = W_N ... W_2``: the layers between act through the sum
    of their steps. Exact for any data; equals :func:`predict` (tested to 1e-9).

    Args:
      first: ``W_1 (r, d_0)`` at a solution.
      frame: ``U (d_N, r)``, orthonormal, tall or wide.
      num_layers: N >= 2.
      problem: a quadratic problem.
      step_size: ``mu``.
      scales: ``(first, middle, last)`` or one multiplier a layer; None is all ones.
    """
    steps = _host.layer_steps(step_size, scales, num_layers)
    data, first, frame = _host.data(problem), _host.array(first), _host.array(frame)
    (r, d0), dn = first.shape, frame.shape[0]
    net = _host.Chain((first, frame), steps[[0, -1]], (False, True))
    normal = residual_gradient(net, data)
    found = reduced_extremes(first, frame, steps, data, normal)
    total = d0 * dn if normal is None else tangent_dimension([d0, *[r] * (num_layers - 1), dn])
    return spectrum.rate(found, step_size, total)


def residual_gradient(net: _host.Chain, data: _host.Data) -> np.ndarray | None:
    """``(I - P) G (I - Q)``, P and Q onto the product's column and row space; None where it vanishes.

    At a critical point with a product of full rank this is all of ``G``.
    """
    product = net.product
    gradient = data.gradient(product)
    left, values, right = np.linalg.svd(product, full_matrices=False)
    rank = int(np.sum(values > ZERO_RANK * values.max(initial=0.0)))
    left, right = left[:, :rank], right[:rank]
    normal = gradient - left @ (left.T @ gradient)
    normal = normal - (normal @ right.T) @ right
    size = np.linalg.norm(data.weigh(product))
    return None if np.linalg.norm(normal) <= REALIZABLE * size else normal


#: Singular values of the product below this fraction of the largest are noise.
ZERO_RANK = 1e-9


def tangent_dimension_of(net: _host.Chain, dims: list[int]) -> int:
    """Dimension of the layers' tangent spaces, free layers counted in full."""
    total = 0
    for n, p, flag in zip(dims[1:], dims[:-1], net.constrained, strict=True):
        total += n * p - flag * (min(n, p) * (min(n, p) + 1) // 2)
    return total


def operator(
    params: Params, problem: Problem, *, step_size: Any, scales: Any = None, constrained: Any = None
) -> np.ndarray:
    """``K`` as a symmetric matrix ``(d_N d_0, d_N d_0)`` on row-major vectors ``delta = Delta C^{1/2}``.

    For a solution without residual; forms the whole matrix.
    """
    net = _host.chain(params, step_size, scales, constrained)
    return _dense_operator(net, _host.data(problem))


def _dense_operator(net: _host.Chain, data: _host.Data) -> np.ndarray:
    dn, d0 = net.layers[-1].shape[0], net.layers[0].shape[1]
    root = _root(data, d0)
    basis = np.eye(dn * d0).reshape(-1, dn, d0)
    image = layer_metric(net)(basis @ root) @ root
    matrix = image.reshape(dn * d0, -1)
    return (matrix + matrix.T) / 2


def _root(data: _host.Data, d0: int) -> np.ndarray:
    if data.covariance is None:
        return np.eye(d0)
    values, vectors = np.linalg.eigh(data.covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _realizable_extremes(net: _host.Chain, data: _host.Data, size: int) -> spectrum.Extremes:
    if size <= DENSE:
        return spectrum.extremes(np.linalg.eigvalsh(_dense_operator(net, data)))
    dn, d0 = net.layers[-1].shape[0], net.layers[0].shape[1]
    root, metric = _root(data, d0), layer_metric(net)
    apply = _on_vectors(lambda x: metric(x @ root) @ root, (dn, d0))
    left, right = _basis(net.frame), _basis((net.product @ root).T)
    data_range = _basis(root)

    def project(x: np.ndarray) -> np.ndarray:
        x = x.reshape(dn, d0)
        x = (x @ data_range) @ data_range.T
        outside = x - left @ (left.T @ x)
        return (x - outside + (outside @ right) @ right.T).ravel()

    return spectrum.lanczos_extremes(apply, _start(size), project)


def _residual_extremes(net, data, normal, size: int) -> spectrum.Extremes:
    """Spectrum of ``K_0 h``: the layers' metric times the loss's Hessian on the rank-r products."""
    product = net.product
    narrow = min(min(w.shape) for w in net.layers)
    values = np.linalg.svd(product, compute_uv=False)
    if values[narrow - 1] <= ZERO_RANK * values[0]:
        raise ValueError(
            f"the product's rank is below the narrowest width {narrow} and there is a residual: "
            "the layers' solution set is singular here; use rates.predict_hessian"
        )
    metric, hessian, project = layer_metric(net), *product_hessian(product, narrow, data, normal)
    shape = product.shape
    if size <= DENSE:
        basis = np.eye(size).reshape(-1, *shape)
        inner = metric(project(basis)).reshape(size, size)
        curvature = hessian(basis).reshape(size, size)
        weights, vectors = np.linalg.eigh((inner + inner.T) / 2)
        root = (vectors * np.sqrt(np.maximum(weights, 0))) @ vectors.T
        matrix = root @ curvature @ root
        return spectrum.extremes(np.linalg.eigvalsh((matrix + matrix.T) / 2))
    return spectrum.lanczos_extremes(
        _on_vectors(lambda x: hessian(project(metric(x))), shape),
        _start(size),
        _on_vectors(project, shape),
        _on_vectors(lambda x: project(metric(x)), shape),
    )


def _basis(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the column space."""
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, values > ZERO_RANK * values.max(initial=0.0)]


def _on_vectors(function, shape):
    return lambda x: function(x.reshape(shape)).ravel()


def _start(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size)
