"""Link: follow the step along the manifold instead of the straight line; always the last one."""

from __future__ import annotations

from typing import Any

import jax
import optax

from dlnjax import stiefel
from dlnjax._types import Retraction
from dlnjax.optim._leaves import Axes, check_points, map_matrices


class Last(optax.GradientTransformationExtraArgs):
    """A transformation whose output is a finished displacement: :func:`dlnjax.optim.chain` keeps it last."""


def retract(
    retraction: Retraction = stiefel.retract_polar, *, axes: Axes = None
) -> optax.GradientTransformation:
    """Turn the step ``xi`` (already negative, as optax's sign has it) into ``Retr_W(xi) - W``.

    ``optax.apply_updates`` then lands on the manifold to rounding. Must be the last link: anything after it
    would scale or bend a chord of the manifold.

    Args:
      retraction: ``(point, tangent) -> point``, one of :mod:`dlnjax.stiefel` or your own.
      axes: which axes form the matrix, see :class:`MatrixAxes`; the last two by default.

    Raises:
      ValueError: at init, a (concrete) point off the manifold; in update, missing params, shapes. TypeError: dtypes.
    """

    def init(params: Any) -> Any:
        check_points("retract", params, axes)
        return optax.EmptyState()

    def displacement(point: jax.Array, step: jax.Array) -> jax.Array:
        return retraction(point, step) - point

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, Any]:
        return map_matrices(displacement, axes, "retract", params, updates), state

    return Last(init, update)
