"""A sweep without networks, for tests of the store and the driver: cheap cells, real files, real processes.

The value of a cell is a hash of its coordinates, so that any two runs can be held equal to the last bit.
"""

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dlnjax.sweep import plan
from dlnjax.sweep.store import schema

RECORDS = 8


@dataclass(frozen=True)
class Cell:
    depth: int
    seed: int
    study: str = "standin"
    data: str = "none"
    width: int = 4
    step_rule: str = "fixed"
    step: float = 0.1
    engine: str = "layers"
    start: str = "near"
    retraction: str = "polar"
    optimizer: str = "rgd"
    precision: str = "float64"


def key(cell: Cell) -> str:
    return hashlib.sha256(json.dumps(asdict(cell)).encode()).hexdigest()


@dataclass(frozen=True)
class Sweep:
    """depths x seeds cells, ``size`` a shard, each ``delay`` seconds of work; ``trouble`` may strike one."""

    depths: tuple[int, ...] = (2, 4)
    seeds: int = 3
    size: int = 2
    delay: float = 0.0
    step: float = 0.1
    trouble: str = ""
    study: str = "standin"
    precision: str = "float64"

    @property
    def functions(self) -> dict:
        return {}

    def wanted(self) -> list[str]:
        return []

    def cells(self) -> list[Cell]:
        return [Cell(depth, seed, step=self.step) for depth in self.depths for seed in range(self.seeds)]

    def key(self, cell: Cell) -> str:
        return key(cell)

    def hash(self) -> str:
        return hashlib.sha256(self.to_toml().encode()).hexdigest()

    def to_toml(self) -> str:
        return f"seeds = {self.seeds}\n[[grid]]\ndepth = {list(self.depths)}\nstep = {self.step}\n"


@dataclass(frozen=True)
class Shard:
    name: str
    cells: tuple[Cell, ...]


def planner(sweep, cells):
    groups = [tuple(cells[i : i + sweep.size]) for i in range(0, len(cells), sweep.size)]
    return [Shard(plan.shard_name(map(key, group)), group) for group in groups]


def work(sweep, shard, checkpoint, following=()):
    """A table of hashes; the trouble asked for strikes the shard of depth 4, seed 0."""
    time.sleep(sweep.delay)
    if sweep.trouble and any(cell.depth == 4 and cell.seed == 0 for cell in shard.cells):
        _trouble(sweep.trouble, checkpoint)
    rows = [row(cell) for cell in shard.cells]
    return schema.table(rows, RECORDS).replace_schema_metadata(
        {"device": "stand-in", "compile_seconds": "0.5"}
    )


def _trouble(kind, checkpoint):
    once = Path(checkpoint.file).parent.parent / "trouble"
    if kind == "raise":
        raise RuntimeError("this shard cannot be run")
    if kind.endswith("once") and once.exists():
        return
    once.touch()
    if kind.startswith("die"):
        os._exit(9)
    if kind.startswith("hang"):
        time.sleep(600)


def row(cell):
    number = int(key(cell)[:8], 16)
    curve = [float(number % (i + 7)) for i in range(RECORDS + 1)]
    curves = {f"curve_{name}": curve for name in schema.CURVES}
    return {**asdict(cell), "cell": key(cell), "status": "converged", "final_loss": number / 7, **curves}


def reference(sweep):
    """The whole table, computed here without store or driver, in grid order."""
    return schema.table([row(cell) for cell in sweep.cells()], RECORDS)


def more(sweep, **changes):
    return replace(sweep, **changes)
