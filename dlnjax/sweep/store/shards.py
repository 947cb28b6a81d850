"""The results of a sweep: one immutable Parquet file a shard, one row a cell, every cell exactly once.

``DIR/shards/<name>.parquet`` holds a shard; the name is a hash of its cells and of what changes their
numbers, so that a file is either the right one or another one. Files come into being whole
(:mod:`dlnjax.sweep.store.atomic`), sealed (:mod:`dlnjax.sweep.store.seal`), and never change. Finished shards may be
merged into packs (:mod:`dlnjax.sweep.store.packs`); "done" is that a shard has a file or stands in a pack. Which shards
a folder is to hold is fixed by its manifest (:mod:`dlnjax.sweep.store.manifest`).

Rows carry the cell's coordinates, its status with the reason, scalars, and four curves as lists of one
fixed length. Units are in each field's metadata, versions in the file's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from dlnjax.sweep.store import atomic, files, packs, provenance, schema, seal

#: Folder of the shards inside a sweep's folder.
SHARDS = "shards"
_NAME = re.compile(r"[0-9a-f]{16}")
# Key of the numbers of cells by status, written so that they can be found in the bytes of a file's end.
COUNTS = "status_counts"
_COUNTED = re.compile(rb"status_counts.{1,4}?<((?:[a-z_]+=\d+;)*)>", re.DOTALL)
_END = 1 << 16  # bytes of a file's end that hold its metadata, usually


def path(out: Path | str, name: str) -> Path:
    """Where the file of the shard ``name`` is, or was before it was merged into a pack."""
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
    if name in packs.index(out):
        return False
    final.parent.mkdir(exist_ok=True)  # the shards' folder alone: a removed results folder stays removed
    added = {**versions(), COUNTS: _counts(shard), seal.KEY: seal.BLANK}
    whole = shard.replace_schema_metadata({**metadata_of(shard), **added})
    return atomic.publish(final, lambda temporary: _write(whole, temporary))


def loose(out: Path | str) -> set[str]:
    """Names of the shards with a file of their own; reads the folder only."""
    folder = Path(out) / SHARDS
    if not folder.is_dir():
        return set()
    names = (entry.name.removesuffix(".parquet") for entry in folder.iterdir() if entry.suffix == ".parquet")
    return {name for name in names if _NAME.fullmatch(name)}


def done(out: Path | str) -> set[str]:
    """Names of the shards in the store; reads the folder and the ends of packs.

    Files first: a shard that is merged in between has its pack before it loses its file.
    """
    return loose(out) | packs.index(out).keys()


def is_done(out: Path | str, name: str) -> bool:
    """Whether the shard is in the store."""
    return path(out, name).exists() or name in packs.index(out)


def truncated(out: Path | str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` whose own file is cut short: a quick look at its two ends, not its content."""
    return [name for name in names if not files.ends_well(path(out, name))]


def read_shard(out: Path | str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One shard, of the current schema version; every byte of its file is checked, whatever the columns.

    Raises:
      ValueError: the file is damaged, or written by a newer dlnjax.
    """
    try:
        return files.load(path(out, name), columns).table
    except FileNotFoundError:
        pack = packs.index(out).get(name)
        if pack is None:
            raise
        return packs.load(pack, columns).shard(name)


def metadata(out: Path | str, name: str) -> dict[str, str]:
    """What a shard's file says about itself: versions, device, seconds; every byte is checked, no row made.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        with files.opened(path(out, name)) as (_, said):
            return said
    except FileNotFoundError:
        pack = packs.index(out).get(name)
        if pack is None:
            raise
        return packs.load(pack, ["cell"]).said[name]


def counts(out: Path | str, name: str) -> dict[str, int] | None:
    """Cells of a shard by status, from the last bytes of its file, parsing nothing: some 20 us a file.

    None where they do not stand there: a damaged file, or one of a version that did not write them.
    """
    try:
        with path(out, name).open("rb") as handle:
            handle.seek(max(0, handle.seek(0, 2) - _END))
            end = handle.read()
    except FileNotFoundError:
        pack = packs.index(out).get(name)
        if pack is None:
            raise
        end = f"{COUNTS} {packs.contents(pack).said[name].get(COUNTS, '')}".encode() + files.MAGIC
    match = _COUNTED.search(end) if end[-4:] == files.MAGIC else None
    if match is None:
        return None
    pairs = (entry.split("=") for entry in match[1].decode().split(";") if entry)
    return {status: int(number[:15]) for status, number in pairs}


def versions() -> dict[str, str]:
    """What every file says of the versions that wrote it."""
    return {
        "schema_version": str(schema.SCHEMA_VERSION),
        **{f"{k}_version": v for k, v in provenance.versions().items()},
    }


def metadata_of(shard: pa.Table) -> dict[str, str]:
    """What a shard's table says about itself, in memory: device, seconds, and once read all of :func:`metadata`."""
    return {key.decode(): value.decode() for key, value in (shard.schema.metadata or {}).items()}


def _counts(shard: pa.Table) -> str:
    counts = Counter(shard["status"].to_pylist())
    return "<" + "".join(f"{status}={number};" for status, number in sorted(counts.items())) + ">"


def _write(shard: pa.Table, file: Path) -> None:
    file.write_bytes(files.encoded(shard))
