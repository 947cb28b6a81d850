"""From a cell to numbers: its problem, the solution it heads for, and where it starts.

Everything is in two-layer form ``(W_1, U)`` with ``U = W_N ... W_2`` (``dlnjax.reduced``), which the N-layer
network is expanded from; so a seed gives the same problem and start at every depth and in both engines. A
cell's numbers are drawn from its seed and width alone, whatever batch, shard or device it runs in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dlnjax import initial, problem, stiefel
from dlnjax._linalg import matmul, transpose
from dlnjax._types import PyTree, Rate
from dlnjax.problem import Quadratic
from dlnjax.reduced import LayerScales
from dlnjax.sweep.compute import accuracy, batching, compilation
from dlnjax.sweep.compute.backend import Instances
from dlnjax.sweep.compute.session import Session
from dlnjax.sweep.config import datasets
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Problem, Sweep
from dlnjax.theory import rates

# Streams drawn from a cell's key; the order is part of the results.
_TEACHER, _START, _LAYERS = range(3)


class TwoLayer(NamedTuple):
    """``first`` is ``W_1`` ``(r, d_0)``, ``frame`` is U ``(d_N, r)``; batched over cells in front."""

    first: jax.Array
    frame: jax.Array


@dataclass(frozen=True, kw_only=True)
class TwoLayerInstances(Instances):
    """Cells of plain linear networks; the solution is the one nearest to the start where the data leave a choice."""

    spec: Problem
    lead: Cell
    solution: TwoLayer

    def unit_rate(self, i: int, scales: LayerScales, ended: TwoLayer | None = None) -> Rate:
        if _is_closed(self.spec, self.lead):
            dims = _dims(self.spec, self.lead)
            return _teacher_rate(self.spec.singular_values, dims, scales)
        first, frame = (np.asarray(leaf[i]) for leaf in ended or self.solution)
        problem = self.problem if self.shared else jax.tree.map(lambda a: a[i], self.problem)
        return rates.predict_reduced(first, frame, self.lead.depth, _dense(problem), 1.0, scales)

    def start_distance(self) -> np.ndarray | None:
        if self.spec.kind != "teacher":
            return None
        count, pairs = len(self.norms), zip(self.solution, self.start, strict=True)
        gaps = [
            np.linalg.norm(np.asarray(a)[:count] - np.asarray(b)[:count], axis=(-2, -1)) for a, b in pairs
        ]
        return np.hypot(gaps[0], max(self.spec.singular_values) * gaps[1])


class _Drawn(NamedTuple):
    """What a seed decides; B cells in front. ``problem`` is None where data give one for all."""

    problem: Quadratic | None
    solution: TwoLayer
    start: TwoLayer
    keys: jax.Array


def draw(session: Session, sweep: Sweep, cells: Sequence[Cell], batch: int) -> TwoLayerInstances:
    """The instances of cells that share width, data and kind of start; filled up to ``batch`` with the last."""
    filled, lead, count = [*cells, *[cells[-1]] * (batch - len(cells))], cells[0], len(cells)
    seeds = np.array([cell.seed for cell in filled], np.uint32)
    dtype = np.dtype(lead.precision)
    near = np.asarray(sweep.start.distance, dtype) / np.array([cell.depth for cell in filled], dtype)
    data = _from_config(sweep, lead)
    drawn = program(session, sweep, lead, batch)(seeds, near, data and data[:2])
    problem, rank, unit = (
        (drawn.problem, len(sweep.problem.singular_values), 1.0)
        if data is None
        else (data[0], data[2], data[3])
    )
    fixed = data is None or lead.width <= problem.target.shape[0]
    return TwoLayerInstances(
        problem=problem,
        start=drawn.start,
        keys=drawn.keys,
        shared=data is not None,
        rank=rank,
        unit=np.full(count, unit),
        norms=_norms(sweep.problem, drawn.solution if fixed else drawn.start, count),
        num_middle=lead.depth - 2,
        unique=fixed,
        common=_is_closed(sweep.problem, lead) or (data is not None and fixed),
        spec=sweep.problem,
        lead=lead,
        solution=drawn.solution,
    )


def _norms(spec: Problem, known: TwoLayer, count: int) -> np.ndarray:
    """``||W_1||_2`` of a teacher, a best solution, or the start where the data fix none."""
    if spec.kind == "teacher":
        return np.full(count, max(spec.singular_values))
    return np.linalg.norm(np.asarray(known.first[:count], np.float64), 2, axis=(-2, -1))


def _dims(spec: Problem, cell: Cell) -> tuple[int, ...]:
    return (spec.input_dim or 0, *([cell.width] * (cell.depth - 1)), spec.output_dim or 0)


def _is_closed(spec: Problem, cell: Cell) -> bool:
    """Whether the teacher's spectrum alone gives the rate."""
    return spec.kind == "teacher" and cell.width <= min(spec.input_dim or 0, spec.output_dim or 0)


@lru_cache(maxsize=4096)
def _teacher_rate(values: tuple[float, ...], dims: tuple[int, ...], scales: LayerScales) -> Rate:
    return rates.closed_form(values, dims=dims, step_size=1.0, scales=scales)


def _dense(problem: Quadratic) -> Quadratic:
    """The problem with its covariance as a matrix, as the theory takes it."""
    if problem.covariance is None or problem.root is None or problem.covariance.ndim == 2:
        return problem
    return replace(problem, covariance=np.diag(problem.covariance), root=np.diag(problem.root))


def shapes(session: Session, sweep: Sweep, lead: Cell, batch: int) -> tuple[bool, tuple[PyTree, ...]]:
    """As of ``draw``'s result: ``shared``, and the shapes of problem, start and keys.

    A data set is to be known already (:func:`is_shared`).
    """
    known = _from_config(sweep, lead)
    drawn = _traced(session, sweep, lead, batch).out_info
    return known is not None, (known[0] if known else drawn.problem, drawn.start, drawn.keys)


def is_shared(sweep: Sweep, cell: Cell) -> bool:
    """Whether cells like this one have one problem; a data set is read and decomposed here, once."""
    return _from_config(sweep, cell) is not None


def _from_config(sweep: Sweep, lead: Cell) -> tuple[Quadratic, TwoLayer, int, float] | None:
    if sweep.problem.kind == "teacher":
        return None
    return from_data(sweep.problem, lead.data, lead.width, lead.precision)


def program(session: Session, sweep: Sweep, lead: Cell, batch: int) -> jax.stages.Compiled:
    """The compiled drawing of ``batch`` cells like ``lead``: one program, which can be made ahead of its use."""
    key = _key(sweep, lead, batch)
    if key not in session.drawing:
        with session.compiler.waiting():
            lowered = _traced(session, sweep, lead, batch).lower()
            session.drawing[key] = lowered.compile(compiler_options=compilation.brief_options())
    return session.drawing[key]


def _key(sweep: Sweep, lead: Cell, batch: int) -> tuple:
    return (sweep.problem, sweep.start, lead.start, lead.data, lead.width, lead.precision, batch)


def _traced(session: Session, sweep: Sweep, lead: Cell, batch: int) -> Any:
    """The function ``(seeds, near, known) -> _Drawn``, traced: once, though the thread that compiles wants it too."""
    key, known = _key(sweep, lead, batch), _from_config(sweep, lead)
    with session.tracing:
        if key not in session.traced:
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
            session.traced[key] = jax.jit(mapped).trace(seeds, near, known and known[:2])
        return session.traced[key]


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
        teacher_key, start_key, layer_key = streams(seed, width)
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


def streams(seed: jax.Array, width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    key = jax.random.fold_in(jax.random.key(seed), width)
    return tuple(jax.random.fold_in(key, stream) for stream in (_TEACHER, _START, _LAYERS))  # type: ignore


def _teacher(spec: Problem, key: jax.Array, width: int, dtype) -> tuple[Quadratic, TwoLayer]:
    widths = (spec.input_dim or 0, width, spec.output_dim or 0)  # a teacher has both
    first, frame = initial.teacher(key, widths, spec.singular_values, dtype)
    return problem.whitened(matmul(frame, first)), TwoLayer(first, frame)


@lru_cache(maxsize=16)
def from_data(
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
def teachers(spec: Problem, keys: jax.Array, width: int, dtype) -> tuple[Quadratic, TwoLayer]:
    """:func:`_teacher` of several keys."""
    return jax.vmap(lambda key: _teacher(spec, key, width, dtype))(keys)


def _norm(spec: Problem, first: jax.Array) -> jax.Array:
    """``||W_1*||_2``, by no decomposition: on several devices at once LAPACK may wait for itself forever.

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
