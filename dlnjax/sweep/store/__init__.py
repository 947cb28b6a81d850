"""The folder of a sweep: its manifest, immutable files of shards and packs, leases, checkpoints and failures."""

from dlnjax.sweep.store.reading import read
from dlnjax.sweep.store.shards import (
    SHARDS,
    counts,
    done,
    is_done,
    loose,
    metadata,
    metadata_of,
    path,
    read_shard,
    truncated,
    write,
)

__all__ = [
    "SHARDS",
    "counts",
    "done",
    "is_done",
    "loose",
    "metadata",
    "metadata_of",
    "path",
    "read",
    "read_shard",
    "truncated",
    "write",
]
