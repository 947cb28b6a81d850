"""What the results say of the whole sweep, told in its manifest: the step scales used and the data's rank.

Both are only known once cells have run (scales come from a teacher, a best solution or a start; the rank from
the data), so they are added at the end.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa

from dlnjax.sweep import store
from dlnjax.sweep.store import manifest

_SCALE_KEYS = ("step_rule", "data", "width", "depth", "scale_middle", "scale_last")


def annotate(out: Path | str, ran: Collection[str]) -> None:
    """Adds ``scales`` (one entry a step rule, data, width and depth; the first layer's is 1) and ``rank``.

    Args:
      out: the sweep's folder.
      ran: the shards that a run has just computed. All others are read too where the manifest says nothing
        yet, or was extended: an earlier run may have been killed before it could.
    """
    found = manifest.load(out)
    if found is None:
        return
    told = "scales" in found and len(manifest.generations(found)) == 1
    names = store.done(out).intersection(ran) if told else store.done(out)
    columns = [*_SCALE_KEYS, "rank"]
    rows = [row for name in sorted(names) for row in _distinct(store.read_shard(out, name, columns))]
    if rows:
        manifest.annotate(out, {"scales": scales(rows), "rank": ranks(rows)})


def _distinct(shard: pa.Table) -> list[dict[str, Any]]:
    """The rows that differ: of a shard's thousand usually one, or few."""
    return shard.group_by(shard.column_names, use_threads=False).aggregate([]).to_pylist()


def scales(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The distinct multipliers of the step size, to ten digits: seeds share them but for rounding."""

    def entry(row: dict[str, Any]) -> tuple:
        return tuple(float(f"{row[k]:.10g}") if k.startswith("scale") else row[k] for k in _SCALE_KEYS)

    found = dict.fromkeys(entry(row) for row in rows if row["scale_last"] is not None)
    return [dict(zip(_SCALE_KEYS, values, strict=True)) for values in found]


def ranks(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Numerical rank of the inputs (of the target, for a teacher) by treatment of the data."""
    return {row["data"]: row["rank"] for row in rows if row["rank"] is not None}
