"""Named optimizers, made only of links. All use the embedded metric; free leaves get the unconstrained method."""

from __future__ import annotations

from typing import Any, Literal

import optax

from dlnjax._types import PyTree
from dlnjax.optim._adam import scale_by_tangent_adam
from dlnjax.optim._complex import takes_jax_gradients
from dlnjax.optim._leaves import Axes, OnStart
from dlnjax.optim._line_search import armijo_search, scale_by_polyak
from dlnjax.optim._momentum import transport_momentum
from dlnjax.optim._number import Number, check_decay, number
from dlnjax.optim._precision import in_float32
from dlnjax.optim._retract import AnyRetraction, retract
from dlnjax.optim._select import Labels, chain, off, on
from dlnjax.optim._start import complete, inside
from dlnjax.optim._step import StepSize, scale_by_step
from dlnjax.optim._tangent import project_to_tangent


def gd(step_size: StepSize, *, scales: PyTree = None) -> optax.GradientTransformation:
    """Gradient descent, ``W_i <- W_i - mu s_i g_i``; no constraints.

    Args:
      step_size: mu, see :func:`scale_by_step`.
      scales: s_i, one multiplier a layer in the params' structure; None is 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> optimizer, params = optim.gd(0.5), jnp.zeros(2)
      >>> updates, state = optimizer.update(jnp.ones(2), optimizer.init(params), params)
      >>> print(updates)
      [-0.5 -0.5]
    """
    return takes_jax_gradients(in_float32(scale_by_step(step_size, scales=scales)))


def rgd(
    step_size: StepSize,
    *,
    scales: PyTree = None,
    retraction: AnyRetraction = "polar",
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
) -> optax.GradientTransformation:
    r"""Riemannian gradient descent in the embedded metric.

    ``W_i <- Retr(W_i, -mu s_i P(g_i))`` on the constrained leaves, ``W_i <- W_i - mu s_i g_i`` on the others
    [paper: Qin, Tan & Zhu, arXiv 2311.14658, with their "discrepant" steps as ``scales``].

    Args:
      step_size: mu, see :func:`scale_by_step`.
      scales: s_i, one multiplier a layer in the params' structure; None is 1.
      retraction: "polar", "qr", "cholesky_qr", "cayley", "exponential" or a function ``(point, tangent) -> point``.
      constrained: which leaves are orthonormal, see :func:`labels`; by default all but the first of a tuple of layers.
      axes: which axes form the matrix, see :class:`MatrixAxes`; the last two by default.
      on_start: a start off the manifold is refused (``raise``; under jit through ``jax.experimental.checkify``),
        moved to the nearest point by the first step (``project``, under jit too), or taken as it is (``ignore``).

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from dlnjax import optim, stiefel
      >>> params = {"cell": stiefel.random(jax.random.key(0), (8, 4)), "bias": jnp.zeros(4)}
      >>> optimizer = optim.rgd(0.1, constrained={"cell": True, "bias": False})
      >>> gradients = jax.grad(lambda p: jnp.sum(jnp.tanh(p["cell"]) + p["bias"]))(params)
      >>> updates, state = optimizer.update(gradients, optimizer.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> bool(stiefel.orthonormality_error(params["cell"]) < 1e-5)
      True
    """
    return _recipe(None, scale_by_step(step_size, scales=scales), retraction, constrained, axes, on_start)


def heavy_ball(
    step_size: StepSize,
    decay: Number = 0.9,
    *,
    nesterov: bool = False,
    scales: PyTree = None,
    retraction: AnyRetraction = "polar",
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
) -> optax.GradientTransformation:
    """``m_i <- beta P(m_i) + P(g_i)``, ``W_i <- Retr(W_i, -mu s_i m_i)``; embedded metric, projection transport.

    [paper: Polyak 1964, carried to manifolds as in Absil, Mahony & Sepulchre 2008, section 8.1.]

    Args:
      step_size, scales, retraction, constrained, axes, on_start: as in :func:`rgd`.
      decay: beta in [0, 1).
      nesterov: the look-ahead form, see :func:`nesterov`.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> optim.describe(optim.heavy_ball(0.1, 0.9, constrained=True), jnp.zeros((8, 4)))
      (the only leaf) (8, 4) float32: orthonormal columns, 8 x 4;
          project_to_tangent, transport_momentum, retract (retract_polar)
    """
    decay = check_decay("decay", decay)
    moments = chain(
        on(constrained, transport_momentum(decay, nesterov=nesterov, axes=axes)),
        off(constrained, optax.trace(decay, nesterov=nesterov)),
    )
    return _recipe(moments, scale_by_step(step_size, scales=scales), retraction, constrained, axes, on_start)


def nesterov(
    step_size: StepSize,
    decay: Number = 0.9,
    *,
    scales: PyTree = None,
    retraction: AnyRetraction = "polar",
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
) -> optax.GradientTransformation:
    """:func:`heavy_ball` (embedded metric) with the step ``P(g_i) + beta m_i``.

    [paper: Nesterov 1983, in the form of Sutskever et al. 2013.]

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> optim.describe(optim.nesterov(0.1, 0.9, constrained=True), jnp.zeros((8, 4)))
      (the only leaf) (8, 4) float32: orthonormal columns, 8 x 4;
          project_to_tangent, transport_momentum, retract (retract_polar)
    """
    return heavy_ball(
        step_size,
        decay,
        nesterov=True,
        scales=scales,
        retraction=retraction,
        constrained=constrained,
        axes=axes,
        on_start=on_start,
    )


def adam(
    step_size: StepSize,
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    *,
    second: Literal["scalar", "elementwise"] = "scalar",
    scales: PyTree = None,
    retraction: AnyRetraction = "polar",
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
) -> optax.GradientTransformation:
    """Riemannian Adam in the embedded metric; plain Adam on the free leaves.

    [paper: Becigneul & Ganea 2019 for one second moment a matrix, which stays tangent and gauge equivariant;
    the elementwise kind projects again, see :func:`scale_by_tangent_adam`.]

    Args:
      step_size, scales, retraction, constrained, axes, on_start: as in :func:`rgd`.
      b1, b2, eps, second: see :func:`scale_by_tangent_adam`.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> optim.describe(optim.adam(0.01, constrained=True), jnp.zeros((8, 4)))
      (the only leaf) (8, 4) float32: orthonormal columns, 8 x 4;
          project_to_tangent, scale_by_tangent_adam, retract (retract_polar)
    """
    b1, b2, eps = check_decay("b1", b1), check_decay("b2", b2), number("eps", eps)
    moments = chain(
        on(constrained, scale_by_tangent_adam(b1, b2, eps, second=second, axes=axes)),
        off(constrained, optax.scale_by_adam(b1, b2, eps)),
    )
    return _recipe(moments, scale_by_step(step_size, scales=scales), retraction, constrained, axes, on_start)


def polyak(
    minimum: Number = 0.0,
    *,
    max_step_size: Number = 1.0,
    retraction: AnyRetraction = "polar",
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
) -> optax.GradientTransformationExtraArgs:
    """Riemannian gradient descent (embedded metric) with Polyak's step; ``update`` takes ``value``.

    [paper: Polyak 1969.] See :func:`scale_by_polyak`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from dlnjax import optim
      >>> point, loss = jnp.eye(3, 2), lambda w: jnp.sum((w - 1) ** 2)
      >>> optimizer = optim.polyak(constrained=True)
      >>> gradient, state = jax.grad(loss)(point), optimizer.init(point)
      >>> updates, state = optimizer.update(gradient, state, point, value=loss(point))
      >>> bool(loss(point + updates) < loss(point))
      True
    """
    step = scale_by_polyak(minimum, max_step_size=max_step_size)
    return optax.with_extra_args_support(_recipe(None, step, retraction, constrained, axes, on_start))


def armijo(
    step_size: Number = 1.0,
    *,
    retraction: AnyRetraction = "polar",
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
    **search: Any,
) -> optax.GradientTransformationExtraArgs:
    """Riemannian gradient descent (embedded metric) with Armijo backtracking.

    ``update`` takes ``value`` and ``value_fn``. [paper: Armijo 1966; Absil, Mahony & Sepulchre 2008, section 4.2.]

    Args:
      step_size: the first trial of the first search. Other constants: see :func:`armijo_search`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from dlnjax import optim
      >>> point, loss = jnp.eye(3, 2), lambda w: jnp.sum((w - 1) ** 2)
      >>> optimizer = optim.armijo(constrained=True)
      >>> gradient, state = jax.grad(loss)(point), optimizer.init(point)
      >>> updates, state = optimizer.update(gradient, state, point, value=loss(point), value_fn=loss)
      >>> bool(loss(point + updates) < loss(point))
      True
    """
    finish = on(constrained, retract(retraction, axes=axes, on_start=inside(on_start)))
    links = (
        on(constrained, project_to_tangent(axes=axes)),
        armijo_search(finish, step_size=step_size, **search),
    )
    return optax.with_extra_args_support(complete(chain(*links), constrained, axes, on_start))


def _recipe(
    moments: optax.GradientTransformation | None,
    step: optax.GradientTransformation,
    retraction: AnyRetraction,
    constrained: Labels,
    axes: Axes,
    on_start: OnStart,
) -> optax.GradientTransformation:
    first = on(constrained, project_to_tangent(axes=axes))
    last = on(constrained, retract(retraction, axes=axes, on_start=inside(on_start)))
    chained = chain(*(link for link in (first, moments, step, last) if link is not None))
    return complete(chained, constrained, axes, on_start)
