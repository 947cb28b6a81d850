"""Where shards run and who writes their files: this process with a thread for the files, or an executor."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Protocol

from dlnjax.sweep.driver import executors, task
from dlnjax.sweep.store.protocols import Shard, Sweep

# Shards in flight in this process: the devices are at one while the file of another is written.
_HERE = 2
# A shard that took so many seconds here is reported, and a full disk noticed, before the next one begins: its file gets
# this part of its time to be written in.
_LONG, _SOON = 5.0, 0.02


class Place(Protocol):
    """Takes shards, at most ``slots`` at a time; a context manager."""

    slots: int

    def start(self, shard: Shard, following: Collection[Shard]) -> Future[task.Report]:
        """The shard's report, once its file is there; ``following`` are those to come."""
        ...

    def abandon(self, started: Collection[Future[task.Report]]) -> None:
        """The run ends early: what can still be taken back of ``started`` is."""
        ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Here:
    """This process: a shard is computed at once, and its file written by a thread while the next one is computed."""

    def __init__(self, work: task.Work, sweep: Sweep, out: Path, holder: str):
        self.slots: int = _HERE
        self._work, self._sweep, self._out, self._holder = work, sweep, out, holder
        self._writer = ThreadPoolExecutor(1, "dlnjax-write")

    def start(self, shard: Shard, following: Collection[Shard]) -> Future[task.Report]:
        try:
            computed = task.compute(self._work, self._sweep, shard, self._out, self._holder, following)
        except Exception as error:
            failed: Future[task.Report] = Future()
            failed.set_exception(error)
            return failed
        writing = self._writer.submit(task.keep, self._out, shard.name, computed)
        if computed.seconds > _LONG:
            wait([writing], timeout=_SOON * computed.seconds)
        return writing

    def abandon(self, started: Collection[Future[task.Report]]) -> None:
        """Nothing: what is computed is written all the same."""

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()


class Elsewhere:
    """An executor, whose processes compute a shard and write its file, one after the other; it is not shut down."""

    def __init__(
        self,
        executor: Executor,
        work: task.Work,
        sweep: Sweep,
        out: Path,
        holder: str,
        slots: int | None = None,
    ):
        self.slots: int = slots or getattr(executor, "slots", None) or os.cpu_count() or 1
        self._executor, self._work, self._sweep, self._out = executor, work, sweep, out
        self._holder = holder

    def start(self, shard: Shard, following: Collection[Shard]) -> Future[task.Report]:
        try:
            return self._executor.submit(
                task.complete, self._work, self._sweep, shard, self._out, self._holder
            )
        except Exception as error:  # each kind of executor says so in a type of its own
            raise executors.lost(error) from error

    def abandon(self, started: Collection[Future[task.Report]]) -> None:
        for future in started:
            future.cancel()

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        pass
