"""What the results say of the whole sweep, for its manifest: the step scales used and the data's rank.

Both are only known once cells have run (scales come from a teacher, a best solution or a start; the rank from
the data), so they are added at the end. Whoever computes a shard reports its part; files are read again only
for shards of which nobody reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pyarrow as pa

from dlnjax.sweep import store
from dlnjax.sweep.store import manifest, reading

_SCALE_KEYS = ("step_rule", "data", "width", "depth", "scale_middle", "scale_last")
_COLUMNS = (*_SCALE_KEYS, "rank")

#: A row of a shard, or an entry of the manifest: values by column.
Row: TypeAlias = Mapping[str, str | int | float | None]


class Results(NamedTuple):
    """What cells say of the whole sweep.

    Attributes:
      scales: one entry a step rule, data, width and depth: the multipliers of the step size (the first layer's is 1).
      rank: numerical rank of the inputs (of the target, for a teacher) by treatment of the data.
    """

    scales: list[dict[str, str | int | float | None]]
    rank: dict[str, int]


def results(shard: pa.Table) -> Results:
    """What the cells of a shard's table say."""
    columns = shard.select(_COLUMNS)  # of a shard's thousand rows usually one differs, or few
    rows = columns.group_by(columns.column_names, use_threads=False).aggregate([]).to_pylist()
    return Results(scales(rows), ranks(rows))


def annotate(out: Path | str, reported: Mapping[str, Results], *, everything: bool) -> None:
    """Adds ``scales`` and ``rank`` to the folder's manifest.

    Args:
      out: the sweep's folder.
      reported: shard -> what its cells say, of the shards that a run has just computed.
      everything: read the files of all other shards as well: an earlier run ended before it could do this.
    """
    others: set[str] = set()
    if everything:  # a file that is no shard of the manifest is nobody's result: reading the folder names it
        others = store.done(out) & manifest.existing(out)["partition"].keys() - reported.keys()
    read = {min(part.names): results(part.table) for part in _parts(Path(out), others)}
    ordered = [part for _, part in sorted({**reported, **read}.items())]
    if ordered:
        together = {
            "scales": scales(entry for part in ordered for entry in part.scales),
            "rank": {data: rank for part in ordered for data, rank in part.rank.items()},
        }
        manifest.annotate(out, together)


def _parts(out: Path, names: set[str]) -> list[reading.Part]:
    """The shards' rows, of the columns that say something of the sweep."""
    partition = manifest.partition(manifest.existing(out)) if names else None
    return [part for part in reading.parts(out, (*_COLUMNS, "cell"), partition, names) if part.names]


def is_partial(content: manifest.Manifest) -> bool:
    """Whether a manifest may lack what finished shards say: there is nothing yet, or the sweep was extended since."""
    return "scales" not in content or len(manifest.generations(content)) > 1


def scales(rows: Iterable[Row]) -> list[dict[str, str | int | float | None]]:
    """The distinct multipliers of the step size, to ten digits: seeds share them but for rounding."""

    def entry(row: Row) -> tuple[str | int | float | None, ...]:
        return tuple(float(f"{row[k]:.10g}") if k.startswith("scale") else row[k] for k in _SCALE_KEYS)

    entries = dict.fromkeys(entry(row) for row in rows if row["scale_last"] is not None)
    return [dict(zip(_SCALE_KEYS, values, strict=True)) for values in entries]


def ranks(rows: Iterable[Row]) -> dict[str, int]:
    """The rank by treatment of the data."""
    return {str(row["data"]): int(row["rank"]) for row in rows if row["rank"] is not None}
