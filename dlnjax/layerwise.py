r"""Riemannian gradient descent layer by layer in one pass: what ``optim.rgd`` does, with fewer products.

For equal hidden widths the middle layers are square, and what moves layer i is the rotation
``R_i = polar(I - mu' Omega_i)``, ``Omega_i = skew(W_i^T g_i)``: ``W_i <- W_i R_i``. From one layer to the next both
are carried by the layer itself, since ``g_i W_i^T = W_{i+1}^T g_{i+1}`` and ``W_i W_i^T = I``:

.. math:: \Omega_{i+1} = W_i\, \Omega_i\, W_i^T, \qquad R_{i+1} = W_i R_i W_i^T .

So one polar factor a step serves all of them, and a layer costs three products of size r (the move, what it carries
on, the product of the moved layers that the next step starts from) where the composed transformation takes ten. A
square last layer with the same step is moved as the middle ones are.
The loop follows the traced depth, so that padding costs nothing, and every layer is read and written once.
On an accelerator, where a chain of small products is all waiting, chunks of layers are moved at once: the rotation
reaches each of them by the product of the layers before it, in logarithmic depth (:mod:`dlnjax._chain`).
Moved by rotations alone the layers would gather rounding: every so many steps they are projected anew, at every step
while steps are large.
A test holds the two equal to 1e-12. Depth stays a loop here; in :mod:`dlnjax.reduced` it is a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlnjax import _chain as chain
from dlnjax import network, stiefel
from dlnjax import train as training
from dlnjax._linalg import apart, frobenius, skew, transpose, transposed
from dlnjax._linalg import small_matmul as matmul
from dlnjax._turns import POLISH_EVERY
from dlnjax._turns import turn as turn_of
from dlnjax._types import Count, Number, Params, Scales, Trace
from dlnjax.reduced import LayerScales, layer_steps
from dlnjax.stiefel._shape import batch_as_axis, identity_like

#: Norm of ``mu' Omega`` above which the layers are projected at every step: what one lacks of being orthonormal grows
#: by about this fraction a step, since it is by the layers that rotations are carried.
LARGE = 0.1
#: On an accelerator: layers moved at once, at most, and the widths up to which they are where they are ``DEEP`` or
#: more. Chosen, not measured.
CHUNK, NARROW, DEEP = 64, 64, 4


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
    def params(self) -> Params:
        """``(W_1, run, W_N)``; leading axes of a batch stay."""
        rank = self.last.shape[-1]
        first = self.first.reshape(*self.first.shape[:-1], rank, -1)
        return first, self.rows.reshape(*self.rows.shape[:-1], rank, rank), self.last


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
    steps = layer_steps(step_size, scales, params[0].dtype)
    layers = network.num_layers(params) if depth is None else depth
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
        within = _among(jnp.arange(rows.shape[-2], dtype=jnp.int32), 0, count, rows.shape[:-2])
        return jnp.where(within[..., None], stiefel.project(layers).reshape(rows.shape), rows)

    if _by_chunks(rows, like):
        return jax.lax.cond(jnp.any(count > 0), at_once, lambda rows: rows, rows)
    return jax.lax.fori_loop(0, jnp.max(count), body, rows)


def _by_chunks(rows: jax.Array, like: jax.Array) -> bool:
    """Whether layers are moved many at once, on the devices JAX uses by default."""
    return jax.default_backend() != "cpu" and rows.shape[-2] >= DEEP and like.shape[-1] <= NARROW


def _among(places: jax.Array, first: Count, count: jax.Array, lead: tuple[int, ...]) -> jax.Array:
    """Which layers at ``places`` of runs with leading axes ``lead`` lie in ``[first, count)``, ``(*lead, size)``."""
    counts = jnp.broadcast_to(count.reshape(count.shape + (1,) * (len(lead) - count.ndim)), lead)[..., None]
    places = jnp.broadcast_to(places, (*lead, *places.shape))
    return (first <= places) & (places < counts)


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
    return (_turned_at_once if _by_chunks(rows, turn) else _turned_one_by_one)(rows, turn, count)


def _turned_at_once(
    rows: jax.Array, turn: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """:func:`_turned` by chunks: ``R_i - I = S (R_2 - I) S^T``, S the product of the layers before i in its chunk."""
    size = min(CHUNK, rows.shape[-2])

    def chunk(i, carry):
        rows, turn, prefix = carry
        # the last chunk reaches back over layers that are done
        start = jnp.minimum(i * size, rows.shape[-2] - size)
        layers = jax.lax.dynamic_slice_in_dim(rows, start, size, -2)
        layers = layers.reshape(*layers.shape[:-1], *turn.shape[-2:])
        places = start + jnp.arange(size, dtype=jnp.int32)
        left = _among(places, i * size, count, rows.shape[:-2])
        left, identity = left[..., None, None], identity_like(layers)
        through = chain.prefixes(jnp.where(left, layers, identity))
        before = jnp.concatenate([identity[..., :1, :, :], through[..., :-1, :, :]], -3)
        carried = matmul(matmul(before, turn[..., None, :, :]), transpose(before))
        moved = layers + jnp.where(left, matmul(layers, carried), 0)
        row = moved.reshape(*moved.shape[:-2], -1)
        rows = jax.lax.dynamic_update_slice_in_dim(rows, row, start, -2)
        whole = through[..., -1, :, :]
        turn = matmul(matmul(whole, turn), transpose(whole))
        return rows, turn, matmul(chain.product(jnp.where(left, moved, identity)), prefix)

    chunks = (jnp.max(count) + size - 1) // size
    return jax.lax.fori_loop(0, chunks, chunk, (rows, turn, identity_like(turn)))


def _turned_one_by_one(
    rows: jax.Array, turn: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """:func:`_turned` layer by layer."""

    def alone(function: Callable, *operands: jax.Array) -> jax.Array:
        # fused into what reads it, a slice or a sum would be computed again each time, and layers be copied for that
        return apart(function, function, *operands)

    def read(rows, i):
        return jax.lax.dynamic_index_in_dim(rows, i, -2, keepdims=False)

    def move(rows, i, turn):
        row = alone(read, rows, i)
        layer = row.reshape(turn.shape)
        change = matmul(layer, turn)  # by an identity, which carries it on as it is

        def add(row, change):
            # where this is a plain sum, XLA's other way of making loops takes it twice as slowly
            return row + jnp.where(i < counts[..., 0], change.reshape(row.shape), 0)

        moved = alone(add, row, change)
        rows = jax.lax.dynamic_update_index_in_dim(rows, moved, i, -2)
        return rows, matmul(change, transpose(layer)), moved.reshape(turn.shape)

    def one(i, carry):
        rows, turn, prefix = carry
        rows, turn, moved = move(rows, i, turn)
        return rows, turn, matmul(moved, prefix)

    def two(i, carry):
        return one(2 * i + 2, one(2 * i + 1, carry))

    # vmap over depth puts its axes in front of the others
    counts, most = count.reshape(count.shape + (1,) * (turn.ndim - count.ndim)), jnp.max(count)
    # the first layer is its own prefix; where none is in the middle it is an identity that stays
    carry = move(rows, 0, turn)
    # two at a time, or each prefix would be copied to where the next is to be read
    pairs = jnp.maximum(most - 1, 0) // 2
    carry = jax.lax.fori_loop(0, pairs, two, carry)
    return jax.lax.fori_loop(1 + 2 * pairs, most, one, carry)
