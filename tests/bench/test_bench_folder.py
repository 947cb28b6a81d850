"""The simulation of many runners on one folder: its counts are the protocol's, its ends those that must be."""

import csv
from pathlib import Path

import pytest

from dlnjax.bench import folder
from dlnjax.sweep import store
from dlnjax.sweep.store import atomic, leases, packs

SHARD = "0123456789abcdef"
FAST = folder.FileSystem("fast", 0.001, 1e6, 256)


@pytest.fixture
def count(monkeypatch):
    """Operations of the real protocol: listings apart, temporary files' three (write, link, remove) with the others."""
    counts = {"listings": 0, "others": 0}

    def counted(module, name, kind, weight=1):
        real = getattr(module, name)

        def call(*args, **kwargs):
            counts[kind] += weight
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    counted(leases, "_names", "listings")
    counted(leases, "_remove", "others")
    counted(atomic, "create", "others", 3)
    real = leases._read

    def read(file):
        counts["others"] += "claims" in file.parts  # not what the machine says of itself
        return real(file)

    monkeypatch.setattr(leases, "_read", read)

    def since():
        answer = tuple(counts.values())
        counts.update(listings=0, others=0)
        return answer

    return since


def test_operations_are_those_of_the_protocol(tmp_path, count):
    with leases.Runner(tmp_path) as one, leases.Runner(tmp_path) as two:
        count()
        assert one.acquire(SHARD)
        assert count() == (2, folder.MAKE)
        assert not two.acquire(SHARD)
        assert count() == (1, folder.LOOK)
        one.release(SHARD)
        assert count() == (1, folder.GIVE_BACK)


def test_done_is_seen_in_so_many_operations(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(Path, "exists", lambda file: bool(looks.append(file)))
    monkeypatch.setattr(packs.os, "listdir", lambda folder: looks.append(folder) or [])
    assert not store.is_done(tmp_path, SHARD)
    assert len(looks) == folder.NOT_DONE
    looks.clear()
    monkeypatch.setattr(Path, "exists", lambda file: looks.append(file) is None)
    assert store.is_done(tmp_path, SHARD)
    assert len(looks) == folder.DONE


def run(runners=5, seconds=10.0, files=FAST, seed=0, shards=50):
    return folder.Folder(files, runners, seconds, shards, seed).run()


def test_one_runner_alone_searches_for_a_handful_of_operations(monkeypatch):
    monkeypatch.setattr(folder, "CRASHES", 0.0)
    monkeypatch.setattr(folder, "STALLS", 0.0)
    figures = run(runners=1, shards=20)
    operations = folder.DONE + folder.NOT_DONE + 2 + folder.MAKE
    assert 0.7 * operations * FAST.latency < figures.search_mean < 1.4 * operations * FAST.latency
    assert 20 * 9 / 3600 < figures.hours < (20 * 11.1 + folder.STARTS) / 3600
    assert figures.taken_over == figures.computed_twice == 0


def test_a_seed_gives_the_same_figures():
    assert run(seed=3) == run(seed=3)
    assert run(seed=3) != run(seed=4)


@pytest.mark.parametrize("seed", range(5))
def test_crashes_and_stalls_lose_nothing_and_store_nothing_twice(monkeypatch, seed):
    monkeypatch.setattr(folder, "CRASHES", 0.2)
    monkeypatch.setattr(folder, "STALLS", 0.2)
    figures = run(seed=seed, shards=200)
    assert figures.lost == figures.stored_twice == 0
    assert figures.taken_over > 10
    assert figures.computed_twice > 0


def test_more_runners_and_slower_files_spend_more_on_leases():
    slow = folder.FileSystem("slow", 0.05, 1e6, 256)
    assert run(runners=40, shards=200).share > 3 * run(runners=4, shards=200).share
    assert run(files=slow).share > 10 * run().share


def test_a_full_server_makes_everybody_wait():
    full = folder.FileSystem("full", 0.001, 300, 256)
    assert run(runners=60, files=full, shards=200).share > 2 * run(runners=60, shards=200).share


def test_the_committed_table_is_of_this_simulation():
    with (Path(__file__).parents[2] / "results/bench/folder.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    kinds = {(row["file_system"], int(row["runners"]), float(row["shard_seconds"])) for row in rows}
    assert kinds == {
        (files.name, runners, float(each))
        for files in folder.FILE_SYSTEMS for runners in folder.RUNNERS for each in folder.SECONDS
    }  # fmt: skip
    assert all(row["lost"] == row["stored_twice"] == "0" for row in rows)
    row = rows[0]
    files = next(files for files in folder.FILE_SYSTEMS if files.name == row["file_system"])
    count = int(row["runners"])
    figures = folder.Folder(files, count, float(row["shard_seconds"]), folder.SHARDS * count).run()
    assert f"{figures.share:.4g}" == row["share"]


def test_the_command_writes_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(folder, "SECONDS", (10,))
    assert folder.main(["--quick", "--csv", str(tmp_path / "x" / "folder.csv")]) == 0
    assert len((tmp_path / "x" / "folder.csv").read_text().splitlines()) == 1 + 2 * 3
    assert "NFS, shards of 10 s: bears 100" in capsys.readouterr().out
