"""A shard on the devices: its cells as one batch of one compiled program, and the rows that are stored.

Cells are the batch of a ``vmap``, split over the local devices by ``shard_map``; depth and the steps between
records are traced and common to the shard. So a program compiles once for a width, dtype and engine, and
serves every depth, step size, seed and length, and every piece of a run (:mod:`dlnjax.sweep.chunks`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dlnjax import layerwise, optim, reduced, train
from dlnjax.sweep import blocks, chunks, instance, metrics, rows, settings, store, weights
from dlnjax.sweep.cells import Cell, Sweep
from dlnjax.sweep.checkpoint import Room
from dlnjax.sweep.instance import TwoLayer
from dlnjax.sweep.parts import general
from dlnjax.sweep.parts.general import RETRACTIONS
from dlnjax.sweep.plan import Program, Shard
from dlnjax.sweep.settings import Settings


class Steps(NamedTuple):
    """What tells the cells of one program apart, ``(B,)`` each."""

    size: jax.Array
    scales: reduced.LayerScales


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
    leaves: Callable[[chunks.Ended, int], list[np.ndarray]]


class Compiled(NamedTuple):
    """A program ready to run, where its state lives and what it looks like, and the seconds it took to compile."""

    call: Any
    sharding: NamedSharding
    blank: chunks.State
    seconds: float


_programs: dict[tuple, Compiled] = {}


def compilations() -> int:
    """How many training programs this process has compiled."""
    return len(_programs)


def forget() -> None:
    """Compiled programs are made anew when next wanted, from JAX's cache on disk where it has them."""
    _programs.clear()


def shard(sweep: Sweep, shard: Shard, room: Room | None = None) -> pa.Table:
    """Trains the cells of a shard and returns their rows, one a cell.

    Args:
      sweep: what the cells belong to.
      shard: from ``plan.shards``.
      room: a place for checkpoints; a shard that is over before one is due leaves it empty.
    """
    began = time.perf_counter()
    way = WAYS[shard.program.engine]
    instances = way.prepare(sweep, shard.cells, shard)
    chosen = way.resolve(sweep, shard.cells, instances)
    compiled, fresh, arguments = _program(sweep, shard, instances, chosen)
    ended = chunks.run(
        partial(compiled.call, *arguments),
        lambda state: jax.device_put(state, compiled.sharding, may_alias=False),
        compiled.blank,
        records=sweep.record.records,
        interval=chosen.interval,
        room=room,
    )
    seconds = (time.perf_counter() - began) / len(shard.cells)
    found = way.columns(sweep, shard.cells, instances, chosen, ended.result, ended.trace, seconds)
    table = metrics.append(store.table(found, sweep.record.records), ended.extra)
    if sweep.record.keep_params:
        table = weights.append(table, way.leaves(ended, shard.cells[0].depth))
    facts = {
        "device": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "compile_seconds": f"{compiled.seconds if fresh else 0:.3f}",
        "batch": str(shard.batch),
        "rank": str(instances.rank),
    }
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **facts})


def _program(sweep: Sweep, shard: Shard, instances: Any, chosen: Any) -> tuple[Compiled, bool, tuple]:
    """The compiled program of a shard, whether it was compiled just now, and its arguments."""
    dtype = jnp.dtype(shard.program.precision)
    padding = shard.batch - len(shard.cells)

    def column(values: np.ndarray) -> jax.Array:
        return jnp.asarray(np.pad(values, (0, padding), mode="edge"), dtype)

    way = WAYS[shard.program.engine]
    steps = way.steps(chosen, column)
    depth = jnp.asarray(shard.cells[0].depth, jnp.int32)
    arguments = (instances.problem, instances.start, instances.keys, steps, depth)
    devices = _devices(shard.batch)
    shapes = tuple((a.shape, str(a.dtype)) for a in jax.tree.leaves(arguments))
    record = (sweep.record.records, sweep.record.tolerance)
    functions = tuple(sweep.functions.values())
    key = (shard.program, shard.max_depth, *record, instances.shared, len(devices), shapes, functions)
    fresh = key not in _programs
    if fresh:
        form = (instances.shared, shard.program.width)
        _programs[key] = _compile(way.engine(sweep, shard), record, form, devices, arguments)
    return _programs[key], fresh, arguments


def _devices(batch: int) -> list:
    """As many local devices as divide the batch."""
    devices = jax.local_devices()
    return devices[: max(n for n in range(1, len(devices) + 1) if batch % n == 0)]


def _compile(
    engine, record: tuple[int, float], form: tuple[bool, int], devices: list, arguments: tuple
) -> Compiled:
    """``chunks.program`` over a batch: blocks of cells within a device, shard_map over devices.

    ``form``: whether the problem is shared by all cells, and the width that sets the size of blocks.
    """
    shared, width = form
    began = time.perf_counter()
    mesh = Mesh(np.array(devices), ("cells",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("cells"), PartitionSpec()

    def cell(problem, start, key, steps, depth, state, first, last, interval):
        build = partial(engine, problem, start, key, steps, depth)
        return chunks.program(build, *record, state, first, last, interval)

    def blank(*arguments):
        return chunks.begin(partial(engine, *arguments), record[0])

    axes = (None if shared else 0, 0, 0, 0, None)
    specs = (whole if shared else split, split, split, split, whole)
    shapes = jax.eval_shape(jax.vmap(blank, in_axes=axes), *arguments)
    batched = blocks.blocked(cell, (*axes, 0, None, None, None), width)
    # check_vma is off: loop carries that start as constants would need a cast each
    mapped = jax.shard_map(
        batched, mesh=mesh, in_specs=(*specs, split, whole, whole, whole), out_specs=split, check_vma=False
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    call = (
        jax.jit(mapped, donate_argnums=len(axes)).lower(*arguments, shapes, number, number, number).compile()
    )
    return Compiled(call, NamedSharding(mesh, split), shapes, time.perf_counter() - began)


def _layers(
    program: Program, max_depth: int, problem, start: TwoLayer, key, steps: Steps, depth
) -> train.Engine:
    """One cell, layer by layer: by the optax transformation itself, or the one pass held equal to it."""
    network = reduced.Reduced(start.first, start.frame, depth)
    params = reduced.expand(key, network, max_layers=max(max_depth, 3))
    if (program.optimizer, program.retraction) == ("rgd", "polar"):
        engine = layerwise.prepare(params, problem, step_size=steps.size, scales=steps.scales, depth=depth)
    else:
        engine = train.prepare(params, problem, _optimizer(program, steps), depth=depth)

    def finish(carry) -> TwoLayer:
        params = engine.finish(carry)
        return TwoLayer(params[0], reduced.frame(params, depth))

    return engine._replace(finish=finish)


def _optimizer(program: Program, steps: Steps):
    if program.optimizer == "gd":
        return optim.gd(steps.size, scales=tuple(steps.scales))
    return optim.rgd(steps.size, scales=tuple(steps.scales), retraction=RETRACTIONS[program.retraction])


def _reduced(
    program: Program, max_depth: int, problem, start: TwoLayer, key, steps: Steps, depth
) -> train.Engine:
    """One cell by the exact reduction; the middle layers, and so ``key``, do not matter."""
    network = reduced.Reduced(start.first, start.frame, depth)
    engine = reduced.prepare(network, problem, step_size=steps.size, scales=steps.scales)

    def finish(carry) -> TwoLayer:
        ended = engine.finish(carry)
        return TwoLayer(ended.first, ended.frame)

    return engine._replace(finish=finish)


def _trained_layers(ended: chunks.Ended, depth: int) -> list[np.ndarray]:
    """``(W_1, run, W_N)`` with the layers that train, ``(W_1, W_2)`` without a middle one; B cells in front."""
    carry = ended.carry
    first, run, last = carry[0] if isinstance(carry[0], tuple) else carry  # beside an optimizer's state
    return [first, run[:, : depth - 2], last] if depth > 2 else [first, last]


def _trained_frame(ended: chunks.Ended, depth: int) -> list[np.ndarray]:
    """``(W_1, U)``, B cells in front."""
    return [np.asarray(leaf) for leaf in ended.result]


def _steps(chosen: Settings, column: Callable[[np.ndarray], jax.Array]) -> Steps:
    return Steps(column(chosen.step_size), jax.tree.map(column, chosen.scales))


def _plain(engine: Callable[..., train.Engine], leaves: Callable[..., list[np.ndarray]]) -> Way:
    """The way of plain linear networks, by one of their two engines."""

    def made(sweep: Sweep, shard: Shard):
        return partial(engine, shard.program, shard.max_depth)

    def prepare(sweep: Sweep, cells: Sequence[Cell], shard: Shard) -> Any:
        return instance.prepare(sweep, cells, shard.batch)

    return Way(prepare, settings.resolve, _steps, made, rows.columns, leaves)


def _general(sweep: Sweep, shard: Shard) -> Callable[..., train.Engine]:
    return partial(general.engine, sweep, shard.program.lead)  # type: ignore[arg-type]


WAYS = {
    "layers": _plain(_layers, _trained_layers),
    "reduced": _plain(_reduced, _trained_frame),
    "general": Way(
        general.prepare, general.resolve, general.steps, _general, general.columns, general.leaves
    ),
}
