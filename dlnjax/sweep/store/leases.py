"""Who works on what: runners on one folder take leases on shards, and take over those of a dead runner.

A lease is a file ``DIR/claims/<shard>.<turn>`` that names its runner, made exclusively; the highest turn
counts. Whoever finds the holder dead makes the next turn, which only one can. On the same machine a runner lives as
long as its process does (its number and its start tell), however slow or suspended it is. Elsewhere it is dead when its
heartbeat, a counter in ``DIR/claims/<runner>.beat``, has stood still for ``lease`` seconds **on the watcher's own
monotonic clock**: no clock is compared with another machine's, nor with a file's date, so clocks may jump. Leases on
shards only save work; that a cell is stored once rests on the store's links alone. The manifest's lock is a lease too
(:func:`lock`); its holder looks whether it still has it before it writes.
"""

from __future__ import annotations

import os
import platform
import random
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dlnjax.sweep.store import atomic, seal

#: Where leases live; the name is that of the first version, and of folders on disk.
FOLDER = "claims"
#: What the locks of the manifest and of the one that merges files are leases on.
LOCK, COMPACTION = "manifest", "compaction"
#: How heartbeats end of those who want a lock or want shards.
LOCK_BEAT, BEAT = ".lock-beat", ".beat"
# Turns beyond the last are no leases: nobody gets there one by one.
_LEASE = re.compile(r"([0-9a-f]{16}|manifest|compaction)\.(0|[1-9]\d{0,4})")
_LAST = 99_999
_NAME = re.compile(r"[0-9a-f]{12}")
_BEAT = re.compile(r".*\n\d* ?\d*\n\d+")
_PROCESS = re.compile(r"\d{1,10}( \d{1,20})?")


class LockLost(OSError):
    """Another runner took the lock meanwhile: this one was silent for too long."""


class Runner:
    """One process (with its workers) on the folder; a context manager that leaves no leases behind.

    Args:
      out: the sweep's folder.
      lease: seconds without a heartbeat after which others take a runner for dead.
      beat: seconds between heartbeats, well below ``lease``.
      suffix: how the names of its heartbeat, and of those it looks at, end.
    """

    def __init__(
        self, out: Path | str, *, lease: float = 30.0, beat: float | None = None, suffix: str = BEAT
    ):
        self.folder: Path = Path(out) / FOLDER
        self.name: str = f"{uuid.uuid4().hex[:12]}"
        self.lease: float = lease
        self.beat: float = lease / 6 if beat is None else beat
        self._suffix = suffix
        self._turns: dict[str, int] = {}
        self._seen: dict[str, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)

    def __enter__(self) -> Runner:
        self.folder.mkdir(exist_ok=True)  # its folder alone: a removed results folder stays removed
        self._write_beat(0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        for shard in list(self._turns):
            self.release(shard)
        _remove(self._beat_file(self.name))

    def acquire(self, shard: str) -> bool:
        """Whether the shard is now this runner's: it was free, or its holder is dead."""
        turn, holder = self._current(shard)
        if holder == self.name:
            return True
        if holder and self.alive(holder):
            return False
        if turn >= _LAST:  # no turn is left to make: the next look finds it free
            _remove(self._lease_file(shard, turn))
            return False
        file = self._lease_file(shard, turn + 1)
        if not atomic.create(file, seal.line(self.name), flush=False):
            return False
        if self._contested(shard):
            file.unlink(missing_ok=True)
            return False
        self._turns[shard] = turn + 1
        return True

    def holds(self, shard: str) -> bool:
        """Whether the lease is still this runner's."""
        return self._current(shard) == (self._turns.get(shard), self.name)

    def release(self, shard: str) -> None:
        """Gives the shard up: it is done, or this runner cannot do it."""
        own = self._turns.pop(shard, -1)
        for turn in sorted(
            self._leases(shard)
        ):  # the own one last: until then nobody takes a lower one for free
            if turn <= own:
                _remove(self._lease_file(shard, turn))

    def alive(self, runner: str) -> bool:
        """Whether that runner may still be working; one elsewhere is watched for ``lease`` seconds."""
        text = _read(self._beat_file(runner)) if _NAME.fullmatch(runner) else None
        if text is None:
            return False  # it left, or never began
        place, process, _ = [*text.split("\n"), "", ""][:3]
        sound = seal.is_right(text.encode()) is not False and _PROCESS.fullmatch(process)
        if sound and place == _place():
            if _started(process.split(" ")[0]) != process:
                return False
            if " " in process:  # the start is known: no other process has taken its number
                return True
        before, since = self._seen.get(runner, ("", 0.0))
        now = time.monotonic()
        if text != before or runner not in self._seen:
            self._seen[runner] = (text, now)
            return True
        return now - since < self.lease

    def alone(self) -> bool:
        """Whether no other runner lives on the folder, as far as can be seen at once."""
        return not any(self.alive(other) for other in self._others())

    def drop(self, done: set[str]) -> None:
        """Removes the leases on ``done`` shards that dead runners left."""
        for match in map(_LEASE.fullmatch, _names(self.folder)):
            if match and match[1] in done and match[1] not in self._turns:
                _remove(self.folder / match[0])

    def dead(self) -> list[str]:
        """Other runners that left the folder without a word, as far as can be seen by now."""
        return [other for other in self._others() if not self.alive(other)]

    def bury(self, runners: list[str]) -> None:
        """Removes the heartbeats of dead runners: nothing of theirs is left to be done."""
        for runner in runners:
            _remove(self._beat_file(runner))

    def _others(self) -> list[str]:
        return [name for name in _beating(self.folder, self._suffix) if name != self.name]

    def _contested(self, shard: str) -> bool:
        """Whether a living runner has a lease too: it came in while the leases of the dead were removed."""
        holders = {self._holder(shard, turn) for turn in self._leases(shard)} - {self.name, ""}
        return any(self.alive(holder) for holder in holders)

    def _current(self, shard: str) -> tuple[int, str]:
        """The highest turn and its runner; (-1, "") for a free shard."""
        turn = max(self._leases(shard), default=-1)
        return turn, self._holder(shard, turn) if turn >= 0 else ""

    def _leases(self, shard: str) -> list[int]:
        return [int(m[2]) for m in map(_LEASE.fullmatch, _names(self.folder)) if m and m[1] == shard]

    def _holder(self, shard: str, turn: int) -> str:
        return (_read(self._lease_file(shard, turn)) or "").split("\n")[0]

    def _keep_beating(self) -> None:
        count = 0
        while not self._stop.wait(self.beat):
            count += 1
            try:
                self._write_beat(count)
            except OSError:  # a full disk: the run itself reports it, others may take over meanwhile
                continue

    def _write_beat(self, count: int) -> None:
        process = _started(str(os.getpid()))
        text = seal.line(f"{_place()}\n{process}\n{count}")
        atomic.replace(self._beat_file(self.name), text, flush=False)

    def _beat_file(self, runner: str) -> Path:
        return self.folder / f"{runner}{self._suffix}"

    def _lease_file(self, shard: str, turn: int) -> Path:
        return self.folder / f"{shard}.{turn}"


@contextmanager
def lock(out: Path | str, name: str = LOCK) -> Iterator[Runner]:
    """A lock: one at a time is inside the block; call :func:`keeps` on the runner before writing.

    Args:
      out: the sweep's folder.
      name: ``LOCK`` for the manifest's, ``COMPACTION`` for that of the one that merges files.

    Raises:
      FileNotFoundError: the folder is gone.
    """
    with Runner(out, suffix=LOCK_BEAT) as runner:
        while not runner.acquire(name):
            time.sleep(random.uniform(0.01, 0.03))
        runner.bury(runner.dead())
        yield runner


def keeps(runner: Runner, name: str = LOCK) -> None:
    """Raises LockLost if the lock is another's by now."""
    if not runner.holds(name):
        raise LockLost(f"{runner.folder.parent}: another runner took the lock of the {name}; run it again")


def held(out: Path | str) -> set[str]:
    """Shards that some runner has a lease on, dead or alive."""
    return {
        m[1]
        for m in map(_LEASE.fullmatch, _names(Path(out) / FOLDER))
        if m and m[1] not in (LOCK, COMPACTION)
    }


def holder(out: Path | str, shard: str) -> str:
    """The runner that has the lease on a shard, dead or alive; "" for none."""
    folder = Path(out) / FOLDER
    turns = [int(m[2]) for m in map(_LEASE.fullmatch, _names(folder)) if m and m[1] == shard]
    return (_read(folder / f"{shard}.{max(turns)}") or "").split("\n")[0] if turns else ""


def runners(out: Path | str) -> list[str]:
    """Runners with a heartbeat in the folder, dead or alive."""
    return _beating(Path(out) / FOLDER, BEAT)


def damage(out: Path | str) -> Iterator[str]:
    """A line for every file among the leases that is not what a runner wrote; they block nobody."""
    folder = Path(out) / FOLDER
    for name in sorted(_names(folder)):
        file, stem = folder / name, name.partition(".")[0]
        beat = name in (stem + BEAT, stem + LOCK_BEAT) and stem.isalnum()
        if name.endswith(atomic.SUFFIX):
            continue
        if not beat and not _LEASE.fullmatch(name):
            yield f"{file}: no name of a lease or heartbeat; delete it"
        elif (text := _read(file)) is not None and not _is_sound(text, _BEAT if beat else _NAME):
            yield f"{file}: damaged; its runner writes it again, or delete it"


def _is_sound(text: str, form: re.Pattern[str]) -> bool:
    """Whether a small file is what was written: by its seal, or of a version without seals by its form."""
    right = seal.is_right(text.encode())
    return bool(form.fullmatch(text)) if right is None else right


def _remove(file: Path) -> None:
    with suppress(
        IsADirectoryError, PermissionError
    ):  # a folder of that name is no runner's: verify names it
        file.unlink(missing_ok=True)


def _beating(folder: Path, suffix: str) -> list[str]:
    return sorted(name.removesuffix(suffix) for name in _names(folder) if name.endswith(suffix))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(file: Path) -> str | None:
    """The text of a small file; None where there is none, "" where it cannot be read."""
    try:
        return file.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError:
        return ""


def _place() -> str:
    """This boot of this machine, and the space its process numbers live in."""
    parts = [platform.node(), _read(Path("/proc/sys/kernel/random/boot_id")) or ""]
    try:
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    except OSError:
        parts.append("")
    return " ".join(part.strip() for part in parts)


def _started(process: str) -> str:
    """``"<pid> <start tick>"`` of a running process, "" if it is gone; without /proc the pid alone."""
    if Path("/proc/self/stat").exists():
        text = _read(Path(f"/proc/{process}/stat"))
        fields = text.rpartition(")")[2].split() if text else []
        return f"{process} {fields[19]}" if fields and fields[0] not in "ZX" else ""
    try:
        os.kill(int(process), 0)
    except (OSError, ValueError):
        return ""
    return process
