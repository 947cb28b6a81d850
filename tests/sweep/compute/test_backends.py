"""Every backend keeps the protocol, on the same cells: what it draws has its shapes, what it trains its rate."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax.network import end_to_end
from dlnjax.sweep import plan
from dlnjax.sweep.compute import execute, step_rules
from dlnjax.sweep.compute.backends import BACKENDS
from dlnjax.sweep.compute.session import Session
from dlnjax.sweep.config import loading

KEYS = {
    "study": "backends", "kind": "teacher", "input_dim": 5, "output_dim": 4, "singular_values": [1.0, 0.7],
    "width": 2, "depth": 4, "records": 128, "max_steps": 1000, "start": "near", "step_rule": "middle",
    "step": 0.5, "engine": "layers", "seed": [0, 1, 2], "keep_params": True,
}  # fmt: skip


def shard_for(backend, sweep):
    """The sweep's one shard, to be run by ``backend`` whichever the plan would take."""
    (shard,) = plan.shards(sweep)
    lead = plan.general(shard.cells[0], padded=False)
    return replace(shard, program=lead if backend == "general" else replace(shard.program, engine=backend))


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def trained(request):
    """A backend's name, the sweep, its shard, and the rows of three cells."""
    sweep = loading.grid(**KEYS)
    shard = shard_for(request.param, sweep)
    return request.param, sweep, shard, execute.shard(sweep, shard, kept=Session())


def test_what_is_drawn_has_the_shapes_of_the_protocol(trained):
    backend, sweep, shard, _ = trained
    for cells in (shard.cells, shard.cells[:1]):
        drawn, count = BACKENDS[backend].draw(Session(), sweep, cells, shard), len(cells)
        assert drawn.unit.shape == drawn.norms.shape == (count,)
        np.testing.assert_allclose(drawn.norms, 1.0, rtol=1e-12)  # the teacher's largest singular value
        assert len(drawn.keys) == shard.batch
        assert drawn.rank == 2
        assert drawn.num_middle == 2  # W_2 and W_3 between the free and the last layer


def test_settings_follow_the_rule_whoever_drew_the_cells(trained):
    backend, sweep, shard, _ = trained
    drawn = BACKENDS[backend].draw(Session(), sweep, shard.cells, shard)
    settings = step_rules.resolve(sweep, shard.cells, drawn)
    np.testing.assert_allclose(settings.step_size, 0.5)
    np.testing.assert_allclose(settings.scales.middle, 1 / 2, rtol=1e-12)
    np.testing.assert_allclose(settings.scales.last, 1.0, rtol=1e-12)
    # closed form: lambda_min = mu sigma_2^2, lambda_max = mu (1 + ((N - 2) mu' + mu_N) (1 + q) / 2)
    np.testing.assert_allclose(settings.predicted.eigenvalue_min, 0.5 * 0.49, rtol=1e-9)
    np.testing.assert_allclose(settings.predicted.eigenvalue_max, 0.5 * (1 + 1.49), rtol=1e-9)


def test_cells_converge_at_the_predicted_rate(trained):
    *_, table = trained
    for row in table.to_pylist():
        assert row["status"] == "converged"
        assert row["predicted_factor"] == pytest.approx(1 - 0.5 * 0.49, abs=1e-9)
        distance, step = np.array(row["curve_distance"]), np.array(row["curve_step"])
        late = (distance < 1e-6 * distance[0]) & (distance > 1e-11 * distance[0])
        slope = np.polyfit(step[late], np.log(distance[late]), 1)[0]
        assert np.exp(slope) == pytest.approx(row["predicted_factor"], rel=0.02)


def test_the_trained_layers_have_the_product_that_was_measured(trained):
    backend, _, _, table = trained
    shapes = [(2, 5), (4, 2)] if backend == "reduced" else [(2, 5), (2, 2, 2), (4, 2)]
    for row in table.to_pylist():
        leaves = [np.array(row[name]) for name in table.column_names if name.startswith("params_")]
        params = tuple(jnp.asarray(leaf.reshape(shape)) for leaf, shape in zip(leaves, shapes, strict=True))
        values = np.linalg.svd(np.asarray(end_to_end(params)), compute_uv=False)
        np.testing.assert_allclose(values[:2], [1.0, 0.7], atol=1e-10)


def test_no_backend_leaves_a_column_out(trained):
    *_, table = trained
    whole = {name for name in table.column_names if table[name].null_count == 0}
    assert {"step_size", "scale_middle", "predicted_factor", "step_max", "rank", "iterations"} <= whole
