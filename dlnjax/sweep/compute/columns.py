"""What a shard's arrays become in the store: columns of plain numbers, one entry a cell.

All here is arrays over the cells, so that a million tiny cells cost as little each as a thousand; only what is
rare, a reason in words or a rate at a solution of its own, is made cell by cell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlnjax import _monitor
from dlnjax._types import PyTree, Rate, Status, Trace
from dlnjax.sweep.compute.backend import Instances
from dlnjax.sweep.compute.step_rules import NO_RATE, Settings, applies, at_step, cell_scales
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.theory import guarantee

#: Column -> its values, a cell each; None where no cell has one.
Columns = dict[str, Any]

_PREDICTED = ("eigenvalue_min", "eigenvalue_max", "step_max", "step_optimal")


def columns(
    sweep: Sweep,
    cells: Sequence[Cell],
    instances: Instances,
    settings: Settings,
    result: PyTree,
    trace: Trace,
    seconds: float,
) -> Columns:
    """The columns of ``schema.arrow_schema``, each with an entry per cell.

    Args:
      instances, settings: what the n cells started from.
      result: ``loop.Ended.result``: numpy arrays, n cells (or more, which are left out) in front.
      trace: numpy arrays, as many cells in front.
      seconds: wall clock, a cell's share.
    """
    count = len(cells)
    arrays: Any = (np.asarray(leaf)[:count] for leaf in trace)
    trace = _judged(cells[0], Trace(*arrays))
    rates = _rates_reached(cells, instances, settings, result, np.asarray(trace.status)[:, -1])
    columns: Columns = {name: [getattr(cell, name) for cell in cells] for name in cells[0].coordinates()}
    columns["cell"] = [sweep.key(cell) for cell in cells]
    columns["seconds"] = np.full(count, seconds)
    columns["rank"] = None if instances.rank is None else np.full(count, instances.rank)
    columns |= _outcomes(trace, sweep.record.tolerance, rates) | _curves(trace)
    columns |= _predictions(rates, settings, count)
    columns["guaranteed_factor"] = _guarantees(sweep, cells, instances, settings)
    if instances.curvature is not None:
        columns |= dict(zip(("curvature_min", "curvature_max"), instances.curvature.T, strict=True))
    return columns


def _judged(lead: Cell, trace: Trace) -> Trace:
    """On mini-batches a run ends in noise of bounded size: that is no divergence."""
    if not lead.batch_size:
        return trace
    bounded = trace.distance[:, -1] <= _monitor.BLOWUP * trace.distance[:, 0]
    noisy = bounded[:, None] & (trace.status == Status.DIVERGED)
    return trace._replace(status=np.where(noisy, Status.RUNNING, trace.status))


def _rates_reached(
    cells: Sequence[Cell], instances: Instances, settings: Settings, result: PyTree, status: np.ndarray
) -> Rate | None:
    """The rates at the solutions reached; where every solution has the same, those predicted before.

    A run that diverged keeps the prediction at the solution it headed for: its stability threshold is wanted there. So
    does an unfinished run of a nonlinear network.
    """
    if not applies(cells[0]):
        return None
    if instances.unique:
        return settings.predicted
    columns = [np.array(column) for column in settings.predicted]
    factor = columns[Rate._fields.index("factor")]
    # of nonlinear networks theory does not say whether a point is a solution: an unfinished run is not looked at
    ended = status != Status.DIVERGED if cells[0].activation == "linear" else status == Status.CONVERGED
    for i in np.flatnonzero(ended & ~np.isnan(factor)).tolist():
        try:
            unit = instances.unit_rate(i, cell_scales(settings.scales, i), result) or NO_RATE
        except ValueError:  # the run ended at no solution: what it heads for, and so its factor, is not known
            factor[i] = math.nan
            continue
        here = at_step(unit, settings.step_size[i], settings.momentum[i])
        for column, value in zip(columns, here, strict=True):
            column[i] = value
    return Rate(*columns)


def _outcomes(trace: Any, tolerance: float, rates: Rate | None) -> Columns:
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
    factor = math.nan if rates is None else np.asarray(rates.factor)[i]
    predicted = "" if math.isnan(factor) else f"; predicted factor {factor:.9g}"
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
    first = np.where(after > 0, np.ceil(between), 0)
    return np.ma.array(np.nan_to_num(first).astype(np.int64), mask=~reached.any(axis=1))


def _curves(trace: Trace) -> Columns:
    names = ("step", "loss", "distance", "gradient_norm")
    return {f"curve_{name}": np.asarray(getattr(trace, name), np.float64) for name in names}


def _predictions(rates: Rate | None, settings: Settings, count: int) -> Columns:
    columns: Columns = {
        "step_size": settings.step_size,
        "scale_middle": settings.scales.middle,
        "scale_last": settings.scales.last,
        "interval": np.full(count, settings.interval),
    }
    if rates is not None:
        columns["predicted_factor"] = np.ma.masked_invalid(rates.factor)
        columns |= {name: np.ma.masked_invalid(getattr(rates, name)) for name in _PREDICTED}
    return columns


def _guarantees(
    sweep: Sweep, cells: Sequence[Cell], instances: Instances, settings: Settings
) -> np.ma.MaskedArray | None:
    """The factors that the derived theorem guarantees, masked where it does not apply (dlnjax.theory.guarantee).

    The start's gauge-invariant distance is bounded by the one to the solution as drawn.
    """
    spec, lead, count = sweep.problem, cells[0], len(cells)
    if (lead.optimizer, lead.retraction) != ("rgd", "polar") or (
        distance := instances.start_distance()
    ) is None:
        return None
    dims = (spec.input_dim or 0, *([lead.width] * (lead.depth - 1)), spec.output_dim or 0)
    factor, inside = np.zeros(count), np.zeros(count, bool)
    for size in np.unique(settings.step_size):
        here = settings.step_size == size
        scales = cell_scales(settings.scales, int(np.argmax(here)))
        theorem = guarantee.from_spectrum(spec.singular_values, dims=dims, step_size=size, scales=scales)
        if theorem.applies:
            factor[here], inside[here] = theorem.factor, distance[here] <= theorem.radius
    return np.ma.array(factor, mask=~inside)
