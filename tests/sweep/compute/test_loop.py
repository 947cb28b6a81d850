"""Runs in pieces: interrupted, kept, resumed and done with the same bits; weights kept in the store."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from dlnjax import network
from dlnjax import sweep as sweeps
from dlnjax.sweep import plan, store
from dlnjax.sweep.compute import batching, execute, loop, session
from dlnjax.sweep.config import loading
from dlnjax.sweep.driver import run as driver
from dlnjax.sweep.store import checkpoints, schema, verify

BASE = {
    "study": "pieces",
    "kind": "teacher",
    "input_dim": 4,
    "output_dim": 3,
    "singular_values": [1.0, 0.6],
    "width": 2,
    "records": 128,
    "max_steps": 1000,
    "start": "haar",
    "step_rule": "middle",
    "step": 0.3,
    "depth": 5,
    "seed": [0, 1],
}


def made(**keys):
    sweep = loading.grid(**{**BASE, **keys})
    (shard,) = plan.shards(sweep)
    return sweep, shard


def compared(table):
    return table.drop_columns(["seconds"]).to_pydict()


@pytest.fixture(params=["layers", "reduced"])
def piece(request, monkeypatch):
    """A sweep of one shard, in pieces of a few records each."""
    monkeypatch.setattr(loop, "_length", lambda pace, records: 9)
    return made(engine=request.param)


@pytest.mark.slow
def test_pieces_make_the_same_bits_and_one_program(piece, monkeypatch):
    sweep, shard = piece
    in_pieces = execute.shard(sweep, shard)
    before = len(session.shared().training)
    monkeypatch.setattr(loop, "_length", lambda pace, records: records)
    whole = execute.shard(sweep, shard)
    assert compared(in_pieces) == compared(whole)
    assert len(session.shared().training) == before
    assert set(whole["status"].to_pylist()) == {"converged"}


class Stops(checkpoints.Checkpoint):
    """Checkpoints of a process that ends behind the third checkpoint."""

    def save(self, state):
        super().save(state)
        self.saved = getattr(self, "saved", 0) + 1
        if self.saved == 3:
            raise KeyboardInterrupt


def test_a_killed_shard_resumes_inside_with_the_same_bits(piece, tmp_path, monkeypatch):
    sweep, shard = piece
    calm = execute.shard(sweep, shard)
    with pytest.raises(KeyboardInterrupt):
        execute.shard(sweep, shard, Stops(tmp_path, shard.name, every=0))
    checkpoint = checkpoints.Checkpoint(tmp_path, shard.name)
    assert int(checkpoint.load()["done"]) == 27
    ran = []
    call = loop.np.int32
    monkeypatch.setattr(loop.np, "int32", lambda n: ran.append(int(n)) or call(n))
    assert compared(execute.shard(sweep, shard, checkpoint)) == compared(calm)
    assert ran[0] == 27


@pytest.mark.parametrize("spoil", ["interval", "shape", "missing"])
def test_a_checkpoint_of_another_run_is_not_used(piece, tmp_path, spoil):
    sweep, shard = piece
    calm = execute.shard(sweep, shard)
    with pytest.raises(KeyboardInterrupt):
        execute.shard(sweep, shard, Stops(tmp_path, shard.name, every=0))
    checkpoint = checkpoints.Checkpoint(tmp_path, shard.name)
    state = checkpoint.load()
    if spoil == "interval":
        state["interval"] = state["interval"] + 1
        state["leaf_0"] = state["leaf_0"] + 1  # would be seen if it were used
    elif spoil == "shape":
        state["leaf_0"] = state["leaf_0"][:1]
    else:
        del state["leaf_3"]
    checkpoint.save(state)
    assert compared(execute.shard(sweep, shard, checkpoint)) == compared(calm)


@pytest.mark.parametrize("behind", [False, True])
def test_ctrl_c_keeps_what_is_done(piece, tmp_path, monkeypatch, behind):
    sweep, shard = piece
    calm = execute.shard(sweep, shard)
    monkeypatch.setattr(loop, "_WORTH_KEEPING", 0.0)
    count, ready = 0, loop.jax.block_until_ready

    def interrupted(value):
        nonlocal count
        count += 1
        if behind:
            ready(value)
        if count == 4:
            raise KeyboardInterrupt
        return ready(value)

    with monkeypatch.context() as patch:
        patch.setattr(loop.jax, "block_until_ready", interrupted)
        with pytest.raises(KeyboardInterrupt):
            execute.shard(sweep, shard, checkpoints.Checkpoint(tmp_path, shard.name))
    checkpoint = checkpoints.Checkpoint(tmp_path, shard.name)
    assert int(checkpoint.load()["done"]) == 36
    assert compared(execute.shard(sweep, shard, checkpoint)) == compared(calm)


def test_the_driver_forgets_a_checkpoint_when_the_shard_is_stored(piece, tmp_path):
    sweep, shard = piece
    with pytest.raises(KeyboardInterrupt):
        execute.shard(sweep, shard, Stops(tmp_path, shard.name, every=0))
    assert list(tmp_path.rglob("*.npz"))
    assert driver.run(sweep, tmp_path).complete
    assert not list(tmp_path.rglob("*.npz"))


def test_pieces_follow_the_pace():
    assert loop._length(0, 256) == 8
    assert loop._length(0, 20) == 1
    assert loop._length(10.0, 256) == 1
    assert loop._length(0.01, 256) == 100
    assert loop._length(1e-9, 256) == 256


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "shapes"),
    [
        ({"engine": "layers"}, [(2, 4), (3, 2, 2), (3, 2)]),
        ({"engine": "layers", "depth": 2}, [(2, 4), (3, 2)]),
        ({"engine": "layers", "retraction": "qr"}, [(2, 4), (3, 2, 2), (3, 2)]),
        ({"engine": "reduced"}, [(2, 4), (3, 2)]),
    ],
)
def test_kept_weights_are_the_trained_ones(tmp_path, keys, shapes):
    sweep = loading.grid(**{**BASE, **keys, "keep_params": True})
    assert driver.run(sweep, tmp_path).complete
    rows = sweeps.read(tmp_path)
    assert not [name for name in rows.column_names if name.startswith(schema.PARAMS)]
    products = []
    for cell, row in zip(sweep.cells(), rows.to_pylist(), strict=True):
        found = sweeps.params(tmp_path, cell)
        assert [w.shape for w in found] == shapes
        assert all(np.array_equal(a, b) for a, b in zip(found, sweeps.params(tmp_path, row), strict=True))
        flat = [w for leaf in found[1:] for w in (leaf if leaf.ndim == 3 else [leaf])]
        for w in flat:
            np.testing.assert_allclose(w.T @ w, np.eye(2), atol=1e-13)
        products.append(np.asarray(network.end_to_end(found)))
        # the teacher's spectrum is [1, .6]: what is found has it up to the final error
        values = np.linalg.svd(products[-1], compute_uv=False)[:2]
        np.testing.assert_allclose(values, [1.0, 0.6], atol=2 * row["final_distance"] + 1e-14)
    assert not np.allclose(products[0], products[1], atol=1e-2)
    assert verify.verify(tmp_path).sound


def test_weights_that_are_not_there(tmp_path):
    sweep, shard = made(engine="reduced")
    driver.run(sweep, tmp_path)
    with pytest.raises(ValueError, match="keep_params = true before the first run"):
        sweeps.params(tmp_path, sweep.cells()[0])
    with pytest.raises(KeyError, match="is not one of the 2"):
        sweeps.params(tmp_path, "f" * 64)
    with pytest.raises(FileNotFoundError, match="no sweep there"):
        sweeps.params(tmp_path / "nowhere", sweep.cells()[0])
    store.path(tmp_path, shard.name).unlink()
    with pytest.raises(FileNotFoundError, match="not computed yet"):
        sweeps.params(tmp_path, sweep.cells()[0].key())


def test_keep_params_names_no_cell_but_the_config():
    plain, keeping = (made(engine="reduced", keep_params=keep)[0] for keep in (False, True))
    assert [c.key() for c in plain.cells()] == [c.key() for c in keeping.cells()]
    assert plain.hash() != keeping.hash()
    assert "keep_params" not in plain.to_toml()
    assert "keep_params = true" in keeping.to_toml()
    for value in (1, "yes", [True]):
        with pytest.raises(loading.SpecError, match=r"keep_params: .*give true or false"):
            made(engine="reduced", keep_params=value)


@pytest.fixture(
    params=[{"engine": "layers"}, {"engine": "reduced"}, {"engine": "layers", "batch_size": 8}],
    ids=["layers", "reduced", "mini-batches"],
)
def uneven(request, monkeypatch):
    """Cells of very different length, mixed, in blocks of two: a program of its own, in pieces of some records."""
    monkeypatch.setitem(batching.CELLS, 0, 2)
    monkeypatch.setattr(session, "shared", session.Session)  # nothing compiled before
    monkeypatch.setattr(loop, "_length", lambda pace, records: 16)
    sweep, shard = made(**request.param, step=[0.04, 0.2, 0.5], seed=[0, 1, 3], depth_of_fit=1e-11)
    return sweep, replace(shard, cells=tuple(np.array(shard.cells, object)[[0, 6, 3, 1, 7, 4, 2, 8, 5]]))


@pytest.mark.slow
def test_finished_cells_are_not_waited_for(uneven, monkeypatch):
    sweep, shard = uneven
    found = execute.shard(sweep, shard)
    assert int(found.schema.metadata[b"packed"]) >= 1
    monkeypatch.setattr(session, "shared", session.Session)  # nothing compiled before
    monkeypatch.setattr(loop, "finished", lambda goal, distance, monitor: distance < 0)
    whole = execute.shard(sweep, shard)
    assert int(whole.schema.metadata[b"packed"]) == 0
    found, whole = found.to_pylist(), whole.to_pylist()
    for got, want in zip(found, whole, strict=True):
        for name in ("cell", "status", "iterations", "num_steps", "curve_step"):
            assert got[name] == want[name]
        start = want["curve_distance"][0]
        for name in ("curve_distance", "curve_loss", "curve_gradient_norm"):
            unit = (
                want[name][0] if want["batch_size"] else start
            )  # batches' gradients are hundreds of times the error
            np.testing.assert_allclose(got[name], want[name], rtol=1e-9, atol=2e-11 * unit)
    flat = [len(set(row["curve_distance"])) for row in found]
    assert max(flat) > 2 * min(flat)  # the quick ones stood still for most of the run


@pytest.mark.slow
def test_a_killed_shard_of_packed_cells_resumes_in_its_first_order(uneven, tmp_path):
    sweep, shard = uneven
    calm = compared(execute.shard(sweep, shard))
    with pytest.raises(KeyboardInterrupt):
        execute.shard(sweep, shard, Stops(tmp_path, shard.name, every=0))
    again = compared(execute.shard(sweep, shard, checkpoints.Checkpoint(tmp_path, shard.name)))
    for name, column in calm.items():
        if name.startswith("curve_") or isinstance(column[0], float):
            np.testing.assert_allclose(again[name], column, rtol=1e-9, atol=1e-13)
        else:
            assert again[name] == column


def test_a_cell_that_is_not_a_number_is_finished_and_one_at_rest_is_not_before_it_converged():
    goal, start = loop.Goal(1e-3, 1e-6), np.ones(5)
    status = np.array([1, 1, 2, 2, 0])
    monitor = SimpleNamespace(status=status, start_distance=start)
    distance = np.array([1e-5, 1e-7, np.nan, 7.0, 0.0])
    assert loop.finished(goal, distance, monitor).tolist() == [False, True, True, False, False]
