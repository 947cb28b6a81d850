"""Faults injected into runners and commands at drawn moments, a thousand of them in minutes, with a table.

All packages are imported once; every runner is a fork that does one thing and leaves. A fork is killed just before its
k-th touch of a file of the results folder (an audit hook counts them), with k drawn from a seed. What is left is
judged in a fork too: cells lost, doubled or wrong, processes that hang. ``scripts/faults --injected`` prints the table.
"""

import argparse
import errno
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import faults
from forks import HANG, HEAD, SHARDS, Fork, Row, finish, moment, sweep

from dlnjax.sweep import store
from dlnjax.sweep.store import leases, provenance, verify


def runs(row, folder, dice, *, number, runners=1, setting=None, extend=False, per_folder=4, lease=30.0):
    """SIGKILLs of runners at drawn touches until ``number`` have died, folder after folder."""
    while row.injected < number:
        out, target = folder / f"{row.sweeps}", min(row.injected + per_folder * runners, number)
        row.sweeps += 1
        if extend:
            Fork(lambda out=out: sweep(out, SHARDS // 2), folder / "log").wait(row)
        alive, count = [], 0
        deadline = time.monotonic() + 2 * HANG
        while row.injected < target and time.monotonic() < deadline and not _finished(out):
            while len(alive) < runners:
                seed, count = dice.random(), count + 1
                start = lambda out=out, seed=seed: sweep(out, SHARDS, setting, extend, seed, lease)  # noqa: E731
                alive.append(Fork(start, folder / f"log{count % 64}", moment(dice), out))
            row.injected += _reap(row, alive)
            time.sleep(0.003)
        for runner in alive:
            row.injected += runner.wait(row) == -signal.SIGKILL
        finish(row, folder, out, SHARDS, setting, extend)


def _reap(row, alive):
    """Takes out those that ended; how many were killed."""
    dead = 0
    for runner in [one for one in alive if not one.running() or time.monotonic() - one.begin > HANG]:
        code = runner.wait(row)
        dead += code == -signal.SIGKILL
        alive.remove(runner)
        if code not in (0, -signal.SIGKILL):
            row.verdicts["failed"] += 1
            row.notes.append(f"{row.kind}: exit code {code}: {runner.said()}")
    return dead


def _finished(out):
    return faults.verify_done(out) >= SHARDS


def no_links(seed, out):
    """A file system that knows no hard links."""
    number = errno.EPERM if seed < 0.5 else errno.ENOTSUP

    def link(*_, **__):
        raise OSError(number, os.strerror(number))

    os.link = link


def clock_back(seed, out):
    """A clock years back, further at every look, and file dates with it."""
    count = 0

    def now():
        nonlocal count
        count += 1
        return 1.7e9 - 3e8 * seed - 1e4 * count

    time.time = now
    for file in out.rglob("*") if out.exists() else []:
        try:
            os.utime(file, (now(), now()))
        except FileNotFoundError:
            continue


def other_machine(seed, out):
    """Alone on its machine, so that others know it by its heartbeat only."""
    place = f"machine-{seed}"
    leases._place = lambda: place


def stops(row, folder, dice, *, number, runners=4, lease=0.3):
    """SIGSTOP for longer than the lease at a drawn moment; the runner then goes on as if nothing had been."""
    while row.injected < number:
        out, shards = folder / f"{row.sweeps}", 3 * SHARDS
        row.sweeps += 1
        alive = []
        for i in range(runners):
            options = {"setting": other_machine, "seed": dice.random(), "lease": lease}
            start = partial(sweep, out, shards, **options)
            alive.append(Fork(start, folder / f"log{i}"))
        time.sleep(dice.uniform(0.02, 0.4))
        stopped = [one for one in alive[1:] if one.running()]
        for one in stopped:
            os.kill(one.pid, signal.SIGSTOP)
            time.sleep(dice.uniform(0, 0.05))
        time.sleep(3 * lease)
        for one in stopped:
            row.injected += 1
            os.kill(one.pid, signal.SIGCONT)
        for one in alive:
            if one.wait(row) not in (0, -signal.SIGKILL):
                row.verdicts["failed"] += 1
                row.notes.append(f"{row.kind}: exit code {one.code}: {one.said()}")
        finish(row, folder, out, shards)


def disk(row, folder, dice, *, number):
    """A file system of 1 MiB that others fill and empty while a runner works; without root, a limit on files."""
    disk_of = folder / "disk"
    disk_of.mkdir()
    mounted = faults._mounted(disk_of, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    row.kind += "" if mounted else " (file limit)"
    try:
        while row.injected < number:
            out = disk_of / f"{row.sweeps}"
            row.sweeps += 1
            for _ in range(4):
                row.injected += _filled(row, folder, disk_of, out, dice, mounted)
            finish(row, folder, out, SHARDS)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(disk_of)], check=True)


def _filled(row, folder, disk_of, out, dice, mounted):
    """Whether a full disk ended a runner, in its own words."""
    seed = dice.random()
    runner = Fork(lambda: _on_full_disk(out, seed, mounted), folder / "log1")
    time.sleep(dice.uniform(0, 0.12))
    if mounted:
        _fill(disk_of / "balloon", dice.choice([0, 0, 1, 5000, 20000]))
    code = runner.wait(row)
    (disk_of / "balloon").unlink(missing_ok=True)
    if code not in (0, 7):
        row.verdicts["failed"] += 1
        row.notes.append(f"{row.kind}: exit code {code}: {runner.said()}")
    return code == 7


def _on_full_disk(out, seed, mounted):
    if not mounted:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(20000 * seed), resource.RLIM_INFINITY))
    try:
        return sweep(out, SHARDS)
    except OSError as error:
        print(error)
        return 7 if error.errno in (errno.ENOSPC, errno.EFBIG) else 8


def _fill(file, leave):
    """Takes all room but ``leave`` bytes (of whole pages)."""
    try:
        with file.open("wb", buffering=0) as handle:
            while True:
                handle.write(b"\0" * 4096)
    except OSError:
        size = file.stat().st_size
        os.truncate(file, max(0, size - leave))


#: Commands that are killed, each with its words and the file it leaves; a new command is one more line.
COMMANDS = {
    "verify": (["verify", "{out}"], None),
    "export csv": (["export", "{out}", "--to", "csv"], "export.csv"),
    "export netcdf": (["export", "{out}", "--to", "netcdf"], "export.nc"),
    "report": (["report", "{out}", "--no-interactive"], "report.html"),
    "report md": (["report", "{out}", "--format", "md"], "report.md"),
}


def commands(row, folder, dice, calm, *, words, leaves, number):
    """SIGKILLs of a command on a complete folder; what it leaves is whole or absent, and the next call succeeds."""
    from dlnjax import cli

    out = folder / "out"
    arguments = [word.format(out=out) for word in words]
    row.sweeps, touches = 1, 120
    while row.injected < number:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(calm, out)
        one = Fork(lambda: cli.main(arguments), folder / "log", moment(dice, touches), out)
        code = one.wait(row)
        row.injected += code == -signal.SIGKILL
        touches = max(8, touches // 2) if code == 0 else touches
        after = Fork(lambda: _after_command(out, calm, leaves), folder / "log")
        if code not in (0, -signal.SIGKILL) or after.wait(row):
            row.verdicts["wrong"] += 1
            row.notes.append(f"{row.kind}: exit code {code}: {after.said()}")
        if row.injected % 10 == 0 or row.injected >= number:
            if leaves:
                (out / leaves).unlink(missing_ok=True)
            again = Fork(lambda: cli.main(arguments), folder / "log")
            if again.wait(row):
                row.verdicts["failed"] += 1
                row.notes.append(f"{row.kind}: again: {again.said()}")


def _after_command(out, calm, leaves):
    """0 if the folder is still sound and equal, and what the command leaves is whole or absent."""
    verdict = verify.verify(out)
    print(verdict.lines())
    same = repr(store.read(out).to_pylist()) == repr(store.read(calm).to_pylist())
    file = out / (leaves or "none")
    whole = not file.exists() or _is_whole(file)
    return int(not (verdict.sound and same and whole))


def _is_whole(file):
    if file.suffix == ".html":
        return file.read_text().rstrip().endswith("</html>")
    if file.suffix == ".csv":
        return len(file.read_text().splitlines()) == 1 + len(store.read(file.parent))
    if file.suffix == ".nc":
        import xarray

        with xarray.open_dataset(file) as data:
            return max(data.sizes.values()) >= 1
    return file.stat().st_size > 200


def calm_folder(folder):
    """A real sweep of networks, undisturbed."""
    config, out = folder / "config.toml", folder / "calm"
    config.write_text(faults.teacher(grids=[{"depth": [2, 4], "seed": [0, 1]}], step=[0.01]).to_toml())
    command = [sys.executable, "-m", "dlnjax", "run", str(config), "--quiet", "--out", str(out)]
    subprocess.run(command, check=False, timeout=600)
    assert verify.verify(out).sound
    return out


_HOST = """
import sys, functools, jax
jax.distributed.initialize = functools.partial(jax.distributed.initialize, heartbeat_timeout_seconds=10)
from dlnjax.sweep.driver import launch
launch.hosts("localhost:" + sys.argv[1], 2, int(sys.argv[2]))
assert jax.process_count() == 2
import pathlib, forks
print(forks.sweep(pathlib.Path(sys.argv[3]), 60))
"""


def lost_host(row, folder, dice, *, number):
    """SIGKILL of one of two real jax.distributed processes, by turns that with and without the coordinator.

    JAX ends the other one as well, sooner or later; the next run completes the folder.
    """
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    while row.injected < number:
        out = folder / f"{row.sweeps}"
        row.sweeps += 1
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = str(probe.getsockname()[1])
        command = [sys.executable, "-c", _HOST, port]
        options = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        both = [subprocess.Popen([*command, str(i), str(out)], **options) for i in range(2)]
        wanted, deadline = dice.randint(1, 30), time.monotonic() + HANG
        while faults.verify_done(out) < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        victim = both.pop(row.sweeps % 2)
        row.injected += victim.poll() is None
        victim.kill()
        try:
            both[0].wait(timeout=HANG)
        except subprocess.TimeoutExpired:
            row.verdicts["hangs"] += 1
            both[0].kill()
        victim.wait()
        finish(row, folder, out, 60)


def campaign(folder, scale):
    """(kind, function of a row and a folder) for each kind of fault."""
    dice = random.Random(0)

    def some(count):
        return max(1, round(count * scale))

    kinds = [
        ("SIGKILL, 1 runner", lambda r, f: runs(r, f, dice, number=some(200))),
        ("SIGKILL, 2 runners", lambda r, f: runs(r, f, dice, number=some(150), runners=2)),
        ("SIGKILL, 8 runners", lambda r, f: runs(r, f, dice, number=some(150), runners=8, per_folder=2)),
        ("SIGKILL in --extend, 2 runners", lambda r, f: runs(r, f, dice, number=some(120), runners=2, extend=True)),
        ("SIGKILL without hard links", lambda r, f: runs(r, f, dice, number=some(100), runners=2, setting=no_links)),
        ("SIGKILL with clocks set back", lambda r, f: runs(r, f, dice, number=some(80), runners=2, setting=clock_back)),
        ("SIGSTOP past the lease, 4 runners", lambda r, f: stops(r, f, dice, number=some(60))),
        ("disk fills and empties", lambda r, f: disk(r, f, dice, number=some(50))),
    ]  # fmt: skip
    kinds.append(("host of jax.distributed lost", lambda r, f: lost_host(r, f, dice, number=some(4))))
    counts = {"verify": 60, "export csv": 60, "export netcdf": 20, "report": 30, "report md": 20}
    for name, (words, leaves) in COMMANDS.items():
        options = {"words": words, "leaves": leaves, "number": some(counts.get(name, 30))}
        kinds.append(
            (f"SIGKILL in {name}", lambda r, f, o=options: commands(r, f, dice, folder / "calm", **o))
        )
    return kinds


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="1: about 1100 faults")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    args = parser.parse_args(arguments)
    total, begin = Row("all"), time.monotonic()
    print(f"# {provenance.today()}, commit {provenance.commit()}, {os.cpu_count()} CPU cores, seed 0\n{HEAD}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = [(kind, do) for kind, do in campaign(folder, args.scale) if args.only in kind]
        if any(kind.split(" in ")[-1] in COMMANDS for kind, _ in kinds):
            calm_folder(folder)
            import dlnjax.analysis.report
            import dlnjax.cli.commands  # noqa: F401
        for index, (kind, do) in enumerate(kinds):
            row, place = Row(kind), folder / f"kind-{index}"
            place.mkdir()
            do(row, place)
            print(row.line(), flush=True)
            print(
                *(f"#   {note}" for note in row.notes[:8]),
                sep="\n",
                end="\n" if row.notes else "",
                file=sys.stderr,
            )
            total.injected, total.sweeps = total.injected + row.injected, total.sweeps + row.sweeps
            total.verdicts.update(row.verdicts)
    print(total.line())
    print(f"# {time.monotonic() - begin:.0f} s on a machine shared with others")
    return int(bool(+total.verdicts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
