"""Products at full precision: the one place where the library says how matrices are multiplied.

JAX's default on GPU is TF32 and on TPU bfloat16, which would end a convergence study at 1e-3; every
product of the library goes through :func:`matmul`, so that no caller has to set a global option.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a @ b`` over the last two axes, leading axes broadcast, at the highest precision."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def fused(a: jax.Array, b: jax.Array) -> jax.Array:
    """:func:`matmul`, written out as a sum where the matrices are tiny, which fuses with what is around it.

    For widths 4 to 7 XLA's own product on a CPU takes 4 to 10 times the time (measured in batches of 16, float64 and
    float32), more than for width 8. What is computed twice may then be rounded in two ways: not for iterations that
    tell zero from rounding, such as the polar factor's.
    """
    sizes = (*a.shape[-2:], b.shape[-1])
    tiny = max(sizes) < 8 or math.prod(sizes) <= 128
    if tiny and a.ndim == b.ndim and a.shape[-1] == b.shape[-2]:
        return jnp.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2)
    return matmul(a, b)


def transpose(a: jax.Array) -> jax.Array:
    """The last two axes swapped."""
    return jnp.swapaxes(a, -1, -2)


def transposed(a: jax.Array) -> jax.Array:
    """``a^T`` written out, for the left factor of a product ``a^T b``.

    XLA on a CPU has no fast product of that form (measured on 2 cores in float32: 1.4 times the time of ``a b`` at
    width 64, 2 at 32, 3 to 6 at 16 and below) and makes one of a plain transposition. A sum it leaves alone.
    """
    return transpose(a) + 0 * a if a.shape[-1] == a.shape[-2] else transpose(a)


def sym(a: jax.Array) -> jax.Array:
    """``(a + a^T) / 2``."""
    return (a + transpose(a)) / 2


def skew(a: jax.Array) -> jax.Array:
    """``(a - a^T) / 2``."""
    return (a - transpose(a)) / 2


def frobenius(a: jax.Array) -> jax.Array:
    """Frobenius norm over the last two axes."""
    return jnp.sqrt(jnp.sum(jnp.square(a), axis=(-2, -1)))
