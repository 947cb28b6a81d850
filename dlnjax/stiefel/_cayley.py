r"""The Cayley retraction, with a p x p system solved by products.

With ``Omega = W^T xi`` (skew) and ``K = xi - W Omega``, Wen & Yin's 2p x 2p form collapses to

    Retr_W(xi) = -W + (2 W + K) T^{-1},   T = I - Omega/2 + K^T K/4

[derived]; T's symmetric part is at least I, so it is never singular. Square: ``W (I - Omega/2)^{-1} (I + Omega/2)``.
The inverse comes from ``V <- V (I + R + R^2)``, ``R = I - T V``. An entry above eps^{-1/3} shortens the step to
it: there the map is that close to its limit, and T can still be inverted in this precision. The bare map keeps
the drift of its point (4e-5 after 3000 float32 steps), so its result ends in one polar correction.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from dlnjax._linalg import frobenius, matmul, skew, transpose
from dlnjax.stiefel._polar import polished
from dlnjax.stiefel._shape import batch_as_axis, by_columns, gram, identity_like

PASSES = 150


def _start(t: jax.Array, identity: jax.Array) -> jax.Array:
    """``2 I - T`` where T is near I, else ``T^T / (||T||_1 ||T||_inf)``, from which the iteration always converges."""
    size = jnp.abs(t)
    bound = jnp.max(jnp.sum(size, axis=-1), axis=-1) * jnp.max(jnp.sum(size, axis=-2), axis=-1)
    near = (frobenius(t - identity) < 0.7)[..., None, None]
    return jnp.where(near, 2 * identity - t, transpose(t) / bound[..., None, None])


def _inverse(t: jax.Array) -> jax.Array:
    identity = identity_like(t)
    done = float(jnp.finfo(t.dtype).eps) ** (1 / 3) / 4

    def residual(v):
        r = identity - matmul(t, v)
        size = frobenius(r)
        return r, jnp.max(jnp.where(jnp.isnan(size), 0, size), initial=0)

    def improved(v, r):
        return v + matmul(v, r + matmul(r, r))

    def body(carry):
        v, r, _, k = carry
        v = improved(v, r)
        return v, *residual(v), k + 1

    v = _start(t, identity)
    v, r, _, _ = lax.while_loop(lambda c: (c[2] > done) & (c[3] < PASSES), body, (v, *residual(v), 0))
    return improved(v, r)


@batch_as_axis
def _cayley(point: jax.Array, tangent: jax.Array) -> jax.Array:
    largest = jnp.max(jnp.abs(tangent), axis=(-2, -1), keepdims=True)
    longest = float(jnp.finfo(tangent.dtype).eps) ** (-1 / 3)
    tangent = tangent * jnp.minimum(1, longest / jnp.maximum(largest, 1))
    omega = skew(matmul(transpose(point), tangent))
    identity = identity_like(omega)
    t = identity - omega / 2
    base = 2 * point
    if point.shape[-2] > point.shape[-1]:
        across = tangent - matmul(point, omega)
        t = t + gram(transpose(across)) / 4
        base = base + across
    return polished(matmul(base, _inverse(t)) - point)


@by_columns
def retract_cayley(point: jax.Array, tangent: jax.Array) -> jax.Array:
    """Cayley transform of the step: third order against the canonical geodesic, gauge equivariant.

    Args:
      point: ``(..., n, p)`` on the manifold.
      tangent: same shape and dtype, tangent at point.
    """
    return _cayley(point, tangent)
