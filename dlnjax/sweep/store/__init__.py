"""The folder of a sweep: its manifest, one immutable file per shard, leases, checkpoints and failures."""

from dlnjax.sweep.store.reading import read
from dlnjax.sweep.store.shards import (
    SHARDS,
    counts,
    done,
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
    "metadata",
    "metadata_of",
    "path",
    "read",
    "read_shard",
    "truncated",
    "write",
]
