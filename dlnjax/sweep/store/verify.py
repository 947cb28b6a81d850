"""Looks at a sweep's folder from outside: is every promise of the store kept, and how far is it?

:func:`verify` reads every byte and names what is damaged; leftovers of dead runners are listed apart, they
are no damage. :func:`status` reads little, and may be called while the sweep runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from dlnjax.sweep import store
from dlnjax.sweep.store import (
    atomic,
    checkpoints,
    failures,
    files,
    leases,
    manifest,
    manifest_fields,
    packs,
    reading,
    schema,
    shards,
)

STATUSES = ("converged", "out_of_steps", "diverged", "failed")


@dataclass
class Verdict:
    """What :func:`verify` has seen.

    Attributes:
      shards, done, cells: shards the folder is to hold, sound ones it holds, and cells in those.
      damage: one line for every broken promise, with the file's name; empty if all is well.
      notes: what is no damage but worth knowing: shards by another version of the package.
      leftovers: files that dead runners left, or that runners are writing now; harmless.
    """

    shards: int = 0
    done: int = 0
    cells: int = 0
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.damage

    def lines(self) -> list[str]:
        """The verdict in words, one finding a line."""
        word = "sound" if self.sound else f"DAMAGED in {len(self.damage)} places"
        head = f"{word}: {self.done} of {self.shards} shards complete, {self.cells} cells, each exactly once"
        tail = [f"left behind (harmless): {len(self.leftovers)} files"] if self.leftovers else []
        return [
            head if self.sound else head.removesuffix(", each exactly once"),
            *self.damage,
            *self.notes,
            *tail,
        ]


@dataclass(frozen=True)
class Status:
    """How far a sweep is.

    Attributes:
      shards, done: shards the folder is to hold, and holds.
      cells: cells it is to hold; by_status: how many of the done ones ended how.
      running: shards that living runners have a lease on; runners: those.
      failed: shard -> why it could not be computed the last time.
      damage: why nothing else can be said: the manifest cannot be believed.
    """

    shards: int
    done: int
    cells: int
    by_status: dict[str, int]
    running: int
    runners: int
    failed: dict[str, str]
    damage: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The status in words."""
        if self.damage:
            return ["DAMAGED; how far it is cannot be said", *self.damage]
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
    verdict.damage += [*_dangling(out), *_small_damage(out)]
    try:
        content = _content(out)
    except (manifest.Damaged, OSError) as error:
        if isinstance(error, FileNotFoundError) and not store.done(out):
            raise
        verdict.damage.append(_line(out / manifest.NAME, error))
        return verdict
    partition = manifest.partition(content)
    verdict.shards = len(partition)
    verdict.leftovers = [str(path.relative_to(out)) for path in _leftovers(out)]
    if why := manifest_fields.config_damage(out / manifest.CONFIG, content):
        verdict.damage.append(why)
    seen: Counter[str] = Counter()
    kinds: set[pa.DataType] = set()
    versions: dict[str, str] = {}
    for looked in _looks(out, partition):
        verdict.damage += looked.damage
        fresh = looked.cells.keys() - versions.keys()
        seen.update(key for name in fresh for key in looked.cells[name])
        versions |= looked.versions
        kinds |= looked.kinds
        verdict.done += len(fresh)
    verdict.notes = reading.other_versions(out, content, versions)
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
    try:
        content = _content(Path(out))
    except (manifest.Damaged, OSError) as error:
        if isinstance(error, FileNotFoundError) and not store.done(out):
            raise
        return Status(0, 0, 0, {}, 0, 0, {}, damage=(_line(Path(out) / manifest.NAME, error),))
    done = store.done(out) & content["partition"].keys()
    counts: Counter[str] = Counter()
    for name in done:
        counts.update(_counts(Path(out), name))
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


def _content(out: Path) -> manifest.Manifest:
    """The manifest; where it is missing but shards are there, that is said."""
    try:
        return manifest.existing(out)
    except FileNotFoundError:
        if not store.done(out):
            raise
        raise manifest.Damaged(
            f"{out / manifest.NAME}: missing, but shards are there; the next run of the same command writes it"
        ) from None


def _counts(out: Path, name: str) -> Counter[str]:
    """Cells of a shard by status, from its end, or from its rows where that says nothing or the unknown."""
    with suppress(OSError):
        counts = store.counts(out, name)
        if counts is not None and counts.keys() <= set(STATUSES):
            return Counter(counts)
    try:
        return Counter(store.read_shard(out, name, ["status"])["status"].to_pylist())
    except (OSError, ValueError):
        return Counter(["unreadable"])


def _line(file: Path, error: Exception) -> str:
    """An error as a line that begins with the file's name."""
    said = str(error) or type(error).__name__
    return said if said.startswith(str(file)) else f"{file}: {said}"


@dataclass
class _Look:
    """What a file of results shows: damage, and of sound shards cells, versions, and types of the curves."""

    damage: list[str] = field(default_factory=list)
    cells: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    kinds: set[pa.DataType] = field(default_factory=set)


def _looks(out: Path, partition: manifest.Partition) -> Iterator[_Look]:
    """At every file of results; the shards' own before packs, into which they may be merged meanwhile."""
    loose = [shards.path(out, name) for name in sorted(shards.loose(out))]
    yield from files.in_threads(lambda file: _look_at_shard(file, partition), loose)
    yield from (_look_at_pack(file, partition) for file in packs.of(out))


def _look_at_shard(file: Path, partition: manifest.Partition) -> _Look:
    try:
        columns = ["cell", "status"] if files.is_sealed(file) else None  # what is not hashed is decoded
        content = files.load(file, columns)
    except FileNotFoundError:
        return _Look()
    except (ValueError, OSError) as error:
        return _Look([_line(file, error)])
    name = file.stem
    cells = content.table["cell"].to_pylist() if "cell" in content.table.column_names else []
    errors = [*reading.strange(name, cells, content.said, partition), *_shard_errors(content)]
    if errors:
        return _Look([f"{file}: {error}" for error in errors])
    return _Look([], {name: cells}, {name: content.said.get("dlnjax_version", "")}, _kinds(content.columns))


def _look_at_pack(file: Path, partition: manifest.Partition) -> _Look:
    try:
        pack = reading.sound_pack(file, partition, ["cell", "status"])
    except FileNotFoundError:
        return _Look()
    except (ValueError, OSError) as error:
        return _Look([_line(file, error)])
    if errors := list(_shard_errors(files.Content(pack.table, {}, pack.columns))):
        return _Look([f"{file}: {error}" for error in errors])
    keys = pack.table["cell"].to_pylist()
    cells = {name: keys[start:stop] for name, (start, stop) in pack.rows.items()}
    versions = {name: said.get("dlnjax_version", "") for name, said in pack.said.items()}
    return _Look([], cells, versions, _kinds(pack.columns))


def _kinds(columns: pa.Schema) -> set[pa.DataType]:
    return {columns.field("curve_step").type}


def _shard_errors(content: files.Content) -> Iterator[str]:
    missing = schema.missing(content.columns)
    if missing:
        yield f"columns missing: {', '.join(missing)}"
        return
    wrong = set(content.table["status"].to_pylist()) - set(STATUSES)
    if wrong:
        yield f"status {sorted(map(str, wrong))}; it is one of {', '.join(STATUSES)}"


def _small_damage(out: Path) -> Iterator[str]:
    """Checkpoints, notes of failures, leases and heartbeats that are not what was written."""
    yield from leases.damage(out)
    for file in sorted((out / checkpoints.FOLDER).glob("*.npz")):
        if checkpoints.damaged(file) and file.exists():  # a run may just have cleared it
            yield f"{file}: damaged; it counts as absent, and its shard starts over"
    for file in sorted((out / failures.FOLDER).glob("*.json")):
        if failures.damaged(file) and file.exists():
            yield f"{file}: damaged; the next run of the same command replaces it"


def _dangling(out: Path) -> Iterator[str]:
    """Links to nowhere; those in the place of a shard, the manifest or the config are named where these are read."""
    read = {out / manifest.NAME, out / manifest.CONFIG, *packs.of(out)}
    read |= {store.path(out, name) for name in store.loose(out)}
    for file in sorted(out.rglob("*")):
        if file.is_symlink() and not file.exists() and file not in read:
            yield f"{file}: a link to a file that is not there; delete it"


def _leftovers(out: Path) -> list[Path]:
    """Temporary and damaged files, leases and heartbeats of the dead, checkpoints of
    shards that are done, files of shards that a pack holds."""
    done = store.done(out)
    paths = set(atomic.leftovers(out))
    paths |= {path for folder in (store.SHARDS, packs.PACKS) for path in (out / folder).glob("*.damaged")}
    paths |= {store.path(out, name) for name in store.loose(out) & packs.index(out).keys()}
    paths |= {path for path in (out / "checkpoints").glob("*.npz") if path.stem in done}
    watch = leases.Runner(out)
    paths |= {watch.folder / f"{name}.beat" for name in leases.runners(out) if not watch.alive(name)}
    paths |= {path for path in watch.folder.glob("*.[0-9]*") if path.name.split(".")[0] in done}
    lock = leases.Runner(out, suffix=leases.LOCK_BEAT)
    paths |= {lock.folder / f"{name}{leases.LOCK_BEAT}" for name in lock.dead()}
    return sorted(paths)
