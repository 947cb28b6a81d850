"""Products along a run of layers in logarithmic depth.

One small product leaves most of an accelerator idle, and those of a chain wait for one another. Taken in pairs, pairs
of pairs and so on they wait ``log2(k)`` times instead of k, for about twice the products. A CPU, which a single
product keeps busy, takes a chain one by one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlnjax._linalg import matmul


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
