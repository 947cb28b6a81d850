"""The results of a sweep: one immutable Parquet file a shard, one row a cell, every cell exactly once.

``DIR/shards/<name>.parquet`` holds a shard; the name is a hash of its cells and of what changes their
numbers, so that a file is either the right one or another one, and "done" is the file's existence. Files
come into being whole (:mod:`dlnjax.sweep.durable`) and never change. Which shards a folder is to hold is
fixed by its manifest (:mod:`dlnjax.sweep.manifest`).

Rows carry the cell's coordinates, its status with the reason, scalars, and four curves as lists of one
fixed length. Units are in each field's metadata, versions in the file's.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dlnjax.sweep import durable, manifest

#: Version of the columns below. Older files are brought to it on reading (:data:`_UPGRADES`).
SCHEMA_VERSION = 2
#: Folder of the shards inside a sweep's folder.
SHARDS = "shards"
#: Columns of trained weights begin so; read through :mod:`dlnjax.sweep.weights` alone.
PARAMS = "params_"

_NAME = re.compile(r"[0-9a-f]{16}")
_MAGIC = b"PAR1"
# Key of the hash of a file's values in its metadata: page checksums alone do not cover every byte.
_DIGEST = "values_sha256"
# Key of the numbers of cells by status, written so that they can be found in the bytes of a file's end.
_COUNTS = "status_counts"
_COUNTED = re.compile(rb"status_counts.{1,4}?<((?:[a-z_]+=\d+;)*)>", re.DOTALL)
_END = 1 << 16  # bytes of a file's end that hold its metadata, usually
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
_CURVE_COLUMN = {name: f"curve_{name}" for name in CURVES}
_DAMAGED = "{}: damaged ({}); delete it and run the same command again"
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


def schema(records: int) -> pa.Schema:
    """Columns of a shard whose curves hold ``records + 1`` points.

    Args:
      records: intervals between records, at least 1.
    """
    curve = pa.list_(pa.float64(), records + 1)
    fields = [_field(name, *column) for name, column in _COLUMNS.items()]
    fields += [_field(_CURVE_COLUMN[name], curve, unit, True) for name, unit in CURVES.items()]
    return pa.schema(fields)


def table(columns: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]], records: int) -> pa.Table:
    """A shard's table from columns or from rows; what is absent and may be null is null, a part at its default.

    Args:
      columns: column -> values, one a cell, or one mapping a cell. Curves are ``curve_step``,
        ``curve_loss``, ``curve_distance``, ``curve_gradient_norm``, each ``records + 1`` numbers a cell.
      records: as in :func:`schema`.

    Raises:
      ValueError: a column is unknown, missing, or of the wrong type or length.
    """
    wanted = schema(records)
    if not isinstance(columns, Mapping):
        rows = columns
        names = sorted({name for row in rows for name in row})
        columns = {name: [row.get(name) for row in rows] for name in names}
    length = len(next(iter(columns.values())))
    columns = {**{name: [plain] * length for name, plain in _PARTS.items()}, **columns}
    unknown = sorted(set(columns) - set(wanted.names))
    missing = [f.name for f in wanted if not f.nullable and f.name not in columns]
    if unknown or missing:
        raise ValueError(f"columns unknown: {unknown}, missing: {missing}; store.schema lists them")
    arrays = [_array(field, columns.get(field.name), length) for field in wanted]
    return pa.Table.from_arrays(arrays, schema=wanted)


def warm() -> None:
    """Makes pyarrow import what its first table needs: where pandas is installed, that, in a third of a second."""
    pa.array([""])


def shard_name(keys: Iterable[str], numbers: str = "") -> str:
    """The name of the shard of these cells, in this order: 16 hexadecimal digits.

    Args:
      keys: the cells' keys (sha256, hexadecimal).
      numbers: what else changes the numbers of a shard, in words; keep it in the table's schema metadata
        under ``numbers``, from where :func:`dlnjax.sweep.verify.verify` reads it.
    """
    return hashlib.sha256("\n".join([numbers, *keys]).encode()).hexdigest()[:16]


def path(out: Path | str, name: str) -> Path:
    """Where the shard ``name`` lives in the folder ``out``."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a shard's name; it has 16 hexadecimal digits")
    return Path(out) / SHARDS / f"{name}.parquet"


def write(out: Path | str, name: str, shard: pa.Table) -> bool:
    """Adds a shard to the store, once.

    Args:
      out: the sweep's folder; made if absent.
      name: from :func:`shard_name`.
      shard: from :func:`table`; its schema's metadata are kept (device, compile_seconds, numbers, ...).

    Returns:
      False if the shard was there already: it is left as it is.

    Raises:
      OSError: the disk is full or the folder cannot be written; the store is unchanged.
    """
    final = path(out, name)
    final.parent.mkdir(parents=True, exist_ok=True)
    facts = {**_versions(), _COUNTS: _counts(shard), _DIGEST: _digest(shard)}
    whole = shard.replace_schema_metadata({**_said(shard), **facts})
    return durable.publish(final, lambda temporary: _write(whole, temporary))


def done(out: Path | str) -> set[str]:
    """Names of the shards in the store; reads the folder only."""
    folder = Path(out) / SHARDS
    if not folder.is_dir():
        return set()
    names = (entry.name.removesuffix(".parquet") for entry in folder.iterdir() if entry.suffix == ".parquet")
    return {name for name in names if _NAME.fullmatch(name)}


def truncated(out: Path | str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` whose file is cut short: a quick look at its two ends, not its content."""
    return [name for name in names if not _ends_well(path(out, name))]


def read(out: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """All results so far, one row a cell, in the order of the manifest's cells.

    Args:
      out: the sweep's folder.
      columns: those to read, all but weights if None.

    Raises:
      FileNotFoundError: no results there.
      ValueError: a file is damaged (named) or of a newer schema, or the folder holds a campaign.
    """
    names = sorted(done(out))
    if not names:
        config = Path(out) / manifest.CONFIG  # a campaign's folder is told apart by load
        there = config if manifest.load(out) is not None and config.exists() else None
        why = "no results" if there is None else "no results, only what a repository keeps of them"
        raise FileNotFoundError(f"{out}: {why}; start them with: dlnjax run {there or 'CONFIG'} --out {out}")
    wanted = None if columns is None else list(dict.fromkeys([*columns, "cell"]))
    tables = [_without_weights(read_shard(out, name, wanted)) for name in names]
    whole = _ordered(pa.concat_tables(tables, promote_options="default"), out)
    return whole if columns is None else whole.select(list(columns))


def read_shard(out: Path | str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One shard, of the current schema version; read in full, every value is checked.

    Raises:
      ValueError: the file is damaged, or written by a newer dlnjax.
    """
    file = path(out, name)
    try:
        names = None if columns is None else list(columns)
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            shard = opened.read(columns=names)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(_DAMAGED.format(file, _first_line(error))) from None
    said = (shard.schema.metadata or {}).get(_DIGEST.encode())
    if columns is None and said is not None and said.decode() != _digest(shard):
        raise ValueError(_DAMAGED.format(file, "its values are not those that were written"))
    return _upgrade(shard, file)


def facts(out: Path | str, name: str) -> dict[str, str]:
    """What a shard's file says about itself: versions, device, seconds; reads no rows."""
    raw = pq.read_schema(path(out, name)).metadata or {}
    return {key.decode(): value.decode() for key, value in raw.items() if not key.startswith(b"ARROW")}


def counts(out: Path | str, name: str) -> dict[str, int] | None:
    """Cells of a shard by status, from the last bytes of its file, parsing nothing: some 20 us a file.

    None where they are not found so: a damaged file, or one of a version that did not write them.
    """
    with path(out, name).open("rb") as handle:
        handle.seek(max(0, handle.seek(0, 2) - _END))
        end = handle.read()
    found = _COUNTED.search(end) if end[-4:] == _MAGIC else None
    if found is None:
        return None
    pairs = (entry.split("=") for entry in found[1].decode().split(";") if entry)
    return {status: int(number) for status, number in pairs}


def _counts(shard: pa.Table) -> str:
    found = Counter(shard["status"].to_pylist())
    return "<" + "".join(f"{status}={number};" for status, number in sorted(found.items())) + ">"


def _write(shard: pa.Table, file: Path) -> None:
    """One Parquet file; lists of floats, nearly all distinct, byte by byte instead of through a dictionary.

    Against the writer's defaults that is three times as fast and half the size (1024 cells, 128 records).
    """
    step = _CURVE_COLUMN["step"]
    lists = {f.name: f.type.value_type for f in shard.schema if pa.types.is_fixed_size_list(f.type)}
    distinct = [name for name, kind in lists.items() if name != step and pa.types.is_floating(kind)]
    others = [name for name in shard.column_names if name not in lists]
    columns: Any = {
        "use_dictionary": [*others, f"{step}.list.element"],
        "use_byte_stream_split": [f"{name}.list.element" for name in distinct],
    }
    pq.write_table(shard, file, compression="zstd", write_page_checksum=True, **columns)


def _without_weights(shard: pa.Table) -> pa.Table:
    return shard.select([name for name in shard.column_names if not name.startswith(PARAMS)])


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


def _versions() -> dict[str, str]:
    return {
        "schema_version": str(SCHEMA_VERSION),
        **{f"{k}_version": v for k, v in manifest.versions().items()},
    }


def _said(shard: pa.Table) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (shard.schema.metadata or {}).items()}


def _digest(shard: pa.Table) -> str:
    """Hash of names and values, whatever the buffers behind them look like."""
    found = hashlib.sha256()
    for name, column in zip(shard.column_names, shard.columns, strict=True):
        whole = column.combine_chunks()
        found.update(f"{name} {len(whole)}\n".encode())
        found.update(whole.is_null().to_numpy(zero_copy_only=False).tobytes())
        if pa.types.is_fixed_size_list(whole.type):
            whole = whole.flatten()
        if pa.types.is_string(whole.type):
            found.update("\0".join(whole.fill_null("").to_pylist()).encode())
        else:
            found.update(whole.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
    return found.hexdigest()


def _upgrade(shard: pa.Table, file: Path) -> pa.Table:
    found = int((shard.schema.metadata or {}).get(b"schema_version", b"1"))
    if found > SCHEMA_VERSION:
        raise ValueError(
            f"{file}: schema version {found}, this dlnjax reads up to {SCHEMA_VERSION}; install a newer one"
        )
    for old in range(found, SCHEMA_VERSION):
        shard = _UPGRADES[old](shard)
    return shard.replace_schema_metadata(None)


def _ordered(whole: pa.Table, out: Path | str) -> pa.Table:
    order = {key: i for i, key in enumerate(manifest.cells(out))}
    if not order:
        return whole
    last = len(order)
    places = [order.get(key[: manifest.DIGITS], last) for key in whole["cell"].to_pylist()]
    return whole.take(pa.array(sorted(range(len(places)), key=places.__getitem__), pa.int64()))


def _ends_well(file: Path) -> bool:
    with file.open("rb") as handle:
        start = handle.read(4)
        size = handle.seek(0, 2)
        if size < 12:
            return False
        handle.seek(-8, 2)
        tail = handle.read(8)
    return start == _MAGIC and tail[4:] == _MAGIC and int.from_bytes(tail[:4], "little") <= size - 12


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
