"""Locks and leases are kept by the living, however slow; who lost one notices; a removed folder stays removed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import standin

from dlnjax.sweep import store
from dlnjax.sweep.driver import progress
from dlnjax.sweep.driver import run as driver
from dlnjax.sweep.store import leases, manifest, seal, verify

SHARD = "a" * 16
HOLD = """
import sys, time
from dlnjax.sweep.store import leases
with leases.Runner(sys.argv[1], lease=0.2) as runner, leases.lock(sys.argv[1]):
    print(runner.acquire(sys.argv[2]), flush=True)
    time.sleep(600)
"""


def test_a_suspended_holder_on_this_machine_keeps_lease_and_lock(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), SHARD], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"True\n"
        holder.send_signal(signal.SIGSTOP)
        with (
            leases.Runner(tmp_path, lease=0.2) as one,
            leases.Runner(tmp_path, lease=0.2, suffix=leases.LOCK_BEAT) as two,
        ):
            until = time.monotonic() + 1.5
            while time.monotonic() < until:
                assert not one.acquire(SHARD)
                assert not two.acquire(leases.LOCK)
                time.sleep(0.1)
            holder.kill()
            holder.wait()
            assert one.acquire(SHARD)
            assert two.acquire(leases.LOCK)
    finally:
        holder.kill()
        holder.communicate()


def test_the_lock_of_a_holder_elsewhere_is_broken_only_when_it_is_silent(tmp_path, monkeypatch):
    clock = [1e9]
    monkeypatch.setattr(leases.time, "monotonic", lambda: clock[0])
    with leases.Runner(tmp_path, beat=1000, suffix=leases.LOCK_BEAT) as here:
        there = here.folder / f"feedfeedfeed{leases.LOCK_BEAT}"
        (here.folder / f"{leases.LOCK}.0").write_text(seal.line("feedfeedfeed"))
        for count in range(3):
            there.write_text(seal.line(f"elsewhere\n1 2\n{count}"))
            assert not here.acquire(leases.LOCK)
            clock[0] += 29
            assert not here.acquire(leases.LOCK)
        clock[0] += 31
        assert here.acquire(leases.LOCK)


def test_a_damaged_heartbeat_is_watched_like_one_elsewhere(tmp_path):
    with leases.Runner(tmp_path, beat=1000) as one, leases.Runner(tmp_path, beat=1000) as two:
        assert one.acquire(SHARD)
        beat = one.folder / f"{one.name}.beat"
        beat.write_bytes(beat.read_bytes().replace(str(os.getpid()).encode(), b"1"))
        assert not two.acquire(SHARD)


def test_who_lost_the_lock_notices_before_it_writes(tmp_path):
    manifest.settle(tmp_path, standin.Sweep(), standin.planner)
    before = (tmp_path / "manifest.json").read_bytes()
    with leases.lock(tmp_path) as lost, leases.Runner(tmp_path, suffix=leases.LOCK_BEAT) as other:
        (other.folder / f"{leases.LOCK}.1").write_text(seal.line(other.name))
        with pytest.raises(leases.LockLost, match="another runner took the lock"):
            manifest._write(tmp_path, {**manifest.load(tmp_path), "devices": ["late"]}, lost)
        (other.folder / f"{leases.LOCK}.1").unlink()
    assert (tmp_path / "manifest.json").read_bytes() == before


def test_a_turn_made_on_an_old_look_is_taken_back(tmp_path, monkeypatch):
    with leases.Runner(tmp_path) as one, leases.Runner(tmp_path) as two:
        assert one.acquire(SHARD)  # made while `two` still believes in a dead holder of that turn
        monkeypatch.setattr(two, "_current", lambda shard: (0, "deaddeaddead"))
        assert not two.acquire(SHARD)
        assert sorted(p.name for p in one.folder.iterdir() if p.name.startswith(SHARD)) == [f"{SHARD}.0"]


def test_many_who_want_the_lock_are_inside_one_at_a_time(tmp_path):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / f"{leases.LOCK}.0").write_text(seal.line("deaddeaddead"))  # its holder was killed
    inside, most = [], []

    def enter(_):
        with leases.lock(tmp_path) as runner:
            inside.append(runner.name)
            most.append(len(inside))
            time.sleep(0.005)
            leases.keeps(runner)
            inside.remove(runner.name)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(enter, range(30)))
    assert (len(most), max(most)) == (30, 1)
    assert list((tmp_path / "claims").iterdir()) == []


@pytest.mark.parametrize("turn", ["99999", "1" + "0" * 30, "-1", "007"])
def test_absurd_leases_block_nobody(tmp_path, turn):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / f"{SHARD}.{turn}").write_text("deaddeaddead")
    with leases.Runner(tmp_path) as runner:
        assert runner.acquire(SHARD) or runner.acquire(SHARD)
        runner.release(SHARD)


def test_none_of_many_who_start_on_truncated_shards_fails(tmp_path):
    sweep = standin.Sweep(depths=tuple(range(2, 10)), seeds=1, size=1)
    driver.run(sweep, tmp_path, planner=standin.planner, work=standin.work)
    files = [store.path(tmp_path, name) for name in store.done(tmp_path)]
    for _ in range(10):
        for file in files:
            file.write_bytes(b"PAR1")
        barrier = threading.Barrier(6)

        def start(_, barrier=barrier):
            with leases.Runner(tmp_path) as runner:
                barrier.wait()
                driver._set_aside(tmp_path, runner, progress.unheard)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(start, range(6)))
        assert store.done(tmp_path) == set()


def test_a_file_that_is_gone_is_not_truncated(tmp_path):
    (tmp_path / "shards").mkdir()
    assert store.truncated(tmp_path, [SHARD]) == []
    store.path(tmp_path, SHARD).symlink_to(tmp_path / "nowhere")
    assert store.truncated(tmp_path, [SHARD]) == [SHARD]


@pytest.mark.parametrize("when", ["first", "last"])
def test_a_removed_folder_stays_removed(tmp_path, when):
    out, sweep = tmp_path / "out", standin.Sweep()
    last = standin.planner(sweep, sweep.cells())[-1].name
    once = []

    def work(sweep, shard, checkpoint, following):
        if not once and (when == "first" or shard.name == last):
            once.append(shutil.rmtree(out))
        return standin.work(sweep, shard, checkpoint)

    with pytest.raises(FileNotFoundError, match=r"out: removed while the run went on") as caught:
        driver.run(sweep, out, planner=standin.planner, work=work)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_leases_that_are_none_are_named(tmp_path):
    driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=standin.work)
    for name in (f"{SHARD}.{10**30}", "what.is.this", "x.beat.beat"):
        (tmp_path / "claims" / name).write_text("?")
        assert any(name in line for line in verify.verify(tmp_path).damage)
        (tmp_path / "claims" / name).unlink()
