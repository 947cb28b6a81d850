r"""Muon on the manifold: the tangent step that gains most among those of spectral norm one.

Muon replaces a gradient by its polar factor, the steepest step under the spectral norm where nothing is constrained. On
the manifold the step must also be tangent, ``max <G, Phi>`` over ``||Phi||_2 <= 1``, ``W^T Phi + Phi^T W = 0``, a
convex problem without a closed form for tall W. Its dual ``min ||R + W L||_*`` over symmetric L is smoothed to
``||[R + W L; e I]||_*``, whose gradient is the top block of a polar factor, and solved by trust-region
Newton while e falls; the next start is extrapolated along the path, which is what keeps the few steps few where the
optimum loses rank. The error is of second order in e, so ``e = sqrt(eps)`` is enough and single precision bears it.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dlnjax import stiefel
from dlnjax._linalg import frobenius, matmul, sym, transpose
from dlnjax._types import Retraction
from dlnjax.optim._leaves import Axes, map_matrices
from dlnjax.optim._momentum import transport_momentum
from dlnjax.optim._product import inner
from dlnjax.optim._retract import retract
from dlnjax.optim._select import Labels, chain, off, on
from dlnjax.optim._step import StepSize, scale_by_step
from dlnjax.optim._tangent import project_to_tangent
from dlnjax.optim._trust_region import truncated_cg

LENGTHS = ("unit", "dual")
#: The smoothing falls by this factor once the dual gradient is below ``CENTRED``.
FALL, CENTRED = 0.5, 0.1
MAX_STEPS = 100


class _Path(NamedTuple):
    dual: jax.Array  # L
    gradient: jax.Array  # of the smoothed dual: sym(W^T Phi), the part of Phi that is not tangent
    smoothing: jax.Array  # e
    radius: jax.Array  # of the trust region
    last_dual: jax.Array  # where the level before ended, and its e
    last_smoothing: jax.Array
    steps: jax.Array
    done: jax.Array


def spectral_direction(point: jax.Array, gradient: jax.Array) -> jax.Array:
    r"""``argmax <G, Phi>`` over tangent Phi with ``||Phi||_2 <= 1`` [derived; the problem: Bernstein 2025, "Stiefel"].

    Solved until rounding stops the dual: the value to 1e-8 of the optimum in float64, to 1e-6 in float32; where
    ``R + W L`` is singular at the optimum of a matrix that is not square (seen for ``n < 2 p``), float32 gives
    1e-5 of the value and a spectral norm up to 5e-5 above 1. Zero for a zero gradient. Commutes with the gauge. Costs
    hundreds of polar factors: for small matrices.

    Args:
      point: ``(..., n, p)`` on the manifold.
      gradient: same shape, projected or not.
    """
    if point.shape[-1] > point.shape[-2]:
        return transpose(spectral_direction(transpose(point), transpose(gradient)))
    tangent = stiefel.project_tangent(point, gradient)
    shape = point.shape
    flat = (x.reshape((-1, *shape[-2:])) for x in (point, tangent))
    return jax.vmap(_solved)(*flat).reshape(shape)


def _solved(point: jax.Array, tangent: jax.Array) -> jax.Array:
    n, p = point.shape
    eps = float(jnp.finfo(point.dtype).eps)
    final, size = math.sqrt(eps), frobenius(tangent) / math.sqrt(p)
    tangent = tangent / jnp.where(size > 0, size, 1)
    eye = jnp.eye(p, dtype=point.dtype)

    def smoothed(dual: jax.Array, smoothing: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Phi and the smoothed nuclear norm."""
        stacked = jnp.concatenate([tangent + matmul(point, dual), smoothing * eye])
        factor = stiefel.project(stacked)
        return factor[:n], jnp.sum(factor * stacked)

    def gradient(dual: jax.Array, smoothing: jax.Array) -> jax.Array:
        return sym(matmul(transpose(point), smoothed(dual, smoothing)[0]))

    def body(c: _Path) -> _Path:
        hessian = jax.linearize(lambda dual: gradient(dual, c.smoothing), c.dual)[1]
        step = truncated_cg(hessian, c.gradient, c.radius, sym, max_steps=3 * p)
        new = c.dual + step.step
        predicted = -inner(c.gradient, step.step) - inner(step.step, step.curved) / 2
        value, moved = smoothed(c.dual, c.smoothing)[1], smoothed(new, c.smoothing)[1]
        new_gradient = gradient(new, c.smoothing)
        ratio = (value - moved) / jnp.where(predicted > 0, predicted, 1)
        # where the norm no longer resolves the decrease, the gradient decides
        fine = predicted <= 100 * eps * value
        before, after = frobenius(c.gradient), frobenius(new_gradient)
        taken = jnp.where(fine, after < before, ratio > 0.1)
        good = jnp.where(fine, taken, ratio >= 0.25)
        wider = jnp.where(step.boundary & ~fine & (ratio > 0.75), 2 * c.radius, c.radius)
        radius = jnp.where(good, wider, jnp.minimum(c.radius, frobenius(step.step)) / 4)
        stalled = fine & taken & (after > 0.98 * before) & (before < final)
        c = c._replace(
            dual=jnp.where(taken, new, c.dual),
            gradient=jnp.where(taken, new_gradient, c.gradient),
            radius=radius,
        )
        return _advanced(c, stalled | (radius < 4 * eps))

    def _advanced(c: _Path, over: jax.Array) -> _Path:
        """The next level, if this one is solved well enough; or the end."""
        size, last = frobenius(c.gradient), c.smoothing <= final
        falls = ~last & ((size <= CENTRED) | over)
        smoothing = jnp.where(falls, jnp.maximum(FALL * c.smoothing, final), c.smoothing)
        gap = c.smoothing - c.last_smoothing
        ahead = jnp.where(gap < 0, (smoothing - c.smoothing) / jnp.where(gap < 0, gap, 1), 0)
        dual = jnp.where(falls, c.dual + ahead * (c.dual - c.last_dual), c.dual)
        return _Path(
            dual=dual,
            gradient=jnp.where(falls, gradient(dual, smoothing), c.gradient),
            smoothing=smoothing,
            radius=jnp.where(falls, jnp.ones_like(c.radius), c.radius),
            last_dual=jnp.where(falls, c.dual, c.last_dual),
            last_smoothing=jnp.where(falls, c.smoothing, c.last_smoothing),
            steps=c.steps + 1,
            done=last & ((size <= 2 * eps) | over),
        )

    zero, one = jnp.zeros((p, p), point.dtype), jnp.ones((), point.dtype)
    nothing = size == 0
    start = _Path(zero, gradient(zero, one), one, one, zero, one, jnp.int32(0), nothing)
    end = lax.while_loop(lambda c: ~c.done & (c.steps < MAX_STEPS), body, start)
    found = stiefel.project_tangent(point, smoothed(end.dual, end.smoothing)[0])
    return jnp.where(nothing, 0, found)


def to_spectral(
    length: Literal["unit", "dual"] = "unit", *, axes: Axes = None
) -> optax.GradientTransformation:
    """Replace each update by :func:`spectral_direction`; stateless.

    Args:
      length: ``unit`` leaves its spectral norm at 1; ``dual`` multiplies by ``<G, Phi>``, the gradient's dual norm:
        steepest descent in the proper sense, whose steps vanish with the gradient.
      axes: which axes form the matrix, see :class:`MatrixAxes`.
    """
    if length not in LENGTHS:
        raise ValueError(f"length is {length!r}; choose one of {', '.join(LENGTHS)}")

    def direction(point: jax.Array, g: jax.Array) -> jax.Array:
        found = spectral_direction(point, g)
        if length == "unit":
            return found
        return found * jnp.sum(found * g, axis=(-2, -1), keepdims=True)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return map_matrices(direction, axes, "to_spectral", params, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def muon(
    step_size: StepSize,
    decay: float | jax.Array = 0.0,
    *,
    length: Literal["unit", "dual"] = "unit",
    scales: Any = None,
    retraction: Retraction = stiefel.retract_polar,
    constrained: Labels = None,
    axes: Axes = None,
) -> optax.GradientTransformation:
    r"""Steepest descent under the spectral norm: ``W_i <- Retr(W_i, -mu s_i Phi_i)``, Phi_i from the momentum.

    [paper: Jordan et al. 2024 for Muon; Bernstein 2025 for the problem on the manifold. Metric: momentum and transport
    in the embedded one, the step in the spectral norm.] With unit length a constant step ends in an oscillation of its
    own size, whatever the loss: let the step fall. With ``dual`` it converges linearly at a constant step. The free
    leaves take the gradient, as in :func:`rgd`.

    Args:
      step_size, scales, retraction, constrained, axes: as in :func:`rgd`.
      decay: of the momentum, in [0, 1), see :func:`transport_momentum`.
      length: see :func:`to_spectral`.
    """
    return chain(
        on(constrained, project_to_tangent(axes=axes)),
        on(constrained, transport_momentum(decay, axes=axes)),
        off(constrained, optax.trace(decay)),
        on(constrained, to_spectral(length, axes=axes)),
        scale_by_step(step_size, scales=scales),
        on(constrained, retract(retraction, axes=axes)),
    )
