"""Meshes with explicit axes: JAX will not guess there how a product is divided, so a step runs in automatic mode."""

from __future__ import annotations

from typing import Any

import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from dlnjax._types import PyTree


def explicit_axes(tree: PyTree) -> tuple[str, ...]:
    """The axes of explicit meshes along which some leaf's type is divided."""
    names: dict[str, None] = {}
    for leaf in (leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)):
        mesh = getattr(getattr(jax.typeof(leaf), "sharding", None), "mesh", None)
        if mesh is not None and not mesh.empty:
            pairs = zip(mesh.axis_names, mesh.axis_types, strict=True)
            names |= dict.fromkeys(name for name, kind in pairs if kind == AxisType.Explicit)
    return tuple(names)


def _shardings(tree: PyTree, mesh: Any) -> PyTree:
    """The division of every leaf; what was made without a mesh, as a count is, lies whole on every device."""

    def one(leaf: Any) -> NamedSharding:
        found = jax.typeof(leaf).sharding
        return NamedSharding(mesh, PartitionSpec()) if found.mesh.empty else found

    return jax.tree.map(one, tree)


def on_explicit_meshes(optimizer: optax.GradientTransformation) -> Any:
    """The optimizer, whose step runs in automatic mode where params lie on a mesh with explicit axes.

    Updates are divided as the params are, states as they were.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
        update = optax.with_extra_args_support(optimizer).update
        axes = explicit_axes(params) if params is not None else ()
        if not axes:
            return (
                update(updates, state, params, **extra) if extra else optimizer.update(updates, state, params)
            )
        arrays = {name: x for name, x in extra.items() if isinstance(x, jax.Array)}
        others = {name: x for name, x in extra.items() if name not in arrays}

        def step(updates: PyTree, state: PyTree, params: PyTree, arrays: PyTree) -> tuple[PyTree, PyTree]:
            return update(updates, state, params, **arrays, **others)

        mesh = next(m for m in (jax.typeof(w).sharding.mesh for w in jax.tree.leaves(params)) if not m.empty)
        divided = _shardings(params, mesh), _shardings(state, mesh)
        automatic: Any = jax.sharding.auto_axes(step, axes=axes, out_sharding=divided)
        return automatic(updates, state, params, arrays)

    return optimizer._replace(update=update)
