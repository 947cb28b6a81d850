"""Closed forms of the spectrum: what depth does to the rate, with no matrix formed [derived].

Valid for whitened data, layers behind the first orthonormal and an optimum that the network reaches
(or misses by a residual of given singular values). Host arithmetic on a few numbers, at any depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlnjax._types import Number, Rate
from dlnjax.theory import _host, spectrum


def closed_form(
    singular_values: Sequence[float],
    *,
    dims: Sequence[int],
    step_size: Number,
    scales: Sequence[Number] | np.ndarray | None = None,
    residual: Sequence[float] = (),
) -> Rate:
    r"""The rate for whitened data from the singular values of the product alone [derived].

    For equal hidden widths ``r <= d_N``, ``r <= d_0``, steps ``mu`` (layer 1) and ``mu_i``, with
    ``s = sum_{i>=2} mu_i``, the nonzero eigenvalues of ``K`` are

    - ``mu``, multiplicity ``r + r(r-1)/2 + r(d_0 - r)``;
    - ``mu + s (sigma_a^2 + sigma_b^2)/2`` for ``a < b``;
    - ``mu_N sigma_a^2``, multiplicity ``d_N - r`` each.

    With a residual of singular values ``s_k`` (the product is the best of rank r), every pair (a, k) has
    ``eig [[mu, -sqrt(mu mu_N) s_k], [-sqrt(mu mu_N) s_k, mu_N sigma_a^2]]`` in place of one ``mu`` and one
    ``mu_N sigma_a^2``. With widths ``d_1 <= ... <= d_N`` and equal steps ``mu'`` behind the first, the last
    block is ``mu' sigma_a^2 (1 + (N - j)/2)``, multiplicity ``d_j - d_{j-1}``, ``j = 2, ..., N``.

    Args:
      singular_values: of the product at the solution, at most r positive ones (zeros are dropped: they
        give zero eigenvalues), within twelve decades.
      dims: ``(d_0, ..., d_N)``.
      step_size: ``mu > 0``.
      scales: ``(first, middle, last)`` or one multiplier a layer; None is all ones.
      residual: singular values of ``W - T`` at the best rank-r product; zeros may be left out.

    Returns:
      The :class:`~dlnjax._types.Rate`; ``num_zero`` counts in the space of products, ``d_N d_0`` (with a
      residual: in the layers' tangent spaces, as ``predict`` does).

    Raises:
      ValueError: outside the conditions above.

    Example:
      >>> from dlnjax.theory import closed
      >>> rate = closed.closed_form([1.0, 0.5], dims=(4, 2, 2, 4), step_size=0.1)
      >>> round(rate.factor, 12), round(rate.step_max, 12)
      (0.975, 0.888888888889)
    """
    widths = _widths(dims)
    steps = _host.layer_steps(step_size, scales, len(widths) - 1)
    sigma = _checked(singular_values, widths)
    if len(residual) and np.any(np.asarray(residual, float) != 0):
        values, counts = _with_residual(sigma, widths, steps, np.asarray(residual, float))
        total = tangent_dimension(widths)
    else:
        values, counts = _realizable(sigma, widths, steps)
        total = widths[0] * widths[-1]
    return spectrum.rate(spectrum.extremes(values, counts, zero=0.0), float(step_size), total, 0.0)


def spectral_step_max(
    singular_values: Sequence[float],
    *,
    dims: Sequence[int],
    scales: Sequence[Number] | np.ndarray | None = None,
) -> float:
    r"""The stability edge of steepest descent under the spectral norm, ``optim.muon(length="dual")`` [derived].

    For whitened data and an optimum that the network reaches, ``mu_max = 2 / (s_1 + sum_a sigma_a^2 sum_{i>=2} s_i)``:
    the Hessian's greatest value on directions with ``||xi_1||_F^2 / s_1 + sum_{i>=2} ||xi_i||_2^2 / s_i = 1``, by
    Cauchy-Schwarz and ``||xi_i W_{i-1} ... W_1||_F <= ||xi_i||_2 ||sigma||``. Attained where every layer turns by the
    same skew orthogonal matrix, which exists for even r; for odd r the edge can lie farther out. Gradient descent has
    ``(sigma_1^2 + sigma_2^2) / 2`` in place of the sum of squares.

    Args:
      singular_values, dims, scales: as in :func:`closed_form`.

    Example:
      >>> from dlnjax.theory import closed
      >>> round(closed.spectral_step_max([1.0, 1.0], dims=(2, 2, 2)), 6)  # 2 / (1 + 1 + 1)
      0.666667
    """
    widths = _widths(dims)
    first, *others = _host.layer_steps(1.0, scales, len(widths) - 1)
    edge = float(2 / (first + np.sum(np.square(_checked(singular_values, widths))) * np.sum(others)))
    if not (edge > 0 and np.isfinite(edge)):
        raise ValueError(
            f"singular_values={singular_values} with these scales put the edge at {edge}; rescale the target"
        )
    return edge


def tangent_dimension(dims: Sequence[int]) -> int:
    """Dimension of the space of layers: ``W_1`` free, the others on their Stiefel manifolds.

    Example:
      >>> from dlnjax.theory import closed
      >>> closed.tangent_dimension((3, 2, 2))  # six entries of W_1, one angle of W_2
      7
    """
    widths = _widths(dims)
    pairs = list(zip(widths[1:], widths[:-1], strict=True))
    first = pairs[0][0] * pairs[0][1]
    return first + sum(n * p - min(n, p) * (min(n, p) + 1) // 2 for n, p in pairs[1:])


def _widths(dims: Sequence[int]) -> list[int]:
    if len(dims) < 2 or any(d != int(d) or d < 1 for d in dims):
        raise ValueError(f"dims={tuple(dims)}; give the widths (d_0, ..., d_N), positive whole numbers")
    return [int(d) for d in dims]


def _checked(singular_values: Sequence[float], dims: list[int]) -> np.ndarray:
    """Singular values padded with zeros to ``r = d_1``, the conditions checked."""
    sigma = np.asarray(singular_values, dtype=np.float64)
    if sigma.ndim != 1 or sigma.size == 0 or not np.all(np.isfinite(sigma)) or np.any(sigma < 0):
        raise ValueError(f"singular_values={singular_values}; give a list of finite numbers >= 0")
    sigma = np.sort(sigma[sigma > 0])[::-1]
    if sigma.size and not (1e-140 < sigma[0] < 1e140 and sigma[-1] > 1e-12 * sigma[0]):
        raise ValueError(
            f"singular_values={singular_values}; positive ones must lie within twelve decades of the largest and "
            f"that one "
            "between 1e-140 and 1e140: give 0 for what is rounding, and rescale the target"
        )
    rank, d0, r = sigma.size, dims[0], dims[1]
    if not 1 <= rank <= r:
        raise ValueError(
            f"{rank} positive singular values for width d_1={r}; the product has rank at most {r}"
        )
    if d0 < r:
        raise ValueError(f"d_0={d0} is below d_1={r}: outside the closed form; use rates.predict")
    if np.any(np.diff(dims[1:]) < 0):
        raise ValueError(
            f"dims={_short(dims)} shrink behind the first layer: outside the closed form; use rates.predict"
        )
    return np.concatenate([sigma, np.zeros(r - rank)])


def _short(dims: list[int]) -> str:
    return str(tuple(dims)) if len(dims) <= 8 else f"({', '.join(map(str, dims[:4]))}, ..., {dims[-1]})"


def _common(sigma: np.ndarray, d0: int, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The blocks inside the column space but for ``mu`` on the rows outside: ``mu`` and the pairs."""
    r = sigma.size
    a, b = np.triu_indices(r, 1)
    pairs = steps[0] + steps[1:].sum() * (sigma[a] ** 2 + sigma[b] ** 2) / 2
    values = np.concatenate([[steps[0]], pairs])
    return values, np.concatenate([[r + r * (r - 1) // 2], np.ones(pairs.size, int)])


def _realizable(sigma: np.ndarray, dims: list[int], steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, counts = _common(sigma, dims[0], steps)
    growth = np.diff(dims[1:])
    if np.any(growth[:-1] > 0) and np.ptp(steps[1:]) > 1e-12 * steps[1]:
        raise ValueError("growing hidden widths need equal steps behind the first layer; use rates.predict")
    places = np.flatnonzero(growth)
    remaining = growth.size - 1 - places
    # where only the last layer grows, remaining is 0 there and the middle steps do not matter
    weights = steps[-1] * (1 + remaining / 2)
    outer = np.outer(weights, sigma**2).ravel()
    values = np.concatenate([values, [steps[0]], outer])
    counts = np.concatenate(
        [counts, [sigma.size * (dims[0] - sigma.size)], np.repeat(growth[places], sigma.size)]
    )
    return values, counts


def _with_residual(sigma, dims: list[int], steps, residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r, d0, dn = sigma.size, dims[0], dims[-1]
    if not np.all(np.isfinite(residual) & (residual >= 0)):
        raise ValueError(f"residual={list(residual)}; give finite singular values >= 0")
    residual = np.sort(residual[residual > 0])[::-1]
    if any(d != r for d in dims[1:-1]):
        raise ValueError(
            "a residual with unequal hidden widths is outside the closed form; use rates.predict"
        )
    if sigma[-1] <= 0:
        raise ValueError(
            f"a product of rank below the width {r} with a residual is no minimum; give {r} values"
        )
    if residual.size > min(d0, dn) - r:
        raise ValueError(
            f"{residual.size} residual singular values; at most min(d_0, d_N) - r = {min(d0, dn) - r}"
        )
    if residual[0] >= sigma[-1]:
        raise ValueError(
            f"residual singular value {residual[0]} is not below sigma_r={sigma[-1]}: not the best rank {r}"
        )
    values, counts = _common(sigma, d0, steps)
    mu, last = steps[0], steps[-1]
    s, a = np.meshgrid(residual, sigma)
    mean, half = (mu + last * a**2) / 2, np.hypot((mu - last * a**2) / 2, np.sqrt(mu * last) * s)
    high = mean + half
    low = mu * last * (a**2 - s**2) / high  # the determinant over the other root: no cancellation
    rest = [mu], last * sigma**2
    counted = [r * (d0 - r - residual.size)], np.full(r, dn - r - residual.size)
    values = np.concatenate([values, high.ravel(), low.ravel(), *rest])
    return values, np.concatenate([counts, np.ones(2 * s.size, int), *counted])
