r"""Rates of linear convergence, from the spectrum of the linearised step at a solution.

At a solution with zero residual one step of Riemannian gradient descent maps the product error to
:math:`(I - K)\Delta` with

.. math:: K\Delta = \sum_i \mu_i A_i P_i(A_i^T \Delta B_i^T) B_i

(``P_1`` the identity; for data in the coordinates ``delta = Delta C^{1/2}``). With a residual the Riemannian Hessian in
the layers takes its place, weighted by the steps. The error's factor per step is ``max |1 - lambda|`` over the nonzero
spectrum. A prediction is meaningful only at a critical point: elsewhere modes that are small but not zero decide, and
say nothing of what follows. So every prediction reports how far from one it stands, and refuses beyond a tolerance. How
many eigenvalues are zero follows from the widths and ranks; no eigenvalue is taken for zero because it is small. All
of it is [derived].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dlnjax._types import Layers, Number, Problem, Rate
from dlnjax.theory import _host, hessian, spectrum
from dlnjax.theory._operator import layer_metric, product_hessian
from dlnjax.theory._realizable import count_with_residual, free_first_extremes
from dlnjax.theory._reduced import reduced_extremes
from dlnjax.theory.closed import closed_form, tangent_dimension

__all__ = ["closed_form", "operator", "predict", "predict_reduced"]

#: Operators of at most this many rows are formed; larger ones are not.
DENSE = 640
#: A residual below this fraction of the product's smallest singular value, in the data's units, counts as none.
REALIZABLE = 1e-9
#: Singular values below this fraction of the largest are noise.
ZERO_RANK = 1e-9
#: Operators of at most this many rows are formed where Lanczos does not converge.
DENSE_AT_LAST = 2500


def predict(
    params: Layers,
    problem: Problem,
    *,
    step_size: Number,
    scales: Sequence[ArrayLike] | None = None,
    constrained: Sequence[bool] | None = None,
    tolerance: float = 1e-5,
) -> Rate:
    """The rate at a critical point, for any widths, steps, data and constraints [derived].

    Small problems form the operator; large ones go through the reduction (equal hidden widths), a bordered diagonal
    matrix (the first layer free), or Lanczos. Where the first layer, or another, is free, the part of the residual
    that a step could still remove is left out, so a solution found to a few digits does. With every layer
    constrained a solution may leave a residual inside the column space; the Riemannian Hessian over the layers
    then decides.

    Args:
      params: layers at (or very near) a critical point, runs allowed.
      problem: a quadratic problem.
      step_size: ``mu > 0``, in the inverse units of ``C`` times the squared product's.
      scales: one multiplier a leaf (a run: a scalar or ``(k,)``); None is all ones. Use those of the run.
      constrained: one bool a leaf; None is all but the first.
      tolerance: the largest relative gradient of the layers that passes for a critical point (``Rate.gradient``: about
        the relative error of the solution, and of the eigenvalues predicted); also the singular values of the product,
        and up to 1e-4 the error of orthonormality, that are let pass.

    Returns:
      A :class:`~dlnjax._types.Rate` in float64. ``num_zero`` counts in the space of products ``d_N d_0``
      (with a residual: in the layers' tangent spaces), and is -1 where Lanczos cannot count.

    Raises:
      ValueError: a problem that is not quadratic; layers that are not critical or not orthonormal; eigenvalues over
        more decades than rounding leaves; a residual at a product of rank below the narrowest
        width; Lanczos not converging on an operator too large to form.

    Example:
      >>> import numpy as np
      >>> from dlnjax import problem
      >>> from dlnjax.theory import rates
      >>> target = problem.whitened(np.diag([3.0, 1.0]))
      >>> rate = rates.predict((np.diag([3.0, 1.0]), np.eye(2)), target, step_size=0.1)
      >>> [round(float(x), 6) for x in (rate.factor, rate.step_max, rate.gradient)]
      [0.9, 0.333333, 0.0]
    """
    net = _host.chain(params, step_size, scales, constrained)
    data = _host.data(problem)
    _check_fit(net, data)
    _host.check_orthonormal(net, tolerance)
    gradient = _host.relative_gradient(net, data)
    _host.check_stationary(gradient, tolerance)
    noise = max(ZERO_RANK, 4 * gradient)
    residual = residual_gradient(net, data, noise)
    dims = [net.layers[0].shape[1], *(w.shape[0] for w in net.layers)]
    size = dims[0] * dims[-1]
    if residual.inside > (0.0 if all(net.constrained) else 1e-3):
        return hessian.predict_hessian(
            params, problem, step_size=step_size, scales=scales, constrained=constrained, tolerance=math.inf
        )._replace(gradient=gradient)
    normal = residual.normal
    total = size if normal is None else tangent_dimension_of(net, dims)
    if size > DENSE and net.reducible:
        found = reduced_extremes(net.layers[0], net.frame, net.steps, data, normal, noise)
    elif normal is None:
        found = _realizable_extremes(net, data, size, noise)
    else:
        found = _residual_extremes(net, data, normal, size, noise)
    return spectrum.rate(found, step_size, total, gradient)


def predict_reduced(
    first: ArrayLike,
    frame: ArrayLike,
    num_layers: int,
    problem: Problem,
    step_size: Number,
    scales: Sequence[Number] | np.ndarray | None = None,
    *,
    tolerance: float = 1e-5,
) -> Rate:
    """The same rate for equal hidden widths through the two-layer reduction, at a cost independent of depth.

    The step is linearised over ``(W_1, U)`` only, ``U = W_N ... W_2``: the layers between act through the sum
    of their steps. Exact for any data; equals :func:`predict` (tested to 1e-9).

    Args:
      first: ``W_1 (r, d_0)`` at a solution.
      frame: ``U (d_N, r)``, orthonormal, tall or wide.
      num_layers: N >= 2.
      problem: a quadratic problem.
      step_size: ``mu > 0``.
      scales: ``(first, middle, last)`` or one multiplier a layer; None is all ones.
      tolerance: as in :func:`predict`.

    Raises:
      ValueError: as :func:`predict`; fewer than two layers.

    Example:
      >>> import numpy as np
      >>> from dlnjax import problem
      >>> from dlnjax.theory import rates
      >>> goal = problem.whitened(np.diag([3.0, 1.0]))
      >>> rate = rates.predict_reduced(np.diag([3.0, 1.0]), np.eye(2), 10, goal, 0.1)
      >>> round(rate.eigenvalue_max, 6)  # mu (1 + (N - 1) (3^2 + 1^2) / 2)
      4.6
    """
    steps = _host.layer_steps(step_size, scales, num_layers)
    data, first, frame = _host.data(problem), _host.array(first), _host.array(frame)
    net = _host.chain((first, frame), 1.0, list(steps[[0, -1]]))
    (r, d0), dn = first.shape, frame.shape[0]
    _check_fit(net, data)
    _host.check_orthonormal(net, tolerance)
    gradient = _host.relative_gradient(net, data)
    _host.check_stationary(gradient, tolerance)
    noise = max(ZERO_RANK, 4 * gradient)
    normal = residual_gradient(net, data, noise).normal
    found = reduced_extremes(first, frame, steps, data, normal, noise)
    total = d0 * dn if normal is None else tangent_dimension([d0, *[r] * (num_layers - 1), dn])
    return spectrum.rate(found, step_size, total, gradient)


def _check_fit(net: _host.Chain, data: _host.Data) -> None:
    if net.product.shape != data.target.shape:
        raise ValueError(
            f"the layers' product has shape {net.product.shape}, the problem's target {data.target.shape}; "
            "give layers of this problem"
        )


class Residual(NamedTuple):
    """The residual of a product.

    Attributes:
      normal: ``(I - P) (W - T) C``, of which the rows are outside W's too; None where it vanishes.
      inside: the rest, relative to the product, in the data's units.
    """

    normal: np.ndarray | None
    inside: float


def residual_gradient(net: _host.Chain, data: _host.Data, noise: float = ZERO_RANK) -> Residual:
    """The parts of ``G`` outside and inside the product's column and row space.

    With ``E = (W - T) C^{1/2}`` and P, Q onto the column and row space of ``W C^{1/2}`` the outer part is
    ``(I - P) E (I - Q) C^{1/2}``; at a critical point with a product of full rank and a free layer it is all of ``G``.
    """
    root = _root(data)
    product, error = net.product @ root, (net.product - data.target) @ root
    left, values, right = np.linalg.svd(product, full_matrices=False)
    kept = values > noise * values.max(initial=0.0)
    left, right, values = left[:, kept], right[kept], values[kept]
    normal = error - left @ (left.T @ error)
    normal = normal - (normal @ right.T) @ right
    size = max(np.linalg.norm(product), np.linalg.norm(data.target @ root), np.finfo(float).tiny)
    inside = float(np.linalg.norm(error - normal) / size)
    smallest = max(REALIZABLE * values.min(initial=np.inf) if values.size else 0.0, 1e-14 * size)
    absent = np.linalg.norm(normal) <= smallest
    return Residual(None if absent else normal @ root, inside if inside > 1e-9 else 0.0)


def tangent_dimension_of(net: _host.Chain, dims: list[int]) -> int:
    """Dimension of the layers' tangent spaces, free layers counted in full."""
    total = 0
    for n, p, flag in zip(dims[1:], dims[:-1], net.constrained, strict=True):
        total += n * p - flag * (min(n, p) * (min(n, p) + 1) // 2)
    return total


def operator(
    params: Layers,
    problem: Problem,
    *,
    step_size: Number,
    scales: Sequence[ArrayLike] | None = None,
    constrained: Sequence[bool] | None = None,
) -> np.ndarray:
    """``K`` as a symmetric matrix ``(d_N d_0, d_N d_0)`` on row-major vectors ``delta = Delta C^{1/2}``.

    The metric that the layers' steps put on products, at any layers; it is the whole linearised step only where there
    is no residual, which :func:`predict` checks. Forms the whole matrix.

    Example:
      >>> import numpy as np
      >>> from dlnjax import problem
      >>> from dlnjax.theory import rates
      >>> k = rates.operator((np.eye(2), np.eye(2)), problem.whitened(np.eye(2)), step_size=0.1)
      >>> np.linalg.eigvalsh(k).round(6).tolist()  # W_2 moves the skew direction only
      [0.1, 0.1, 0.1, 0.2]
    """
    net = _host.chain(params, step_size, scales, constrained)
    data = _host.data(problem)
    _check_fit(net, data)
    _host.check_orthonormal(net, 1e-4)
    return _dense_operator(net, data)


def _dense_operator(net: _host.Chain, data: _host.Data) -> np.ndarray:
    dn, d0 = net.layers[-1].shape[0], net.layers[0].shape[1]
    root = _root(data)
    basis = np.eye(dn * d0).reshape(-1, dn, d0)
    image = layer_metric(net)(basis @ root) @ root
    matrix = image.reshape(dn * d0, -1)
    return (matrix + matrix.T) / 2


def _root(data: _host.Data) -> np.ndarray:
    values, vectors = data.eigen()
    return (vectors * np.sqrt(values)) @ vectors.T


def _realizable_extremes(net: _host.Chain, data: _host.Data, size: int, noise: float) -> spectrum.Extremes:
    if not net.constrained[0] and all(net.constrained[1:]):
        return free_first_extremes(net, data, noise, DENSE)
    if size <= DENSE:
        return spectrum.extremes(np.linalg.eigvalsh(_dense_operator(net, data)))
    dn, d0 = net.layers[-1].shape[0], net.layers[0].shape[1]
    root, metric = _root(data), layer_metric(net)
    apply = _on_vectors(lambda x: metric(x @ root) @ root, (dn, d0))
    left, right = _basis(net.frame), _basis((net.product @ root).T)
    data_range = _basis(root)

    def project(x: np.ndarray) -> np.ndarray:
        x = x.reshape(dn, d0)
        x = (x @ data_range) @ data_range.T
        outside = x - left @ (left.T @ x)
        return (x - outside + (outside @ right) @ right.T).ravel()

    def dense() -> spectrum.Extremes:
        return spectrum.extremes(np.linalg.eigvalsh(_dense_operator(net, data)))

    if all(net.constrained):  # the range is not that of all products of this rank
        return _formed(dense, size)
    return _lanczos(lambda: spectrum.lanczos_extremes(apply, _start(size), project), dense, size)


def _lanczos(by_lanczos, dense, size: int) -> spectrum.Extremes:
    """Lanczos, or the formed operator where it does not converge."""
    try:
        return by_lanczos()
    except ValueError:
        if size > DENSE_AT_LAST:
            raise
        return dense()


def _formed(dense, size: int) -> spectrum.Extremes:
    if size > DENSE_AT_LAST:
        raise ValueError(
            f"an operator of {size} rows with no layer free; give at most {DENSE_AT_LAST}, or let one layer be free"
        )
    return dense()


def _residual_extremes(net, data, normal, size: int, noise: float) -> spectrum.Extremes:
    """Spectrum of ``K_0 h``: the layers' metric times the loss's Hessian on the rank-r products."""
    product, root = net.product, _root(data)
    narrow = min(min(w.shape) for w in net.layers)
    values = np.linalg.svd(product @ root, compute_uv=False)
    if values[narrow - 1] <= noise * values[0]:
        raise ValueError(
            f"the product's rank is below the narrowest width {narrow} and there is a residual: "
            "the layers' solution set is singular here; use hessian.predict_hessian"
        )
    metric, hessian_map, project = layer_metric(net), *product_hessian(product, narrow, data, normal)
    shape = product.shape
    known = count_with_residual(values, narrow, data, normal)

    def dense() -> spectrum.Extremes:
        basis = np.eye(size).reshape(-1, *shape)
        inner = metric(project(basis)).reshape(size, size)
        curvature = hessian_map(basis).reshape(size, size)
        weights, vectors = np.linalg.eigh((inner + inner.T) / 2)
        half = (vectors * np.sqrt(np.maximum(weights, 0))) @ vectors.T
        matrix = half @ curvature @ half
        return spectrum.extremes(np.linalg.eigvalsh((matrix + matrix.T) / 2), zeros=size - known)

    if size <= DENSE:
        return dense()
    return _lanczos(
        lambda: spectrum.lanczos_extremes(
            _on_vectors(lambda x: hessian_map(project(metric(x))), shape),
            _start(size),
            _on_vectors(project, shape),
            _on_vectors(lambda x: project(metric(x)), shape),
        ),
        dense,
        size,
    )


def _basis(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the column space."""
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    return left[:, values > ZERO_RANK * values.max(initial=0.0)]


def _on_vectors(function, shape):
    return lambda x: function(x.reshape(shape)).ravel()


def _start(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size)
