"""L-BFGS by optax's own update, whose memory is carried to the new tangent space before each one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlnjax._types import PyTree
from dlnjax.optim._complex import real_part_of
from dlnjax.optim._leaves import Axes, OnStart, need_params
from dlnjax.optim._number import start_of
from dlnjax.optim._precision import in_float32
from dlnjax.optim._product import Product, add, choose, inner
from dlnjax.optim._retract import AnyRetraction, Last
from dlnjax.optim._select import Labels
from dlnjax.optim._start import complete, inside
from dlnjax.optim._wolfe import wolfe_search

#: A pair of step and gradient change enters the memory if the cosine of their angle is above this.
CAUTION = 1e-8


def transported_lbfgs(space: Product, memory: int = 10) -> optax.GradientTransformation:
    r"""``u <- B g``, B the inverse Hessian that L-BFGS builds from the last pairs, all projected to the new point.

    Projecting the stored steps and gradient changes keeps B a map of the new tangent space; a pair
    that loses its positive curvature on the way is dropped (cautious update), so B stays positive definite
    [paper: Liu & Nocedal 1989; Huang, Gallivan & Absil 2015, section 3; optax's ``scale_by_lbfgs`` computes B g].

    Args:
      space: projection of the tree. memory: pairs kept, at least 1.

    Example:
      >>> import optax
      >>> from dlnjax import optim
      >>> space = optim.Product(constrained=True)
      >>> optimizer = optax.chain(optim.transported_lbfgs(space), optim.wolfe_search(space))  # optim.lbfgs
    """
    plain = optax.scale_by_lbfgs(memory)

    def init(params: PyTree) -> PyTree:
        state: PyTree = plain.init(params)
        dtype = np.result_type(*(real_part_of(leaf.dtype) for leaf in jax.tree.leaves(params)))
        floats = (
            jax.tree.map(  # optax has one zero in two places, and numbers that do not vary with the params
                lambda x: x + start_of(0, params, x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else x,
                state,
            )
        )
        return floats._replace(weights_memory=floats.weights_memory.astype(dtype))

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        need_params(params, "transported_lbfgs")
        gradient = space.project(params, updates)
        carry = jax.vmap(lambda tree: space.project(params, tree))
        steps, changes = carry(state.diff_params_memory), carry(state.diff_updates_memory)
        weights = jax.vmap(_weight)(steps, changes)
        step = space.project(params, add(params, state.params, -1.0))
        change = add(gradient, space.project(params, state.updates), -1.0)
        kept = (_weight(step, change) > 0) | (state.count == 0)
        zero = jax.tree.map(jnp.zeros_like, params)
        carried = state._replace(
            params=add(params, choose(kept, step, zero), -1.0),
            updates=add(gradient, choose(kept, change, zero), -1.0),
            diff_params_memory=steps,
            diff_updates_memory=changes,
            weights_memory=weights.astype(state.weights_memory.dtype),
        )
        with jax.numpy_dtype_promotion("standard"):  # optax counts with integers of two sizes
            direction, new = plain.update(gradient, carried, params)
        direction = jax.tree.map(lambda u, g: u.astype(g.dtype), direction, gradient)  # of mixed leaves
        return choose(inner(direction, gradient) > 0, direction, gradient), new

    return in_float32(optax.GradientTransformation(init, update), finishes=False)


def _weight(step: PyTree, change: PyTree) -> jax.Array:
    """``1 / <s, y>``, or 0 for a pair without positive curvature."""
    product = inner(step, change)
    size = jnp.sqrt(inner(step, step) * inner(change, change))
    return jnp.where(product > CAUTION * size, 1 / jnp.where(product > 0, product, 1), 0)


def lbfgs(
    memory: int = 10,
    *,
    decrease: float = 1e-4,
    curvature: float = 0.9,
    max_trials: int = 25,
    retraction: AnyRetraction = "polar",
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
) -> optax.GradientTransformationExtraArgs:
    """Riemannian L-BFGS; ``update`` takes ``value`` and ``value_fn``.

    ``W <- Retr(-t B g)`` with B from :func:`transported_lbfgs` over all leaves together and t from
    :func:`wolfe_search`, first trial 1; embedded metric, projection transport [paper: Huang, Gallivan & Absil 2015].

    Args:
      memory: pairs kept. decrease, curvature, max_trials: see :func:`wolfe_search`.
      retraction, constrained, axes, on_start: as in :func:`rgd`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from dlnjax import optim
      >>> point, loss = jnp.eye(3, 2), lambda w: jnp.sum((w - 1) ** 2)
      >>> optimizer = optim.lbfgs(constrained=True)
      >>> gradient, state = jax.grad(loss)(point), optimizer.init(point)
      >>> updates, state = optimizer.update(gradient, state, point, value=loss(point), value_fn=loss)
      >>> bool(loss(point + updates) < loss(point))
      True
    """
    space = Product(constrained, retraction, axes)
    search = wolfe_search(
        space, decrease=decrease, curvature=curvature, max_trials=max_trials, on_start=inside(on_start)
    )
    chained = optax.chain(transported_lbfgs(space, memory), search)
    return complete(Last(chained.init, chained.update), constrained, axes, on_start)
