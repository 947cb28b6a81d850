"""Merges the files of finished shards into packs, so that no moment of it, a kill or a power cut, loses a shard.

A pack is written under a temporary name, flushed, named, and read again from the disk; only when every shard in it is
found as it was are the shards' own files removed. So each shard stands in a file, in a pack, or in both, at any time,
and readers take it once. The same command after a kill removes what a sound pack holds already, and goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from dlnjax.sweep.store import files, leases, manifest, packs, reading, shards

#: Bytes of tables in memory that are put into one pack, and shards.
SIZE, COUNT = 1 << 26, 20_000
#: Moments of a compaction, in order, at which a test may end it.
STAGES = ("begun", "collected", "published", "checked", "removing", "removed")
# Metadata that are about a shard's own file.
_OF_THE_FILE = ("values_sha256", "schema_version", "dlnjax_seal")

_Shard = tuple[str, pa.Table, dict[str, str]]


@dataclass
class Compacted:
    """What :func:`compact` did.

    Attributes:
      before, after: files that hold results.
      shards: shards merged now.
      damage: files left as they are, a line each.
    """

    before: int = 0
    after: int = 0
    shards: int = 0
    damage: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The account in words."""
        return [
            f"{self.shards} shards merged: {self.before} files of results became {self.after}",
            *self.damage,
        ]


def compact(out: Path | str, *, size: int = SIZE, count: int = COUNT) -> Compacted:
    """Merges the finished shards of a folder; also while runners work on it.

    Args:
      out: the sweep's folder.
      size, count: a pack is closed when it holds so many bytes of tables, or shards.

    Returns:
      What was merged, and what could not be.

    Raises:
      FileNotFoundError: no sweep there.
      ValueError: the manifest or a pack is damaged.
      OSError: the disk is full or the folder cannot be written; every shard is still there.
    """
    out = Path(out)
    partition = manifest.partition(manifest.existing(out))
    with leases.lock(out, leases.COMPACTION) as lock:
        _reached("begun")
        done = Compacted(before=_count(out))
        merged = packs.index(out).keys() & shards.loose(out)
        for file in sorted({packs.index(out)[name] for name in merged}):  # an earlier one was killed here
            _remove(out, reading.sound_pack(file, partition, ["cell"]).rows, lock)
        for bundle in _bundles(out, partition, done, size, count):
            _reached("collected")
            file = packs.publish(out, bundle, shards.versions())
            _reached("published")
            _compare(file, bundle, partition)
            _reached("checked")
            _remove(out, bundle.rows, lock)
            _reached("removed")
            done.shards += len(bundle.rows)
    done.after = _count(out)
    return done


def _bundles(
    out: Path, partition: manifest.Partition, done: Compacted, size: int, count: int
) -> Iterator[packs.Bundle]:
    """Sound shards in groups, each of one schema, with what is no sound shard put on record."""
    waiting: dict[pa.Schema, packs.Bundle] = defaultdict(packs.Bundle)

    def load(name: str) -> _Shard | str | None:
        file = shards.path(out, name)
        try:
            table, said, _ = files.load(file)
        except FileNotFoundError:
            return None  # another compaction was quicker
        except (ValueError, OSError) as error:
            return str(error)
        why = next(reading.strange(name, table["cell"].to_pylist(), said, partition), None)
        if why:
            return f"{file}: {why}; left as it is"
        return name, table, {key: value for key, value in said.items() if key not in _OF_THE_FILE}

    for loaded in files.in_threads(load, sorted(shards.loose(out))):
        if isinstance(loaded, tuple):
            bundle = waiting[loaded[1].schema]
            bundle.add(*loaded)
            if len(bundle.rows) >= count:
                yield waiting.pop(loaded[1].schema)
            elif sum(other.nbytes for other in waiting.values()) >= size:
                yield waiting.pop(max(waiting, key=lambda kind: waiting[kind].nbytes))
        elif loaded:
            done.damage.append(loaded)
    yield from (bundle for bundle in waiting.values() if len(bundle.rows) > 1)


def _compare(file: Path, bundle: packs.Bundle, partition: manifest.Partition) -> None:
    """Raises ValueError where a pack, read from the disk, does not hold what was put into it."""
    pack = reading.sound_pack(file, partition)
    lengths = {name: stop - start for name, (start, stop) in pack.rows.items()}
    if list(lengths.items()) != list(bundle.rows.items()) or not _same(pack.table, bundle.table()):
        raise ValueError(
            f"{file}: does not hold what was written; delete it (all shards have their own files)"
        )


def _same(one: pa.Table, other: pa.Table) -> bool:
    """Whether two tables hold the same values bit for bit, not-a-number among them."""
    if one.schema != other.schema or len(one) != len(other):
        return False
    return all(
        _bits(a.combine_chunks()) == _bits(b.combine_chunks())
        for a, b in zip(one.columns, other.columns, strict=True)
    )


def _bits(column: pa.Array) -> tuple[object, ...]:
    """Nulls and values of a column as bytes or a list."""
    nulls = column.is_null().to_numpy(zero_copy_only=False).tobytes()
    if pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return nulls, column.to_pylist()
    inner = column.is_null().to_numpy(zero_copy_only=False).tobytes()
    return nulls, inner, column.fill_null(0).to_numpy(zero_copy_only=False).tobytes()


def _remove(out: Path, names: Iterable[str], lock: leases.Runner) -> None:
    """Removes the own files of shards that a sound pack holds."""
    leases.keeps(lock, leases.COMPACTION)
    for name in names:
        shards.path(out, name).unlink(missing_ok=True)
        _reached("removing")


def _count(out: Path) -> int:
    return len(shards.loose(out)) + len(packs.of(out))


def _reached(stage: str) -> None:
    """Nothing; a test replaces it and ends the process at a stage."""
    assert stage in STAGES
