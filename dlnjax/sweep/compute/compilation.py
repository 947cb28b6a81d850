"""Compilation: what it costs, told apart from everything else, and the next program compiled while one runs.

Every program that XLA compiles (or takes from its cache on disk) in this process is counted, the small ones that
prepare a shard included. The thread here compiles (and imports) but runs no program: two with LAPACK calls in flight
at once may wait for each other for ever on few cores.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_lock = threading.Lock()
_here = threading.local()
_spent: list[float] = [0, 0.0]  # programs, seconds
_waited: list[float] = [0.0]  # seconds that a working thread stood still, tracing included
_begun: set[Hashable] = set()
_pending: dict[Hashable, Future] = {}
_THREAD = "dlnjax-compile"
_threads: list[ThreadPoolExecutor] = []


#: Seconds after which a thread aside lets another go on.
AT_ONCE = 2e-4

_switch_lock = threading.Lock()
_working = 0
_usual = 0.0


@contextmanager
def giving_way() -> Iterator[None]:
    """While any thread is inside, Python's switch interval is at most :data:`AT_ONCE`; afterwards what it was."""
    global _working, _usual
    with _switch_lock:
        if not _working:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(min(_usual, AT_ONCE))
        _working += 1
    try:
        yield
    finally:
        with _switch_lock:
            _working -= 1
            if not _working:
                sys.setswitchinterval(_usual)


class Spent(NamedTuple):
    """Programs compiled so far, XLA's seconds, and those (tracing included) in which nothing else was done."""

    programs: int
    seconds: float
    waited: float


def spent() -> Spent:
    """What compilation has cost this process."""
    with _lock:
        return Spent(int(_spent[0]), _spent[1], _waited[0])


def mark() -> None:
    """What was compiled up to here was for something else, unless the thread is at work for the shards to come."""
    global _told
    if not _pending:
        _told = spent()


def taken() -> dict[str, str]:
    """What compilation has cost since :func:`mark` or the last call here.

    ``compilations``, their ``compile_seconds``, and ``compile_waited``: the seconds of standing still for them.
    """
    global _told
    before, _told = _told, spent()
    programs, seconds, waited = (b - a for a, b in zip(before, _told, strict=True))
    return {
        "compilations": str(programs),
        "compile_seconds": f"{seconds:.3f}",
        "compile_waited": f"{waited:.3f}",
    }


@contextmanager
def standing() -> Iterator[None]:
    """Around the making of a program, from tracing on: while it lasts a working thread stands still for it."""
    since, _here.standing = time.perf_counter(), True
    try:
        yield
    finally:
        _here.standing = False
        _wait(time.perf_counter() - since)


class Making(NamedTuple):
    """Something to make ahead of its use: ``build()`` keeps what it makes; None where it can only be made in place."""

    name: Hashable
    build: Callable[[], Any] | None = None


def begin(making: Making) -> None:
    """Starts ``build()`` in the compiling thread, once a name; :func:`settle` waits for it."""
    if making.name in _begun or making.build is None:
        return
    if not _threads:
        _threads.append(ThreadPoolExecutor(1, _THREAD))
    _begun.add(making.name)
    _pending[making.name] = _threads[0].submit(_built, making.build)


def _built(build: Callable[[], Any]) -> Any:
    with giving_way():
        return build()


def begin_if_free(making: Making) -> None:
    """:func:`begin` unless the thread is at work: what is wanted at once is then made sooner in place."""
    if all(future.done() for future in _pending.values()):
        begin(making)


def settle(making: Making) -> BaseException | None:
    """Waits for what :func:`begin` has started, and returns its error, if any: it shows where it is made in place."""
    future = _pending.pop(making.name, None)
    if future is None:
        return None
    since = time.perf_counter()
    error = future.exception()
    _wait(time.perf_counter() - since)
    return error


def briefly() -> dict[str, Any] | None:
    """XLA's options for a program that runs for a moment: on a CPU half the time to compile.

    What draws the cells takes no longer to run (jaxlib 0.10, widths 4 to 32, both precisions), and the same numbers to
    rounding come out; at level 0 it takes twice as long. A level that the user has set for XLA stays.
    """
    level = "xla_backend_optimization_level"
    if jax.default_backend() != "cpu" or level in os.environ.get("XLA_FLAGS", ""):
        return None
    return {level: 1}


def _wait(seconds: float) -> None:
    if not threading.current_thread().name.startswith(_THREAD):
        with _lock:
            _waited[0] += seconds


def _heard(event: str, duration: float, **_: str | int) -> None:
    if event != _EVENT:
        return
    with _lock:
        _spent[0] += 1
        _spent[1] += duration
    if not getattr(_here, "standing", False):
        _wait(duration)


_told = spent()
jax.monitoring.register_event_duration_secs_listener(_heard)  # pyright: ignore[reportArgumentType]
