"""Link: momentum that stays tangent, carried from point to point by projection."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlnjax import stiefel
from dlnjax._types import PyTree
from dlnjax.optim._leaves import Axes, check_leaf, map_matrices, need_params
from dlnjax.optim._number import Number, cast, check_decay, check_rounded
from dlnjax.optim._paths import named_leaves
from dlnjax.optim._precision import widen, widen_like


class MomentumState(NamedTuple):
    """Attributes:
    momentum: one tangent vector a leaf, at the point of the step before.
    """

    momentum: PyTree


def transport_momentum(
    decay: Number, *, nesterov: bool = False, axes: Axes = None
) -> optax.GradientTransformation:
    r"""``m <- beta P_W(m) + u``: heavy ball, whose old momentum is first projected on the new tangent space.

    With ``nesterov`` the update is ``u + beta m`` instead of m. Expects tangent updates (put it after
    :func:`project_to_tangent`); its outputs are tangent then.

    Args:
      decay: beta in [0, 1), a number or a scalar array.
      nesterov: look-ahead form, as in ``optax.trace``.
      axes: which axes form the matrix, see :class:`MatrixAxes`.

    Raises:
      ValueError: a number outside [0, 1); in update, missing params or shapes that do not fit.

    Example:
      >>> import optax
      >>> from dlnjax import optim
      >>> optimizer = optax.chain(  # optim.heavy_ball, for params that are all orthonormal
      ...     optim.project_to_tangent(), optim.transport_momentum(0.9), optim.scale_by_step(0.1), optim.retract()
      ... )
    """
    decay = check_decay("decay", decay)

    def init(params: PyTree) -> MomentumState:
        start = zeros("transport_momentum", params)
        jax.tree.map(lambda m: check_rounded("decay", decay, m), start)
        return MomentumState(start)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, MomentumState]:
        need_params(params, "transport_momentum")

        def moved(point: jax.Array, momentum: jax.Array, u: jax.Array) -> jax.Array:
            return cast(decay, u) * stiefel.transport(point, momentum) + u

        momentum = map_matrices(moved, axes, "transport_momentum", params, state.momentum, updates)
        if not nesterov:
            return momentum, MomentumState(momentum)
        updates = jax.tree.map(widen_like, updates, params)
        ahead = jax.tree.map(lambda u, m: u + cast(decay, u) * m, updates, momentum)
        return ahead, MomentumState(momentum)

    return optax.GradientTransformation(init, update)


def zeros(link: str, params: PyTree) -> PyTree:
    """A zero vector at every leaf, float32 at those of half precision, after a look at the leaves."""
    for name, leaf in named_leaves(params):
        check_leaf(link, name, leaf)
    return jax.tree.map(lambda leaf: jnp.zeros_like(widen(leaf)), params)
