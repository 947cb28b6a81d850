"""What a shard's arrays become in the store: columns of plain numbers, one entry a cell.

All here is arrays over the cells, so that a million tiny cells cost as little each as a thousand; only what is
rare, a reason in words or a rate at a solution of its own, is made cell by cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlnjax._types import Rate, Status, Trace
from dlnjax.sweep.compute.instances import Instances, TwoLayer
from dlnjax.sweep.compute.step_rules import Settings, at_step, cell_scales, first_is_known, unit_rate
from dlnjax.sweep.config import registry
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.theory import guarantee

_PREDICTED = ("eigenvalue_min", "eigenvalue_max", "step_max", "step_optimal")


def columns(
    sweep: Sweep,
    cells: Sequence[Cell],
    instances: Instances,
    chosen: Settings,
    ended: TwoLayer,
    trace: Trace,
    seconds: float,
) -> dict[str, Any]:
    """The columns of ``store.schema``, each with an entry a cell.

    Args:
      instances, chosen: what the cells started from.
      ended: the trained two-layer form, B cells (or more, which are left out) in front.
      trace: numpy arrays, as many cells in front.
      seconds: wall clock, a cell's share.
    """
    count = len(cells)
    trace = _host(Trace, trace, count)
    found: dict[str, Any] = {name: [getattr(cell, name) for cell in cells] for name in cells[0].coordinates()}
    found["cell"] = [sweep.key(cell) for cell in cells]
    found |= {"seconds": np.full(count, seconds), "rank": np.full(count, instances.rank)}
    rates = _rates_found(sweep, cells, instances, chosen, ended, np.asarray(trace.status)[:, -1])
    found |= _outcomes(trace, sweep.record.tolerance, rates) | _curves(trace)
    found |= _predictions(rates, chosen, count)
    found["guaranteed_factor"] = _guarantees(sweep, cells, instances, chosen)
    return found


def _host(kind: Any, tree: Any, count: int) -> Any:
    """The first ``count`` cells of a batch as numpy arrays; JAX's would compile a program for every slice."""
    return kind(*(np.asarray(leaf)[:count] for leaf in tree))


def _rates_found(sweep, cells, instances, chosen, ended, status: np.ndarray) -> Rate | None:
    """The rates at the solutions found; where a solution is unique up to rotations, those predicted before."""
    lead = cells[0]
    if not registry.optimizer(lead.optimizer).reduced:
        return None  # the layers do not stay orthonormal: the operator of the start does not apply
    converged = np.flatnonzero(status == Status.CONVERGED)
    if first_is_known(lead, instances) or not converged.size:
        return chosen.predicted
    here = instances._replace(solution=_host(TwoLayer, ended, len(cells)))
    rates = Rate(*(np.array(column) for column in chosen.predicted))
    for i in converged.tolist():
        unit = unit_rate(sweep, lead, here, i, cell_scales(chosen.scales, i))
        for column, value in zip(rates, at_step(unit, chosen.step_size[i], chosen.momentum[i]), strict=True):
            column[i] = value
    return rates


def _outcomes(trace: Any, tolerance: float, rates: Rate | None) -> dict[str, Any]:
    bad, status = trace.first_bad_step, trace.status[:, -1]
    return {
        "status": [Status.NAMES[code] for code in status],
        "reason": [
            None if code == Status.CONVERGED else _reason(trace, i, rates) for i, code in enumerate(status)
        ],
        "num_steps": trace.step[:, -1],
        "iterations": iterations(trace.step, trace.distance, tolerance),
        "first_bad_step": np.ma.array(bad, mask=bad < 0),
        "final_loss": trace.loss[:, -1],
        "final_distance": trace.distance[:, -1],
        "orthonormality_error": trace.orthonormality_error[:, -1],
    }


def _reason(trace: Any, i: int, rates: Rate | None) -> str:
    """Why cell i, which did not converge, ended as it did."""
    last, start = float(trace.distance[i, -1]), float(trace.distance[i, 0])
    relative = last / start if start else math.nan
    if trace.status[i, -1] == Status.DIVERGED:
        finite = math.isfinite(last)
        what = f"error {relative:.3g} times its start and no progress" if finite else "a number is not finite"
        return f"{what}, seen at step {int(trace.first_bad_step[i])}"
    predicted = f"; predicted factor {rates.factor[i]:.9g}" if rates is not None else ""
    return f"error {relative:.3g} times its start after {int(trace.step[i, -1])} steps{predicted}"


def iterations(step: np.ndarray, distance: np.ndarray, tolerance: float) -> np.ma.MaskedArray:
    """The first steps with ``distance <= tolerance * distance[:, 0]``, masked where there is none.

    Between two records the error is taken to fall geometrically; the result is rounded up.

    Args:
      step, distance: ``(B, T)``.
    """
    cell = np.arange(len(step))
    distance = np.asarray(distance, np.float64)
    goal = tolerance * distance[:, 0]
    reached = distance <= goal[:, None]
    after = reached.argmax(axis=1)
    before = np.maximum(after - 1, 0)
    with np.errstate(all="ignore"):  # what is not finite or zero is masked, or replaced
        high = distance[cell, before]
        low = np.maximum(distance[cell, after], np.finfo(float).tiny)
        part = np.where(low < high, np.log(high / goal) / np.log(high / low), 1.0)
        between = step[cell, before] + part * (step[cell, after] - step[cell, before])
    found = np.where(after > 0, np.ceil(between), 0)
    return np.ma.array(np.nan_to_num(found).astype(np.int64), mask=~reached.any(axis=1))


def _curves(trace: Trace) -> dict[str, Any]:
    names = ("step", "loss", "distance", "gradient_norm")
    return {f"curve_{name}": np.asarray(getattr(trace, name), np.float64) for name in names}


def _predictions(rates: Rate | None, chosen: Settings, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "step_size": chosen.step_size,
        "scale_middle": chosen.scales.middle,
        "scale_last": chosen.scales.last,
        "interval": np.full(count, chosen.interval),
    }
    if rates is not None:
        found["predicted_factor"] = rates.factor
        found |= {name: np.ma.masked_invalid(getattr(rates, name)) for name in _PREDICTED}
    return found


def _guarantees(sweep: Sweep, cells: Sequence[Cell], instances: Instances, chosen: Settings) -> Any:
    """The factors that the derived theorem guarantees, masked where it does not apply (dlnjax.theory.guarantee).

    The start's gauge-invariant distance is bounded by the one to the solution as drawn.
    """
    spec, lead, count = sweep.problem, cells[0], len(cells)
    if spec.kind != "teacher" or lead.optimizer != "rgd" or lead.retraction != "polar":
        return None
    dims = (spec.input_dim or 0, *([lead.width] * (lead.depth - 1)), spec.output_dim or 0)
    pairs = zip(instances.solution, instances.start, strict=True)
    gaps = [np.linalg.norm(np.asarray(a)[:count] - np.asarray(b)[:count], axis=(-2, -1)) for a, b in pairs]
    distance = np.hypot(gaps[0], max(spec.singular_values) * gaps[1])
    factor, inside = np.zeros(count), np.zeros(count, bool)
    for size in np.unique(chosen.step_size):
        here = chosen.step_size == size
        scales = cell_scales(chosen.scales, int(np.argmax(here)))
        found = guarantee.from_spectrum(spec.singular_values, dims=dims, step_size=size, scales=scales)
        if found.applies:
            factor[here], inside[here] = found.factor, distance[here] <= found.radius
    return np.ma.array(factor, mask=~inside)
