"""The front of a sweep's configuration: read one (:func:`load`), or make one in Python (:func:`grid`).

Both validate alike and report every mistake at once. Nothing here imports JAX, so that a wrong configuration
is reported in a fraction of a second and before anything is written.

The parts: ``options`` declares all options, ``reader`` reads tables, ``overrides`` changes them, ``datasets`` reads
data files, ``sweep`` holds the result.
"""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from dlnjax.sweep.config import datasets, options, overrides, user_functions
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.reader import Reader, SpecError
from dlnjax.sweep.config.sweep import Grid, Problem, Record, Start, Sweep, differences, extends
from dlnjax.sweep.config.toml import one_line
from dlnjax.sweep.config.user_functions import UserFunction

__all__ = [
    "Cell",
    "Document",
    "Grid",
    "Problem",
    "Record",
    "SpecError",
    "Start",
    "Sweep",
    "data_problems",
    "differences",
    "extends",
    "grid",
    "load",
    "parse",
]

_LARGEST = 10_000_000  # bytes; a configuration has a few thousand


@dataclass(frozen=True)
class Document:
    """A configuration's file, parsed once: of a sweep or of a campaign.

    Attributes:
      source: how mistakes name the file. folder: what paths in it are relative to. tables: what it holds.
    """

    source: str
    folder: str
    tables: Mapping[str, object]

    @property
    def is_campaign(self) -> bool:
        return "campaign" in self.tables

    def changeable(self) -> dict[str, Any]:
        """The tables, for overrides to change."""
        return copy.deepcopy(dict(self.tables))


def load(
    path: str | os.PathLike[str] | Document, overrides: Iterable[str] = (), *, check_data: bool = True
) -> Sweep:
    """Read a TOML configuration.

    Args:
      path: the file, or what :func:`parse` made of it; a data path in it is relative to its folder.
      overrides: ``option=value`` texts, see the module ``overrides``; a data path in them is relative to the
        current folder.
      check_data: False leaves a user's data file unopened (to look at a finished study without its data).

    Returns:
      The validated sweep.

    Raises:
      SpecError: with one line for every mistake, each naming file, option, value and remedy.
    """
    document = path if isinstance(path, Document) else parse(path)
    source = document.source
    if document.is_campaign:
        raise SpecError(
            [f"{source}: campaign: is a campaign's, not a sweep's; run it with: dlnjax run {source}"]
        )
    return _read(source, document.changeable(), overrides, document.folder, check_data)


def grid(*, grids: Iterable[Mapping[str, Any]] = (), **values: Any) -> Sweep:
    """Make a sweep in Python: the keywords are the configuration's options, whatever their section.

    ``start`` is the option of a grid (``"near"``, ``"haar"``, ...); those of the section of that name are keywords of
    their own. ``problem`` and ``record`` may also be given as mappings. Lists may be tuples, ranges or
    numpy arrays.

    A function of yours may stand for a word of ``optimizer``, ``start``, ``activation`` and ``loss``, for the
    ``problem`` (then with ``input_dim`` and ``output_dim``), and in ``metrics``; :func:`own` says what each takes and
    gives its version.

    Args:
      grids: for several grids, a mapping of options each; options of a grid given as keywords are shared by all.
      **values: options of the configuration.

    Raises:
      SpecError: as :func:`load`.

    Example:
      >>> sweep = grid(study="demo", kind="teacher", input_dim=6, output_dim=6, singular_values=[1.0, 0.5],
      ...              step_rule="fixed", step=0.1, engine="auto", start="near",
      ...              depth=[2, 4], width=2, seed=range(3))
      >>> len(sweep.cells())
      6
    """
    functions: dict[str, UserFunction] = {}
    several = [_plain(table, functions) for table in grids]
    if _is_function(values.get("problem")):
        values = {**values, "problem": {"kind": "own", "function": values["problem"]}}
    raw: dict[str, Any] = {"grid": several or [{}]}
    for name, value in values.items():
        section = options.home(name)
        if section == "base" and not several:
            raw["grid"][0][name] = _plain(value, functions)
        elif section:
            raw.setdefault(section, {})[name] = _plain(value, functions)
        elif name in options.SECTIONS and isinstance(value, Mapping):
            raw.setdefault(name, {}).update(_plain(value, functions))
        else:  # top level, or unknown and refused there
            raw[name] = _plain(value, functions)
    sweep = Reader("sweep.grid", flat=True).sweep(raw, os.getcwd(), check_data=True)
    return replace(sweep, functions=functions)


def data_problems(sweep: Sweep) -> list[str]:
    """What keeps the sweep's data from being used on this machine, as lines; empty if nothing does."""
    package = datasets.missing_package(sweep.problem)
    if package:
        remedy = 'pip install "dlnjax[data]"'
        return [f'problem.kind: "{sweep.problem.kind}" needs {package}, which is not installed; {remedy}']
    if sweep.problem.kind != "file":
        return []
    path = one_line(sweep.problem.path or "", 400)
    try:
        digest = datasets.digest(*datasets.arrays(sweep.problem))
    except datasets.DataError as error:
        return [f'problem.path: "{path}" {reason}' for reason in error.reasons]
    if sweep.problem.digest not in (None, digest):
        return [
            f'problem.path: "{path}" holds other data than when the sweep was made; give the original file'
        ]
    return []


def _read(source: str, raw: dict, changes: Iterable[str], folder: str, check_data: bool) -> Sweep:
    """Apply overrides, validate, and join the lines of both."""
    origins, lines = overrides.apply(raw, changes)
    lines = [f"{source} with {line}" for line in lines]
    try:
        sweep = Reader(source, origins).sweep(raw, folder, check_data)
    except SpecError as error:
        raise SpecError([*lines, *error.lines]) from None
    if lines:
        raise SpecError(lines)
    return sweep


def parse(path: str | os.PathLike[str]) -> Document:
    """Parse a file without reading its options; raises :class:`SpecError` with the one reason if it is no TOML file."""
    source = one_line(os.fspath(path), 400)
    return Document(source, os.path.dirname(os.path.abspath(path)), _tables(path, source))


def _tables(path: str | os.PathLike[str], source: str) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise SpecError([f"{source}: no such file; make one with: dlnjax new FILE"]) from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise SpecError([f"{source}: cannot be read ({reason}); give a readable TOML file"]) from None
    if len(content) > _LARGEST:
        raise SpecError([f"{source}: is larger than 10 MB; give a TOML file with a sweep's keys"])
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        place = f"byte {error.start} is {content[error.start]:#04x}"
        raise SpecError([f"{source}: is not UTF-8 text ({place}); save it as UTF-8"]) from None
    except RecursionError:
        raise SpecError(
            [f"{source}: lists nested too deeply; a key takes a list or a single value"]
        ) from None
    except ValueError as error:
        raise SpecError([f"{source}: {_syntax(str(error), content.decode('utf-8-sig'))}"]) from None


def _syntax(message: str, text: str) -> str:
    """tomllib's message with the line it is about."""
    _, found, place = message.rpartition("(at line ")
    number = place.split(",")[0].rstrip(")")
    rows = text.splitlines()
    row = rows[int(number) - 1].strip() if found and number.isdigit() and 0 < int(number) <= len(rows) else ""
    shown = f": {one_line(row)}" if row else ""
    return f"is not TOML, {one_line(message, 160)}{shown}; write key = value, strings in quotes"


@runtime_checkable
class _FromNumpy(Protocol):
    """Numpy's scalars and arrays, without importing numpy."""

    def tolist(self) -> object: ...


def _plain(value: object, functions: dict[str, UserFunction]) -> Any:
    """Python and numpy containers as the lists and scalars that TOML would have given, functions as names."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry, functions) for name, entry in value.items()}
    if _is_function(value):
        return _named(value, functions)
    if isinstance(value, tuple) and hasattr(value, "init") and hasattr(value, "update"):
        text = "an optimizer is given, a function that makes one is needed; write def mine(step_size, scales): ..."
        raise SpecError([f"sweep.grid: {text}"])
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, _FromNumpy):
        value = value.tolist()
    if isinstance(value, list | tuple | range):
        return [_plain(entry, functions) for entry in value]
    return value


def _is_function(value: object) -> bool:
    return (
        isinstance(value, UserFunction)
        or user_functions.is_problem(value)
        or (callable(value) and not isinstance(value, _FromNumpy))
    )


def _named(value: object, functions: dict[str, UserFunction]) -> str:
    """The name of a user's function, which stands for one function in a sweep."""
    try:
        part = value if isinstance(value, UserFunction) else user_functions.own(value)
    except (TypeError, ValueError) as error:
        raise SpecError([f"sweep.grid: {error}"]) from None
    if functions.setdefault(part.name, part) != part:
        text = "two functions have this name; give one of them another name, or version with sweep.own"
        raise SpecError([f"sweep.grid: {part.name}: {text}"])
    return part.name
