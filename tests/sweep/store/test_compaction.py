"""Shards merged into packs: nothing is lost at any moment, and whatever reads a folder reads packs too."""

import os
import shutil
import signal
import subprocess
import sys

import pyarrow as pa
import pytest
import standin

from dlnjax import sweep as sweeps
from dlnjax.sweep import store
from dlnjax.sweep.driver import metadata
from dlnjax.sweep.driver import run as driver
from dlnjax.sweep.store import compaction, leases, manifest, packs, reading, schema, verify

SWEEP = standin.Sweep(depths=tuple(range(2, 12)), seeds=2, size=2)

KILLED = """
import os, signal, sys
from dlnjax.sweep.store import compaction
out, stage, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

def reached(name):
    global left
    left -= name == stage
    if left == 0 and name == stage:
        os.kill(os.getpid(), signal.SIGKILL)

compaction._reached = reached
compaction.compact(out, count=4)
"""


def ran(out, sweep=SWEEP, **options):
    return driver.run(sweep, out, planner=standin.planner, work=standin.work, **options)


@pytest.fixture
def folder(tmp_path):
    ran(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def packed(folder):
    compaction.compact(folder)
    return folder


def whole(out, sweep=SWEEP):
    """Everything is there, once, and as an independent computation has it."""
    verdict = verify.verify(out)
    assert verdict.sound, verdict.lines()
    assert (verdict.done, verdict.cells) == (len(sweep.depths), 2 * len(sweep.depths))
    assert store.read(out).equals(standin.reference(sweep))
    assert verify.status(out).by_status["converged"] == 2 * len(sweep.depths)


def killed(out, stage, times):
    found = subprocess.run([sys.executable, "-c", KILLED, str(out), stage, str(times)], timeout=100)
    assert found.returncode == -signal.SIGKILL


@pytest.mark.parametrize("stage", compaction.STAGES)
@pytest.mark.parametrize("times", [1, 2])
def test_killed_at_any_stage_nothing_is_lost_and_a_second_call_finishes(folder, stage, times):
    if (stage, times) == ("begun", 2):
        times = 1
    killed(folder, stage, times)
    whole(folder)
    assert ran(folder).ran == 0  # nothing is computed again
    compaction.compact(folder, count=4)
    whole(folder)
    assert len(packs.of(folder)) == 3
    assert store.loose(folder) == set()
    assert verify.verify(folder).leftovers == []


HALF_WRITTEN = """
import os, signal, sys
from dlnjax.sweep.store import compaction, files
encoded = files.encoded

def cut(table):
    with open(sys.argv[1] + "/packs/.0123456789abcdef.parquet.000000000000.tmp", "wb") as file:
        file.write(encoded(table)[:99])
    os.kill(os.getpid(), signal.SIGKILL)

files.encoded = cut
compaction.compact(sys.argv[1])
"""


def test_killed_while_the_file_is_written_leaves_a_leftover_alone(folder):
    found = subprocess.run([sys.executable, "-c", HALF_WRITTEN, str(folder)], timeout=100)
    assert found.returncode == -signal.SIGKILL
    assert len(verify.verify(folder).leftovers) == 2  # the file and a heartbeat
    whole(folder)
    compaction.compact(folder)
    whole(folder)
    assert store.loose(folder) == set()


def test_kills_one_after_the_other_come_to_an_end(folder):
    for stage in ("collected", "published", "removing", "removed", "checked"):
        killed(folder, stage, 1)
        whole(folder)
    compaction.compact(folder)
    whole(folder)
    assert store.loose(folder) == set()


def test_what_compaction_says(folder):
    done = compaction.compact(folder)
    assert done.lines() == ["10 shards merged: 10 files of results became 1"]
    assert compaction.compact(folder).lines() == ["0 shards merged: 1 files of results became 1"]
    with pytest.raises(FileNotFoundError, match="no sweep there"):
        compaction.compact(folder / "nowhere")


def test_metadata_and_single_shards_are_those_of_the_files(folder):
    names = sorted(store.done(folder))
    tables = {name: store.read_shard(folder, name) for name in names}
    said = {name: store.metadata(folder, name) for name in names}
    counts = {name: store.counts(folder, name) for name in names}
    compaction.compact(folder)
    for name in names:
        assert store.read_shard(folder, name).equals(tables[name])
        assert store.read_shard(folder, name, ["depth"]).equals(tables[name].select(["depth"]))
        found = store.metadata(folder, name)
        assert found.items() <= said[name].items()
        assert said[name].keys() - found.keys() == {"dlnjax_seal", "schema_version"}
        assert store.counts(folder, name) == counts[name] == {"converged": 2}


def test_columns_are_read_from_packs(packed):
    assert store.read(packed, ["depth", "final_loss"]).equals(
        standin.reference(SWEEP).select(["depth", "final_loss"])
    )


def test_a_folder_is_extended_over_packs(packed):
    larger = standin.more(SWEEP, depths=(*SWEEP.depths, 20, 30))
    outcome = ran(packed, larger, extend=True)
    assert (outcome.ran, outcome.done) == (2, 12)
    whole(packed, larger)
    compaction.compact(packed)
    whole(packed, larger)
    assert len(packs.of(packed)) == 2


def test_a_shard_in_a_pack_is_not_written_again(packed):
    shard = standin.planner(SWEEP, SWEEP.cells())[3]
    assert store.write(packed, shard.name, standin.work(SWEEP, shard, None)) is False
    assert store.loose(packed) == set()


def test_a_shard_in_two_places_is_read_once(folder):
    kept = {file: file.read_bytes() for file in (folder / "shards").iterdir()}
    compaction.compact(folder)
    some = list(kept)[:3]
    for file in some:
        file.write_bytes(kept[file])
    whole(folder)
    assert len(verify.verify(folder).leftovers) == 3
    compaction.compact(folder)
    assert not any(file.exists() for file in some)
    whole(folder)


def flipped(pack):
    content = bytearray(pack.read_bytes())
    content[len(content) // 3] ^= 1
    pack.write_bytes(content)
    return pack


def cut(pack):
    pack.write_bytes(pack.read_bytes()[:-100])
    return pack


def copied(pack):
    return shutil.copy(pack, pack.with_name("0123456789abcdef.parquet"))


def foreign(pack):
    """A sound pack of another study."""
    other = pack.parents[1].with_name("other")
    ran(other, standin.more(SWEEP, step=0.2))
    compaction.compact(other)
    (file,) = packs.of(other)
    return shutil.copy(file, pack.with_name(file.name))


def zeros(pack):
    pack.write_bytes(bytes(1000))
    return pack


@pytest.mark.parametrize("columns", [None, ["depth"]])
@pytest.mark.parametrize("harm", [flipped, cut, copied, foreign, zeros])
def test_a_pack_that_is_not_what_was_written_is_named(packed, harm, columns):
    (pack,) = packs.of(packed)
    file = harm(pack)
    with pytest.raises(ValueError, match=os.path.basename(file)):
        store.read(packed, columns)
    assert any(os.path.basename(file) in line for line in verify.verify(packed).damage)
    verify.status(packed).lines()


def test_every_flipped_byte_of_a_pack_is_named(packed):
    (pack,) = packs.of(packed)
    right = pack.read_bytes()
    for place in [*range(0, len(right), 173), *range(len(right) - 12, len(right))]:
        content = bytearray(right)
        content[place] ^= 0x55
        pack.write_bytes(content)
        with pytest.raises(ValueError, match=pack.name):
            store.read(packed, ["depth"])


def test_a_pack_cut_short_is_set_aside_and_its_shards_computed_again(packed):
    cut(*packs.of(packed))
    assert ran(packed).ran == 10
    whole(packed)


def test_a_damaged_shard_is_left_and_named(folder):
    file = store.path(folder, min(store.done(folder)))
    flipped(file)
    done = compaction.compact(folder)
    assert [file.name in line for line in done.damage] == [True]
    assert store.loose(folder) == {file.stem}


def test_a_pack_that_reads_differently_costs_no_shard(folder, monkeypatch):
    monkeypatch.setattr(compaction, "_same", lambda one, other: False)
    with pytest.raises(ValueError, match="does not hold what was written"):
        compaction.compact(folder)
    assert len(store.loose(folder)) == 10


def test_values_are_compared_bit_by_bit():
    one = pa.table({"x": [1.0, float("nan"), None], "y": ["a", "b", "c"]})
    assert compaction._same(one, one.slice(0))
    for other in (
        {"x": [1.0, float("nan"), 0.0]},
        {"x": [1.0 + 2**-52, float("nan"), None]},
        {"y": ["a", "b", "d"]},
    ):
        assert not compaction._same(one, pa.table({**one.to_pydict(), **other}))


def test_one_compaction_at_a_time(folder):
    with leases.lock(folder, leases.COMPACTION) as lock:
        leases.keeps(lock, leases.COMPACTION)
        assert not leases.Runner(folder, suffix=leases.LOCK_BEAT).acquire(leases.COMPACTION)
        assert leases.held(folder) == set()


def test_scales_and_ranks_are_read_from_packs(packed, monkeypatch):
    rows = [
        {**standin.row(cell), "scale_last": 0.5, "scale_middle": 0.25, "rank": 3} for cell in SWEEP.cells()
    ]
    table = schema.table(rows, standin.RECORDS)
    expected = metadata.results(table)
    monkeypatch.setattr(
        reading, "parts", lambda *_: iter([reading.Part(["0" * 16], [len(table)], [""], table)])
    )
    metadata.annotate(packed, {}, everything=True)
    monkeypatch.undo()
    assert manifest.load(packed)["scales"] == expected.scales
    assert expected.rank == manifest.load(packed)["rank"] == {"none": 3}
    (part,) = metadata._parts(packed, store.done(packed))
    assert (sorted(part.names), len(part.table)) == (sorted(store.done(packed)), 20)
    (part,) = metadata._parts(packed, set(part.names[3:5]))
    assert len(part.table) == 4


def test_folders_are_read_as_one(packed, tmp_path):
    other = standin.more(SWEEP, step=0.2)
    ran(tmp_path / "second", other)
    expected = pa.concat_tables([standin.reference(SWEEP), standin.reference(other)])
    assert sweeps.read([packed, tmp_path / "second"]).equals(expected)
    assert sweeps.read([packed, tmp_path / "second"], ["step"]).equals(expected.select(["step"]))
    with pytest.raises(ValueError, match=r"is in .*out too"):
        sweeps.read([packed, tmp_path / "second", packed])
    with pytest.raises(ValueError, match="at least one"):
        sweeps.read([])
