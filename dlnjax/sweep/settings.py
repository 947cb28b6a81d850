"""What a cell's step rule comes to: scales, step size, the rate predicted for it, and how long it may run.

The prediction is made at the solution the run heads for, before it starts; the rate stored with a result
is made again at the solution found where that is not the same (:mod:`dlnjax.sweep.rows`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from dlnjax._types import Rate
from dlnjax.problem import Quadratic
from dlnjax.reduced import LayerScales
from dlnjax.sweep.cells import Cell, Sweep
from dlnjax.sweep.instance import Instances
from dlnjax.theory import rates

#: Steps beyond the predicted ones: a start far from the solution has a transient of its own.
MARGIN = {"near": 1.1, "haar": 1.3}
EXTRA_STEPS = 64


class Settings(NamedTuple):
    """Resolved numbers of a shard's cells.

    Attributes:
      step_size: ``(B,)`` mu.
      scales: ``(B,)`` each: multipliers of the first, each middle and the last layer.
      predicted: one Rate a cell, at its step size.
      interval: steps between records, for the whole shard.
    """

    step_size: np.ndarray
    scales: LayerScales
    predicted: list[Rate]
    interval: int

    def cell_scales(self, i: int) -> LayerScales:
        """The scales of cell i, as plain numbers."""
        return LayerScales(*(float(np.asarray(scale)[i]) for scale in self.scales))


def resolve(sweep: Sweep, cells: Sequence[Cell], instances: Instances) -> Settings:
    """Scales, step sizes and length of the cells of one shard."""
    scales = [_scales(cell, instances, i) for i, cell in enumerate(cells)]
    units = [unit_rate(sweep, cell, instances, i, scales[i]) for i, cell in enumerate(cells)]
    sizes = [_step_size(cell, rate, instances.unit) for cell, rate in zip(cells, units, strict=True)]
    predicted = [at_step(rate, size) for rate, size in zip(units, sizes, strict=True)]
    steps = max(_num_steps(sweep, cell, rate) for cell, rate in zip(cells, predicted, strict=True))
    records = sweep.record.records
    return Settings(
        np.array(sizes),
        LayerScales(*np.array(scales).T),
        predicted,
        max(1, min(math.ceil(steps / records), sweep.record.max_steps // records)),
    )


def _scales(cell: Cell, instances: Instances, i: int) -> LayerScales:
    """``1/||W_1*||_2^2`` for the orthonormal layers (source A); shared among the middle ones by rule ``middle``."""
    known = instances.solution if _first_is_known(cell, instances) else instances.start
    last = float(np.linalg.norm(np.asarray(known.first[i]), 2) ** -2)
    between = last / max(cell.depth - 2, 1) if cell.step_rule == "middle" else last
    return LayerScales(1.0, between, last)


def _first_is_known(cell: Cell, instances: Instances) -> bool:
    """With a teacher, or a last layer that is not wide, the solution fixes ``||W_1||_2``; else the start does."""
    return not instances.shared or cell.width <= instances.problem.target.shape[0]


def unit_rate(sweep: Sweep, cell: Cell, instances: Instances, i: int, scales: LayerScales) -> Rate:
    """The predicted rate at ``mu = 1``; every eigenvalue is proportional to mu."""
    spec = sweep.problem
    if spec.kind == "teacher" and cell.width <= min(spec.input_dim or 0, spec.output_dim or 0):
        return _teacher_rate(
            spec.singular_values, spec.input_dim or 0, cell.width, spec.output_dim or 0, cell.depth, scales
        )
    first, frame = np.asarray(instances.solution.first[i]), np.asarray(instances.solution.frame[i])
    target = _dense(instances.problem) if instances.shared else _one(instances, i)
    return rates.predict_reduced(first, frame, cell.depth, target, 1.0, scales)


def _one(instances: Instances, i: int):
    import jax

    return jax.tree.map(lambda a: a[i], instances.problem)


def _dense(problem: Quadratic) -> Quadratic:
    """The problem with its covariance as a matrix, as the theory takes it."""
    if problem.covariance is None or problem.root is None:
        return problem
    return replace(problem, covariance=np.diag(problem.covariance), root=np.diag(problem.root))


@lru_cache(maxsize=4096)
def _teacher_rate(
    values: tuple[float, ...], inputs: int, width: int, outputs: int, depth: int, scales: LayerScales
) -> Rate:
    dims = (inputs, *([width] * (depth - 1)), outputs)
    return rates.closed_form(values, dims=dims, step_size=1.0, scales=scales)


def at_step(rate: Rate, step_size: float) -> Rate:
    """A rate known at ``mu = 1``, at another step size."""
    low, high = rate.eigenvalue_min * step_size, rate.eigenvalue_max * step_size
    return rate._replace(factor=max(abs(1 - low), abs(1 - high)), eigenvalue_min=low, eigenvalue_max=high)


def _step_size(cell: Cell, rate: Rate, unit: float) -> float:
    """mu: the config's number in the problem's unit, or a fraction of a predicted step."""
    given = {
        "fixed": unit,
        "middle": unit,
        "optimal": rate.step_optimal,
        "edge": rate.step_max,
    }
    return cell.step * float(given[cell.step_rule])


def _num_steps(sweep: Sweep, cell: Cell, rate: Rate) -> int:
    """Steps for the predicted factor to change the error by ``depth_of_fit``, shrinking or growing."""
    slope = abs(math.log(rate.factor)) if rate.factor > 0 else math.inf
    if slope == 0:
        return sweep.record.max_steps
    needed = MARGIN[cell.start] * abs(math.log(sweep.record.depth_of_fit)) / slope + EXTRA_STEPS
    return int(min(sweep.record.max_steps, math.ceil(needed)))
