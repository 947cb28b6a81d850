r"""Near the manifold but not on it: the field that lands there, and how far a step may go.

With ``M = W^T W`` and ``E = M - I`` every direction ``A W``, A skew, keeps M to first order, on the
manifold or off it. The relative gradient is one of these; the attraction ``W E`` stands orthogonal to all of them and
is half the gradient of ``||E||^2 / 2``. Their sum needs no retraction, only a step small enough not to
leave the neighbourhood, for which there is a formula.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from dlnjax._linalg import (
    adjoint,
    frobenius,
    inner,
    matmul,
    power_of_two,
    scaled,
    skew,
    sym,
    times_power_of_two,
)
from dlnjax.stiefel._shape import by_columns, identity_like

METRICS = ("embedded", "canonical")
#: ``2^LONGEST`` is far beyond every safe step, and its fourth power still a float32.
LONGEST = 10


@by_columns
def relative_gradient(
    point: jax.Array, vector: jax.Array, metric: Literal["embedded", "canonical"] = "embedded"
) -> jax.Array:
    r"""The part ``A W`` of a gradient that leaves ``W^T W`` unchanged to first order; W need not be on the manifold.

    ``canonical``: ``A = S``, ``S = G W^T - W G^T``, on the manifold ``G - W G^T W``
    [paper: Ablin, Vary, Gao & Absil 2024, the relative gradient of the landing field]. ``embedded``:
    ``A = S - W W^T S W W^T / 2``, on the manifold ``P_W(G)`` [derived]; a descent direction while ``||W||_2^4 < 2``.

    Args:
      point: ``(..., n, p)`` of full rank.
      vector: ``G``, same shape.
      metric: whose gradient it is on the manifold.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> w, g = jnp.eye(3, 2), jnp.arange(6.0).reshape(3, 2)
      >>> same = stiefel.relative_gradient(w, g, "embedded"), stiefel.project_tangent(w, g)
      >>> bool(jnp.allclose(*same))
      True
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; choose one of {', '.join(METRICS)}")
    gram, product = matmul(adjoint(point), point), matmul(adjoint(point), vector)
    weights = adjoint(product)
    if metric == "embedded":
        weights = weights + matmul(skew(matmul(product, gram)), gram)
    return matmul(vector, gram) - matmul(point, weights)


@by_columns
def attraction(point: jax.Array, vector: jax.Array, strength: float | jax.Array = 1.0) -> jax.Array:
    """``vector + lambda W (W^T W - I)``: the normal part of the landing field, added to a tangent one.

    Args:
      point: ``(..., n, p)``. vector: same shape. strength: lambda.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> w = 2 * jnp.eye(2)  # W (W^T W - I) = 6 I
      >>> stiefel.attraction(w, jnp.zeros((2, 2)), 0.5).tolist()
      [[3.0, 0.0], [0.0, 3.0]]
    """
    return vector + jnp.asarray(strength).astype(point.dtype) * matmul(point, _error(point))


@by_columns
def newton_schulz(point: jax.Array, vector: jax.Array) -> jax.Array:
    r"""One cubic step from ``Y = W + vector`` towards the manifold: ``Y (3 I - Y^T Y) / 2``.

    With ``E = I - Y^T Y`` the new error is ``(3 E^2 + E^3) / 4``.

    Args:
      point: ``(..., n, p)``. vector: same shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> y = stiefel.newton_schulz(jnp.eye(2), 0.1 * jnp.eye(2))  # 1.1 (3 - 1.21) / 2
      >>> round(float(y[0, 0]), 4)
      0.9845
    """
    moved = point + vector
    return moved - matmul(moved, _error(moved)) / 2


@by_columns
def kept_near(point: jax.Array, vector: jax.Array, distance: float | jax.Array) -> jax.Array:
    r"""The longest safe ``t vector``, ``0 <= t <= 1``: ``||(W + t v)^T (W + t v) - I||_F <= distance``.

    With ``E = W^T W - I``, ``C = W^T v + v^T W`` and ``N = v^T v`` the error after the step is ``E + t C + t^2 N``.
    A vector that fits by ``||E + C|| + ||N||`` is returned as it is. Any other is first shortened so that the linear
    part does not overshoot, ``t <= -<E, C> / ||C||^2`` where that is positive; then t solves
    ``||N|| t^2 + (||E + C|| - ||E||) t = distance - ||E||`` [derived]. The safe step size of the landing papers, as
    their authors' code has it, is for ``v = -eta (A W + lambda W E)`` the same root with ``||v||^2`` in place of
    ``||N||`` and ``-2 eta lambda d (1 - d)``, d = ||E||, in place of ``||E + C|| - ||E||``; that bound holds up to
    ``eta = 1 / (2 lambda)``, where the code for square matrices caps the step (the one for tall matrices does not).

    Args:
      point: ``(..., n, p)`` with ``||W^T W - I||_F <= distance``.
      vector: same shape, of any scale. distance: in (0, 1).

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> w, step = jnp.eye(2), 9 * jnp.ones((2, 2))
      >>> kept = stiefel.kept_near(w, step, 0.5)
      >>> bool(stiefel.orthonormality_error(w + kept) < 0.501)
      True
    """
    vector = times_power_of_two(vector, jnp.minimum(LONGEST - power_of_two(vector), 0))
    error, change = _error(point), 2 * sym(matmul(adjoint(point), vector))
    room = jnp.maximum(distance - frobenius(error), 0)
    whole = _growth(error, change, vector)
    fits = whole.slope + whole.bent <= room
    shorter = jnp.where(fits, 1, _to_turning(error, change, vector))
    slope, bent = _growth(error, scaled(change, shorter), scaled(vector, shorter))
    root = jnp.sqrt(jnp.square(slope) + 4 * bent * room)
    rising = 2 * room / jnp.where(slope > 0, slope + root, 1)
    falling = (root - slope) / jnp.where(bent > 0, 2 * bent, 1)
    t = jnp.minimum(jnp.where(slope > 0, rising, falling), 1)
    return scaled(vector, shorter * jnp.where(fits, 1, t))


class _Growth(NamedTuple):
    """``||E + t C + t^2 N|| <= ||E|| + slope t + bent t^2`` for t in [0, 1]."""

    slope: jax.Array
    bent: jax.Array


def _growth(error: jax.Array, change: jax.Array, vector: jax.Array) -> _Growth:
    bent = frobenius(matmul(adjoint(vector), vector))
    return _Growth(frobenius(error + change) - frobenius(error), bent)


def _to_turning(error: jax.Array, change: jax.Array, vector: jax.Array) -> jax.Array:
    """The t at which ``||E + t C||`` is smallest, at most 1; 1 where C grows it, or where E or C is rounding."""
    towards, length = -inner(error, change), inner(change, change)
    rounding = 16 * vector.shape[-1] * float(jnp.finfo(vector.dtype).eps)
    real = (length > jnp.square(rounding * frobenius(vector))) & (frobenius(error) > rounding)
    turns = (towards > 0) & (towards < length) & real
    return jnp.where(turns, towards / jnp.where(turns, length, 1), 1)


def _error(point: jax.Array) -> jax.Array:
    gram = matmul(adjoint(point), point)
    return gram - identity_like(gram)
