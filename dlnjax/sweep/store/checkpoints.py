"""Checkpoints: a long shard keeps its state between chunks, so that a killed run resumes inside the shard.

The state is a flat mapping of names to numpy arrays; it is written as ``.npz`` without pickle, with a seal behind it
(:mod:`dlnjax.sweep.store.seal`), replaces the one before in one step, and is removed when the shard is in the store.
A state that is damaged, or that another version of the numbers left, counts as absent: the shard then starts over.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlnjax.sweep.store import atomic, leases, provenance, seal

FOLDER = "checkpoints"
_STAMP = "__written_by__"


class Checkpoint:
    """The file in which one shard keeps its state.

    Args:
      out: the sweep's folder.
      shard: the shard's name.
      every: seconds that pass at least between two writes; :meth:`due` says when.
      holder: the runner that has the shard's lease; where it is another's by now, nothing is written. "": not asked.
    """

    def __init__(self, out: Path | str, shard: str, every: float = 30.0, holder: str = ""):
        self._holder = holder
        self.file: Path = Path(out) / FOLDER / f"{shard}.npz"
        self.every = every
        self._last = time.monotonic()

    def part(self, first: int, count: int) -> Checkpoint:
        """That of ``count`` of the shard's cells, from place ``first`` on, where they do not run all at once."""
        part = Checkpoint(self.file.parents[1], f"{self.file.stem}.{first}x{count}", self.every, self._holder)
        part._last = self._last
        return part

    def due(self) -> bool:
        """Whether enough time has passed since the last write (or the start) for another."""
        return time.monotonic() - self._last >= self.every

    def save(self, state: Mapping[str, np.ndarray]) -> None:
        """Keeps ``state``; the one before is gone afterwards, never earlier.

        Raises:
          OSError: the disk is full; the state before is kept.
        """
        if (
            self._holder
            and leases.holder(self.file.parents[1], self.file.stem.partition(".")[0]) != self._holder
        ):
            self._last = time.monotonic()  # the state there is the next runner's
            return
        self.file.parent.mkdir(exist_ok=True)  # its folder alone: a removed results folder stays removed
        content = io.BytesIO()
        arrays: dict[str, Any] = {_STAMP: np.array(_stamp()), **state}
        np.savez(content, **arrays)
        content.write(f"{seal.KEY} {seal.BLANK}".encode())
        atomic.replace(self.file, seal.sealed(content.getvalue()))
        self._last = time.monotonic()

    def load(self) -> dict[str, np.ndarray] | None:
        """The state kept last, None if there is none that can be used."""
        state = _arrays(self.file)
        if state is None:
            return None
        return state if str(state.pop(_STAMP, "")) == _stamp() else None

    def clear(self) -> None:
        """Forgets the state: the shard is in the store."""
        for file in [self.file, *self.file.parent.glob(f"{self.file.stem}.*.npz")]:
            file.unlink(missing_ok=True)


def damaged(file: Path) -> bool:
    """Whether the file holds no state that was written so, whatever the versions."""
    return _arrays(file) is None


def _arrays(file: Path) -> dict[str, np.ndarray] | None:
    """What a checkpoint's file holds; None if it is absent or damaged."""
    try:
        content = file.read_bytes()
        if seal.is_right(content) is False:
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as opened:
            return {name: opened[name] for name in opened.files}
    except Exception:  # a file without a seal can be damaged in more ways than numpy has errors for
        return None


def _stamp() -> str:
    return repr(sorted(provenance.versions().items()))
