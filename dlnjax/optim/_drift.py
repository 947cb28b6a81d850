"""Link: return to the manifold every k steps, for retractions and steps that drift."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Int

from dlnjax import stiefel
from dlnjax._types import PyTree
from dlnjax.optim._leaves import Axes, move_matrices
from dlnjax.optim._precision import in_float32
from dlnjax.optim._retract import Last


class DriftState(NamedTuple):
    """Attributes:
    steps: how many were taken.
    """

    steps: Int[Array, ""]


class DriftControl(Last):
    """The one transformation that may follow a retraction: it takes and returns a finished displacement."""


def control_drift(every: int, *, axes: Axes = None) -> optax.GradientTransformation:
    """Every k-th step, replace ``W + u`` by the nearest point; the other steps pass untouched.

    For retractions of your own that keep their point's rounding, or a plain step ``W + u`` corrected now and then.
    Those of :mod:`dlnjax.stiefel` remove the drift themselves.

    Args:
      every: k >= 1.
      axes: which axes form the matrix, see :class:`MatrixAxes`.

    Raises:
      ValueError: k < 1; in update, missing params or shapes that do not fit.

    Example:
      >>> import optax
      >>> from dlnjax import optim
      >>> straight = lambda point, step: point + step  # a "retraction" that drifts
      >>> optimizer = optim.chain(
      ...     optim.project_to_tangent(), optim.scale_by_step(0.1), optim.retract(straight), optim.control_drift(10)
      ... )
    """
    if every < 1:
        raise ValueError(f"every is {every}; give a number of steps of at least 1")

    def corrected(point: jax.Array, u: jax.Array) -> jax.Array:
        return stiefel.project(point + u)

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **_: object
    ) -> tuple[PyTree, DriftState]:
        count = jnp.asarray(optax.safe_increment(state.steps))
        due = count % every == 0

        def now(u: Any) -> PyTree:
            return move_matrices(corrected, axes, "control_drift", params, u)

        return lax.cond(due, now, lambda u: u, updates), DriftState(count)

    return in_float32(DriftControl(lambda params: DriftState(jnp.zeros((), jnp.int32)), update))
