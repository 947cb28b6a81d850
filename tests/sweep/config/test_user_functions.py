"""A user's own functions in a sweep: trained, stored, resumed and named as a config's words; wrong ones are told."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import my_functions as mine
import numpy as np
import optax
import pytest
from cli_cases import call

from dlnjax import optim, sweep
from dlnjax.sweep import plan
from dlnjax.sweep.compute import execute
from dlnjax.sweep.config import loading, registry, user_functions

TEACHER = {"kind": "teacher", "input_dim": 4, "output_dim": 3, "singular_values": [1.0, 0.5]}
BASE = {
    "study": "own", "width": 2, "depth": 2, "seed": [0, 1], "step_rule": "fixed", "step": 0.3, "engine": "auto",
    "max_steps": 128, "records": 128, "start": "haar",
}  # fmt: skip


def made(**keys):
    teacher = {} if "problem" in keys else TEACHER
    return sweep.grid(**{**BASE, **teacher, **keys})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished sweep of own optimizer, start and metrics; what its run reported."""
    out = tmp_path_factory.mktemp("own") / "out"
    return out, sweep.run(
        made(optimizer=mine.clipped, start=mine.small, metrics=[mine.norms], keep_params=True), out
    )


def test_own_functions_train_and_their_metrics_are_columns(folder):
    out, outcome = folder
    assert (outcome.failed, outcome.done) == ({}, 1)
    table = sweep.read(out)
    assert table["optimizer"].to_pylist() == ["my_functions:clipped@1"] * 2
    assert table["layers"].to_pylist() == [2.0, 2.0]
    assert all(row["final_distance"] < 1e-2 * row["curve_distance"][0] for row in table.to_pylist())
    first = sweep.params(out, table.to_pylist()[0])[0]
    assert np.linalg.norm(first) == pytest.approx(table["first_norm"][0].as_py(), rel=1e-12)
    assert len(table["curve_first_norm"][0].as_py()) == 129
    assert table["curve_first_norm"][1][-1].as_py() == table["first_norm"][1].as_py()


def test_the_same_call_resumes_and_another_version_is_another_cell(folder):
    out, _ = folder
    keys = {"start": mine.small, "metrics": [mine.norms], "keep_params": True}
    assert sweep.run(made(optimizer=mine.clipped, **keys), out).ran == 0
    later = made(optimizer=sweep.own(mine.clipped, version=2), **keys)
    assert {c.key() for c in later.cells()}.isdisjoint(
        c.key() for c in made(optimizer=mine.clipped, **keys).cells()
    )
    with pytest.raises(ValueError, match=r"clipped@1.*clipped@2"):
        sweep.run(later, out)


def test_the_folder_is_looked_at_without_the_functions(folder, tmp_path):
    out, _ = folder
    code = "import sys; from dlnjax import cli; code = cli.main(sys.argv[1:]); assert 'my_functions' not in sys.modules"
    for command in ("status", "verify"):
        run = subprocess.run(
            [sys.executable, "-c", f"{code}; sys.exit(code)", command, str(out)],
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
    assert call("report", out)[0] == 0
    code, _, err = call("run", out / "config.toml", "--out", tmp_path / "again")
    assert code == 2
    assert err.count("\n") == 1
    assert "my_functions:clipped@1" in err
    assert "run the script that made it again" in err


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param({"problem": mine.regression, "input_dim": 4, "output_dim": 3}, id="problem"),
        pytest.param(
            {"problem": mine.Fixed(), "input_dim": 4, "output_dim": 3}, id="object", marks=pytest.mark.slow
        ),
        pytest.param({"loss": mine.huber}, id="loss", marks=pytest.mark.slow),
        pytest.param({"activation": mine.softsign, "samples": 9}, id="activation", marks=pytest.mark.slow),
    ],
)
def test_own_problems_losses_and_activations(keys):
    one = made(**keys, seed=0)
    (row,) = execute.shard(one, plan.shards(one)[0]).to_pylist()
    assert row["curve_loss"][-1] < 0.5 * row["curve_loss"][0]
    assert row["predicted_factor"] is None
    assert loading.Reader("x").sweep(_raw(one), ".", True) == one


def _raw(one):
    import tomllib

    return tomllib.loads(one.to_toml())


#: (keys, what is told besides the function's name)
WRONG = {
    "raising": ({"optimizer": mine.raising}, "raised KeyError: 'nothing'; give a function"),
    "no optimizer": ({"optimizer": mine.no_optimizer}, "gave a .*Tracer; give a function"),
    "half updates": ({"optimizer": mine.half_updates}, "updates of another structure.*like the layers"),
    "integers": ({"start": mine.integers}, "a matrix of int.* for W_1; give floating point"),
    "transposed": ({"start": mine.transposed}, r"shape \(4, 2\) for W_1; give an array of shape \(2, 4\)"),
    "too few": ({"start": mine.too_few}, r"a tuple of 1; give a tuple of matrices"),
    "loose": ({"start": mine.loose}, r"W_2 off from orthonormal by .*stiefel.project"),
    "no problem": (
        {"problem": mine.no_problem, "input_dim": 4, "output_dim": 3},
        "gave a int; give a function",
    ),
    "problem's size": ({"problem": mine.regression, "input_dim": 5, "output_dim": 3}, "raised .*; give"),
    "vector loss": ({"loss": mine.vector_loss}, r"float64 of shape \(4,\); give a function"),
    "activation": ({"activation": mine.flat_activation, "samples": 9}, "give an elementwise function"),
    "bare metric": ({"metrics": [mine.bare_metric]}, "give a function params -> dict of numbers"),
    "matrix metric": ({"metrics": [mine.matrix_metric]}, r"shape \(2, 4\) for 'w'"),
    "known column": ({"metrics": [mine.known_column]}, "has a column depth of its own"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_function_is_told_in_one_line(name):
    keys, told = WRONG[name]
    one = made(**keys, seed=0)
    with pytest.raises(sweep.PartError, match=told) as caught:
        execute.shard(one, plan.shards(one)[0])
    assert "\n" not in str(caught.value)
    assert name == "known column" or one.wanted()[0] in str(caught.value)


@pytest.mark.slow
def test_only_the_shard_of_a_wrong_function_fails(tmp_path):
    outcome = sweep.run(made(optimizer=[mine.raising, "rgd"], engine="auto"), tmp_path)
    assert (outcome.done, outcome.shards) == (1, 2)
    (reason,) = outcome.failed.values()
    assert "optimizer my_functions:raising@1: raised KeyError" in reason


def test_lambdas_and_closures_run_in_this_process_only(tmp_path):
    def inner(key, dims):
        return mine.small(key, dims)

    local = made(start=inner, optimizer=[lambda size, scales: mine.clipped(size, scales), "rgd"])
    with pytest.raises(
        sweep.PartError, match=r"inner@1, .*<lambda>@1: .*this process only; put them into a module"
    ):
        sweep.run(local, tmp_path / "x", workers=1)
    assert not (tmp_path / "x").exists()
    user_functions.check(local, elsewhere=False)
    assert all(user_functions.travels(part) for part in made(start=mine.small).functions.values())


def test_an_optimizer_in_the_place_of_a_function_that_makes_one():
    for given in (optim.rgd(0.1), [optim.rgd(0.1), "rgd"], optax.sgd(0.1)):
        with pytest.raises(
            sweep.SpecError, match="an optimizer is given, a function that makes one is needed"
        ):
            made(optimizer=given)


def test_names_that_cannot_be_kept():
    with pytest.raises(sweep.SpecError, match=r"two functions have this name; give one of them another name"):
        made(optimizer=[lambda a, b: 1, lambda a, b: 2])
    with pytest.raises(sweep.SpecError, match=r"partial without a name of its own; wrap it in a def"):
        made(start=partial(mine.small, None))
    with pytest.raises(ValueError, match="give letters, digits, dots"):
        sweep.own(mine.small, version="one two")
    with pytest.raises(TypeError, match="is not a function"):
        sweep.own(3)


#: (keys, key named, what is told)
MISTAKES = {
    "reduced": (
        {"engine": "reduced", "metrics": [mine.norms]},
        "engine",
        "no layers to show to metrics of your own",
    ),
    "near": (
        {"problem": mine.regression, "start": "near", "input_dim": 4, "output_dim": 3},
        "start",
        "known solution",
    ),
    "optimal": ({"loss": mine.huber, "step_rule": "optimal"}, "step_rule", "theory has none for loss"),
    "no dims": ({"problem": mine.regression}, "input_dim", "is missing"),
    "a word": ({"metrics": ["norm"]}, "metrics", '"norm" is not the name of a function'),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_when_the_sweep_is_made(name):
    keys, key, told = MISTAKES[name]
    with pytest.raises(sweep.SpecError) as caught:
        made(**keys)
    assert any(line.startswith(f"sweep.grid: {key}: ") and told in line for line in caught.value.lines)


_SCRIPT = """
import my_functions
from dlnjax import sweep

if __name__ == "__main__":
    study = sweep.grid(study="script", kind="teacher", input_dim=4, output_dim=3, singular_values=[1.0, 0.5], width=2,
                       depth=2, seed=range(3), step_rule="fixed", step=0.3, engine="auto", max_steps=128, records=128,
                       precision="float32", start=my_functions.small, optimizer=my_functions.clipped)
    print(sweep.run(study, "out", workers=2).ran, sweep.read("out").num_rows)
"""


@pytest.mark.slow
def test_a_script_of_ten_lines_with_workers(tmp_path):
    (tmp_path / "study.py").write_text(_SCRIPT)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    for ran in (1, 0):
        run = subprocess.run(
            [sys.executable, "study.py"], capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        assert run.stdout.split() == [str(ran), "3"], run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, row in registry.OPTIMIZERS.items() if row.padded])
def test_padding_changes_nothing(name):
    """Layers that fill a program up to the deepest cell leave the others as they are."""
    keys = {"optimizer": name, "seed": 0, "start": "identity", "max_steps": 128}
    with jax.numpy_dtype_promotion("standard"):  # optax's own Adam promotes
        both = made(**keys, depth=[3, 5])
        shards = plan.shards(both)
        assert len({shard.program for shard in shards}) == 1
        rows = {r["depth"]: r for shard in shards for r in execute.shard(both, shard).to_pylist()}
        alone = made(**keys, depth=3, metrics=[mine.norms])  # unpadded: a metric sees the layers
        (row,) = execute.shard(alone, plan.shards(alone)[0]).to_pylist()
    np.testing.assert_allclose(row["curve_distance"], rows[3]["curve_distance"], rtol=1e-7, atol=1e-12)
