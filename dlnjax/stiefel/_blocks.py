r"""Cholesky factors, triangular inverses and Gram-Schmidt by blocks of columns: matrix products but for small panels.

A loop over single columns reads the whole matrix p times; with blocks of ``BLOCK`` columns it is read p / BLOCK
times, by products, and only panels of BLOCK columns go column by column. LAPACK is left out because several
batched calls in one CPU program can wait for each other without end.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from dlnjax._linalg import adjoint, matmul, power_of_two, times_power_of_two
from dlnjax.stiefel._shape import identity_like

BLOCK = 64
#: A panel of the Cholesky factor that goes row by row: twice as many rows take four times the time.
PANEL = 32


def gram_schmidt(y: jax.Array) -> jax.Array:
    """The Q of ``Y = Q R``, any column scale; a column that depends on those before it to rounding may end at zero.

    Each block is orthogonalised against the blocks before it and within itself, twice.
    """
    y = times_power_of_two(y, -power_of_two(y, axis=-2))
    y = y / _positive(jnp.max(jnp.abs(y), axis=-2, keepdims=True)).astype(y.dtype)
    p = y.shape[-1]
    if p <= BLOCK:
        return _panel(y)
    y = jnp.concatenate([y, jnp.zeros((*y.shape[:-1], -p % BLOCK), y.dtype)], axis=-1)
    columns = lax.broadcasted_iota(jnp.int32, y.shape, y.ndim - 1)

    def body(k, q):
        """Block k // 2 for the first or the second time; until it is done, q holds the rest of y."""
        begin = k // 2 * BLOCK
        done = jnp.where(columns < begin, q, 0)
        block = lax.dynamic_slice_in_dim(q, begin, BLOCK, axis=-1)
        block = _panel(block - matmul(done, matmul(adjoint(done), block)))
        return lax.dynamic_update_slice_in_dim(q, block, begin, axis=-1)

    return lax.fori_loop(0, 2 * y.shape[-1] // BLOCK, body, y)[..., :p]


def _panel(y: jax.Array) -> jax.Array:
    """Classical Gram-Schmidt, each column orthogonalised twice: as good as Householder."""
    columns = lax.broadcasted_iota(jnp.int32, y.shape, y.ndim - 1)

    def body(k, q):
        """Column k // 2 for the first or the second time; until it is done, q holds the rest of y."""
        j = k // 2
        v = lax.dynamic_slice_in_dim(q, j, 1, axis=-1)
        done = jnp.where(columns < j, q, 0)
        v = v - matmul(done, matmul(adjoint(done), v))
        v = v / _positive(jnp.sqrt(jnp.sum((v * jnp.conj(v)).real, axis=-2, keepdims=True))).astype(v.dtype)
        return jnp.where(columns == j, v, q)

    return lax.fori_loop(0, 2 * y.shape[-1], body, y)


def _positive(x: jax.Array) -> jax.Array:
    return jnp.where(x == 0, 1, x)


def inverse_cholesky(g: jax.Array) -> jax.Array:
    """``R^{-1}`` for ``G = R^H R``: elimination on ``[G | I]``, a block of rows a turn, leaves ``R^{-H}`` on the right.

    Both halves share one array: at each turn the left one is nonzero where the right one is not yet.
    """
    p = g.shape[-1]
    if p <= BLOCK:
        return _inverse_cholesky(g)
    g = _bordered(g)
    columns = lax.broadcasted_iota(jnp.int32, (*g.shape[:-2], BLOCK, g.shape[-1]), g.ndim - 1)
    identity = identity_like(g)

    def body(k, both):
        begin = k * BLOCK
        row = lax.dynamic_slice_in_dim(both, begin, BLOCK, axis=-2)
        pivot = lax.dynamic_slice_in_dim(row, begin, BLOCK, axis=-1)
        here = (columns >= begin) & (columns < begin + BLOCK)
        row = jnp.where(here, lax.dynamic_slice_in_dim(identity, begin, BLOCK, axis=-2), row)
        row = matmul(adjoint(_inverse_cholesky(pivot)), row)
        below = adjoint(jnp.where(columns >= begin + BLOCK, row, 0))
        both = jnp.where(here[..., :1, :], 0, both) - matmul(below, row)
        return lax.dynamic_update_slice_in_dim(both, row, begin, axis=-2)

    both = lax.fori_loop(0, g.shape[-1] // BLOCK, body, g)
    return adjoint(jnp.tril(both))[..., :p, :p]


def _bordered(g: jax.Array) -> jax.Array:
    """G with the identity appended, up to a multiple of the block."""
    more = -g.shape[-1] % BLOCK
    pad = [(0, 0)] * (g.ndim - 2) + [(0, more)] * 2
    rows, columns = (lax.broadcasted_iota(jnp.int32, (g.shape[-1] + more,) * 2, k) for k in (0, 1))
    corner = ((rows == columns) & (rows >= g.shape[-1])).astype(g.dtype)
    padded = jnp.pad(g, pad)
    return padded + jnp.broadcast_to(corner, padded.shape)


def _inverse_cholesky(g: jax.Array) -> jax.Array:
    if g.shape[-1] == BLOCK:
        a = _inverse_cholesky(g[..., :PANEL, :PANEL])
        across = matmul(adjoint(a), g[..., :PANEL, PANEL:])
        d = _inverse_cholesky(g[..., PANEL:, PANEL:] - matmul(adjoint(across), across))
        upper = jnp.concatenate([a, -matmul(matmul(a, across), d)], axis=-1)
        return jnp.concatenate([upper, jnp.concatenate([jnp.zeros_like(a), d], axis=-1)], axis=-2)
    rows, columns = (lax.broadcasted_iota(jnp.int32, g.shape, g.ndim - k) for k in (2, 1))

    def body(j, carry):
        g, right = carry
        row = lax.dynamic_slice_in_dim(g, j, 1, axis=-2)
        other = lax.dynamic_slice_in_dim(right, j, 1, axis=-2)
        scale = lax.rsqrt(lax.dynamic_slice_in_dim(row, j, 1, axis=-1).real).astype(g.dtype)
        row, other = row * scale, other * scale
        below = jnp.where(rows > j, adjoint(row), 0)
        right = jnp.where(rows == j, other, right - below * other)
        return jnp.where((rows > j) & (columns > j), g - below * row, g), right

    _, right = lax.fori_loop(0, g.shape[-1], body, (g, identity_like(g)))
    return adjoint(right)


def inverse_upper(r: jax.Array) -> jax.Array:
    """``R^{-1}`` of an upper triangular R by back substitution, halves above :data:`BLOCK`; differentiable."""
    p = r.shape[-1]
    if p > BLOCK:
        half = p // 2
        a, d = inverse_upper(r[..., :half, :half]), inverse_upper(r[..., half:, half:])
        corner = -matmul(matmul(a, r[..., :half, half:]), d)
        below = jnp.zeros((*r.shape[:-2], p - half, half), r.dtype)
        upper = jnp.concatenate([a, corner], axis=-1)
        return jnp.concatenate([upper, jnp.concatenate([below, d], axis=-1)], axis=-2)
    identity = identity_like(r)
    rows = lax.broadcasted_iota(jnp.int32, r.shape, r.ndim - 2)

    def body(k, x):
        """Row j of the inverse, from those below it."""
        j = p - 1 - k
        row = lax.dynamic_slice_in_dim(r, j, 1, axis=-2)
        diagonal = lax.dynamic_slice_in_dim(row, j, 1, axis=-1)
        rest = matmul(row, jnp.where(rows > j, x, 0))
        return jnp.where(rows == j, (lax.dynamic_slice_in_dim(identity, j, 1, axis=-2) - rest) / diagonal, x)

    return lax.fori_loop(0, p, body, jnp.zeros_like(r))
