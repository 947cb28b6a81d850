"""A campaign of faults against the store and the driver: real files, real processes, random moments.

``scripts/faults`` runs it in full and prints its figures; ``test_faults.py`` runs a short version. Each
fault is a function that returns a line of figures, or fails an assertion.
"""

import argparse
import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import standin

from dlnjax.sweep import store
from dlnjax.sweep.config import loading
from dlnjax.sweep.driver import executors
from dlnjax.sweep.driver import run as driver
from dlnjax.sweep.store import atomic, verify


def sweep_of(shards, delay=0.0, trouble=""):
    return standin.Sweep(depths=tuple(range(2, shards + 2)), seeds=2, size=2, delay=delay, trouble=trouble)


def start(out, shards, delay, *options):
    """A runner in a process of its own."""
    command = [sys.executable, __file__, "--runner", str(out), str(shards), str(delay), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def check(out, shards):
    """Every cell exactly once, no unreadable file, and the numbers of an undisturbed run."""
    verdict = verify.verify(out)
    assert verdict.sound, verdict.lines()
    assert (verdict.done, verdict.cells) == (shards, 2 * shards)
    assert store.read(out).equals(standin.reference(sweep_of(shards)))


def kills(folder, *, number=100, shards=400, runners=2, delay=0.02, seed=0):
    """SIGKILL at random moments, of runners and of their workers, until ``number`` of them are dead."""
    dice, dead, workers, rounds, begin = random.Random(seed), 0, 0, 0, time.monotonic()
    while dead < number:
        out = folder / f"kills-{rounds}"
        rounds += 1
        alive = []
        while verify_done(out) < shards:
            alive = [runner for runner in alive if runner.poll() is None]
            while len(alive) < runners:
                alive.append(start(out, shards, delay, "--workers", str(dice.choice([0, 0, 0, 2]))))
            time.sleep(dice.uniform(0.0, 0.9))
            victim, child = dice.choice(alive), None
            if dead < number:
                child = dice.choice([None, *children(victim.pid)])
                workers += child is not None
                dead += shoot(victim, child)
        for runner in alive:
            runner.communicate(timeout=120)
        driver.run(sweep_of(shards), out, planner=standin.planner, work=standin.work)
        check(out, shards)
        shutil.rmtree(out)
    seconds = time.monotonic() - begin
    return (
        f"{dead} SIGKILLs ({workers} at workers), {runners} runners, {rounds} sweeps of {shards} shards, "
        f"{seconds:.0f} s: 0 cells lost, 0 twice, 0 unreadable files, all values equal"
    )


def real_kills(folder, *, number=100, shards=400, runners=2, seed=1):
    """SIGKILL of the command itself, several on one folder, on networks: bit for bit an undisturbed run."""
    dice, dead, config, begin = random.Random(seed), 0, folder / "config.toml", time.monotonic()
    small = teacher(grids=[{"depth": list(range(2, shards + 2)), "seed": [0, 1]}], step=[0.01])
    config.write_text(small.to_toml())
    command = [sys.executable, "-m", "dlnjax", "run", str(config), "--quiet", "--out"]
    outs, alive = [folder / "hunted-0"], []
    while dead < number:
        if verify_done(outs[-1]) >= shards:  # complete before all were dead: once more
            outs.append(folder / f"hunted-{len(outs)}")
        out = outs[-1]
        alive = [runner for runner in alive if runner.poll() is None]
        alive += [subprocess.Popen([*command, str(out)]) for _ in range(runners - len(alive))]
        want = min(verify_done(out) + dice.randint(0, max(1, 2 * shards // number)), shards - 1)
        while all(runner.poll() is None for runner in alive) and verify_done(out) < want:
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.2))
        dead += shoot(dice.choice(alive), None)
    for runner in alive:
        runner.wait()
    for out in [*outs, folder / "calm"]:
        assert subprocess.run([*command, str(out)]).returncode in (0, 1)
        verdict = verify.verify(out)
        assert verdict.sound, verdict.lines()
        assert (verdict.done, verdict.cells) == (shards, 2 * shards)
    calm = values(store.read(folder / "calm").drop_columns(["seconds"]))
    assert all(values(store.read(out).drop_columns(["seconds"])) == calm for out in outs)
    return (
        f"{dead} SIGKILLs of dlnjax run, {runners} runners, {len(outs)} sweeps of {shards} shards of networks, "
        f"{time.monotonic() - begin:.0f} s: 0 cells lost, 0 twice, bit for bit an undisturbed run"
    )


def bad_cell(folder, *, cells=1000):
    """One cell that is soon not a number among many: the others as if it were not there."""
    good = {"step": [0.01], "seed": list(range(cells - 1))}
    found = []
    with executors.Workers(1) as pool:
        for name, grids in [("without", [good]), ("with", [good, {"step": [1e30], "seed": [0]}])]:
            sweep = teacher(grids=[{**grid, "depth": [4]} for grid in grids])
            outcome = driver.run(sweep, folder / name, executor=pool)
            assert outcome.complete, outcome.failed
            found.append({row["cell"]: row for row in store.read(folder / name).to_pylist()})
    without, both = found
    (bad,) = [row for key, row in both.items() if key not in without]
    assert (len(both), bad["status"]) == (cells, "diverged")
    assert bad["first_bad_step"] < 50
    same = [abs(row["final_distance"] / both[key]["final_distance"] - 1) for key, row in without.items()]
    assert max(same) < 1e-10
    assert all(row["status"] == both[key]["status"] for key, row in without.items())
    return f"{bad['status']}: {bad['reason']}; {cells - 1} others within {max(same):.1e}"


def teacher(**keys):
    """A tiny real sweep."""
    return loading.grid(
        study="faults", question="?", precision="float64", kind="teacher", input_dim=4, output_dim=4,
        singular_values=[1.0, 0.8], distance=0.05, first_scale=0.5, records=128, tolerance=1e-8,
        depth_of_fit=1e-10, max_steps=256, width=[2], step_rule="fixed", engine="reduced",
        start="near", **keys,
    )  # fmt: skip


def values(table):
    """Rows that can be compared although nan is not equal to itself."""
    return repr(table.to_pylist())


def verify_done(out):
    return len(store.done(out)) if out.exists() else 0


def children(pid):
    """Processes started by any thread of a process."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found += [int(p) for p in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def shoot(runner, child):
    """Kills the child of a runner, or the runner; whether that was possible."""
    try:
        os.kill(child or runner.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    if child is None:
        runner.communicate()
    return True


def stops(folder, number, *, shards=40):
    """Ctrl-C or SIGTERM: what is complete stays, nothing is left behind, the same command finishes."""
    out = folder / f"stop-{number}"
    runner = start(out, shards, 0.05)
    while verify_done(out) < 5:
        assert runner.poll() is None, runner.communicate()
        time.sleep(0.01)
    runner.send_signal(number)
    runner.communicate(timeout=30)
    before = verify_done(out)
    assert runner.returncode != 0
    assert 5 <= before < shards
    assert verify.verify(out).leftovers == []
    again = driver.run(sweep_of(shards), out, planner=standin.planner, work=standin.work)
    check(out, shards)
    return f"stopped after {before} of {shards} shards, 0 files left behind; the rest: {again.ran}"


def full_disk(folder, *, shards=30):
    """No room after some shards: the run ends in one line, resumes when there is room."""
    out = folder / "full"
    runner = start(out, shards, 0.0, "--limit-after", "7")
    said = runner.communicate(timeout=60)[1].strip().splitlines()
    assert runner.returncode == 1
    assert len(said) == 1, said
    before = verify_done(out)
    assert 7 <= before < shards
    assert atomic.leftovers(out) == []
    assert verify.verify(out).sound
    driver.run(sweep_of(shards), out, planner=standin.planner, work=standin.work)
    check(out, shards)
    return f"ended after {before} of {shards} shards with: {said[0]!r}; resumed and complete"


def small_disk(folder, *, shards=60):
    """The same on a real file system of 640 KiB; needs root."""
    out = folder / "small"
    out.mkdir()
    if not _mounted(out, "-t", "tmpfs", "-o", "size=640k", "tmpfs"):
        return "skipped: mounting a small file system needs root"
    try:
        runner = start(out / "o", shards, 0.0)
        said = runner.communicate(timeout=60)[1].strip().splitlines()
        before = verify_done(out / "o")
        assert (runner.returncode, len(said)) == (1, 1), said
        assert 0 < before < shards
        assert atomic.leftovers(out / "o") == []
        assert subprocess.run(["mount", "-o", "remount,size=64m", str(out)]).returncode == 0
        driver.run(sweep_of(shards), out / "o", planner=standin.planner, work=standin.work)
        check(out / "o", shards)
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)
    return f"ended after {before} of {shards} shards with: {said[0]!r}; with more room complete"


def read_only(folder):
    """A folder that cannot be written is said in one line; what is in it can be read and verified."""
    out = folder / "fixed"
    out.mkdir()
    mounted = _mounted(out, "-t", "tmpfs", "tmpfs")
    driver.run(sweep_of(5), out, planner=standin.planner, work=standin.work)
    undo = ["umount", "-l", str(out)] if mounted else ["chmod", "-R", "u+w", str(out)]
    do = ["mount", "-o", "remount,ro", str(out)] if mounted else ["chmod", "-R", "a-w", str(out)]
    subprocess.run(do, check=True)
    try:
        runner = start(out, 6, 0.0, "--extend")
        said = runner.communicate(timeout=60)[1].strip().splitlines()
        assert (runner.returncode, len(said)) == (1, 1), said
        check(out, 5)
    finally:
        subprocess.run(undo, check=True)
    return f"refused with: {said[0]!r}; results read and verified"


def clock(folder, *, shards=60):
    """Two runners whose clocks jump by years, back and forth, and file dates with them."""
    out = folder / "clock"
    runners = [start(out, shards, 0.02, "--clock=3e8"), start(out, shards, 0.02, "--clock=-3e8")]
    while any(runner.poll() is None for runner in runners):
        when = time.time() + random.uniform(-3e8, 3e8)
        for file in list(out.rglob("*")) if out.exists() else []:
            try:
                os.utime(file, (when, when))
            except FileNotFoundError:
                continue
        time.sleep(0.05)
    ran = [int(runner.communicate()[0].split()[-1]) for runner in runners]
    check(out, shards)
    assert sum(ran) == shards, ran
    return f"clocks and file dates off by up to 9.5 years: {ran[0]} + {ran[1]} shards, none computed twice"


def truncated(folder, *, shards=20):
    """A file cut short by hand is named by verify, set aside by run, and computed again."""
    out = folder / "cut"
    driver.run(sweep_of(shards), out, planner=standin.planner, work=standin.work)
    file = store.path(out, sorted(store.done(out))[3])
    file.write_bytes(file.read_bytes()[:1000])
    assert any(file.name in line for line in verify.verify(out).damage)
    assert driver.run(sweep_of(shards), out, planner=standin.planner, work=standin.work).ran == 1
    check(out, shards)
    return "named by verify, set aside by run, 1 shard computed again"


def hanging(folder, *, shards=12, timeout=3.0):
    """A worker that hangs is killed after its time; the shard is tried again, the others go on."""
    out, begin = folder / "hang", time.monotonic()
    with executors.Workers(2, timeout=timeout) as pool:
        sweep = sweep_of(shards, trouble="hang once")
        outcome = driver.run(sweep, out, planner=standin.planner, work=standin.work, executor=pool)
    assert outcome.complete
    check(out, shards)
    seconds = time.monotonic() - begin
    return f"killed after {timeout:g} s, tried again; {shards} shards complete in {seconds:.1f} s"


def overhead(folder, *, shards=150, delay=0.2):
    """Time of store and driver beside the work, two cells a shard."""
    out = folder / "overhead"
    outcome = driver.run(sweep_of(shards, delay), out, planner=standin.planner, work=standin.work)
    own = (outcome.seconds - outcome.work_seconds) / shards
    return (
        f"{1e3 * own:.1f} ms a shard: {100 * own * shards / 600:.2f}% of a sweep of 600 s and {shards} shards"
    )


def _mounted(out, *options):
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    return subprocess.run(["mount", *options, str(out)], capture_output=True).returncode == 0


def _runner(arguments):
    """What :func:`start` starts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("shards", type=int)
    parser.add_argument("delay", type=float)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--limit-after", type=int, default=0)
    parser.add_argument("--clock", type=float, default=0.0)
    parser.add_argument("--extend", action="store_true")
    args = parser.parse_args(arguments)
    pool = executors.Workers(args.workers) if args.workers else None
    options = {"planner": standin.planner, "work": standin.work, "executor": pool, "extend": args.extend}
    count = 0
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a campaign in the background ignores it

    def listen(name, **facts):
        nonlocal count
        count += name == "shard"
        if args.limit_after and count == args.limit_after:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
        if args.clock:
            real = time.monotonic
            time.time = lambda: 1.8e9 + args.clock * ((count % 3) - 1) + real()

    try:
        print(
            driver.run(sweep_of(args.shards, args.delay), args.out, listen=listen, **options).ran, flush=True
        )
    except OSError as error:
        sys.exit(f"{errno.errorcode.get(error.errno, '?')}: {error.strerror}")
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)


def campaign(folder, number, shards):
    """(name, function) of every fault."""
    return [
        ("kill -9", lambda: kills(folder, number=number, shards=shards)),
        ("kill -9, networks", lambda: real_kills(folder, number=number, shards=shards)),
        ("a NaN cell", lambda: bad_cell(folder)),
        ("SIGTERM", lambda: stops(folder, signal.SIGTERM)),
        ("Ctrl-C", lambda: stops(folder, signal.SIGINT)),
        ("full disk", lambda: full_disk(folder)),
        ("small file system", lambda: small_disk(folder)),
        ("read-only folder", lambda: read_only(folder)),
        ("clock jumps", lambda: clock(folder)),
        ("truncated file", lambda: truncated(folder)),
        ("hanging worker", lambda: hanging(folder)),
        ("overhead", lambda: overhead(folder)),
    ]


def main(arguments):
    parser = argparse.ArgumentParser(description="Faults against the store and the driver, with figures.")
    parser.add_argument("--kills", type=int, default=120, help="SIGKILLs at random moments (default 120)")
    parser.add_argument("--shards", type=int, default=400, help="shards of each killed sweep (default 400)")
    args = parser.parse_args(arguments)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, fault in campaign(Path(folder), args.kills, args.shards):
            try:
                print(f"{name:<18} holds  {fault()}", flush=True)
            except AssertionError as error:
                failures += 1
                print(f"{name:<18} FAILS  {error}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--runner"]:
        _runner(sys.argv[2:])
    else:
        sys.exit(main(sys.argv[1:]))
