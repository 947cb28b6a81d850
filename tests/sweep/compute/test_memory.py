"""Batches and memory: predicted, held against the program's own account, halved when it runs out, remembered."""

import jax
import numpy as np
import pytest

from dlnjax import sweep as sweeps
from dlnjax.sweep import plan
from dlnjax.sweep.compute import batching, execute, loop, memory, session
from dlnjax.sweep.config import loading
from dlnjax.sweep.driver import run as driver
from dlnjax.sweep.store import verify

BASE = {
    "study": "memory", "kind": "teacher", "input_dim": 5, "output_dim": 4, "singular_values": [1.0, 0.6],
    "width": 2, "records": 128, "max_steps": 400, "start": "near", "step_rule": "middle", "step": 0.3,
    "depth": 4, "seed": list(range(4)), "engine": "reduced",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch):
    """A session of its own, which has the programs that the tests before have compiled."""
    fresh = session.Session()
    fresh.training.update(session.shared().training)
    monkeypatch.setattr(session, "shared", lambda: fresh)


def made(**keys):
    sweep = loading.grid(**{**BASE, **keys})
    return sweep, plan.shards(sweep)


def close(found, expected):
    """The same rows but for rounding and times; ``found`` may come from another size of batch."""
    assert found.schema.equals(expected.schema)
    for name in expected.column_names:
        got, want = found[name].to_pylist(), expected[name].to_pylist()
        if name.startswith(("curve", "final", "params", "orthonormality")):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-13)
        elif name != "seconds":
            assert got == want


@pytest.mark.slow
def test_out_of_memory_halves_the_batch_and_the_size_is_remembered(monkeypatch, tmp_path):
    sweep, shards = made(depth=[3, 4], keep_params=True)
    calm = [execute.shard(sweep, shard) for shard in shards]
    tried, run = [], loop.run

    def scarce(batch, **options):
        size = batch.blank.statuses.shape[0]
        tried.append(size)
        if size > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        return run(batch, **options)

    monkeypatch.setattr(loop, "run", scarce)
    found = [execute.shard(sweep, shard) for shard in shards]
    assert tried == [4, 2, 2] + [2] * 2
    for got, want in zip(found, calm, strict=True):
        close(got, want)
        assert got.schema.metadata[b"batch"] == b"2"
    # in a folder the shards keep their names, whatever runs at once
    assert driver.run(sweep, tmp_path).complete
    assert verify.verify(tmp_path).sound
    assert [s["cell"] for s in sweeps.read(tmp_path).to_pylist()] == [c.key() for c in sweep.cells()]


def test_other_errors_and_a_single_cell_that_is_too_large_are_told(monkeypatch):
    sweep, (shard,) = made()

    def broken(message):
        def part(*arguments):
            raise jax.errors.JaxRuntimeError(message)

        monkeypatch.setattr(execute, "_part", part)

    broken("INTERNAL: something else")
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        execute.shard(sweep, shard)
    assert session.shared().batches.of(shard.program, 4) == 4
    broken("RESOURCE_EXHAUSTED: too large")
    with pytest.raises(jax.errors.JaxRuntimeError, match="too large"):
        execute.shard(sweep, shard)
    assert session.shared().batches.of(shard.program, 4) == 1


@pytest.mark.slow
def test_a_batch_is_chosen_below_a_tiny_limit(monkeypatch):
    sweep, (shard,) = made()
    calm = execute.shard(sweep, shard)
    told, check = [], memory.check_sizes

    def checked(share, arguments, state, device):
        told.append(memory.predicted(share, arguments, state))
        check(share, arguments, state, device)

    monkeypatch.setattr(memory, "check_sizes", checked)
    monkeypatch.setattr(memory, "limit", lambda device: 0.6 * told[0])
    session.shared().training.clear()
    found = execute.shard(sweep, shard)
    assert session.shared().batches.of(shard.program, 4) == 2
    (compiled,) = session.shared().training.values()
    assert memory.accounted(compiled.call) <= 0.6 * told[0]
    close(found, calm)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "depth"), [("layers", 40), ("reduced", 4)])
def test_the_prediction_is_near_the_programs_own_account(engine, depth, monkeypatch):
    told = []
    monkeypatch.setattr(memory, "check_program", lambda share, call, _: told.append(memory.accounted(call)))
    monkeypatch.setattr(memory, "check_sizes", lambda *sizes: told.append(memory.predicted(*sizes[:3])))
    session.shared().training.clear()
    monkeypatch.setitem(batching.CELLS, 0, 4)
    sweep, (shard,) = made(engine=engine, depth=depth, seed=list(range(16)), max_steps=128)
    execute.shard(sweep, shard)
    predicted, accounted = told
    assert accounted / 1.5 < predicted < 3 * accounted


def test_a_programs_own_account_above_the_limit_halves(monkeypatch):
    _, (shard,) = made()
    monkeypatch.setattr(memory, "accounted", lambda call: 100)
    monkeypatch.setattr(memory, "limit", lambda device: 99)
    with pytest.raises(memory.TooLarge, match="for a batch") as raised:
        memory.check_program(memory.Share(4, 1, 64), None, jax.local_devices()[0])
    assert session.shared().batches.shrink(shard.program, 4, raised.value)
    assert session.shared().batches.of(shard.program, 4) == 2


def test_the_limit_is_a_cores_part_of_the_machines_memory(monkeypatch, tmp_path):
    device = jax.local_devices()[0]
    monkeypatch.setattr(memory.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "absent")
    whole = memory.limit(device)
    (tmp_path / "max").write_text("8000000\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "max")
    assert memory.limit(device) == 1_000_000 < whole
    (tmp_path / "max").write_text("max\n")
    assert memory.limit(device) == whole
