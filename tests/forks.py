"""Processes for a campaign of faults: forks that do one thing, killed at a drawn touch of a file, and their judge."""

import math
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field

import faults
import standin

from dlnjax.sweep import store
from dlnjax.sweep.driver import run as driver
from dlnjax.sweep.driver import scheduler
from dlnjax.sweep.store import verify

SHARDS, HANG = 8, 90.0
VERDICTS = {10: "lost", 11: "doubled", 12: "wrong", 13: "unsound"}
_TOUCHES = {"open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir"}


@dataclass
class Row:
    """What became of one kind of fault."""

    kind: str
    injected: int = 0
    sweeps: int = 0
    verdicts: Counter = field(default_factory=Counter)
    notes: list = field(default_factory=list)

    def line(self):
        counts = "".join(f"{self.verdicts[name]:>9}" for name in COLUMNS)
        return f"{self.kind:<34}{self.injected:>9}{self.sweeps:>8}{counts}"


COLUMNS = (*VERDICTS.values(), "hangs", "failed")
HEAD = f"{'kind of fault':<34}{'injected':>9}{'folders':>8}" + "".join(f"{name:>9}" for name in COLUMNS)


class Fork:
    """A function in a forked process; its words go to a file."""

    def __init__(self, function, log, die_at=0, watched=None):
        self.log, self.begin, self.code = log, time.monotonic(), None
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, 1)
                os.dup2(handle, 2)
                if die_at:
                    _die_at(die_at, str(watched))
                code = function() or 0
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)

    def running(self):
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def wait(self, row):
        """The exit code; a process that takes too long is a hang."""
        while self.running():
            if time.monotonic() - self.begin > HANG:
                row.verdicts["hangs"] += 1
                row.notes.append(f"{row.kind}: hang: {self.said()}")
                self.kill()
            time.sleep(0.005)
        return self.code

    def kill(self):
        if self.running():
            os.kill(self.pid, signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def said(self):
        return self.log.read_text(errors="replace")[-1500:]


def _die_at(number, folder):
    count = 0

    def hook(event, arguments):
        nonlocal count
        if event in _TOUCHES and arguments and str(arguments[0]).startswith(folder):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def moment(dice, most=250):
    """Early moments as likely as late ones, per factor."""
    return round(math.exp(dice.uniform(0, math.log(most))))


def sweep(out, shards, setting=None, extend=False, seed=0.0, lease=30.0):
    """One runner, in a fork."""
    scheduler.PATIENCE = 0.05
    if setting:
        setting(seed, out)
    options = {"planner": standin.planner, "work": standin.work, "extend": extend, "lease": lease}
    done = driver.run(faults.sweep_of(shards, 0.002), out, **options)
    return int(not done.complete)


def finish(row, folder, out, shards, setting=None, extend=False):
    """An undisturbed runner completes the folder; then every promise is looked at."""
    last = Fork(lambda: sweep(out, shards, setting, extend, 0.5), folder / "log")
    if last.wait(row) != 0:
        row.verdicts["failed"] += 1
        row.notes.append(f"{row.kind}: the last runner failed: {last.said()}")
    judged = Fork(lambda: judge(out, shards), folder / "log")
    code = judged.wait(row)
    if code:
        row.verdicts[VERDICTS.get(code, "failed")] += 1
        row.notes.append(f"{row.kind}: {judged.said()}")
    shutil.rmtree(out, ignore_errors=True)


def judge(out, shards):
    """0, or the exit code of the worst thing that is wrong with a complete folder."""
    verdict, table = verify.verify(out), store.read(out)
    wanted = standin.reference(faults.sweep_of(shards))
    have, want = Counter(table["cell"].to_pylist()), Counter(wanted["cell"].to_pylist())
    print(verdict.lines(), have - want, want - have)
    if want.keys() - have.keys():
        return 10
    if max(have.values()) > 1:
        return 11
    if not table.equals(wanted):
        return 12
    return 0 if verdict.sound else 13
