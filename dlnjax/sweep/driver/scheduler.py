"""Which shard starts when, and what follows when one has ended: done, tried again, or given up.

A shard is started by the runner that holds its lease, as soon as its place has a slot; several runners on one
folder so share the work, and take over from one that died.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from dlnjax.sweep import store
from dlnjax.sweep.driver.outcome import Outcome
from dlnjax.sweep.driver.places import Place
from dlnjax.sweep.driver.progress import Progress
from dlnjax.sweep.driver.retry import Retries
from dlnjax.sweep.driver.task import Report
from dlnjax.sweep.store import failures, leases, manifest
from dlnjax.sweep.store.protocols import Shard

#: How long to wait before looking again whether another runner has finished, died or given up.
PATIENCE = 0.5


class Scheduler:
    """The shards of one run.

    Args:
      out: the sweep's folder.
      place: where shards run; closed at the end.
      runner: takes leases in our name.
      outcome: the accounts, written here.
      listen: hears of every shard.
    """

    def __init__(self, out: Path, place: Place, runner: leases.Runner, outcome: Outcome, listen: Progress):
        self._out, self._place, self._runner = out, place, runner
        self._outcome, self._listen = outcome, listen
        self._retries = Retries()
        self._waiting: dict[str, Shard] = {}
        self._flying: dict[Future[Report], Shard] = {}

    def run(self, shards: Mapping[str, Shard], share: bool) -> None:
        """Until nothing is left to do, here or (with ``share``) at another runner's."""
        self._waiting = dict(shards)
        try:
            with self._place:
                try:
                    self._loop(share)
                except BaseException:
                    self._place.abandon(self._flying)
                    raise
        finally:
            self._count_late()

    def _loop(self, share: bool) -> None:
        while self._waiting or self._flying:
            before = len(self._waiting)
            self._launch()
            self._land()
            if not self._flying and len(self._waiting) == before and not self._others(share):
                return

    def _launch(self) -> None:
        """Starts shards while there are slots, until one has ended; drops those that are done or failed."""
        for name, shard in list(self._waiting.items()):
            if len(self._flying) >= self._place.slots or any(future.done() for future in self._flying):
                return
            if self._is_done(name) or name in self._outcome.failed:
                del self._waiting[name]
            elif self._runner.acquire(name):
                del self._waiting[name]
                if self._is_done(name):  # finished by another between the look and the lease
                    self._runner.release(name)
                else:
                    self._flying[self._place.start(shard, self._waiting.values())] = shard

    def _is_done(self, name: str) -> bool:
        return store.is_done(self._out, name)

    def _land(self) -> None:
        """Takes in what has ended; waits for one if all slots are taken or nothing else is to be had."""
        if not self._flying:
            return
        ended, _ = wait(self._flying, timeout=PATIENCE, return_when=FIRST_COMPLETED)
        for future in ended:
            shard = self._flying.pop(future)
            try:
                report = future.result()
            except Exception as error:
                self._failure(shard, error)
            else:
                self._success(report)
            finally:
                self._runner.release(shard.name)

    def _success(self, report: Report) -> None:
        self._outcome.add(report)
        if self._outcome.ran == 1 and "device" in report.said:
            manifest.annotate(self._out, {"devices": [report.said["device"]]})
        self._listen(
            "shard", shard=report.shard, cells=report.cells, seconds=report.seconds, done=self._outcome.done,
            shards=self._outcome.shards, compile_seconds=float(report.said.get("compile_seconds", 0)),
        )  # fmt: skip

    def _failure(self, shard: Shard, error: Exception) -> None:
        if not self._out.is_dir():
            raise FileNotFoundError(f"{self._out}: removed while the run went on") from error
        verdict = self._retries.judge(shard.name, error)
        if verdict.again:
            self._listen("retry", shard=shard.name, reason=verdict.reason)
            self._waiting[shard.name] = shard
        else:
            self._outcome.failed[shard.name] = verdict.reason
            failures.note(self._out, shard.name, verdict.reason)
            self._listen("failed", shard=shard.name, reason=verdict.reason)

    def _others(self, share: bool) -> bool:
        """Whether to go on waiting for runners that hold what is left."""
        if not self._waiting or not share:
            return False
        self._listen("waiting", shards=len(self._waiting))
        time.sleep(PATIENCE)
        return True

    def _count_late(self) -> None:
        """Of a run that ends early: shards whose files came while it did."""
        for future in self._flying:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._outcome.add(future.result())
