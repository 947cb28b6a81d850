"""What a sweep is: frozen values, the cells they span, and the permanent names (hashes) of those cells.

A :class:`Sweep` is one question with one problem; every :class:`Grid` of it is a product of lists, and
every :class:`Cell` of the product is one training run. A cell is named by all its coordinates together with
what else changes its numbers (problem, start, record), so that the same name never means two results.

The dataclasses trust their fields: make them with ``loading.load`` or ``loading.grid``, which validate.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dlnjax.sweep.config import options, registry, toml, user_functions
from dlnjax.sweep.config.cell import (
    ALL_BUT_SEED,
    COORDINATES,
    PLAIN,
    Cell,
    Value,
    canonical_json,
    text_around_seed,
)
from dlnjax.sweep.config.declaration import REQUIRED, options_of, without_blanks
from dlnjax.sweep.config.options import Problem, Record, Start

#: One entry of a grid's list.
Entry = Value | tuple[int, ...]
__all__ = ["Cell", "Grid", "Problem", "Record", "Start", "Sweep", "differences", "extends"]

if TYPE_CHECKING:

    class _Lists:
        """A tuple of values for every option of a grid, by its name."""

        def __init__(self, **lists: tuple[Entry, ...]) -> None: ...

        def __getattr__(self, name: str) -> tuple[Entry, ...]: ...

else:
    _Lists = make_dataclass(
        "_Lists",
        [
            (name, tuple) if one.default is REQUIRED else (name, tuple, field(default=(one.default,)))
            for name, one in options.GRID.items()
        ],
        frozen=True,
        kw_only=True,
    )


class Grid(_Lists):
    """One ``[[grid]]``: a nonempty tuple of values for every option of a grid; the product of them all is its cells.

    An entry of ``width`` may be a tuple, the hidden widths of a network one by one.
    """

    def points(self) -> Iterator[dict[str, Entry]]:
        """The product of all lists, as one dict of coordinates per point, the seed fastest."""
        for point in itertools.product(*(getattr(self, name) for name in options.GRID)):
            yield dict(zip(options.GRID, point, strict=True))

    def size(self) -> int:
        """How many cells the product has at most, duplicates included."""
        count = 1
        for name in options.GRID:
            count *= len(getattr(self, name)) + (name == "engine" and "both" in self.engine)
        return count


@dataclass(frozen=True, kw_only=True)
class Sweep(options.Head):
    """A validated configuration: its head, its sections and its grids; ``loading`` has the ways to make one.

    ``functions`` holds the user's own by name; it is no part of what the sweep is.
    """

    problem: Problem
    start: Start
    record: Record
    grids: tuple[Grid, ...]
    functions: Mapping[str, user_functions.UserFunction] = field(
        default_factory=dict, compare=False, repr=False
    )

    @cached_property
    def shared(self) -> str:
        """What all cells share and what changes their numbers, as canonical JSON (no path in it)."""
        problem = _written(replace(self.problem, path=None))
        record = _written(replace(self.record, keep_params=False))
        return canonical_json({"problem": problem, "start": _written(self.start), "record": record})

    @cached_property
    def _content(self) -> str:
        return hashlib.sha256(self.shared.encode()).hexdigest()

    def cells(self) -> list[Cell]:
        """All cells in grid order, each once however many grids or list entries name it."""
        return list(self._cells)

    @cached_property
    def _cells(self) -> tuple[Cell, ...]:
        return tuple(
            dict.fromkeys(c for grid in self.grids for point in grid.points() for c in self._resolved(point))
        )

    def key(self, cell: Cell) -> str:
        """``cell.key()``."""
        return cell.key()

    def hash(self) -> str:
        """sha256 (hex) of all that changes results: the shared sections, the cells in order, and ``keep_params``.

        The wording of ``question``, what is claimed and drawn, and how the grids are written down are not part of it.
        """
        return self._hash

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256(b'{"cells":[')  # the canonical JSON of it all, a cell at a time
        for i, cell in enumerate(self._cells):
            head, tail = text_around_seed(ALL_BUT_SEED(cell), content=False)
            digest.update(b"%s%s%d%s" % (b"," if i else b"", head, cell.seed, tail))
        kept = '"keep_params":true,' if self.record.keep_params else ""
        digest.update(f'],{kept}"shared":{json.dumps(self.shared)}}}'.encode())
        return digest.hexdigest()

    def to_toml(self) -> str:
        """The same sweep as TOML text; ``loading.load`` of it gives an equal sweep."""
        head = without_blanks(options.TOP, {name: getattr(self, name) for name in options.TOP})
        sections = {name: _given(getattr(self, name)) for name in _SECTIONS}
        return toml.document(head, sections, {"grid": [_listed(grid) for grid in self.grids]})

    def wanted(self) -> list[str]:
        """Names of the user's own functions that the cells are made of."""
        names = [self.problem.function, *self.record.metrics]
        names += [word for grid in self.grids for name in _OF_USERS for word in getattr(grid, name)]
        return list(dict.fromkeys(name for name in names if user_functions.is_name(name)))

    @cached_property
    def special(self) -> bool:
        """Whether all cells take the general path: a user's own problem, or further metrics."""
        return self.problem.kind == "own" or bool(self.record.metrics)

    def _resolved(self, point: dict[str, Any]) -> list[Cell]:
        """The cells of a point: the engine resolved (``reduced`` only where exact), what has no effect dropped."""
        point = dict(point)
        row = registry.optimizer(point["optimizer"])
        if not (row.constrained and row.exact):
            point["retraction"] = "none"
        if not row.constrained:
            point["free"] = "first"
        if not row.momentum:
            point["momentum"] = 0.0
        if isinstance(point["width"], tuple):
            point["profile"], point["width"] = "-".join(map(str, point["width"])), min(point["width"])
        cell = Cell(study=self.study, precision=self.precision, content=self._content, **point)
        if cell.engine not in ("auto", "both"):
            return [cell]
        exact = row.reduced and cell.retraction == "polar" and not self.is_general(cell)
        if exact and cell.engine == "both":
            return [replace(cell, engine=engine) for engine in ("layers", "reduced")]
        return [replace(cell, engine="reduced" if exact else "layers")]

    def is_padded(self, cell: Cell) -> bool:
        """Whether a cell of the general path still shares its program with other depths, by inert layers."""
        shape = [name for name in PLAIN if options.GRID[name].path != "padded"]
        plain = not self.special and all(getattr(cell, name) == PLAIN[name] for name in shape)
        return plain and not user_functions.is_name(cell.loss) and registry.optimizer(cell.optimizer).padded

    def is_general(self, cell: Cell) -> bool:
        """Whether a cell needs the general path (``sweep.compute.general``): it is more than a plain linear network."""
        fast = cell.optimizer == "gd" or registry.optimizer(cell.optimizer).reduced
        plain = fast and cell.start in ("near", "haar")
        return self.special or not plain or any(getattr(cell, name) != PLAIN[name] for name in PLAIN)


_SECTIONS = {"problem": options_of(Problem), "start": options.START, "record": options.RECORD}
# Options of a grid that take a user's own function.
_OF_USERS = tuple(name for name, one in options.GRID.items() if one.takes_functions)


def differences(old: Sweep, new: Sweep) -> list[str]:
    """Lines ``option: old -> new`` for all that changes results; empty if the hashes agree.

    Cells only added or removed are the last two lines at most; :func:`extends` recognises the harmless case.
    """
    lines = [] if old.study == new.study else [f"study: {old.study} -> {new.study}"]
    if old.precision != new.precision:
        lines.append(f"precision: {old.precision} -> {new.precision}")
    for section in _SECTIONS:
        before, after = getattr(old, section), getattr(new, section)
        for one in fields(before):
            a, b = getattr(before, one.name), getattr(after, one.name)
            if a != b and one.name != "path":
                lines.append(f"{section}.{one.name}: {_show(a)} -> {_show(b)}")
    before, after = ({replace(cell, content="") for cell in sweep.cells()} for sweep in (old, new))
    for verb, rest in (("removed", before - after), ("added", after - before)):
        if rest:
            lines.append(f"cells {verb}: {len(rest)} ({_coordinates(rest, before & after or before)})")
    if not lines and old.hash() != new.hash():
        lines.append("cells: the same, in another order")
    return lines


def extends(old: Sweep, new: Sweep) -> bool:
    """True if every cell of ``old`` is a cell of ``new`` under the same name: nothing needs to run again."""
    return set(old.cells()) <= set(new.cells())


def _coordinates(cells: set[Cell], known: set[Cell]) -> str:
    """The coordinate values of ``cells`` that none of ``known`` has, as ``depth 256, 512; seed 3``."""
    parts = []
    for name in (*COORDINATES, "content"):
        values = {getattr(c, name) for c in cells} - {getattr(c, name) for c in known}
        if values:
            listed = sorted(values)[:6]
            dots = ", ..." if len(values) > 6 else ""
            parts.append(f"{name} {', '.join(map(str, listed))}{dots}")
    return "; ".join(parts) or "new combinations of known values"


def _written(section: Problem | Start | Record) -> dict[str, object]:
    """The values of a section that stand in names."""
    return without_blanks(options_of(type(section)), asdict(section))


def _given(section: Problem | Start | Record) -> dict[str, object]:
    """The values of a section that say something: blanks, None and empty tuples are left out."""
    return {name: value for name, value in _written(section).items() if not (value is None or value == ())}


def _listed(grid: Grid) -> dict[str, object]:
    """The lists of a grid, those of later options last and only where they are not the default."""
    order = sorted(options.GRID, key=lambda name: name in options.LATER)
    lists = {name: getattr(grid, name) for name in order}
    defaults = {name: (one.default,) for name, one in options.LATER.items()}
    return {name: values for name, values in lists.items() if values != defaults.get(name)}


def _show(value: object) -> str:
    return "not given" if value is None or value == () else toml.show(value)
