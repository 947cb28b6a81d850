"""Starts runners elsewhere: Slurm jobs, and the processes of several hosts.

Runners need no conversation: each takes the same command and the same folder on a shared file system, and
takes leases on shards there. So a Slurm job *is* the command, and hosts under ``jax.distributed`` compute on their own
devices; one of them may die and another takes over its shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def slurm(
    command: Sequence[str], jobs: int, logs: Path | str, *, cluster: str = "slurm", **parameters: Any
) -> list[Any]:
    """Submits ``jobs`` runners.

    Args:
      command: what each runs, as a list: ``["dlnjax", "run", "CONFIG", "--out", "DIR"]``; no shell reads it.
      jobs: how many, at least 1.
      logs: folder for the jobs' output, on a file system that the nodes share.
      cluster: ``slurm``, or ``local`` for processes on this machine.
      parameters: submitit's, e.g. ``timeout_min=600, cpus_per_task=8, slurm_partition="gpu"``.

    Returns:
      submitit's jobs; ``job.result()`` waits for one.

    Raises:
      ModuleNotFoundError: names the extra ``slurm``.
      ValueError: fewer than one job; no Slurm on this machine, or it refuses the jobs; an unknown parameter.
    """
    if jobs < 1:
        raise ValueError(f"slurm jobs: {jobs}; give at least 1")
    try:
        import submitit
    except ModuleNotFoundError:
        raise ModuleNotFoundError('--slurm: submitit is not installed; pip install "dlnjax[slurm]"') from None
    run = submitit.helpers.CommandFunction([str(word) for word in command], verbose=False)
    try:
        executor = submitit.AutoExecutor(folder=Path(logs), cluster=cluster)
        executor.update_parameters(**{"timeout_min": 24 * 60, **parameters})
        return [executor.submit(run) for _ in range(jobs)]
    except (
        RuntimeError,
        NameError,
        TypeError,
        ValueError,
        AssertionError,
    ) as error:  # what submitit raises at its user
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"--slurm: {reason}; see --slurm-option, cluster=local runs the jobs here"
        ) from error


def hosts(coordinator: str, processes: int, index: int) -> None:
    """Joins this process to a ``jax.distributed`` group; call it before the first JAX array.

    Every process then runs the same sweep into the same folder, on the devices of its own host.

    Args:
      coordinator: ``host:port`` of process 0.
      processes: how many there are, at least 1.
      index: of this one, from 0.

    Raises:
      ValueError: the index is not one of theirs.
    """
    if not 0 <= index < processes:
        raise ValueError(f"process {index} of {processes}; give 0 to {processes - 1}")
    import jax

    jax.distributed.initialize(coordinator, num_processes=processes, process_id=index)
