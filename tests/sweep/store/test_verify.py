"""verify and status: what a folder promises, and how far it is."""

import pyarrow.parquet as pq
import pytest
import standin

from dlnjax.sweep import store
from dlnjax.sweep.driver import run as driver
from dlnjax.sweep.store import leases, verify


@pytest.fixture
def folder(tmp_path):
    driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=standin.work)
    return tmp_path


def _first(folder):
    return store.path(folder, sorted(store.done(folder))[0])


def test_a_sound_folder(folder):
    verdict = verify.verify(folder)
    assert verdict.lines() == ["sound: 3 of 3 shards complete, 6 cells, each exactly once"]


def test_leftovers_are_no_damage(folder):
    (folder / "shards" / ".x.parquet.123.tmp").write_bytes(b"half")
    (folder / "claims" / "deaddeaddead.beat").write_text("here\n1 2\n3")
    (folder / "claims" / f"{sorted(store.done(folder))[0]}.0").write_text("deaddeaddead")
    verdict = verify.verify(folder)
    assert verdict.sound
    assert len(verdict.leftovers) == 2
    assert "left behind" in verdict.lines()[-1]


def _cut(file):
    file.write_bytes(file.read_bytes()[:200])


def _rename(file):
    file.rename(file.with_name("0123456789abcdef.parquet"))


def _swap(file):
    other = sorted(file.parent.iterdir())[1]
    content = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _copy(file):
    file.with_name("0123456789abcdef.parquet").write_bytes(file.read_bytes())


def _odd_status(file):
    table = pq.read_table(file)
    place = table.column_names.index("status")
    table = table.set_column(place, table.field(place), [["splendid"] * len(table)])
    file.unlink()
    store.write(file.parents[1], file.stem, table)


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_cut, "damaged"),
        (_rename, "no shard of the manifest"),
        (_swap, "its name is not the hash of its cells"),
        (_copy, "no shard of the manifest"),
        (_odd_status, "splendid"),
        (lambda file: (file.parents[1] / "config.toml").unlink(), "config.toml: missing"),
    ],
)
def test_every_harm_is_named(folder, harm, words):
    harm(_first(folder))
    verdict = verify.verify(folder)
    assert any(words in line for line in verdict.damage), verdict.damage
    assert verdict.lines()[0].startswith("DAMAGED")


def test_an_unfinished_folder_is_sound(folder):
    _first(folder).unlink()
    assert verify.verify(folder).lines()[0].startswith("sound: 2 of 3 shards")


def test_status_counts_cells_runners_and_failures(tmp_path):
    sweep = standin.Sweep(trouble="raise")
    driver.run(sweep, tmp_path, planner=standin.planner, work=standin.work)
    with leases.Runner(tmp_path) as runner:
        runner.acquire("f" * 16)
        found = verify.status(tmp_path)
    assert (found.done, found.shards, found.running, found.runners) == (2, 3, 1, 1)
    lines = found.lines()
    assert lines[0] == "2 of 3 shards complete; 1 running at 1 runners"
    assert lines[1] == "4 of 6 cells: 4 converged"
    assert lines[2].endswith("failed: RuntimeError: this shard cannot be run")
    driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=standin.work)
    assert verify.status(tmp_path).lines() == ["3 of 3 shards complete", "6 of 6 cells: 6 converged"]


def test_no_sweep_is_said(tmp_path):
    for look in (verify.verify, verify.status):
        with pytest.raises(FileNotFoundError, match="no sweep there"):
            look(tmp_path)
