"""Sweeps: a config names a grid of networks, every cell is trained once, and the store keeps the results.

``load`` or ``grid`` make a :class:`Sweep`, ``run`` computes what its folder lacks, ``read`` gives the results as one
table. Importing this pulls in neither JAX nor pyarrow.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dlnjax.sweep.config.loading import Cell, SpecError, Sweep, grid, load
from dlnjax.sweep.config.user_functions import PartError, own

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    import pyarrow as pa

    from dlnjax._types import Params
    from dlnjax.sweep.driver.run import Outcome

__all__ = ["Cell", "PartError", "SpecError", "Sweep", "grid", "load", "own", "params", "read", "run"]


def run(
    sweep: Sweep,
    out: Path | str,
    *,
    executor: Executor | None = None,
    workers: int = 0,
    extend: bool = False,
    progress: str = "quiet",
    stream: TextIO | None = None,
) -> Outcome:
    """Computes the cells that ``out`` lacks; interrupted at any moment, the same call finishes the rest.

    Args:
      sweep: from :func:`load` or :func:`grid`.
      out: the folder of the results; made if absent.
      executor: any ``concurrent.futures.Executor``; None runs in this process.
      workers: spawn this many processes instead, at least 1; 0 for none.
      extend: allow a sweep with more cells than the folder was made for.
      progress: ``auto``, ``bars``, ``lines``, ``json`` or ``quiet``, written to ``stream`` (standard error).

    Returns:
      What was done (``driver.run.Outcome``); ``outcome.failed`` names shards that could not be computed.

    Raises:
      manifest.ConfigChanged: the folder holds the results of another sweep.
      PartError: functions of the sweep are missing, or cannot follow it into other processes.
    """
    from dlnjax.sweep.driver import executors
    from dlnjax.sweep.driver import progress as listeners
    from dlnjax.sweep.driver.run import run as run_sweep

    listen = listeners.choose(progress, stream)
    if not workers:
        return run_sweep(sweep, out, executor=executor, extend=extend, listen=listen)
    with executors.Workers(workers) as pool:
        return run_sweep(sweep, out, executor=pool, extend=extend, listen=listen)


def read(out: Path | str | Sequence[Path | str], columns: Sequence[str] | None = None) -> pa.Table:
    """The results in a folder: one row a cell, as far as they are computed (columns: the documentation's "store").

    Args:
      out: the folder of the results; or several, whose results come one behind the other (no cell may be in two).
      columns: those to read, all if None; the curves are most of a large sweep.
    """
    from dlnjax.sweep import store

    return store.read(out, columns)


def params(out: Path | str, cell: Cell | Mapping[str, Any] | str) -> Params:
    """A cell's trained weights, kept with ``keep_params = true``; see ``store.extra_columns.params``."""
    from dlnjax.sweep.store import extra_columns

    return extra_columns.params(out, cell)
