r"""The rotation that a polar step is, and powers of it: by its logarithm where the step is small.

A skew K of eigenvalues ``i k`` has ``polar(I + K) = exp(atanh K)``, since ``(1 + ik) / |1 + ik| = exp(i atan k)``. So

.. math:: \mathrm{polar}(I + K)^n = \exp\bigl(n\,(K + K^3/3 + K^5/5 + \dots)\bigr),

and its cost follows the angle n k that the rotations come to, which a stable step keeps about the same at every depth,
instead of the number n. Where K is too large for two terms of the logarithm the power is taken by squarings. [derived]
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import stiefel
from dlnjax._linalg import frobenius
from dlnjax._linalg import small_matmul as matmul
from dlnjax._types import Count
from dlnjax.stiefel._polar import correction, reach
from dlnjax.stiefel._shape import batch_as_axis, identity_like

#: Steps between two projections of what only rotations move; the rounding of so many adds up to a few units.
POLISH_EVERY = 32
#: Terms of the exponential, by the bytes of a number: a larger angle is halved first.
_TERMS = {4: 5, 8: 8}


@batch_as_axis
def turn(skew: jax.Array) -> jax.Array:
    """``polar(I + K) - I``, to rounding of K itself: two products where the step is small.

    ``E = I - (I + K)(I + K)^T = K^2``, so that with ``(I - E)^{-1/2} = I + C/2`` it is ``K + (C + K C)/2``.

    Args:
      skew: K, ``(..., r, r)``, of any size.
    """
    e = matmul(skew, skew)
    size = frobenius(e)

    def small():
        c = correction(e, size)
        return skew + (c + matmul(skew, c)) / 2

    def large():
        identity = identity_like(skew)
        return stiefel.retract_polar(identity, skew) - identity

    return jax.lax.cond(jnp.all(size <= reach(3, e.dtype)), small, large)


def turns(
    skew: jax.Array, exponent: Count, by_squaring: Callable[[jax.Array, Count], jax.Array]
) -> jax.Array:
    """``polar(I + K)^n - I``.

    Args:
      skew: K, ``(..., r, r)``.
      exponent: n >= 0, one number or one a matrix; may be traced.
      by_squaring: ``(K, n) -> polar(I + K)^n`` for any K, ``(r, r)``.
    """

    @batch_as_axis
    def power(skew: jax.Array, exponent: jax.Array) -> jax.Array:
        size = frobenius(skew) / np.sqrt(2).astype(skew.dtype)  # bounds the eigenvalues, which come in pairs
        times = jnp.broadcast_to(exponent, size.shape).astype(skew.dtype)
        enough = jnp.finfo(skew.dtype).eps / 2
        near = jnp.all(times * size**5 / 5 <= enough)
        cubic = jnp.any(times * size**3 / 3 > enough)

        def small(skew):
            angle = jax.lax.cond(cubic, lambda k: k + matmul(matmul(k, k), k) / 3, lambda k: k, skew)
            return _exponential(angle, times, jnp.max(times * size))

        def large(skew):
            squared = by_squaring
            for _ in skew.shape[:-2]:
                squared = jax.vmap(squared, (0, 0 if exponent.ndim else None))
            # squarings leave the rounding of n products
            return stiefel.project(squared(skew, exponent)) - identity_like(skew)

        return jax.lax.cond(near, small, large, skew)

    return power(skew, jnp.asarray(exponent, jnp.int32))


def _exponential(skew: jax.Array, times: jax.Array, size: jax.Array) -> jax.Array:
    """``exp(n X) - I`` by its series and squarings, no more of either than the largest angle of a batch needs.

    Args:
      skew: X, ``(..., r, r)``.
      times: n, ``(...)``.
      size: bounds ``||n X||_2`` over the batch.
    """
    dtype = skew.dtype
    most, half = _TERMS[dtype.itemsize], float(jnp.finfo(dtype).eps) / 2
    reach = [(math.factorial(k) * half) ** (1 / k) for k in range(2, most + 2)]  # up to which k - 1 terms do
    halvings = jnp.ceil(jnp.log2(jnp.maximum(size / reach[-1], 1))).astype(jnp.int32)
    scale = jnp.exp2(-halvings.astype(dtype))
    terms = 1 + jnp.sum(size * scale > jnp.asarray(reach[:-1], dtype)).astype(jnp.int32)
    times = (times * scale)[..., None]
    row = skew.reshape(*skew.shape[:-2], -1)  # sums along rows, see layerwise.Layers

    def horner(i, sums):
        product = matmul(skew, sums.reshape(skew.shape))
        return times / (terms - 1 - i).astype(dtype) * (row + product.reshape(row.shape))

    # without the identity, whose rounding the squarings would double
    sums = jax.lax.fori_loop(0, terms - 1, horner, times / terms.astype(dtype) * row)
    return jax.lax.fori_loop(0, halvings, lambda _, d: 2 * d + matmul(d, d), sums.reshape(skew.shape))
