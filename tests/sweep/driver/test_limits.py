"""Machines that give no more: processes that cannot be started, schedulers that are lost, folders that refuse."""

import errno
import multiprocessing
import os
import threading
from concurrent.futures import CancelledError, Executor, Future

import pytest
import standin

from dlnjax import cli
from dlnjax.cli import commands
from dlnjax.sweep.driver import executors, launch
from dlnjax.sweep.driver import run as driver
from dlnjax.sweep.store import manifest

pytestmark = pytest.mark.timeout(60)
SPAWN = multiprocessing.get_context("spawn").Process


def refused(monkeypatch, error, after=0):
    """Processes that cannot be started, but for the first ``after``."""
    start, count, lock = SPAWN.start, 0, threading.Lock()

    def limited(self):
        nonlocal count
        with lock:
            count += 1
            if count > after:
                raise error
        start(self)

    monkeypatch.setattr(SPAWN, "start", limited)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), BlockingIOError(errno.EAGAIN, "x"), MemoryError()],
)
def test_no_worker_ends_the_run(tmp_path, monkeypatch, error):
    refused(monkeypatch, error)
    with (
        executors.Workers(2) as pool,
        pytest.raises(executors.NoWorkers, match="no worker process") as raised,
    ):
        driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=standin.work, executor=pool)
    assert raised.value.errno == (error.errno if isinstance(error, OSError) else errno.ENOMEM)


def test_the_pool_shrinks(tmp_path, monkeypatch):
    refused(monkeypatch, OSError(errno.EAGAIN, "no"), after=1)
    with executors.Workers(3) as pool:
        results = [pool.submit(pow, 2, n) for n in range(6)]
        assert [one.result(timeout=50) for one in results] == [1, 2, 4, 8, 16, 32]
        assert len(pool.pids()) == 1


def test_no_threads(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(executors.NoWorkers, match="can't start new thread"):
        executors.Workers(2)


class Lost(Executor):
    """A scheduler that goes after the first shards."""

    slots = 1

    def __init__(self, error):
        self.error, self.count = error, 0

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        future = Future()
        if self.count <= 2:
            future.set_result(fn(*args, **kwargs))
        elif isinstance(self.error, CancelledError):
            future.set_exception(self.error)
        else:
            raise self.error
        return future


@pytest.mark.parametrize(
    "error", [CancelledError("scheduler-connection-lost"), Exception("Client is closed")]
)
def test_a_lost_scheduler_ends_the_run(tmp_path, error):
    options = {"planner": standin.planner, "work": standin.work}
    with pytest.raises(ConnectionAbortedError, match="takes no more shards"):
        driver.run(standin.Sweep(), tmp_path, executor=Lost(error), **options)
    assert not list(tmp_path.glob("failures/*"))  # no shard is to blame
    assert driver.run(standin.Sweep(), tmp_path, **options).complete


@pytest.mark.parametrize(
    "error", [OSError(errno.ECONNABORTED, "gone"), RuntimeError("can't start new thread"), MemoryError()]
)
def test_the_command_says_it_in_a_line(monkeypatch, capsys, error):
    def status(args):
        raise error

    monkeypatch.setitem(commands.COMMANDS, "status", status)
    assert cli.main(["status", "x"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("option", [{"timeout_min": "soon"}, {"cpus_per_task": "two"}, {"mem_gb": "all"}])
def test_slurm_options_of_wrong_type(tmp_path, option):
    pytest.importorskip("submitit")
    with pytest.raises(ValueError, match=f"--slurm: .*{next(iter(option))}"):
        launch.slurm(["true"], 1, tmp_path, cluster="local", **option)


def test_a_job_that_fails_is_said_in_a_line(capsys):
    class Job:
        job_id = "7"

        def result(self):
            raise RuntimeError("Traceback ...\nJob not requeued because: timed-out too many times.\n")

    assert commands._failed(Job())
    said = capsys.readouterr().err
    assert said == "dlnjax: runner 7: RuntimeError: Job not requeued because: timed-out too many times.\n"


def test_nothing_is_written_in_a_strangers_folder(tmp_path):
    (tmp_path / manifest.NAME).write_text('{"name": "an extension of a browser"}')
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=manifest.NAME):
        driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=standin.work)
    assert sorted(os.listdir(tmp_path)) == before
