"""The results of a sweep: one immutable Parquet file a shard, one row a cell, every cell exactly once.

``DIR/shards/<name>.parquet`` holds a shard; the name is a hash of its cells and of what changes their
numbers, so that a file is either the right one or another one, and "done" is the file's existence. Files
come into being whole (:mod:`dlnjax.sweep.store.atomic`), sealed (:mod:`dlnjax.sweep.store.seal`), and never
change. Which shards a folder is to hold is fixed by its manifest (:mod:`dlnjax.sweep.store.manifest`).

Rows carry the cell's coordinates, its status with the reason, scalars, and four curves as lists of one
fixed length. Units are in each field's metadata, versions in the file's.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dlnjax.sweep.store import atomic, provenance, schema, seal

#: Folder of the shards inside a sweep's folder.
SHARDS = "shards"
_NAME = re.compile(r"[0-9a-f]{16}")
_MAGIC = b"PAR1"
# Key of the hash of a file's values in the metadata of versions that put no seal on the file.
_DIGEST = "values_sha256"
# Key of the numbers of cells by status, written so that they can be found in the bytes of a file's end.
_COUNTS = "status_counts"
_COUNTED = re.compile(rb"status_counts.{1,4}?<((?:[a-z_]+=\d+;)*)>", re.DOTALL)
_END = 1 << 16  # bytes of a file's end that hold its metadata, usually
_DAMAGED = "{}: damaged ({}); delete it and run the same command again"


def path(out: Path | str, name: str) -> Path:
    """Where the shard ``name`` lives in the folder ``out``."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a shard's name; it has 16 hexadecimal digits")
    return Path(out) / SHARDS / f"{name}.parquet"


def write(out: Path | str, name: str, shard: pa.Table) -> bool:
    """Adds a shard to the store, once.

    Args:
      out: the sweep's folder.
      name: from ``plan.shard_name``.
      shard: from ``schema.table``; its schema's metadata are kept (device, compile_seconds, numbers, ...).

    Returns:
      False if the shard was there already: it is left as it is.

    Raises:
      OSError: the disk is full or the folder cannot be written; the store is unchanged.
    """
    final = path(out, name)
    final.parent.mkdir(exist_ok=True)  # the shards' folder alone: a removed results folder stays removed
    added = {**_versions(), _COUNTS: _counts(shard), seal.KEY: seal.BLANK}
    whole = shard.replace_schema_metadata({**metadata_of(shard), **added})
    return atomic.publish(final, lambda temporary: _write(whole, temporary))


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


def read_shard(out: Path | str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One shard, of the current schema version; every byte of its file is checked, whatever the columns.

    Raises:
      ValueError: the file is damaged, or written by a newer dlnjax.
    """
    return read_with_metadata(path(out, name), columns)[0]


def read_with_metadata(file: Path, columns: Sequence[str] | None = None) -> tuple[pa.Table, dict[str, str]]:
    """:func:`read_shard` of a file, and what it says about itself."""
    with _opened(file) as opened:
        said = _decoded(opened.schema_arrow.metadata)
        old = seal.KEY not in said and _DIGEST in said  # its values are checked as a whole, or not at all
        names = None if columns is None else list(columns)
        present = opened.schema_arrow.names
        shard = opened.read(columns=None if old or names is None else [n for n in names if n in present])
        if old and said[_DIGEST] != _digest(shard):
            raise ValueError(_DAMAGED.format(file, "its values are not those that were written"))
        if old and names is not None:
            shard = shard.select([name for name in present if name in names])
    return schema.upgrade(shard, file, names), said


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    """A shard's file whose seal is right; what goes wrong inside the block is damage too."""
    try:
        content = file.read_bytes()
        if seal.is_right(content) is False:
            raise ValueError(_DAMAGED.format(file, "a byte of it has changed"))
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as opened:
            yield opened
    except FileNotFoundError:
        if not file.is_symlink():
            raise
        raise ValueError(_DAMAGED.format(file, "a link to a file that is not there")) from None
    except (OSError, pa.ArrowException, UnicodeDecodeError, MemoryError, OverflowError, LookupError) as error:
        raise ValueError(_DAMAGED.format(file, _first_line(error))) from None


def metadata(out: Path | str, name: str) -> dict[str, str]:
    """What a shard's file says about itself: versions, device, seconds; every byte is checked, no row made.

    Raises:
      ValueError: the file is damaged.
    """
    with _opened(path(out, name)) as opened:
        return _decoded(opened.schema_arrow.metadata)


def _decoded(raw: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in (raw or {}).items() if not k.startswith(b"ARROW")}


def counts(out: Path | str, name: str) -> dict[str, int] | None:
    """Cells of a shard by status, from the last bytes of its file, parsing nothing: some 20 us a file.

    None where they do not stand there: a damaged file, or one of a version that did not write them.
    """
    with path(out, name).open("rb") as handle:
        handle.seek(max(0, handle.seek(0, 2) - _END))
        end = handle.read()
    match = _COUNTED.search(end) if end[-4:] == _MAGIC else None
    if match is None:
        return None
    pairs = (entry.split("=") for entry in match[1].decode().split(";") if entry)
    return {status: int(number[:15]) for status, number in pairs}


def _counts(shard: pa.Table) -> str:
    counts = Counter(shard["status"].to_pylist())
    return "<" + "".join(f"{status}={number};" for status, number in sorted(counts.items())) + ">"


def _write(shard: pa.Table, file: Path) -> None:
    """One Parquet file; lists of floats, nearly all distinct, byte by byte instead of through a dictionary.

    Against the writer's defaults that is three times as fast and half the size (1024 cells, 128 records).
    """
    step = schema.CURVE_COLUMN["step"]
    lists = {f.name: f.type.value_type for f in shard.schema if pa.types.is_fixed_size_list(f.type)}
    distinct = [name for name, kind in lists.items() if name != step and pa.types.is_floating(kind)]
    others = [name for name in shard.column_names if name not in lists]
    columns: Any = {
        "use_dictionary": [*others, f"{step}.list.element"],
        "use_byte_stream_split": [f"{name}.list.element" for name in distinct],
    }
    content = io.BytesIO()
    pq.write_table(shard, content, compression="zstd", write_page_checksum=True, **columns)
    file.write_bytes(seal.sealed(content.getvalue()))


def _versions() -> dict[str, str]:
    return {
        "schema_version": str(schema.SCHEMA_VERSION),
        **{f"{k}_version": v for k, v in provenance.versions().items()},
    }


def metadata_of(shard: pa.Table) -> dict[str, str]:
    """What a shard's table says about itself, in memory: device, seconds, and once read all of :func:`metadata`."""
    return {key.decode(): value.decode() for key, value in (shard.schema.metadata or {}).items()}


def _digest(shard: pa.Table) -> str:
    """Hash of names and values, whatever the buffers behind them look like."""
    digest = hashlib.sha256()
    for name, column in zip(shard.column_names, shard.columns, strict=True):
        whole = column.combine_chunks()
        digest.update(f"{name} {len(whole)}\n".encode())
        digest.update(whole.is_null().to_numpy(zero_copy_only=False).tobytes())
        if pa.types.is_fixed_size_list(whole.type):
            whole = whole.flatten()
        if pa.types.is_string(whole.type):
            digest.update("\0".join(whole.fill_null("").to_pylist()).encode())
        else:
            digest.update(whole.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()


def _ends_well(file: Path) -> bool:
    """Whether a file has its two ends; a file that another runner has just moved away is nobody's damage."""
    try:
        with file.open("rb") as handle:
            start = handle.read(4)
            size = handle.seek(0, 2)
            if size < 12:
                return False
            handle.seek(-8, 2)
            tail = handle.read(8)
    except FileNotFoundError:
        return not file.is_symlink()
    except IsADirectoryError:
        return False
    return start == _MAGIC and tail[4:] == _MAGIC and int.from_bytes(tail[:4], "little") <= size - 12


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
