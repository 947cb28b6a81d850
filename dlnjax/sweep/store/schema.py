"""The columns of a shard: names, types and units, tables made of them, and how older files are brought to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

#: Version of the columns below. Older files are brought to it on reading (:data:`_UPGRADES`).
SCHEMA_VERSION = 2
#: Columns of trained weights begin so; read through :mod:`dlnjax.sweep.store.extra_columns` alone.
PARAMS = "params_"
#: column -> (type, unit, may be null)
_COLUMNS: dict[str, tuple[pa.DataType, str, bool]] = {
    "study": (pa.string(), "", False),
    "data": (pa.string(), "", False),
    "depth": (pa.int64(), "layers", False),
    "width": (pa.int64(), "units", False),
    "seed": (pa.int64(), "", False),
    "step_rule": (pa.string(), "", False),
    "step": (pa.float64(), "as step_rule says", False),
    "engine": (pa.string(), "", False),
    "start": (pa.string(), "", False),
    "retraction": (pa.string(), "", False),
    "optimizer": (pa.string(), "", False),
    "precision": (pa.string(), "", False),
    "momentum": (pa.float64(), "", False),
    "activation": (pa.string(), "", False),
    "free": (pa.string(), "", False),
    "loss": (pa.string(), "", False),
    "profile": (pa.string(), "", False),
    "batch_size": (pa.int64(), "samples, 0 for all", False),
    "label_noise": (pa.float64(), "of the labels' root mean square", False),
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
# What version 2 added, as every cell of version 1 has it.
_PARTS: dict[str, Any] = {
    "momentum": 0.0, "activation": "linear", "free": "first", "loss": "square", "profile": "equal",
    "batch_size": 0, "label_noise": 0.0, "curvature_min": None, "curvature_max": None,
}  # fmt: skip


def _with_parts(shard: pa.Table) -> pa.Table:
    for name, value in _PARTS.items():
        kind, unit, null = _COLUMNS[name]
        column = pa.array([value] * len(shard), kind)
        if name not in shard.column_names:
            shard = shard.append_column(_field(name, kind, unit, null), column)
    return shard


# version -> function that turns a table of that version into one of the next
_UPGRADES: dict[int, Any] = {1: _with_parts}


def arrow_schema(records: int) -> pa.Schema:
    """Columns of a shard whose curves hold ``records + 1`` points.

    Args:
      records: intervals between records, at least 1.
    """
    curve = pa.list_(pa.float64(), records + 1)
    fields = [_field(name, *column) for name, column in _COLUMNS.items()]
    fields += [_field(CURVE_COLUMN[name], curve, unit, True) for name, unit in CURVES.items()]
    return pa.schema(fields)


def table(columns: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]], records: int) -> pa.Table:
    """A shard's table from columns or from rows; what is absent and may be null is null, a part at its default.

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
    columns = {**{name: [plain] * length for name, plain in _PARTS.items()}, **columns}
    unknown = sorted(set(columns) - set(wanted.names))
    missing = [f.name for f in wanted if not f.nullable and f.name not in columns]
    if unknown or missing:
        raise ValueError(f"columns unknown: {unknown}, missing: {missing}; schema.arrow_schema lists them")
    arrays = [_array(field, columns.get(field.name), length) for field in wanted]
    return pa.Table.from_arrays(arrays, schema=wanted)


def warm() -> None:
    """Makes pyarrow import what its first table needs: where pandas is installed, that, in a third of a second."""
    pa.array([""])


def _field(name: str, kind: pa.DataType, unit: str, null: bool) -> pa.Field:
    return pa.field(name, kind, null, metadata={"unit": unit} if unit else None)


def _array(field: pa.Field, values: Sequence[Any] | None, length: int) -> pa.Array:
    if values is None:
        return pa.nulls(length, field.type)
    try:
        made = _converted(values, field.type)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ValueError(f"column {field.name}: {error}") from None
    if len(made) != length or (made.null_count and not field.nullable):
        raise ValueError(f"column {field.name}: {len(made)} values, {made.null_count} null, of {length}")
    return made


def _converted(values: Any, kind: pa.DataType) -> pa.Array:
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


def _plain(value: Any) -> Any:
    """Numpy and JAX values as the Python ones; a curve as a list."""
    return value.tolist() if hasattr(value, "tolist") else value


def upgrade(shard: pa.Table, file: Path) -> pa.Table:
    found = int((shard.schema.metadata or {}).get(b"schema_version", b"1"))
    if found > SCHEMA_VERSION:
        raise ValueError(
            f"{file}: schema version {found}, this dlnjax reads up to {SCHEMA_VERSION}; install a newer one"
        )
    for old in range(found, SCHEMA_VERSION):
        shard = _UPGRADES[old](shard)
    return shard.replace_schema_metadata(None)
