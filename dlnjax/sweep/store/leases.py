"""Who works on what: runners on one folder take leases on shards, and take over those of a dead runner.

A lease is a file ``DIR/claims/<shard>.<turn>`` that names its runner, made exclusively; the highest turn
counts. Whoever finds the holder dead makes the next turn, which only one can. A runner is dead when its
process is gone (same machine) or when its heartbeat, a counter in ``DIR/claims/<runner>.beat``, has stood
still for ``lease`` seconds **on the watcher's own monotonic clock**: no clock is compared with another
machine's, nor with a file's date, so clocks may jump. Leases only save work; that a cell is stored once
rests on the store's links alone.
"""

from __future__ import annotations

import os
import platform
import re
import threading
import time
import uuid
from pathlib import Path

from dlnjax.sweep.store import atomic

#: Where leases live; the name is that of the first version, and of folders on disk.
FOLDER = "claims"
_LEASE = re.compile(r"([0-9a-f]{16})\.(\d+)")


class Runner:
    """One process (with its workers) on the folder; a context manager that leaves no leases behind.

    Args:
      out: the sweep's folder.
      lease: seconds without a heartbeat after which others take a runner for dead.
      beat: seconds between heartbeats, well below ``lease``.
    """

    def __init__(self, out: Path | str, *, lease: float = 30.0, beat: float | None = None):
        self.folder: Path = Path(out) / FOLDER
        self.name: str = f"{uuid.uuid4().hex[:12]}"
        self.lease = lease
        self._beat = lease / 6 if beat is None else beat
        self._turns: dict[str, int] = {}
        self._seen: dict[str, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)

    def __enter__(self) -> Runner:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_beat(0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
        for shard in list(self._turns):
            self.release(shard)
        self._beat_file(self.name).unlink(missing_ok=True)

    def acquire(self, shard: str) -> bool:
        """Whether the shard is now this runner's: it was free, or its holder is dead."""
        turn, holder = self._current(shard)
        if holder == self.name:
            return True
        if holder and self.alive(holder):
            return False
        if not atomic.create(self._lease_file(shard, turn + 1), self.name, flush=False):
            return False
        self._turns[shard] = turn + 1
        return True

    def release(self, shard: str) -> None:
        """Gives the shard up: it is done, or this runner cannot do it."""
        for turn in range(self._turns.pop(shard, -1), -1, -1):
            self._lease_file(shard, turn).unlink(missing_ok=True)

    def alive(self, runner: str) -> bool:
        """Whether that runner may still be working; one elsewhere is watched for ``lease`` seconds."""
        text = _read(self._beat_file(runner))
        if text is None:
            return False  # it left, or never began
        place, process, _ = [*text.split("\n"), "", ""][:3]
        if place == _place() and _started(process.split(" ")[0]) != process:
            return False
        before, since = self._seen.get(runner, ("", 0.0))
        now = time.monotonic()
        if text != before:
            self._seen[runner] = (text, now)
            return True
        return now - since < self.lease

    def alone(self) -> bool:
        """Whether no other runner lives on the folder, as far as can be told at once."""
        others = (file.stem for file in self.folder.glob("*.beat") if file.stem != self.name)
        return not any(self.alive(other) for other in others)

    def drop(self, done: set[str]) -> None:
        """Removes the leases on ``done`` shards that dead runners left."""
        for match in map(_LEASE.fullmatch, _names(self.folder)):
            if match and match[1] in done and match[1] not in self._turns:
                (self.folder / match[0]).unlink(missing_ok=True)

    def dead(self) -> list[str]:
        """Other runners that left the folder without a word, as far as can be seen by now."""
        others = (file.stem for file in self.folder.glob("*.beat") if file.stem != self.name)
        return [other for other in others if not self.alive(other)]

    def bury(self, runners: list[str]) -> None:
        """Removes the heartbeats of dead runners: nothing of theirs is left to be done."""
        for runner in runners:
            self._beat_file(runner).unlink(missing_ok=True)

    def _current(self, shard: str) -> tuple[int, str]:
        """The highest turn and its runner; (-1, "") for a free shard."""
        turns = [int(m[2]) for m in map(_LEASE.fullmatch, _names(self.folder)) if m and m[1] == shard]
        turn = max(turns, default=-1)
        return turn, (_read(self._lease_file(shard, turn)) or "") if turn >= 0 else ""

    def _keep_beating(self) -> None:
        count = 0
        while not self._stop.wait(self._beat):
            count += 1
            try:
                self._write_beat(count)
            except OSError:  # a full disk: the run itself reports it, others may take over meanwhile
                continue

    def _write_beat(self, count: int) -> None:
        process = _started(str(os.getpid()))
        self._beat_file(self.name).write_text(f"{_place()}\n{process}\n{count}", encoding="utf-8")

    def _beat_file(self, runner: str) -> Path:
        return self.folder / f"{runner}.beat"

    def _lease_file(self, shard: str, turn: int) -> Path:
        return self.folder / f"{shard}.{turn}"


def held(out: Path | str) -> set[str]:
    """Shards that some runner has a lease on, dead or alive."""
    return {m[1] for m in map(_LEASE.fullmatch, _names(Path(out) / FOLDER)) if m}


def runners(out: Path | str) -> list[str]:
    """Runners with a heartbeat in the folder, dead or alive."""
    return sorted(name.removesuffix(".beat") for name in _names(Path(out) / FOLDER) if name.endswith(".beat"))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


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
