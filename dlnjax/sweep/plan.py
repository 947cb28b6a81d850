"""From cells to shards: which cells run together, as one batch of one program.

Cells share a *program* if nothing but array values tells them apart: depth is a traced number, steps, scales
and seeds are batch. A *shard* is the unit of work, of storage and of resuming: cells of one program, one depth
and one step rule (hence of about one length), at most as many as the program's batch. The plan depends on the
cells alone, not on the machine.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from statistics import median_low

from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Sweep

#: Cells a shard holds at most.
CAPACITY = 1024
# All that a cell's group can depend on.
_BUT_NUMBERS = attrgetter(*(one.name for one in fields(Cell) if one.name not in ("step", "seed", "momentum")))


@dataclass(frozen=True)
class Program:
    """What a compiled training program depends on, besides the shapes of the problem.

    ``lead`` is set on the general path (``sweep.compute.general``): a cell with all that its programs share.
    """

    engine: str
    width: int
    data: str
    optimizer: str
    retraction: str
    precision: str
    lead: Cell | None = None


@dataclass(frozen=True)
class Shard:
    """Cells that run and are stored together.

    Attributes:
      name: the store's name, a hash of the cells.
      cells: in grid order.
      batch: cells the program runs at once, at least ``len(cells)``; the rest is filled up.
      max_depth: layers the program has room for.
    """

    name: str
    cells: tuple[Cell, ...]
    program: Program
    batch: int
    max_depth: int


def program(cell: Cell) -> Program:
    """The program that runs a cell."""
    return Program(cell.engine, cell.width, cell.data, cell.optimizer, cell.retraction, cell.precision)


def general(cell: Cell, padded: bool) -> Program:
    """The program of a cell on the general path; of one that is padded the depth is 0, a traced number."""
    depth = 0 if padded else cell.depth
    lead = replace(
        cell, study="", content="", step_rule="", step=0.0, seed=0, momentum=0.0, start="", depth=depth
    )
    return replace(program(cell), engine="general", lead=lead)


def shard_name(keys: Iterable[str], numbers: str = "") -> str:
    """The name of the shard of these cells, in this order: 16 hexadecimal digits.

    Args:
      keys: the cells' keys (sha256, hexadecimal).
      numbers: what else changes the numbers of a shard, in words; keep it in the table's schema metadata
        under ``numbers``, from where ``store.verify`` reads it.
    """
    return hashlib.sha256("\n".join([numbers, *keys]).encode()).hexdigest()[:16]


def shards(sweep: Sweep, cells: Iterable[Cell] | None = None) -> list[Shard]:
    """The partition of a sweep's cells (or of some of them) into shards, in grid order, the widest networks first.

    They take longest, so that the programs of the others compile behind them, and none of several runners is left
    with a long shard at the end.
    """
    groups: dict[tuple, list[Cell]] = defaultdict(list)
    known: dict[tuple, tuple] = {}  # a million cells are of few kinds
    for cell in sweep.cells() if cells is None else cells:
        coordinates = _BUT_NUMBERS(cell)
        if coordinates not in known:
            known[coordinates] = _group(sweep, cell)
        groups[known[coordinates]].append(cell)
    batches = _batches(groups)
    depths: dict[Program, int] = defaultdict(int)
    for (kind, *_), group in groups.items():
        depths[kind] = max(depths[kind], *(cell.depth for cell in group))
    return [
        Shard(
            shard_name([sweep.key(cell) for cell in piece]),
            piece,
            kind,
            batches[kind],
            depths[kind],
        )
        for (kind, *_), group in sorted(groups.items(), key=lambda item: -item[0][0].width)
        for piece in _pieces(group, batches[kind])
    ]


def _group(sweep: Sweep, cell: Cell) -> tuple:
    """What cells of one shard have in common; their program first."""
    kind = general(cell, sweep.is_padded(cell)) if sweep.is_general(cell) else program(cell)
    return kind, cell.depth, cell.step_rule, cell.start


def _batches(groups: dict[tuple, list[Cell]]) -> dict[Program, int]:
    """One batch size a program, so that it compiles once: the usual group's size, up to a power of two."""
    sizes: dict[Program, list[int]] = defaultdict(list)
    for key, group in groups.items():
        sizes[key[0]].append(len(group))
    return {name: min(CAPACITY, 1 << (median_low(counts) - 1).bit_length()) for name, counts in sizes.items()}


def _pieces(group: Sequence[Cell], batch: int) -> list[tuple[Cell, ...]]:
    """Neighbouring step sizes together: they need about the same number of steps."""
    ordered = sorted(group, key=lambda cell: cell.step)
    return [tuple(ordered[i : i + batch]) for i in range(0, len(ordered), batch)]
