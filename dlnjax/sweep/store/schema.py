"""The columns of a shard: names, types and units, tables made of them, and how older files are brought to them.

The coordinates of a cell come from the declarations of the options (``sweep.config.options``); results are listed here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pyarrow as pa

from dlnjax.sweep.config import options
from dlnjax.sweep.config.cell import COORDINATES, Cell

#: One column: a value per cell, or an array (masked: null), or for a curve an array of shape (cells, records + 1).
Values = Sequence[object] | np.ndarray
#: Version of the columns below. Older files are brought to it on reading (:func:`upgrade`).
SCHEMA_VERSION = 2
#: Columns of trained weights begin so; read through :mod:`dlnjax.sweep.store.extra_columns` alone.
PARAMS = "params_"
_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_TYPES = get_type_hints(Cell)
#: column -> (type, unit, may be null): the coordinates of a cell, as the options declare them, and its results.
_COLUMNS: dict[str, tuple[pa.DataType, str, bool]] = {
    **{name: (_ARROW[_TYPES[name]], one.unit, False) for name, one in COORDINATES.items()},
    "cell": (pa.string(), "sha256 of the coordinates", False),
    "status": (pa.string(), "", False),
    "reason": (pa.string(), "", True),
    "step_size": (pa.float64(), "mu", True),
    "num_steps": (pa.int64(), "steps", True),
    "interval": (pa.int64(), "steps between records", True),
    "iterations": (pa.int64(), "steps to the tolerance", True),
    "first_bad_step": (pa.int64(), "steps", True),
    "predicted_factor": (pa.float64(), "error factor per step", True),
    "guaranteed_factor": (pa.float64(), "error factor per step", True),
    "eigenvalue_min": (pa.float64(), "", True),
    "eigenvalue_max": (pa.float64(), "", True),
    "step_max": (pa.float64(), "mu", True),
    "step_optimal": (pa.float64(), "mu", True),
    "scale_last": (pa.float64(), "multiplier of mu", True),
    "scale_middle": (pa.float64(), "multiplier of mu", True),
    "rank": (pa.int64(), "", True),
    "curvature_min": (pa.float64(), "of the loss on products", True),
    "curvature_max": (pa.float64(), "of the loss on products", True),
    "final_loss": (pa.float64(), "1/2 squared Frobenius norm", True),
    "final_distance": (pa.float64(), "Frobenius norm", True),
    "orthonormality_error": (pa.float64(), "Frobenius norm, largest layer", True),
    "seconds": (pa.float64(), "s, share of the shard", True),
}
#: Curves, lists of records + 1 numbers: step 0 and the last are among them.
CURVES = {"step": "steps", "loss": "", "distance": "Frobenius norm", "gradient_norm": "Frobenius norm"}
# ``step`` is also the coordinate's name in a config; the curve's column is therefore curve_step.
CURVE_COLUMN = {name: f"curve_{name}" for name in CURVES}
# Coordinates that a file or a row may lack, with the value of every such cell.
_BLANKS = {name: one.blank for name, one in options.LATER.items()}
# Version -> results that the next version added, null in older files. Coordinates need no version: see `upgrade`.
_ADDED: dict[int, tuple[str, ...]] = {1: ("curvature_min", "curvature_max")}


def arrow_schema(records: int) -> pa.Schema:
    """Columns of a shard whose curves hold ``records + 1`` points.

    Args:
      records: intervals between records, at least 1.
    """
    curve = pa.list_(pa.float64(), records + 1)
    fields = [_field(name, *column) for name, column in _COLUMNS.items()]
    fields += [_field(CURVE_COLUMN[name], curve, unit, True) for name, unit in CURVES.items()]
    return pa.schema(fields)


def table(columns: Mapping[str, Values] | Sequence[Mapping[str, object]], records: int) -> pa.Table:
    """A shard's table from columns or from rows; what is absent and may be null is null, a later option ``blank``.

    Args:
      columns: column -> values, one a cell, or one mapping a cell. Curves are ``curve_step``,
        ``curve_loss``, ``curve_distance``, ``curve_gradient_norm``, each ``records + 1`` numbers a cell.
      records: as in :func:`arrow_schema`.

    Raises:
      ValueError: a column is unknown, missing, or of the wrong type or length.
    """
    wanted = arrow_schema(records)
    if not isinstance(columns, Mapping):
        rows = columns
        names = sorted({name for row in rows for name in row})
        columns = {name: [row.get(name) for row in rows] for name in names}
    length = len(next(iter(columns.values())))
    columns = {**{name: [blank] * length for name, blank in _BLANKS.items()}, **columns}
    unknown = sorted(set(columns) - set(wanted.names))
    missing = [f.name for f in wanted if not f.nullable and f.name not in columns]
    if unknown or missing:
        raise ValueError(f"columns unknown: {unknown}, missing: {missing}; schema.arrow_schema lists them")
    arrays = [_array(field, columns.get(field.name), length) for field in wanted]
    return pa.Table.from_arrays(arrays, schema=wanted)


def missing(written: pa.Schema) -> list[str]:
    """Columns that a file lacks and that :func:`upgrade` does not add."""
    word = (written.metadata or {}).get(b"schema_version", b"1")
    older = range(int(word), SCHEMA_VERSION) if word.isdigit() else ()
    added = {*_BLANKS, *(name for version in older for name in _ADDED.get(version, ()))}
    names = set(written.names) | added
    return [name for name in (*_COLUMNS, *CURVE_COLUMN.values()) if name not in names]


def warm() -> None:
    """Makes pyarrow import what its first table needs: where pandas is installed, that, in a third of a second."""
    pa.array([""])


def _field(name: str, kind: pa.DataType, unit: str, null: bool) -> pa.Field:
    return pa.field(name, kind, null, metadata={"unit": unit} if unit else None)


def _array(field: pa.Field, values: Values | None, length: int) -> pa.Array:
    if values is None:
        return pa.nulls(length, field.type)
    try:
        made = _converted(values, field.type)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ValueError(f"column {field.name}: {error}") from None
    if len(made) != length or (made.null_count and not field.nullable):
        raise ValueError(f"column {field.name}: {len(made)} values, {made.null_count} null, of {length}")
    return made


def _converted(values: Values, kind: pa.DataType) -> pa.Array:
    """Whole arrays at once (masked: null), lists value by value."""
    if not isinstance(values, np.ndarray):
        plain = pa.types.is_string(kind) or pa.types.is_integer(kind)
        return pa.array(values if plain else [_plain(value) for value in values], kind)
    if values.ndim == 2:
        if not pa.types.is_fixed_size_list(kind) or values.shape[1] != kind.list_size:
            raise ValueError(f"an array of shape {values.shape} for {kind}")
        flat = np.ascontiguousarray(values, np.float64).ravel()
        return pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
    mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
    return pa.array(np.asarray(values), mask=mask).cast(kind)


def _plain(value: object) -> object:
    """Numpy and JAX values as the Python ones; a curve as a list."""
    return np.asarray(value).tolist() if hasattr(value, "tolist") else value


def upgrade(shard: pa.Table, file: Path, columns: Collection[str] | None = None) -> pa.Table:
    """A file's table with the columns that it is too old to have.

    Args:
      shard: as read. file: for the message.
      columns: those that were asked for, all if None; no other is added.

    Raises:
      ValueError: the file is of a newer version.
    """
    word = (shard.schema.metadata or {}).get(b"schema_version", b"1")
    if not re.fullmatch(rb"[1-9]\d{0,8}|0", word):
        raise ValueError(
            f"{file}: damaged (schema version {word!r}); delete it and run the same command again"
        )
    version = int(word)
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{file}: schema version {version}, this dlnjax reads up to {SCHEMA_VERSION}; install a newer one"
        )
    nulls = {name: None for old in range(version, SCHEMA_VERSION) for name in _ADDED[old]}
    for name, value in {**_BLANKS, **nulls}.items():
        if name not in shard.column_names and (columns is None or name in columns):
            kind, unit, null = _COLUMNS[name]
            shard = shard.append_column(_field(name, kind, unit, null), pa.array([value] * len(shard), kind))
    return shard.replace_schema_metadata(None)
