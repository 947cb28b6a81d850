r"""Geodesics in closed form, by a matrix exponential made of products.

Embedded metric (Edelman, Arias & Smith 1998): with ``Omega = W^H xi`` and ``S = xi^H xi``,

    Exp_W(xi) = [W, xi] exp([[Omega, -S], [I, Omega]]) [I; 0] exp(-Omega).

Canonical metric: ``Exp_W(xi) = exp(A) W`` with ``A = U V^H``, ``U = [P xi, W]``, ``V = [W, -P xi]``,
``P = I - W W^H/2``, evaluated as ``W + U phi(V^H U) V^H W`` with ``phi(z) = (e^z - 1)/z``.
For square matrices both are ``W exp(Omega)``. These 2p x 2p blocks are not normal: from a step of length 4 on, and
wherever they would be larger than n x n, the geodesic comes from its skew generator (:mod:`._generator`).
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from dlnjax._linalg import adjoint, frobenius, matmul, scaled, skew, sym
from dlnjax.stiefel._generator import columns, rotated, rows
from dlnjax.stiefel._polar import polished
from dlnjax.stiefel._shape import batch_as_axis, by_columns, gram, identity_like

METRICS = ("embedded", "canonical")
#: Frobenius norm of a step above which the skew generator is used.
SHORT = 4.0
#: ``eps ||xi||`` above which no digit of the end point is left: angles count modulo 2 pi.
LOST = 0.1


def _squarings(a: jax.Array) -> jax.Array:
    """How often ``a`` is halved, matrix by matrix, to come to a norm of at most 1/4."""
    size = jnp.max(jnp.sum(jnp.abs(a), axis=-1), axis=-1)
    return jnp.clip(jnp.ceil(jnp.log2(jnp.maximum(size, 1e-3))) + 2, 0, _most(a.dtype)).astype(jnp.int32)


def _most(dtype: jnp.dtype) -> int:
    """Squarings that the longest step may need."""
    return 2 * jnp.finfo(dtype).nmant + 8


def _terms(dtype: jnp.dtype) -> int:
    return 8 if jnp.finfo(dtype).bits == 32 else 13


@jax.custom_jvp
def _expm(a: jax.Array) -> jax.Array:
    """Scaling and squaring: the Taylor series of ``a / 2^s`` with norm at most 1/4, squared s times."""
    return _expm_by_squaring(a)


@batch_as_axis
def _expm_by_squaring(a: jax.Array) -> jax.Array:
    squarings = _squarings(a)
    a = scaled(a, jnp.exp2(-squarings.astype(jnp.finfo(a.dtype).dtype)))
    identity, terms = identity_like(a), _terms(a.dtype)

    def horner(i, s):
        return identity + matmul(a, s) / (terms - i).astype(a.dtype)

    def squared(k, s):
        return jnp.where((k < squarings)[..., None, None], matmul(s, s), s)

    series = lax.fori_loop(0, terms, horner, identity)
    return lax.fori_loop(0, jnp.max(squarings, initial=0), squared, series)


@_expm.defjvp  # pyright: ignore[reportArgumentType]
def _expm_jvp(primals, tangents):
    (a,), (da,) = primals, tangents
    return _expm(a), _frechet(a, da)


def _frechet(a: jax.Array, da: jax.Array) -> jax.Array:
    """The derivative of exp at a along da: each step of scaling and squaring beside its own derivative.

    Loops of fixed length, whose turns beyond the last squaring are skipped, so that reverse mode works too.
    """
    squarings, identity, terms = _squarings(a), identity_like(a), _terms(a.dtype)
    down = jnp.exp2(-squarings.astype(jnp.finfo(a.dtype).dtype))
    a, da = scaled(a, down), scaled(da, down)
    s, ds = identity, jnp.zeros_like(a)
    for k in range(terms, 0, -1):
        s, ds = identity + matmul(a, s) / k, (matmul(da, s) + matmul(a, ds)) / k

    def square(carry, within):
        s, ds = carry
        within = within[..., None, None]
        doubled = matmul(s, ds) + matmul(ds, s)
        return jnp.where(within, matmul(s, s), s), jnp.where(within, doubled, ds)

    def turn(carry, k):
        within = k < squarings
        return lax.cond(jnp.any(within), square, lambda carry, _: carry, carry, within), None

    return lax.scan(turn, (s, ds), jnp.arange(_most(a.dtype), dtype=jnp.int32))[0][1]


def _embedded(point: jax.Array, tangent: jax.Array) -> jax.Array:
    omega = skew(matmul(adjoint(point), tangent))
    p = omega.shape[-1]
    block = rows(columns(omega, -gram(adjoint(tangent))), columns(identity_like(omega), omega))
    return matmul(matmul(columns(point, tangent), _expm(block)[..., :p]), _expm(-omega))


def _canonical(point: jax.Array, tangent: jax.Array) -> jax.Array:
    omega = skew(matmul(adjoint(point), tangent))
    p = omega.shape[-1]
    half = tangent - matmul(point, omega) / 2
    u, v = columns(half, point), columns(point, -half)
    vw = matmul(adjoint(v), point)
    corner = jnp.zeros_like(omega)
    block = rows(columns(matmul(adjoint(v), u), vw), columns(corner, corner, corner))
    return point + matmul(u, _expm(block)[..., : 2 * p, 2 * p :])


_BY_BLOCKS = {"embedded": _embedded, "canonical": _canonical}


def _by_generator(point: jax.Array, tangent: jax.Array, metric: str) -> jax.Array:
    if metric == "canonical":
        return rotated(_expm, point, tangent, 1)
    omega = skew(matmul(adjoint(point), tangent))
    return matmul(rotated(_expm, point, tangent, 2), _expm(-omega))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _narrow(point: jax.Array, tangent: jax.Array, metric: str) -> jax.Array:
    """Where ``n > 2p``: by blocks if short, by the generator if long; the derivative by blocks."""

    @batch_as_axis
    def moved(point: jax.Array, tangent: jax.Array) -> jax.Array:
        far = ~(frobenius(tangent) <= SHORT)[..., None, None]
        near = _BY_BLOCKS[metric](point, jnp.where(far, 0, tangent))

        def by_generator() -> jax.Array:
            return jnp.where(far, _by_generator(point, tangent, metric), near)

        return lax.cond(jnp.any(far), by_generator, lambda: near)

    return moved(point, tangent)


@_narrow.defjvp  # pyright: ignore[reportArgumentType]
def _narrow_jvp(metric, primals, tangents):
    moved = _narrow(*primals, metric)
    _, change = jax.jvp(_BY_BLOCKS[metric], primals, tangents)
    lost = float(jnp.finfo(moved.dtype).eps) * jnp.square(frobenius(primals[1])) > LOST
    return moved, scaled(change, jnp.where(lost, jnp.nan, 1))


def _geodesic(point: jax.Array, tangent: jax.Array, metric: str) -> jax.Array:
    n, p = point.shape[-2:]
    lost = ~(float(jnp.finfo(point.dtype).eps) * frobenius(tangent) <= LOST)
    tangent = jnp.where(lost[..., None, None], 0, tangent)
    if n == p:
        moved = matmul(point, _expm(skew(matmul(adjoint(point), tangent))))
    elif n <= 2 * p:
        moved = _by_generator(point, tangent, metric)
    else:  # both forms are the same function of what is tangent, and of nothing else
        tangent = tangent - matmul(point, sym(matmul(adjoint(point), tangent)))
        moved = _narrow(point, tangent, metric)
    return scaled(polished(moved), jnp.where(lost, jnp.nan, 1))


@by_columns
def exponential(
    point: jax.Array, tangent: jax.Array, *, metric: Literal["embedded", "canonical"] = "embedded"
) -> jax.Array:
    """The geodesic from ``point`` along ``tangent`` at time 1, to a few ``eps ||xi||_F``.

    Differentiable in both modes; for ``n > 2p`` the derivative is right to ``eps ||xi||_F^2``. Where that error, of the
    value or the derivative, is above 0.1 (a float32 step of length 8e5 and more, a float64 one of 5e14), no
    digit is left, and the result is not a number.

    Args:
      point: ``(..., n, p)`` on the manifold.
      tangent: same shape and dtype, tangent at point.
      metric: ``"embedded"`` (Euclidean, the default) or ``"canonical"`` (of the quotient O(n)/O(n-p)).

    Raises:
      ValueError: another metric.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
      >>> end = stiefel.exponential(jnp.eye(2), jnp.pi / 2 * turn)  # a quarter of a turn
      >>> bool(jnp.allclose(end, turn, atol=1e-6))
      True
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; choose one of {', '.join(METRICS)}")
    return _geodesic(point, tangent, metric)
