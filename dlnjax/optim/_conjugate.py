"""Non-linear conjugate gradients: the new gradient, plus as much of the old direction as keeps both conjugate."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlnjax._types import PyTree
from dlnjax.optim._leaves import Axes, OnStart, need_params
from dlnjax.optim._precision import in_float32
from dlnjax.optim._product import Product, add, choose, inner
from dlnjax.optim._retract import AnyRetraction, Last
from dlnjax.optim._select import Labels
from dlnjax.optim._start import complete, inside
from dlnjax.optim._wolfe import wolfe_search


class ConjugateState(NamedTuple):
    """Attributes:
    direction: the last one, ``u`` in ``Retr(-t u)``; zero before the first.
    gradient: the last Riemannian gradient.
    """

    direction: PyTree
    gradient: PyTree


#: (new gradient, its change, last gradient, last direction) -> numerator and denominator of beta; carried vectors.
RULES: dict[str, Callable[[PyTree, PyTree, PyTree, PyTree], tuple[jax.Array, jax.Array]]] = {
    "polak_ribiere": lambda g, change, old, _: (inner(g, change), inner(old, old)),
    "hestenes_stiefel": lambda g, change, _, u: (inner(g, change), -inner(u, change)),
    "fletcher_reeves": lambda g, _, old, __: (inner(g, g), inner(old, old)),
}


def conjugate(space: Product, rule: str = "polak_ribiere") -> optax.GradientTransformation:
    r"""``u <- g + beta P(u)`` with ``beta = max(0, <g, g - P(g_old)> / <g_old, g_old>)``.

    P projects on the tangent space of the new point; where u is no ascent direction it is replaced by g
    [paper: Polak & Ribiere 1969 with Powell's restart; on manifolds Absil, Mahony & Sepulchre 2008, algorithm 13].
    ``hestenes_stiefel`` divides by ``-<P(u_old), g - P(g_old)>``, ``fletcher_reeves`` has ``<g, g>`` above.

    Args:
      space: projection of the tree. rule: one of those.

    Example:
      >>> import optax
      >>> from dlnjax import optim
      >>> space = optim.Product(constrained=True)
      >>> optimizer = optax.chain(optim.conjugate(space), optim.wolfe_search(space, curvature=0.1))
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; choose one of {', '.join(RULES)}")

    def init(params: PyTree) -> ConjugateState:
        direction, gradient = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return ConjugateState(direction, gradient)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, ConjugateState]:
        need_params(params, "conjugate")
        gradient = space.project(params, updates)
        old_direction = space.project(params, state.direction)
        # products with tangent vectors see only the tangent part of the old gradient: it needs no projection
        change = add(gradient, state.gradient, -1.0)
        above, below = RULES[rule](gradient, change, state.gradient, old_direction)
        beta = jnp.where(below > 0, jnp.maximum(above / jnp.where(below > 0, below, 1), 0), 0)
        mixed = add(gradient, old_direction, beta)
        direction = choose(inner(mixed, gradient) > 0, mixed, gradient)
        return direction, ConjugateState(direction, gradient)

    return in_float32(optax.GradientTransformation(init, update), finishes=False)


def conjugate_gradient(
    step_size: float = 1.0,
    *,
    rule: str = "polak_ribiere",
    decrease: float = 1e-4,
    curvature: float = 0.1,
    max_trials: int = 25,
    retraction: AnyRetraction = "polar",
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
) -> optax.GradientTransformationExtraArgs:
    """Riemannian non-linear conjugate gradients; ``update`` takes ``value`` and ``value_fn``.

    ``W <- Retr(-t u)`` with u from :func:`conjugate` over all leaves together and t from :func:`wolfe_search`;
    embedded metric, projection transport [paper: Polak & Ribiere 1969; Sato 2022 for the conditions on a manifold].

    Args:
      step_size: the first trial of the first search.
      rule: see :func:`conjugate`. decrease, curvature, max_trials: see :func:`wolfe_search`.
      retraction, constrained, axes, on_start: as in :func:`rgd`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from dlnjax import optim
      >>> point, loss = jnp.eye(3, 2), lambda w: jnp.sum((w - 1) ** 2)
      >>> optimizer = optim.conjugate_gradient(constrained=True)
      >>> gradient, state = jax.grad(loss)(point), optimizer.init(point)
      >>> updates, state = optimizer.update(gradient, state, point, value=loss(point), value_fn=loss)
      >>> bool(loss(point + updates) < loss(point))
      True
    """
    space = Product(constrained, retraction, axes)
    search = wolfe_search(
        space,
        step_size=step_size,
        first="slope",
        decrease=decrease,
        curvature=curvature,
        max_trials=max_trials,
        on_start=inside(on_start),
    )
    chained = optax.chain(conjugate(space, rule), search)
    return complete(Last(chained.init, chained.update), constrained, axes, on_start)
