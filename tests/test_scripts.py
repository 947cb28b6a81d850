"""The scripts on a machine with nothing but a Python, played by stand-ins; spaces in the path."""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run"]
TOOLS = ["cat", "cksum", "dirname", "sed", "head", "sh", "mkdir", "cp", "chmod"]
# A Python that makes a virtual environment of recorders, which write down how they are called.
PYTHON = """#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p .venv/bin; cp "$RECORDER" .venv/bin/python; cp "$RECORDER" .venv/bin/dlnjax ;;
  "--version ") echo "Python 3.11.0" ;;
esac
"""
RECORDER = """#!/bin/sh
case "$1" in -c) exit 0 ;; esac
echo "$(cd "$(dirname "$0")" && pwd): $*" >> "$RECORD"
"""


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A checkout under a path with spaces, and a PATH with a stand-in for Python and a few tools."""
    root, tools = tmp_path / "a checkout", tmp_path / "bin"
    for name in ["scripts", "configs", ".ci"]:
        shutil.copytree(ROOT / name, root / name)
    for name in ["constraints.txt", "pyproject.toml"]:
        shutil.copy(ROOT / name, root / name)
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name))
    (tools / "python3").write_text(PYTHON)
    (tools / "python3").chmod(0o755)
    (tmp_path / "recorder").write_text(RECORDER)
    (tmp_path / "recorder").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setenv("RECORDER", str(tmp_path / "recorder"))
    monkeypatch.setenv("RECORD", str(tmp_path / "record"))
    return root


def call(script, *arguments, cwd="/"):
    return subprocess.run([str(script), *arguments], capture_output=True, text=True, cwd=cwd, timeout=30)


def record(root):
    """What was called since the last look, and where from."""
    file = root.parent / "record"
    found = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    assert all(line.startswith(f"{root}/.venv/bin: ") for line in found)
    return [line.removeprefix(f"{root}/.venv/bin: ") for line in found]


def test_study_sets_up_runs_depth_rate_and_is_quick_the_second_time(fresh):
    assert call(fresh / "scripts" / "study").returncode == 0
    *installs, run = record(fresh)
    assert [".[all]" in line for line in installs] == [False, True]
    assert all("--constraint constraints.txt" in line for line in installs)
    assert run == f"run {fresh}/configs/depth_rate.toml --out {fresh}/results/depth_rate"
    begin = time.monotonic()
    assert call(fresh / "scripts" / "study").returncode == 0
    assert time.monotonic() - begin < 2
    assert record(fresh) == [run]


def test_study_takes_a_config_and_options(fresh):
    call(fresh / "scripts" / "study", "configs/smoke.toml", "--set", "seed=[1, 2]", cwd=fresh)
    with (ROOT / "configs" / "smoke.toml").open("rb") as handle:
        study = tomllib.load(handle)["study"]
    assert record(fresh)[-1] == f"run configs/smoke.toml --out {fresh}/results/{study} --set seed=[1, 2]"
    call(fresh / "scripts" / "study", "--quiet")
    assert record(fresh)[-1].endswith("results/depth_rate --quiet")


def test_study_all_reproduces_what_is_committed(fresh):
    assert call(fresh / "scripts" / "study", "--all", "--fast").returncode == 0
    assert record(fresh)[-1] == "reproduce --fast"


def test_changed_pins_are_installed(fresh):
    call(fresh / "scripts" / "setup", "study")
    record(fresh)
    call(fresh / "scripts" / "setup", "study")
    assert record(fresh) == []
    with (fresh / "constraints.txt").open("a") as handle:
        handle.write("more==1\n")
    call(fresh / "scripts" / "setup", "study")
    assert len(record(fresh)) == 2


def test_a_moved_checkout_is_set_up_again(fresh):
    call(fresh / "scripts" / "setup", "study")
    record(fresh)
    moved = fresh.rename(fresh.parent / "moved here")
    call(moved / "scripts" / "setup", "study")
    assert len(record(moved)) == 2


def test_tests_run_on_two_processes_after_setup(fresh):
    call(fresh / "scripts" / "test", "-x")
    *installs, run = record(fresh)
    assert "--group dev" in installs[-1]
    assert run == "-m pytest -n 2 --dist loadscope -m not slow -x"


def test_ci_checks_style_types_and_tests(fresh):
    assert call(fresh / ".ci" / "run").returncode == 0
    calls = [line for line in record(fresh) if "pip" not in line]
    assert [line.split()[1] for line in calls] == ["ruff", "ruff", "pyright", "--fast", "pytest"]


def test_without_python_the_remedy_is_named(fresh):
    (fresh.parent / "bin" / "python3").unlink()
    found = call(fresh / "scripts" / "study")
    assert found.returncode == 2
    assert "PYTHON=/path/to/python" in found.stderr
    assert not (fresh / ".venv").exists()


def test_a_named_python_is_taken(fresh):
    other = fresh.parent / "my python"
    (fresh.parent / "bin" / "python3").rename(other)
    os.environ["PYTHON"] = str(other)
    try:
        assert call(fresh / "scripts" / "setup", "study").returncode == 0
    finally:
        del os.environ["PYTHON"]


def test_this_python_is_good_enough():
    assert sys.version_info >= (3, 11)


def test_constraints_are_pins_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line) for line in lines)
    names = [line.split("==")[0].lower().replace("_", "-") for line in lines]
    assert len(set(names)) == len(names)
    with (ROOT / "pyproject.toml").open("rb") as handle:
        project = tomllib.load(handle)
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *(d for name in extras for d in extras[name])]
    wanted = {re.split(r"[^A-Za-z0-9_-]", d)[0].lower().replace("_", "-") for d in wanted} - {
        "dlnjax",
        "torch",
    }
    assert wanted <= set(names), f"no pin for {sorted(wanted - set(names))}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
def test_scripts_can_be_executed_and_parsed(script):
    assert os.access(script, os.X_OK)
    assert subprocess.run(["sh", "-n", str(script)]).returncode == 0
