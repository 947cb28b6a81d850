"""Products at full precision: the one place where the library says how matrices are multiplied.

JAX's default on GPU is TF32 and on TPU bfloat16, which would end a convergence study at 1e-3; every
product of the library goes through :func:`matmul`, so that no caller has to set a global option.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a @ b`` over the last two axes, leading axes broadcast, at the highest precision."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def transpose(a: jax.Array) -> jax.Array:
    """The last two axes swapped."""
    return jnp.swapaxes(a, -1, -2)


def sym(a: jax.Array) -> jax.Array:
    """``(a + a^T) / 2``."""
    return (a + transpose(a)) / 2


def skew(a: jax.Array) -> jax.Array:
    """``(a - a^T) / 2``."""
    return (a - transpose(a)) / 2


def frobenius(a: jax.Array) -> jax.Array:
    """Frobenius norm over the last two axes."""
    return jnp.sqrt(jnp.sum(jnp.square(a), axis=(-2, -1)))
