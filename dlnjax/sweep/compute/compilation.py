"""Compilation: what it costs, counted apart from everything else, and the next program compiled while one runs.

Every program that XLA compiles (or takes from its cache on disk) in this process is counted, the small ones that
prepare a shard included. The thread here compiles and imports but runs no program: two with LAPACK calls in flight
at once may wait for each other forever on few cores.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import NamedTuple

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_THREAD = "dlnjax-compile"


class Spent(NamedTuple):
    """Programs compiled so far, XLA's seconds, and those (tracing included) in which nothing else was done."""

    programs: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class Job(NamedTuple):
    """Something to make ahead of its use: ``build()`` keeps what it makes; None where it can only be made in place."""

    name: Hashable
    build: Callable[[], object] | None = None


class Compiler:
    """Counts what compilation costs this process, and makes programs ahead of their use in a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spent = Spent()
        self._marked = Spent()
        self._making = threading.local()  # whether this thread stands still for a program that is being made
        self._begun: set[Hashable] = set()
        self._pending: dict[Hashable, Future[object]] = {}
        self._thread: ThreadPoolExecutor | None = None
        _count_compilations(self)

    def spent(self) -> Spent:
        """What compilation has cost since this compiler was made."""
        with self._lock:
            return self._spent

    def mark(self) -> None:
        """What was compiled so far was for something else, unless the thread is at work for the shards to come."""
        if not self._pending:
            self._marked = self.spent()

    def since_mark(self) -> Spent:
        """What compilation has cost since :meth:`mark` or the last call here."""
        before, self._marked = self._marked, self.spent()
        now = self._marked
        return Spent(now.programs - before.programs, now.seconds - before.seconds, now.waited - before.waited)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the making of a program, from tracing on: while it lasts a working thread stands still for it."""
        since, self._making.active = time.perf_counter(), True
        try:
            yield
        finally:
            self._making.active = False
            self._wait(time.perf_counter() - since)

    def begin(self, job: Job) -> None:
        """Starts ``job.build()`` in the compiling thread, once per name; :meth:`settle` waits for it."""
        if job.name in self._begun or job.build is None:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, _THREAD)
        self._begun.add(job.name)
        self._pending[job.name] = self._thread.submit(job.build)

    def begin_if_free(self, job: Job) -> None:
        """:meth:`begin` unless the thread is at work: what is wanted at once is then made sooner in place."""
        if all(future.done() for future in self._pending.values()):
            self.begin(job)

    def settle(self, job: Job) -> BaseException | None:
        """Waits for what :meth:`begin` has started, and returns its error: it is raised where it is made in place."""
        future = self._pending.pop(job.name, None)
        if future is None:
            return None
        since = time.perf_counter()
        error = future.exception()
        self._wait(time.perf_counter() - since)
        return error

    def count(self, seconds: float) -> None:
        """One more program, compiled in so many seconds."""
        with self._lock:
            programs, total, waited = self._spent
            self._spent = Spent(programs + 1, total + seconds, waited)
        if not getattr(self._making, "active", False):
            self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        if not threading.current_thread().name.startswith(_THREAD):
            with self._lock:
                self._spent = self._spent._replace(waited=self._spent.waited + seconds)


def _count_compilations(compiler: Compiler) -> None:
    """JAX reports every compilation to ``compiler`` for as long as that lives."""
    reference = weakref.ref(compiler)

    def listener(event: str, duration: float, **_: str | int) -> None:
        alive = reference()
        if event == _EVENT and alive is not None:
            alive.count(duration)

    def forget() -> None:
        with suppress(ValueError, AssertionError):  # whoever cleared JAX's listeners has removed it already
            jax.monitoring.unregister_event_duration_listener(listener)  # pyright: ignore[reportArgumentType]

    jax.monitoring.register_event_duration_secs_listener(listener)  # pyright: ignore[reportArgumentType]
    weakref.finalize(compiler, forget)


def brief_options() -> dict[str, bool | int | float | str] | None:
    """XLA's options for a program that runs for a moment: on a CPU half the time to compile.

    What draws the cells takes no longer to run (jaxlib 0.10, widths 4 to 32, both precisions), and the same numbers to
    rounding come out; at level 0 it takes twice as long. A level that the user has set for XLA stays.
    """
    level = "xla_backend_optimization_level"
    if jax.default_backend() != "cpu" or level in os.environ.get("XLA_FLAGS", ""):
        return None
    return {level: 1}
