"""Which numbers moved between two results of one study: rows matched by what names them, columns with tolerances.

A rerun on another machine, or with other versions, changes last digits everywhere; what counts is whether a number says
something else. So every column has a tolerance of its own kind: a measured factor may move within the two fits'
intervals, a prediction by rounding, a final error (at its rounding floor) within a decade, a status not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dlnjax.analysis import tables
from dlnjax.analysis.tables import Row, Scalar

#: What names a row of each file; columns that a file lacks are passed over.
KEYS: dict[str, tuple[str, ...]] = {
    "summary.csv": (*tables.COORDINATES, "part", "instance"),
    "edge.csv": tables.COORDINATES,
    "claims.csv": ("kind", "claim"),
}
#: ``(absolute, relative)`` by column; either suffices. Numbers of columns not listed have DEFAULT.
TOLERANCE = {
    **dict.fromkeys(("predicted_factor", "guaranteed_factor"), (1e-8, 0.0)),
    **dict.fromkeys(
        ("step_size", "eigenvalue_min", "eigenvalue_max", "step_max", "step_optimal"), (0.0, 1e-6)
    ),
    **dict.fromkeys(("iterations", "predicted_iterations", "num_steps"), (1.0, 0.01)),
    **dict.fromkeys(
        ("train_accuracy", "test_accuracy", "optimum_accuracy"), (0.006, 0.0)
    ),  # two of 360 samples
    "accuracy_steps": (1.0, 0.1),
    "orthonormality_error": (1e-11, 10.0),
    "final_distance": (1e-9, 10.0),
    "final_loss": (1e-9, 100.0),
}
DEFAULT = (1e-7, 1e-4)
#: Not compared: words, what only belongs to a fit, seconds. Next to the edge two modes mix and nothing is claimed of
#: the rate, so edge.csv's is not compared either.
PASSED_OVER = (
    "reason", "measured", "measured_low", "measured_high", "window_first", "window_last", "first_bad_step", "interval",
    "seconds", "ratio", "difference",
)  # fmt: skip


class Moved(NamedTuple):
    """One number that moved: file and row it stands in, its column, and both values (None: the row is not there)."""

    file: str
    row: str
    column: str
    before: Scalar
    after: Scalar

    def __str__(self) -> str:
        return f"{self.file}: {self.row}: {self.column}: {_shown(self.before)} -> {_shown(self.after)}"


def compare(before: Path | str, after: Path | str, *, subset: bool = False) -> list[Moved]:
    """All that moved between two results folders beyond its tolerance.

    Args:
      before, after: folders with summary.csv, edge.csv, claims.csv, or some of them.
      subset: ``after`` holds only some of the cells; its rows are compared, and no claims.
    """
    found: list[Moved] = []
    for file in KEYS:
        old, new = Path(before) / file, Path(after) / file
        if (subset and (file == "claims.csv" or not new.exists())) or not (old.exists() or new.exists()):
            continue
        if not (old.exists() and new.exists()):
            found.append(Moved(file, "the file", "all", _there(old), _there(new)))
        else:
            found += _rows(file, tables.read_csv(old), tables.read_csv(new), subset)
    return found


def count(folder: Path | str) -> int:
    """Rows of summary.csv and edge.csv."""
    files = [Path(folder) / name for name in ("summary.csv", "edge.csv")]
    return sum(len(tables.read_csv(file)) for file in files if file.exists())


def _rows(file: str, old: list[Row], new: list[Row], subset: bool) -> list[Moved]:
    names = [name for name in KEYS[file] if all(name in row for row in [*old, *new])]
    before, after = ({tuple(row[n] for n in names): row for row in rows} for rows in (old, new))
    found = []
    for key in after if subset else dict.fromkeys([*before, *after]):
        label = ", ".join(f"{n} {v}" for n, v in zip(names, key, strict=True) if v is not None)
        if key not in before or key not in after:
            sides = ("there" if key in side else None for side in (before, after))
            found.append(Moved(file, label, "the row", *sides))
        else:
            aside = (*names, *PASSED_OVER, *(("measured_factor",) if file == "edge.csv" else ()))
            found += [Moved(file, label, *moved) for moved in _columns(before[key], after[key], aside)]
    return found


def _columns(before: Row, after: Row, aside: Sequence[str]) -> Iterable[tuple[str, Scalar, Scalar]]:
    """``(column, before, after)`` of what moved; a column that only one side has is a matter of versions."""
    for column in before:
        if column not in after or column in aside:
            continue
        pair = before.get(column), after.get(column)
        same = _fits_agree(before, after) if column == "measured_factor" else agree(column, *pair)
        if not same:
            yield column, *pair


def agree(column: str, before: Any, after: Any) -> bool:
    """Whether two values of a column are the same within its tolerance; words and truth values exactly."""
    if not all(type(value) in (int, float) for value in (before, after)):
        return before == after
    if not (math.isfinite(before) and math.isfinite(after)):
        return before == after or (math.isnan(before) and math.isnan(after))
    absolute, relative = TOLERANCE.get(column, DEFAULT)
    if type(before) is type(after) is int and column not in TOLERANCE:
        return before == after
    return abs(before - after) <= max(absolute, relative * min(abs(before), abs(after)))


def _fits_agree(before: Row, after: Row) -> bool:
    """Two measured factors are one if their intervals meet; a rate found in one only has moved."""
    if None in (side.get(name) for side in (before, after) for name in ("measured_factor", "measured_low")):
        return agree("measured_factor", before.get("measured_factor"), after.get("measured_factor"))
    low = max(before["measured_low"], after["measured_low"])
    return low <= min(before["measured_high"], after["measured_high"])


def _there(path: Path) -> str | None:
    return "there" if path.exists() else None


def _shown(value: Scalar) -> str:
    return "nothing" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)
