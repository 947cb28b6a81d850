"""Steps chosen from the loss: Polyak's rule as a link, Armijo backtracking along the retraction as a last link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from dlnjax._types import PyTree
from dlnjax.optim._complex import square
from dlnjax.optim._leaves import need_loss, need_params
from dlnjax.optim._number import Number, cast, is_known, number, start_of
from dlnjax.optim._precision import widen
from dlnjax.optim._retract import Last


class ArmijoState(NamedTuple):
    """Attributes:
    step_size: the step the next search starts from.
    trials: evaluations of the loss the last search took.
    """

    step_size: Float[Array, ""]
    trials: Int[Array, ""]


def _norm_squared(tree: PyTree, like: jax.Array) -> jax.Array:
    return sum((jnp.sum(square(x)).astype(like.dtype) for x in jax.tree.leaves(tree)), jnp.zeros_like(like))


def _moved(params: PyTree, displacement: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, params, displacement)


def armijo_search(
    finish: optax.GradientTransformation,
    *,
    step_size: Number = 1.0,
    shrink: float = 0.5,
    grow: float = 2.0,
    decrease: float = 1e-4,
    max_trials: int = 40,
) -> optax.GradientTransformationExtraArgs:
    r"""Backtrack along the curve that ``finish`` draws until ``f(new) <= f - c t ||xi||^2``.

    Incoming updates are the Riemannian gradient ``xi``; trial displacements are ``finish(-t xi)``, ``finish`` being the
    stateless last link (:func:`retract` on the constrained leaves). ``t`` starts at ``grow`` times the step accepted
    before and shrinks by ``shrink``; if no trial passes, the params stay
    [paper: Armijo 1966; Absil, Mahony & Sepulchre 2008, section 4.2].

    ``update`` needs ``value`` (the loss at params) and ``value_fn`` (params -> loss), as optax's line searches do.

    Raises:
      ValueError: constants out of range; in update, missing params, ``value`` or ``value_fn``.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> link = optim.chain(optim.project_to_tangent(), optim.armijo_search(optim.retract()))  # optim.armijo
      >>> point, loss = jnp.eye(3, 2), lambda w: jnp.sum((w - jnp.ones((3, 2))) ** 2)
      >>> updates, _ = link.update(
      ...     2 * (point - 1), link.init(point), point, value=loss(point), value_fn=loss
      ... )
      >>> bool(loss(point + updates) < loss(point))
      True
    """
    for name, constant in (("shrink", shrink), ("decrease", decrease)):
        if not 0 < constant < 1:
            raise ValueError(f"{name} is {constant}; it must lie in (0, 1)")
    step_size = number("step_size", step_size)
    if not ((not is_known(step_size) or step_size > 0) and grow >= 1 and max_trials >= 1):
        raise ValueError(f"step_size {step_size}, grow {grow}, max_trials {max_trials}: need > 0, >= 1, >= 1")

    def init(params: PyTree) -> ArmijoState:
        finish.init(params)
        dtype = jax.dtypes.canonicalize_dtype(float)
        return ArmijoState(start_of(step_size / grow, params, dtype), start_of(0, params, jnp.int32))

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        value: jax.Array | None = None,
        value_fn: Callable[..., jax.Array] | None = None,
        **extra: Any,
    ) -> tuple[PyTree, ArmijoState]:
        need_params(params, "armijo_search")
        value, loss = need_loss("armijo_search", value, value_fn, extra)
        updates, finish_state = jax.tree.map(widen, updates), finish.init(params)
        slope = _norm_squared(updates, value)

        def displacement(t: jax.Array) -> PyTree:
            steps = jax.tree.map(lambda u: -cast(t, u) * u, updates)
            return finish.update(steps, finish_state, params)[0]

        def fails(t: jax.Array) -> jax.Array:
            new = loss(_moved(params, displacement(t)))
            return ~(new <= value - cast(decrease * t, value) * slope)

        def body(carry):
            t, _, k = carry
            t = t * shrink
            return t, fails(t), k + 1

        t = state.step_size * grow
        failed = fails(t)
        first = (t, failed, jnp.ones_like(failed, jnp.int32))
        t, failed, trials = lax.while_loop(lambda c: c[1] & (c[2] < max_trials), body, first)
        t = jnp.where(failed, 0, t)
        kept = jnp.where(failed, state.step_size * shrink, t)
        return displacement(t), ArmijoState(kept, trials)

    return ArmijoSearch(init, update)


class ArmijoSearch(Last):
    """Chooses the step and finishes it, so nothing may follow."""


class PolyakState(NamedTuple):
    """Attributes:
    step_size: the step just taken.
    """

    step_size: Float[Array, ""]


def scale_by_polyak(
    minimum: Number = 0.0, *, max_step_size: Number = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""``u <- -min{mu_max, (f - f*) / ||u||^2} u``: Polyak's step on the Riemannian gradient.

    [paper: Polyak 1969; the norm is that of the embedded metric over all leaves.]

    Args:
      minimum: f*, a lower bound of the loss that is attained.
      max_step_size: mu_max.

    ``update`` needs ``value``, the loss at params; without it a ValueError.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> link = optim.scale_by_polyak(minimum=0.0, max_step_size=10.0)
      >>> updates, state = link.update(jnp.array([3.0, 4.0]), link.init(None), value=jnp.array(12.5))
      >>> print(state.step_size, updates)
      0.5 [-1.5 -2. ]
    """
    minimum, max_step_size = number("minimum", minimum), number("max_step_size", max_step_size)

    def init(params: PyTree) -> PolyakState:
        return PolyakState(start_of(0, params, jax.dtypes.canonicalize_dtype(float)))

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, *, value: jax.Array | None = None, **_: object
    ):
        del params
        if value is None:
            raise ValueError("scale_by_polyak needs the loss: update(..., value=loss)")
        loss, updates = widen(jnp.asarray(value)), jax.tree.map(widen, updates)
        norm = _norm_squared(updates, loss)
        excess = jnp.maximum(loss - cast(minimum, loss), 0)
        step = jnp.minimum(excess / jnp.where(norm > 0, norm, 1), cast(max_step_size, loss))
        step = jnp.where(norm > 0, step, 0)
        scaled = jax.tree.map(lambda u: -cast(step, u) * u, updates)
        return scaled, PolyakState(cast(step, state.step_size))

    return optax.GradientTransformationExtraArgs(init, update)
