"""Link: multiply by the negative step size, times one multiplier a layer, both held in the state.

Held in the state, a value is an argument of the compiled program: another step size is another input, not
another compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from dlnjax._types import PyTree
from dlnjax.optim._complex import real_part_of
from dlnjax.optim._number import Number, is_known, number, own
from dlnjax.optim._paths import matched, named_leaves
from dlnjax.optim._precision import widen

StepSize = Number | np.ndarray | np.number | Callable[[PyTree], PyTree]


class StepState(NamedTuple):
    """Attributes:
    steps: how many were taken.
    step_size: the step size of the next step (a schedule's value at ``steps``).
    scales: one multiplier a leaf, or None for 1 everywhere.
    """

    steps: Int[Array, ""]
    step_size: Float[Array, ""]
    scales: PyTree


def scale_by_step(step_size: StepSize, *, scales: PyTree = None) -> optax.GradientTransformation:
    """``u_i <- -mu s_i u_i``: the step, in optax's sign.

    Args:
      step_size: mu > 0: a number, a traced scalar, or a schedule (step count -> mu). A number lives in the state
        from init on; replace ``state.step_size`` to change it. An array of JAX wins over the state, as
        ``inject_hyperparams`` expects.
      scales: s_i, a pytree in the params' structure; None is 1. A leaf that is a run of k layers, ``(k, d, d)``, takes
        a scalar or an array ``(k,)``.

    Raises:
      TypeError: no number. ValueError: a negative or non-finite one; at init, scales that do not fit, with the leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> link = optim.scale_by_step(0.1, scales={"w": 2.0})
      >>> updates, state = link.update({"w": jnp.ones(2)}, link.init({"w": jnp.zeros(2)}))
      >>> print(updates["w"])
      [-0.2 -0.2]
    """
    step_size = _checked(step_size)

    def value(count: jax.Array) -> jax.Array:
        return own(number("step_size", step_size(count)) if callable(step_size) else step_size)

    def init(params: PyTree) -> StepState:
        count = jnp.zeros((), jnp.int32)
        return StepState(count, value(count), None if scales is None else _fitted(scales, params))

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, StepState]:
        del params
        if callable(step_size):
            mu = value(state.steps)
        else:
            mu = own(step_size) if _wins(step_size, updates) else state.step_size
        scaled = _scaled(updates, mu, state.scales)
        count = jnp.asarray(optax.safe_increment(state.steps))
        return scaled, StepState(count, value(count) if callable(step_size) else mu, state.scales)

    return optax.GradientTransformation(init, update)


def _checked(step_size: object) -> PyTree:
    if callable(step_size):
        return step_size
    mu = number("step_size", step_size)
    if is_known(mu) and not 0 <= mu < float("inf"):
        raise ValueError(f"step_size is {mu!r}; it must be finite and not negative (the sign is optax's)")
    return mu


def _wins(step_size: object, updates: PyTree) -> bool:
    """Whether the constructor's value overrules the state's: a traced one, or an array outside of any trace.

    A concrete array inside a trace would be baked into the program, so there the state's is used.
    """
    if not isinstance(step_size, jax.Array):
        return False
    return isinstance(step_size, Tracer) or not any(isinstance(u, Tracer) for u in jax.tree.leaves(updates))


def _fitted(scales: PyTree, params: PyTree) -> PyTree:
    """``scales`` as arrays of their own in the leaves' dtypes, checked against the params."""
    fitted, given = [], matched("scales", scales, params)
    for (name, leaf), scale in zip(named_leaves(params), given, strict=True):
        array = jnp.array(scale, real_part_of(widen(leaf).dtype), copy=True)
        if array.shape not in ((), leaf.shape[:-2]):
            run = f" or of shape {leaf.shape[:-2]}" if leaf.ndim > 2 else ""
            raise ValueError(
                f"scales: leaf {name} has shape {array.shape}; for a parameter of shape {leaf.shape} "
                f"give a scalar{run}"
            )
        fitted.append(array)
    return jax.tree.unflatten(jax.tree.structure(params), fitted)


def _scaled(updates: PyTree, mu: jax.Array, scales: PyTree) -> PyTree:
    if scales is None:
        return jax.tree.map(lambda u: -mu.astype(u.dtype) * u, updates)

    def one(u: jax.Array, s: jax.Array) -> jax.Array:
        factor = -mu.astype(u.dtype) * s.astype(u.dtype)
        return (factor if s.ndim == 0 else factor[..., None, None]) * u

    return jax.tree.map(one, updates, scales)
