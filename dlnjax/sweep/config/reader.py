"""From raw tables to a :class:`~dlnjax.sweep.config.sweep.Sweep`, or to one line for every mistake at once.

A line reads ``file: option: value and what is wrong with it; remedy``. The checks are ours rather than those of a
structuring library, which stops at the first wrong value of a field, takes 1.5 for 1, and words its errors
for programmers. Overrides go the same way; their lines name the override beside the file.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, Final

from dlnjax.sweep.config import compatibility, datasets, options, validators
from dlnjax.sweep.config.declaration import REQUIRED, Option
from dlnjax.sweep.config.sweep import Grid, Problem, Record, Start, Sweep
from dlnjax.sweep.config.toml import key as show_key
from dlnjax.sweep.config.toml import one_line, show
from dlnjax.sweep.config.validators import Complaint

#: Tables as parsed, nothing checked.
Raw = Mapping[str, object]
#: Option -> its checked value, of the type that its declaration says, or ``_BAD``.
Values = dict[str, Any]
#: Cells of a sweep at most: so many are planned in 17 s of one core and 0.94 GB; both grow with their number.
MOST_CELLS = 1_000_000
_SPLIT = "split the lists (the seeds, say) over several configs, whose folders sweep.read reads as one"
#: At most so many lines for one option, so that a long wrong list does not bury the rest.
_LINES_A_KEY = 5
_BAD: Final = object()  # stands for a value that a line was added for
_TITLES = {name: f"[{name}]" for name in options.SECTIONS} | {"base": "[base] or a [[grid]]"}


class SpecError(ValueError):
    """A configuration with mistakes; ``lines`` has one line for each."""

    def __init__(self, lines: list[str]):
        super().__init__("\n".join(lines))
        self.lines = lines


class Reader:
    """Collects complaints while reading; one use, one configuration.

    Args:
      source: how lines name the file.
      origins: for options set by an override, ``path -> text of the override``.
      flat: name options without their section, as the keywords of a Python call.
    """

    def __init__(self, source: str, origins: Mapping[str, str] | None = None, flat: bool = False):
        self.source = source
        self.origins: Mapping[str, str] = origins or {}
        self.flat = flat
        self.lines: list[str] = []
        self._count: dict[str, int] = {}
        self._meant: set[str] = set()  # options a typo stands for: not reported as missing as well
        self._wanting: list[tuple[str, str]] = []  # missing options and what to give, reported last

    def complain(self, path: str, text: str) -> None:
        """Add a line for the option at ``path`` (``grid.0.depth``)."""
        self._count[path] = self._count.get(path, 0) + 1
        if self._count[path] == _LINES_A_KEY:
            text = "has more mistakes of this kind; give values like those named above"
        if self._count[path] <= _LINES_A_KEY:
            origin = f" with {self.origins[path]}" if path in self.origins else ""
            name = path.rsplit(".", 1)[-1] if self.flat else path
            self.lines.append(f"{self.source}{origin}: {name}: {text}")

    def sweep(self, raw: Raw, folder: str, check_data: bool) -> Sweep:
        """Read a whole configuration; paths in it are relative to ``folder``. Raises :class:`SpecError`."""
        top = {name: value for name, value in raw.items() if name not in (*options.SECTIONS, "grid")}
        head = self._table("", top, options.TOP)
        problem = self._problem(self._section(raw, "problem"), folder, check_data, head["precision"])
        start = self._table("start", self._section(raw, "start"), options.START)
        record = self._table("record", self._section(raw, "record"), options.RECORD)
        if _fine(record, "tolerance", "depth_of_fit") and record["depth_of_fit"] > record["tolerance"]:
            limit = (
                f"above record.tolerance = {record['tolerance']}; give at most that, or raise the tolerance"
            )
            self.complain("record.depth_of_fit", f"{record['depth_of_fit']} is {limit}")
        grids = self._grids(raw, {**problem, "metrics": record["metrics"]})
        self._finish(raw)
        return Sweep(
            **head,
            problem=Problem(**problem),
            start=Start(**start),
            record=Record(**record),
            grids=tuple(Grid(**grid) for grid in grids),
        )

    def _finish(self, raw: Raw) -> None:
        """Add the missing options, a misspelt or misplaced one excepted; raise if there is any line."""
        for where, text in self._wanting:
            parts = where.split(".")
            if parts[0] not in self._meant and parts[-1] not in self._meant:
                self.complain(where, text)
        if not raw:  # one line, not one for every option
            self.lines = [f"{self.source}: the config is empty; print a commented one with: dlnjax new"]
        if self.lines:
            raise SpecError(list(dict.fromkeys(self.lines)))

    def _section(self, raw: Raw, name: str) -> Raw:
        table = raw.get(name, {})
        if isinstance(table, Mapping):
            return table
        self.complain(name, f"{show(table)} is not a table; write [{name}] with its keys below")
        return {"kind": _BAD} if name == "problem" else {}

    def _table(self, path: str, raw: Raw, known: Mapping[str, Option]) -> Values:
        """One section: unknown options refused, values checked, defaults filled in, required ones demanded."""
        values = {}
        for name in raw:
            if name not in known:
                self._unknown(path, name, known)
        for name, option in known.items():
            where = f"{path}.{name}" if path else name
            if name in raw:
                values[name] = self._value(where, raw[name], option)
            elif option.default is REQUIRED:
                values[name] = self._absent(where, option)
            else:
                values[name] = option.default
        return values

    def _value(self, where: str, raw: object, option: Option) -> object:
        if raw is _BAD:
            return _BAD
        try:
            return option.check(raw)
        except Complaint as complaint:
            self.complain(where, str(complaint))
            return _BAD

    def _absent(self, where: str, option: Option, place: str = "") -> object:
        self._wanting.append((where, f"is missing; give {option.check.expected}{place}"))
        return _BAD

    def _unknown(self, path: str, name: str, known: Collection[str]) -> None:
        """Complain about a name that is no option here: misplaced, misspelt, or neither."""
        where = f"{path}.{show_key(name)}" if path else show_key(name)
        place = options.home(name)
        self._meant.add(name)
        if name in options.TOP:
            self.complain(where, "stands in a section; move it to the top of the file")
        elif place == path == "problem":
            kinds = [kind for kind, table in options.PROBLEMS.items() if name in table]
            self.complain(where, f'only belongs to kind "{kinds[0]}"; remove it or change the kind')
        elif place:
            self.complain(where, f"does not belong here; move it to {_TITLES[place]}")
        else:
            self.complain(where, self._guess(path, name, known))

    def _guess(self, path: str, name: str, known: Collection[str]) -> str:
        """The rest of the line for a name that no section has."""
        here = [*known, *(() if path else (*options.SECTIONS, "grid"))]
        near = validators.nearest(name, {*here, *options.names()})
        self._meant.update({near} if near else ())
        if near is None:
            return f"is not a key; known here: {', '.join(here)}"
        place = (
            "" if near in here else f", in {_TITLES.get(options.home(near) or '', 'the head of the file')}"
        )
        return f"is not a key; did you mean {near}{place}?"

    def _problem(self, raw: Raw, folder: str, check_data: bool, precision: str) -> Values:
        kind = raw.get("kind")
        if type(kind) is str and kind in options.PROBLEMS:
            values = self._table("problem", raw, {"kind": options.KIND, **options.PROBLEMS[kind]})
        else:  # without a kind only the names can be checked
            every = {"kind", *(name for table in options.PROBLEMS.values() for name in table)}
            for name in raw:
                if name not in every:
                    self._unknown("problem", name, every)
            values = self._table("problem", {"kind": kind} if "kind" in raw else {}, {"kind": options.KIND})
        if kind == "teacher":
            self._rank(values)
        if kind == "file" and values["path"] is not _BAD:
            values["path"] = os.path.abspath(os.path.join(folder, os.path.expanduser(values["path"])))
            if check_data:
                self._file(values, precision)
        return values

    def _rank(self, teacher: Values) -> None:
        if not _fine(teacher, "input_dim", "output_dim", "singular_values"):
            return
        rank, most = len(teacher["singular_values"]), min(teacher["input_dim"], teacher["output_dim"])
        if rank > most:
            text = f"{rank} values make a rank above the smaller of input_dim and output_dim"
            self.complain(
                "problem.singular_values", f"{text}; give at most {most} values or larger dimensions"
            )

    def _file(self, values: Values, precision: str) -> None:
        """Read the user's data: complain about all that is wrong with it, or note its digest."""
        try:
            targets = values["targets"] if values["targets"] in datasets.TARGETS else "auto"
            x, y = datasets.read_npz(values["path"], targets)
        except datasets.DataError as error:
            for reason in error.reasons:
                self.complain("problem.path", f'"{one_line(values["path"], 400)}" {reason}')
            return
        digest = datasets.digest(x, y)
        for reason in [] if precision is _BAD else datasets.rounded_away(x, precision):
            self.complain("problem.path", f'"{one_line(values["path"], 400)}" {reason}')
        if values["held_out"] not in (0.0, _BAD) and not datasets.labelled(y):
            text = f"{values['held_out']:g} needs labels, of two samples at least; y has targets"
            self.complain("problem.held_out", f"{text}; give y of shape (samples,), or remove this line")
        if values["digest"] not in (None, _BAD, digest):
            text = f"{show(values['digest'])} is not the digest of the file's data, {digest}"
            self.complain("problem.digest", f"{text}; give the original file or remove this line")
        values["digest"] = digest

    def _grids(self, raw: Raw, problem: Values) -> list[Values]:
        """All grids, each with the options of ``[base]`` it does not set itself."""
        base = self._lists("base", self._section(raw, "base"))
        tables = raw.get("grid", [])
        if not isinstance(tables, list) or not all(isinstance(table, Mapping) for table in tables):
            shown = "a table" if isinstance(tables, Mapping) else show(tables)
            self.complain("grid", f"{shown} is not a list of tables; write [[grid]], with two brackets")
            return []
        if not tables:
            self._wanting.append(
                ("grid", "is missing or empty; write at least one [[grid]] with its keys below")
            )
        grids, total = [], 0
        for index, table in enumerate(tables):
            here = self._lists(f"grid.{index}", table)
            grid = {**base, **here}
            paths = {name: f"grid.{index}.{name}" if name in here else f"base.{name}" for name in grid}
            for name, option in options.GRID.items():
                if name not in grid and option.default is REQUIRED:
                    grid[name] = self._absent(f"grid.{index}.{name}", option, ", here or in [base]")
                elif name not in grid:
                    grid[name] = (option.default,)
            self._agree(grid, paths, problem)
            if _fine(grid, *grid):
                total += Grid(**grid).size()
            grids.append(grid)
        if total > MOST_CELLS:
            self.complain("grid", f"{total} cells are more than {MOST_CELLS}; {_SPLIT}")
        return grids

    def _lists(self, path: str, raw: Raw) -> Values:
        """The options a grid table sets, each a tuple without duplicates."""
        values = {}
        for name, entries in raw.items():
            option, where = options.GRID.get(name), f"{path}.{name}"
            if option is None:
                self._unknown(path, name, options.GRID)
            elif entries == [] and isinstance(entries, list):
                self.complain(where, f"[] is empty; give {option.check.expected}")
                values[name] = _BAD
            else:
                read = [self._entry(where, name, e, option) for e in _listed(entries)]
                values[name] = _BAD if _BAD in read else tuple(dict.fromkeys(read))
        return values

    def _entry(self, where: str, name: str, entry: object, option: Option) -> object:
        if name == "width" and isinstance(entry, list) and entry:  # the hidden widths, one by one
            read = [self._value(where, width, option) for width in entry]
            return _BAD if _BAD in read else tuple(read)
        return self._value(where, entry, option)

    def _agree(self, grid: Values, paths: dict[str, str], problem: Values) -> None:
        """Options that are fine alone but not together."""
        fine = {name: () if values is _BAD else values for name, values in grid.items()}
        known = {name: value for name, value in problem.items() if value is not _BAD}
        for name, text in compatibility.mistakes(fine, known):
            self.complain(paths[name], text)


def _listed(entries: object) -> list[object]:
    return entries if isinstance(entries, list) else [entries]


def _fine(values: Mapping[str, object], *names: str) -> bool:
    return all(name in values and values[name] is not _BAD for name in names)
