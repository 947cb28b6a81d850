"""A short version of the campaign of faults (``scripts/faults`` runs it in full)."""

import faults
import pytest


def test_kills(tmp_path):
    assert "0 cells lost" in faults.kills(tmp_path, number=4, shards=40)


def test_full_disk(tmp_path):
    assert "EFBIG" in faults.full_disk(tmp_path, shards=12)


def test_read_only_folder(tmp_path):
    faults.read_only(tmp_path)


def test_clock_jumps(tmp_path):
    assert "none computed twice" in faults.clock(tmp_path, shards=20)


def test_a_bad_cell_among_good_ones(tmp_path):
    assert "not finite" in faults.bad_cell(tmp_path, cells=16)


def test_the_check_can_fail(tmp_path):
    sweep = faults.sweep_of(4)
    shards = faults.standin.planner(sweep, sweep.cells())
    faults.driver.run(sweep, tmp_path, planner=faults.standin.planner, work=faults.standin.work)
    faults.check(tmp_path, 4)
    faults.store.path(tmp_path, shards[2].name).unlink()
    with pytest.raises(AssertionError):
        faults.check(tmp_path, 4)
    other = faults.standin.work(sweep, shards[1], None)
    faults.store.write(tmp_path, shards[2].name, other)
    with pytest.raises(AssertionError, match="not those of the manifest"):
        faults.check(tmp_path, 4)
