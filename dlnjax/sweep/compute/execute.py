"""A shard on the devices: its cells as one batch of one compiled program, and the rows that are stored.

Cells are the batch of a ``vmap``, split over the local devices by ``shard_map``; depth and the steps between
records are traced and common to the shard. So a program compiles once for a width, dtype and engine, and
serves every depth, step size, seed and length, and every piece of a run (:mod:`dlnjax.sweep.compute.loop`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlnjax import layerwise, reduced, train
from dlnjax._linalg import matmul
from dlnjax.sweep.compute import (
    accuracy,
    batching,
    columns,
    compilation,
    general,
    instances,
    loop,
    memory,
    step_rules,
)
from dlnjax.sweep.compute.general import Steps
from dlnjax.sweep.compute.instances import TwoLayer
from dlnjax.sweep.config import registry
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.sweep.plan import Program, Shard
from dlnjax.sweep.store import extra_columns, schema
from dlnjax.sweep.store.checkpoints import Room


class Way(NamedTuple):
    """How the shards of one kind of program run.

    Attributes:
      prepare: ``(sweep, cells, shard)``, cells of the shard -> their ``problem, start, keys, shared, rank``.
      resolve: ``(sweep, cells, prepared)`` -> their settings, with ``interval``.
      steps: ``(settings, column)`` -> the traced numbers of the cells.
      engine: ``(sweep, shard)`` -> the function that makes one cell's engine.
      columns: as ``rows.columns``.
      leaves: ``(ended, depth)`` -> the trained weights, B cells in front.
    """

    prepare: Callable[..., Any]
    resolve: Callable[..., Any]
    steps: Callable[..., Any]
    engine: Callable[[Sweep, Shard], Callable[..., train.Engine]]
    columns: Callable[..., dict[str, Any]]
    leaves: Callable[[loop.Ended, int], list[np.ndarray]]


class Compiled(NamedTuple):
    """A program ready to run, where its arguments and its state live, and what the state looks like."""

    call: Any
    places: tuple[NamedSharding, ...]
    sharding: NamedSharding
    blank: loop.State


_programs: dict[tuple, Compiled] = {}
# What the first table needs is taken in while the first shard trains.
_TABLES = compilation.Making("tables", schema.warm)


def compilations() -> int:
    """How many training programs this process has compiled."""
    return len(_programs)


def forget() -> None:
    """Compiled programs are made anew when next wanted, from JAX's cache on disk where it has them."""
    _programs.clear()


def shard(sweep: Sweep, shard: Shard, room: Room | None = None, following: Iterable[Shard] = ()) -> pa.Table:
    """Trains the cells of a shard and returns their rows, one a cell.

    What does not fit the device's memory at once runs in parts of half the size, a quarter, and so on; the size
    is remembered for the program.

    The sweep's precision holds also where the caller's JAX has x64 off; nothing global is changed.

    Args:
      sweep: what the cells belong to.
      shard: from ``plan.shards``.
      room: a place for checkpoints; a shard that is over before one is due leaves it empty.
      following: the shards to come; the next other program among theirs is compiled while this one runs.
    """
    other = next((other for other in following if _differ(other, shard)), None)
    with _precision(sweep):
        return _shard(sweep, shard, room, other)


def _differ(one: Shard, other: Shard) -> bool:
    """Whether two shards need different programs."""
    return (one.program, one.cells[0].start) != (other.program, other.cells[0].start)


def _precision(sweep: Sweep) -> AbstractContextManager[Any]:
    """The sweep's precision in this thread, whatever the caller's JAX is set to."""
    return jax.enable_x64(sweep.precision == "float64")


def _shard(sweep: Sweep, shard: Shard, room: Room | None, following: Shard | None) -> pa.Table:
    """All parts of a shard, one after the other; ``following`` has another program."""
    tables: list[pa.Table] = []
    compilation.mark()
    left = shard.cells
    while left:
        batch = memory.batch(shard.program, shard.batch)
        part = replace(shard, cells=left[:batch], batch=batch)
        whole = batch == shard.batch
        place = room if whole or room is None else room.part(len(shard.cells) - len(left), batch)
        try:
            tables.append(_part(sweep, part, place, following))
        except Exception as error:
            if not memory.shrink(shard.program, batch, error):
                raise
            continue
        left = left[batch:]
    facts = {
        "device": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        **compilation.taken(),
        "device_seconds": f"{sum(float(t.schema.metadata[b'device_seconds']) for t in tables):.3f}",
        "packed": str(sum(int(t.schema.metadata[b"packed"]) for t in tables)),
        "batch": str(memory.batch(shard.program, shard.batch)),
    }
    table = pa.concat_tables(tables)
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **facts})


def _part(sweep: Sweep, shard: Shard, room: Room | None, following: Shard | None) -> pa.Table:
    """Rows of as many cells as are in memory at once."""
    began = time.perf_counter()
    drawing, training = _programs_of(sweep, shard)
    compilation.settle(drawing)
    compilation.begin_if_free(training)  # of the first shard: while what draws its cells compiles here
    way = WAYS[shard.program.engine]
    drawn = way.prepare(sweep, shard.cells, shard)
    chosen = way.resolve(sweep, shard.cells, drawn)
    refused = compilation.settle(training)
    if isinstance(refused, memory.TooLarge):  # any other error shows when it is made here
        raise refused
    compiled, arguments = _program(sweep, shard, drawn, chosen)
    compilation.begin(_TABLES)
    if following is not None:
        following = replace(following, batch=memory.batch(following.program, following.batch))
        for made in _programs_of(sweep, following):
            compilation.begin(made)
    batch = loop.Batch(
        compiled.call,
        arguments,
        lambda state: jax.device_put(state, compiled.sharding, may_alias=False),
        compiled.blank,
        partial(_reordered, compiled),
        len(compiled.sharding.device_set),
        shard.program.width,
    )
    goal = loop.Goal(sweep.record.tolerance, sweep.record.depth_of_fit)
    ended = loop.run(batch, records=sweep.record.records, interval=chosen.interval, goal=goal, room=room)
    seconds = (time.perf_counter() - began) / len(shard.cells)
    compilation.settle(_TABLES)
    found = way.columns(sweep, shard.cells, drawn, chosen, ended.result, ended.trace, seconds)
    table = extra_columns.append_metrics(schema.table(found, sweep.record.records), ended.extra)
    if sweep.record.keep_params:
        table = extra_columns.append_params(table, way.leaves(ended, shard.cells[0].depth))
    facts = {"rank": str(drawn.rank), "device_seconds": str(ended.seconds), "packed": str(ended.packed)}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **facts})


def _reordered(compiled: Compiled, arguments: tuple, order: np.ndarray) -> tuple:
    """The arguments with the cells in another order, moved by way of the host: no program compiles for it."""

    def moved(a: jax.Array) -> Any:
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return np.asarray(a)[order]
        numbers: Any = np.asarray(jax.random.key_data(a))[order]
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(a))

    found = (
        jax.tree.map(moved, argument) if place == compiled.sharding else argument
        for argument, place in zip(arguments, compiled.places, strict=True)
    )
    return jax.device_put(tuple(found), compiled.places)


def _program(sweep: Sweep, shard: Shard, drawn: Any, chosen: Any) -> tuple[Compiled, tuple]:
    """The compiled program of a shard, and its arguments on the devices."""
    dtype = jnp.dtype(shard.program.precision)
    padding = shard.batch - len(shard.cells)

    def column(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, padding), mode="edge").astype(dtype)

    steps = WAYS[shard.program.engine].steps(chosen, column)
    depth = np.asarray(shard.cells[0].depth, "int32")
    arguments = (drawn.problem, drawn.start, drawn.keys, steps, depth)
    compiled = _compiled(sweep, shard, drawn.shared, arguments)
    return compiled, jax.device_put(arguments, compiled.places)


def _compiled(sweep: Sweep, shard: Shard, shared: bool, arguments: tuple) -> Compiled:
    """The program, compiled once; of ``arguments`` only the shapes matter."""
    mesh = batching.mesh(shard.batch)
    shapes = tuple((a.shape, str(a.dtype)) for a in jax.tree.leaves(arguments))
    record = sweep.record
    goal = loop.Goal(record.tolerance, record.depth_of_fit)
    key = (shard.program, shard.max_depth, record.records, goal, shared, mesh.size, shapes)
    key += tuple(sweep.functions.values())
    if key not in _programs:
        engine, form = WAYS[shard.program.engine].engine(sweep, shard), (shared, shard.program.width)
        with compilation.standing():
            _programs[key] = _compile(engine, (record.records, goal), form, mesh, arguments)
    return _programs[key]


def _programs_of(sweep: Sweep, shard: Shard) -> tuple[compilation.Making, compilation.Making]:
    """How to make the program that draws the cells of a shard, and the one that trains them."""
    name, lead = _named(sweep, shard), shard.cells[0]
    if shard.program.lead is not None:  # the general path's arguments are only known once they are computed
        return compilation.Making(("draw", *name)), compilation.Making(("train", *name))
    instances.is_shared(sweep, lead)  # what data need is computed here and kept

    def draw() -> None:
        with _precision(sweep):  # it is a thread's own
            instances.program(sweep, lead, shard.batch)

    def train() -> None:
        with _precision(sweep):
            shared, shapes = instances.shapes(sweep, lead, shard.batch)
            column: Any = jax.ShapeDtypeStruct((shard.batch,), jnp.dtype(shard.program.precision))
            steps = Steps(column, reduced.LayerScales(column, column, column), column)
            _compiled(sweep, shard, shared, (*shapes, steps, jax.ShapeDtypeStruct((), jnp.int32)))

    return compilation.Making(("draw", *name), draw), compilation.Making(("train", *name), train)


def _named(sweep: Sweep, shard: Shard) -> tuple:
    """What tells the programs of shards apart, before any is made."""
    return (
        sweep.problem,
        sweep.start,
        sweep.record,
        shard.program,
        shard.cells[0].start,
        shard.batch,
        shard.max_depth,
    )


def _compile(
    engine, record: tuple[int, loop.Goal], form: tuple[bool, int], mesh: Mesh, arguments: tuple
) -> Compiled:
    """``chunks.program`` over a batch: blocks of cells within a device, shard_map over devices.

    ``form``: whether the problem is shared by all cells, and the width that sets the size of blocks.

    Raises:
      memory.TooLarge: the devices' memory does not hold as many cells; before the program is compiled where the
        sizes of its arguments and state tell, behind it where its own account does.
    """
    shared, width = form
    device = mesh.devices.flat[0]
    split, whole = PartitionSpec("cells"), PartitionSpec()

    def cell(problem, start, key, steps, depth, state, first, last, interval):
        build = partial(engine, problem, start, key, steps, depth)
        return loop.program(build, *record, state, first, last, interval)

    def blank(*arguments):
        return loop.begin(partial(engine, *arguments), record[0])

    axes = (None if shared else 0, 0, 0, 0, None)
    specs = (whole if shared else split, split, split, split, whole)
    shapes = jax.eval_shape(jax.vmap(blank, in_axes=axes), *arguments)
    share = memory.Share(arguments[2].shape[0], mesh.size, batching.cells(width))
    memory.check_sizes(
        share, [a for a, axis in zip(arguments, axes, strict=True) if axis == 0], shapes, device
    )
    batched = batching.blocked(cell, (*axes, 0, None, None, None), width)
    # check_vma is off: loop carries that start as constants would need a cast each
    mapped = jax.shard_map(
        batched, mesh=mesh, in_specs=(*specs, split, whole, whole, whole), out_specs=split, check_vma=False
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    call = (
        jax.jit(mapped, donate_argnums=len(axes)).lower(*arguments, shapes, number, number, number).compile()
    )
    memory.check_program(share, call, device)
    places = tuple(NamedSharding(mesh, spec) for spec in specs)
    return Compiled(call, places, NamedSharding(mesh, split), shapes)


def _layers(
    program: Program, max_depth: int, problem, start: TwoLayer, key, steps: Steps, depth
) -> train.Engine:
    """One cell, layer by layer: by the optax transformation itself, or the one pass held equal to it."""
    network = reduced.Reduced(start.first, start.frame, depth)
    params = reduced.expand(key, network, max_layers=max(max_depth, 3))
    if (program.optimizer, program.retraction) == ("rgd", "polar"):
        engine = layerwise.prepare(params, problem, step_size=steps.size, scales=steps.scales, depth=depth)
    else:
        optimizer = general.recipe(program, steps, tuple(steps.scales), None)
        engine = train.prepare(params, problem, optimizer, depth=depth)

    def finish(carry) -> TwoLayer:
        params = engine.finish(carry)
        return TwoLayer(params[0], reduced.frame(params, depth))

    return _in_two_layers(engine, problem, finish)


def _reduced(
    program: Program, max_depth: int, problem, start: TwoLayer, key, steps: Steps, depth
) -> train.Engine:
    """One cell by the exact reduction; the middle layers, and so ``key``, do not matter."""
    network = reduced.Reduced(start.first, start.frame, depth)
    momentum = steps.momentum if registry.optimizer(program.optimizer).momentum else None
    engine = reduced.prepare(network, problem, step_size=steps.size, scales=steps.scales, momentum=momentum)

    def finish(carry) -> TwoLayer:
        ended = engine.finish(carry)
        return TwoLayer(ended.first, ended.frame)

    return _in_two_layers(engine, problem, finish)


def _in_two_layers(engine: train.Engine, problem, finish: Callable[[Any], TwoLayer]) -> train.Engine:
    """The engine with its end in two-layer form, and what the product tells at every record."""

    def product(carry) -> jax.Array:
        ended = finish(carry)
        return matmul(ended.frame, ended.first)

    return accuracy.reported(engine, problem, product)._replace(finish=finish)


def _trained_layers(ended: loop.Ended, depth: int) -> list[np.ndarray]:
    """``(W_1, run, W_N)`` with the layers that train, ``(W_1, W_2)`` without a middle one; B cells in front."""
    carry = ended.carry
    params: Any = carry.params if isinstance(carry, layerwise.Layers) else carry[0]
    first, run, last = params
    return [first, run[:, : depth - 2], last] if depth > 2 else [first, last]


def _trained_frame(ended: loop.Ended, depth: int) -> list[np.ndarray]:
    """``(W_1, U)``, B cells in front."""
    return [np.asarray(leaf) for leaf in ended.result]


def _plain(engine: Callable[..., train.Engine], leaves: Callable[..., list[np.ndarray]]) -> Way:
    """The way of plain linear networks, by one of their two engines."""

    def made(sweep: Sweep, shard: Shard):
        return partial(engine, shard.program, shard.max_depth)

    def prepare(sweep: Sweep, cells: Sequence[Cell], shard: Shard) -> Any:
        return instances.prepare(sweep, cells, shard.batch)

    return Way(prepare, step_rules.resolve, general.steps, made, columns.columns, leaves)


def _general(sweep: Sweep, shard: Shard) -> Callable[..., train.Engine]:
    return partial(general.engine, sweep, shard.program.lead)  # type: ignore[arg-type]


WAYS = {
    "layers": _plain(_layers, _trained_layers),
    "reduced": _plain(_reduced, _trained_frame),
    "general": Way(
        general.prepare, general.resolve, general.steps, _general, general.columns, general.leaves
    ),
}
