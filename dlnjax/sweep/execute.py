"""A shard on the devices: its cells as one batch of one compiled program, and the rows that are stored.

Cells are the batch of a ``vmap``, split over the local devices by ``shard_map``; depth and the record
intervals are traced and common to the shard. So a program compiles once for a width, dtype and engine, and
serves every depth, step size, seed and length.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
from jax.sharding import AxisType, Mesh, PartitionSpec

from dlnjax import layerwise, optim, reduced, stiefel, train
from dlnjax._types import Trace
from dlnjax.sweep import instance, rows, settings, store
from dlnjax.sweep.cells import Sweep
from dlnjax.sweep.instance import Instances, TwoLayer
from dlnjax.sweep.plan import Program, Shard
from dlnjax.sweep.settings import Settings

RETRACTIONS: Mapping[str, Any] = {
    "polar": stiefel.retract_polar,
    "qr": stiefel.retract_qr,
    "cayley": stiefel.retract_cayley,
    "cholesky_qr": stiefel.retract_cholesky_qr,
}


class Steps(NamedTuple):
    """What tells the cells of one program apart, ``(B,)`` each."""

    size: jax.Array
    scales: reduced.LayerScales


class Compiled(NamedTuple):
    """A program ready to run, and the seconds it took to compile."""

    call: Any
    seconds: float


_programs: dict[tuple, Compiled] = {}


def compilations() -> int:
    """How many training programs this process has compiled."""
    return len(_programs)


def shard(sweep: Sweep, shard: Shard, room: object = None) -> pa.Table:
    """Trains the cells of a shard and returns their rows, one a cell.

    Args:
      sweep: what the cells belong to.
      shard: from ``plan.shards``.
      room: a place for checkpoints; short shards leave it empty.
    """
    began = time.perf_counter()
    instances = instance.prepare(sweep, shard.cells, shard.batch)
    chosen = settings.resolve(sweep, shard.cells, instances)
    compiled, fresh, arguments = _program(sweep, shard, instances, chosen)
    ended, trace = jax.block_until_ready(compiled.call(*arguments))
    seconds = (time.perf_counter() - began) / len(shard.cells)
    found = rows.rows(sweep, shard.cells, instances, chosen, ended, jax.tree.map(np.asarray, trace), seconds)
    table = store.table(found, sweep.record.records)
    facts = {
        "device": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "compile_seconds": f"{compiled.seconds if fresh else 0:.3f}",
        "batch": str(shard.batch),
        "rank": str(instances.rank),
    }
    return table.replace_schema_metadata(facts)


def _program(
    sweep: Sweep, shard: Shard, instances: Instances, chosen: Settings
) -> tuple[Compiled, bool, tuple]:
    """The compiled program of a shard, whether it was compiled just now, and its arguments."""
    dtype = jnp.dtype(shard.program.precision)
    padding = shard.batch - len(shard.cells)

    def column(values: np.ndarray) -> jax.Array:
        return jnp.asarray(np.pad(values, (0, padding), mode="edge"), dtype)

    steps = Steps(column(chosen.step_size), jax.tree.map(column, chosen.scales))
    intervals = jnp.full(sweep.record.records, chosen.interval, jnp.int32)
    depth = jnp.asarray(shard.cells[0].depth, jnp.int32)
    arguments = (instances.problem, instances.start, instances.keys, steps, depth, intervals)
    devices = _devices(shard.batch)
    shapes = tuple((a.shape, str(a.dtype)) for a in jax.tree.leaves(arguments))
    key = (shard.program, shard.max_depth, sweep.record.tolerance, instances.shared, len(devices), shapes)
    fresh = key not in _programs
    if fresh:
        cell = partial(_ENGINES[shard.program.engine], shard.program, shard.max_depth, sweep.record.tolerance)
        _programs[key] = _compile(cell, instances.shared, devices, arguments)
    return _programs[key], fresh, arguments


def _devices(batch: int) -> list:
    """As many local devices as divide the batch."""
    devices = jax.local_devices()
    return devices[: max(n for n in range(1, len(devices) + 1) if batch % n == 0)]


def _compile(cell, shared: bool, devices: list, arguments: tuple) -> Compiled:
    """``cell`` over a batch: vmap within a device, shard_map over devices."""
    began = time.perf_counter()
    mesh = Mesh(np.array(devices), ("cells",), axis_types=(AxisType.Auto,))
    split, whole = PartitionSpec("cells"), PartitionSpec()
    batched = jax.vmap(cell, in_axes=(None if shared else 0, 0, 0, 0, None, None))
    specs = (whole if shared else split, split, split, split, whole, whole)
    # check_vma is off: loop carries that start as constants would need a cast each
    mapped = jax.shard_map(batched, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
    call = jax.jit(mapped).lower(*arguments).compile()
    return Compiled(call, time.perf_counter() - began)


def _layers(
    program: Program,
    max_depth: int,
    tolerance: float,
    problem,
    start: TwoLayer,
    key,
    steps: Steps,
    depth,
    intervals,
) -> tuple[TwoLayer, Trace]:
    """One cell, layer by layer: by the optax transformation itself, or the one pass held equal to it."""
    network = reduced.Reduced(start.first, start.frame, depth)
    params = reduced.expand(key, network, max_layers=max(max_depth, 3))
    options: dict[str, Any] = {"record_intervals": intervals, "depth": depth, "tolerance": tolerance}
    if (program.optimizer, program.retraction) == ("rgd", "polar"):
        params, trace = layerwise.train(params, problem, step_size=steps.size, scales=steps.scales, **options)
    else:
        params, trace = train.train(params, problem, _optimizer(program, steps), **options)
    return TwoLayer(params[0], reduced.frame(params, depth)), trace


def _optimizer(program: Program, steps: Steps):
    if program.optimizer == "gd":
        return optim.gd(steps.size, scales=tuple(steps.scales))
    return optim.rgd(steps.size, scales=tuple(steps.scales), retraction=RETRACTIONS[program.retraction])


def _reduced(
    program: Program,
    max_depth: int,
    tolerance: float,
    problem,
    start: TwoLayer,
    key,
    steps: Steps,
    depth,
    intervals,
) -> tuple[TwoLayer, Trace]:
    """One cell by the exact reduction; the middle layers, and so ``key``, do not matter."""
    network = reduced.Reduced(start.first, start.frame, depth)
    ended, trace = reduced.train(
        network,
        problem,
        step_size=steps.size,
        scales=steps.scales,
        record_intervals=intervals,
        tolerance=tolerance,
    )
    return TwoLayer(ended.first, ended.frame), trace


_ENGINES = {"layers": _layers, "reduced": _reduced}
