"""What ``dlnjax run --dry-run`` says: cells, shards and programs from the config, memory and time from trying them."""

from __future__ import annotations

from pathlib import Path

from dlnjax.sweep import plan, store
from dlnjax.sweep.compute import devices
from dlnjax.sweep.config import datasets
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.sweep.plan import Shard


def text(sweep: Sweep, out: Path) -> str:
    """What ``run`` would do with this folder, in words; nothing is written into it."""
    shards, done = plan.shards(sweep), store.done(out)
    left = [shard for shard in shards if shard.name not in done]
    cells = sum(len(shard.cells) for shard in left)
    lines = [
        f"{sweep.study}: {len(sweep.cells())} cells in {len(shards)} shards; to do: {cells} in {len(left)}"
    ]
    if taken := datasets.taken_as(sweep.problem):
        lines.append(f"data: {taken}")
    for index, grid in enumerate(sweep.grids):
        lists = (f"{name} {_brief(getattr(grid, name))}" for name in ("step_rule", "step", "engine", "depth"))
        lines.append(f"  grid.{index}: {grid.size()} cells: {', '.join(lists)}")
    lines += _costs(sweep, left) if left else ["all there: nothing to compute"]
    stored = cells * (sweep.record.records + 1) * 4 * 8
    lines.append(f"disk: at most {_bytes(stored)} of curves before compression")
    return "\n".join([*lines, f"results would go to {out}; nothing was run or written"])


def _costs(sweep: Sweep, left: list[Shard]) -> list[str]:
    """Programs, time and memory; JAX starts here."""
    devices.prepare(sweep.precision)
    import jax

    from dlnjax.sweep.compute import cost

    programs = cost.costs(sweep, left)
    lines = [f"programs to compile: {len(programs)}"]
    for each in programs:
        program = each.program
        what = (program.engine, f"width {program.width}", program.precision, program.optimizer)
        name = ", ".join((*what, program.retraction, program.data))
        took = "not tried" if each.seconds is None else _time(each.seconds)
        lines.append(
            f"  {name}: {each.shards} shards, at most {each.steps} steps; {took}, {_bytes(each.memory)}"
        )
    seconds = [each.seconds + each.compiling for each in programs if each.seconds is not None]
    where = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    rest = "" if len(seconds) == len(programs) else ", without the programs that were not tried"
    lines.append(f"time: about {_time(sum(seconds))} here ({where}, one process){rest}; figures not counted")
    largest, room = max(each.memory for each in programs), cost.memory_available()
    fits = (
        ""
        if all(each.fits for each in programs)
        else "; this does NOT fit: take fewer seeds, or a narrower network"
    )
    lines.append(
        f"memory: at most {_bytes(largest)} of {_bytes(room)} free, beside Python and JAX themselves{fits}"
    )
    return lines


def _brief(values: tuple) -> str:
    """A list of values, its middle left out where it is long."""
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    return " ".join(shown if len(shown) <= 8 else [*shown[:4], "...", *shown[-2:]])


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB" if count < 1000 else f"{count:,.0f} GB"
