"""The middle layers turned one after the other: what a CPU does fastest."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlnjax._linalg import apart, transpose
from dlnjax._linalg import small_matmul as matmul


def turned(rows: jax.Array, turn: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``engine._turned`` layer by layer."""

    def alone(function: Callable, *operands: jax.Array | int) -> jax.Array:
        # fused into what reads it, a slice or a sum would be computed again each time, and layers be copied for that
        return apart(function, function, *operands)

    def read(rows, i):
        return jax.lax.dynamic_index_in_dim(rows, i, -2, keepdims=False)

    def move(rows, i, turn):
        row = alone(read, rows, i)
        layer = row.reshape(turn.shape)
        change = matmul(layer, turn)  # by an identity, which carries it on as it is

        def add(row, change):
            # where this is a plain sum, XLA's other way of making loops takes it twice as slowly
            return row + jnp.where(i < counts[..., 0], change.reshape(row.shape), 0)

        moved = alone(add, row, change)
        rows = jax.lax.dynamic_update_index_in_dim(rows, moved, i, -2)
        return rows, matmul(change, transpose(layer)), moved.reshape(turn.shape)

    def one(i, carry):
        rows, turn, prefix = carry
        rows, turn, moved = move(rows, i, turn)
        return rows, turn, matmul(moved, prefix)

    def two(i, carry):
        return one(2 * i + 2, one(2 * i + 1, carry))

    # vmap over depth puts its axes in front of the others
    counts, most = count.reshape(count.shape + (1,) * (turn.ndim - count.ndim)), jnp.max(count)
    # the first layer is its own prefix; where none is in the middle it is an identity that stays
    carry = move(rows, 0, turn)
    # two at a time, or each prefix would be copied to where the next is to be read
    pairs = jnp.maximum(most - 1, 0) // 2
    carry = jax.lax.fori_loop(0, pairs, two, carry)
    return jax.lax.fori_loop(1 + 2 * pairs, most, one, carry)
