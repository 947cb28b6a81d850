"""Files are written beside the devices' thread, and nothing is lost when the run is interrupted or the disk full."""

import errno
import sys
import threading

import pytest
import standin

from dlnjax.sweep import store
from dlnjax.sweep.driver import places, task
from dlnjax.sweep.driver import run as driver


def test_shards_are_written_by_a_thread_of_their_own(tmp_path, monkeypatch):
    kept, interval, threads = task.keep, sys.getswitchinterval(), []

    def keep(*arguments):
        threads.append((threading.current_thread().name.rsplit("_", 1)[0], sys.getswitchinterval()))
        return kept(*arguments)

    monkeypatch.setattr(task, "keep", keep)
    outcome = driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=standin.work)
    assert outcome.complete
    assert threads == [("dlnjax-write", interval)] * outcome.ran
    assert outcome.ran > 1


def test_a_file_is_written_while_the_next_shard_is_computed(tmp_path, monkeypatch):
    kept, second, computed = task.keep, threading.Event(), []

    def patient(*arguments):
        assert second.wait(30), "the next shard waits for this one's file"
        return kept(*arguments)

    def work(sweep, shard, checkpoint, following):
        computed.append(shard.name)
        if len(computed) == 2:
            second.set()
        return standin.work(sweep, shard, checkpoint)

    monkeypatch.setattr(task, "keep", patient)
    outcome = driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=work)
    assert outcome.complete
    assert outcome.ran == len(computed) == len(set(computed)) > 2


def test_a_long_shard_is_told_of_before_the_next_one_begins(tmp_path, monkeypatch):
    """Where shards take minutes, what is done shows at once, and a disk that is full costs no further shard."""
    monkeypatch.setattr(places, "_LONG", 0.0)
    monkeypatch.setattr(places, "_SOON", 1e6)
    happened = []

    def work(sweep, shard, checkpoint, following):
        happened.append(("computed", shard.name))
        return standin.work(sweep, shard, checkpoint)

    def listen(name, **facts):
        if name == "shard":
            happened.append(("told", facts["shard"]))

    outcome = driver.run(
        standin.Sweep(), tmp_path / "long", planner=standin.planner, work=work, listen=listen
    )
    names = [name for what, name in happened if what == "computed"]
    assert len(names) == outcome.shards > 2
    assert happened == [(what, name) for name in names for what in ("computed", "told")]

    def full(*arguments):
        raise OSError(errno.ENOSPC, "no space left")

    happened.clear()
    monkeypatch.setattr(task, "keep", full)
    with pytest.raises(OSError, match="no space left"):
        driver.run(standin.Sweep(), tmp_path / "full", planner=standin.planner, work=work)
    assert len(happened) == 1


def test_an_interrupt_waits_for_the_file_at_hand_and_gives_the_claims_back(tmp_path, monkeypatch):
    kept, interrupted, computed = task.keep, threading.Event(), []

    def late(*arguments):
        interrupted.wait(30)
        return kept(*arguments)

    def work(sweep, shard, checkpoint, following):
        computed.append(shard.name)
        if len(computed) == 2:
            interrupted.set()
            raise KeyboardInterrupt
        return standin.work(sweep, shard, checkpoint)

    monkeypatch.setattr(task, "keep", late)
    with pytest.raises(KeyboardInterrupt):
        driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=work)
    assert store.done(tmp_path) == {computed[0]}
    outcome = driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=standin.work, share=False)
    assert outcome.complete
    assert outcome.ran == outcome.shards - 1


def test_a_file_that_cannot_be_written_ends_the_run_and_other_errors_only_their_shard(tmp_path, monkeypatch):
    kept, tried = task.keep, []

    def failing(error, out, name, computed):
        tried.append(name)
        if len(tried) == 1:
            raise error
        return kept(out, name, computed)

    monkeypatch.setattr(task, "keep", lambda *a: failing(ValueError("a column too many"), *a))
    outcome = driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=standin.work)
    assert list(outcome.failed) == tried[:1]
    assert "a column too many" in outcome.failed[tried[0]]
    assert outcome.done == outcome.shards - 1
    tried.clear()
    monkeypatch.setattr(task, "keep", lambda *a: failing(OSError(errno.ENOSPC, "no space left"), *a))
    with pytest.raises(OSError, match="no space left"):
        driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=standin.work)
    monkeypatch.setattr(task, "keep", kept)
    assert driver.run(standin.Sweep(), tmp_path, planner=standin.planner, work=standin.work).complete
