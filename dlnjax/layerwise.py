r"""Riemannian gradient descent layer by layer in one pass: what ``optim.rgd`` does, with fewer products.

For equal hidden widths the middle layers are square, and what moves layer i is the rotation
``R_i = polar(I - mu' Omega_i)``, ``Omega_i = skew(W_i^T g_i)``: ``W_i <- W_i R_i``. From one layer to the next both
are carried by the layer itself, since ``g_i W_i^T = W_{i+1}^T g_{i+1}`` and ``W_i W_i^T = I``:

.. math:: \Omega_{i+1} = W_i\, \Omega_i\, W_i^T, \qquad R_{i+1} = W_i R_i W_i^T .

So one polar factor a step serves all of them, and a layer costs three products of size r (the move, what it carries
on, the product of the moved layers that the next step starts from) where the composed transformation takes ten.
The loop follows the traced depth, so that padding costs nothing, and every layer is read and written once.
Moved by rotations alone the layers would gather rounding: every so many steps they are projected anew.
A test holds the two equal to 1e-12. Depth stays a loop here; in :mod:`dlnjax.reduced` it is a number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlnjax import network, stiefel
from dlnjax import train as training
from dlnjax._linalg import fused as matmul
from dlnjax._linalg import skew, transpose, transposed
from dlnjax._types import Count, Number, Params, Scales, Trace
from dlnjax.reduced import LayerScales, layer_scales
from dlnjax.stiefel._shape import batch_as_axis, identity_like

#: Steps between two projections of the middle layers; the rounding of so many adds up to a few units.
POLISH_EVERY = 16


class Layers(NamedTuple):
    """What the engine carries from step to step.

    Attributes:
      params: ``(W_1, run, W_N)``.
      prefix: ``W_{N-1} ... W_2``, ``(r, r)``.
    """

    params: Params
    prefix: jax.Array


def train(
    params: Params,
    problem: Any,
    *,
    step_size: Number,
    scales: Scales | None = None,
    num_steps: int | None = None,
    record_every: int = 1,
    depth: Count | None = None,
    record_intervals: jax.Array | None = None,
    tolerance: float = 1e-8,
) -> tuple[Params, Trace]:
    """``train.train`` with ``optim.rgd`` (polar retraction, every layer but the first orthonormal), faster.

    Args:
      params: ``(W_1, run (k, r, r), W_N)``; see ``network.pad`` and ``reduced.expand``.
      problem: anything with ``product_gradient``, and what ``train.train`` asks for.
      step_size: mu > 0, a float or traced scalar.
      scales: multipliers as in ``optim.rgd``, one value for the middle layers; None: all 1.
      num_steps, record_every, depth, record_intervals, tolerance: as in ``train.train``.

    Raises:
      ValueError: params of another form, or middle layers with different scales.
    """
    between = training.lengths(num_steps, record_every, record_intervals)
    engine = prepare(params, problem, step_size=step_size, scales=scales, depth=depth)
    return training.scan(engine, intervals=between, tolerance=tolerance)


def prepare(
    params: Params,
    problem: Any,
    *,
    step_size: Number,
    scales: Scales | None = None,
    depth: Count | None = None,
) -> training.Engine:
    """The engine behind :func:`train`; arguments and mistakes as there."""
    if len(params) != 3 or params[1].ndim != 3:
        shapes = [leaf.shape for leaf in params]
        raise ValueError(f"params have shapes {shapes}; give (W_1, run (k, r, r), W_N), see network.pad")
    steps = LayerScales(*(step_size * s for s in layer_scales(scales)))
    layers = network.num_layers(params) if depth is None else depth
    held = training.default_constrained(params)

    def one_step(carry: Layers, step: Count):
        moved = _step(carry, problem, steps, jnp.asarray(layers - 2, jnp.int32), step)
        return moved, jnp.sum(moved.params[0])

    def report(carry: Layers, step: Count):
        return training.measure(carry.params, problem, step, held, depth=layers)

    # padding is made of identities, so that the product of the whole run is that of its layers
    identity = jnp.eye(params[1].shape[-1], dtype=params[1].dtype)
    begun = Layers(params, network.end_to_end((identity, params[1])))
    return training.Engine(begun, one_step, report, lambda carry: carry.params)


def _step(carry: Layers, problem, steps: LayerScales, count: jax.Array, step: Count) -> Layers:
    """One step of all layers, ``count`` of them in the middle; U = W_N ... W_2, S = W_{N-1} ... W_2."""
    (first, run, last), prefix = carry
    frame = matmul(last, prefix)
    gradient = problem.product_gradient(matmul(frame, first))
    inward = matmul(transposed(frame), gradient)  # g_1 = U^T G
    relative = skew(matmul(inward, transpose(first)))  # Omega_2 = skew(U^T G W_1^T)
    if last.shape[0] == last.shape[1]:
        tangent = matmul(frame, relative)
    else:
        tangent = stiefel.project_tangent(frame, matmul(gradient, transpose(first)))
    identity = identity_like(relative)
    turn = stiefel.retract_polar(identity, -steps.middle * relative) - identity
    run = _projected(run, jnp.where(jnp.asarray(step) % POLISH_EVERY == 0, count, 0))
    run, prefix_after = _turned(run, turn, count)
    # P_{W_N}(g_N) = P_U(G W_1^T) S^T
    last = stiefel.retract_polar(last, -steps.last * matmul(tangent, transpose(prefix)))
    return Layers((first - steps.first * inward, run, last), prefix_after)


@batch_as_axis
def _projected(run: jax.Array, count: jax.Array) -> jax.Array:
    """The first ``count`` layers of a run ``(..., k, r, r)`` freed of what rounding has left."""

    def body(i, run):
        layer = jax.lax.dynamic_index_in_dim(run, i, -3, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(run, stiefel.project(layer), i, -3)

    return jax.lax.fori_loop(0, jnp.max(count), body, run)


@batch_as_axis
def _turned(run: jax.Array, turn: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first ``count`` layers of a run, each turned by its ``R_i``, and their product.

    Args:
      run: ``(..., k, r, r)``.
      turn: ``R_2 - I``, ``(..., r, r)``. The identity is left out of what is carried: there it would gather what
        every layer lacks of being orthonormal.
      count: at most k; the layers beyond are identities.
    """

    if not run.shape[-3]:
        return run, identity_like(turn)

    def move(run, i, turn):
        # held as arrays: fused into what reads them, the slice and the sum would be computed twice
        layer = jax.lax.optimization_barrier(jax.lax.dynamic_index_in_dim(run, i, -3, keepdims=False))
        change = matmul(layer, turn)
        moved = jax.lax.optimization_barrier(layer + change)
        run = jax.lax.dynamic_update_index_in_dim(run, moved, i, -3)
        return run, matmul(change, transpose(layer)), moved

    def body(i, carry):
        run, turn, prefix = carry
        run, turn, moved = move(run, i, turn)
        return run, turn, matmul(moved, prefix)

    # the first layer is its own prefix; where none is in the middle it is an identity that stays
    first = move(run, 0, jnp.where(count > 0, turn, 0))
    run, _, prefix = jax.lax.fori_loop(1, count, body, first)
    return run, prefix
