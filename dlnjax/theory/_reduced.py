r"""The spectrum of the two-layer reduction: at any depth, over ``(W_1, U)`` only.

At a critical point ``F = G W_1^T = 0``, and the reduced step linearises to

.. math:: dW_1^+ = dW_1 - \mu (dU^T G + U^T dG), \quad
          dU^+ = dU - \mu_N P_U(dF) - m\, U\, \mathrm{skew}(U^T dF),

``m`` the sum of the middle layers' steps: a Hessian times a constant weight on each block of the tangent
space of ``U``. In the eigenbasis of ``C`` the ``W_1`` block is diagonal and the rest a border as wide as the
Stiefel manifold of ``U``, which :mod:`dlnjax.theory.spectrum` solves without forming it.
"""

from __future__ import annotations

import numpy as np

from dlnjax.theory import _host, spectrum
from dlnjax.theory._realizable import count_with_residual, of_jacobian

#: Reduced matrices of at most this many rows are formed.
DENSE = 400


def reduced_extremes(
    first: np.ndarray,
    frame: np.ndarray,
    steps: np.ndarray,
    data: _host.Data,
    normal: np.ndarray | None,
    noise: float = 1e-9,
) -> spectrum.Extremes:
    """Extreme nonzero eigenvalues of the weighted Hessian over ``(W_1, U)``, and their number.

    Args:
      first: ``W_1 (r, d_0)``.
      frame: ``U (d_N, r)``.
      steps: ``(N,)`` one step a layer.
      data: statistics.
      normal: the residual's gradient, None where there is none.
      noise: singular values of ``W_1 C^{1/2}`` below this fraction of the largest count as zero.

    Raises:
      ValueError: a spectrum that rounding hides; a residual at a product of lower rank.
    """
    gradient = np.zeros((frame.shape[0], first.shape[1])) if normal is None else normal
    if data.covariance is None:
        first, gradient, values = _compress(first, gradient)
        spare = data.target.shape[1] - values.size
    else:
        values, vectors = data.eigen()
        first, gradient, spare = (first @ vectors)[:, values > 0], (gradient @ vectors)[:, values > 0], 0
        values = values[values > 0]
    if not values.size or not steps[0] > 0:
        raise ValueError("no first layer that moves: C is zero, or its step is; there is no rate")
    if normal is None:
        found = _without_residual(first, frame, steps, values, noise)
    else:
        found = _with_residual(first, frame, steps, values, gradient, noise)
    if not spare:
        return found
    rows = min(frame.shape)
    return spectrum.Extremes(  # input directions that neither W_1 nor the residual sees: eigenvalue mu
        min(found.smallest, steps[0]), max(found.largest, steps[0]), found.nonzero + rows * spare
    )


def _without_residual(first, frame, steps, values, noise: float) -> spectrum.Extremes:
    """The span of U, positive definite, and what leaves it: ``mu_N`` times the squared singular values of ``W_1
    C^{1/2}``."""
    outputs, rows = frame.shape[0], min(frame.shape)
    inside = rows * values.size
    tangents = _weighted_tangents(frame, steps)
    tall = frame.shape[0] > frame.shape[1]
    if tall:
        turns = frame.shape[1] * (frame.shape[1] - 1) // 2
        tangents, frame = frame.T @ tangents[:turns], np.eye(frame.shape[1])
    if inside <= DENSE:
        moved = (tangents @ (first * np.sqrt(values))).reshape(len(tangents), inside)
        jacobian = np.concatenate([np.diag(np.tile(np.sqrt(steps[0] * values), rows)), moved.T], axis=1)
        found = of_jacobian(jacobian, inside)
    else:
        total = inside + len(tangents)
        found = spectrum.bordered_extremes(
            _bordered(first, frame, steps[0], values, np.zeros((frame.shape[0], values.size)), tangents),
            total,
            total - inside,
            resolution=1e-24,  # the span of U does not cancel
        )
    if not tall:
        return found
    leaving = steps[-1] * np.linalg.svd(first * np.sqrt(values), compute_uv=False) ** 2
    kept = leaving[leaving > noise**2 * leaving.max(initial=0.0)]
    if not kept.size:
        return found
    nonzero = found.nonzero + (outputs - rows) * kept.size * bool(steps[-1] > 0)
    return spectrum.Extremes(min(found.smallest, kept.min()), max(found.largest, kept.max()), nonzero)


def _with_residual(first, frame, steps, values, gradient, noise: float) -> spectrum.Extremes:
    tangents = _weighted_tangents(frame, steps)
    rows = min(frame.shape)
    total = rows * values.size + len(tangents)
    weighed = np.linalg.svd(first * np.sqrt(values), compute_uv=False)
    if weighed.size < rows or weighed[rows - 1] <= noise * weighed[0]:
        raise ValueError(
            f"the product's rank is below the width {rows} and there is a residual: the layers' solution set is "
            "singular here; use hessian.predict_hessian"
        )
    diagonal = _host.Data(gradient, np.diag(values))
    zeros = total - count_with_residual(weighed, rows, diagonal, gradient)
    arguments = first, frame, steps[0], values, gradient, tangents
    if total <= DENSE:
        return spectrum.extremes(np.linalg.eigvalsh(_dense(*arguments)), zeros=zeros)
    return spectrum.bordered_extremes(_bordered(*arguments), total, zeros)


def _compress(first: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whitened data: the input directions that matter are the rows of ``W_1`` and of the residual."""
    stacked = np.concatenate([first, gradient])
    if stacked.shape[0] >= stacked.shape[1]:
        return first, gradient, np.ones(first.shape[1])
    basis, _ = np.linalg.qr(stacked.T)
    return first @ basis, gradient @ basis, np.ones(basis.shape[1])


def _weighted_tangents(frame: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """``(m, d_N, r)``: an orthonormal tangent basis at ``U``, times the root of each direction's step.

    Turning the frame's own columns moves every layer behind the first; leaving their span only the last.
    Where U is wide, half of what turns into its null space comes from the middle layers.
    """
    last, between = steps[-1], steps[1:-1].sum()
    dn, r = frame.shape
    small = min(dn, r)
    a, b = np.triu_indices(small, 1)
    turns = np.zeros((a.size, small, small))
    turns[np.arange(a.size), a, b], turns[np.arange(a.size), b, a] = np.sqrt(0.5), -np.sqrt(0.5)
    turned = frame @ turns if dn >= r else turns @ frame
    outside = np.eye(max(dn, r) - small)
    full = np.linalg.qr(frame if dn >= r else frame.T, mode="complete")[0][:, small:]
    if dn >= r:
        leaving = np.einsum("pk,aj->kapj", full @ outside, np.eye(r)).reshape((dn - small) * r, dn, r)
        weight = last
    else:
        leaving = np.einsum("pk,aj->kajp", full @ outside, np.eye(dn)).reshape((r - small) * dn, dn, r)
        weight = last + between / 2
    return np.concatenate([np.sqrt(last + between) * turned, np.sqrt(weight) * leaving])


def _dense(first, frame, mu, values, gradient, tangents) -> np.ndarray:
    """The whole matrix ``[[mu C, B], [B^T, E]]``."""
    dn, r = frame.shape
    inner = frame.T @ tangents if dn >= r else tangents  # the part of dU W_1 that U dW_1 can meet
    border = (inner @ first) * values
    pulled = np.swapaxes(tangents, -1, -2) @ gradient
    border = border + (pulled if dn >= r else frame @ pulled)
    border = np.sqrt(mu) * border.reshape(len(tangents), min(dn, r) * values.size)
    moved = (tangents @ first) * np.sqrt(values)
    corner = np.tensordot(moved, moved, ([1, 2], [1, 2]))
    diagonal = np.diag(np.tile(mu * values, min(dn, r)))
    return np.block([[diagonal, border.T], [border, corner]])


def _bordered(first, frame, mu, values, gradient, tangents) -> spectrum.Bordered:
    r"""The Schur complement of the ``W_1`` block, by sums over the spectrum of ``C`` of size r alone.

    With ``f_b = 1/(mu c_b - t)``, inside the span of U the corner and the border combine to
    ``-t c_b f_b``, which does not cancel where t is small.
    """
    dn, r = frame.shape
    tall = dn >= r
    inner = frame.T @ tangents if tall else tangents
    outer = tangents - frame @ inner if tall else np.zeros_like(tangents)
    count = len(tangents)
    corner_out = _form(outer, outer, (first * values) @ first.T)
    residual = bool(np.any(gradient))

    def complement(t: float) -> np.ndarray:
        gap = mu * values - t
        weights = 1 / np.where(gap == 0, np.finfo(float).tiny ** 0.5, gap)
        matrix = (
            corner_out + _form(inner, inner, (first * (-t * values * weights)) @ first.T) - t * np.eye(count)
        )
        if residual:  # then U is tall: a wide network has no residual at a solution
            mixed = (first * (values * weights)) @ gradient.T  # (r, d_N)
            cross = (inner @ mixed).reshape(count, r * dn) @ np.swapaxes(tangents, -1, -2).reshape(
                count, r * dn
            ).T
            squared = (gradient * weights) @ gradient.T
            turned = np.swapaxes(tangents, -1, -2)
            matrix = matrix - mu * (cross + cross.T + _form(turned, turned, squared))
        return (matrix + matrix.T) / 2

    largest = values.max(initial=0.0)
    size = np.linalg.norm(tangents, axis=(1, 2)).max(initial=0.0) ** 2 * np.linalg.norm(first, 2) ** 2
    return spectrum.Bordered(mu * values, min(dn, r), complement, 2 * largest * (mu + size))


def _form(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``<a_i weight, b_j>`` over lists of matrices."""
    size = b.shape[1] * b.shape[2]
    return (a @ weight).reshape(len(a), size) @ b.reshape(len(b), size).T
