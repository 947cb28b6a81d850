"""What a shard's arrays become in the store: one row of plain numbers a cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dlnjax._types import Rate, Status, Trace
from dlnjax.sweep.cells import Cell, Sweep
from dlnjax.sweep.instance import Instances, TwoLayer
from dlnjax.sweep.settings import Settings, at_step, unit_rate
from dlnjax.theory import guarantee


def rows(
    sweep: Sweep,
    cells: Sequence[Cell],
    instances: Instances,
    chosen: Settings,
    ended: TwoLayer,
    trace: Trace,
    seconds: float,
) -> list[dict[str, Any]]:
    """One mapping a cell, with the columns of ``store.schema``.

    Args:
      instances, chosen: what the cells started from.
      ended: the trained two-layer form, B cells in front.
      trace: numpy arrays, B cells in front.
      seconds: wall clock, a cell's share.
    """
    found = []
    for i, cell in enumerate(cells):
        one = Trace(*(field[i] for field in trace))
        status = int(one.status[-1])
        rate = _rate_found(sweep, cell, instances, chosen, ended, i, status)
        row = {name: value for name, value in asdict(cell).items() if name != "content"}
        row |= {"cell": sweep.key(cell), "seconds": seconds, "rank": instances.rank}
        row |= _outcome(one, sweep.record.tolerance, status, rate) | _curves(one)
        row |= _prediction(rate, chosen, i) | {"interval": chosen.interval}
        row["guaranteed_factor"] = _guarantee(sweep, cell, instances, chosen, i)
        found.append(row)
    return found


def _rate_found(sweep, cell, instances, chosen, ended, i, status) -> Rate | None:
    """The prediction at the solution found; where the solution is unique up to rotations, the one made before."""
    if cell.optimizer != "rgd":
        return None  # the layers do not stay orthonormal: the operator of the start does not apply
    unique = not instances.shared or cell.width <= instances.problem.target.shape[0]
    if unique or status != Status.CONVERGED:
        return chosen.predicted[i]
    here = instances._replace(solution=ended)
    scales = chosen.cell_scales(i)
    return at_step(unit_rate(sweep, cell, here, i, scales), float(chosen.step_size[i]))


def _outcome(trace: Trace, tolerance: float, status: int, rate: Rate | None) -> dict[str, Any]:
    bad = int(trace.first_bad_step)
    return {
        "status": Status.NAMES[status],
        "reason": _reason(trace, status, rate),
        "num_steps": int(trace.step[-1]),
        "iterations": iterations(np.asarray(trace.step), np.asarray(trace.distance), tolerance),
        "first_bad_step": None if bad < 0 else bad,
        "final_loss": float(trace.loss[-1]),
        "final_distance": float(trace.distance[-1]),
        "orthonormality_error": float(trace.orthonormality_error[-1]),
    }


def _reason(trace: Trace, status: int, rate: Rate | None) -> str | None:
    if status == Status.CONVERGED:
        return None
    last, start = float(trace.distance[-1]), float(trace.distance[0])
    relative = last / start if start else math.nan
    if status == Status.DIVERGED:
        finite = math.isfinite(last)
        what = f"error {relative:.3g} times its start and no progress" if finite else "a number is not finite"
        return f"{what}, seen at step {int(trace.first_bad_step)}"
    predicted = f"; predicted factor {rate.factor:.9g}" if rate is not None else ""
    return f"error {relative:.3g} times its start after {int(trace.step[-1])} steps{predicted}"


def iterations(step: np.ndarray, distance: np.ndarray, tolerance: float) -> int | None:
    """First step with ``distance <= tolerance * distance[0]``, None if there is none.

    Between two records the error is taken to fall geometrically; the result is rounded up.
    """
    goal = tolerance * distance[0]
    reached = np.flatnonzero(distance <= goal)
    if not reached.size or reached[0] == 0:
        return 0 if reached.size else None
    after = int(reached[0])
    high, low = distance[after - 1], max(distance[after], np.finfo(float).tiny)
    part = math.log(high / goal) / math.log(high / low) if low < high else 1.0
    return math.ceil(step[after - 1] + part * (step[after] - step[after - 1]))


def _curves(trace: Trace) -> dict[str, Any]:
    names = ("step", "loss", "distance", "gradient_norm")
    return {f"curve_{name}": np.asarray(getattr(trace, name), float) for name in names}


def _prediction(rate: Rate | None, chosen: Settings, i: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "step_size": float(chosen.step_size[i]),
        "scale_middle": chosen.cell_scales(i).middle,
        "scale_last": chosen.cell_scales(i).last,
    }
    if rate is not None:
        row["predicted_factor"] = float(rate.factor)
        for name in ("eigenvalue_min", "eigenvalue_max", "step_max", "step_optimal"):
            row[name] = float(getattr(rate, name))
    return row


def _guarantee(sweep: Sweep, cell: Cell, instances: Instances, chosen: Settings, i: int) -> float | None:
    """The factor that the derived theorem guarantees, None where it does not apply (dlnjax.theory.guarantee).

    The start's gauge-invariant distance is bounded by the one to the solution as drawn.
    """
    spec = sweep.problem
    if spec.kind != "teacher" or cell.optimizer != "rgd" or cell.retraction != "polar":
        return None
    dims = (spec.input_dim or 0, *([cell.width] * (cell.depth - 1)), spec.output_dim or 0)
    norm = max(spec.singular_values)
    gaps = [
        np.linalg.norm(np.asarray(a[i]) - np.asarray(b[i]))
        for a, b in zip(instances.solution, instances.start, strict=True)
    ]
    found = guarantee.from_spectrum(
        spec.singular_values,
        dims=dims,
        step_size=float(chosen.step_size[i]),
        scales=chosen.cell_scales(i),
        distance=math.hypot(gaps[0], norm * gaps[1]),
    )
    return found.factor if found.applies else None
