"""Link: Adam's moments on the manifold, with one second moment a matrix, or one an entry."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from dlnjax import stiefel
from dlnjax.optim._leaves import Axes, map_matrices, named_leaves, specs, to_matrix
from dlnjax.optim._momentum import cast, check_decay, zeros

KINDS = ("scalar", "elementwise")


class AdamState(NamedTuple):
    """Attributes:
    steps: how many were taken.
    first: tangent first moment, one a leaf.
    second: second moment, per matrix ``(batch..., 1, 1)`` in matrix form, or in the leaf's shape.
    """

    steps: Int[Array, ""]
    first: Any
    second: Any


def scale_by_tangent_adam(
    b1: float | jax.Array = 0.9,
    b2: float | jax.Array = 0.999,
    eps: float | jax.Array = 1e-8,
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
    """
    if second not in KINDS:
        raise ValueError(f"second is {second!r}; choose one of {', '.join(KINDS)}")
    check_decay("b1", b1)
    check_decay("b2", b2)
    scalar = second == "scalar"

    def init(params: Any) -> AdamState:
        first = zeros("scale_by_tangent_adam", params)
        start = _matrix_means(first, axes) if scalar else jax.tree.map(jnp.zeros_like, first)
        return AdamState(jnp.zeros((), jnp.int32), first, start)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AdamState]:
        def moved(point: jax.Array, m: jax.Array, u: jax.Array) -> jax.Array:
            return _average(b1, stiefel.transport(point, m), u)

        first = map_matrices(moved, axes, "scale_by_tangent_adam", params, state.first, updates)
        squares = _matrix_means(updates, axes) if scalar else jax.tree.map(jnp.square, updates)
        moments = jax.tree.map(lambda v, s: _average(b2, v, s), state.second, squares)
        count = jnp.asarray(optax.safe_increment(state.steps))
        roots = jax.tree.map(lambda v: jnp.sqrt(v / _missing(b2, count, v)) + cast(eps, v), moments)
        corrected = jax.tree.map(lambda m: m / _missing(b1, count, m), first)
        if scalar:
            direction = _divided(corrected, roots, axes, params)
        else:
            steps = jax.tree.map(jnp.divide, corrected, roots)
            direction = map_matrices(stiefel.project_tangent, axes, "scale_by_tangent_adam", params, steps)
        return direction, AdamState(count, first, moments)

    return optax.GradientTransformation(init, update)


def _average(decay: float | jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    return cast(decay, old) * old + (1 - cast(decay, old)) * new


def _missing(decay: float | jax.Array, count: jax.Array, like: jax.Array) -> jax.Array:
    """``1 - decay^count``, the weight the average has seen so far."""
    return 1 - cast(decay, like) ** count.astype(like.dtype)


def _matrix_means(tree: Any, axes: Axes) -> Any:
    """Mean square entry of each matrix, ``(batch..., 1, 1)``."""
    leaves = [
        jnp.mean(jnp.square(to_matrix(leaf, spec)), axis=(-2, -1), keepdims=True)
        for (_, leaf), spec in zip(named_leaves(tree), specs(axes, tree), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _divided(first: Any, roots: Any, axes: Axes, params: Any) -> Any:
    numbers = iter(jax.tree.leaves(roots))
    return map_matrices(lambda _, m: m / next(numbers), axes, "scale_by_tangent_adam", params, first)
