"""The middle layers turned many at once: products along chunks of a run in logarithmic depth.

One small product leaves most of an accelerator idle, and those of a chain wait for one another. Taken in pairs, pairs
of pairs and so on they wait ``log2(k)`` times instead of k, for about twice the products. A CPU, which a single
product keeps busy, takes them one by one (``serial``).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlnjax._linalg import small_matmul as matmul
from dlnjax._linalg import transpose
from dlnjax._types import Count
from dlnjax.stiefel._shape import identity_like

#: On an accelerator: layers moved at once, at most, and the widths up to which they are where they are ``DEEP`` or
#: more. Chosen, not measured.
CHUNK, NARROW, DEEP = 64, 64, 4


def applies(rows: jax.Array, like: jax.Array) -> bool:
    """Whether layers are moved many at once, on the devices JAX uses by default."""
    return jax.default_backend() != "cpu" and rows.shape[-2] >= DEEP and like.shape[-1] <= NARROW


def prefixes(layers: jax.Array) -> jax.Array:
    """``W_i ... W_1`` for every i of ``(..., k, r, r)``."""
    return jax.lax.associative_scan(lambda before, after: matmul(after, before), layers, axis=layers.ndim - 3)


def product(layers: jax.Array) -> jax.Array:
    """``W_k ... W_1`` of ``(..., k, r, r)``, k at least 1: k - 1 products."""
    while (count := layers.shape[-3]) > 1:
        even = count - count % 2
        pairs = matmul(layers[..., 1:even:2, :, :], layers[..., 0:even:2, :, :])
        layers = jnp.concatenate([pairs, layers[..., even:, :, :]], -3)
    return layers[..., 0, :, :]


def among(places: jax.Array, first: Count, count: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    """Which layers at ``places`` of runs with leading axes ``lead`` lie in ``[first, count)``, ``(*lead, size)``."""
    counts = jnp.broadcast_to(count.reshape(count.shape + (1,) * (len(lead) - count.ndim)), lead)[..., None]
    places = jnp.broadcast_to(places, (*lead, *places.shape))
    return (first <= places) & (places < counts)


def turned(rows: jax.Array, turn: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The layers turned in chunks: ``R_i - I = S (R_2 - I) S^T``, S the product of the layers before i in its chunk."""
    size = min(CHUNK, rows.shape[-2])

    def chunk(i, carry):
        rows, turn, prefix = carry
        # the last chunk reaches back over layers that are done
        start = jnp.minimum(i * size, rows.shape[-2] - size)
        layers = jax.lax.dynamic_slice_in_dim(rows, start, size, -2)
        layers = layers.reshape(*layers.shape[:-1], *turn.shape[-2:])
        places = start + jnp.arange(size, dtype=jnp.int32)
        left = among(places, i * size, count, rows.shape[:-2])
        left, identity = left[..., None, None], identity_like(layers)
        through = prefixes(jnp.where(left, layers, identity))
        before = jnp.concatenate([identity[..., :1, :, :], through[..., :-1, :, :]], -3)
        carried = matmul(matmul(before, turn[..., None, :, :]), transpose(before))
        moved = layers + jnp.where(left, matmul(layers, carried), 0)
        row = moved.reshape(*moved.shape[:-2], -1)
        rows = jax.lax.dynamic_update_slice_in_dim(rows, row, start, -2)
        whole = through[..., -1, :, :]
        turn = matmul(matmul(whole, turn), transpose(whole))
        return rows, turn, matmul(product(jnp.where(left, moved, identity)), prefix)

    chunks = (jnp.max(count) + size - 1) // size
    return jax.lax.fori_loop(0, chunks, chunk, (rows, turn, identity_like(turn)))
