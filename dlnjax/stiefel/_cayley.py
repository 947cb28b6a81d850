r"""The Cayley retraction, with a p x p system solved by products.

With ``Omega = W^H xi`` (skew) and ``K = xi - W Omega``, Wen & Yin's 2p x 2p form collapses to

    Retr_W(xi) = -W + (2 W + K) T^{-1},   T = I - Omega/2 + K^H K/4

[derived]; T's symmetric part is at least I, so it is never singular. Square: ``W (I - Omega/2)^{-1} (I + Omega/2)``.
The inverse comes from ``V <- V (I + R + R^2)``, ``R = I - T V``. T has the square of the step's condition: from entries
of 128 on the same rotation is taken from its skew generator A, ``(I - A/2)^{-1} (I + A/2) = polar(I + A/2)^2``.
The bare map keeps the drift of its point (4e-5 after 3000 float32 steps), so its result ends in one polar correction.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from dlnjax._linalg import (
    adjoint,
    frobenius,
    matmul,
    power_of_two,
    scaled,
    skew,
    spectral_estimate,
    sym,
    times_power_of_two,
)
from dlnjax.stiefel._blocks import BLOCK
from dlnjax.stiefel._generator import rotated
from dlnjax.stiefel._polar import polished, project
from dlnjax.stiefel._shape import batch_as_axis, by_columns, gram, identity_like, once

PASSES = 150
#: Steps with an entry from ``2^LONG`` on are taken by their skew generator.
LONG = 7
#: ``eps ||xi||`` above which no digit of the derivative is left.
LOST = 0.1


def _size(r: jax.Array) -> jax.Array:
    """The Frobenius norm; of large matrices a cautious estimate of the spectral norm, which it exceeds by far."""
    if r.shape[-1] <= BLOCK:
        return frobenius(r)
    return jnp.minimum(frobenius(r), 1.25 * spectral_estimate(r))


def _start(t: jax.Array, identity: jax.Array) -> jax.Array:
    """``2 I - T`` where T is near I, else ``T^H / (||T||_1 ||T||_inf)``, from which the iteration always converges."""
    size = jnp.abs(t)
    bound = jnp.max(jnp.sum(size, axis=-1), axis=-1) * jnp.max(jnp.sum(size, axis=-2), axis=-1)
    near = (_size(t - identity) < 0.7)[..., None, None]
    return jnp.where(near, 2 * identity - t, scaled(adjoint(t), 1 / bound))


def _inverse(t: jax.Array) -> jax.Array:
    identity = identity_like(t)
    done = float(jnp.finfo(t.dtype).eps) ** (1 / 3) / 4

    def residual(v):
        r = identity - matmul(t, v)
        size = _size(r)
        return r, jnp.max(jnp.where(jnp.isnan(size), 0, size), initial=0)

    def improved(v, r):
        return v + matmul(v, r + matmul(r, r))

    def last(v, r, size):
        if r.shape[-1] <= BLOCK:
            return improved(v, r)
        matters = jnp.square(size) > float(jnp.finfo(r.dtype).eps) / 8
        return v + matmul(v, once(matters, lambda s: s + matmul(s, s), r))

    def body(carry):
        v, r, _, k = carry
        v = improved(v, r)
        return v, *residual(v), k + 1

    v = _start(t, identity)
    v, r, size, _ = lax.while_loop(lambda c: (c[2] > done) & (c[3] < PASSES), body, (v, *residual(v), 0))
    return last(v, r, size)


def _parts(point: jax.Array, tangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``T`` and ``2 W + K``."""
    omega = skew(matmul(adjoint(point), tangent))
    t = identity_like(omega) - omega / 2
    base = 2 * point
    if point.shape[-2] > point.shape[-1]:
        across = tangent - matmul(point, omega)
        t = t + gram(adjoint(across)) / 4
        base = base + across
    return t, base


def _by_generator(point: jax.Array, tangent: jax.Array) -> jax.Array:
    exponent = power_of_two(tangent)

    def cayley(skew: jax.Array) -> jax.Array:
        half = project(times_power_of_two(identity_like(skew), -exponent) + skew / 2)
        return matmul(half, half)

    return rotated(cayley, point, times_power_of_two(tangent, -exponent), 1)


@batch_as_axis
def _moved(point: jax.Array, tangent: jax.Array) -> jax.Array:
    far = power_of_two(tangent) > LONG
    near = jnp.where(far, 0, tangent)
    t, base = _parts(point, near)
    moved = matmul(base, _inverse(t)) - point
    moved = lax.cond(
        jnp.any(far), lambda: jnp.where(far, _by_generator(point, tangent), moved), lambda: moved
    )
    return polished(moved)


@jax.custom_jvp
def _cayley(point: jax.Array, tangent: jax.Array) -> jax.Array:
    return _moved(point, tangent)


@_cayley.defjvp  # pyright: ignore[reportArgumentType]
def _cayley_jvp(primals, tangents):
    """``-dW + d(2 W + K) V - (2 W + K) V dT V``, tangent, with ``V = T^{-1} = (I + W^H Retr)/2``: products alone."""
    (point, tangent), (dpoint, dtangent) = primals, tangents
    moved = _cayley(point, tangent)
    inner = matmul(adjoint(point), moved)
    v = (identity_like(inner) + inner) / 2
    _, (dt, dbase) = jax.jvp(_parts, (point, tangent), (dpoint, dtangent))
    change = matmul(dbase - matmul(moved + point, dt), v) - dpoint
    change = change - matmul(moved, sym(matmul(adjoint(moved), change)))
    lost = float(jnp.finfo(tangent.dtype).eps) * frobenius(tangent) > LOST
    return moved, scaled(change, jnp.where(lost, jnp.nan, 1))


@by_columns
def retract_cayley(point: jax.Array, tangent: jax.Array) -> jax.Array:
    """Cayley transform of the step: third order against the canonical geodesic, gauge equivariant.

    Differentiable in both modes; where ``eps ||xi||`` is above 0.1 no digit of the derivative is left, and it is not a
    number.

    Args:
      point: ``(..., n, p)`` on the manifold.
      tangent: same shape and dtype, tangent at point; of any size: the result is that of a step within a few
        ``eps ||xi||`` of it.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> w, xi = jnp.array([[1.0], [0.0]]), jnp.array([[0.0], [1.0]])  # turns by 2 atan(1/2)
      >>> [round(float(x), 4) for x in stiefel.retract_cayley(w, xi)[:, 0]]
      [0.6, 0.8]
    """
    return _cayley(point, tangent)
