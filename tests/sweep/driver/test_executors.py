"""Engines with real processes: Dask with a killed worker, submitit jobs, a jax.distributed pair."""

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import standin

from dlnjax.sweep import store
from dlnjax.sweep.driver import executors, launch, run

HERE = str(Path(__file__).parents[2])
RUN = (
    "import sys, standin; from dlnjax.sweep.driver import run\n"
    "s = standin.Sweep(depths=tuple(range(2, 22)), seeds=1, size=1, delay=0.05)\n"
    "print(run.run(s, sys.argv[1], planner=standin.planner, work=standin.work).ran, flush=True)\n"
)
SWEEP = standin.Sweep(depths=tuple(range(2, 22)), seeds=1, size=1, delay=0.05)


@pytest.fixture
def importable(monkeypatch):
    """Spawned processes find the stand-in."""
    monkeypatch.setenv("PYTHONPATH", HERE)


def test_workers_need_a_number():
    with pytest.raises(ValueError, match="workers: 0; give at least 1"):
        executors.Workers(0)


def test_workers_return_and_raise():
    with executors.Workers(1) as pool:
        assert pool.submit(max, 3, 4).result() == 4
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result()
        with pytest.raises(Exception, match="pickle"):
            pool.submit(lambda: 0).result()
        assert pool.submit(os.getenv, "JAX_NUM_CPU_DEVICES").result() is not None


def test_a_killed_worker_is_replaced():
    with executors.Workers(1) as pool:
        first = pool.submit(os.getpid).result()
        os.kill(first, signal.SIGKILL)
        with pytest.raises(executors.WorkerDied, match="exit code -9"):
            pool.submit(signal.raise_signal, signal.SIGKILL).result()
        assert pool.submit(os.getpid).result() != first


def test_an_exception_ends_the_workers_at_once():
    begin = time.monotonic()
    pool = executors.Workers(1)
    pool.submit(os.getpid).result()
    tasks = [pool.submit(time.sleep, 60) for _ in range(2)]
    pool.__exit__(KeyboardInterrupt)
    assert all(task.done() for task in tasks)
    assert time.monotonic() - begin < 20


def test_the_commands_options_choose():
    with executors.choose() as pool:
        assert pool is None
    with executors.choose(workers=2, timeout=9) as pool:
        assert (pool.slots, pool.timeout) == (2, 9)


@pytest.mark.filterwarnings("ignore")
def test_dask_retries_the_shard_of_a_killed_worker(tmp_path, importable):
    pytest.importorskip("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool, close = executors.dask(n_workers=2)
        try:
            sweep = standin.Sweep(depths=(2, 4, 6), trouble="die once", size=1)
            outcome = run.run(
                sweep, tmp_path, planner=standin.planner, work=standin.work, executor=pool, slots=2
            )
        finally:
            close()
    assert (tmp_path / "trouble").exists()
    assert outcome.complete
    assert store.read(tmp_path).equals(standin.reference(sweep))


def test_submitit_jobs_share_a_folder(tmp_path, importable):
    pytest.importorskip("submitit")
    out = tmp_path / "out"
    jobs = launch.slurm([sys.executable, "-c", RUN, str(out)], 2, tmp_path / "logs", cluster="local")
    ran = [int(job.result()) for job in jobs]
    assert sum(ran) == 20
    assert store.read(out).equals(standin.reference(SWEEP))


def test_slurm_needs_a_job(tmp_path):
    with pytest.raises(ValueError, match="slurm jobs: 0"):
        launch.slurm(["true"], 0, tmp_path)


def test_two_distributed_processes_share_a_folder(tmp_path, importable):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    code = (
        "import sys; from dlnjax.sweep.driver import launch\n"
        f"launch.hosts('localhost:{port}', 2, int(sys.argv[2]))\n"
        "import jax; assert jax.process_count() == 2\n" + RUN
    )
    environment = {**os.environ, "PYTHONPATH": HERE, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen([*command, str(i)], env=environment, stdout=subprocess.PIPE) for i in range(2)]
    ran = [int(process.communicate(timeout=60)[0].split()[-1]) for process in both]
    assert sum(ran) == 20
    assert store.read(tmp_path).equals(standin.reference(SWEEP))


def test_hosts_checks_its_index():
    with pytest.raises(ValueError, match="process 2 of 2; give 0 to 1"):
        launch.hosts("localhost:1", 2, 2)
