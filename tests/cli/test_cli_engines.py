"""The engines of ``dlnjax run``, each with real processes: workers, Dask, submitit, jax.distributed."""

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import faults
import pytest
from cli_cases import call

from dlnjax.cli import parser
from dlnjax.sweep import store
from dlnjax.sweep.driver import executors
from dlnjax.sweep.store import verify

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "tiny.toml"
    file.write_text(faults.teacher(grids=[{"depth": [2, 3, 4], "seed": [0]}], step=[0.01]).to_toml())
    return file


def ran(config, out, *options, number=1):
    """Processes of the command side by side; they must end well with a complete, sound folder."""
    command = [sys.executable, "-m", "dlnjax", "run", str(config), "--out", str(out), "--quiet"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    some = [
        subprocess.Popen(
            [*command, *(word.format(i=i) for word in options)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(number)
    ]  # fmt: skip
    said = [process.communicate(timeout=200) for process in some]
    assert [process.returncode for process in some] == [0] * number, said
    verdict = verify.verify(out)
    assert verdict.sound
    assert verdict.done == 3
    assert set(store.read(out, ["status"])["status"].to_pylist()) <= {"converged", "out_of_steps"}
    return said


def test_a_dask_cluster_here(config, tmp_path):
    pytest.importorskip("distributed")
    ran(config, tmp_path / "out", "--dask")


def test_slurm_jobs_as_local_processes(config, tmp_path):
    pytest.importorskip("submitit")
    said = ran(config, tmp_path / "out", "--slurm", "2", "--slurm-option", "cluster=local")
    assert "submitted 2 runners" in said[0][0]
    assert list((tmp_path / "out" / "slurm").glob("*.out"))


def test_two_hosts(config, tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    ran(config, tmp_path / "out", "--hosts", f"localhost:{port}", "2", "{i}", number=2)


def test_options_reach_the_engine():
    args = parser.parse(["run", "a.toml", "--workers", "3", "--timeout", "9"])
    assert (args.workers, args.timeout) == (3, 9.0)
    args = parser.parse(["run", "--dask", "a.toml"])
    assert (args.config, args.dask) == ("a.toml", "local")
    args = parser.parse(["run", "a.toml", "--dask", "tcp://h:1"])
    assert args.dask == "tcp://h:1"
    args = parser.parse(
        [
            "run",
            "a.toml",
            "--slurm",
            "4",
            "--slurm-option",
            "slurm_partition=x",
            "--slurm-option",
            "timeout_min=9",
        ]
    )
    assert dict(args.slurm_option) == {"slurm_partition": "x", "timeout_min": 9}
    assert parser.parse(["run", "a.toml", "--hosts", "h:1", "4", "3"]).hosts == ("h:1", 4, 3)


@pytest.mark.parametrize(
    ("option", "module", "extra"),
    [(["--dask"], "distributed", "dlnjax[dask]"), (["--slurm", "2"], "submitit", "dlnjax[slurm]")],
)
def test_a_missing_extra_is_named(config, tmp_path, monkeypatch, option, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    code, _, said = call("run", config, "--out", tmp_path / "out", *option)
    assert code == 2
    assert extra in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--slurm", "2"], "--slurm: Could not detect"),
        (["--slurm", "1", "--slurm-option", "cluster=local", "--slurm-option", "nonsense=1"], "nonsense"),
        (
            ["--dask", "nonsense"],
            "--dask: missing port number in address 'nonsense'; give the address of a running",
        ),
    ],
)
def test_a_cluster_that_is_not_there_is_told_in_a_line(config, tmp_path, options, told):
    for module in ("submitit", "distributed"):
        pytest.importorskip(module)
    code, out, err = call("run", config, "--out", tmp_path / "out", *options)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_as_many_shards_in_flight_as_dask_can_run(monkeypatch):
    class Client:
        def __init__(self, address, **options):
            self.address = address

        def nthreads(self):
            return {"a": 2, "b": 3}

        def get_executor(self, pure):
            return SimpleNamespace(pure=pure)

        def close(self):
            pass

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(Client=Client))
    pool, close = executors.dask("tcp://h:1")
    assert (pool.slots, pool.pure) == (5, False)
    close()
