r"""One shared step of all layers, whichever way the middle ones are turned."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlnjax import network, stiefel
from dlnjax import train as training
from dlnjax._linalg import frobenius, skew, transpose, transposed
from dlnjax._linalg import small_matmul as matmul
from dlnjax._types import Count, Number, Params, PyTree, Scales, Trace
from dlnjax.layerwise import chunked, serial
from dlnjax.problem import ProductLoss
from dlnjax.reduced import LayerScales, layer_steps
from dlnjax.stiefel._rotation import POLISH_EVERY
from dlnjax.stiefel._rotation import turn as turn_of
from dlnjax.stiefel._shape import batch_as_axis, identity_like

#: Norm of ``mu' Omega`` above which the layers are projected at every step: what one lacks of being orthonormal grows
#: by about this fraction a step, since it is by the layers that rotations are carried.
LARGE = 0.1


class Layers(NamedTuple):
    """What the engine carries from step to step.

    Attributes:
      first: ``W_1`` as a row, ``(r * d_0,)``: XLA on a CPU works along rows by vectors where they are long, and
        number by number where they have 32 entries or fewer.
      rows: the middle layers ``(k, r * r)``, one a row.
      last: ``W_N``, ``(d_N, r)``.
      prefix: ``W_{N-1} ... W_2``, ``(r, r)``.
    """

    first: jax.Array
    rows: jax.Array
    last: jax.Array
    prefix: jax.Array

    @property
    def params(self) -> PyTree:
        """``(W_1, run, W_N)``; leading axes of a batch stay, and NumPy's arrays are NumPy's."""
        rank = self.last.shape[-1]
        first = self.first.reshape(*self.first.shape[:-1], rank, -1)
        return first, self.rows.reshape(*self.rows.shape[:-1], rank, rank), self.last


def train(
    params: Params,
    problem: ProductLoss,
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
      num_steps, record_every, record_intervals, tolerance: as in ``train.train``.
      depth: as in ``train.train``, at least 2; the layers of the run beyond must be identities, as ``network.pad`` and
        ``reduced.expand`` make them. Where params are traced they are taken to be so.

    Raises:
      ValueError: params of another form, middle layers with different scales, negative steps, a depth that params do
        not hold, or a run whose layers beyond the depth are no identities.
    """
    training.check_number("tolerance", tolerance, 0.0)
    between = training.lengths(num_steps, record_every, record_intervals)
    engine = prepare(params, problem, step_size=step_size, scales=scales, depth=depth)
    return training.scan(engine, intervals=between, tolerance=tolerance)


def prepare(
    params: Params,
    problem: ProductLoss,
    *,
    step_size: Number,
    scales: Scales | None = None,
    depth: Count | None = None,
) -> training.Engine:
    """The engine behind :func:`train`; arguments and mistakes as there."""
    if len(params) != 3 or params[1].ndim != 3:
        shapes = [leaf.shape for leaf in params]
        raise ValueError(f"params have shapes {shapes}; give (W_1, run (k, r, r), W_N), see network.pad")
    network.dims(params)
    steps = layer_steps(step_size, scales, params[0].dtype)
    layers = network.num_layers(params) if depth is None else _checked_depth(params, depth)
    held = training.default_constrained(params)

    def one_step(carry: Layers, step: Count):
        moved = _step(carry, problem, steps, jnp.asarray(layers - 2, jnp.int32), step)
        return moved, jnp.sum(moved.first)

    def report(carry: Layers, step: Count):
        return training.measure(carry.params, problem, step, held, depth=layers)

    first, run, last = params
    rank = run.shape[-1]
    # padding is made of identities, so that the product of the whole run is that of its layers
    prefix = network.end_to_end((jnp.eye(rank, dtype=run.dtype), run))
    begun = Layers(first.ravel(), run.reshape(-1, rank * rank), last, prefix)
    return training.Engine(begun, one_step, report, lambda carry: carry.params)


def _checked_depth(params: Params, depth: Count) -> Count:
    """The depth, where it is known now one whose layers beyond are identities."""
    run = params[1]
    depth = network.checked_depth(depth, 2, network.num_layers(params))
    if not isinstance(depth, Tracer) and not isinstance(run, Tracer):
        beyond = np.asarray(run[depth - 2 :])
        if (beyond != np.eye(run.shape[-1])).any():
            raise ValueError(
                f"depth={depth}, but the run's layers beyond are no identities; pad the {depth} layers with network.pad"
            )
    return depth


def _step(carry: Layers, problem, steps: LayerScales, count: jax.Array, step: Count) -> Layers:
    """One step of all layers, ``count`` of them in the middle; U = W_N ... W_2, S = W_{N-1} ... W_2."""
    row, rows, last, prefix = carry
    first = row.reshape(last.shape[-1], -1)
    frame = matmul(last, prefix)
    gradient = problem.product_gradient(matmul(frame, first))
    inward = matmul(transposed(frame), gradient)  # g_1 = U^T G
    relative = skew(matmul(inward, transpose(first)))  # Omega_2 = skew(U^T G W_1^T)
    relative_step = -steps.middle * relative
    polishing = (jnp.asarray(step) % POLISH_EVERY == 0) | (frobenius(relative_step) > LARGE)
    rows = _projected(rows, prefix, jnp.where(polishing, count, 0))
    rows, turn, prefix_after = _turned(rows, turn_of(relative_step), count)
    if last.shape[0] == last.shape[1]:
        alike = jnp.asarray(steps.last == steps.middle)
        last = _turned_last(last, turn, -steps.last * relative, prefix, alike, polishing)
    else:
        # P_{W_N}(g_N) = P_U(G W_1^T) S^T
        tangent = stiefel.project_tangent(frame, matmul(gradient, transpose(first)))
        last = stiefel.retract_polar(last, -steps.last * matmul(tangent, transpose(prefix)))
    return Layers(row - steps.first * inward.ravel(), rows, last, prefix_after)


@batch_as_axis
def _turned_last(
    last: jax.Array,
    turn: jax.Array,
    relative: jax.Array,
    prefix: jax.Array,
    alike: jax.Array,
    polishing: jax.Array,
) -> jax.Array:
    """A square ``W_N`` one step further: ``W_N R_N``, as a middle layer.

    Args:
      turn: ``R_N - I`` for the step of the middle layers.
      relative: ``-mu_N Omega_2``; where the step is another, ``R_N = S polar(I - mu_N Omega_2) S^T``.
      alike: whether both steps are the same.
      prefix: S, ``(..., r, r)``.
      polishing: whether to take rounding off.
    """

    def own():
        return matmul(matmul(prefix, turn_of(relative)), transpose(prefix))

    turn = jax.lax.cond(jnp.all(alike), lambda: turn, own)
    moved = last + matmul(last, turn)
    return jax.lax.cond(jnp.any(polishing), stiefel.project, lambda last: last, moved)


@batch_as_axis
def _projected(rows: jax.Array, like: jax.Array, count: jax.Array) -> jax.Array:
    """The first ``count`` layers of rows ``(..., k, r * r)`` freed of what rounding has left."""

    def body(i, rows):
        layer = jax.lax.dynamic_index_in_dim(rows, i, -2, keepdims=False)
        projected = stiefel.project(layer.reshape(like.shape))
        return jax.lax.dynamic_update_index_in_dim(rows, projected.reshape(layer.shape), i, -2)

    def at_once(rows):
        layers = rows.reshape(*rows.shape[:-1], *like.shape[-2:])
        within = chunked.among(jnp.arange(rows.shape[-2], dtype=jnp.int32), 0, count, rows.shape[:-2])
        return jnp.where(within[..., None], stiefel.project(layers).reshape(rows.shape), rows)

    if not rows.shape[-2]:
        return rows
    if chunked.applies(rows, like):
        return jax.lax.cond(jnp.any(count > 0), at_once, lambda rows: rows, rows)
    return jax.lax.fori_loop(0, jnp.max(count), body, rows)


@batch_as_axis
def _turned(rows: jax.Array, turn: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The first ``count`` layers of a run, each turned by its ``R_i``, and their product.

    Args:
      rows: ``(..., k, r * r)``.
      turn: ``R_2 - I``, ``(..., r, r)``. The identity is left out of what is carried: there it would gather what
        every layer lacks of being orthonormal.
      count: at most k, one number or one a run; the layers beyond are identities and stay.

    Returns:
      The layers, ``R_N - I`` as the last of them carries it on, and their product.
    """

    if not rows.shape[-2]:
        return rows, turn, identity_like(turn)
    return (chunked.turned if chunked.applies(rows, turn) else serial.turned)(rows, turn, count)
