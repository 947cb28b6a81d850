"""One shard in whatever process: computed (:func:`compute`), then kept in the folder (:func:`keep`).

Results stay in the folder; what goes back to the driver is a small :class:`Report`.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from dlnjax.sweep import store
from dlnjax.sweep.driver import metadata
from dlnjax.sweep.store import failures
from dlnjax.sweep.store.checkpoints import Checkpoint
from dlnjax.sweep.store.protocols import Shard, Sweep


class Work(Protocol):
    """Computes the table of a shard; must be importable where it runs.

    ``checkpoint`` is the shard's own; ``following`` are the shards to come in this process, as far as they are known.
    """

    def __call__(
        self, sweep: Any, shard: Any, checkpoint: Checkpoint, following: Collection[Any], /
    ) -> pa.Table: ...


def process() -> tuple[str, int]:
    """What distinguishes this process from all others."""
    return platform.node(), os.getpid()


@dataclass(frozen=True)
class Training:
    """The package's own work: the cells trained on the devices of the process that calls it.

    ``home`` is the user's process, whose JAX is set up by its user; any other is ours to set up.
    """

    home: tuple[str, int] = field(default_factory=process)

    def __call__(
        self, sweep: Any, shard: Any, checkpoint: Checkpoint, following: Collection[Any] = ()
    ) -> pa.Table:
        if process() != self.home:
            from dlnjax.sweep.compute import devices

            devices.prepare(sweep.precision)
        from dlnjax.sweep.compute import execute

        return execute.shard(sweep, shard, checkpoint, following)


class Computed(NamedTuple):
    """A shard's table, not yet written; its checkpoint; seconds that it took."""

    table: pa.Table
    checkpoint: Checkpoint
    seconds: float


@dataclass(frozen=True)
class Report:
    """What a process reports of a shard it has written.

    Attributes:
      shard, cells: its name, and how many cells it has; written: False if the file was there already.
      seconds: spent in the work function.
      said: what its file says about itself (device, compile_seconds, ...).
      results: what its cells say of the whole sweep.
    """

    shard: str
    cells: int
    seconds: float
    written: bool
    said: Mapping[str, str]
    results: metadata.Results


def compute(
    work: Work, sweep: Sweep, shard: Shard, out: Path, holder: str, following: Collection[Shard] = ()
) -> Computed:
    """The shard's table; ``holder`` is the runner that has its lease."""
    begin, checkpoint = time.monotonic(), Checkpoint(out, shard.name, holder=holder)
    table = work(sweep, shard, checkpoint, following)
    return Computed(table, checkpoint, time.monotonic() - begin)


def keep(out: Path, name: str, computed: Computed) -> Report:
    """Writes a shard, and clears what its file makes superfluous."""
    table = computed.table
    results = metadata.results(table)
    written = store.write(out, name, table)
    computed.checkpoint.clear()
    failures.forget(out, name)
    return Report(name, len(table), computed.seconds, written, store.metadata_of(table), results)


def complete(work: Work, sweep: Sweep, shard: Shard, out: Path, holder: str) -> Report:
    """Computes a shard and keeps it."""
    return keep(out, shard.name, compute(work, sweep, shard, out, holder))
