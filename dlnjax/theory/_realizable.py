r"""The spectrum of ``K`` where the first layer is free and the others are orthonormal, with its zeros counted.

In the data's coordinates ``K = J J^T``,

.. math:: J = \big[\sqrt{\mu}\, A \otimes C^{1/2},\; M^{1/2} (I \otimes W_1 C^{1/2})\big], \qquad
          M Z = \sum_{i \ge 2} \mu_i A_i P_i(A_i^T Z O_i^T) O_i, \quad O_i = W_{i-1} \cdots W_2 ,

``A = W_N ... W_2`` and M on matrices ``(d_N, d_1)``: only the first block knows the width ``d_0`` and the
conditioning of
the data, M is made of orthonormal matrices alone. So ranks are read where they are clear, singular values of J reach
the square of what eigenvalues of K resolve, and for wide data the first block is diagonal in the eigenbases of
``A A^T``
and C, with M a thin border.
"""

from __future__ import annotations

import numpy as np

from dlnjax.theory import _host, spectrum
from dlnjax.theory._operator import layer_metric

#: Eigenvalues of K below this fraction of the largest are taken as squared singular values of J.
REFINE = 1e-9


def free_first_extremes(net: _host.Chain, data: _host.Data, noise: float, dense: int) -> spectrum.Extremes:
    """Extreme nonzero eigenvalues of K, and their number.

    Args:
      net: the first layer free, the others orthonormal. data: statistics.
      noise: singular values of ``W_1 C^{1/2}`` below this fraction of the largest count as zero.
      dense: J of at most so many rows is formed.
    """
    values, vectors = data.eigen()
    values, vectors = values[values > 0], vectors[:, values > 0]
    if not values.size:
        raise ValueError("every eigenvalue of C is zero: no layer can change the loss, there is no rate")
    mu, frame = net.steps[0], net.frame
    first = (net.layers[0] @ vectors) * np.sqrt(values)  # W_1 C^{1/2} in the eigenbasis of C
    metric = _behind(net)
    count = _count(frame, first, metric, net, values.size, noise)
    if not count:
        raise ValueError("every eigenvalue is zero: no layer can change the product here, there is no rate")
    rows = len(frame) * values.size
    if rows <= dense:
        root = _root(metric)
        half = root.reshape(*frame.shape, root.shape[1])
        moved = np.einsum("ndk,dj->njk", half, first).reshape(rows, root.shape[1])
        jacobian = np.concatenate([np.sqrt(mu) * np.kron(frame, np.diag(np.sqrt(values))), moved], axis=1)
        return of_jacobian(jacobian, count)
    return _bordered(frame, first, mu, values, metric, count)


def of_jacobian(jacobian: np.ndarray, count: int) -> spectrum.Extremes:
    """Extremes of ``J J^T`` with ``count`` nonzero eigenvalues."""
    small = jacobian if jacobian.shape[0] <= jacobian.shape[1] else jacobian.T
    found = np.linalg.eigvalsh(small @ small.T)[::-1]
    if not found[count - 1] > REFINE * found[0]:
        found = np.linalg.svd(small, compute_uv=False) ** 2
    return spectrum.extremes(found, zeros=len(found) - count, resolution=1e-24)


def _behind(net: _host.Chain) -> np.ndarray:
    """M as a matrix on row-major ``(d_N, d_1)``."""
    width, out = net.layers[0].shape[0], net.layers[-1].shape[0]
    steps = np.concatenate([[0.0], net.steps[1:]])
    rest = _host.Chain((np.eye(width), *net.layers[1:]), steps, net.constrained)
    matrix = layer_metric(rest)(np.eye(out * width).reshape(-1, out, width)).reshape(out * width, -1)
    return (matrix + matrix.T) / 2


def _root(matrix: np.ndarray) -> np.ndarray:
    """``M^{1/2}`` in the columns that are not zero."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-12 * max(values[-1], np.finfo(float).tiny)
    return vectors[:, kept] * np.sqrt(values[kept])


def _count(frame, first, metric: np.ndarray, net: _host.Chain, rank_data: int, noise: float) -> int:
    """The rank of J: what the first layer reaches, and what the others add to it."""
    sides, sizes, _ = np.linalg.svd(frame, full_matrices=False)
    reached = (
        sides[:, sizes > 1e-9 * max(sizes[0], np.finfo(float).tiny)] if net.steps[0] > 0 else sides[:, :0]
    )
    left, sigma, _ = np.linalg.svd(first, full_matrices=False)
    left = left[:, sigma > noise * sigma.max(initial=0.0)]
    turns = _root(metric).reshape(*frame.shape, -1)
    turns = turns - np.einsum("np,pdk->ndk", reached @ reached.T, turns)
    added = np.einsum("ndk,da->nak", turns, left).reshape(len(frame) * left.shape[1], turns.shape[-1])
    if not added.size:
        return reached.shape[1] * rank_data
    sizes = np.linalg.svd(added, compute_uv=False)
    scale = np.sqrt(max(float(np.linalg.norm(metric, 2)), 0.0))
    return reached.shape[1] * rank_data + int(np.sum(sizes > 1e-9 * scale))


def _bordered(frame, first, mu: float, values, metric: np.ndarray, count: int) -> spectrum.Extremes:
    """``J^T J``, diagonal but for the border of M, by counting.

    With ``f = 1/(mu a_i c_j - t)`` corner and border combine to ``-t c_j f`` in the rows that the first layer
    reaches, which
    does not cancel where t is small.
    """
    sides, sizes, _ = np.linalg.svd(frame)
    weights = np.zeros(len(frame))
    weights[: sizes.size] = np.where(sizes > 1e-9 * max(sizes[0], np.finfo(float).tiny), sizes, 0.0) ** 2 * mu
    half = _root(metric).reshape(*frame.shape, -1)
    turned = np.einsum("ni,ndk->ikd", sides, half)  # (d_N, k, d_1)
    border = half.shape[-1]
    inside = weights > 0
    poles = np.outer(weights[inside], values).ravel()

    def complement(t: float) -> np.ndarray:
        matrix = -t * np.eye(border)
        for weight, rows in zip(weights, turned, strict=True):
            gap = weight * values - t
            factor = (
                -t / np.where(gap == 0, np.finfo(float).tiny ** 0.5, gap)
                if weight > 0
                else np.ones_like(values)
            )
            matrix = matrix + rows @ ((first * factor) @ first.T) @ rows.T
        return (matrix + matrix.T) / 2

    bound = 2 * (
        float(poles.max(initial=0.0)) + float(np.linalg.norm(metric, 2) * np.linalg.norm(first, 2) ** 2)
    )
    total = poles.size + border
    return spectrum.bordered_extremes(spectrum.Bordered(poles, 1, complement, bound), total, total - count)


def count_with_residual(weighed: np.ndarray, rank: int, data: _host.Data, normal: np.ndarray) -> int:
    """Nonzero eigenvalues at a critical product of full rank r: the dimension of the products of that rank.

    A singular value of the residual that equals one of the product's leaves a further zero: there the best product is
    not unique, and its error does not shrink along the set of optima.

    Args:
      weighed: singular values of ``W C^{1/2}``. rank: r. normal: the residual's gradient.
    """
    values, vectors = data.eigen()
    values, vectors = values[values > 0], vectors[:, values > 0]
    residual = np.linalg.svd((normal @ vectors) / np.sqrt(values), compute_uv=False)
    kept = weighed[:rank]
    ties = np.sum(np.abs(kept[:, None] - residual[None]) <= 1e-12 * kept[0])
    return rank * (values.size + len(normal) - rank) - int(ties)
