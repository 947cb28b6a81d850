"""What a run will take before it runs: steps from the theory, seconds from a few steps of each program, bytes.

Every shard's number of steps is known beforehand (``step_rules``), and a step costs the same from the
first to the last. So it is enough to time each program at its shallowest and its deepest shard; a step's time is
linear in the depth layer by layer, in its logarithm by the reduction. The programs compiled for this are kept in the
cache that the run then uses, so that the work is not lost. A program that would not fit into memory is not tried.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from dlnjax.sweep.compute import programs, step_rules
from dlnjax.sweep.compute.backends import BACKENDS
from dlnjax.sweep.compute.session import Compiled, Session
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.sweep.plan import Program, Shard

#: Seconds that the timed steps of a program take at least, where its run is long enough.
_TIMED = 0.1
#: Copies of all layers that training holds at a time, at most: state, result, and rows going back through them.
_COPIES = 4


class Pace(NamedTuple):
    """Seconds of one record and of one step, for all cells of a shard together."""

    record: float
    step: float


@dataclass(frozen=True)
class Cost:
    """What one program's shards will take.

    Attributes:
      program: which.
      shards, cells: how many.
      steps: of the longest shard.
      seconds: of training, all shards one after the other in this process; None where it was not tried.
      compiling: seconds to make the program ready, now that JAX's cache on disk (where there is one) has it.
      memory: bytes on all devices together, at most, besides what Python and JAX take by themselves.
      fits: whether ``memory`` is there.
    """

    program: Program
    shards: int
    cells: int
    steps: int
    seconds: float | None
    compiling: float
    memory: int
    fits: bool


def costs(sweep: Sweep, shards: Sequence[Shard]) -> list[Cost]:
    """The cost of every program that these shards need; compiles each and runs a few steps of it.

    Args:
      sweep: what the shards belong to.
      shards: from ``plan.shards``, those that are still to do.
    """
    groups: dict[Program, list[Shard]] = defaultdict(list)
    for shard in shards:
        groups[shard.program].append(shard)
    return [_cost(sweep, group) for group in groups.values()]


def _cost(sweep: Sweep, group: list[Shard]) -> Cost:
    lead, room = group[0], memory_available()
    cells, records = sum(len(shard.cells) for shard in group), sweep.record.records
    least = least_memory(sweep, lead)
    if least > room:
        return Cost(lead.program, len(group), cells, sweep.record.max_steps, None, 0.0, least, False)
    began = time.perf_counter()
    intervals = [_interval(sweep, shard) for shard in group]
    setting = time.perf_counter() - began
    shallow, deep = min(group, key=_place), max(group, key=_place)
    first, last = _try(sweep, shallow), _try(sweep, deep)  # the second finds the program as the run will
    ends = ((_place(shallow), first.pace), (_place(deep), last.pace))
    paces = [_between(ends, _place(shard)) for shard in group]
    training = sum(records * (p.record + n * p.step) for p, n in zip(paces, intervals, strict=True))
    memory = max(first.memory, last.memory)
    return Cost(
        lead.program, len(group), cells, records * max(intervals), setting + training,
        last.compiling, memory, memory <= room,
    )  # fmt: skip


def _interval(sweep: Sweep, shard: Shard) -> int:
    """Steps between two records of a shard, by one cell of each step size: seeds hardly differ."""
    some = tuple({cell.step: cell for cell in shard.cells}.values())
    drawn = BACKENDS[shard.program.engine].draw(Session(), sweep, some, shard)
    return step_rules.resolve(sweep, some, drawn).interval


class _Tried(NamedTuple):
    pace: Pace
    compiling: float
    memory: int


def _try(sweep: Sweep, shard: Shard) -> _Tried:
    """One program ready to run, timed at one depth."""
    kept = Session()  # of its own: what was compiled for the other depth is timed from JAX's cache on disk
    instances = BACKENDS[shard.program.engine].draw(kept, sweep, shard.cells, shard)
    settings = step_rules.resolve(sweep, shard.cells, instances)
    before = kept.compiler.spent().seconds
    compiled, arguments = programs.ready(kept, sweep, shard, instances, settings)
    compiled_for = kept.compiler.spent().seconds - before
    blank = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), compiled.blank)
    state = jax.device_put(blank, compiled.sharding, may_alias=False)
    records = 0

    def seconds(steps: int) -> float:
        nonlocal state, records
        began = time.perf_counter()
        bounds = (np.int32(records), np.int32(records + 1), np.int32(steps))
        state, result = compiled.call(*arguments, state, *bounds)
        jax.block_until_ready((state, result))
        records += 1
        return time.perf_counter() - began

    seconds(1)  # the first call draws the layers
    pace = measured(seconds, settings.interval)
    return _Tried(pace, compiled_for, _memory(compiled))


def measured(seconds: Callable[[int], float], interval: int) -> Pace:
    """The pace of ``seconds(steps)``, the time of one record after so many steps.

    Args:
      seconds: runs and times; may be called some twenty times.
      interval: the most steps it makes sense to time.
    """
    short = min(seconds(1) for _ in range(5))  # the least: what else the machine does only adds
    steps, long = 1, short
    while steps < interval and long < _TIMED:
        steps = min(interval, 4 * steps)
        long = seconds(steps)
    if steps == 1:
        return Pace(0.0, short)
    long = min(long, seconds(steps), seconds(steps))
    step = max((long - short) / (steps - 1), 0.0)
    return Pace(max(short - step, 0.0), step)


def _place(shard: Shard) -> float:
    """What a step's time is linear in."""
    depth = shard.cells[0].depth
    return math.log2(depth) if shard.program.engine == "reduced" else float(depth)


def _between(ends: Sequence[tuple[float, Pace]], place: float) -> Pace:
    """The pace at a place, from those at the least and at the largest."""
    (low, first), (high, last) = ends[0], ends[-1]
    part = 0.0 if high == low else (place - low) / (high - low)
    return Pace(*(float(a + part * (b - a)) for a, b in zip(first, last, strict=True)))


def _memory(compiled: Compiled) -> int:
    """Bytes of a program's arguments, state and room to work, on all its devices, and the state's copy on the host."""
    state = sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(compiled.blank))
    analysis = compiled.call.memory_analysis()
    if analysis is None:  # a backend that does not say
        return _COPIES * state
    here = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return state + compiled.sharding.mesh.size * (here - analysis.alias_size_in_bytes)


def least_memory(sweep: Sweep, shard: Shard) -> int:
    """Bytes that a shard's program needs at least, without compiling it: its layers, as often as they are held."""
    program = shard.program
    layers = 2 if program.engine == "reduced" else max(shard.max_depth, 3)
    return _COPIES * shard.batch * layers * program.width**2 * np.dtype(program.precision).itemsize


def memory_available() -> int:
    """Bytes that are free: of the devices together where they tell, else of this machine (2^62 if it is silent)."""
    statistics = [device.memory_stats() for device in jax.local_devices()]
    if all(stats and "bytes_limit" in stats for stats in statistics):
        return sum(stats["bytes_limit"] - stats.get("bytes_in_use", 0) for stats in statistics if stats)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 1 << 62
