"""Packs: many finished shards in one file, because a file system is slow with many small ones.

``DIR/packs/<name>.parquet`` holds the rows of its shards one shard behind the other; which rows are whose, and what
each shard's file said about itself, is in the metadata. It is sealed as a shard's file is, never changes, and its name
is the hash of its shards' names. :mod:`dlnjax.sweep.store.compaction` makes packs. A shard may stand in a pack and in a
file of its own for a while, or in two packs: whoever reads takes one of them, its own file first.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from dlnjax.sweep import plan
from dlnjax.sweep.store import atomic, files, seal

#: Folder of the packs inside a sweep's folder.
PACKS = "packs"
# Key of the shards of a pack in its metadata.
_PACKED = "packed"
#: Small tables that are joined at a time: one costs some 80 kB in memory besides its rows.
TOGETHER = 64
_FILE = re.compile(r"[0-9a-f]{16}\.parquet")


class Contents(NamedTuple):
    """The shards of a pack: first row and the row behind the last, and metadata, by name in the order of the rows."""

    rows: dict[str, tuple[int, int]]
    said: dict[str, dict[str, str]]


class Pack(NamedTuple):
    """A pack whose seal is right: its table, and its :class:`Contents`."""

    table: pa.Table
    rows: dict[str, tuple[int, int]]
    said: dict[str, dict[str, str]]
    columns: pa.Schema

    def shard(self, name: str) -> pa.Table:
        """The rows of a shard."""
        start, stop = self.rows[name]
        return self.table.slice(start, stop - start)

    def only(self, names: Iterable[str]) -> pa.Table:
        """The rows of some of its shards, in their order."""
        names = list(names)
        if names == list(self.rows):
            return self.table
        return pa.concat_tables([self.table.slice(0, 0), *(self.shard(name) for name in names)])


def of(out: Path | str) -> list[Path]:
    """The packs of a sweep's folder."""
    folder = Path(out) / PACKS
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names) if _FILE.fullmatch(name)]


def index(out: Path | str) -> Mapping[str, Path]:
    """shard -> the pack that holds it, from the ends of the files alone; of one that is damaged nothing is believed."""
    return _index(tuple(_known(file) for file in of(out)))


def contents(file: Path) -> Contents:
    """What a pack holds, from its end alone; only :func:`load` hashes it.

    Raises:
      ValueError: it is damaged.
    """
    return _contents(*_known(file))


def load(file: Path, columns: Sequence[str] | None = None, *, weights: bool = True) -> Pack:
    """A pack; every byte is checked (arguments and errors: :func:`files.load`)."""
    table, said, written = files.load(file, columns, weights=weights)
    rows, each = _decoded(file, said, len(table))
    if plan.shard_name(rows) != file.stem:
        raise ValueError(
            f"{file}: its name is not the hash of its shards (a copy); move it away and run the same command again"
        )
    return Pack(table, rows, each, written)


class Bundle:
    """Shards on the way into a pack: tables of one schema, joined as they come, for a small one costs much memory."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.said: dict[str, dict[str, str]] = {}
        self.nbytes: int = 0
        self._tables: list[pa.Table] = []
        self._joined: list[pa.Table] = []

    def add(self, name: str, table: pa.Table, said: Mapping[str, str]) -> None:
        """Puts a shard behind the others."""
        self.rows[name], self.said[name] = len(table), dict(said)
        self.nbytes += table.nbytes
        self._tables.append(table)
        if len(self._tables) >= TOGETHER:
            self._joined.append(joined(self._tables))
            self._tables = []

    def table(self) -> pa.Table:
        """All rows."""
        return joined([*self._joined, *self._tables])


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables one behind the other, as one piece."""
    return pa.concat_tables(tables, promote_options="default").combine_chunks() if tables else pa.table({})


def publish(out: Path | str, bundle: Bundle, said: Mapping[str, str]) -> Path:
    """Writes a pack, whole or not at all.

    Args:
      out: the sweep's folder.
      bundle: its shards.
      said: metadata of the file itself (versions).
    """
    common = dict(set.intersection(*(set(each.items()) for each in bundle.said.values())))
    own = {name: {k: v for k, v in each.items() if k not in common} for name, each in bundle.said.items()}
    packed = json.dumps({"rows": bundle.rows, "common": common, "own": own})
    table = bundle.table().replace_schema_metadata({**said, _PACKED: packed, seal.KEY: seal.BLANK})
    file = Path(out) / PACKS / f"{plan.shard_name(bundle.rows)}.parquet"
    file.parent.mkdir(exist_ok=True)
    content = files.encoded(table)
    atomic.publish(file, lambda temporary: _write(temporary, content))
    return file


def _write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


def _known(file: Path) -> tuple[Path, tuple[int, ...]]:
    """A file and what changes whenever its content does, to remember its content by."""
    try:
        state = os.stat(file)
    except OSError:
        return file, ()
    return file, (state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=8)
def _index(known: tuple[tuple[Path, tuple[int, ...]], ...]) -> Mapping[str, Path]:
    places: dict[str, Path] = {}
    for file, state in known:
        try:
            rows = _contents(file, state).rows
        except (ValueError, OSError):
            continue
        for name in rows:
            places.setdefault(name, file)
    return places


@lru_cache(maxsize=1024)
def _contents(file: Path, state: tuple[int, ...]) -> Contents:
    try:
        end = pq.read_metadata(file)
        return _decoded(file, files.decoded(end.metadata), end.num_rows)
    except (pa.ArrowException, UnicodeDecodeError, MemoryError, OverflowError, LookupError) as error:
        raise ValueError(files.DAMAGED.format(file, type(error).__name__)) from None


def _decoded(file: Path, said: Mapping[str, str], length: int) -> Contents:
    try:
        packed = json.loads(said[_PACKED])
        ends = [0, *accumulate(map(int, packed["rows"].values()))]
        rows = dict(zip(packed["rows"], pairwise(ends), strict=True))
        each = {name: {**packed["common"], **packed["own"][name]} for name in rows}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise ValueError(files.DAMAGED.format(file, "it does not say which shards it holds")) from None
    if ends[-1] != length or sorted(ends) != ends:
        raise ValueError(files.DAMAGED.format(file, f"{length} rows, of {ends[-1]}"))
    return Contents(rows, each)
