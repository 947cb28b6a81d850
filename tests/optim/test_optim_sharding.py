"""Sharded matrices on four devices: what the compiled step exchanges; and training under shard_map's defaults."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
P = 1024


@pytest.fixture(scope="module")
def report():
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(HERE / "sharded_steps.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def of(report, kind):
    return {name: step for name, step in report["steps"].items() if name.endswith(kind)}


@pytest.mark.parametrize("kind", ["rows", "stack", "columns"])
def test_every_recipe_keeps_the_sharding(report, kind):
    steps = of(report, kind)
    assert len(steps) == 9
    assert all(step["kept"] for step in steps.values())


def test_rows_need_sums_of_p_by_p_alone(report):
    for name, step in of(report, "rows").items():
        assert {kind for kind, _ in step["exchanged"]} == {"all-reduce"}, name
        assert max(size for _, size in step["exchanged"]) <= P * P, name


def test_stacks_exchange_nothing_but_whether_to_go_on(report):
    for name, step in of(report, "stack").items():
        assert all(kind == "all-reduce" and size == 1 for kind, size in step["exchanged"]), name


def test_columns_are_exchanged_and_never_gathered(report):
    for name, step in of(report, "columns").items():
        assert not [size for kind, size in step["exchanged"] if kind == "all-gather"], name
        assert {kind for kind, _ in step["exchanged"]} <= {
            "all-reduce",
            "all-to-all",
            "collective-permute",
        }, name


def test_training_under_shard_map_is_that_under_vmap(report):
    assert len(report["trained"]) == 5
    assert max(report["trained"].values()) < 1e-3


def test_explicit_meshes_take_the_same_step_and_keep_the_division(report):
    assert len(report["explicit"]) == 9
    for name, step in report["explicit"].items():
        assert step["kept"], name
        assert step["gap"] < 1e-6, name
