"""Sharded matrices: a step computed in another layout than the params are kept in.

The products of a step sum over rows. A matrix divided by rows needs sums of ``(p, p)`` between devices and no more; one
divided by columns would be gathered for every product. Laid out by rows once, it is exchanged once each way.
"""

from __future__ import annotations

from typing import Any

import jax
import optax

from dlnjax._types import PyTree
from dlnjax.optim._paths import matched


def lay_out(
    optimizer: optax.GradientTransformation, inside: PyTree, outside: PyTree
) -> optax.GradientTransformationExtraArgs:
    """The optimizer on params and gradients laid out by ``inside``; updates are laid out by ``outside`` again.

    States stay inside. A leaf divided by columns is exchanged three times a step (point, gradient, update) and never
    gathered.

    Args:
      optimizer: any transformation.
      inside, outside: a sharding for all leaves, or a tree (or a prefix of one) of shardings and None, matched by path.

    Example:
      >>> import jax
      >>> from jax.sharding import NamedSharding, PartitionSpec
      >>> from dlnjax import optim, stiefel
      >>> mesh = jax.make_mesh((1,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> rows, columns = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("devices",), (None, "devices")))
      >>> optimizer = optim.lay_out(optim.rgd(0.1, constrained=True), inside=rows, outside=columns)
      >>> point = jax.device_put(stiefel.random(jax.random.key(0), (8, 4), "float32"), columns)
      >>> updates, state = jax.jit(optimizer.update)(point, optimizer.init(point), point)
      >>> updates.sharding.is_equivalent_to(columns, 2)
      True
    """

    def init(params: PyTree) -> PyTree:
        return optimizer.init(_laid(params, inside))

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
        within = None if params is None else _laid(params, inside)
        update = optax.with_extra_args_support(optimizer).update
        moved, state = update(_laid(updates, inside), state, within, **extra)
        return _laid(_laid(moved, inside), outside), state  # all of the step inside, the last link too

    return optax.GradientTransformationExtraArgs(init, update)


def _laid(tree: PyTree, shardings: PyTree) -> PyTree:
    given = matched("shardings", shardings, tree, lambda x: x is None or isinstance(x, jax.sharding.Sharding))
    leaves = [
        leaf if sharding is None else jax.lax.with_sharding_constraint(leaf, sharding)
        for leaf, sharding in zip(jax.tree.leaves(tree), given, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)
