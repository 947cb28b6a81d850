"""The polar retraction: the default of every recipe."""

from __future__ import annotations

import jax

from dlnjax.stiefel._polar import row_polar
from dlnjax.stiefel._shape import by_rows


@by_rows
def retract_polar(point: jax.Array, tangent: jax.Array) -> jax.Array:
    """Nearest point to ``W + xi``, ``(W + xi) (I + xi^T xi)^{-1/2}``, by products only, for any step size.

    Agrees with the embedded geodesic to third order, is non-expansive towards the manifold, commutes with the
    gauge, and removes the drift of earlier steps [paper: Absil & Malick 2012].

    Args:
      point: ``(..., n, p)`` on the manifold.
      tangent: same shape and dtype, tangent at point.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> w, xi = jnp.array([[1.0], [0.0]]), jnp.array([[0.0], [1.0]])  # turns by atan(1)
      >>> [round(float(x), 4) for x in stiefel.retract_polar(w, xi)[:, 0]]
      [0.7071, 0.7071]
    """
    return row_polar(point + tangent)[0]
