"""What a cell's step rule comes to: scales, step size, the rate predicted for it, and how long it may run.

The prediction is made at the solution the run heads for, before it starts; the rate stored with a result is made again
at the solution reached where that may be another (``columns``). The cells of a shard share width, depth, rule and
start, so that all here is arrays over them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dlnjax._types import Rate
from dlnjax.reduced import LayerScales
from dlnjax.sweep.compute.backend import Instances
from dlnjax.sweep.config import registry
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.theory import momentum

#: Steps beyond the predicted ones: a start far from the solution has a transient of its own. Another start than these
#: runs to ``max_steps``.
MARGIN = {"near": 1.1, "haar": 1.3}
EXTRA_STEPS = 64
#: A place without a prediction.
NO_RATE = Rate(*[math.nan] * len(Rate._fields))  # type: ignore[arg-type]


class Scales(NamedTuple):
    """``reduced.LayerScales`` of n cells, ``(n,)`` each."""

    first: np.ndarray
    middle: np.ndarray
    last: np.ndarray


class Settings(NamedTuple):
    """Resolved numbers of a shard's n cells.

    Attributes:
      step_size: ``(n,)`` mu.
      scales: ``(n,)`` each: multipliers of the free, each middle and the last layer.
      momentum: ``(n,)`` beta, 0 where the optimizer has none.
      predicted: the rates at these step sizes, ``(n,)`` each, NaN where theory has none.
      interval: steps between records, for the whole shard.
    """

    step_size: np.ndarray
    scales: Scales
    momentum: np.ndarray
    predicted: Rate
    interval: int


def resolve(sweep: Sweep, cells: Sequence[Cell], instances: Instances) -> Settings:
    """Scales, step sizes and length of the cells of one shard.

    Raises:
      ValueError: a step that is a fraction of a predicted one, where theory predicts none.
    """
    scales = _scales(cells[0], instances)
    units = _unit_rates(cells, instances, scales)
    sizes = _step_sizes(cells, units, instances.unit)
    momenta = np.array([cell.momentum for cell in cells])
    predicted = at_step(units, sizes, momenta)
    # gradient descent on a plain network takes about as long as Riemannian gradient descent with the same step
    has_length = applies(cells[0]) or not sweep.is_general(cells[0])
    steps = (
        _num_steps(sweep, cells[0], np.asarray(predicted.factor)) if has_length else sweep.record.max_steps
    )
    records = sweep.record.records
    interval = max(1, min(math.ceil(steps / records), sweep.record.max_steps // records))
    return Settings(sizes, scales, momenta, predicted, interval)


def applies(cell: Cell) -> bool:
    """Whether the predicted rate is that of the cell's own optimizer, on all samples."""
    constrained = cell.free in ("first", "last", "middle") and registry.optimizer(cell.optimizer).reduced
    return constrained and cell.batch_size == 0


def cell_scales(scales: Scales, i: int) -> LayerScales:
    """The scales of cell i, as plain numbers."""
    return LayerScales(*(float(scale[i]) for scale in scales))


def _scales(lead: Cell, instances: Instances) -> Scales:
    """``1/||W_f*||_2^2`` for the orthonormal layers, f the free one; shared among the middle ones by rule ``middle``.

    The discrepant steps of Qin, Tan and Zhu (2024).
    """
    last = instances.norms**-2.0
    shared_among = max(instances.num_middle, 1) if lead.step_rule == "middle" else 1
    return Scales(np.ones(len(last)), last / shared_among, last)


def _unit_rates(cells: Sequence[Cell], instances: Instances, scales: Scales) -> Rate:
    """The predicted rates at ``mu = 1``, one per seed at most: every eigenvalue is proportional to mu."""
    known: dict[int, Rate] = {}
    for i, cell in enumerate(cells):
        seed = cells[0].seed if instances.common else cell.seed
        if seed not in known:
            known[seed] = instances.unit_rate(i, cell_scales(scales, i)) or NO_RATE
    each = [known[cells[0].seed if instances.common else cell.seed] for cell in cells]
    return Rate(*(np.array(column, float) for column in zip(*each, strict=True)))  # type: ignore[arg-type]


def at_step(rate: Rate, step_size: np.ndarray | float, beta: np.ndarray | float = 0.0) -> Rate:
    """Rates known at ``mu = 1`` without momentum, at other step sizes and heavy ball's beta.

    NaN where they are not known, or where with momentum an eigenvalue is not positive.
    """
    low, high = rate.eigenvalue_min * step_size, rate.eigenvalue_max * step_size
    factor = np.maximum(momentum.mode_factor(low, beta), momentum.mode_factor(high, beta))
    with_memory = np.asarray(beta) > 0
    best = np.where(with_memory, np.nan, rate.step_optimal)  # with momentum it is another momentum's
    edge = (1 + np.asarray(beta)) * rate.step_max
    known = ~with_memory | ((low > 0) & (high >= low))
    columns = rate._replace(
        factor=factor, eigenvalue_min=low, eigenvalue_max=high, step_max=edge, step_optimal=best
    )
    return Rate(*(np.where(known, column, np.nan) for column in columns))  # type: ignore[arg-type]


def _step_sizes(cells: Sequence[Cell], units: Rate, unit: np.ndarray) -> np.ndarray:
    """mu: the config's number in the problem's unit, or a fraction of a predicted step."""
    rule = cells[0].step_rule
    given = {"fixed": unit, "middle": unit, "optimal": units.step_optimal, "edge": units.step_max}[rule]
    missing = np.flatnonzero(np.isnan(given))
    if missing.size:
        cell = cells[missing[0]]
        raise ValueError(
            f'step_rule "{rule}": theory has no rate at the solution of seed {cell.seed}, '
            f'depth {cell.depth}; give step_rule "fixed"'
        )
    return np.array([cell.step for cell in cells]) * given


def _num_steps(sweep: Sweep, lead: Cell, factors: np.ndarray) -> int:
    """Steps until the slowest predicted factor has changed the error by ``depth_of_fit``, shrinking or growing."""
    slopes = np.abs(np.log(factors[~(factors <= 0)]))
    if lead.start not in MARGIN or not np.all(slopes > 0):  # NaN too
        return sweep.record.max_steps
    needed = EXTRA_STEPS
    if slopes.size:
        needed += MARGIN[lead.start] * abs(math.log(sweep.record.depth_of_fit)) / np.min(slopes)
    return int(min(sweep.record.max_steps, math.ceil(needed)))
