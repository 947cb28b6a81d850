"""Link: momentum that stays tangent, carried from point to point by projection."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlnjax import stiefel
from dlnjax.optim._leaves import Axes, check_leaf, map_matrices, named_leaves


class MomentumState(NamedTuple):
    """Attributes:
    momentum: one tangent vector a leaf, at the point of the step before.
    """

    momentum: Any


def transport_momentum(
    decay: float | jax.Array, *, nesterov: bool = False, axes: Axes = None
) -> optax.GradientTransformation:
    r"""``m <- beta P_W(m) + u``: heavy ball, whose old momentum is first projected on the new tangent space.

    With ``nesterov`` the update is ``u + beta m`` instead of m. Expects tangent updates (put it after
    :func:`project_to_tangent`); its outputs are tangent then.

    Args:
      decay: beta in [0, 1), a float or a scalar array.
      nesterov: look-ahead form, as in ``optax.trace``.
      axes: which axes form the matrix, see :class:`MatrixAxes`.

    Raises:
      ValueError: a float decay outside [0, 1); in update, missing params or shapes that do not fit.
    """
    check_decay("decay", decay)

    def init(params: Any) -> MomentumState:
        return MomentumState(zeros("transport_momentum", params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, MomentumState]:
        def moved(point: jax.Array, momentum: jax.Array, u: jax.Array) -> jax.Array:
            return cast(decay, u) * stiefel.transport(point, momentum) + u

        momentum = map_matrices(moved, axes, "transport_momentum", params, state.momentum, updates)
        if not nesterov:
            return momentum, MomentumState(momentum)
        ahead = jax.tree.map(lambda u, m: u + cast(decay, u) * m, updates, momentum)
        return ahead, MomentumState(momentum)

    return optax.GradientTransformation(init, update)


def zeros(link: str, params: Any) -> Any:
    """A zero vector at every leaf, after a look at the leaves."""
    for name, leaf in named_leaves(params):
        check_leaf(link, name, leaf)
    return jax.tree.map(jnp.zeros_like, params)


def cast(number: float | jax.Array, like: jax.Array) -> jax.Array:
    """A number in the dtype of a leaf, so that nothing promotes."""
    return jnp.asarray(number).astype(like.dtype)


def check_decay(name: str, decay: Any) -> None:
    if isinstance(decay, (int, float)) and not 0 <= decay < 1:
        raise ValueError(f"{name} is {decay}; it must lie in [0, 1)")
