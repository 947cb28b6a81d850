r"""The spectrum of the two-layer reduction: at any depth, over ``(W_1, U)`` only.

At a critical point ``F = G W_1^T = 0``, and the reduced step linearises to

.. math:: dW_1^+ = dW_1 - \mu (dU^T G + U^T dG), \quad
          dU^+ = dU - \mu_N P_U(dF) - m\, U\, \mathrm{skew}(U^T dF),

``m`` the sum of the middle layers' steps: a Hessian times a constant weight on each block of the tangent
space of ``U``. In the eigenbasis of ``C`` the ``W_1`` block is diagonal and the rest a border as wide as the
Stiefel manifold of ``U``, which :mod:`dlnjax.theory.spectrum` solves without forming it.
"""

from __future__ import annotations

import hashlib

import numpy as np

from dlnjax.theory import _host, spectrum

#: Reduced matrices of at most this many rows are formed.
DENSE = 400
_EIGEN: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def _eigenbasis(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (noise below 1e-15 set to zero) and vectors of C; the last few C are remembered."""
    key = hashlib.sha256(covariance.tobytes()).hexdigest()
    if key not in _EIGEN:
        if len(_EIGEN) >= 4:
            _EIGEN.pop(next(iter(_EIGEN)))
        values, vectors = np.linalg.eigh(covariance)
        values[values < 1e-15 * values[-1]] = 0.0
        _EIGEN[key] = values, vectors
    return _EIGEN[key]


def reduced_extremes(
    first: np.ndarray, frame: np.ndarray, steps: np.ndarray, data: _host.Data, normal: np.ndarray | None
) -> spectrum.Extremes:
    """Extreme nonzero eigenvalues of the weighted Hessian over ``(W_1, U)``.

    Args:
      first: ``W_1 (r, d_0)``.
      frame: ``U (d_N, r)``.
      steps: ``(N,)`` one step a layer.
      data: statistics.
      normal: the residual's gradient, None where there is none.
    """
    gradient = np.zeros((frame.shape[0], first.shape[1])) if normal is None else normal
    if data.covariance is None:
        first, gradient, values = _compress(first, gradient)
        spare = data.target.shape[1] - values.size
    else:
        values, vectors = _eigenbasis(data.covariance)
        first, gradient, spare = first @ vectors, (gradient @ vectors) * (values > 0), 0
    tangents = _weighted_tangents(frame, steps)
    rows = min(frame.shape)
    total = rows * values.size + len(tangents)
    arguments = first, frame, steps[0], values, gradient, tangents
    if total <= DENSE:
        found = spectrum.extremes(np.linalg.eigvalsh(_dense(*arguments)))
    elif normal is None and rows * values.size <= 2 * DENSE:
        found = spectrum.extremes(
            np.concatenate([np.linalg.eigvalsh(_products(*arguments)), _leaving(*arguments)])
        )
    else:
        found = spectrum.bordered_extremes(_bordered(*arguments), total)
    if not spare:
        return found
    return spectrum.Extremes(  # input directions that neither W_1 nor the residual sees: eigenvalue mu
        min(found.smallest, steps[0]), max(found.largest, steps[0]), found.nonzero + rows * spare
    )


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
        leaving = np.einsum("pk,aj->kapj", full @ outside, np.eye(r)).reshape(-1, dn, r)
        weight = last
    else:
        leaving = np.einsum("pk,aj->kajp", full @ outside, np.eye(dn)).reshape(-1, dn, r)
        weight = last + between / 2
    return np.concatenate([np.sqrt(last + between) * turned, np.sqrt(weight) * leaving])


def _dense(first, frame, mu, values, gradient, tangents) -> np.ndarray:
    """The whole matrix ``[[mu C, B], [B^T, E]]``."""
    dn, r = frame.shape
    inner = frame.T @ tangents if dn >= r else tangents  # the part of dU W_1 that U dW_1 can meet
    border = (inner @ first) * values
    pulled = np.swapaxes(tangents, -1, -2) @ gradient
    border = np.sqrt(mu) * (border + (pulled if dn >= r else frame @ pulled)).reshape(len(tangents), -1)
    moved = (tangents @ first) * np.sqrt(values)
    corner = np.tensordot(moved, moved, ([1, 2], [1, 2]))
    diagonal = np.diag(np.tile(mu * values, min(dn, r)))
    return np.block([[diagonal, border.T], [border, corner]])


def _products(first, frame, mu, values, gradient, tangents) -> np.ndarray:
    """Without a residual: the operator on products inside the span of U, ``mu C + L L^T``."""
    inner = frame.T @ tangents if frame.shape[0] >= frame.shape[1] else tangents
    moved = ((inner @ first) * np.sqrt(values)).reshape(len(tangents), -1)
    return np.diag(np.tile(mu * values, min(frame.shape))) + moved.T @ moved


def _leaving(first, frame, mu, values, gradient, tangents) -> np.ndarray:
    """Without a residual: the eigenvalues of what leaves the span of U (none where U is wide or square)."""
    if frame.shape[0] <= frame.shape[1]:
        return np.zeros(0)
    outer = tangents - frame @ (frame.T @ tangents)
    outer = outer[np.linalg.norm(outer, axis=(1, 2)) > 1e-9 * np.linalg.norm(tangents[0])]
    return np.linalg.eigvalsh(_form(outer, outer, (first * values) @ first.T))


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
            cross = (inner @ mixed).reshape(count, -1) @ np.swapaxes(tangents, -1, -2).reshape(count, -1).T
            squared = (gradient * weights) @ gradient.T
            turned = np.swapaxes(tangents, -1, -2)
            matrix = matrix - mu * (cross + cross.T + _form(turned, turned, squared))
        return (matrix + matrix.T) / 2

    largest = values.max(initial=0.0)
    size = np.linalg.norm(tangents, axis=(1, 2)).max() ** 2 * np.linalg.norm(first, 2) ** 2
    return spectrum.Bordered(mu * values, min(dn, r), complement, 2 * largest * (mu + size))


def _form(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``<a_i weight, b_j>`` over lists of matrices."""
    return (a @ weight).reshape(len(a), -1) @ b.reshape(len(b), -1).T
