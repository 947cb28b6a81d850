"""Link: a step along the curve of the retraction that meets Wolfe's conditions; what conjugate directions need.

Sufficient decrease alone lets steps be too short for conjugate gradients and L-BFGS to build on. The slope along the
curve is its exact derivative, forward through the retraction, so no transport enters; the bracket is
closed by secants on the slope, which is exact in one step on a quadratic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from dlnjax._types import PyTree
from dlnjax.optim._leaves import OnStart, need_loss, need_params
from dlnjax.optim._number import Number, is_known, number, start_of
from dlnjax.optim._precision import in_float32
from dlnjax.optim._product import Product, add, choose, scale
from dlnjax.optim._retract import Last

#: A trial stays this fraction of the bracket away from its ends; an open bracket grows by a factor within these.
MARGIN = 0.1
GROW = (1.5, 5.0)


class WolfeState(NamedTuple):
    """Attributes:
    step_size: t of the last step.
    slope: ``d/dt f`` at its start, 0 before the first.
    trials: evaluations of the loss and its slope the last search took.
    """

    step_size: Float[Array, ""]
    slope: Float[Array, ""]
    trials: Int[Array, ""]


class _Bracket(NamedTuple):
    t: jax.Array  # the next trial
    low: jax.Array  # short of the minimum, decrease enough
    low_slope: jax.Array
    high: jax.Array  # beyond it; infinite while unknown
    high_slope: jax.Array  # not positive: no secant
    found: jax.Array
    trials: jax.Array


def _next(b: _Bracket, t: jax.Array, slope: jax.Array, enough: jax.Array, limit: jax.Array) -> _Bracket:
    """The bracket after a trial at t with this slope."""
    found = enough & (jnp.abs(slope) <= limit)
    short = enough & (slope < 0)
    low, low_slope = jnp.where(short, t, b.low), jnp.where(short, slope, b.low_slope)
    high, high_slope = jnp.where(short, b.high, t), jnp.where(short, b.high_slope, slope)
    gap = b.low_slope - slope
    ahead = t + (t - b.low) * slope / jnp.where(gap < 0, gap, -1)
    grown = jnp.clip(jnp.where(gap < 0, ahead, GROW[1] * t), GROW[0] * t, GROW[1] * t)
    width = high - low
    secant = low + width * low_slope / jnp.where(high_slope > 0, low_slope - high_slope, 1)
    inside = jnp.clip(
        jnp.where(high_slope > 0, secant, low + width / 2), low + MARGIN * width, high - MARGIN * width
    )
    trial = jnp.where(jnp.isinf(high), grown, inside)
    return _Bracket(trial, low, low_slope, high, high_slope, found, b.trials + 1)


def wolfe_search(
    space: Product,
    *,
    step_size: Number = 1.0,
    first: Literal["unit", "slope"] = "unit",
    decrease: float = 1e-4,
    curvature: float = 0.9,
    max_trials: int = 25,
    on_start: OnStart = "raise",
) -> optax.GradientTransformationExtraArgs:
    r"""Step to ``Retr(-t u)`` with ``phi(t) <= phi(0) + c t phi'(0)`` and ``|phi'(t)| <= s |phi'(0)|``.

    Incoming updates u are tangent, ``<grad f, u> > 0``; ``phi(t) = f(Retr(-t u))`` and its derivative is exact
    [paper: Ring & Wirth 2012, equations 3 and 4: the strong Wolfe conditions on a manifold]. Where f no longer
    resolves the decrease, ``(2c - 1) phi'(0) >= phi'(t)`` stands in for the first condition
    [paper: Hager & Zhang 2005, equation 4.1], so that searches go on to rounding. If the trials run out the best
    point that passed the first condition is taken, or none.

    Args:
      space: projection and retraction of the tree.
      step_size: the first trial of the first search.
      first: later searches start from 1 (``unit``) or from the step of the last one times the ratio of the slopes.
      decrease, curvature: ``0 < c < s < 1``. max_trials: at least 1. on_start: see :func:`retract`.

    ``update`` needs ``value`` and ``value_fn``.

    Example:
      >>> import optax
      >>> from dlnjax import optim
      >>> space = optim.Product(constrained=True)
      >>> steepest = optax.chain(optim.project_to_tangent(), optim.wolfe_search(space))
    """
    step_size = number("step_size", step_size)
    if not 0 < decrease < curvature < 1:
        raise ValueError(f"decrease is {decrease}, curvature {curvature}; need 0 < decrease < curvature < 1")
    if not ((not is_known(step_size) or step_size > 0) and max_trials >= 1):
        raise ValueError(f"step_size is {step_size}, max_trials {max_trials}; need > 0 and >= 1")

    def init(params: PyTree) -> WolfeState:
        space.check(params, on_start)
        dtype = jax.dtypes.canonicalize_dtype(float)
        return WolfeState(
            start_of(step_size, params, dtype), start_of(0, params, dtype), start_of(0, params, jnp.int32)
        )

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        value: jax.Array | None = None,
        value_fn: Callable[..., jax.Array] | None = None,
        **extra: Any,
    ) -> tuple[PyTree, WolfeState]:
        need_params(params, "wolfe_search")
        value, loss = need_loss("wolfe_search", value, value_fn, extra)

        def along(t: jax.Array) -> jax.Array:
            return loss(add(params, space.move(params, scale(-t, updates))))

        def phi(t: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.jvp(along, (t,), (jnp.ones_like(t),))

        start = _slope(loss, params, updates)
        noise = 10 * float(jnp.finfo(value.dtype).eps) * jnp.abs(value)

        def body(b: _Bracket) -> _Bracket:
            f, slope = phi(b.t)
            enough = f <= value + decrease * b.t * start
            enough |= (f <= value + noise) & (slope <= (2 * decrease - 1) * start)
            fine = jnp.isfinite(f) & jnp.isfinite(slope)
            slope = jnp.where(fine, slope, 0)
            after = _next(b, b.t, slope, enough & fine, curvature * jnp.abs(start))
            return after._replace(t=jnp.where(after.found, b.t, after.t))

        guess = _guess(state, start, step_size, first)
        zero, off = jnp.zeros_like(value), jnp.zeros_like(value, bool)
        open_end = jnp.full_like(value, jnp.inf)
        bracket = _Bracket(guess, zero, start, open_end, zero, off, jnp.zeros_like(value, jnp.int32))
        descends = start < 0
        bracket = lax.while_loop(lambda b: ~b.found & (b.trials < max_trials) & descends, body, bracket)
        t = jnp.where(descends, jnp.where(bracket.found, bracket.t, bracket.low), 0)
        kept = jnp.where(t > 0, t, state.step_size.astype(t.dtype))
        dtype = state.step_size.dtype
        new = WolfeState(kept.astype(dtype), jnp.where(t > 0, start, 0).astype(dtype), bracket.trials)
        moved = space.move(params, scale(-t, updates))
        return choose(t > 0, moved, jax.tree.map(jnp.zeros_like, moved)), new

    return in_float32(WolfeSearch(init, update))


def _guess(state: WolfeState, slope: jax.Array, step_size: Number, first: str) -> jax.Array:
    """The first trial: the step that would change f as much as the last one did, or 1."""
    last, before = state.step_size.astype(slope.dtype), state.slope.astype(slope.dtype)
    later = last * before / slope if first == "slope" else jnp.ones_like(slope)
    return jnp.where(before < 0, later, jnp.asarray(step_size, slope.dtype))


def _slope(loss: Callable[[PyTree], jax.Array], params: PyTree, updates: PyTree) -> jax.Array:
    """``phi'(0) = -<grad f, u>``."""
    return -jax.jvp(loss, (params,), (updates,))[1]


class WolfeSearch(Last):
    """Chooses the step and finishes it, so nothing may follow."""
