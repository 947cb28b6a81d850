"""Half precision: geometry and states are float32 wherever the params are smaller, and the point is rounded once.

A number of 8 bits cannot hold 0.999, a sum of squares or a tangent step. So a leaf of float16 or bfloat16 is widened
before anything is computed with it, states are made for the widened leaf, and only the new point is rounded. Leaves of
32 bits and more are never touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dlnjax._types import PyTree


def is_half(x: object) -> bool:
    """A floating array of fewer than 32 bits."""
    dtype = getattr(x, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def widen(x: PyTree) -> PyTree:
    """A half-precision array in float32; anything else as it is."""
    return x.astype(jnp.float32) if is_half(x) else x


def widen_like(update: PyTree, point: PyTree) -> PyTree:
    """A half-precision update in the dtype that its parameter is computed in."""
    return update.astype(widen(point).dtype) if is_half(update) and hasattr(point, "dtype") else update


def displacement(point: jax.Array, moved: jax.Array) -> jax.Array:
    """The update u in the point's dtype for which ``point + u`` is the moved point, rounded once.

    The rounded point comes first: its difference from the old one is exact unless an entry more than doubles or
    halves in this step, and then errs by half a unit in the last place of u.
    """
    if moved.dtype == point.dtype:
        return moved - point
    target = jnp.finfo(point.dtype)
    rounded = lax.reduce_precision(moved, target.nexp, target.nmant)
    return (rounded - point.astype(moved.dtype)).astype(point.dtype)


def _finished(params: PyTree, wide: PyTree, updates: PyTree) -> PyTree:
    return jax.tree.map(lambda p, w, u: displacement(p, w + u) if is_half(p) else u, params, wide, updates)


def _as_given(extra: dict[str, Any], params: PyTree) -> dict[str, Any]:
    """The loss as a function of params in the caller's dtypes, whatever the searches move in."""
    value_fn = extra.get("value_fn")
    if value_fn is None:
        return extra

    def loss(moved: PyTree, **more: Any) -> jax.Array:
        return value_fn(jax.tree.map(lambda p, m: m.astype(p.dtype), params, moved), **more)

    return extra | {"value_fn": loss}


def rounded_step(params: PyTree, updates: PyTree) -> PyTree:
    """Updates that were computed in float32, in the params' dtypes."""
    return _finished(params, jax.tree.map(widen, params), updates)


def in_float32(optimizer: optax.GradientTransformation, *, finishes: bool = True) -> Any:
    """The optimizer, computing in float32 for every leaf of half precision; its states are float32 there.

    Its updates are rounded with the point if it ``finishes`` the step, and stay float32 for the next link if not.
    """

    def init(params: PyTree) -> PyTree:
        return optimizer.init(jax.tree.map(widen, params))

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any) -> tuple[PyTree, PyTree]:
        update: Callable[..., Any] = optimizer.update
        if params is None or not any(map(is_half, jax.tree.leaves((updates, params)))):
            return update(updates, state, params, **extra)
        updates, wide = jax.tree.map(widen_like, updates, params), jax.tree.map(widen, params)
        moved, state = update(updates, state, wide, **_as_given(extra, params))
        return _finished(params, wide, moved) if finishes else moved, state

    return optimizer._replace(init=init, update=update)


class MasterState(NamedTuple):
    """Attributes:
    params: a float32 copy of each leaf of half precision; the point that steps are taken from.
    inner: the optimizer's own state.
    """

    params: PyTree
    inner: PyTree


def master_copy(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Keep a float32 copy of params in half precision; each step moves the copy and rounds it into the params.

    Without it a step of less than half a unit in the last place of a bfloat16 entry is lost, and training stalls
    there. Leaves of 32 bits and more have no copy.

    Args:
      optimizer: any transformation, a recipe of this package or of optax.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from dlnjax import optim, stiefel
      >>> point = stiefel.random(jax.random.key(0), (8, 4), "float32").astype(jnp.bfloat16)
      >>> optimizer = optim.master_copy(optim.rgd(1e-4, constrained=True, on_start="ignore"))
      >>> state = optimizer.init(point)
      >>> updates, state = optimizer.update(jnp.ones_like(point), state, point)
      >>> state.params.dtype, updates.dtype
      (dtype('float32'), dtype(bfloat16))
    """

    def init(params: PyTree) -> MasterState:
        copies = jax.tree.map(lambda p: widen(p) if is_half(p) else optax.MaskedNode(), params)
        return MasterState(copies, optimizer.init(jax.tree.map(widen, params)))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, **extra: Any
    ) -> tuple[PyTree, MasterState]:
        if params is None:
            raise ValueError("master_copy needs the current point: call update(gradients, state, params)")
        wide = jax.tree.map(lambda p, m: m if is_half(p) else p, params, state.params)
        updates = jax.tree.map(widen_like, updates, params)
        update = optax.with_extra_args_support(optimizer).update
        moved, inner = update(updates, state.inner, wide, **_as_given(extra, params))
        copies = jax.tree.map(
            lambda p, w, u: w + u if is_half(p) else optax.MaskedNode(), params, wide, moved
        )
        return _finished(params, wide, moved), MasterState(copies, inner)

    return optax.GradientTransformationExtraArgs(init, update)
