r"""Geodesics in closed form, by a matrix exponential made of products.

Embedded metric (Edelman, Arias & Smith 1998): with ``Omega = W^T xi`` and ``S = xi^T xi``,

    Exp_W(xi) = [W, xi] exp([[Omega, -S], [I, Omega]]) [I; 0] exp(-Omega).

Canonical metric: ``Exp_W(xi) = exp(A) W`` with ``A = U V^T``, ``U = [P xi, W]``, ``V = [W, -P xi]``,
``P = I - W W^T/2``, evaluated as ``W + U phi(V^T U) V^T W`` with ``phi(z) = (e^z - 1)/z``.
For square matrices both are ``W exp(Omega)``.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from dlnjax._linalg import matmul, skew, transpose
from dlnjax.stiefel._polar import polished
from dlnjax.stiefel._shape import batch_as_axis, by_columns, gram, identity_like

METRICS = ("embedded", "canonical")


@batch_as_axis
def _expm(a: jax.Array) -> jax.Array:
    """Scaling and squaring: the Taylor series of ``a / 2^s`` with norm at most 1/4, squared s times."""
    size = jnp.max(jnp.sum(jnp.abs(a), axis=-1), initial=0)
    squarings = jnp.clip(jnp.ceil(jnp.log2(jnp.maximum(size, 1e-3))) + 2, 0, 64).astype(jnp.int32)
    a = a * jnp.exp2(-squarings.astype(a.dtype))
    identity = identity_like(a)
    terms = 8 if a.dtype == jnp.float32 else 13

    def horner(i, s):
        return identity + matmul(a, s) / (terms - i).astype(a.dtype)

    series = lax.fori_loop(0, terms, horner, identity)
    return lax.fori_loop(0, squarings, lambda _, s: matmul(s, s), series)


def _columns(*blocks: jax.Array) -> jax.Array:
    return jnp.concatenate(blocks, axis=-1)


def _rows(*blocks: jax.Array) -> jax.Array:
    return jnp.concatenate(blocks, axis=-2)


def _embedded(point: jax.Array, tangent: jax.Array, omega: jax.Array) -> jax.Array:
    p = omega.shape[-1]
    block = _rows(_columns(omega, -gram(transpose(tangent))), _columns(identity_like(omega), omega))
    return matmul(matmul(_columns(point, tangent), _expm(block)[..., :p]), _expm(-omega))


def _canonical(point: jax.Array, tangent: jax.Array, omega: jax.Array) -> jax.Array:
    p = omega.shape[-1]
    half = tangent - matmul(point, omega) / 2
    u, v = _columns(half, point), _columns(point, -half)
    vw = matmul(transpose(v), point)
    corner = jnp.zeros_like(omega)
    block = _rows(_columns(matmul(transpose(v), u), vw), _columns(corner, corner, corner))
    return point + matmul(u, _expm(block)[..., : 2 * p, 2 * p :])


@by_columns
def exponential(
    point: jax.Array, tangent: jax.Array, *, metric: Literal["embedded", "canonical"] = "embedded"
) -> jax.Array:
    """The geodesic from ``point`` along ``tangent`` at time 1.

    Args:
      point: ``(..., n, p)`` on the manifold.
      tangent: same shape and dtype, tangent at point.
      metric: ``"embedded"`` (Euclidean, the default) or ``"canonical"`` (of the quotient O(n)/O(n-p)).

    Raises:
      ValueError: another metric.
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; choose one of {', '.join(METRICS)}")
    omega = skew(matmul(transpose(point), tangent))
    if point.shape[-2] == point.shape[-1]:
        moved = matmul(point, _expm(omega))
    else:
        moved = (_embedded if metric == "embedded" else _canonical)(point, tangent, omega)
    return polished(moved)
