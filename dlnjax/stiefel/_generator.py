r"""The rotation that a tangent vector generates, as a skew matrix in a basis of the planes it turns.

With ``Omega = W^H xi`` (skew-Hermitian) and ``N = xi - W Omega`` the n x n matrix

    A = N W^H - W N^H + c W Omega W^H

is skew. ``(I - A/2)^{-1} (I + A/2) W`` with c = 1 is the Cayley retraction, ``exp(A) W`` with c = 1 the canonical
geodesic, ``exp(A) W exp(-Omega)`` with c = 2 the embedded one (Edelman, Arias & Smith 1998; Zimmermann & Hueper 2022).
A acts on the span of [W, N] alone. Functions of a skew matrix are normal: they lose no digits to the length of
the step but those that its rounding costs, in contrast to the p x p and 2p x 2p forms that divide by N.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlnjax._linalg import adjoint, matmul, skew, sym
from dlnjax.stiefel._polar import project


def columns(*blocks: jax.Array) -> jax.Array:
    return jnp.concatenate(blocks, axis=-1)


def rows(*blocks: jax.Array) -> jax.Array:
    return jnp.concatenate(blocks, axis=-2)


def rotated(
    function: Callable[[jax.Array], jax.Array], point: jax.Array, tangent: jax.Array, weight: float
) -> jax.Array:
    """``f(A) W`` for a tall W and f with ``f(0) = I``, from f of a skew matrix of at most 2p rows.

    Where ``n > 2p`` the basis is ``[W, Q]``, ``N = Q H`` the polar decomposition: A becomes
    ``[[c Omega, -H], [H, 0]]``. What fills Q where N is rank deficient does not matter, since H is zero there.

    Args:
      function: of a skew matrix ``(..., k, k)``.
      point: ``(..., n, p)``. tangent: same shape.
      weight: c.
    """
    n, p = point.shape[-2:]
    omega = skew(matmul(adjoint(point), tangent))
    normal = tangent - matmul(point, omega)
    if n <= 2 * p:
        inside = matmul(matmul(point, weight * omega / 2), adjoint(point))
        half = matmul(normal, adjoint(point)) + inside
        return matmul(function(half - adjoint(half)), point)
    normal = normal - matmul(point, matmul(adjoint(point), normal))
    basis = project(normal)
    length = sym(matmul(adjoint(basis), normal))
    generator = rows(columns(weight * omega, -length), columns(length, jnp.zeros_like(length)))
    moved = function(generator)[..., :p]
    return matmul(columns(point, basis), moved)
