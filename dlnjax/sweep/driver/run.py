"""Runs a sweep's shards on any executor and keeps every result: resumes, shares, retries, never repeats.

The driver knows neither JAX nor networks. It asks the planner for shards, settles them with the folder's
manifest, and hands each to ``work(sweep, shard, room) -> pyarrow.Table`` in whatever process; the process
that computed a shard writes it. Everything it needs to go on is in the folder, so that the same command
after a kill finishes the rest, and two of them share it.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from dlnjax.sweep import store
from dlnjax.sweep.config import user_functions
from dlnjax.sweep.driver import metadata as results
from dlnjax.sweep.driver import progress, task
from dlnjax.sweep.driver.executors import WorkerDied
from dlnjax.sweep.store import failures, leases, manifest

# How often a shard whose process died is tried again before it counts as failed.
_ATTEMPTS = 3
# What the output folder's disk answers when nothing more can be kept: the run ends, the results stay.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
# What a shard's facts say of where its time went.
_COSTS = ("device_seconds", "compilations", "compile_seconds", "compile_waited")
# Shards in flight in this process: the devices are at one while the file of another is written.
_HERE = 2
# A shard that took so many seconds here is told of, and a full disk noticed, before the next one begins: its file gets
# this part of its time to be written in.
_LONG, _SOON = 5.0, 0.02
# How long to wait before looking again whether another runner has finished, died or given up.
_PATIENCE = 0.5


@dataclass
class Outcome:
    """What a run did.

    Attributes:
      shards, done: how many the folder is to hold, and holds now.
      ran: how many this run computed; cells: in them.
      failed: shard -> reason, for those that raised or whose process kept dying.
      seconds: wall clock; work_seconds: spent in the work function, over all processes.
      device_seconds: of those, spent waiting for the devices; compilations, compile_seconds: programs that XLA
        compiled, the small ones that prepare shards included, and its seconds; compile_waited: seconds of
        standing still for them, tracing included (the rest passed while an earlier shard ran). Over all processes.
    """

    shards: int = 0
    done: int = 0
    ran: int = 0
    cells: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    work_seconds: float = 0.0
    device_seconds: float = 0.0
    compilations: int = 0
    compile_seconds: float = 0.0
    compile_waited: float = 0.0

    @property
    def complete(self) -> bool:
        return self.done == self.shards


def run(
    sweep: Any,
    out: Path | str,
    *,
    executor: Executor | None = None,
    slots: int | None = None,
    extend: bool = False,
    planner: manifest.Planner | None = None,
    work: task.Work | None = None,
    facts: Mapping[str, Any] | None = None,
    listen: progress.Progress | None = None,
    lease: float = 30.0,
    share: bool = True,
) -> Outcome:
    """Computes what is missing in ``out``.

    Args:
      sweep: has ``hash()``, ``to_toml()``, ``cells()``, ``key(cell)``; must pickle for other processes.
      out: the sweep's folder; made if absent.
      executor: any ``concurrent.futures.Executor``; None works in this process. It is not shut down.
      slots: shards in flight at a time; the executor's ``slots``, else the number of cores.
      extend: let a config with more cells add them to the folder.
      planner: (sweep, cells) -> shards; the package's own if None.
      work: the work function; the package's own if None.
      facts: further facts for a new manifest (scales, step sizes).
      listen: told every event; nothing is said if None.
      lease: seconds of silence after which another runner counts as dead (on other machines; on this one
        a dead process is seen at once).
      share: wait for, and take over from, other runners until the folder is complete; False leaves
        when nothing is free.

    Returns:
      What was done; ``failed`` shards are tried again by the next call.

    Raises:
      manifest.ConfigChanged: the folder belongs to another config.
      parts.own.PartError: a user's functions are missing, or cannot be imported in other processes.
      OSError: the disk is full or the folder cannot be written; what is complete stays complete.
      KeyboardInterrupt: Ctrl-C; SystemExit(143): SIGTERM. Claims are given back, complete shards stay.
    """
    user_functions.check(sweep, elsewhere=executor is not None)
    planner = _remembering(planner or _plan)
    work = work or (task.execute if executor is None else partial(task.execute_elsewhere, task.process()))
    listen = listen or (lambda name, **facts: None)
    begin = time.monotonic()
    with _terminable(), leases.Runner(out, lease=lease) as runner:
        vacant = runner.alone() and not store.done(out)
        found = manifest.settle(out, sweep, planner, extend=extend, vacant=vacant, facts=facts)
        partition = found["partition"]
        outcome = Outcome(shards=len(partition))
        _set_aside(out, runner, listen)
        done = store.done(out)
        runner.sweep_up(done)
        shards = _shards(sweep, planner, found, done)
        outcome.done = outcome.shards - len(shards)
        listen("start", shards=outcome.shards, done=outcome.done, out=str(out))
        room = _slots(executor) if slots is None else slots
        turn = _Turn(sweep, Path(out), work, runner, listen, outcome, executor, room if executor else _HERE)
        try:
            turn.all(shards, share)
            if outcome.ran:
                results.annotate(out, turn.names)
                manifest.annotate(out, {"compilations": [_compiled(outcome)]})
        finally:
            outcome.done = outcome.shards - len(set(partition) - store.done(out))
            outcome.seconds = time.monotonic() - begin
            listen("end", shards=outcome.shards, done=outcome.done, failed=len(outcome.failed))
    return outcome


@dataclass
class _Turn:
    """One call of :func:`run`: what it works with, and the shards in flight."""

    sweep: Any
    out: Path
    work: task.Work
    runner: leases.Runner
    listen: progress.Progress
    outcome: Outcome
    executor: Executor | None
    slots: int
    flying: dict[Future, Any] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)
    writer: Executor | None = None
    names: list[str] = field(default_factory=list)  # of the shards computed

    def all(self, shards: Mapping[str, Any], share: bool) -> None:
        """Until nothing is left to do, here or (with ``share``) at another runner's."""
        left = dict(shards)
        with ThreadPoolExecutor(1, "dlnjax-write") if self.executor is None else nullcontext() as self.writer:
            try:
                while left or self.flying:
                    before = len(left)
                    self._launch(left)
                    self._land(left)
                    if not self.flying and len(left) == before and not self._others(left, share):
                        return
            except BaseException:
                if self.executor is not None:  # what is computed here is written all the same
                    for future in self.flying:
                        future.cancel()
                raise

    def _launch(self, left: dict[str, Any]) -> None:
        """Claims and submits shards while there is room, until one is done; drops those that are done or failed."""
        for name, shard in list(left.items()):
            if len(self.flying) >= self.slots or any(future.done() for future in self.flying):
                return
            if self._there(name) or name in self.outcome.failed:
                del left[name]
            elif self.runner.claim(name):
                del left[name]
                self._start(shard, left.values())

    def _start(self, shard: Any, following: Collection[Any] = ()) -> None:
        if self._there(shard.name):  # finished by another between the look and the claim
            self.runner.release(shard.name)
            return
        future = self._here(shard, following) if self.executor is None else self._elsewhere(shard)
        self.flying[future] = shard

    def _elsewhere(self, shard: Any) -> Future:
        assert self.executor is not None
        return self.executor.submit(task.complete, self.work, self.sweep, shard, self.out)

    def _here(self, shard: Any, following: Collection[Any]) -> Future:
        """The shard computed now, its file to be written while the next one is."""
        assert self.writer is not None
        work = self.work
        if work is task.execute:
            work = partial(task.execute, following=following)
        try:
            computed = task.compute(work, self.sweep, shard, self.out)
        except Exception as error:
            future: Future = Future()
            future.set_exception(error)
            return future
        future = self.writer.submit(task.keep_aside, self.out, shard.name, computed)
        if computed.seconds > _LONG:
            wait([future], timeout=_SOON * computed.seconds)
        return future

    def _there(self, name: str) -> bool:
        return store.path(self.out, name).exists()

    def _land(self, left: dict[str, Any]) -> None:
        """Takes in what has finished; waits for one if all slots are taken or nothing else is to be had."""
        if not self.flying:
            return
        ready, _ = wait(self.flying, timeout=_PATIENCE, return_when=FIRST_COMPLETED)
        for future in ready:
            shard = self.flying.pop(future)
            try:
                self._success(future.result())
            except (WorkerDied, BrokenExecutor) as error:
                self._again(shard, str(error), left)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in _NO_ROOM:
                    raise
                self._failed(shard.name, f"{type(error).__name__}: {error}")
            finally:
                self.runner.release(shard.name)

    def _success(self, report: task.Done) -> None:
        outcome = self.outcome
        outcome.ran += 1
        outcome.done += 1
        self.names.append(report.shard)
        outcome.cells += report.cells
        outcome.work_seconds += report.seconds
        said = {name: float(report.facts.get(name, 0)) for name in _COSTS}
        outcome.device_seconds += said["device_seconds"]
        outcome.compilations += int(said["compilations"])
        outcome.compile_seconds += said["compile_seconds"]
        outcome.compile_waited += said["compile_waited"]
        if outcome.ran == 1 and "device" in report.facts:
            manifest.annotate(self.out, {"devices": [report.facts["device"]]})
        self.listen(
            "shard", shard=report.shard, cells=report.cells, seconds=report.seconds, done=outcome.done,
            shards=outcome.shards, compile_seconds=said["compile_seconds"],
        )  # fmt: skip

    def _again(self, shard: Any, reason: str, left: dict[str, Any]) -> None:
        self.deaths[shard.name] = self.deaths.get(shard.name, 0) + 1
        if self.deaths[shard.name] >= _ATTEMPTS:
            self._failed(shard.name, f"{reason}, {_ATTEMPTS} times")
        else:
            self.listen("retry", shard=shard.name, reason=reason)
            left[shard.name] = shard

    def _failed(self, name: str, reason: str) -> None:
        self.outcome.failed[name] = reason
        failures.note(self.out, name, reason)
        self.listen("failed", shard=name, reason=reason)

    def _others(self, left: dict[str, Any], share: bool) -> bool:
        """Whether to go on waiting for runners that hold what is left."""
        if not left or not share:
            return False
        self.listen("waiting", shards=len(left))
        time.sleep(_PATIENCE)
        return True


def _compiled(outcome: Outcome) -> dict[str, Any]:
    """What a run says of compilation in the manifest."""
    return {
        "date": manifest.today(),
        "programs": outcome.compilations,
        "seconds": round(outcome.compile_seconds, 3),
        "waited": round(outcome.compile_waited, 3),
    }


def _slots(executor: Executor | None) -> int:
    return getattr(executor, "slots", None) or os.cpu_count() or 1


def _set_aside(out: Path | str, runner: leases.Runner, listen: progress.Progress) -> None:
    """Moves files that are cut short out of the way, so that their shards are computed again."""
    for name in store.truncated(out, store.done(out)):
        if not runner.claim(name):
            continue
        if store.truncated(out, [name]):  # still so, now that nobody else is at it
            file = store.path(out, name)
            file.rename(file.with_suffix(".damaged"))
            listen("damaged", file=str(file))
        runner.release(name)


def _shards(
    sweep: Any, planner: manifest.Planner, found: Mapping[str, Any], done: set[str]
) -> dict[str, Any]:
    """The shards still to do, as the manifest fixed them, whatever the planner would do today."""
    missing = [name for name in found["partition"] if name not in done]
    if not missing:
        return {}
    cells = manifest.keyed_cells(sweep)
    planned = {
        shard.name: shard
        for keys in manifest.generations(found)
        for shard in planner(sweep, [cells[key] for key in keys])
    }
    unknown = [name for name in missing if name not in planned]
    if unknown:
        raise ValueError(
            f"{len(unknown)} shards of the manifest ({unknown[0]}, ...) are planned differently by this "
            f"version; finish the sweep with dlnjax {found['versions']['dlnjax']}, or use another --out"
        )
    return {name: planned[name] for name in missing}


def _remembering(planner: manifest.Planner) -> manifest.Planner:
    """The planner, which makes no plan twice in a row: a new folder's is wanted for its manifest, and to begin."""
    last: list[Any] = [None, None]

    def plan(sweep: Any, cells: Sequence[Any]) -> Sequence[Any]:
        if last[0] != cells:
            last[:] = cells, planner(sweep, cells)
        return last[1]

    return plan


def _plan(sweep: Any, cells: Sequence[Any]) -> Sequence[Any]:
    from dlnjax.sweep import plan

    return plan.shards(sweep, cells)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: claims are given back on the way out."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
