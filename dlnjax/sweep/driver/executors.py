"""Where shards run: this process, spawned workers that are rebuilt when one dies, Dask, Slurm, several hosts.

The driver takes any ``concurrent.futures.Executor``; these build the ones we name. Work is sent as a
function, a sweep and a shard; results stay in the folder, so that a killed driver loses none. Processes are
spawned, never forked: JAX does not survive a fork.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple, TypeAlias


class _Call(NamedTuple):
    """A task as it goes through a worker's pipe."""

    function: Callable[..., object]
    arguments: tuple[object, ...]
    named: Mapping[str, object]


_Task: TypeAlias = tuple[Future[Any], _Call]
#: ("result", value), ("error", exception) or ("died", why)
_Answer: TypeAlias = tuple[str, Any]


class WorkerDied(RuntimeError):
    """The process that ran a task is gone, or was ended because it hung; the task may be tried again."""


class NoWorkers(OSError):
    """The machine gives no more processes, threads, files or memory: not one worker is left to run a task."""


def lost(error: BaseException) -> OSError:
    """What the loss of an executor is to the run: its end, in a line; what is complete is kept."""
    reason = (str(error).strip().splitlines() or [""])[0]
    return OSError(
        errno.ECONNABORTED, f"the executor takes no more shards ({type(error).__name__}: {reason})"
    )


class Workers(Executor):
    """Spawned processes, each fed by a thread of its own; a dead or hanging one is replaced.

    Unlike ``ProcessPoolExecutor``, whose every task fails when one process dies, only the dead worker's
    task fails (with :class:`WorkerDied`), and a task that takes too long can be ended. Where a process cannot
    be started the others go on without it; without any other, tasks fail with :class:`NoWorkers`.

    Args:
      slots: number of processes, at least 1.
      timeout: seconds after which a task's process is killed; None waits as long as it takes.
      environment: variables set in each process before anything is imported there; by default the cores
        are shared out (``JAX_NUM_CPU_DEVICES``), unless the user has set that.
    """

    def __init__(
        self, slots: int, timeout: float | None = None, environment: Mapping[str, str] | None = None
    ):
        if slots < 1:
            raise ValueError(f"workers: {slots}; give at least 1")
        self.slots: int = slots
        self.timeout: float | None = timeout
        self.environment: dict[str, str] = _share(slots) if environment is None else dict(environment)
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._processes: dict[int, SpawnProcess] = {}
        self._feeders = slots
        self._ending = False
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        for slot in range(slots):
            self._start(threading.Thread(target=self._feed, args=(slot,), daemon=True))

    def _start(self, thread: threading.Thread) -> None:
        """One thread more, if the machine gives it."""
        try:
            thread.start()
        except RuntimeError as error:
            if not self._leave():
                raise _no_workers(error) from None
        else:
            self._threads.append(thread)

    def _leave(self, task: _Task | None = None) -> bool:
        """One feeder fewer, its task for the others; False for the last, or when all are about to leave."""
        with self._lock:
            if self._ending:
                return False
            others = self._feeders > 1
            if others:
                self._feeders -= 1
                self.slots = self._feeders
                if task is not None:
                    self._tasks.put(task)
        return others

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs ``fn(*args, **kwargs)`` in a worker; ``fn`` must be importable there."""
        future: Future[Any] = Future()
        self._tasks.put((future, _Call(fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the workers: after the tasks at hand, or at once with ``cancel_futures``."""
        if cancel_futures:
            self._closing.set()
            for process in list(self._processes.values()):
                process.kill()
        with self._lock:
            self._ending = True
            for _ in self._threads:
                self._tasks.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Waits for the tasks at hand; an exception (Ctrl-C) ends them at once."""
        self.shutdown(cancel_futures=kind is not None)

    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        alive = [process for process in list(self._processes.values()) if process.is_alive()]
        return [process.pid for process in alive if process.pid is not None]

    def _feed(self, slot: int) -> None:
        """One worker's life: spawn, feed, replace, end."""
        process, pipe = None, None
        while (task := self._tasks.get()) is not None:
            future, call = task
            if self._closing.is_set():
                future.cancel()
                continue
            if process is None or pipe is None or not process.is_alive():
                try:
                    process, pipe = self._spawn(slot)
                except (OSError, RuntimeError, MemoryError) as error:
                    if self._leave(task):
                        return
                    _refuse(future, error)
                    continue
            if not future.set_running_or_notify_cancel():
                continue
            if not _settle(future, self._ask(process, pipe, call)):
                process.kill()
                process.join()
                process = None
        if process is not None and pipe is not None:
            pipe.close()
            process.join(timeout=5)
            process.kill()
            process.join()

    def _spawn(self, slot: int) -> tuple[SpawnProcess, Connection]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, self.environment), daemon=True, name=f"dlnjax-worker-{slot}"
        )
        try:
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._processes[slot] = process
        return process, ours

    def _ask(self, process: SpawnProcess, pipe: Connection, call: _Call) -> _Answer:
        """What came of the call."""
        if self._closing.is_set():  # shut down while the process was being spawned
            return "died", "shut down"
        try:
            pipe.send(call)
            ready = wait([pipe, process.sentinel], self.timeout)
            if pipe in ready:
                return pipe.recv()
        except (OSError, EOFError):
            ready = [process.sentinel]
        except Exception as error:  # a task that cannot be pickled
            return "error", error
        if not ready:
            return "died", f"took longer than {self.timeout:g} s"
        process.join(timeout=5)
        return "died", f"its process ended with exit code {process.exitcode}"


def _refuse(future: Future, error: BaseException) -> None:
    """Tells a task that there is nobody to run it."""
    if future.set_running_or_notify_cancel():
        future.set_exception(_no_workers(error))


def _no_workers(error: BaseException) -> NoWorkers:
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None) or errno.EAGAIN
    return NoWorkers(
        number, f"no worker process can be started: {error or 'out of memory'}; take fewer --workers"
    )


def _settle(future: Future, answer: _Answer) -> bool:
    """Hands the answer to the future; False if the process must be replaced."""
    kind, value = answer
    if kind == "result":
        future.set_result(value)
    else:
        future.set_exception(value if kind == "error" else WorkerDied(value))
    return kind != "died"


def _share(slots: int) -> dict[str, str]:
    """An equal share of the cores this process may use, at least one."""
    name = "JAX_NUM_CPU_DEVICES"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {} if os.environ.get(name) else {name: str(max(1, cores // slots))}


def _serve(pipe: Connection, environment: Mapping[str, str]) -> None:
    """A worker: answers calls until the pipe closes; ends at once when the driver is gone."""
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            fn, args, kwargs = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("result", fn(*args, **kwargs))
        except BaseException as error:
            answer = ("error", error)
        _answer(pipe, answer)


def _answer(pipe: Connection, answer: _Answer) -> None:
    try:
        pipe.send(answer)
    except (OSError, ValueError):
        os._exit(1)
    except Exception:  # the exception itself cannot be pickled: its words can
        pipe.send(("error", RuntimeError(f"{type(answer[1]).__name__}: {answer[1]}")))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def choose(
    workers: int = 0, dask_address: str | None = None, timeout: float | None = None
) -> Iterator[Executor | None]:
    """The executor that the command's options name, closed at the end; None for this process.

    Args:
      workers: spawned processes; 0 for none.
      dask_address: a Dask scheduler's, ``local`` for a cluster on this machine; None for no Dask.
      timeout: seconds a worker may spend on a shard before it is replaced.
    """
    if dask_address is not None:
        executor, close = dask(None if dask_address == "local" else dask_address)
        try:
            yield executor
        finally:
            close()
    elif workers:
        with Workers(workers, timeout) as pool:
            yield pool
    else:
        yield None


def dask(address: str | None = None, **cluster: Any) -> tuple[Executor, Callable[[], None]]:
    """An executor on a Dask cluster, and what closes it.

    Args:
      address: the scheduler's, as ``tcp://host:8786``; None starts a local cluster.
      cluster: for the local cluster, e.g. ``n_workers``.

    Raises:
      ModuleNotFoundError: names the extra ``dask``.
      ValueError: no scheduler answers there.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            '--dask: distributed is not installed; pip install "dlnjax[dask]"'
        ) from None
    options = (
        {} if address else {"processes": True, "threads_per_worker": 1, "dashboard_address": None, **cluster}
    )
    try:
        client = Client(address, **options)
    except (OSError, ValueError) as error:
        remedy = "give the address of a running scheduler, as tcp://host:8786, or none for a cluster here"
        raise ValueError(f"--dask: {error}; {remedy}") from None

    def close() -> None:
        client.close()

    executor: Any = client.get_executor(pure=False)
    threads: Any = client.nthreads()
    executor.slots = max(1, sum(threads.values()))  # shards in flight, as many as can run
    return executor, close
