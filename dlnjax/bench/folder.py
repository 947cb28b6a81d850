"""``dlnjax bench folder``: a simulation of many runners on one folder, which shows how many it bears.

Runners take leases on shards by the protocol of :mod:`dlnjax.sweep.store.leases` and the order of
``sweep.driver.scheduler``, with the constants of both; only the file system and the training are replaced, by a clock.
A file system answers one operation of a client after ``latency`` seconds, and ``capacity`` operations of all clients
per second: with n clients waiting an operation takes max(latency, n / capacity) seconds. A lease is looked for in the
order of the plan, past the shards that others hold. Some runners crash in the middle of a shard, and are started again
a minute later; some stall for a minute, are taken for dead meanwhile, and then go on.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, quantiles

from dlnjax.sweep.driver import scheduler
from dlnjax.sweep.store import leases

#: Operations on files: to see that a shard is not done, or is; to look at a lease beside the listing of the folder; to
#: make a lease beside two listings; to give it back beside one; to store a shard; to write a heartbeat. A test counts
#: those of the lease in the protocol itself.
NOT_DONE, DONE, LOOK, MAKE, GIVE_BACK, STORE, BEAT = 2, 1, 2, 4, 1, 10, 2
#: Runners, seconds of computing per shard, shards per runner.
RUNNERS, SECONDS, SHARDS = (10, 30, 100, 300, 1000), (10, 60, 600), 10
#: Part of the shards at which a runner crashes, or stalls; seconds until it is back; seconds over which runners start.
CRASHES, STALLS, PAUSE, STARTS = 0.01, 0.01, 60.0, 60.0
#: Part of the runners' time, spent on leases, at which a folder counts as full.
FULL = 0.1
# Shards looked at before the state of the file system is looked at again.
_GLANCE = 64


@dataclass(frozen=True)
class FileSystem:
    """Seconds per operation of one client, operations per second of all, and names that one listing operation gives."""

    name: str
    latency: float
    capacity: float
    page: int


#: Assumed, not measured: a shared disk over a local network, and a mounted object store.
FILE_SYSTEMS = (FileSystem("NFS", 0.0005, 20_000, 256), FileSystem("object store", 0.03, 3_500, 1000))


@dataclass
class Figures:
    """A simulated sweep: what runners spend on leases per shard (mean and 95th percentile, s), and the part of their
    time; the length of the sweep (s); shards taken over from runners that are dead or seem so; shards computed twice;
    shards lost, and stored twice."""

    file_system: str
    runners: int
    shard_seconds: float
    search_mean: float
    search_95: float
    share: float
    hours: float
    taken_over: int
    computed_twice: int
    lost: int
    stored_twice: int


@dataclass
class _Runner:
    number: int
    shard: int = -1
    noticed: int = 0  # shards it knows to be done
    searching_since: float = 0.0
    seen: dict[int, float] = field(default_factory=dict)  # shard of a silent holder -> when first looked at


class Folder:
    """The folder and its runners in simulated time.

    Args:
      files: the file system.
      runners: how many; seconds: of computing per shard; shards: in all; seed: of crashes, stalls and waiting times.
    """

    def __init__(self, files: FileSystem, runners: int, seconds: float, shards: int, seed: int = 0):
        real = leases.Runner(".")
        self._lease, self._patience = real.lease, scheduler.PATIENCE
        self._files, self._seconds, self._total = files, seconds, shards
        self._capacity = files.capacity - BEAT * runners / real.beat
        self._dice = random.Random(seed)
        self._free, self._frontier = [True] * shards, 0
        self._holder: dict[int, int] = {}
        self._silent: dict[int, int] = {}  # shard -> the runner whose heartbeat stands still
        self._stored = [0] * shards
        self._events: list[tuple[float, int, str, _Runner]] = []
        self._count, self._busy, self._runners = 0, 0, runners
        self.now: float = 0.0
        self.done: int = 0
        self.taken_over: int = 0
        self.computed: int = 0
        self.searches: list[float] = []

    def run(self) -> Figures:
        """Until every shard is stored."""
        for number in range(self._runners):
            self._at(self._dice.uniform(0, STARTS), "start", _Runner(number))
        while self.done < self._total:
            self.now, _, what, runner = heapq.heappop(self._events)
            getattr(self, f"_{what}")(runner)
        mean = fmean(self.searches)
        worst = quantiles(self.searches, n=20)[-1] if len(self.searches) > 1 else mean
        return Figures(
            self._files.name, self._runners, self._seconds, mean, worst, mean / (mean + self._seconds),
            self.now / 3600, self.taken_over, self.computed - self._total,
            self._stored.count(0), sum(count > 1 for count in self._stored),
        )  # fmt: skip

    def _at(self, time: float, what: str, runner: _Runner) -> None:
        self._count += 1
        heapq.heappush(self._events, (time, self._count, what, runner))

    def _spend(self, operations: float, then: str, runner: _Runner) -> None:
        """Some operations of a runner that waits for them."""
        each = max(self._files.latency, self._busy / self._capacity) * self._dice.uniform(0.8, 1.4)
        self._at(self.now + operations * each, then, runner)

    def _listing(self) -> float:
        """Operations of a listing of the folder of leases: a lease and a heartbeat per runner."""
        return 1 + (len(self._holder) + self._runners) // self._files.page

    def _start(self, runner: _Runner) -> None:
        self._busy += 1
        runner.searching_since = self.now
        self._search(runner)

    def _search(self, runner: _Runner) -> None:
        """Past what is done or held, to the first shard to be had."""
        runner.shard = len(self._holder)  # still to be looked at
        new, runner.noticed = self.done - runner.noticed, self.done
        self._spend(DONE * new, "glance", runner)

    def _glance(self, runner: _Runner) -> None:
        count = min(_GLANCE, runner.shard)
        runner.shard -= count
        then = "glance" if runner.shard else "choose"
        self._spend(count * (NOT_DONE + self._listing() + LOOK), then, runner)

    def _choose(self, runner: _Runner) -> None:
        """A shard whose holder has been silent for long enough, else the first that is free, else a pause."""
        for shard in self._silent:
            runner.seen.setdefault(shard, self.now)
        runner.seen = {shard: since for shard, since in runner.seen.items() if shard in self._silent}
        overdue = [shard for shard, since in runner.seen.items() if self.now - since >= self._lease]
        while self._frontier < self._total and not self._free[self._frontier]:
            self._frontier += 1
        if overdue or self._frontier < self._total:
            runner.shard = min(overdue, default=self._frontier)
            self._spend(NOT_DONE + 2 * self._listing() + MAKE, "link", runner)
        else:
            self._busy -= 1
            self._at(self.now + self._patience, "again", runner)

    def _again(self, runner: _Runner) -> None:
        self._busy += 1
        runner.searching_since = self.now  # the wait for the last shards is not the folder's fault
        self._search(runner)

    def _link(self, runner: _Runner) -> None:
        """The lease is made, unless another was quicker: then on to the next shard."""
        shard = runner.shard
        if not self._free[shard] and shard not in self._silent:
            self._choose(runner)
            return
        self.taken_over += self._silent.pop(shard, None) is not None
        self._free[shard], self._holder[shard] = False, runner.number
        self._busy -= 1
        self.searches.append(self.now - runner.searching_since)
        self._compute(runner)

    def _compute(self, runner: _Runner) -> None:
        self.computed += 1
        end, chance = self.now + self._seconds * self._dice.uniform(0.9, 1.1), self._dice.random()
        if chance < CRASHES:
            self._at(self.now + self._dice.random() * self._seconds, "crash", runner)
        elif chance < CRASHES + STALLS:
            self._at(self.now + self._dice.random() * self._seconds, "stall", runner)
            self._at(end + PAUSE, "write", runner)
        else:
            self._at(end, "write", runner)

    def _crash(self, runner: _Runner) -> None:
        self._stall(runner)
        self._at(self.now + PAUSE, "start", _Runner(runner.number))

    def _stall(self, runner: _Runner) -> None:
        if self._holder.get(runner.shard) == runner.number:
            self._silent[runner.shard] = runner.number

    def _write(self, runner: _Runner) -> None:
        self._busy += 1
        if self._silent.get(runner.shard) == runner.number:
            del self._silent[runner.shard]  # it beats again
        self._spend(STORE, "store", runner)

    def _store(self, runner: _Runner) -> None:
        """The first file of a shard stays; the lease is given back."""
        shard = runner.shard
        if not self._stored[shard]:
            self._stored[shard] = 1
            self.done += 1
        if self._holder.get(shard) == runner.number:
            del self._holder[shard]
        self._silent.pop(shard, None)
        self._spend(self._listing() + GIVE_BACK, "released", runner)

    def _released(self, runner: _Runner) -> None:
        self._busy -= 1
        self._start(runner)


def simulate(
    runners: Sequence[int], seconds: Sequence[float], per_runner: int, seed: int = 0
) -> list[Figures]:
    """A line of figures for each file system, number of runners and length of shards, printed as they come."""
    lines = []
    for files in FILE_SYSTEMS:
        for each in seconds:
            for count in runners:
                figures = Folder(files, count, each, per_runner * count, seed).run()
                lines.append(figures)
                print(
                    f"{files.name}, {count} runners, shards of {each:g} s: {figures.search_mean:.3g} s of search per "
                    f"shard, {figures.share:.1%} of the time; {figures.taken_over} taken over, {figures.lost} lost",
                    flush=True,
                )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 1 if a shard was lost or stored twice."""
    parser = argparse.ArgumentParser(prog="dlnjax bench folder", description=__doc__)
    default = Path("results/bench/folder.csv")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", default=default, help="the table (default %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="at most 100 runners: seconds")
    options = parser.parse_args(argv)
    runners = [count for count in RUNNERS if count <= 100] if options.quick else RUNNERS
    lines = simulate(runners, SECONDS, SHARDS)
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    with options.csv.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, asdict(lines[0]), lineterminator="\n")
        writer.writeheader()
        for line in lines:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in asdict(line).items()})
    for files in FILE_SYSTEMS:
        for each in SECONDS:
            bears = [line.runners for line in lines if (line.file_system, line.shard_seconds) == (files.name, each)
                     and line.share <= FULL]  # fmt: skip
            print(f"{files.name}, shards of {each} s: bears {max(bears, default=0)} of the runners tried")
    return int(any(line.lost or line.stored_twice for line in lines))
