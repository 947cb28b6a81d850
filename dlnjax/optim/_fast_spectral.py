r"""The steepest rotation in a few products: Muon's direction by five passes of the best quintic polynomials.

For tall W write the gradient as ``G = W N + C``, ``W^T C = 0``, and ``A = skew(N)``. The skew map of
:mod:`dlnjax.optim._muon`, ``S = skew(G W^T) = W A W^T + (C W^T - W C^T)/2``, takes the span of [W C] into itself:

    S [W C] = [W C] K,    K = [[A, -C^T C / 2], [I / 2, 0]],

so that ``f(S) W = [W C] f(K) [I; 0]`` for every odd polynomial f, with no basis of C and no transposed factor. A pass
maps the singular values of S by ``x (a + b x^2 + c x^4)``. The coefficients are the best ones: each pass minimises the
largest distance from 1 over the interval that the passes before have left [paper: Amsel, Persson, Musco & Gower 2025,
"The Polar Express"; the form for a tangent space is derived]. The largest singular value is bounded by
``(tr S^4)^{1/4}``, which the first product has at hand.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax._linalg import adjoint, frobenius, matmul, skew, transpose

#: Five passes take singular values of [LEAST, 1] times their bound into [1 - BAND, 1 + BAND]; smaller ones stay below.
PASSES, LEAST, BAND = 5, 3e-3, 5e-3


@functools.cache
def coefficients(passes: int = PASSES, least: float = LEAST) -> tuple[tuple[float, float, float], ...]:
    """``(a, b, c)`` of every pass, by Remez's exchange of four points of the interval."""
    low, high, out = least, 1.0, []
    for _ in range(passes):
        *numbers, error = _best(low, high)
        out.append(tuple(numbers))
        low, high = 1 - error, 1 + error
    return tuple(out)


def _best(low: float, high: float) -> tuple[float, float, float, float]:
    """The odd quintic nearest to 1 on an interval, and how near: its error alternates at four points."""
    inner, best = np.array([(3 * low + high) / 4, (low + 3 * high) / 4]), np.zeros(4)
    for _ in range(100):
        points, before = np.array([low, inner[0], inner[1], high]), best
        rows = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        best = np.linalg.solve(rows, np.ones(4))
        a, b, c, _error = best
        inner = np.sqrt((-3 * b + np.array([-1, 1]) * np.sqrt(9 * b * b - 20 * a * c)) / (10 * c))
        if abs(best[3] - before[3]) < 1e-15:
            break
    a, b, c, error = map(float, best)
    return a, b, c, error


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """At the hardware's own pace (bfloat16 on a TPU): a direction needs no more digits than its band."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.DEFAULT)


def _applied(square: jax.Array, start: jax.Array) -> jax.Array:
    """``f(M) V`` for the polynomial f of all passes, M similar to a skew matrix; zero for zero.

    The last pass meets V alone: three products of its width in place of three of M's.
    """
    powers = _product(square, square)
    fourth = jnp.sum(powers * transpose(powers), axis=(-2, -1), keepdims=True).real  # tr M^4
    bound = (jnp.maximum(fourth, jnp.finfo(fourth.dtype).tiny) ** 0.25).astype(square.dtype)
    square, powers = square / bound, powers / jnp.square(bound)
    *all_but_last, (a, b, c) = coefficients()
    for k, (a_k, b_k, c_k) in enumerate(all_but_last):
        powers = _product(square, square) if k else powers
        # M (a - b M^2 + c M^4): M^T = -M up to the similarity
        square = a_k * square + _product(square, c_k * _product(powers, powers) - b_k * powers)
    once = _product(square, start)
    twice = _product(square, _product(square, once))
    return a * once - b * twice + c * _product(square, _product(square, twice))


def fast_direction(point: jax.Array, gradient: jax.Array) -> jax.Array:
    r"""``f(S) W`` with f(x) within ``BAND`` of 1 for singular values of S above ``LEAST`` of their bound.

    Args:
      point: ``(..., n, p)``, n >= p, on the manifold. gradient: same shape, projected or not.
    """
    largest = jnp.max(jnp.abs(gradient), axis=(-2, -1), keepdims=True)
    gradient = gradient / jnp.where(largest > 0, largest, 1).astype(
        gradient.dtype
    )  # products of four gradients keep their range
    n, p = point.shape[-2:]
    if n <= 2 * p:
        return _applied(skew(matmul(gradient, adjoint(point))), point)
    inner = matmul(adjoint(point), gradient)
    across = gradient - matmul(point, inner)
    size = frobenius(across)[..., None, None] / p**0.5
    size = jnp.where(size > 0, size, 1).astype(point.dtype)
    across = across / size  # columns of about one
    gram = matmul(adjoint(across), across)
    one = jnp.broadcast_to(jnp.eye(p, dtype=point.dtype), gram.shape)
    zero = jnp.zeros_like(gram)
    top = jnp.concatenate([skew(inner), -size / 2 * gram], axis=-1)
    bottom = jnp.concatenate([size / 2 * one, zero], axis=-1)
    start = jnp.concatenate([one, zero], axis=-2)
    found = _applied(jnp.concatenate([top, bottom], axis=-2), start)
    along, aside = found[..., :p, :], found[..., p:, :]
    return matmul(point, skew(along)) + matmul(across, aside)
