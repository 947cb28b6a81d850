"""What a cell's step rule comes to: scales, step size, the rate predicted for it, and how long it may run.

The prediction is made at the solution the run heads for, before it starts; the rate stored with a result
is made again at the solution found where that is not the same (``compute.columns``). The cells of a shard
share width, depth, rule and start, so that all here is arrays over them, and a spectrum is computed once where
the solution is known to be one.
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
from dlnjax.sweep.compute.instances import Instances
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.theory import momentum, rates

#: Steps beyond the predicted ones: a start far from the solution has a transient of its own.
MARGIN = {"near": 1.1, "haar": 1.3}
EXTRA_STEPS = 64


class Scales(NamedTuple):
    """``reduced.LayerScales`` of B cells, ``(B,)`` each."""

    first: np.ndarray
    middle: np.ndarray
    last: np.ndarray


class Settings(NamedTuple):
    """Resolved numbers of a shard's B cells.

    Attributes:
      step_size: ``(B,)`` mu.
      scales: ``(B,)`` each: multipliers of the first, each middle and the last layer.
      momentum: ``(B,)`` beta, 0 where the optimizer has none.
      predicted: the rates at these step sizes, ``(B,)`` each.
      interval: steps between records, for the whole shard.
    """

    step_size: np.ndarray
    scales: Scales
    momentum: np.ndarray
    predicted: Rate
    interval: int


def resolve(sweep: Sweep, cells: Sequence[Cell], instances: Instances) -> Settings:
    """Scales, step sizes and length of the cells of one shard."""
    scales = _scales(sweep, cells, instances)
    units = _unit_rates(sweep, cells, instances, scales)
    sizes = _step_sizes(cells, units, instances.unit)
    momenta = np.array([cell.momentum for cell in cells])
    predicted = at_step(units, sizes, momenta)
    steps = _num_steps(sweep, cells[0], predicted.factor)
    records = sweep.record.records
    interval = max(1, min(math.ceil(steps / records), sweep.record.max_steps // records))
    return Settings(sizes, scales, momenta, predicted, interval)


def cell_scales(scales: Scales, i: int) -> LayerScales:
    """The scales of cell i, as plain numbers."""
    return LayerScales(*(float(scale[i]) for scale in scales))


def _scales(sweep: Sweep, cells: Sequence[Cell], instances: Instances) -> Scales:
    """``1/||W_1*||_2^2`` for the orthonormal layers (source A); shared among the middle ones by rule ``middle``."""
    lead, count = cells[0], len(cells)
    if sweep.problem.kind == "teacher":
        norms = np.full(count, max(sweep.problem.singular_values))
    else:
        known = instances.solution if first_is_known(lead, instances) else instances.start
        norms = np.linalg.norm(np.asarray(known.first[:count], np.float64), 2, axis=(-2, -1))
    last = norms**-2
    between = last / max(lead.depth - 2, 1) if lead.step_rule == "middle" else last
    return Scales(np.ones(count), between, last)


def first_is_known(cell: Cell, instances: Instances) -> bool:
    """With a teacher, or a last layer that is not wide, the solution fixes ``||W_1||_2``; else the start does."""
    return not instances.shared or cell.width <= instances.problem.target.shape[0]


def _unit_rates(sweep: Sweep, cells: Sequence[Cell], instances: Instances, scales: Scales) -> Rate:
    """The predicted rates at ``mu = 1``; every eigenvalue is proportional to mu."""
    lead, count = cells[0], len(cells)
    one = _closed(sweep, lead) or (instances.shared and first_is_known(lead, instances))
    each = [unit_rate(sweep, lead, instances, i, cell_scales(scales, i)) for i in range(1 if one else count)]
    return Rate(*(np.broadcast_to(np.array(column, float), count) for column in zip(*each, strict=True)))


def unit_rate(sweep: Sweep, cell: Cell, instances: Instances, i: int, scales: LayerScales) -> Rate:
    """The predicted rate of cell i at ``mu = 1``."""
    spec = sweep.problem
    if _closed(sweep, cell):
        return _teacher_rate(
            spec.singular_values, spec.input_dim or 0, cell.width, spec.output_dim or 0, cell.depth, scales
        )
    first, frame = np.asarray(instances.solution.first[i]), np.asarray(instances.solution.frame[i])
    target = _dense(instances.problem) if instances.shared else _one(instances, i)
    return rates.predict_reduced(first, frame, cell.depth, target, 1.0, scales)


def _closed(sweep: Sweep, cell: Cell) -> bool:
    """Whether the teacher's spectrum alone tells the rate."""
    spec = sweep.problem
    return spec.kind == "teacher" and cell.width <= min(spec.input_dim or 0, spec.output_dim or 0)


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


def at_step(rate: Rate, step_size: np.ndarray | float, beta: np.ndarray | float = 0.0) -> Rate:
    """Rates known at ``mu = 1`` without momentum, at other step sizes and heavy ball's beta."""
    low, high = rate.eigenvalue_min * step_size, rate.eigenvalue_max * step_size
    factor = np.maximum(momentum.mode_factor(low, beta), momentum.mode_factor(high, beta))
    best = np.where(np.asarray(beta) > 0, np.nan, rate.step_optimal)  # with momentum it is another momentum's
    edge = (1 + np.asarray(beta)) * rate.step_max
    return rate._replace(
        factor=factor, eigenvalue_min=low, eigenvalue_max=high, step_max=edge, step_optimal=best
    )


def _step_sizes(cells: Sequence[Cell], units: Rate, unit: float) -> np.ndarray:
    """mu: the config's number in the problem's unit, or a fraction of a predicted step."""
    given = {"fixed": unit, "middle": unit, "optimal": units.step_optimal, "edge": units.step_max}
    return np.array([cell.step for cell in cells]) * given[cells[0].step_rule]


def _num_steps(sweep: Sweep, lead: Cell, factors: np.ndarray) -> int:
    """Steps until the slowest predicted factor has changed the error by ``depth_of_fit``, shrinking or growing."""
    slopes = np.abs(np.log(factors[factors > 0]))
    if np.any(slopes == 0):
        return sweep.record.max_steps
    needed = EXTRA_STEPS
    if slopes.size:
        needed += MARGIN[lead.start] * abs(math.log(sweep.record.depth_of_fit)) / np.min(slopes)
    return int(min(sweep.record.max_steps, math.ceil(needed)))
