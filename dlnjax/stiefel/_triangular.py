r"""QR retractions without LAPACK: triangular corrections, explicit Cholesky, Gram-Schmidt for the far away.

All return the Q of ``W + xi = Q R`` with R upper triangular of positive diagonal. LAPACK is left out because
several batched calls in one CPU program can wait for each other for ever.

Near the manifold, with ``E = Y^T Y - I`` and ``up(E)`` its strict upper triangle plus half its diagonal,
``R^T R = I + E`` reads ``R = I + up(E) + O(E^2)``: the pass ``Y <- Y (I - up(E) + up(E)^2)`` multiplies Y from the
right by an upper triangular matrix of positive diagonal, so its limit is that very Q, and E is squared each
time [derived].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from dlnjax._linalg import adjoint, frobenius, matmul, power_of_two, times_power_of_two
from dlnjax.stiefel._polar import polished
from dlnjax.stiefel._shape import batch_as_axis, by_columns, gram, identity_like, once

#: Below this norm of E the triangular passes converge fast.
NEAR = 0.3
PASSES = 12


def _error(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    g = gram(adjoint(y))
    e = g - identity_like(g)
    return e, jnp.max(frobenius(e), initial=0)


def _upper_half(e: jax.Array) -> jax.Array:
    return jnp.triu(e, 1) + identity_like(e) * e / 2


def _triangular_passes(y: jax.Array) -> jax.Array:
    """Q of a y near the manifold: each pass squares the error; the last one needs no measurement."""
    done = float(jnp.finfo(y.dtype).eps) ** 0.5 / 4

    def corrected(y, e):
        up = _upper_half(e)
        return y + matmul(y, matmul(up, up) - up)

    def body(carry):
        y, e, _, k = carry
        y = corrected(y, e)
        return y, *_error(y), k + 1

    y, e, _, _ = lax.while_loop(lambda c: (c[2] > done) & (c[3] < PASSES), body, (y, *_error(y), 0))
    return corrected(y, e)


def _gram_schmidt(y: jax.Array) -> jax.Array:
    """Classical Gram-Schmidt, each column orthogonalised twice: as good as Householder, any column scale."""
    columns = lax.broadcasted_iota(jnp.int32, y.shape, y.ndim - 1)
    y = times_power_of_two(y, -power_of_two(y, axis=-2))

    def body(k, q):
        """Column k // 2 for the first or the second time; until it is done, q holds the rest of y."""
        j = k // 2
        v = lax.dynamic_slice_in_dim(q, j, 1, axis=-1)
        done = jnp.where(columns < j, q, 0)
        v = v - matmul(done, matmul(adjoint(done), v))
        v = v / _positive(jnp.sqrt(jnp.sum(v * v, axis=-2, keepdims=True)))
        return jnp.where(columns == j, v, q)

    return lax.fori_loop(0, 2 * y.shape[-1], body, y)


def _positive(x: jax.Array) -> jax.Array:
    return jnp.where(x == 0, 1, x)


@batch_as_axis
def _qr(y: jax.Array) -> jax.Array:
    y = once(~(_error(y)[1] <= NEAR), _gram_schmidt, y)
    return _settled(y)


def _settled(y: jax.Array) -> jax.Array:
    """Triangular passes; an input whose columns were dependent to rounding becomes a valid point first."""
    y = once(~(_error(y)[1] <= NEAR), polished, y)
    return _triangular_passes(y)


def _inverse_cholesky(g: jax.Array) -> jax.Array:
    """``R^{-1}`` for ``G = R^T R``: p elimination steps on ``[G | I]`` leave ``R^{-T}`` on the right."""
    rows, columns = (lax.broadcasted_iota(jnp.int32, g.shape, g.ndim - k) for k in (2, 1))

    def body(j, carry):
        g, right = carry
        row = lax.dynamic_slice_in_dim(g, j, 1, axis=-2)
        other = lax.dynamic_slice_in_dim(right, j, 1, axis=-2)
        scale = lax.rsqrt(lax.dynamic_slice_in_dim(row, j, 1, axis=-1))
        row, other = row * scale, other * scale
        below = jnp.where(rows > j, adjoint(row), 0)
        right = jnp.where(rows == j, other, right - below * other)
        return jnp.where((rows > j) & (columns > j), g - below * row, g), right

    _, right = lax.fori_loop(0, g.shape[-1], body, (g, identity_like(g)))
    return adjoint(right)


@batch_as_axis
def _cholesky_qr(y: jax.Array) -> jax.Array:
    q = matmul(y, _inverse_cholesky(gram(adjoint(y))))
    q = once(~(_error(q)[1] <= NEAR), lambda _: _gram_schmidt(y), q)
    return _settled(q)


@by_columns
def retract_qr(point: jax.Array, tangent: jax.Array) -> jax.Array:
    """The Q of ``W + xi`` with positive diagonal of R; second order accurate, not gauge equivariant.

    Args:
      point: ``(..., n, p)`` on the manifold.
      tangent: same shape and dtype, tangent at point; a step of any size.
    """
    return _qr(point + tangent)


@by_columns
def retract_cholesky_qr(point: jax.Array, tangent: jax.Array) -> jax.Array:
    """:func:`retract_qr` through an explicit Cholesky factor of the Gram matrix.

    Args:
      point: ``(..., n, p)`` on the manifold.
      tangent: same shape and dtype, tangent at point; a step of any size.
    """
    return _cholesky_qr(point + tangent)
