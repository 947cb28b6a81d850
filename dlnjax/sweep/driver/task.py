"""One shard in whatever process: computed by the devices, then kept in the folder.

An executor's process does one after the other (:func:`complete`); in the driver's own a shard is kept by a thread
aside while the devices are at the next one (:func:`keep_aside`).
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from dlnjax.sweep import store
from dlnjax.sweep.store import failures
from dlnjax.sweep.store.checkpoints import Room

#: (sweep, shard, room) -> the shard's table; must be importable where it runs
Work = Callable[[Any, Any, Room], pa.Table]


@dataclass(frozen=True)
class Done:
    """What a process reports of a shard it has written; the table itself stays in the folder."""

    shard: str
    cells: int
    seconds: float
    written: bool
    facts: Mapping[str, str]


class Computed(NamedTuple):
    """A shard's table, not yet written; where its checkpoints are; seconds that it took."""

    table: pa.Table
    room: Room
    seconds: float


def complete(work: Work, sweep: Any, shard: Any, out: Path) -> Done:
    """Computes a shard and writes it."""
    return keep(out, shard.name, compute(work, sweep, shard, out))


def compute(work: Work, sweep: Any, shard: Any, out: Path) -> Computed:
    """The shard's table."""
    begin, room = time.monotonic(), Room(out, shard.name)
    table = work(sweep, shard, room)
    return Computed(table, room, time.monotonic() - begin)


def keep(out: Path, name: str, computed: Computed) -> Done:
    """Writes a shard, and clears what its file makes superfluous."""
    table = computed.table
    written = store.write(out, name, table)
    computed.room.clear()
    failures.forget(out, name)
    facts = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    return Done(name, len(table), computed.seconds, written, facts)


def keep_aside(out: Path, name: str, computed: Computed) -> Done:
    """:func:`keep` in a thread that leaves the interpreter to the one with the devices."""
    return keep(out, name, computed)


def execute(sweep: Any, shard: Any, room: Room, following: Collection[Any] = ()) -> pa.Table:
    """The package's own work: the cells trained on this process's devices."""
    from dlnjax.sweep.compute import execute

    return execute.shard(sweep, shard, room, following)


def execute_elsewhere(home: tuple[str, int], sweep: Any, shard: Any, room: Room) -> pa.Table:
    """:func:`execute` in a process of its own, whose JAX is ours to set up; in ``home`` it is the user's."""
    if process() != home:
        from dlnjax.sweep.compute import devices

        devices.prepare(sweep.precision)
    return execute(sweep, shard, room)


def process() -> tuple[str, int]:
    """What tells this process from others."""
    return platform.node(), os.getpid()
