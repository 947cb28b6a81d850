"""A start off the manifold: projected before the first step, inside jit too, so that no link ever sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool

from dlnjax import stiefel
from dlnjax._types import PyTree
from dlnjax.optim._complex import takes_jax_gradients
from dlnjax.optim._explicit import on_explicit_meshes
from dlnjax.optim._leaves import Axes, LinkStart, OnStart, check_start, map_matrices, need_params
from dlnjax.optim._precision import in_float32
from dlnjax.optim._select import Labels, on


class StartState(NamedTuple):
    """Attributes:
    started: whether a step was taken.
    inner: the optimizer's own state.
    """

    started: Bool[Array, ""]
    inner: PyTree


def inside(on_start: OnStart) -> LinkStart:
    """What the links of a recipe do about the start they see: a projected one is checked like any other."""
    check_start(on_start)
    return "ignore" if on_start == "ignore" else "raise"


def complete(
    optimizer: optax.GradientTransformation, constrained: Labels, axes: Axes, on_start: OnStart
) -> PyTree:
    """A recipe's last concerns: its start, float32 at least, explicit meshes, gradients of complex leaves."""

    def project(tree: PyTree) -> PyTree:
        masked = on(constrained, optax.stateless(lambda _, points: nearest(points)))
        return masked.update(tree, masked.init(tree), tree)[0]

    def nearest(points: PyTree) -> PyTree:
        return map_matrices(stiefel.project, axes, "on_start", points)

    begun = from_projected(optimizer, project) if on_start == "project" else optimizer
    return takes_jax_gradients(on_explicit_meshes(in_float32(begun)))


def from_projected(optimizer: optax.GradientTransformation, project: Callable[[PyTree], PyTree]) -> Any:
    """The optimizer, whose first step begins at ``project(params)`` and takes the params from where they are."""

    def init(params: PyTree) -> StartState:
        return StartState(jnp.zeros((), bool), optimizer.init(project(params)))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, StartState]:
        need_params(params, "on_start='project'")
        base = lax.cond(state.started, lambda tree: tree, project, params)
        if extra.get("value_fn") is not None:  # the loss where the search begins
            others = {k: v for k, v in extra.items() if k not in ("value", "value_fn", "grad")}
            first = lambda tree: extra["value_fn"](tree, **others)  # noqa: E731
            extra = extra | {"value": lax.cond(state.started, lambda _: extra["value"], first, base)}
        update = optax.with_extra_args_support(optimizer).update
        moved, inner = update(updates, state.inner, base, **extra)
        out = jax.tree.map(lambda u, b, p: jnp.where(state.started, u, u + (b - p)), moved, base, params)
        return out, StartState(jnp.ones((), bool), inner)

    return optimizer._replace(init=init, update=update)
