"""Looks at a sweep's folder from outside: is every promise of the store kept, and how far is it?

:func:`verify` reads every byte and names what is damaged; leftovers of dead runners are listed apart, they
are no damage. :func:`status` reads little, and may be called while the sweep runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dlnjax.sweep import plan, store
from dlnjax.sweep.store import atomic, failures, leases, manifest, schema

STATUSES = ("converged", "out_of_steps", "diverged", "failed")


@dataclass
class Verdict:
    """What :func:`verify` has seen.

    Attributes:
      shards, done, cells: shards the folder is to hold, sound ones it holds, and cells in those.
      damage: one line for every broken promise, with the file's name; empty if all is well.
      leftovers: files that dead runners left, or that runners are writing now; harmless.
    """

    shards: int = 0
    done: int = 0
    cells: int = 0
    damage: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.damage

    def lines(self) -> list[str]:
        """The verdict in words, one finding a line."""
        word = "sound" if self.sound else f"DAMAGED in {len(self.damage)} places"
        head = f"{word}: {self.done} of {self.shards} shards complete, {self.cells} cells, each exactly once"
        tail = [f"left behind (harmless): {len(self.leftovers)} files"] if self.leftovers else []
        return [head if self.sound else head.removesuffix(", each exactly once"), *self.damage, *tail]


@dataclass(frozen=True)
class Status:
    """How far a sweep is.

    Attributes:
      shards, done: shards the folder is to hold, and holds.
      cells: cells it is to hold; by_status: how many of the done ones ended how.
      running: shards that living runners have a lease on; runners: those.
      failed: shard -> why it could not be computed the last time.
    """

    shards: int
    done: int
    cells: int
    by_status: dict[str, int]
    running: int
    runners: int
    failed: dict[str, str]

    def lines(self) -> list[str]:
        """The status in words."""
        counts = ", ".join(f"{n} {name}" for name, n in self.by_status.items() if n) or "none"
        now = f"; {self.running} running at {self.runners} runners" if self.runners else ""
        head = f"{self.done} of {self.shards} shards complete{now}"
        counted = sum(self.by_status.values())
        return [head, f"{counted} of {self.cells} cells: {counts}"] + [
            f"shard {name} failed: {reason}" for name, reason in self.failed.items()
        ]


def verify(out: Path | str) -> Verdict:
    """Checks every file of the folder.

    Raises:
      FileNotFoundError: no sweep there.
    """
    out = Path(out)
    verdict = Verdict()
    content = manifest.existing(out)
    partition = manifest.partition(content)
    verdict.shards = len(partition)
    verdict.leftovers = [str(path.relative_to(out)) for path in _leftovers(out, partition)]
    if not (out / manifest.CONFIG).exists():
        verdict.damage.append(f"{out / manifest.CONFIG}: missing; the next run of the same command writes it")
    verdict.damage += _partition_errors(out, content)
    seen: Counter[str] = Counter()
    kinds: set[pa.DataType] = set()
    for name in sorted(store.done(out)):
        try:
            shard = store.read_shard(out, name)
        except ValueError as error:
            verdict.damage.append(str(error))
            continue
        errors = list(_shard_errors(out, name, shard, partition.get(name)))
        verdict.damage += [f"{store.path(out, name)}: {error}" for error in errors]
        if not errors:
            seen.update(shard["cell"].to_pylist())
            kinds.add(shard.schema.field("curve_step").type)
            verdict.done += 1
    verdict.cells = len(seen)
    verdict.damage += [f"{out}: cell {key} is there {n} times" for key, n in seen.items() if n > 1]
    if len(kinds) > 1:
        verdict.damage.append(f"{out}: curves of {len(kinds)} lengths; one config gives one")
    return verdict


def status(out: Path | str) -> Status:
    """How far the sweep is; reads the end of each shard's file, or its statuses where the end has no counts.

    Raises:
      FileNotFoundError: no sweep there.
    """
    content = manifest.existing(out)
    done = store.done(out) & content["partition"].keys()
    counts: Counter[str] = Counter()
    for name in done:
        counts.update(store.counts(out, name) or _statuses(store.path(out, name)))
    watch = leases.Runner(out)
    runners = [runner for runner in leases.runners(out) if watch.alive(runner)]
    return Status(
        shards=len(content["partition"]),
        done=len(done),
        cells=len(content["cells"]),
        by_status={name: counts[name] for name in (*STATUSES, "unreadable")},
        running=len(leases.held(out) - done) if runners else 0,
        runners=len(runners),
        failed={name: why for name, why in failures.read(out).items() if name not in done},
    )


def _statuses(file: Path) -> list[str]:
    try:
        with pq.ParquetFile(file) as opened:
            return opened.read(columns=["status"])["status"].to_pylist()
    except (OSError, pa.ArrowException):
        return ["unreadable"]


def _partition_errors(out: Path, content: manifest.Manifest) -> Iterator[str]:
    """Every cell of the manifest in exactly one shard."""
    places = Counter(place for at in content["partition"].values() for place in at)
    wrong = [key for i, key in enumerate(content["cells"]) if places.pop(i, 0) != 1]
    if wrong or places:
        yield f"{out / manifest.NAME}: {len(wrong) + len(places)} cells are not in exactly one shard"
    if len(set(content["cells"])) != len(content["cells"]):
        yield f"{out / manifest.NAME}: a cell is named twice"


def _shard_errors(out: Path, name: str, shard: pa.Table, keys: list[str] | None) -> Iterator[str]:
    cells = shard["cell"].to_pylist() if "cell" in shard.column_names else []
    numbers = store.metadata(out, name).get("numbers", "")
    if keys is None:
        yield "no shard of the manifest"
    elif [key[: manifest.DIGITS] for key in cells] != keys:
        yield "its cells are not those of the manifest"
    if plan.shard_name(cells, numbers) != name:
        yield "its name is not the hash of its cells"
    missing = [column for column in schema.arrow_schema(1).names if column not in shard.column_names]
    if missing:
        yield f"columns missing: {', '.join(missing)}"
        return
    wrong = set(shard["status"].to_pylist()) - set(STATUSES)
    if wrong:
        yield f"status {sorted(wrong)}; it is one of {', '.join(STATUSES)}"


def _leftovers(out: Path, partition: manifest.Partition) -> list[Path]:
    """Temporary and damaged files, leases and heartbeats of the dead, checkpoints of shards that are done."""
    done = store.done(out)
    files = set(atomic.leftovers(out)) | set((out / store.SHARDS).glob("*.damaged"))
    files |= {path for path in (out / "checkpoints").glob("*.npz") if path.stem in done}
    watch = leases.Runner(out)
    files |= {watch.folder / f"{name}.beat" for name in leases.runners(out) if not watch.alive(name)}
    files |= {path for path in watch.folder.glob("*.[0-9]*") if path.name.split(".")[0] in done}
    return sorted(files)
