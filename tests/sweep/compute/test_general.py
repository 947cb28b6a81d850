"""Parts of a cell beyond plain linear networks: every word trains, theory's rate is met, keys of plain cells stay."""

import json
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax import network
from dlnjax.losses import WeightedSquare
from dlnjax.sweep import plan
from dlnjax.sweep.compute import execute, layers, problems
from dlnjax.sweep.config import loading, registry
from dlnjax.theory import hessian

ROOT = Path(__file__).parents[3]
BASE = {
    "study": "parts", "kind": "teacher", "input_dim": 4, "output_dim": 4, "singular_values": [1.0, 0.6], "width": 2,
    "records": 128, "max_steps": 640, "start": "near", "step_rule": "fixed", "step": 0.2, "engine": "auto",
    "depth": 3, "seed": [0, 1], "samples": 20,
}  # fmt: skip


def rows(**keys):
    """All cells of a sweep made from keywords; optax's own Adam, on free layers, promotes."""
    sweep = loading.grid(**{**BASE, **keys})
    with jax.numpy_dtype_promotion("standard"):
        return _rows(sweep)


def _rows(sweep):
    return [row for shard in plan.shards(sweep) for row in execute.shard(sweep, shard).to_pylist()]


def some_slow(names, quick):
    """Parameters of which only the quick ones run by default."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize(
    "name",
    some_slow([name for name in registry.OPTIMIZERS if name not in ("rgd", "gd")], ("heavy_ball", "adam")),
)
def test_every_optimizer_trains(name):
    (row,) = rows(optimizer=name, momentum=0.5, seed=0, engine="layers")
    assert row["final_distance"] < 0.2 * row["curve_distance"][0]
    assert row["orthonormality_error"] < (1e-12 if registry.OPTIMIZERS[name].exact else 0.05)
    assert (row["predicted_factor"] is None) == (name != "heavy_ball")
    assert row["momentum"] == (0.5 if registry.OPTIMIZERS[name].momentum else 0.0)


def test_the_reduction_carries_the_momentum_of_heavy_ball():
    found = rows(optimizer="heavy_ball", momentum=[0.3, 0.7], seed=0, depth=[2, 4], engine="both")
    by = {(row["depth"], row["momentum"], row["engine"]): row for row in found}
    assert len(by) == 8
    assert [cell.engine for cell in loading.grid(**BASE, optimizer="heavy_ball").cells()] == 2 * ["reduced"]
    for depth, momentum in ((2, 0.3), (4, 0.3), (2, 0.7), (4, 0.7)):
        one, two = by[depth, momentum, "layers"], by[depth, momentum, "reduced"]
        gap = np.subtract(one["curve_distance"], two["curve_distance"])
        np.testing.assert_allclose(gap, 0, atol=1e-12 * one["curve_distance"][0])
        for name in ("predicted_factor", "step_max", "eigenvalue_max", "iterations"):
            assert one[name] == pytest.approx(two[name], rel=1e-9), name


def slope(row):
    """The factor per step over the last stretch above rounding."""
    d, step = np.array(row["curve_distance"]), np.array(row["curve_step"])
    last = int(np.flatnonzero(d > 1e-11 * d[0])[-1])
    first = last * 2 // 3
    return (d[last] / d[first]) ** (1 / (step[last] - step[first]))


#: (keys, tolerance of the measured factor, relative to 1 - predicted)
MET = {
    "heavy ball": ({"optimizer": "heavy_ball", "momentum": 0.3, "start": "haar"}, 0.05),
    "last free": ({"free": "last"}, 0.02),
    "middle free": ({"free": "middle"}, 0.02),
    "identity": ({"start": "identity"}, 0.05),
    "weighted": ({"loss": "weighted", "condition": 2.0, "step": 0.4}, 0.02),
    "sensing": ({"loss": "sensing", "step": 0.4}, 0.05),
    "logistic": ({"loss": "logistic", "step": 0.4}, 0.05),
    "listed": ({"width": [[3, 2]]}, 0.02),
    "noise": ({"label_noise": 0.1}, 0.02),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", some_slow(MET, ("last free", "weighted", "listed")))
def test_theory_s_rate_is_met(name):
    keys, tolerance = MET[name]
    for row in rows(**keys, seed=0, max_steps=1280, tolerance=1e-6):
        assert row["status"] == "converged", row["reason"]
        assert slope(row) == pytest.approx(
            row["predicted_factor"], abs=tolerance * (1 - row["predicted_factor"])
        )


def test_activations_keep_their_spectrum_and_their_rate_is_that_of_the_outputs():
    (row,) = rows(activation="tanh", distance=0.01, seed=0, depth=2)
    assert 0 < row["eigenvalue_min"] < 0.2 * row["step_size"] * 20
    assert row["step_size"] == pytest.approx(0.2 / 20)


@pytest.mark.slow
def test_no_rate_where_the_solution_of_an_activation_is_not_known():
    (row,) = rows(activation="tanh", label_noise=0.1, depth=2, seed=0, max_steps=128)
    assert row["predicted_factor"] is None
    assert row["eigenvalue_min"] is None


@pytest.mark.slow
def test_a_step_may_be_a_part_of_the_best_one_with_an_activation():
    (relu,) = rows(activation="relu", distance=0.01, seed=0, depth=2, step_rule="optimal", step=0.5)
    assert relu["step_size"] == pytest.approx(0.5 * relu["step_optimal"])
    assert relu["final_loss"] < relu["curve_loss"][0]


@pytest.mark.slow
def test_all_orthonormal_floors_where_theory_says():
    (row,) = rows(free="none", start="haar", seed=0, depth=2, width=4, max_steps=1280)
    assert row["final_loss"] == pytest.approx(0.5 * (0.4**2 + 1 + 1), rel=1e-6)  # sum (1 - sigma)^2 / 2
    assert row["predicted_factor"] is None


def test_mini_batches_end_in_noise_that_is_no_divergence():
    found = rows(batch_size=5, label_noise=0.3, seed=0)
    assert [row["status"] for row in found] == ["out_of_steps"]
    assert found[0]["predicted_factor"] is None


@pytest.mark.slow
def test_mini_batches_without_noise_converge():
    (clean,) = rows(batch_size=10, seed=0)
    assert clean["final_distance"] < 1e-2 * clean["curve_distance"][0]


@pytest.mark.slow
def test_gaussian_and_balanced_starts_are_for_free_layers():
    found = rows(start=["gaussian", "balanced"], optimizer="gd", seed=0, max_steps=1280)
    assert all(row["final_distance"] < 1e-3 * row["curve_distance"][0] for row in found)


@pytest.mark.slow
def test_a_cell_does_not_depend_on_its_shard():
    together = {row["cell"]: row for row in rows(optimizer="adam", seed=[0, 1, 2], max_steps=128)}
    (alone,) = rows(optimizer="adam", seed=2, max_steps=128)
    np.testing.assert_allclose(alone["curve_distance"], together[alone["cell"]]["curve_distance"], rtol=1e-9)


# --- the pieces -------------------------------------------------------------------------------------


@pytest.mark.parametrize("free", [0, 1, 2])
@pytest.mark.parametrize("dims", [(4, 2, 2, 5), (4, 2, 3, 5), (5, 4, 2, 3), (4, 2, 5, 3)])
def test_solution_has_the_product_and_orthonormal_layers(dims, free):
    keys = jax.random.split(jax.random.key(3), 2)
    low = [np.asarray(m) for m in layers.normal(keys, [(dims[-1], 2), (2, dims[0])])]
    target = low[0] @ low[1]
    made = layers.solution(target, layers.haar(keys, dims), free)
    product = made[0]
    for layer in made[1:]:
        product = layer @ product
    np.testing.assert_allclose(product, target, atol=1e-12)
    rounded = layers.solution(target.astype(np.float32), made, free)  # of full rank by its rounding
    assert [w.shape for w in rounded] == [w.shape for w in made]
    for i, w in enumerate(made):
        gram = w @ np.swapaxes(w, 1, 2) if w.shape[1] < w.shape[2] else np.swapaxes(w, 1, 2) @ w
        assert i == free or np.max(np.abs(gram - np.eye(gram.shape[1]))) < 1e-13


def test_widths_and_paces():
    assert registry.widths("growing", 2, 4, 9, 8) == (9, 2, 4, 6, 8)
    assert registry.widths("shrinking", 2, 4, 8, 9) == (8, 6, 4, 2, 9)
    assert registry.widths("4-6-5", 4, 4, 8, 9) == (8, 4, 6, 5, 9)
    assert registry.pace("first", 4) == (0, 1, 1, 2)
    assert registry.pace("middle", 5) == (2, 1, 0, 1, 2)
    assert registry.held("gd", "first", 3) == (False, False, False)


def test_forecasts_agree_with_automatic_differentiation():
    keys = jax.random.split(jax.random.key(5), 1)
    target = layers.normal(keys, [(4, 2)])[0] @ layers.normal(keys, [(2, 3)])[0]
    net = tuple(jnp.asarray(w[0]) for w in layers.solution(target, layers.haar(keys, (3, 2, 2, 4)), 0))
    loss = WeightedSquare(jnp.asarray(target[0]), jnp.linspace(0.5, 1, 12).reshape(4, 3))
    given = {"step_size": 0.1, "scales": (1.0, 0.5, 0.25)}
    ours, theirs = hessian.predict_product(net, loss, **given), hessian.predict_hessian(net, loss, **given)
    assert ours.factor == pytest.approx(theirs.factor, abs=1e-12)
    x = jnp.asarray(layers.normal(keys, [(3, 7)])[0][0])
    given["zero"] = (
        1e-10  # as the sweep counts: one direction is lifted to 2e-15 here, and refused without it
    )
    ours = hessian.predict_network(net, x, jnp.tanh, **given)
    theirs = hessian.predict_outputs(net, lambda w: network.forward(w, x, jnp.tanh), **given)
    assert ours.eigenvalue_min == pytest.approx(theirs.eigenvalue_min, rel=1e-9)
    assert ours.eigenvalue_max == pytest.approx(theirs.eigenvalue_max, rel=1e-12)


def test_logistic_labels_make_the_teacher_the_minimiser():
    target = jnp.asarray([[0.6, 0.0], [0.2, -0.5]])
    made = problems._logistic(jax.random.key(0), target, samples=30, condition=4.0)
    np.testing.assert_allclose(made.product_gradient(target), np.zeros((2, 2)), atol=1e-12)


# --- keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("study", ["depth_rate", "digits_rate", "mnist_rate"])
def test_committed_results_keep_their_keys(study):
    folder = ROOT / "results" / study
    found = json.loads((folder / "manifest.json").read_text())
    sweep = loading.load(folder / "config.toml", check_data=False)
    assert sweep.hash() == found["config_hash"]
    assert [cell.key()[:16] for cell in sweep.cells()] == found["cells"]
    assert sweep.to_toml() == (folder / "config.toml").read_text()


def test_parts_written_at_their_default_change_nothing():
    plain = {
        "free": "first",
        "activation": "linear",
        "loss": "square",
        "batch_size": 0,
        "label_noise": 0,
        "momentum": 0.3,
    }
    assert loading.grid(**BASE, **plain).hash() == loading.grid(**BASE).hash()


def test_every_part_makes_another_cell():
    keys = {
        "activation": "tanh", "free": "last", "loss": "weighted", "profile": "growing", "batch_size": 3,
        "label_noise": 0.1, "optimizer": "adam", "start": "identity",
    }  # fmt: skip
    names = {
        loading.grid(**{**BASE, "seed": 0, name: value}).cells()[0].key() for name, value in keys.items()
    }
    assert len(names) == len(keys)
    heavy = loading.grid(**{**BASE, "seed": 0}, optimizer=["heavy_ball", "rgd"], momentum=[0.2, 0.4])
    assert [cell.momentum for cell in heavy.cells()] == [0.2, 0.4, 0.0]
    assert loading.Reader("x").sweep(tomllib.loads(heavy.to_toml()), ".", True) == heavy
