"""One sealed Parquet file: how it is encoded, and how it is opened so that no changed byte passes for a result.

The files of shards (:mod:`dlnjax.sweep.store.shards`) and of packs (:mod:`dlnjax.sweep.store.packs`) are such files.
Every byte is hashed before one is decoded; hashing and decoding release Python's lock, so that :func:`in_threads`
reads many small files on all cores.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from dlnjax.sweep.store import schema, seal

MAGIC = b"PAR1"
# Key of the hash of a file's values in the metadata of versions that put no seal on the file.
_DIGEST = "values_sha256"
DAMAGED = "{}: damaged ({}); delete it and run the same command again"
# Of fewer rows compression saves little, and costs most of the reading.
_FEW = 64
_END = 1 << 16  # bytes of a file's end that hold its metadata, usually
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Content(NamedTuple):
    """What a file holds: its table of the current schema version, its metadata, and the columns it was written with."""

    table: pa.Table
    said: dict[str, str]
    columns: pa.Schema


def encoded(table: pa.Table) -> bytes:
    """A table as a Parquet file with its seal; the table's metadata have the blank of one.

    Lists of floats, nearly all distinct, are stored byte by byte instead of through a dictionary: against the writer's
    defaults that is three times as fast and half the size (1024 cells, 128 records). Of few rows everything but the
    lists is stored plainly: that takes hardly more bytes, and is read twice as fast.
    """
    step = schema.CURVE_COLUMN["step"]
    lists = {f.name: f.type.value_type for f in table.schema if pa.types.is_fixed_size_list(f.type)}
    distinct = [name for name, kind in lists.items() if name != step and pa.types.is_floating(kind)]
    others = [name for name in table.column_names if name not in lists]
    few = len(table) < _FEW
    columns: Any = {
        "use_dictionary": [*([] if few else others), f"{step}.list.element"],
        "use_byte_stream_split": [f"{name}.list.element" for name in distinct],
        "compression": {
            **dict.fromkeys(others, "none" if few else "zstd"),
            **{f"{name}.list.element": "zstd" for name in lists},
        },
    }
    content = io.BytesIO()
    pq.write_table(table, content, write_page_checksum=True, **columns)
    return seal.sealed(content.getvalue())


def load(file: Path, columns: Sequence[str] | None = None, *, weights: bool = True) -> Content:
    """A file whose seal is right.

    Args:
      columns: those to decode, all if None; every byte is hashed whatever they are.
      weights: also columns of weights, where ``columns`` is None.

    Raises:
      ValueError: it is damaged, or written by a newer dlnjax. FileNotFoundError: it is not there.
    """
    with opened(file) as (parquet, said):
        written = parquet.schema_arrow
        if columns is None and not weights and any(name.startswith(schema.PARAMS) for name in written.names):
            columns = [name for name in written.names if not name.startswith(schema.PARAMS)]
        old = seal.KEY not in said and _DIGEST in said  # its values are checked as a whole, or not at all
        present = None if columns is None else [name for name in columns if name in written.names]
        table = parquet.read(columns=None if old else present, use_threads=False)
        if old and said[_DIGEST] != _digest(table):
            raise ValueError(DAMAGED.format(file, "its values are not those that were written"))
        if old and columns is not None:
            table = table.select([name for name in written.names if name in columns])
    return Content(schema.upgrade(table, file, columns), said, written)


@contextmanager
def opened(file: Path) -> Iterator[tuple[pq.ParquetFile, dict[str, str]]]:
    """A file whose seal is right, and its metadata; what goes wrong inside the block is damage too."""
    try:
        content = file.read_bytes()
        right = seal.is_right(content)
        if right is False:
            raise ValueError(DAMAGED.format(file, "a byte of it has changed"))
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=right is None) as parquet:
            yield parquet, decoded(parquet.schema_arrow.metadata)
    except FileNotFoundError:
        if not file.is_symlink():
            raise
        raise ValueError(DAMAGED.format(file, "a link to a file that is not there")) from None
    except (OSError, pa.ArrowException, UnicodeDecodeError, MemoryError, OverflowError, LookupError) as error:
        raise ValueError(DAMAGED.format(file, _first_line(error))) from None


def decoded(raw: Mapping[bytes, bytes] | None) -> dict[str, str]:
    """A file's metadata as text, without what Arrow adds."""
    return {k.decode(): v.decode() for k, v in (raw or {}).items() if not k.startswith(b"ARROW")}


def is_sealed(file: Path) -> bool:
    """Whether a file has a seal, right or not, from its last bytes; of one that is shorter, all of them."""
    try:
        with file.open("rb") as handle:
            handle.seek(max(0, handle.seek(0, 2) - _END))
            return seal.KEY.encode() in handle.read()
    except OSError:
        return False


def ends_well(file: Path) -> bool:
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
    return start == MAGIC and tail[4:] == MAGIC and int.from_bytes(tail[:4], "little") <= size - 12


def in_threads(one: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """``map`` on all cores, in order, with few results waiting."""
    count = min(8, os.cpu_count() or 1)
    items = iter(items)
    with ThreadPoolExecutor(count, "dlnjax-read") as pool:
        waiting = [pool.submit(one, item) for item in islice(items, 2 * count)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(one, item) for item in islice(items, 1)]


def _digest(table: pa.Table) -> str:
    """Hash of names and values, whatever the buffers behind them look like."""
    digest = hashlib.sha256()
    for name, column in zip(table.column_names, table.columns, strict=True):
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
