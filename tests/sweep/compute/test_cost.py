"""What a dry run says of time and memory: its arithmetic against made-up clocks, its steps against a real run."""

import numpy as np
import pytest

from dlnjax.cli import dry_run
from dlnjax.sweep import plan
from dlnjax.sweep.compute import cost, devices, execute
from dlnjax.sweep.config import loading

KEYS = {
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


def clock(record, step, calls):
    """Seconds of a record that costs so much by itself and so much a step; every fourth call is disturbed."""

    def seconds(steps):
        calls.append(steps)
        return record + step * steps + (0.5 if len(calls) % 4 == 3 else 0.0)

    return seconds


@pytest.mark.parametrize(("record", "step"), [(3e-3, 2e-4), (1e-3, 1e-6), (0.0, 0.3)])
def test_pace_is_read_off_a_disturbed_clock(record, step):
    calls = []
    pace = cost.measured(clock(record, step, calls), interval=5000)
    np.testing.assert_allclose(pace, (record, step), rtol=1e-6, atol=1e-9)
    assert max(calls) <= 5000
    assert len(calls) <= 20


def test_pace_of_records_one_step_apart():
    assert cost.measured(clock(0.1, 0.2, []), interval=1) == (0.0, pytest.approx(0.3))


def test_steps_and_cells_are_those_of_the_run():
    sweep = loading.grid(**{**KEYS, "engine": "reduced", "depth": [2, 9], "seed": [0, 1, 2]})
    shards = plan.shards(sweep)
    (program,) = cost.costs(sweep, shards)
    rows = [row for shard in shards for row in execute.shard(sweep, shard).to_pylist()]
    assert (program.shards, program.cells) == (len(shards), len(rows))
    assert program.steps == max(row["num_steps"] for row in rows)
    assert program.seconds is not None
    assert 0 < program.seconds < 100
    assert program.fits
    assert cost.least_memory(sweep, shards[0]) / 4 < program.memory < 1e7


def test_time_is_summed_over_shards_and_interpolated_in_depth(monkeypatch):
    """A clock of two seconds a step and layer: the total is that of all layers of all steps."""

    def tried(sweep, shard):
        return cost._Tried(cost.Pace(1.0, 2.0 * shard.cells[0].depth), 7.0, 100)

    monkeypatch.setattr(cost, "_try", tried)
    sweep = loading.grid(**{**KEYS, "engine": "layers", "depth": [2, 3, 8], "seed": 0})
    monkeypatch.setattr(cost, "_interval", lambda sweep, shard: 10)
    (program,) = cost.costs(sweep, plan.shards(sweep))
    assert program.seconds == pytest.approx(128 * sum(1.0 + 10 * 2.0 * depth for depth in (2, 3, 8)), abs=0.1)
    assert (program.compiling, program.steps) == (7.0, 1280)


def test_a_program_that_does_not_fit_is_told_and_not_tried(monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "_try", lambda *_: pytest.fail("tried"))
    monkeypatch.setattr(devices, "prepare", lambda precision: None)
    keys = {**KEYS, "input_dim": 5000, "output_dim": 5000, "width": 5000, "engine": "layers"}
    sweep = loading.grid(**{**keys, "depth": [1_000_000], "seed": 0})
    (program,) = cost.costs(sweep, plan.shards(sweep))
    assert (program.fits, program.seconds) == (False, None)
    assert program.memory >= 4 * 1_000_000 * 5000**2 * 8
    told = dry_run.text(sweep, tmp_path / "out")
    assert "not tried, 800,000 GB" in told
    assert "does NOT fit" in told


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (61.2, "61 s"), (600, "10 min"), (7.2e4, "20.0 h")],
)
def test_times_in_words(seconds, told):
    assert dry_run._time(seconds) == told
