r"""The partial isometry ``U V^T`` of a matrix: the polar factor that leaves null directions at zero.

Where :func:`project` fills the null space to reach the manifold, a descent direction has no business there.
Scaled cubic Newton-Schulz passes ``Y <- a (3 I - a^2 Y Y^T) Y / 2`` act on singular values alone, oddly: zero stays
zero, skew stays skew; their number is fixed beforehand, so that the result is differentiable. With
``a^2 = 3 / (1 + l + l^2)`` a pass maps ``[l, 1]`` into ``[p(l), 1]``, the best cubic for it. The largest values are
pushed back while the smallest grow; holding l above ``KEPT`` bounds that by a factor of 4, within which
such maps are stable, and costs little growth (2.47 a pass instead of 2.6).

Sources: Chen & Chow 2014 for the scaling; Nakatsukasa & Higham 2012 for stability; the bound KEPT is [derived].
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dlnjax._linalg import adjoint, frobenius, matmul, power_of_two, scaled, times_power_of_two
from dlnjax.stiefel._shape import check_matrix, gram, identity_like, is_tall, widened

KEPT = 0.1
#: Singular values below this (or eps), relative to the Frobenius norm, are not told from zero.
FLOOR = 1e-12


@functools.cache
def _scales(eps: float) -> tuple[float, ...]:
    """The a of every pass, for singular values from the floor to 1."""
    least, scales = max(eps, FLOOR), []
    while 1 - least > eps / 2:
        kept = max(least, KEPT)
        a = float(np.sqrt(3 / (1 + kept + kept * kept)))
        scales.append(a)
        least = min(a * (3 - (a * x) ** 2) * x / 2 for x in (least, 1.0))
    return tuple(scales)


@widened
def partial_isometry(matrix: jax.Array) -> jax.Array:
    r"""``U V^T`` over the nonzero singular values of ``U S V^T``: zero for zero, skew for skew.

    By products only, batched, differentiable where the rank is full. The spectral norm is at most 1 to rounding.
    Singular values below ``f ||Y||_F`` fade to zero, f = eps in float32, 1e-12 in float64; what rounding leaves
    in a null space grows by up to about ``10 / f``, so that in float32 a null direction is not clean.

    Args:
      matrix: ``(..., n, p)``, real or complex (then ``U V^H``), any scale.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> jnp.round(stiefel.partial_isometry(jnp.diag(jnp.array([3.0, 0.0]))), 5).tolist()
      [[1.0, 0.0], [0.0, 0.0]]
    """
    check_matrix("matrix", matrix)
    if is_tall(matrix):
        return adjoint(partial_isometry(adjoint(matrix)))
    y = times_power_of_two(matrix, -power_of_two(matrix))
    largest = jnp.max(jnp.abs(y), axis=(-2, -1))
    y = scaled(y, 1 / jnp.where(largest > 0, largest, 1))
    size = frobenius(y)
    y = scaled(y, 1 / jnp.where(size > 0, size, 1))

    def one_pass(y: jax.Array, a: jax.Array) -> tuple[jax.Array, None]:
        g = gram(y)
        return matmul(a / 2 * (3 * identity_like(g) - a * a * g), y), None

    scales = _scales(float(jnp.finfo(matrix.dtype).eps))
    return lax.scan(one_pass, y, jnp.asarray(scales, matrix.dtype))[0]
