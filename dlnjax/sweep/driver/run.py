"""Runs a sweep's shards on any executor and keeps every result: resumes, shares, retries, never repeats.

The driver knows neither JAX nor networks. It asks the planner for shards, settles them with the folder's
manifest, and hands each to ``work(sweep, shard, checkpoint, following) -> pyarrow.Table`` in whatever process; the
process that computed a shard writes it. Everything it needs to go on is in the folder, so that the same command
after a kill finishes the rest, and two of them share it.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dlnjax.sweep import plan, store
from dlnjax.sweep.config import user_functions
from dlnjax.sweep.driver import metadata as results
from dlnjax.sweep.driver import places, progress, task
from dlnjax.sweep.driver.outcome import Outcome
from dlnjax.sweep.driver.scheduler import Scheduler
from dlnjax.sweep.store import files, leases, manifest, packs
from dlnjax.sweep.store.protocols import Planner, Sweep

__all__ = ["Outcome", "run"]


def run(
    sweep: Sweep,
    out: Path | str,
    *,
    executor: Executor | None = None,
    slots: int | None = None,
    extend: bool = False,
    planner: Planner | None = None,
    work: task.Work | None = None,
    metadata: Mapping[str, Any] | None = None,
    listen: progress.Progress | None = None,
    lease: float = 30.0,
    share: bool = True,
) -> Outcome:
    """Computes what is missing in ``out``.

    Args:
      sweep: has ``hash()``, ``to_toml()``, ``cells()``, ``key(cell)``; must pickle for other processes.
      out: the sweep's folder; made if absent.
      executor: any ``concurrent.futures.Executor``; None works in this process. It is not shut down.
      slots: shards in flight at a time on the executor; its ``slots`` if None, else the number of cores.
      extend: let a config with more cells add them to the folder.
      planner: (sweep, cells) -> shards; the package's own if None.
      work: the work function; :class:`task.Training` if None.
      metadata: what else to write into a new manifest (scales, step sizes).
      listen: called with every event, if given.
      lease: seconds of silence after which another runner counts as dead (on other machines; on this one
        a dead process is seen at once).
      share: wait for, and take over from, other runners until the folder is complete; False leaves
        when nothing is free.

    Returns:
      What was done; ``failed`` shards are tried again by the next call.

    Raises:
      manifest.ConfigChanged: the folder belongs to another config.
      user_functions.PartError: a user's functions are missing, or cannot be imported in other processes.
      OSError: the disk is full, the folder cannot be written, or was removed; what is complete stays complete.
      KeyboardInterrupt: Ctrl-C; SystemExit(143): SIGTERM. Leases are given back, complete shards stay.
    """
    user_functions.check(sweep, elsewhere=executor is not None)
    begin, out = time.monotonic(), Path(out)
    planner, work, listen = planner or plan.shards, work or task.Training(), listen or progress.unheard
    _refuse(out, sweep, extend)
    out.mkdir(parents=True, exist_ok=True)
    with _terminable(), _while_there(out), leases.Runner(out, lease=lease) as runner:
        vacant = runner.alone() and not store.done(out)
        settled = manifest.settle(out, sweep, planner, extend=extend, vacant=vacant, metadata=metadata)
        _set_aside(out, runner, listen)
        done = store.done(out)
        runner.drop(done)
        shards = manifest.unfinished(settled, sweep, planner, done)
        partition = settled.manifest["partition"]
        outcome = Outcome(shards=len(partition), done=len(partition) - len(shards))
        listen("start", shards=outcome.shards, done=outcome.done, out=str(out))
        if executor is None:
            place: places.Place = places.Here(work, sweep, out, runner.name)
        else:
            place = places.Elsewhere(executor, work, sweep, out, runner.name, slots)
        try:
            with _annotated(out, settled.manifest, runner, outcome):
                Scheduler(out, place, runner, outcome, listen).run(shards, share)
        finally:
            outcome.done = outcome.shards - len(partition.keys() - store.done(out))
            outcome.seconds = time.monotonic() - begin
            listen("end", shards=outcome.shards, done=outcome.done, failed=len(outcome.failed))
    return outcome


def _refuse(out: Path, sweep: Sweep, extend: bool) -> None:
    """Raises where the folder is not this sweep's, or cannot be written, before anything of ours is in it."""
    if not extend and store.done(out):
        manifest.refuse_other(out, sweep)
    elif out.exists():
        manifest.load(out)
        if not os.access(out, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(out))


@contextmanager
def _while_there(out: Path) -> Iterator[None]:
    """Of a folder that was removed during the run it says so; nothing makes it again."""
    try:
        yield
    except FileNotFoundError:
        if out.is_dir():
            raise
        raise FileNotFoundError(f"{out}: removed while the run went on; it ends, and stays removed") from None


@contextmanager
def _annotated(
    out: Path, before: manifest.Manifest, runner: leases.Runner, outcome: Outcome
) -> Iterator[None]:
    """Adds to the manifest, when a run ends, what its shards say; after a dead runner, what all shards say.

    A run that is interrupted reads no files for it: a gap that an earlier one left stays for the next run to fill.
    """
    try:
        yield
    except BaseException:
        if "scales" in before:
            with suppress(OSError):  # the disk may be what ended the run
                results.annotate(out, outcome.results, everything=False)
        raise
    dead = runner.dead()
    if outcome.ran or dead or "scales" not in before:
        partial = results.is_partial(manifest.existing(out))
        results.annotate(out, outcome.results, everything=partial or bool(dead))
    if outcome.ran:
        manifest.annotate(out, {"compilations": [outcome.compiled()]})
    runner.bury(dead)


def _set_aside(out: Path, runner: leases.Runner, listen: progress.Progress) -> None:
    """Moves files that are cut short out of the way, so that their shards are computed again."""
    for file in packs.of(out):
        if not files.ends_well(file):
            with suppress(FileNotFoundError):  # another runner was quicker
                file.rename(file.with_suffix(".damaged"))
                listen("damaged", file=str(file))
    for name in store.truncated(out, store.loose(out)):
        if not runner.acquire(name):
            continue
        if store.truncated(out, [name]):  # still so, now that nobody else is at it
            file = store.path(out, name)
            with suppress(FileNotFoundError):  # another runner was quicker
                file.rename(file.with_suffix(".damaged"))
                listen("damaged", file=str(file))
        runner.release(name)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: leases are given back on the way out."""
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
