"""What a sweep is: frozen values, the cells they span, and the names (hashes) those cells keep for ever.

A :class:`Sweep` is one question with one problem; every :class:`Grid` of it is a product of lists, and
every :class:`Cell` of the product is one training run. A cell is named by all its coordinates together with
what else changes its numbers (problem, start, record), so that the same name never means two results.

The dataclasses trust their fields: make them with ``spec.load`` or ``spec.grid``, which validate.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from dlnjax.sweep.config import options, registry, toml, user_functions
from dlnjax.sweep.config.cell import (
    ALL_BUT_SEED,
    PLAIN,
    Cell,
    canonical_json,
    text_around_seed,
    without_defaults,
)

#: Keys of a grid from the slowest to the fastest in the order of cells.
GRID_ORDER = (
    "step_rule",
    "step",
    "engine",
    "start",
    "retraction",
    "optimizer",
    "momentum",
    "activation",
    "free",
    "loss",
    "profile",
    "batch_size",
    "label_noise",
    "data",
    "width",
    "depth",
    "seed",
)


@dataclass(frozen=True)
class Problem:
    """Where the target comes from; what does not belong to the kind is None or empty.

    Attributes:
      kind: ``teacher``, ``digits``, ``mnist`` or ``file``.
      input_dim, output_dim: ``d_0`` and ``d_N`` of a teacher, at least 1.
      singular_values: the teacher's spectrum, positive and nonincreasing; its length is the rank.
      path: absolute path of the user's ``.npz``.
      digest: sha256 (hex) of the arrays in that file. It takes the path's place in every hash: a file may
        move, its numbers may not change.
      function: name of a user's own problem (``parts.own``).
      samples: inputs drawn for a teacher whose problem needs some (activations, mini-batches, noise, logistic).
      condition: ratio of the extreme weights of the loss ``weighted``.
      held_out: the part of the samples that no step sees (``data.parts``), in [0, 1); 0 trains on all.
    """

    kind: str
    input_dim: int | None = None
    output_dim: int | None = None
    singular_values: tuple[float, ...] = ()
    path: str | None = None
    digest: str | None = None
    function: str | None = None
    samples: int = 200
    condition: float = 4.0
    held_out: float = 0.0


@dataclass(frozen=True)
class Start:
    """Numbers of the two starts.

    ``near`` is the solution plus noise of total Frobenius norm distance/depth; ``haar`` has Haar layers, the
    first times first_scale.
    """

    distance: float
    first_scale: float


@dataclass(frozen=True)
class Record:
    """How often a cell is looked at, when it ends, and whether its trained weights are kept.

    Meanings as in the configuration reference. ``keep_params`` changes no number, hence no cell's name;
    ``metrics`` are names of a user's own functions.
    """

    records: int
    tolerance: float
    depth_of_fit: float
    max_steps: int
    keep_params: bool = False
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """One ``[[grid]]``: a nonempty tuple a key; the product of them all is its cells."""

    step_rule: tuple[str, ...]
    step: tuple[float, ...]
    engine: tuple[str, ...]
    start: tuple[str, ...]
    retraction: tuple[str, ...]
    optimizer: tuple[str, ...]
    data: tuple[str, ...]
    width: tuple[int | tuple[int, ...], ...]
    depth: tuple[int, ...]
    seed: tuple[int, ...]
    momentum: tuple[float, ...] = (0.9,)
    activation: tuple[str, ...] = ("linear",)
    free: tuple[str, ...] = ("first",)
    loss: tuple[str, ...] = ("square",)
    profile: tuple[str, ...] = ("equal",)
    batch_size: tuple[int, ...] = (0,)
    label_noise: tuple[float, ...] = (0.0,)

    def points(self) -> Iterator[dict[str, Any]]:
        """The product of all lists, as one dict of coordinates a point, the seed fastest."""
        for point in itertools.product(*(getattr(self, name) for name in GRID_ORDER)):
            yield dict(zip(GRID_ORDER, point, strict=True))

    def size(self) -> int:
        """How many cells the product has at most, duplicates included."""
        count = 1
        for name in GRID_ORDER:
            count *= len(getattr(self, name)) + (name == "engine" and "both" in self.engine)
        return count


@dataclass(frozen=True)
class Sweep:
    """A validated configuration; see the module ``spec`` for the ways to make one.

    ``claims`` and ``figures`` say what is made of the results; they change no number and no cell's name.
    ``functions`` holds the user's own by name; it is no part of what the sweep is.
    """

    study: str
    question: str
    precision: str
    problem: Problem
    start: Start
    record: Record
    grids: tuple[Grid, ...]
    claims: tuple[str, ...] = options.GENERAL_CLAIMS
    figures: tuple[str, ...] = options.GENERAL_FIGURES
    functions: Mapping[str, user_functions.Own] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def shared(self) -> str:
        """What all cells share and what changes their numbers, as canonical JSON (no path in it)."""
        problem = without_defaults(self.problem, asdict(replace(self.problem, path=None)), keep=_OLD_PROBLEM)
        record = without_defaults(self.record, asdict(replace(self.record, keep_params=False)))
        return canonical_json({"problem": problem, "start": asdict(self.start), "record": record})

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
        found = hashlib.sha256(b'{"cells":[')  # the canonical JSON of it all, a cell at a time
        for i, cell in enumerate(self._cells):
            head, tail = text_around_seed(ALL_BUT_SEED(cell), content=False)
            found.update(b"%s%s%d%s" % (b"," if i else b"", head, cell.seed, tail))
        kept = '"keep_params":true,' if self.record.keep_params else ""
        found.update(f'],{kept}"shared":{json.dumps(self.shared)}}}'.encode())
        return found.hexdigest()

    def to_toml(self) -> str:
        """The same sweep as TOML text; ``spec.load`` of it gives an equal sweep."""
        head: dict = {"study": self.study, "question": self.question, "precision": self.precision}
        if self.claims != options.GENERAL_CLAIMS:
            head["claims"] = list(self.claims)
        if self.figures != options.GENERAL_FIGURES:
            head["figures"] = list(self.figures)
        sections = {name: _given(getattr(self, name)) for name in ("problem", "start", "record")}
        return toml.document(head, sections, {"grid": [_given(grid) for grid in self.grids]})

    def wanted(self) -> list[str]:
        """Names of the user's own functions that the cells are made of."""
        names = [self.problem.function, *self.record.metrics]
        names += [word for grid in self.grids for key in OWN for word in getattr(grid, key)]
        return list(dict.fromkeys(name for name in names if user_functions.is_own(name)))  # type: ignore[misc]

    @cached_property
    def special(self) -> bool:
        """Whether all cells take the general path: a user's own problem, or further metrics."""
        return self.problem.kind == "own" or bool(self.record.metrics)

    def _resolved(self, point: dict) -> list[Cell]:
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
        shape = [name for name in PLAIN if name not in ("label_noise", "loss")]
        plain = not self.special and all(getattr(cell, name) == PLAIN[name] for name in shape)
        return plain and not user_functions.is_own(cell.loss) and registry.optimizer(cell.optimizer).padded

    def is_general(self, cell: Cell) -> bool:
        """Whether a cell asks for more than plain linear networks: see ``dlnjax.sweep.parts``."""
        fast = cell.optimizer == "gd" or registry.optimizer(cell.optimizer).reduced
        plain = fast and cell.start in ("near", "haar")
        return self.special or not plain or any(getattr(cell, name) != PLAIN[name] for name in PLAIN)


#: Grid keys that take a user's own function.
OWN = ("optimizer", "start", "activation", "loss")
# Fields of a problem that always stood in its hash, even without a value.
_OLD_PROBLEM = ("input_dim", "output_dim", "singular_values", "path", "digest")


def differences(old: Sweep, new: Sweep) -> list[str]:
    """Lines ``key: old -> new`` for all that changes results; empty if the hashes agree.

    Cells only added or removed are the last two lines at most; :func:`extends` tells the harmless case.
    """
    lines = [] if old.study == new.study else [f"study: {old.study} -> {new.study}"]
    if old.precision != new.precision:
        lines.append(f"precision: {old.precision} -> {new.precision}")
    for section in ("problem", "start", "record"):
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
    for one in fields(Cell):
        values = {getattr(c, one.name) for c in cells} - {getattr(c, one.name) for c in known}
        if values:
            listed = sorted(values)[:6]
            dots = ", ..." if len(values) > 6 else ""
            parts.append(f"{one.name} {', '.join(map(str, listed))}{dots}")
    return "; ".join(parts) or "new combinations of known values"


def _given(section) -> dict:
    """Fields of a section that say something: defaults, None and empty tuples are left out."""
    given = without_defaults(section, asdict(section)).items()
    return {name: value for name, value in given if not (value is None or value == ())}


def _show(value) -> str:
    return "not given" if value is None or value == () else toml.show(value)
