"""All results of a folder as one table, compared with its manifest on the way: no row twice, foreign or damaged.

A shard is believed if its file's seal is right, if its name is the hash of its cells' keys, and if the manifest has a
shard of that name with these cells. So a copy, a file of another study or one under another's name is named, not read.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dlnjax.sweep import plan
from dlnjax.sweep.store import manifest, schema, shards


def read(out: Path | str, columns: Sequence[str] | None = None) -> pa.Table:
    """All results so far, one row a cell, in the order of the manifest's cells.

    Without a manifest the shards are compared with their own names alone, and come in the order of these.

    Args:
      out: the sweep's folder.
      columns: those to read, all but weights if None.

    Raises:
      FileNotFoundError: no results there.
      ValueError: a file is damaged, no shard of the manifest, or of a newer schema (it is named), or the folder holds
        a campaign.

    Warns:
      UserWarning: shards were written by another version of dlnjax than the manifest; they are named.
    """
    content = manifest.load(out)
    names = sorted(shards.done(out))
    if not names:
        config = Path(out) / manifest.CONFIG  # load recognises a campaign's folder
        there = config if content is not None and config.exists() else None
        why = "no results" if there is None else "no results, only what a repository keeps of them"
        raise FileNotFoundError(f"{out}: {why}; start them with: dlnjax run {there or 'CONFIG'} --out {out}")
    partition = None if content is None else manifest.partition(content)
    wanted = (
        None if columns is None else list(dict.fromkeys([*columns, "cell", *(() if content else ["study"])]))
    )
    tables, versions = [], {}
    for name in names:
        file = shards.path(out, name)
        shard, said = shards.read_with_metadata(file, wanted)
        if why := next(strange(name, shard, said, partition), None):
            raise ValueError(f"{file}: {why}; move it away and run the same command again")
        versions[name] = said.get("dlnjax_version", "")
        tables.append(_without_weights(shard))
    if content is None:
        _one_study(Path(out), tables)
    elif lines := other_versions(Path(out), content, versions):
        warnings.warn("\n".join(lines), stacklevel=3)
    whole = pa.concat_tables(tables, promote_options="default")
    if content is not None:
        places = [place for name in names for place in content["partition"][name]]
        whole = whole.take(pa.array(np.argsort(places)))
    return whole if columns is None else whole.select(list(columns))


def strange(
    name: str, shard: pa.Table, said: Mapping[str, str], partition: manifest.Partition | None
) -> Iterator[str]:
    """Why a shard's file is not the one that its name promises.

    Args:
      name: of the file. shard: its table, with the column ``cell``. said: its metadata.
      partition: the manifest's; None without one.
    """
    cells = shard["cell"].to_pylist() if "cell" in shard.column_names else []
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


def _without_weights(shard: pa.Table) -> pa.Table:
    return shard.select([name for name in shard.column_names if not name.startswith(schema.PARAMS)])
