"""Link: multiply by the negative step size, times one multiplier a layer, both held in the state.

Held in the state, a value is an argument of the compiled program: another step size is another input, not
another compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from dlnjax.optim._leaves import named_leaves

StepSize = float | jax.Array | Callable[[Any], Any]


class StepState(NamedTuple):
    """Attributes:
    steps: how many were taken.
    step_size: the step size of the next step (a schedule's value at ``steps``).
    scales: one multiplier a leaf, or None for 1 everywhere.
    """

    steps: Int[Array, ""]
    step_size: Float[Array, ""]
    scales: Any


def scale_by_step(step_size: StepSize, *, scales: Any = None) -> optax.GradientTransformation:
    """``u_i <- -mu s_i u_i``: the step, in optax's sign.

    Args:
      step_size: mu > 0: a float, a traced scalar, or a schedule (step count -> mu). A float lives in the state
        from init on; replace ``state.step_size`` to change it. An array wins over the state, as
        ``inject_hyperparams`` expects.
      scales: s_i, a pytree in the params' structure; None is 1. A leaf that is a run of k layers, ``(k, d, d)``, takes
        a scalar or an array ``(k,)``.

    Raises:
      ValueError: a negative or non-finite float; at init, scales that do not fit, with the leaf.
    """
    _check_step(step_size)

    def value(count: jax.Array) -> jax.Array:
        mu = step_size(count) if callable(step_size) else step_size
        return jnp.asarray(mu, dtype=getattr(mu, "dtype", jax.dtypes.canonicalize_dtype(float)))

    def init(params: Any) -> StepState:
        count = jnp.zeros((), jnp.int32)
        return StepState(count, value(count), None if scales is None else _fitted(scales, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, StepState]:
        del params
        if callable(step_size):
            mu = value(state.steps)
        else:
            mu = jnp.asarray(step_size) if _wins(step_size, updates) else state.step_size
        scaled = _scaled(updates, mu, state.scales)
        count = jnp.asarray(optax.safe_increment(state.steps))
        return scaled, StepState(count, value(count) if callable(step_size) else mu, state.scales)

    return optax.GradientTransformation(init, update)


def _check_step(step_size: Any) -> None:
    if callable(step_size) or isinstance(step_size, jax.Array):
        return
    if isinstance(step_size, bool) or not isinstance(step_size, (int, float)):
        raise TypeError(f"step_size is {step_size!r}; give a positive number, a scalar array or a schedule")
    if not 0 <= step_size < float("inf"):
        raise ValueError(
            f"step_size is {step_size!r}; it must be finite and not negative (the sign is optax's)"
        )


def _wins(step_size: Any, updates: Any) -> bool:
    """Whether the constructor's value overrules the state's: a traced one, or an array outside of any trace.

    A concrete array inside a trace would be baked into the program, so there the state's is used.
    """
    if not isinstance(step_size, jax.Array):
        return False
    return isinstance(step_size, Tracer) or not any(isinstance(u, Tracer) for u in jax.tree.leaves(updates))


def _fitted(scales: Any, params: Any) -> Any:
    """``scales`` as arrays of the leaves' dtypes, checked against the params."""
    structure = jax.tree.structure(params)
    if jax.tree.structure(scales) != structure:
        raise ValueError(
            f"scales has structure {jax.tree.structure(scales)} but params have {structure}; "
            "give one multiplier a leaf in the params' structure"
        )
    fitted = []
    for (name, leaf), scale in zip(named_leaves(params), jax.tree.leaves(scales), strict=True):
        array = jnp.asarray(scale, leaf.dtype)
        if array.shape not in ((), leaf.shape[:-2]):
            run = f" or of shape {leaf.shape[:-2]}" if leaf.ndim > 2 else ""
            raise ValueError(
                f"scales: leaf {name} has shape {array.shape}; for a parameter of shape {leaf.shape} "
                f"give a scalar{run}"
            )
        fitted.append(array)
    return jax.tree.unflatten(structure, fitted)


def _scaled(updates: Any, mu: jax.Array, scales: Any) -> Any:
    if scales is None:
        return jax.tree.map(lambda u: -mu.astype(u.dtype) * u, updates)

    def one(u: jax.Array, s: jax.Array) -> jax.Array:
        factor = -mu.astype(u.dtype) * s.astype(u.dtype)
        return (factor if s.ndim == 0 else factor[..., None, None]) * u

    return jax.tree.map(one, updates, scales)
