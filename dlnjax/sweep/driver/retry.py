"""What a failure means: for the shard (try again, or give it up) or for the whole run."""

from __future__ import annotations

import errno
from collections import Counter
from concurrent.futures import BrokenExecutor, CancelledError
from typing import NamedTuple

from dlnjax.sweep.driver.executors import NoWorkers, WorkerDied, lost

# How often a shard whose process died is tried before it counts as failed.
_ATTEMPTS = 3
# What the output folder's disk answers when nothing more can be kept: the run ends, the results stay.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


class Verdict(NamedTuple):
    """Whether a shard is tried again, and why it failed, in words."""

    again: bool
    reason: str


class Retries:
    """Counts the deaths of the processes that had a shard."""

    def __init__(self) -> None:
        self._deaths: Counter[str] = Counter()

    def judge(self, shard: str, error: Exception) -> Verdict:
        """What follows from the error that a shard ended with; the error itself is raised if no shard could be kept."""
        if isinstance(error, WorkerDied | BrokenExecutor):
            self._deaths[shard] += 1
            again = self._deaths[shard] < _ATTEMPTS
            return Verdict(again, str(error) if again else f"{error}, {_ATTEMPTS} times")
        if isinstance(error, CancelledError):  # nobody here cancels a shard that runs: its scheduler is gone
            raise lost(error)
        if isinstance(error, NoWorkers) or (isinstance(error, OSError) and error.errno in _DISK):
            raise error
        return Verdict(False, f"{type(error).__name__}: {error}")
