"""The driver with real folders and real processes: resumes, shares, retries, refuses, and never repeats."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import standin

from dlnjax.sweep import store
from dlnjax.sweep.driver import executors, progress
from dlnjax.sweep.driver import run as driver
from dlnjax.sweep.store import leases, manifest

HERE = str(Path(__file__).parents[2])


def run(sweep, out, **options):
    return driver.run(sweep, out, planner=standin.planner, work=options.pop("work", standin.work), **options)


def launch(out, *, depths=30, delay=0.05):
    """A runner in a process of its own."""
    code = (
        "import sys, standin; from dlnjax.sweep.driver import run\n"
        f"s = standin.Sweep(depths=tuple(range(2, {depths + 2})), seeds=1, size=1, delay={delay})\n"
        "o = run.run(s, sys.argv[1], planner=standin.planner, work=standin.work)\n"
        "print(o.ran, flush=True)"
    )
    environment = {**os.environ, "PYTHONPATH": HERE}
    return subprocess.Popen([sys.executable, "-c", code, str(out)], env=environment, stdout=subprocess.PIPE)


def launched(depths=30):
    return standin.Sweep(depths=tuple(range(2, depths + 2)), seeds=1, size=1)


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def clean(out):
    """Nothing of a runner is left."""
    return not [p for p in out.rglob("*") if p.suffix in {".tmp", ".beat"}] and not leases.held(out)


def test_no_plan_is_made_twice_in_a_row(tmp_path):
    asked = []

    def planner(sweep, cells):
        asked.append(len(cells))
        return standin.planner(sweep, cells)

    def run(**options):
        asked.clear()
        sweep = standin.Sweep(depths=options.pop("depths", (2, 4)))
        return driver.run(sweep, tmp_path, planner=planner, work=standin.work, **options)

    assert run().ran == 3
    assert asked == [6]  # for the manifest and to begin
    assert run(depths=(2, 4, 8), extend=True).ran == 2
    assert asked == [3]  # the new cells alone: the others are done
    next((tmp_path / "shards").glob("*.parquet")).unlink()
    assert run(depths=(2, 4, 8)).ran == 1
    assert asked in ([6], [3])  # the generation that lacks a shard
    assert run(depths=(2, 4, 8)).ran == 0
    assert asked == []
    assert store.read(tmp_path).equals(standin.reference(standin.Sweep(depths=(2, 4, 8))))


def test_run_then_run_again(tmp_path):
    sweep = standin.Sweep()
    first = run(sweep, tmp_path)
    assert (first.shards, first.ran, first.cells, first.complete) == (3, 3, 6, True)
    assert run(sweep, tmp_path).ran == 0
    assert store.read(tmp_path).equals(standin.reference(sweep))
    assert manifest.load(tmp_path)["devices"] == ["stand-in"]
    assert clean(tmp_path)


def test_the_driver_imports_no_jax():
    code = (
        "import sys, dlnjax.sweep.driver.run, dlnjax.sweep.driver.executors; sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_any_executor(tmp_path):
    sweep = standin.Sweep()
    with ThreadPoolExecutor(2) as pool:
        assert run(sweep, tmp_path, executor=pool, slots=2).ran == 3
    assert store.read(tmp_path).equals(standin.reference(sweep))


def test_extend_computes_only_what_is_new(tmp_path):
    sweep = standin.Sweep()
    run(sweep, tmp_path)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "shards").iterdir()}
    larger = standin.more(sweep, depths=(2, 4, 8))
    with pytest.raises(manifest.ConfigChanged, match="depth"):
        run(larger, tmp_path)
    assert run(larger, tmp_path, extend=True).cells == 3
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert store.read(tmp_path).equals(standin.reference(larger))


def test_interrupted_extension_resumes_with_the_plan_it_was_made_with(tmp_path):
    sweep = standin.Sweep()
    manifest.settle(tmp_path, sweep, standin.planner)
    larger = standin.more(sweep, depths=(2, 3, 4))
    shard = standin.planner(sweep, sweep.cells())[0]
    store.write(tmp_path, shard.name, standin.work(sweep, shard, None))
    manifest.settle(tmp_path, larger, standin.planner, extend=True)
    outcome = run(larger, tmp_path)
    assert (outcome.shards, outcome.ran) == (5, 4)
    found = store.read(tmp_path).sort_by([("depth", "ascending"), ("seed", "ascending")])
    assert found.equals(standin.reference(larger))


def test_another_plan_for_an_unfinished_folder_is_refused(tmp_path):
    sweep = standin.Sweep()
    manifest.settle(tmp_path, sweep, standin.planner)
    shard = standin.planner(sweep, sweep.cells())[0]
    store.write(tmp_path, shard.name, standin.work(sweep, shard, None))
    with pytest.raises(ValueError, match="planned differently by this version"):
        run(standin.more(sweep, size=3), tmp_path)


def test_a_raising_shard_is_named_and_the_others_go_on(tmp_path):
    outcome = run(standin.Sweep(trouble="raise"), tmp_path)
    assert (outcome.done, list(outcome.failed.values())) == (2, ["RuntimeError: this shard cannot be run"])
    assert run(standin.Sweep(), tmp_path).ran == 1


@pytest.mark.parametrize(("trouble", "timeout"), [("die once", None), ("hang once", 6.0)])
def test_workers_are_rebuilt(tmp_path, trouble, timeout):
    sweep = standin.Sweep(depths=(2, 4, 6), trouble=trouble)
    text = io.StringIO()
    with executors.Workers(2, timeout=timeout) as pool:
        outcome = run(sweep, tmp_path, executor=pool, listen=progress.choose("json", text))
    events = [json.loads(line) for line in text.getvalue().splitlines()]
    assert [e["event"] for e in events].count("retry") == 1
    assert outcome.complete
    assert store.read(tmp_path).equals(standin.reference(sweep))


def test_a_shard_that_kills_every_worker_is_given_up(tmp_path):
    with executors.Workers(1) as pool:
        outcome = run(standin.Sweep(trouble="die"), tmp_path, executor=pool)
    assert outcome.done == 2
    assert list(outcome.failed.values()) == ["its process ended with exit code 9, 3 times"]


def test_a_worker_outlives_no_driver(tmp_path):
    code = (
        "import time, sys; from dlnjax.sweep.driver import executors\n"
        "if __name__ == '__main__':\n"
        "    pool = executors.Workers(1); pool.submit(time.sleep, 0).result()\n"
        "    print(pool.pids()[0], flush=True); pool.submit(time.sleep, 600); time.sleep(600)"
    )
    script = tmp_path / "driver.py"
    script.write_text(code)
    driver = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    worker = int(driver.stdout.readline())
    driver.kill()
    driver.communicate()
    until(lambda: not leases._started(str(worker)))


def test_two_runners_share(tmp_path):
    runners = [launch(tmp_path), launch(tmp_path)]
    ran = [int(p.communicate(timeout=60)[0]) for p in runners]
    assert sum(ran) == 30
    assert min(ran) > 3
    assert store.read(tmp_path).equals(standin.reference(launched()))
    assert clean(tmp_path)


def test_a_dead_runners_shard_is_taken_over_at_once(tmp_path):
    victim = launch(tmp_path, delay=0.2)
    until(lambda: len(store.done(tmp_path)) >= 2 and leases.held(tmp_path))
    victim.kill()
    victim.communicate()
    begin = time.monotonic()
    outcome = run(launched(), tmp_path)
    assert outcome.complete
    assert time.monotonic() - begin < 10
    assert store.read(tmp_path).equals(standin.reference(launched()))
    assert clean(tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_signals_keep_what_is_complete(tmp_path, number, code):
    runner = launch(tmp_path, delay=0.1)
    until(lambda: len(store.done(tmp_path)) >= 3)
    runner.send_signal(number)
    runner.communicate(timeout=20)
    assert runner.returncode in {code, 1 if number == signal.SIGINT else code}
    before = store.done(tmp_path)
    assert 3 <= len(before) < 30
    assert clean(tmp_path)
    assert run(launched(), tmp_path).ran == 30 - len(before)


def test_a_silent_runner_elsewhere_is_given_its_lease(tmp_path, monkeypatch):
    clock = [1e9]
    monkeypatch.setattr(leases.time, "monotonic", lambda: clock[0])
    with leases.Runner(tmp_path, lease=30, beat=1000) as here:
        there = here.folder / "feedfeedfeed.beat"
        there.write_text("elsewhere\n1 2\n0")
        (here.folder / f"{'0' * 16}.0").write_text("feedfeedfeed")
        assert not here.acquire("0" * 16)
        clock[0] += 29
        assert not here.acquire("0" * 16)
        there.write_text("elsewhere\n1 2\n1")  # it beats: the lease starts anew
        clock[0] += 29
        assert not here.acquire("0" * 16)
        clock[0] += 31
        assert here.acquire("0" * 16)
        assert here.acquire("0" * 16)


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_clock_jumps_change_nothing(tmp_path, monkeypatch, jump):
    """Wall clock and file dates far off in either direction: a live claim stays, a dead one is taken."""
    with leases.Runner(tmp_path) as one, leases.Runner(tmp_path) as two:
        assert one.acquire("a" * 16)
        monkeypatch.setattr(time, "time", lambda: 1.7e9 + jump)
        for file in one.folder.iterdir():
            os.utime(file, (1.7e9 + jump, 1.7e9 + jump))
        assert not two.acquire("a" * 16)
        (one.folder / f"{'b' * 16}.0").write_text("gone")
        os.utime(one.folder / f"{'b' * 16}.0", (1.7e9 + jump, 1.7e9 + jump))
        assert two.acquire("b" * 16)


def test_only_one_of_many_takes_over(tmp_path):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / f"{'c' * 16}.0").write_text("dead")
    runners = [leases.Runner(tmp_path) for _ in range(8)]
    for runner in runners:
        runner.__enter__()
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda r: r.acquire("c" * 16), runners))
    for runner in runners:
        runner.__exit__()
    assert sum(won) == 1
    assert clean(tmp_path)


def test_a_truncated_file_is_set_aside_and_computed_again(tmp_path):
    sweep = standin.Sweep()
    run(sweep, tmp_path)
    file = store.path(tmp_path, sorted(store.done(tmp_path))[0])
    file.write_bytes(file.read_bytes()[:500])
    text = io.StringIO()
    assert run(sweep, tmp_path, listen=progress.choose("quiet", text)).ran == 1
    assert f"{file} was damaged" in text.getvalue()
    assert store.read(tmp_path).equals(standin.reference(sweep))


def full_disk(sweep, shard, checkpoint, following):
    raise OSError(errno.ENOSPC, "No space left on device")


def missing_file(sweep, shard, checkpoint, following):
    raise FileNotFoundError(errno.ENOENT, "no such file", "data.npz")


def test_a_full_disk_ends_the_run_and_a_missing_file_fails_the_shard(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        run(standin.Sweep(), tmp_path, work=full_disk)
    assert clean(tmp_path)
    assert len(run(standin.Sweep(), tmp_path, work=missing_file).failed) == 3
    assert run(standin.Sweep(), tmp_path).complete


def test_checkpoint_is_gone_when_the_shard_is_stored(tmp_path):
    run(standin.Sweep(), tmp_path, work=keeping)
    assert not list((tmp_path / "checkpoints").iterdir())


def keeping(sweep, shard, checkpoint, following):
    assert checkpoint.load() is None
    assert not checkpoint.due()
    checkpoint.save({"x": np.zeros(3)})
    return standin.work(sweep, shard, checkpoint)


def test_progress_speaks_as_asked(tmp_path):
    text = io.StringIO()
    run(standin.Sweep(), tmp_path / "lines", listen=progress.choose("auto", text))
    first, *_, last = text.getvalue().splitlines()
    assert first.startswith("0/3 shards, 0.0 cells/s")
    assert last.startswith("3/3 shards")
    assert "compiled 1.5 s" in last
    text = io.StringIO()
    run(standin.Sweep(), tmp_path / "bars", listen=progress.choose("bars", text))
    assert "3/3" in text.getvalue()
    text = io.StringIO()
    run(standin.Sweep(), tmp_path / "quiet", listen=progress.choose("quiet", text))
    assert text.getvalue() == ""
    with pytest.raises(ValueError, match="choose auto, bars, lines, json, quiet"):
        progress.choose("loud")


@pytest.mark.slow
def test_resume_of_a_large_folder_reads_no_table_of_a_finished_shard(tmp_path, monkeypatch):
    sweep = standin.Sweep(depths=tuple(range(2, 302)), seeds=1, size=1)
    manifest.settle(tmp_path, sweep, standin.planner)
    shards = standin.planner(sweep, sweep.cells())
    for shard in shards[:-1]:
        store.write(tmp_path, shard.name, standin.work(sweep, shard, None))
    parsed = []
    for name in ("ParquetFile", "read_schema"):
        real = getattr(pq, name)
        monkeypatch.setattr(
            pq, name, lambda file, *a, real=real, **k: parsed.append(str(file)) or real(file, *a, **k)
        )
    before = {}  # files parsed when a shard's work began

    def work(sweep, shard, checkpoint, following):
        before[shard.name] = len(parsed)
        return standin.work(sweep, shard, checkpoint)

    assert run(sweep, tmp_path, work=work).ran == 1
    assert before == {shards[-1].name: 0}
    assert len(parsed) == 299  # afterwards, what the others say of the sweep: no run has added it
