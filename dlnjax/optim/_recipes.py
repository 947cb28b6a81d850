"""Named optimizers, made only of links. All use the embedded metric; free leaves get the unconstrained method."""

from __future__ import annotations

from typing import Any, Literal

import jax
import optax

from dlnjax import stiefel
from dlnjax._types import Retraction
from dlnjax.optim._adam import scale_by_tangent_adam
from dlnjax.optim._leaves import Axes
from dlnjax.optim._line_search import armijo_search, scale_by_polyak
from dlnjax.optim._momentum import transport_momentum
from dlnjax.optim._retract import retract
from dlnjax.optim._select import Labels, chain, off, on
from dlnjax.optim._step import StepSize, scale_by_step
from dlnjax.optim._tangent import project_to_tangent


def gd(step_size: StepSize, *, scales: Any = None) -> optax.GradientTransformation:
    """Gradient descent, ``W_i <- W_i - mu s_i g_i``; no constraints.

    Args:
      step_size: mu, see :func:`scale_by_step`.
      scales: s_i, one multiplier a layer in the params' structure; None is 1.
    """
    return scale_by_step(step_size, scales=scales)


def rgd(
    step_size: StepSize,
    *,
    scales: Any = None,
    retraction: Retraction = stiefel.retract_polar,
    constrained: Labels = None,
    axes: Axes = None,
) -> optax.GradientTransformation:
    r"""Riemannian gradient descent in the embedded metric.

    ``W_i <- Retr(W_i, -mu s_i P(g_i))`` on the constrained leaves, ``W_i <- W_i - mu s_i g_i`` on the others
    [paper: Qin, Tan & Zhu, arXiv 2311.14658, with their "discrepant" steps as ``scales``].

    Args:
      step_size: mu, see :func:`scale_by_step`.
      scales: s_i, one multiplier a layer in the params' structure; None is 1.
      retraction: ``(point, tangent) -> point``.
      constrained: bools saying which leaves are orthonormal, see :func:`labels`; by default all but the first
        of a tuple of layers.
      axes: which axes form the matrix, see :class:`MatrixAxes`; the last two by default.

    Example:
      >>> optimizer = rgd(0.1)
      >>> state = optimizer.init(params)                            # a tuple of layers, W_1 first
      >>> updates, state = optimizer.update(gradients, state, params)
      >>> params = optax.apply_updates(params, updates)
    """
    return _recipe(None, scale_by_step(step_size, scales=scales), retraction, constrained, axes)


def heavy_ball(
    step_size: StepSize,
    decay: float | jax.Array = 0.9,
    *,
    nesterov: bool = False,
    scales: Any = None,
    retraction: Retraction = stiefel.retract_polar,
    constrained: Labels = None,
    axes: Axes = None,
) -> optax.GradientTransformation:
    """``m_i <- beta P(m_i) + P(g_i)``, ``W_i <- Retr(W_i, -mu s_i m_i)``; embedded metric, projection transport.

    [paper: Polyak 1964, carried to manifolds as in Absil, Mahony & Sepulchre 2008, section 8.1.]

    Args:
      step_size, scales, retraction, constrained, axes: as in :func:`rgd`.
      decay: beta in [0, 1).
      nesterov: the look-ahead form, see :func:`nesterov`.
    """
    moments = chain(
        on(constrained, transport_momentum(decay, nesterov=nesterov, axes=axes)),
        off(constrained, optax.trace(decay, nesterov=nesterov)),
    )
    return _recipe(moments, scale_by_step(step_size, scales=scales), retraction, constrained, axes)


def nesterov(
    step_size: StepSize,
    decay: float | jax.Array = 0.9,
    *,
    scales: Any = None,
    retraction: Retraction = stiefel.retract_polar,
    constrained: Labels = None,
    axes: Axes = None,
) -> optax.GradientTransformation:
    """:func:`heavy_ball` (embedded metric) with the step ``P(g_i) + beta m_i``.

    [paper: Nesterov 1983, in the form of Sutskever et al. 2013.]
    """
    return heavy_ball(
        step_size,
        decay,
        nesterov=True,
        scales=scales,
        retraction=retraction,
        constrained=constrained,
        axes=axes,
    )


def adam(
    step_size: StepSize,
    b1: float | jax.Array = 0.9,
    b2: float | jax.Array = 0.999,
    eps: float | jax.Array = 1e-8,
    *,
    second: Literal["scalar", "elementwise"] = "scalar",
    scales: Any = None,
    retraction: Retraction = stiefel.retract_polar,
    constrained: Labels = None,
    axes: Axes = None,
) -> optax.GradientTransformation:
    """Riemannian Adam in the embedded metric; plain Adam on the free leaves.

    [paper: Becigneul & Ganea 2019 for one second moment a matrix, which stays tangent and gauge equivariant;
    the elementwise kind projects again, see :func:`scale_by_tangent_adam`.]

    Args:
      step_size, scales, retraction, constrained, axes: as in :func:`rgd`.
      b1, b2, eps, second: see :func:`scale_by_tangent_adam`.
    """
    moments = chain(
        on(constrained, scale_by_tangent_adam(b1, b2, eps, second=second, axes=axes)),
        off(constrained, optax.scale_by_adam(b1, b2, eps)),
    )
    return _recipe(moments, scale_by_step(step_size, scales=scales), retraction, constrained, axes)


def polyak(
    minimum: float | jax.Array = 0.0,
    *,
    max_step_size: float | jax.Array = 1.0,
    retraction: Retraction = stiefel.retract_polar,
    constrained: Labels = None,
    axes: Axes = None,
) -> optax.GradientTransformationExtraArgs:
    """Riemannian gradient descent (embedded metric) with Polyak's step; ``update`` takes ``value``.

    [paper: Polyak 1969.] See :func:`scale_by_polyak`.
    """
    step = scale_by_polyak(minimum, max_step_size=max_step_size)
    return optax.with_extra_args_support(_recipe(None, step, retraction, constrained, axes))


def armijo(
    step_size: float | jax.Array = 1.0,
    *,
    retraction: Retraction = stiefel.retract_polar,
    constrained: Labels = None,
    axes: Axes = None,
    **search: Any,
) -> optax.GradientTransformationExtraArgs:
    """Riemannian gradient descent (embedded metric) with Armijo backtracking.

    ``update`` takes ``value`` and ``value_fn``. [paper: Armijo 1966; Absil, Mahony & Sepulchre 2008, section 4.2.]

    Args:
      step_size: the first trial of the first search. Other constants: see :func:`armijo_search`.
    """
    finish = on(constrained, retract(retraction, axes=axes))
    links = (
        on(constrained, project_to_tangent(axes=axes)),
        armijo_search(finish, step_size=step_size, **search),
    )
    return optax.with_extra_args_support(chain(*links))


def _recipe(
    moments: optax.GradientTransformation | None,
    step: optax.GradientTransformation,
    retraction: Retraction,
    constrained: Labels,
    axes: Axes,
) -> optax.GradientTransformation:
    first = on(constrained, project_to_tangent(axes=axes))
    last = on(constrained, retract(retraction, axes=axes))
    return chain(*(link for link in (first, moments, step, last) if link is not None))
