"""Without a retraction: a field that lands on the manifold, and a step that never leaves its neighbourhood."""

from __future__ import annotations

from typing import Literal

import jax
import optax

from dlnjax import stiefel
from dlnjax._types import PyTree
from dlnjax.optim._leaves import Axes, LinkStart, OnStart, check_points, map_matrices
from dlnjax.optim._number import Number, is_known, number
from dlnjax.optim._precision import rounded_step
from dlnjax.optim._retract import Last
from dlnjax.optim._select import Labels, chain, on
from dlnjax.optim._start import complete, inside
from dlnjax.optim._step import StepSize, scale_by_step

Metric = Literal["embedded", "canonical"]
#: Up to this distance from the manifold the relative gradient is a descent direction in either metric.
FARTHEST = 0.4


def land(
    attraction: Number = 1.0, *, metric: Metric = "embedded", axes: Axes = None
) -> optax.GradientTransformation:
    r"""Replace each update g by the landing field ``A W + lambda W (W^T W - I)``; stateless.

    ``A W`` is the gradient's part along the level sets of ``W^T W`` (:func:`dlnjax.stiefel.relative_gradient`), the
    other term points back to the manifold; the two are orthogonal [paper: Ablin & Peyre 2022 for square
    matrices, Ablin, Vary, Gao & Absil 2024 for all].

    Args:
      attraction: lambda >= 0.
      metric: whose Riemannian gradient the first term is on the manifold.
      axes: which axes form the matrix, see :class:`MatrixAxes`.

    Example:
      >>> from dlnjax import optim
      >>> optimizer = optim.chain(optim.land(2.0), optim.scale_by_step(0.1), optim.stay_near())  # optim.landing
    """
    attraction = number("attraction", attraction)
    if is_known(attraction) and not 0 <= attraction < float("inf"):
        raise ValueError(f"attraction is {attraction}; it must be finite and not negative")

    def field(point: jax.Array, g: jax.Array) -> jax.Array:
        along = stiefel.relative_gradient(point, g, metric)
        return stiefel.attraction(point, along, attraction)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return map_matrices(field, axes, "land", params, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def check_distance(distance: Number) -> Number:
    """A distance from the manifold within which the field of :func:`land` descends."""
    distance = number("distance", distance)
    if is_known(distance) and not 0 < distance <= FARTHEST:
        raise ValueError(f"distance is {distance}; it must lie in (0, {FARTHEST}]")
    return distance


def stay_near(
    distance: Number = 0.25, *, axes: Axes = None, on_start: LinkStart = "raise"
) -> optax.GradientTransformation:
    """Shorten a step so that ``||W^T W - I||_F <= distance`` holds after it, whatever its size; the last link.

    Per matrix, by :func:`dlnjax.stiefel.kept_near`: steps that are short enough pass untouched.

    Args:
      distance: in (0, 0.4]: farther out the field of :func:`land` need not descend.
      axes: which axes form the matrix, see :class:`MatrixAxes`. on_start: see :func:`retract`.

    Raises:
      ValueError: another distance; at init, a point off the manifold.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> link, point = optim.stay_near(0.25), jnp.eye(2)
      >>> updates, _ = link.update(jnp.ones((2, 2)), link.init(point), point)
      >>> moved = point + updates
      >>> bool(jnp.linalg.norm(moved.T @ moved - jnp.eye(2)) <= 0.25 + 1e-6)
      True
    """
    distance = check_distance(distance)

    def init(params: PyTree) -> PyTree:
        check_points("stay_near", params, axes, on_start)
        return optax.EmptyState()

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **_: object) -> tuple[PyTree, PyTree]:
        def shortened(point: jax.Array, step: jax.Array) -> jax.Array:
            return stiefel.kept_near(point, step, distance)

        return rounded_step(params, map_matrices(shortened, axes, "stay_near", params, updates)), state

    return Last(init, update)


def landing(
    step_size: StepSize,
    attraction: Number = 1.0,
    *,
    distance: Number = 0.25,
    metric: Metric = "embedded",
    scales: PyTree = None,
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
) -> optax.GradientTransformation:
    r"""The landing algorithm: gradient descent that approaches the manifold instead of staying on it.

    ``W_i <- W_i - eta_i (A_i W_i + lambda W_i (W_i^T W_i - I))`` with ``eta_i = mu s_i``, or less where that would
    leave the distance; the free leaves as in :func:`rgd` [paper: Ablin & Peyre 2022; Ablin, Vary, Gao & Absil
    2024 for rectangular matrices]. The papers' A is half of the ``canonical`` one: ``landing(mu / 2, 2 lambda,
    metric="canonical")`` takes the steps of their authors' code at ``lr = mu`` and lambda, while these are
    safe. Near a solution the distance from the manifold shrinks by ``1 - 2 eta lambda`` a step
    and, in the embedded metric, the error as in :func:`rgd` [derived].

    Args:
      step_size, scales, constrained, axes, on_start: as in :func:`rgd`.
      attraction: lambda.
      distance: of every iterate from the manifold at most, ``||W^T W - I||_F`` (wide: ``W W^T``), in (0, 0.4].
      metric: see :func:`land`.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> optim.describe(optim.landing(0.1, constrained=True), jnp.zeros((8, 4)))
      (the only leaf) (8, 4) float32: orthonormal columns, 8 x 4; land, stay_near
    """
    chained = chain(
        on(constrained, land(attraction, metric=metric, axes=axes)),
        scale_by_step(step_size, scales=scales),
        on(constrained, stay_near(distance, axes=axes, on_start=inside(on_start))),
    )
    return complete(chained, constrained, axes, on_start)
