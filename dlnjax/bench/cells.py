"""``dlnjax bench cells``: whole sweeps, from an empty folder to the last file.

Two grids. One of 6 depths, 3 widths, 64 seeds and 8 step sizes, by each engine, first with an empty compilation cache
and then with what that run has left in it: how many training programs it takes, and what part of its time passes
outside the devices. And one of tiny networks (width 8, reduced, 200 steps), of ten thousand cells and of a million:
time and memory must not grow faster than their number. Every sweep has a process of its own, and its time begins
before JAX is imported there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

from dlnjax.bench._conclusion import Target, conclude, machine

#: Seeds of the grid, and of the many tiny networks: 100 cells a seed.
SEEDS = 64
MANY = (100, 10_000)
_QUICK = 4, (60, 200)
#: What is asked: training programs an engine, share of the time outside the devices, GB of memory.
PROGRAMS, OUTSIDE, MEMORY = 3, 0.10, 4.0
_TINY = "tiny"

#: The keywords of ``sweep.grid``.
Keys = dict[str, Any]


class Figures(TypedDict):
    """What :func:`run` measures of a sweep."""

    cells: int
    training_programs: int
    programs: int
    compile_seconds: float
    compile_waited: float
    seconds: float
    device_seconds: float
    outside: float
    microseconds_a_cell: float
    peak_gb: float | None


def grid(engine: str, seeds: int) -> Keys:
    """The keywords of ``sweep.grid`` for 144 cells a seed; at all but the shortest step all of them converge."""
    return {
        "study": "bench_cells", "kind": "teacher", "input_dim": 32, "output_dim": 32, "precision": "float32",
        "singular_values": [1.0, 0.8, 0.6, 0.4], "start": "haar", "first_scale": 0.5, "records": 128,
        "max_steps": 4096, "tolerance": 1e-4, "depth_of_fit": 1e-5, "step_rule": "fixed", "engine": engine,
        "step": [0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2], "width": [8, 16, 32],
        "depth": [2, 3, 4, 6, 8, 12], "seed": list(range(seeds)),
    }  # fmt: skip


def many(seeds: int) -> Keys:
    """The keywords for 100 tiny networks a seed."""
    return {
        "study": "bench_many_cells", "kind": "teacher", "input_dim": 8, "output_dim": 8, "precision": "float32",
        "singular_values": [1.0, 0.8, 0.6, 0.4, 0.3, 0.25, 0.2, 0.15], "start": "near", "records": 128,
        "max_steps": 200, "tolerance": 1e-4, "depth_of_fit": 1e-6, "step_rule": "optimal", "engine": "reduced",
        "step": [round(0.05 * i, 2) for i in range(1, 21)], "width": 8, "depth": [2, 8, 32, 128, 512],
        "seed": list(range(seeds)),
    }  # fmt: skip


def run(keys: Keys, cache: str) -> Figures:
    """One sweep in this process, which has not started JAX; its folder is removed.

    Args:
      keys: of ``sweep.grid``.
      cache: the folder of caches to use in place of the user's.

    Returns:
      cells; training programs; all programs compiled, XLA's seconds for them, and those in which nothing else was
      done; seconds in all and on the devices; the share of the others, ``outside``; peak memory in GB.
    """
    begin = time.perf_counter()
    os.environ["XDG_CACHE_HOME"] = cache
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    from dlnjax import sweep
    from dlnjax.sweep.compute import devices

    devices.prepare(keys["precision"])
    with tempfile.TemporaryDirectory() as out:
        outcome = sweep.run(sweep.grid(**keys), out)
        seconds = time.perf_counter() - begin
    if not outcome.complete:
        raise RuntimeError(f"{len(outcome.failed)} shards failed: {next(iter(outcome.failed.values()), '')}")
    from dlnjax.sweep.compute import session

    return {
        "cells": outcome.cells,
        "training_programs": len(session.shared().training),
        "programs": outcome.compilations,
        "compile_seconds": outcome.compile_seconds,
        "compile_waited": outcome.compile_waited,
        "seconds": seconds,
        "device_seconds": outcome.device_seconds,
        "outside": 1 - outcome.device_seconds / seconds,
        "microseconds_a_cell": 1e6 * seconds / outcome.cells,
        "peak_gb": _peak(),
    }


def _peak() -> float | None:
    """Peak memory of this process in GB; None where the system does not tell."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def apart(keys: Keys, cache: str) -> Figures:
    """:func:`run` in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, keys, cache).result()


def measure(seeds: int, numbers: Sequence[int]) -> dict[str, Figures]:
    """Every sweep's figures by its name, printed as they come."""
    found = {}

    def one(name: str, keys: Keys, cache: str) -> None:
        told = found[name] = apart(keys, cache)
        memory = "" if told["peak_gb"] is None else f", {told['peak_gb']:.2f} GB"
        print(
            f"{name}: {told['cells']} cells, {told['seconds']:.1f} s, {told['outside']:.1%} outside the devices; "
            f"{told['training_programs']} training programs of {told['programs']}, waited {told['compile_waited']:.1f}"
            f" s for them; {told['microseconds_a_cell']:.0f} us a cell{memory}",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as cache:
        for engine in ("reduced", "layers"):
            for state in ("cold", "warm"):
                one(f"{engine}, {state} cache", grid(engine, seeds), str(Path(cache) / engine))
        for i, number in enumerate([numbers[0], *numbers]):
            name = f"{_TINY}, {100 * number} cells" + (", cold cache" if i == 0 else "")
            one(name, many(number), str(Path(cache) / _TINY))
    return found


def targets(found: dict[str, Figures]) -> list[Target]:
    """The figures this benchmark is held to; they are met at or below the target."""
    asked = []
    for engine in ("reduced", "layers"):
        told = found[f"{engine}, warm cache"]
        asked.append((f"training programs, {engine}", told["training_programs"], PROGRAMS))
        if told["cells"] >= 144 * SEEDS:  # starting takes seconds, of however few cells
            asked.append((f"share of the time outside the devices, {engine}", told["outside"], OUTSIDE))
    few, most = (told for name, told in found.items() if name.startswith(_TINY) and "cold" not in name)
    ratio = most["microseconds_a_cell"] / few["microseconds_a_cell"]
    asked.append((f"time a cell, {most['cells']} tiny cells / {few['cells']}", ratio, 1.0))
    if most["peak_gb"] is not None:
        asked.append((f"GB of memory, {most['cells']} tiny cells", most["peak_gb"], MEMORY))
    return [
        {"name": name, "value": value, "target": target, "met": bool(value <= target)}
        for name, value, target in asked
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 0 when every target is met, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="dlnjax bench cells", description=__doc__)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", default=Path("results/bench/cells.json"),
        help="where the numbers and the list of targets go (default %(default)s)",
    )  # fmt: skip
    text = "a sixteenth of the seeds, 20 000 tiny cells: 90 seconds"
    parser.add_argument("--quick", action="store_true", help=text)
    parser.add_argument("--seeds", type=int, help=f"of the grid (default {SEEDS})")
    text = f"of the tiny networks, few and most (default {MANY})"
    parser.add_argument("--many", type=int, nargs=2, metavar="SEEDS", help=text)
    options = parser.parse_args(argv)
    if options.many and not 0 < options.many[0] < options.many[1]:
        parser.error("--many {} {}: give two numbers of seeds, the smaller one first".format(*options.many))
    seeds, numbers = _QUICK if options.quick else (SEEDS, MANY)
    found = measure(options.seeds or seeds, options.many or numbers)
    told = {"targets": targets(found), "sweeps": found, "machine": machine()}
    return conclude(told, options.json, bound="at most")
