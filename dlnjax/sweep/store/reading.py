"""All results of a folder as one table, compared with its manifest on the way: no row twice, foreign or damaged.

A shard is believed if its file's seal is right, if its name is the hash of its cells' keys, and if the manifest has a
shard of that name with these cells. So a copy, a file of another study or one under another's name is named, not read.
Shards in packs are held to the same.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dlnjax.sweep import plan
from dlnjax.sweep.store import files, manifest, packs, shards


class Part(NamedTuple):
    """Rows of some shards, one shard behind the other: names, lengths, versions of dlnjax, and the table."""

    names: list[str]
    lengths: list[int]
    versions: list[str]
    table: pa.Table


def read(out: Path | str | Sequence[Path | str], columns: Sequence[str] | None = None) -> pa.Table:
    """All results so far, one row a cell, in the order of the manifest's cells.

    Without a manifest the shards are compared with their own names alone, and come in the order of these.

    Args:
      out: the sweep's folder; or several, whose results come one behind the other.
      columns: those to read, all but weights if None.

    Raises:
      FileNotFoundError: no results there.
      ValueError: a file is damaged, no shard of the manifest, or of a newer schema (it is named), or the folder holds
        a campaign; or two folders hold the same cell, or curves of different lengths.

    Warns:
      UserWarning: shards were written by another version of dlnjax than the manifest; they are named.
    """
    if not isinstance(out, (str, Path)):
        return _several([Path(folder) for folder in out], columns)
    out = Path(out)
    content = manifest.load(out)
    if not shards.done(out) and not packs.of(out):
        config = out / manifest.CONFIG  # load recognises a campaign's folder
        there = config if content is not None and config.exists() else None
        why = "no results" if there is None else "no results, only what a repository keeps of them"
        raise FileNotFoundError(f"{out}: {why}; start them with: dlnjax run {there or 'CONFIG'} --out {out}")
    partition = None if content is None else manifest.partition(content)
    wanted = (
        None if columns is None else list(dict.fromkeys([*columns, "cell", *(() if content else ["study"])]))
    )
    read_parts = list(parts(out, wanted, partition))
    if content is None:
        _one_study(out, [part.table for part in read_parts])
    elif lines := other_versions(out, content, _versions(read_parts)):
        warnings.warn("\n".join(lines), stacklevel=3)
    whole = pa.concat_tables([part.table for part in read_parts], promote_options="default")
    names = [name for part in read_parts for name in part.names]
    if content is not None:
        order = [place for name in names for place in content["partition"][name]]
    else:
        lengths = [length for part in read_parts for length in part.lengths]
        order = np.repeat(np.argsort(np.argsort(names)), lengths)
    del read_parts
    whole = whole.take(pa.array(np.argsort(order, kind="stable")))
    return whole if columns is None else whole.select(list(columns))


def parts(
    out: Path,
    columns: Sequence[str] | None,
    partition: manifest.Partition | None,
    names: Collection[str] | None = None,
) -> Iterator[Part]:
    """The rows of all shards, or of ``names``, each shard once: from its own file, else from its pack.

    Raises:
      ValueError: a file is damaged, or a shard is not one of ``partition``.
    """
    loose = sorted(shards.loose(out) if names is None else shards.loose(out) & set(names))
    seen: set[str] = set()

    def group(start: int) -> Part:
        some = loose[start : start + packs.TOGETHER]
        loaded = ((name, _loaded(out, name, columns, partition)) for name in some)
        return _joined([(name, one) for name, one in loaded if one is not None])

    for part in files.in_threads(group, range(0, len(loose), packs.TOGETHER)):
        seen.update(part.names)
        yield part
    vanished = set(loose) - seen  # into a pack, which is looked for after the files
    for file in packs.of(out):
        if names is not None and not packs.contents(file).rows.keys() & set(names) - seen:
            continue
        pack = sound_pack(file, partition, columns, weights=False)
        fresh = [name for name in pack.rows if name not in seen and (names is None or name in names)]
        seen.update(fresh)
        lengths = [stop - start for start, stop in (pack.rows[name] for name in fresh)]
        yield Part(fresh, lengths, [_version(pack.said[name]) for name in fresh], pack.only(fresh))
    if vanished - seen:
        raise FileNotFoundError(f"{shards.path(out, min(vanished - seen))}: removed while it was read")


def sound_pack(
    file: Path,
    partition: manifest.Partition | None,
    columns: Sequence[str] | None = None,
    *,
    weights: bool = True,
) -> packs.Pack:
    """A pack whose shards are all those of ``partition``; ``columns`` have ``cell`` among them.

    Raises:
      ValueError: it is damaged, or one of its shards is not what its name promises.
    """
    pack = packs.load(file, columns, weights=weights)
    cells = pack.table["cell"].to_pylist()
    for name, (start, stop) in pack.rows.items():
        if why := next(strange(name, cells[start:stop], pack.said[name], partition), None):
            raise ValueError(f"{file}: shard {name}: {why}; move it away and run the same command again")
    return pack


def _loaded(
    out: Path, name: str, columns: Sequence[str] | None, partition: manifest.Partition | None
) -> tuple[pa.Table, str] | None:
    """The table of a shard's own file, and its version; None if it was merged into a pack meanwhile."""
    file = shards.path(out, name)
    try:
        table, said, _ = files.load(file, columns, weights=False)
    except FileNotFoundError:
        return None
    cells = table["cell"].to_pylist() if "cell" in table.column_names else []
    if why := next(strange(name, cells, said, partition), None):
        raise ValueError(f"{file}: {why}; move it away and run the same command again")
    return table, _version(said)


def _joined(shards_read: Sequence[tuple[str, tuple[pa.Table, str]]]) -> Part:
    tables = [table for _, (table, _) in shards_read]
    names, versions = [name for name, _ in shards_read], [version for _, (_, version) in shards_read]
    return Part(names, list(map(len, tables)), versions, packs.joined(tables))


def strange(
    name: str, cells: Sequence[str], said: Mapping[str, str], partition: manifest.Partition | None
) -> Iterator[str]:
    """Why a shard is not the one that its name promises.

    Args:
      name: of the shard. cells: its cells' keys. said: its metadata.
      partition: the manifest's; None without one.
    """
    if partition is not None and name not in partition:
        yield "no shard of the manifest (a copy, or of another study)"
    elif partition is not None and [key[: manifest.DIGITS] for key in cells] != partition[name]:
        yield "its cells are not those of the manifest (another shard's file under this name)"
    if plan.shard_name(cells, said.get("numbers", "")) != name:
        yield "its name is not the hash of its cells"


def other_versions(out: Path, content: manifest.Manifest, versions: Mapping[str, str]) -> list[str]:
    """A line for each version, other than the manifest's, that shards were written by.

    Args:
      versions: shard -> version of dlnjax.
    """
    first = content["versions"]["dlnjax"]
    by_version: dict[str, list[str]] = defaultdict(list)
    for name, version in sorted(versions.items()):
        if version != first:
            by_version[version or "an unknown version"].append(name)
    return [
        f"{out}: begun with dlnjax {first}, but {len(names)} shards are by {version}: "
        + ", ".join(f"{name}.parquet" for name in names[:4])
        + (", ..." if len(names) > 4 else "")
        for version, names in by_version.items()
    ]


def _one_study(out: Path, tables: Sequence[pa.Table]) -> None:
    """Raises ValueError where, without a manifest, cells come twice or from several studies."""
    cells = Counter(key for table in tables for key in table["cell"].to_pylist())
    studies = {study for table in tables for study in table["study"].to_pylist()}
    if len(studies) > 1 or len(cells) < sum(cells.values()):
        what = f"of {len(studies)} studies" if len(studies) > 1 else "some of them twice"
        raise ValueError(f"{out}: no {manifest.NAME}, and cells {what}; run the same command again")


def _version(said: Mapping[str, str]) -> str:
    return said.get("dlnjax_version", "")


def _versions(some: Sequence[Part]) -> dict[str, str]:
    return {name: v for part in some for name, v in zip(part.names, part.versions, strict=True)}


def _several(folders: Sequence[Path], columns: Sequence[str] | None) -> pa.Table:
    """The results of several folders, one behind the other."""
    wanted = None if columns is None else list(dict.fromkeys([*columns, "cell"]))
    tables, seen = [], {}
    for folder in folders:
        table = read(folder, wanted)
        for key in table["cell"].to_pylist():
            if seen.setdefault(key, folder) is not folder:
                raise ValueError(
                    f"{folder}: cell {key} is in {seen[key]} too; read each result from one folder"
                )
        tables.append(table)
    if not tables:
        raise ValueError("no folders given; name at least one")
    try:
        whole = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        lines = ", ".join(map(str, folders))
        raise ValueError(
            f"{lines}: their columns differ ({error}); studies read as one share record.records"
        ) from None
    return whole if columns is None else whole.select(list(columns))
