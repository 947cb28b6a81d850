"""Link: Adam's moments on the manifold, with one second moment a matrix, or one an entry."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from dlnjax import stiefel
from dlnjax._types import PyTree
from dlnjax.optim._complex import square
from dlnjax.optim._leaves import Axes, map_matrices, need_params, specs, to_matrix
from dlnjax.optim._momentum import zeros
from dlnjax.optim._number import Number, cast, check_decay, check_rounded, number
from dlnjax.optim._precision import widen_like

KINDS = ("scalar", "elementwise")


class AdamState(NamedTuple):
    """Attributes:
    steps: how many were taken.
    first: tangent first moment, one a leaf.
    second: second moment, per matrix ``(batch..., 1, 1)`` in matrix form, or in the leaf's shape.
    """

    steps: Int[Array, ""]
    first: PyTree
    second: PyTree


def scale_by_tangent_adam(
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    *,
    second: Literal["scalar", "elementwise"] = "scalar",
    axes: Axes = None,
) -> optax.GradientTransformation:
    r"""``m / (sqrt(v) + eps)`` with m carried by projection transport; bias corrected.

    ``scalar``: v averages the mean square entry of each matrix's update, so the direction stays tangent and the step
    commutes with the gauge [paper: Becigneul & Ganea 2019, one adaptive number per factor of a product manifold].
    ``elementwise``: v averages each entry's square and the direction is projected on the tangent space again; it
    depends on the basis [derived].

    Args:
      b1, b2: decays in [0, 1). eps: added to the root.
      second: which second moment.
      axes: which axes form the matrix, see :class:`MatrixAxes`.

    Raises:
      ValueError: another kind, decays out of range; in update, missing params or shapes that do not fit.

    Example:
      >>> import optax
      >>> from dlnjax import optim
      >>> optimizer = optax.chain(  # optim.adam, for params that are all orthonormal
      ...     optim.project_to_tangent(), optim.scale_by_tangent_adam(), optim.scale_by_step(0.01), optim.retract()
      ... )
    """
    if second not in KINDS:
        raise ValueError(f"second is {second!r}; choose one of {', '.join(KINDS)}")
    b1, b2, eps = check_decay("b1", b1), check_decay("b2", b2), number("eps", eps)
    scalar = second == "scalar"

    def init(params: PyTree) -> AdamState:
        first = zeros("scale_by_tangent_adam", params)
        jax.tree.map(lambda m: [check_rounded(*decay, m) for decay in (("b1", b1), ("b2", b2))], first)
        start = _matrix_means(first, axes) if scalar else jax.tree.map(square, first)
        return AdamState(jnp.zeros((), jnp.int32), first, start)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, AdamState]:
        need_params(params, "scale_by_tangent_adam")

        def moved(point: jax.Array, m: jax.Array, u: jax.Array) -> jax.Array:
            return _average(b1, stiefel.transport(point, m), u)

        first = map_matrices(moved, axes, "scale_by_tangent_adam", params, state.first, updates)
        updates = jax.tree.map(widen_like, updates, params)
        squares = _matrix_means(updates, axes) if scalar else jax.tree.map(square, updates)
        moments = jax.tree.map(lambda v, s: _average(b2, v, s), state.second, squares)
        count = jnp.asarray(optax.safe_increment(state.steps))
        roots = jax.tree.map(lambda v: jnp.sqrt(v / _missing(b2, count, v)) + cast(eps, v), moments)
        corrected = jax.tree.map(lambda m: m / _missing(b1, count, m), first)
        if scalar:
            direction = _divided(corrected, roots, axes, params)
        else:
            steps = jax.tree.map(lambda m, root: m / root.astype(m.dtype), corrected, roots)
            direction = map_matrices(stiefel.project_tangent, axes, "scale_by_tangent_adam", params, steps)
        return direction, AdamState(count, first, moments)

    return optax.GradientTransformation(init, update)


def _average(decay: Number, old: jax.Array, new: jax.Array) -> jax.Array:
    return cast(decay, old) * old + (1 - cast(decay, old)) * new


def _missing(decay: Number, count: jax.Array, like: jax.Array) -> jax.Array:
    """``1 - decay^count``, the weight the average has seen so far."""
    return 1 - cast(decay, like) ** count.astype(like.dtype)


def _matrix_means(tree: PyTree, axes: Axes) -> PyTree:
    """Mean square entry of each matrix, ``(batch..., 1, 1)``."""
    leaves = [
        jnp.mean(square(to_matrix(leaf, spec)), axis=(-2, -1), keepdims=True)
        for leaf, spec in zip(jax.tree.leaves(tree), specs(axes, tree), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _divided(first: PyTree, roots: PyTree, axes: Axes, params: PyTree) -> PyTree:
    numbers = iter(jax.tree.leaves(roots))
    return map_matrices(
        lambda _, m: m / next(numbers).astype(m.dtype), axes, "scale_by_tangent_adam", params, first
    )
