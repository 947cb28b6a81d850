"""Checkpoints: a long shard keeps its state between chunks, so that a killed run resumes inside the shard.

The state is a flat mapping of names to numpy arrays; it is written as ``.npz`` without pickle, replaces
the one before in one step, and is removed when the shard is in the store. A state that is damaged, or that
another version of the numbers left, counts as absent: the shard then starts over.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dlnjax.sweep.store import atomic, provenance

FOLDER = "checkpoints"
_STAMP = "__written_by__"


class Checkpoint:
    """The file in which one shard keeps its state.

    Args:
      out: the sweep's folder.
      shard: the shard's name.
      every: seconds that pass at least between two writes; :meth:`due` says when.
    """

    def __init__(self, out: Path | str, shard: str, every: float = 30.0):
        self.file: Path = Path(out) / FOLDER / f"{shard}.npz"
        self.every = every
        self._last = time.monotonic()

    def part(self, first: int, count: int) -> Checkpoint:
        """That of ``count`` of the shard's cells, from place ``first`` on, where they do not run all at once."""
        part = Checkpoint(self.file.parents[1], f"{self.file.stem}.{first}x{count}", self.every)
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
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        arrays: dict[str, Any] = {_STAMP: np.array(_stamp()), **state}
        np.savez(content, **arrays)
        atomic.replace(self.file, content.getvalue())
        self._last = time.monotonic()

    def load(self) -> dict[str, np.ndarray] | None:
        """The state kept last, None if there is none that can be used."""
        try:
            with np.load(io.BytesIO(self.file.read_bytes()), allow_pickle=False) as file:
                state = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None
        return state if str(state.pop(_STAMP, "")) == _stamp() else None

    def clear(self) -> None:
        """Forgets the state: the shard is in the store."""
        for file in [self.file, *self.file.parent.glob(f"{self.file.stem}.*.npz")]:
            file.unlink(missing_ok=True)


def _stamp() -> str:
    return repr(sorted(provenance.versions().items()))
