"""Shards on the devices: one program for all depths, the two engines alike, each cell a function of itself alone."""

import re

import jax
import numpy as np
import pytest

from dlnjax import sweep as sweeps
from dlnjax.analysis import claims, tables
from dlnjax.sweep import plan
from dlnjax.sweep.compute import batching, columns, execute, session, step_rules, two_layer
from dlnjax.sweep.config import loading
from dlnjax.sweep.driver import run as driver

BASE = {
    "study": "small",
    "kind": "teacher",
    "input_dim": 6,
    "output_dim": 5,
    "singular_values": [1.0, 0.7, 0.5],
    "width": 3,
    "records": 128,
    "max_steps": 5000,
    "start": "haar",
    "step_rule": "middle",
    "step": 0.4,
}


def run(**keys):
    """All shards of a sweep made from keywords: rows in shard order."""
    sweep = loading.grid(**{**BASE, **keys})
    return [row for shard in plan.shards(sweep) for row in execute.shard(sweep, shard).to_pylist()]


@pytest.fixture(scope="module")
def both_engines():
    before = len(session.shared().training)
    found = run(engine=["layers", "reduced"], depth=[2, 3, 5, 9], seed=[0, 1, 2])
    return found, len(session.shared().training) - before


def test_one_compilation_an_engine_whatever_the_depth(both_engines):
    assert both_engines[1] == 2


def test_cells_converge_at_the_predicted_rate(both_engines):
    for row in both_engines[0]:
        assert row["status"] == "converged"
        assert row["predicted_factor"] == pytest.approx(1 - 0.4 * 0.25, abs=1e-13)
        distance, step = np.array(row["curve_distance"]), np.array(row["curve_step"])
        middle = (distance < 1e-5 * distance[0]) & (distance > 1e-9 * distance[0])
        slope = np.polyfit(step[middle], np.log(distance[middle]), 1)[0]
        assert np.exp(slope) == pytest.approx(row["predicted_factor"], abs=2e-3)


def test_layers_and_reduction_agree_cell_by_cell(both_engines):
    cells = {(r["engine"], r["depth"], r["seed"]): r for r in both_engines[0]}
    for depth in (2, 3, 5, 9):
        for seed in (0, 1, 2):
            layers, reduced = cells["layers", depth, seed], cells["reduced", depth, seed]
            np.testing.assert_allclose(layers["curve_distance"], reduced["curve_distance"], atol=1e-12)
            np.testing.assert_allclose(
                layers["curve_gradient_norm"], reduced["curve_gradient_norm"], atol=1e-12
            )
            assert layers["iterations"] == reduced["iterations"]


def test_a_seed_has_one_target_and_start_at_every_depth(both_engines):
    starts = {(r["seed"], r["curve_distance"][0]) for r in both_engines[0]}
    assert len({round(d, 12) for _, d in starts}) == 3


def test_a_cell_does_not_depend_on_its_shard():
    together = {r["cell"]: r for r in run(engine="reduced", depth=[3, 4], seed=[0, 1, 2, 5])}
    alone = run(engine="reduced", depth=4, seed=5)[0]
    twin = together[alone["cell"]]
    np.testing.assert_allclose(alone["curve_distance"], twin["curve_distance"], rtol=1e-9, atol=1e-14)
    assert alone["iterations"] == twin["iterations"]


def test_no_lapack_in_the_training_program_of_the_polar_path():
    for engine in ("layers", "reduced"):
        run(engine=engine, depth=3, seed=0)
    programs = session.shared().training
    assert len(programs) >= 2
    for compiled in programs.values():
        assert not lapack(compiled.call)


def lapack(program):
    """The routines of LAPACK that a compiled program calls."""
    return re.findall(r'custom_call_target="([^"]*lapack[^"]*)"', program.as_text())


#: What draws cells in every way: a teacher's, tall and wide, and those of a data set, tall and wide.
DRAWN = (
    {"width": 3, "output_dim": 5, "start": "near"},
    {"width": 6, "output_dim": 5, "start": "haar", "first_scale": 0.5},
    {"kind": "digits", "width": 5, "start": "near"},
    {"kind": "digits", "width": 12, "start": "haar", "first_scale": 0.5},
)


@pytest.mark.parametrize("keys", DRAWN)
def test_cells_are_drawn_without_lapack_where_they_train_and_starts_have_their_size(keys):
    """On several devices at once LAPACK may wait for itself for ever."""
    teacher = {"kind": "teacher", "input_dim": 6, "singular_values": [1.2, 0.7]}
    defaults = {
        "study": "drawn",
        "step_rule": "fixed",
        "step": 0.1,
        "engine": "reduced",
        "seed": [0, 1, 2, 3],
    }
    sweep = loading.grid(**defaults, **({} if "kind" in keys else teacher), **keys, depth=3)
    lead = sweep.cells()[0]
    assert not lapack(two_layer.program(session.shared(), sweep, lead, 4))
    drawn = two_layer.draw(session.shared(), sweep, sweep.cells(), 4)
    assert len(drawn.start.first.sharding.device_set) == batching.mesh(4).size == jax.local_device_count()
    solution = np.asarray(drawn.problem.optimum if drawn.shared else drawn.problem.target)
    norm = np.linalg.norm(solution, 2, axis=(-2, -1))  # the frame is an isometry on the range of W_1
    moved = [
        np.linalg.norm(np.subtract(a, b), axis=(1, 2))
        for a, b in zip(drawn.solution, drawn.start, strict=True)
    ]
    if keys["start"] == "haar":
        sizes = np.linalg.norm(np.asarray(drawn.start.first), 2, axis=(1, 2))
        np.testing.assert_allclose(sizes, 0.5 * norm, rtol=1e-12)
    else:
        bound = sweep.start.distance / lead.depth
        assert np.all(moved[0] <= bound * norm)
        assert np.all(np.hypot(moved[0] / norm, moved[1]) > 0.3 * bound)


@pytest.mark.parametrize("optimizer", ["rgd", "heavy_ball"])
def test_a_sweep_has_its_own_precision_whatever_the_callers(optimizer):
    with jax.enable_x64(False):
        found = run(engine="layers", optimizer=optimizer, depth=3, seed=[0])
        assert not jax.config.jax_enable_x64
    assert found[0]["status"] == "converged"
    assert found[0]["orthonormality_error"] < 1e-13
    assert found[0]["final_distance"] < 1e-11


def test_a_diverging_cell_leaves_the_others_alone():
    found = run(engine="reduced", depth=3, seed=[0, 1], step=[0.4, 60.0])
    assert [r["status"] for r in found] == ["converged", "converged", "diverged", "diverged"]
    assert all(r["first_bad_step"] is not None and r["reason"] for r in found[2:])
    plain = run(engine="reduced", depth=3, seed=[0, 1])
    for got, want in zip(found, plain, strict=False):
        assert got["iterations"] == want["iterations"]


def test_wide_last_layer_is_predicted_at_the_solution_found(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 6))
    np.savez(
        tmp_path / "data.npz", x=x, y=x @ rng.standard_normal((6, 3)) + 0.1 * rng.standard_normal((40, 3))
    )
    keys = {
        "kind": "file",
        "path": str(tmp_path / "data.npz"),
        "width": 5,
        "engine": "reduced",
        "data": "whitened",
    }
    problem = {k: v for k, v in keys.items() if k in ("kind", "path")}
    base = {k: v for k, v in BASE.items() if k not in ("input_dim", "output_dim", "singular_values", "kind")}
    base |= {"width": 5, "engine": "reduced", "depth": [2, 6], "seed": [0, 1], "step": 0.05}
    sweep = loading.grid(problem=problem, **base)
    for shard in plan.shards(sweep):
        for row in execute.shard(sweep, shard).to_pylist():
            assert row["status"] == "converged"
            assert row["eigenvalue_min"] == pytest.approx(row["step_size"], rel=1e-9)
            assert row["rank"] == 6


def test_shards_hold_every_cell_once_and_one_shard_plans_itself():
    sweep = loading.grid(**{**BASE, "engine": ["layers", "reduced"], "depth": [2, 3], "seed": list(range(5)),
                         "step": [0.1, 0.2, 0.4]})  # fmt: skip
    shards = plan.shards(sweep)
    cells = [cell for shard in shards for cell in shard.cells]
    assert len(cells) == len(set(cells)) == len(sweep.cells())
    for shard in shards:
        assert len({(plan.program(c), c.depth, c.step_rule) for c in shard.cells}) == 1
        assert len(shard.cells) <= shard.batch
        assert [s.name for s in plan.shards(sweep, shard.cells)] == [shard.name]
    assert len({(s.program, s.batch, s.max_depth) for s in shards}) == 2


def test_the_widest_run_first_and_grid_order_holds_among_equals():
    sweep = loading.grid(**{**BASE, "engine": "reduced", "width": [3, 5, 4], "depth": [2, 7, 3], "seed": 0})
    order = [(shard.program.width, shard.cells[0].depth) for shard in plan.shards(sweep)]
    assert order == [(width, depth) for width in (5, 4, 3) for depth in (2, 7, 3)]


@pytest.mark.parametrize(
    ("distance", "expected"),
    [([1.0, 1e-2, 1e-4], 20), ([1.0, 1e-1, 1e-3], 15), ([1.0, 0.5, 0.4], None), ([1.0, 1e-2, 0.0], 10)],
)
def test_iterations_between_records(distance, expected):
    tolerance = 1e-4 if distance[-1] == 1e-4 else 1e-2
    found = columns.iterations(
        np.array([[0, 10, 20]] * 2), np.array([distance, [1.0, 1.0, np.inf]]), tolerance
    )
    assert found.tolist() == [expected, None]


def test_step_rules_come_to_the_predicted_steps():
    for rule, expected in (("fixed", 0.5), ("optimal", 0.5), ("edge", 0.5)):
        sweep = loading.grid(
            **{**BASE, "step_rule": rule, "step": 0.5, "depth": 6, "seed": 0, "engine": "reduced"}
        )
        cells = sweep.cells()
        chosen = step_rules.resolve(sweep, cells, two_layer.draw(session.shared(), sweep, cells, 1))
        rate = chosen.predicted
        unit = {"fixed": 1.0, "optimal": rate.step_optimal[0], "edge": rate.step_max[0]}[rule]
        assert chosen.step_size[0] == pytest.approx(expected * unit, rel=1e-13)
        assert chosen.scales.middle[0] == pytest.approx(1.0, rel=1e-12)
    # closed form: lambda_max = mu (1 + (N-1)(1+q)/2), q = .49
    assert rate.step_max[0] == pytest.approx(2 / (1 + 5 * 1.49 / 2), rel=1e-12)


@pytest.mark.slow
def test_both_engines_are_run_and_their_difference_is_in_summary_and_claims(tmp_path):
    keys = {**BASE, "engine": "both", "depth": 5, "seed": [0, 1], "start": "near", "max_steps": 256}
    sweep = loading.grid(**keys, retraction=["polar", "qr"])
    assert [(c.engine, c.retraction) for c in sweep.cells()] == [
        *[("layers", "polar"), ("reduced", "polar")] * 2, *[("layers", "qr")] * 2
    ]  # fmt: skip
    assert sweep.grids[0].size() == 8
    assert loading.grid(**{**keys, "engine": "auto"}).cells()[0].engine == "reduced"
    plain = loading.grid(**keys)
    assert driver.run(plain, tmp_path).complete
    found = tables.measure(sweeps.read(tmp_path))
    assert [row["engine"] for row in found] == ["layers"] * 2 + ["reduced"] * 2
    curves = [np.array(row["curve_distance"]) for row in found]
    apart = [np.abs(curves[i] - curves[i + 2]).max() for i in (0, 1)]
    assert [row["engine_gap"] for row in found] == [*apart, *apart]
    assert 0 < max(apart) < 1e-13
    assert tables.to_csv(found).splitlines()[0].endswith(",engine_gap")
    (claim,) = claims.engines(found)
    assert claim.verdict == "holds"
    off = {"layers": 1e-9, "reduced": 0.0}
    far = [row | {"curve_distance": np.array(row["curve_distance"]) + off[row["engine"]]} for row in found]
    assert claims.engines(far)[0].verdict == "fails"
