"""Trust-region Newton: solves the quadratic model by truncated conjugate gradients, one outer iteration an update.

For small problems and last digits: near a solution with a Hessian that is positive definite up to symmetries the
convergence is quadratic, down to rounding, at the cost of a Hessian-vector product (about two
gradients) an inner step. Directions along which the loss is constant (the gauge of a deep linear network) do no
harm: the gradient has no part along them and neither have the inner steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from dlnjax._types import PyTree
from dlnjax.optim._complex import conjugated
from dlnjax.optim._leaves import Axes, OnStart, need_loss, need_params
from dlnjax.optim._number import Number, is_known, number, start_of
from dlnjax.optim._product import Product, add, choose, inner, norm, scale
from dlnjax.optim._retract import AnyRetraction, Last
from dlnjax.optim._select import Labels
from dlnjax.optim._start import complete, inside


class TrustRegionState(NamedTuple):
    """Attributes:
    radius: of the next model's region, in the embedded metric.
    ratio: actual over predicted decrease of the last step.
    accepted: whether the last step was taken.
    inner_steps: Hessian-vector products it took.
    """

    radius: Float[Array, ""]
    ratio: Float[Array, ""]
    accepted: Bool[Array, ""]
    inner_steps: Int[Array, ""]


class Truncated(NamedTuple):
    """A step of the model, and what is known of it; also the carry of the inner loop.

    Attributes:
      step: ``eta``.
      curved: ``H eta``.
      boundary: whether it ends on the region's boundary.
      inner_steps: how many were taken.
    """

    step: PyTree
    curved: PyTree
    boundary: jax.Array
    inner_steps: jax.Array


def truncated_cg(
    hessian: Callable[[PyTree], PyTree],
    gradient: PyTree,
    radius: jax.Array,
    project: Callable[[PyTree], PyTree],
    *,
    max_steps: int,
    kappa: float = 0.1,
    theta: float = 1.0,
) -> Truncated:
    r"""Approximately minimise ``<g, eta> + <eta, H eta>/2`` over ``||eta|| <= radius``.

    Conjugate gradients from zero, stopped at negative curvature, at the boundary, where the model stops
    falling, or at ``||r|| <= ||g|| min(||g||^theta, kappa)`` after two steps or more
    [paper: Steihaug 1983; Toint 1981; Absil, Mahony & Sepulchre 2008, algorithm 11].
    """
    size = norm(gradient)
    target = size * jnp.minimum(size**theta, jnp.asarray(kappa, size.dtype))
    zero = jax.tree.map(jnp.zeros_like, gradient)
    off, none = jnp.zeros_like(size, bool), jnp.zeros_like(size)
    start = Truncated(zero, zero, off, jnp.zeros_like(size, jnp.int32))
    carry = (start, gradient, scale(-1.0, gradient), size**2, none, size == 0)

    def body(carry):
        (step, curved, _, count), residual, direction, rr, model, _ = carry
        bent = hessian(direction)
        curvature = inner(direction, bent)
        alpha = rr / jnp.where(curvature > 0, curvature, 1)
        ee, ed, dd = inner(step, step), inner(step, direction), inner(direction, direction)
        leaves = (curvature <= 0) | (ee + alpha * (2 * ed + alpha * dd) >= radius**2)
        to_boundary = (jnp.sqrt(jnp.maximum(ed**2 + dd * (radius**2 - ee), 0)) - ed) / dd
        t = jnp.where(leaves, to_boundary, alpha)
        new, new_curved = add(step, direction, t), add(curved, bent, t)
        new_model = inner(gradient, new) + inner(new, new_curved) / 2
        worse = ~leaves & ~(new_model < model)
        kept = choose(worse, Truncated(step, curved, off, count), Truncated(new, new_curved, leaves, count))
        residual = add(residual, bent, t)
        rr_new = inner(residual, residual)
        direction = project(add(scale(-1.0, residual), direction, rr_new / rr))
        small = (jnp.sqrt(rr_new) <= target) & (count >= 1)
        kept = kept._replace(inner_steps=count + 1)
        return kept, residual, direction, rr_new, new_model, leaves | worse | small

    return lax.while_loop(lambda c: ~c[-1] & (c[0].inner_steps < max_steps), body, carry)[0]


def trust_region(
    radius: Number = 0.5,
    *,
    max_radius: Number = 8.0,
    accept: float = 0.1,
    max_inner: int | None = None,
    retraction: AnyRetraction = "polar",
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
) -> optax.GradientTransformationExtraArgs:
    r"""Riemannian trust-region Newton-CG; ``update`` takes ``value`` and ``value_fn`` and does one outer iteration.

    The model ``f + <grad f, eta> + <eta, Hess f eta>/2`` is minimised by :func:`truncated_cg`; the step is taken if
    the loss falls by more than ``accept`` of what the model said; the radius shrinks to a quarter below 1/4 and doubles
    above 3/4 at the boundary [paper: Absil, Baker & Gallivan 2007, algorithm 1; embedded metric]. Both decreases
    get ``1000 eps max(1, |f|)`` added, so that rounding in f does not stop the last steps
    [paper: Conn, Gould & Toint 2000, section 17.4.2]: scale up a loss whose values are far below 1.

    Args:
      radius: of the first region.
      max_radius: its bound.
      accept: in (0, 1/4).
      max_inner: bound on the inner steps; None is the number of (real) parameters.
      retraction, constrained, axes, on_start: as in :func:`rgd`.

    Raises:
      ValueError: constants out of range; in update, missing params, ``value`` or ``value_fn``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from dlnjax import optim
      >>> point, loss = jnp.eye(3, 2), lambda w: jnp.sum((w - 1) ** 2)
      >>> optimizer = optim.trust_region(constrained=True)
      >>> gradient, state = jax.grad(loss)(point), optimizer.init(point)
      >>> updates, state = optimizer.update(gradient, state, point, value=loss(point), value_fn=loss)
      >>> bool(loss(point + updates) < loss(point))
      True
    """
    radius, max_radius = number("radius", radius), number("max_radius", max_radius)
    known = is_known(radius) and is_known(max_radius)
    if known and not 0 < radius <= max_radius < float("inf"):
        raise ValueError(f"radius is {radius}, max_radius {max_radius}; need 0 < radius <= max_radius < inf")
    if not 0 < accept < 0.25:
        raise ValueError(f"accept is {accept}; it must lie in (0, 1/4)")
    space = Product(constrained, retraction, axes)

    def init(params: PyTree) -> TrustRegionState:
        space.check(params, inside(on_start))
        dtype = jax.dtypes.canonicalize_dtype(float)
        first = [(radius, dtype), (0, dtype), (0, bool), (0, jnp.int32)]
        return TrustRegionState(*(start_of(number, params, kind) for number, kind in first))

    def update(
        updates: PyTree,
        state: PyTree,
        params: PyTree = None,
        *,
        value: jax.Array | None = None,
        value_fn: Callable[..., jax.Array] | None = None,
        **extra: Any,
    ) -> tuple[PyTree, TrustRegionState]:
        need_params(params, "trust_region")
        value, loss = need_loss("trust_region", value, value_fn, extra)

        _, curvature = jax.linearize(jax.grad(loss), params)

        def hessian(tangent: PyTree) -> PyTree:
            return space.hessian(params, updates, conjugated(curvature(tangent)), tangent)

        gradient = space.project(params, updates)
        sizes = (x.size * (1 + jnp.iscomplexobj(x)) for x in jax.tree.leaves(params))
        limit = sum(sizes) if max_inner is None else max_inner
        size = state.radius.astype(norm(gradient).dtype)
        found = truncated_cg(
            hessian, gradient, size, lambda tree: space.project(params, tree), max_steps=limit
        )
        moved = space.move(params, found.step)
        predicted = -inner(gradient, found.step) - inner(found.step, found.curved) / 2
        actual = value - loss(add(params, moved))
        taken, new = _judged(state, actual, predicted.astype(actual.dtype), value, found, accept, max_radius)
        return choose(taken, moved, jax.tree.map(jnp.zeros_like, moved)), new

    return complete(TrustRegion(init, update), constrained, axes, on_start)


def _judged(
    state: TrustRegionState,
    actual: jax.Array,
    predicted: jax.Array,
    value: jax.Array,
    found: Truncated,
    accept: float,
    max_radius: Number,
) -> tuple[jax.Array, TrustRegionState]:
    """Whether the step is taken, and the next radius."""
    noise = 1e3 * float(jnp.finfo(value.dtype).eps) * jnp.maximum(jnp.abs(value), 1)
    ratio = (actual + noise) / (predicted + noise)
    good = (predicted + noise >= 0) & jnp.isfinite(ratio)
    old = state.radius
    doubled = jnp.minimum(2 * old, jnp.asarray(max_radius, old.dtype))
    wider = jnp.where((ratio > 0.75) & found.boundary, doubled, old)
    new = jnp.where(good & (ratio >= 0.25), wider, old / 4)
    taken = good & (ratio > accept)
    return taken, TrustRegionState(new, ratio.astype(old.dtype), taken, found.inner_steps)


class TrustRegion(Last):
    """Chooses the step and finishes it, so nothing may follow."""
