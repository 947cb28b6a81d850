"""A short version of the campaign of injected faults (``scripts/faults --injected`` runs it in full)."""

import subprocess
import sys
from pathlib import Path

import faults
import forks
import pytest
import standin

from dlnjax.sweep.driver import run as driver

TESTS = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["SIGKILL, 2", "extend", "hard links", "SIGSTOP", "disk", "export csv"])
def test_nothing_is_lost(kind):
    command = [sys.executable, str(TESTS / "injections.py"), "--scale", "0.05", "--only", kind]
    paths = {"PYTHONPATH": f"{TESTS.parent}"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=280, env={**faults.os.environ, **paths}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-2].split()[1]) >= 1


def test_the_judge_can_condemn(tmp_path, monkeypatch):
    options = {"planner": standin.planner, "work": standin.work}
    driver.run(faults.sweep_of(4), tmp_path, **options)
    assert forks.judge(tmp_path, 4) == 0
    assert forks.VERDICTS[forks.judge(tmp_path, 5)] == "lost"
    (tmp_path / "claims").mkdir(exist_ok=True)
    (tmp_path / "claims" / "junk").touch()
    assert forks.VERDICTS[forks.judge(tmp_path, 4)] == "unsound"
    twice = standin.reference(faults.sweep_of(4))
    monkeypatch.setattr(forks.store, "read", lambda out: twice.take([0, *range(len(twice))]))
    assert forks.VERDICTS[forks.judge(tmp_path, 4)] == "doubled"
    monkeypatch.setattr(forks.store, "read", lambda out: twice.set_column(1, "depth", twice["seed"]))
    assert forks.VERDICTS[forks.judge(tmp_path, 4)] == "wrong"
