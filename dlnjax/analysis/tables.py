"""What a sweep measured, one row a cell: the store's scalars beside the factor fitted to each curve.

``measure`` turns the store's table into rows; the rest only selects and prints them. Cells around the
stability edge (``step_rule == "edge"``) go to a file of their own: half of them are meant not to converge.
A cell without a rate keeps its spectrum, its loss and the reason.
"""

from __future__ import annotations

import csv
import importlib
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from dlnjax.analysis import rates
from dlnjax.sweep.config import cell, options

if TYPE_CHECKING:
    import pandas
    import pyarrow
    import xarray

#: A coordinate, or another value of a table that is no curve.
Scalar = str | int | float | bool | None
#: Also a curve.
Value = Scalar | Sequence[float] | np.ndarray
#: A cell: scalars by column name, curves as ``curve_*`` vectors, ``fit`` the :class:`rates.Fit`.
Row = dict[str, Any]
#: What the figures and conversions take: the table of ``sweep.read``, or rows of :func:`measure`.
Table: TypeAlias = "pyarrow.Table | Sequence[Row]"
#: The coordinates that a group of rows agrees in.
Key = tuple[tuple[str, Any], ...]

_FIRST = ("study", "step_rule", "step", "data", "start", "optimizer", "momentum", "retraction")
_LAST = ("precision", "profile", "width", "engine", "depth", "seed")
#: Coordinates of a cell, in the order in which tables sort them.
COORDINATES = (*_FIRST, *(name for name in cell.COORDINATES if name not in (*_FIRST, *_LAST)), *_LAST)
#: Coordinates that a plain linear network has at their blank; they are columns only where some cell differs.
PARTS: dict[str, object] = {name: one.blank for name, one in options.LATER.items()}
#: Columns of summary.csv and edge.csv.
COLUMNS = (
    "study", "data", "depth", "width", "seed", "step_rule", "step", "step_size", "engine", "start",
    "retraction", "optimizer", "precision", "status", "iterations", "predicted_iterations",
    "measured_factor", "measured_low", "measured_high", "predicted_factor", "guaranteed_factor",
    "window_first", "window_last", "eigenvalue_min", "eigenvalue_max", "step_max", "step_optimal", "rank",
    "num_steps", "interval", "first_bad_step", "final_loss", "final_distance", "orthonormality_error",
    "reason",
)  # fmt: skip
#: Columns of studies that hold samples out.
ACCURACIES = ("train_accuracy", "test_accuracy", "optimum_accuracy", "accuracy_steps")
#: A run is as good as it gets once its test accuracy stays within this of the last one.
_GOOD_ENOUGH = 0.01
#: Units and meaning of what the table's metadata does not say.
UNITS = {
    "measured_factor": "error factor per step",
    "measured_low": "error factor per step",
    "measured_high": "error factor per step",
    "predicted_iterations": "steps",
    "engine_gap": "Frobenius norm",
    "accuracy_steps": "steps",
    "window_first": "steps",
    "window_last": "steps",
}
_RULES = {name: place for place, name in enumerate(options.GRID["step_rule"].choices)}
#: Steps within which two engines are compared: what they differ by later is rounding that has grown.
SAME_STEPS = 300
#: Nats by which the predicted slowest mode must fall within a run before its rate can be seen.
_LEAST_DECAY = 3.0


def measure(table: Table, tolerance: float = 1e-8, output_dim: int | None = None) -> list[Row]:
    """One row a cell of ``sweep.read``'s table, each curve fitted; sorted by :data:`COORDINATES`.

    Args:
      table: one row a cell, curves in ``curve_step`` and ``curve_distance``.
      tolerance: relative error at which a cell counts as converged; for ``predicted_iterations``.
      output_dim: d_N where known; kept in every row, for the claims that depend on it.

    Returns:
      Rows with all columns of the table and of :data:`COLUMNS`; None where a thing does not apply.
    """
    given = {"output_dim": output_dim, "engine_gap": None}
    rows = [{**PARTS, **_measured(row, tolerance), **given} for row in _plain(table)]
    for a, b in engine_pairs(rows):
        a["engine_gap"] = b["engine_gap"] = engine_gap(a, b)
    return sorted(rows, key=_sort_key)


def engine_pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Rows of cells that differ in their engine alone, layer by layer first, where both have curves."""
    pairs = []
    for group in groups(rows, without=("engine",)).values():
        both = {row["engine"]: row for row in group if row.get("curve_distance") is not None}
        if both.keys() == {"layers", "reduced"}:
            pairs.append((both["layers"], both["reduced"]))
    return pairs


def engine_gap(a: Row, b: Row) -> float | None:
    """The largest difference of two cells' recorded errors within :data:`SAME_STEPS` steps; None without a number."""
    common, at, bt = np.intersect1d(a["curve_step"], b["curve_step"], return_indices=True)
    early = common <= SAME_STEPS
    gap = np.abs(np.asarray(a["curve_distance"])[at] - np.asarray(b["curve_distance"])[bt])[early]
    return float(gap.max()) if gap.size and np.isfinite(gap).all() else None


def split(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """``(rows of summary.csv, rows of edge.csv)``."""
    rows = list(rows)
    return [r for r in rows if r["step_rule"] != "edge"], [r for r in rows if r["step_rule"] == "edge"]


def to_csv(rows: Sequence[Row], columns: Sequence[str] = COLUMNS, *, for_spreadsheets: bool = False) -> str:
    """Rows as CSV text: full precision, an empty field where a thing does not apply; parts where some cell has them.

    ``for_spreadsheets`` puts a ``'`` before text that a spreadsheet would take for a formula.
    """
    parts = [n for n, plain in PARTS.items() if any(row.get(n, plain) != plain for row in rows)]
    parts += [n for n in ("engine_gap", *ACCURACIES) if any(row.get(n) is not None for row in rows)]
    columns = [*columns, *(name for name in parts if name not in columns)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    fields = [["" if row.get(c) is None else row[c] for c in columns] for row in rows]
    if for_spreadsheets:
        fields = [[_quoted(field) for field in line] for line in fields]
    writer.writerows(fields)
    return text.getvalue()


def _quoted(field: Any) -> Any:
    return (
        f"'{field}"
        if isinstance(field, str) and field.startswith(("=", "+", "-", "@", "\t", "\r"))
        else field
    )


def read_csv(path: Path | str) -> list[Row]:
    """The rows of a CSV file of results: numbers as numbers, truth values as such, empty fields None."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return [{name: _parsed(field) for name, field in row.items()} for row in csv.DictReader(file)]


def _parsed(field: str) -> Scalar:
    if field in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[field]
    for kind in (int, float):
        try:
            return kind(field)
        except ValueError:
            continue
    return field


def groups(
    rows: Iterable[Row], *, by: Sequence[str] = COORDINATES, without: Sequence[str] = ()
) -> dict[Key, list[Row]]:
    """Rows that agree in the coordinates ``by`` but those in ``without``, keyed by what they agree in."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        key = tuple((name, _coordinate(row, name)) for name in by if name not in without)
        found.setdefault(key, []).append(row)
    return found


def varying(rows: Sequence[Row]) -> list[str]:
    """The coordinates that tell rows apart: the step rule, and what varies within one.

    What merely comes with the rule (its step, its start) is not listed.
    """
    rules: dict[str, list[Row]] = {}
    for row in rows:
        rules.setdefault(row["step_rule"], []).append(row)
    found = {
        n for group in rules.values() for n in COORDINATES if len({_coordinate(row, n) for row in group}) > 1
    }
    return [n for n in COORDINATES if n in found or (n == "step_rule" and len(rules) > 1)]


def describe(row: Row, names: Sequence[str]) -> str:
    """The coordinates ``names`` of a row in words: ``fixed, layers, N = 4``."""
    return ", ".join(cell.COORDINATES[name].words.format(row[name]) for name in names)


def caption(name: str) -> str:
    """The caption of a column."""
    return (cell.COORDINATES[name].heading if name in cell.COORDINATES else "") or name


def to_pandas(table: Table) -> pandas.DataFrame:
    """Scalars of every cell as a data frame, indexed by the coordinates; ``attrs["units"]`` names units.

    Args:
      table: of ``sweep.read``, or rows of :func:`measure` (to include the measured factors).

    Raises:
      ImportError: pandas is absent; install ``dlnjax[analysis]``.
    """
    frames = _require("pandas")
    rows, units = _plain(table), {**UNITS, **_units(table)}
    scalars = [{k: v for k, v in row.items() if not _is_curve(k) and k != "fit"} for row in rows]
    frame = frames.DataFrame(scalars).set_index([c for c in COORDINATES if rows and c in rows[0]])
    frame.attrs["units"] = {name: unit for name, unit in units.items() if name in frame.columns}
    return frame


def to_xarray(table: Table) -> xarray.Dataset:
    """Every cell with its curves: dimensions ``cell`` and ``record``, the coordinates as labels of ``cell``.

    Select with labels, for instance ``data.where(data.depth == 8, drop=True)``; the curves'
    steps are the variable ``curve_step`` because cells differ in how often they are recorded. Units are in
    each variable's ``attrs["units"]``.

    Args:
      table: of ``sweep.read``, or rows of :func:`measure`.

    Raises:
      ImportError: xarray is absent; install ``dlnjax[analysis]``.
    """
    arrays = _require("xarray")
    rows, units = _plain(table), {**UNITS, **_coordinate_units(), **_units(table)}
    names = [name for name in (rows[0] if rows else {}) if name not in ("fit", "cell")]
    made = {}
    for name in names:
        values = _column([row[name] for row in rows], curve=_is_curve(name))
        made[name] = (("cell", "record")[: values.ndim], values, {"units": units.get(name, "1")})
    coordinates = {name: made.pop(name) for name in COORDINATES if name in made}
    return arrays.Dataset(made, coords=coordinates)


def _measured(row: Row, tolerance: float) -> Row:
    fit = _fit(row)
    predicted = row.get("predicted_factor")
    return {
        **row,
        "fit": fit,
        "measured_factor": fit.factor,
        "measured_low": fit.low,
        "measured_high": fit.high,
        "window_first": fit.first,
        "window_last": fit.last,
        "predicted_iterations": _iterations(predicted, tolerance),
        "accuracy_steps": _accuracy_steps(row),
        "reason": "; ".join(why for why in (row.get("reason"), fit.reason) if why) or None,
    }


def _accuracy_steps(row: Row) -> int | None:
    """The first recorded step from which on the test accuracy stays near the last one; None without one."""
    curve = row.get("curve_test_accuracy")
    if curve is None or row["status"] in ("diverged", "failed"):
        return None
    off = np.flatnonzero(~(np.abs(curve - curve[-1]) <= _GOOD_ENOUGH))
    return int(row["curve_step"][off[-1] + 1 if off.size else 0])


def _fit(row: Row) -> rates.Fit:
    """The fit of a cell's curve; none for one that diverged, failed or was too short for its slowest mode."""
    step, distance = row.get("curve_step"), row.get("curve_distance")
    if row["status"] in ("diverged", "failed") or step is None or distance is None:
        return rates.Fit(None, None, None, None, None, None)
    predicted, steps = row.get("predicted_factor"), step[-1] - step[0]
    if row["status"] != "converged" and predicted is not None and 0 < predicted < 1:
        decay = -math.log(predicted) * steps
        if decay < _LEAST_DECAY:
            why = f"the slowest mode falls by {-math.expm1(-decay):.2g} of itself in {steps:.0f} steps"
            return rates.Fit(None, None, None, None, None, f"no asymptotic regime: {why}")
    return rates.fit(step, distance)


def _iterations(factor: float | None, tolerance: float) -> int | None:
    """Steps in which the predicted factor alone reaches the tolerance."""
    if factor is None or not 0 < factor < 1:
        return None
    return math.ceil(math.log(tolerance) / math.log(factor))


def _plain(table: Table) -> list[Row]:
    """Rows as dictionaries, curves as float vectors, not-a-number scalars as None."""
    rows = list(table) if isinstance(table, (list, tuple)) else table.to_pylist()  # type: ignore[union-attr]
    return [{name: _value(name, value) for name, value in row.items()} for row in rows]


def _value(name: str, value: Value) -> Value:
    if _is_curve(name):
        return None if value is None else np.asarray(value, float)
    return None if isinstance(value, float) and math.isnan(value) else value


def _sort_key(row: Row) -> tuple:
    return tuple(
        (_RULES.get(row[n], 9), row[n]) if n == "step_rule" else _coordinate(row, n) for n in COORDINATES
    )


def _coordinate(row: Row, name: str) -> Any:
    return row.get(name, PARTS[name]) if name in PARTS else row[name]


def _is_curve(name: str) -> bool:
    return name.startswith("curve_")


def _column(values: list[Any], *, curve: bool) -> np.ndarray:
    """A column for xarray: absent numbers become not-a-number, curves a matrix."""
    if curve:
        length = max((len(v) for v in values if v is not None), default=0)
        return np.stack([np.full(length, np.nan) if v is None else v for v in values])
    if any(isinstance(value, str) for value in values):
        return np.array(["" if value is None else value for value in values])
    return np.array([np.nan if value is None else value for value in values])


def _units(table: Table) -> dict[str, str]:
    """The units that the store keeps in its fields' metadata."""
    fields = getattr(table, "schema", ())
    found = {field.name: (field.metadata or {}).get(b"unit", b"").decode() for field in fields}
    return {name: unit for name, unit in found.items() if unit}


def _coordinate_units() -> dict[str, str]:
    return {name: one.unit for name, one in cell.COORDINATES.items() if one.unit}


def _require(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is not installed; pip install "dlnjax[analysis]"') from error
