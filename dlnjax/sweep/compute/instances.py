"""From a cell to numbers: its problem, the solution it heads for, and where it starts.

Everything is in two-layer form ``(W_1, U)`` with ``U = W_N ... W_2`` (``dlnjax.reduced``), which the N-layer
network is expanded from; so a seed gives the same problem and start at every depth and in both engines. A
cell's numbers are drawn from its seed and width alone, whatever batch, shard or device it runs in.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dlnjax import initial, problem, stiefel
from dlnjax._linalg import matmul, transpose
from dlnjax.problem import Quadratic
from dlnjax.sweep.compute import accuracy, batching, compilation
from dlnjax.sweep.config import datasets
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Problem, Sweep

# Streams drawn from a cell's key; the order is part of the results.
_TEACHER, _START, _LAYERS = range(3)


class TwoLayer(NamedTuple):
    """``first`` is ``W_1`` ``(r, d_0)``, ``frame`` is U ``(d_N, r)``; batched over cells in front."""

    first: jax.Array
    frame: jax.Array


class Instances(NamedTuple):
    """The cells of a shard as arrays, B cells in front.

    Attributes:
      problem: batched where each cell has its own target (teachers), else shared.
      shared: whether ``problem`` is one for all cells.
      solution: the two-layer solution; for a last layer wider than tall, where the first layer of a solution
        is not unique, the one nearest to the start.
      start: the two-layer start.
      keys: PRNG keys of the middle layers, ``(B,)``.
      rank: numerical rank of the problem's target.
      unit: step sizes given as numbers are multiples of this; 1, or ``1/||C||_2`` on raw data.
    """

    problem: Quadratic
    shared: bool
    solution: TwoLayer
    start: TwoLayer
    keys: jax.Array
    rank: int
    unit: float


class _Drawn(NamedTuple):
    """What a seed decides; B cells in front. ``problem`` is None where data give one for all."""

    problem: Quadratic | None
    solution: TwoLayer
    start: TwoLayer
    keys: jax.Array


#: What draws the cells of a width, by what it depends on: traced, and compiled.
_traced: dict[tuple, Any] = {}
_programs: dict[tuple, Any] = {}
_tracing = threading.Lock()


def prepare(sweep: Sweep, cells: Sequence[Cell], batch: int) -> Instances:
    """The instances of cells that share width, data and kind of start; filled up to ``batch`` with the last."""
    filled = [*cells, *[cells[-1]] * (batch - len(cells))]
    seeds = np.array([cell.seed for cell in filled], np.uint32)
    dtype = np.dtype(cells[0].precision)
    near = np.asarray(sweep.start.distance, dtype) / np.array([cell.depth for cell in filled], dtype)
    known = _known(sweep, cells[0])
    drawn = program(sweep, cells[0], batch)(seeds, near, known and known[:2])
    if known is not None:
        return Instances(known[0], True, *drawn[1:], rank=known[2], unit=known[3])
    return Instances(drawn.problem, False, *drawn[1:], rank=len(sweep.problem.singular_values), unit=1.0)


def shapes(sweep: Sweep, lead: Cell, batch: int) -> tuple[bool, tuple[Any, ...]]:
    """As of ``prepare``'s result: ``shared``, and the shapes of problem, start and keys.

    A data set is to be known already (:func:`is_shared`).
    """
    known = _known(sweep, lead)
    drawn = _drawing(sweep, lead, batch).out_info
    return known is not None, (known[0] if known else drawn.problem, drawn.start, drawn.keys)


def is_shared(sweep: Sweep, cell: Cell) -> bool:
    """Whether cells like this one have one problem; a data set is read and decomposed here, once."""
    return _known(sweep, cell) is not None


def _known(sweep: Sweep, lead: Cell) -> tuple[Quadratic, TwoLayer, int, float] | None:
    if sweep.problem.kind == "teacher":
        return None
    return _from_data(sweep.problem, lead.data, lead.width, lead.precision)


def program(sweep: Sweep, lead: Cell, batch: int) -> Any:
    """The compiled drawing of ``batch`` cells like ``lead``: one program, which can be made ahead of its use."""
    key = _key(sweep, lead, batch)
    if key not in _programs:
        with compilation.standing():
            lowered = _drawing(sweep, lead, batch).lower()
            _programs[key] = lowered.compile(compiler_options=compilation.briefly())
    return _programs[key]


def _key(sweep: Sweep, lead: Cell, batch: int) -> tuple:
    return (sweep.problem, sweep.start, lead.start, lead.data, lead.width, lead.precision, batch)


def _drawing(sweep: Sweep, lead: Cell, batch: int) -> Any:
    """The function ``(seeds, near, known) -> _Drawn``, traced: once, though the thread that compiles wants it too."""
    key, known = _key(sweep, lead, batch), _known(sweep, lead)
    with _tracing:
        if key not in _traced:
            scale = sweep.start.first_scale if lead.start == "haar" else None
            function = partial(_draw, sweep.problem, lead.width, scale)
            split, whole = PartitionSpec("cells"), PartitionSpec()
            mapped = jax.shard_map(
                function,
                mesh=batching.mesh(batch),
                in_specs=(split, split, whole),
                out_specs=split,
                check_vma=False,
            )
            kinds = jnp.uint32, jnp.dtype(lead.precision)
            seeds, near = (jax.ShapeDtypeStruct((batch,), kind) for kind in kinds)
            _traced[key] = jax.jit(mapped).trace(seeds, near, known and known[:2])
        return _traced[key]


def _draw(
    spec: Problem,
    width: int,
    first_scale: float | None,
    seeds: jax.Array,
    near: jax.Array,
    known: tuple[Quadratic, TwoLayer] | None,
) -> _Drawn:
    """Every cell from its seed: a start near the solution, or a Haar one where ``first_scale`` is given."""

    def one(seed: jax.Array, near: jax.Array) -> _Drawn:
        teacher_key, start_key, layer_key = _streams(seed, width)
        square, solution = known or _teacher(spec, teacher_key, width, near.dtype)
        norm = _norm(spec, solution.first)
        if first_scale is None:
            start = _near(start_key, solution, near, norm)
        else:
            start = _haar(start_key, solution, first_scale * norm)
        if known and width > square.target.shape[0]:
            solution = _nearest_solution(square.optimum, start)
        return _Drawn(None if known else square, solution, start, layer_key)

    return jax.vmap(one)(seeds, near)


def _streams(seed: jax.Array, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    key = jax.random.fold_in(jax.random.key(seed), width)
    return tuple(jax.random.fold_in(key, stream) for stream in (_TEACHER, _START, _LAYERS))  # type: ignore


def _teacher(spec: Problem, key: jax.Array, width: int, dtype) -> tuple[Quadratic, TwoLayer]:
    widths = (spec.input_dim or 0, width, spec.output_dim or 0)  # a teacher has both
    first, frame = initial.teacher(key, widths, spec.singular_values, dtype)
    return problem.whitened(matmul(frame, first)), TwoLayer(first, frame)


@lru_cache(maxsize=16)
def _from_data(
    spec: Problem, treatment: str, width: int, precision: str
) -> tuple[Quadratic, TwoLayer, int, float]:
    """The problem of a data set, its best two-layer solution of this width, numerical rank and step unit."""
    (x, y), held_out = datasets.parts(spec)
    x, y = jnp.asarray(x, precision), jnp.asarray(y, precision)
    coordinates = problem.whiten if treatment == "whitened" else problem.principal
    square, new = coordinates(x, y)
    rank = square.target.shape[1]
    unit = 1.0 if square.covariance is None else float(1 / square.covariance[0])
    square = problem.with_optimum(square, width)
    if held_out is not None:
        seen, other = (
            accuracy.labelled(matmul(new, jnp.asarray(a, precision)), jnp.asarray(b, precision))
            for a, b in ((x, y), held_out)
        )
        square = accuracy.classified(square, seen, other)
    return square, _factorise(square.optimum, width), rank, unit


def _factorise(product: jax.Array, width: int) -> TwoLayer:
    """``U W_1`` with U orthonormal as far as ``d_N`` reaches: further columns, and rows of ``W_1``, are zero."""
    left, values, right = jnp.linalg.svd(product)
    kept, carried = min(width, product.shape[0]), min(width, *product.shape)
    first = jnp.zeros((width, product.shape[1]), product.dtype)
    frame = jnp.zeros((product.shape[0], width), product.dtype)
    first = first.at[:carried].set(values[:carried, None] * right[:carried])
    return TwoLayer(first, frame.at[:, :kept].set(left[:, :kept]))


@partial(jax.jit, static_argnums=(0, 2, 3))
def _teachers(spec: Problem, keys: jax.Array, width: int, dtype) -> tuple[Quadratic, TwoLayer]:
    """:func:`_teacher` of several keys."""
    return jax.vmap(lambda key: _teacher(spec, key, width, dtype))(keys)


def _norm(spec: Problem, first: jax.Array) -> jax.Array:
    """``||W_1*||_2``, by no decomposition: on several devices at once LAPACK may wait for itself for ever.

    A teacher's product has the norm of its first layer; :func:`_factorise` leaves orthogonal rows.
    """
    if spec.kind == "teacher":
        return jnp.asarray(spec.singular_values[0], first.dtype)
    return jnp.sqrt(jnp.max(jnp.sum(jnp.square(first), axis=1)))


def _near(key: jax.Array, solution: TwoLayer, distance: jax.Array, norm: jax.Array) -> TwoLayer:
    """The solution plus noise of total Frobenius norm ``distance * ||W_1*||_2``, the frame re-projected."""
    keys = jax.random.split(key)
    first = jax.random.normal(keys[0], solution.first.shape, distance.dtype)
    frame = jax.random.normal(keys[1], solution.frame.shape, distance.dtype)
    size = jnp.sqrt(jnp.sum(jnp.square(first)) + jnp.sum(jnp.square(frame)))
    return TwoLayer(
        solution.first + distance * norm * first / size,
        stiefel.project(solution.frame + distance * frame / size),
    )


def _haar(key: jax.Array, solution: TwoLayer, size: jax.Array) -> TwoLayer:
    """``W_1 = size`` times a Haar matrix, and a Haar frame."""
    keys = jax.random.split(key)
    first = stiefel.random(keys[0], solution.first.shape, size.dtype)
    return TwoLayer(size * first, stiefel.random(keys[1], solution.frame.shape, size.dtype))


def _nearest_solution(optimum: jax.Array, start: TwoLayer) -> TwoLayer:
    """``U^T W* + (I - U^T U) W_1``: the solution of this frame nearest to the start, for a wide frame."""
    first, frame = start
    missing = optimum - matmul(frame, first)
    return TwoLayer(first + matmul(transpose(frame), missing), frame)
