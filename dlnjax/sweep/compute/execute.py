"""A shard on the devices: its cells drawn, trained as one batch of one compiled program, and stored as rows."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import jax
import pyarrow as pa

from dlnjax.sweep.compute import columns, loop, memory, programs, session, step_rules
from dlnjax.sweep.compute.backends import BACKENDS
from dlnjax.sweep.compute.compilation import Job
from dlnjax.sweep.compute.session import Session
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.sweep.plan import Shard
from dlnjax.sweep.store import extra_columns, schema
from dlnjax.sweep.store.checkpoints import Checkpoint

# What the first table needs is imported while the first shard trains.
_TABLES = Job("tables", schema.warm)


def shard(
    sweep: Sweep,
    shard: Shard,
    checkpoint: Checkpoint | None = None,
    following: Iterable[Shard] = (),
    kept: Session | None = None,
) -> pa.Table:
    """Trains the cells of a shard and returns their rows, one per cell.

    What does not fit the device's memory at once runs in parts of half the size, a quarter, and so on; the size
    is remembered for the program.

    The sweep's precision holds also where the caller's JAX has x64 off; nothing global is changed.

    Args:
      sweep: what the cells belong to.
      shard: from ``plan.shards``.
      checkpoint: where checkpoints go; a shard that is over before one is due leaves none.
      following: the shards to come; the next other program among theirs is compiled while this one runs.
      kept: what this process keeps between shards; None: what all sweeps of the process share.
    """
    other = next((other for other in following if _differ(other, shard)), None)
    with programs.precision(sweep):
        return _shard(kept or session.shared(), sweep, shard, checkpoint, other)


def _differ(one: Shard, other: Shard) -> bool:
    """Whether two shards need different programs."""
    return (one.program, one.cells[0].start) != (other.program, other.cells[0].start)


def _shard(
    kept: Session, sweep: Sweep, shard: Shard, checkpoint: Checkpoint | None, following: Shard | None
) -> pa.Table:
    """All parts of a shard, one after the other; ``following`` has another program."""
    tables: list[pa.Table] = []
    kept.compiler.mark()
    cells = shard.cells
    while cells:
        batch = kept.batches.of(shard.program, shard.batch)
        part = replace(shard, cells=cells[:batch], batch=batch)
        whole = batch == shard.batch
        place = (
            checkpoint
            if whole or checkpoint is None
            else checkpoint.part(len(shard.cells) - len(cells), batch)
        )
        try:
            tables.append(_part(kept, sweep, part, place, following))
        except Exception as error:
            if not kept.batches.shrink(shard.program, batch, error):
                raise
            continue
        cells = cells[batch:]
    return _described(kept, shard, pa.concat_tables(tables), tables)


def _described(kept: Session, shard: Shard, table: pa.Table, parts: list[pa.Table]) -> pa.Table:
    """The table with what its file says of itself: devices, compilation, seconds on the devices, batch."""
    compilation = kept.compiler.since_mark()
    metadata = {
        "device": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "compilations": str(compilation.programs),
        "compile_seconds": f"{compilation.seconds:.3f}",
        "compile_waited": f"{compilation.waited:.3f}",
        "device_seconds": f"{sum(float(t.schema.metadata[b'device_seconds']) for t in parts):.3f}",
        "packed": str(sum(int(t.schema.metadata[b"packed"]) for t in parts)),
        "batch": str(kept.batches.of(shard.program, shard.batch)),
    }
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})


def _part(
    kept: Session, sweep: Sweep, shard: Shard, checkpoint: Checkpoint | None, following: Shard | None
) -> pa.Table:
    """Rows of as many cells as are in memory at once."""
    began = time.perf_counter()
    backend, compiler = BACKENDS[shard.program.engine], kept.compiler
    drawing, training = programs.jobs(kept, sweep, shard)
    compiler.settle(drawing)
    compiler.begin_if_free(training)  # of the first shard: while what draws its cells compiles here
    instances = backend.draw(kept, sweep, shard.cells, shard)
    settings = step_rules.resolve(sweep, shard.cells, instances)
    refused = compiler.settle(training)
    if isinstance(refused, memory.TooLarge):  # any other error shows when it is made here
        raise refused
    compiled, arguments = programs.ready(kept, sweep, shard, instances, settings)
    compiler.begin(_TABLES)
    if following is not None:
        batch = kept.batches.of(following.program, following.batch)
        for job in programs.jobs(kept, sweep, replace(following, batch=batch)):
            compiler.begin(job)
    batch = loop.Batch(
        compiled.call,
        arguments,
        lambda state: jax.device_put(state, compiled.sharding, may_alias=False),
        compiled.blank,
        partial(programs.reordered, compiled),
        len(compiled.sharding.device_set),
        shard.program.width,
    )
    goal = loop.Goal(sweep.record.tolerance, sweep.record.depth_of_fit)
    ended = loop.run(
        batch, records=sweep.record.records, interval=settings.interval, goal=goal, checkpoint=checkpoint
    )
    seconds = (time.perf_counter() - began) / len(shard.cells)
    compiler.settle(_TABLES)
    values = columns.columns(sweep, shard.cells, instances, settings, ended.result, ended.trace, seconds)
    table = extra_columns.append_metrics(schema.table(values, sweep.record.records), ended.extra)
    if sweep.record.keep_params:
        table = extra_columns.append_params(table, backend.trained(ended, shard.cells[0].depth))
    metadata = {
        "rank": str(instances.rank),
        "device_seconds": str(ended.seconds),
        "packed": str(ended.packed),
    }
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
