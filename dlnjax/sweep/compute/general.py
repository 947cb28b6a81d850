"""The general path of a shard: any parts, with the optax transformation itself, layer by layer at a fixed depth.

It offers what the fast paths offer (``execute.Way``): what the cells start from, their settings, their engine and
columns. Seeds, steps and momenta are a program's batch, as everywhere. Depth is a traced number where layers can be
padded (plain layers on statistics); else it is static, and a program serves one depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlnjax import network, optim, stiefel, train
from dlnjax._types import Params, Rate, Status, Trace
from dlnjax.reduced import LayerScales
from dlnjax.sweep.compute import accuracy, forecast, instances, layers, problems
from dlnjax.sweep.compute import columns as column_values
from dlnjax.sweep.config import registry, user_functions
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Sweep

RETRACTIONS: Mapping[str, Any] = {
    "polar": stiefel.retract_polar,
    "qr": stiefel.retract_qr,
    "cayley": stiefel.retract_cayley,
    "cholesky_qr": stiefel.retract_cholesky_qr,
}
# Stream of samples, labels' noise and mini-batches, beside those of the middle layers.
_DATA = 1 << 30
#: Steps beyond the predicted ones, as ``settings`` has them; a start it does not name runs to max_steps.
_MARGIN = {"near": 1.1, "haar": 1.3}
_EXTRA_STEPS = 64
_OPTIMIZER = "a function (step_size, scales) -> optax transformation"
_METRIC = "a function params -> dict of numbers"


class Ready(NamedTuple):
    """What the cells of a shard start from; ``problem``, ``start`` and ``keys`` are the program's arguments."""

    problem: dict[str, Any]
    start: dict[str, Any]
    keys: jax.Array
    shared: bool
    rank: int | None
    form: layers.Shape
    drawn: problems.Drawn


class Steps(NamedTuple):
    """The traced numbers of a cell: mu, three scales, momentum."""

    size: Any
    scales: LayerScales
    momentum: Any


class Chosen(NamedTuple):
    """Resolved numbers of a shard's cells, B in front.

    Attributes:
      step_size: mu. scales: as ``settings.Settings``. momentum: as in the cells.
      units: the rate of Riemannian gradient descent at ``mu = 1``; None where theory has none.
      interval: steps between records.
    """

    step_size: np.ndarray
    scales: LayerScales
    momentum: np.ndarray
    units: list[Rate | None]
    interval: int


def prepare(sweep: Sweep, cells: Sequence[Cell], shard: Any) -> Ready:
    """Problems, solutions and starts of cells of a ``plan.Shard``; filled up to its batch with the last."""
    filled = [*cells, *[cells[-1]] * (shard.batch - len(cells))]
    lead = cells[0]
    seeds = jnp.array([cell.seed for cell in filled], jnp.uint32)
    teacher, starts, keys = jax.vmap(partial(instances._streams, width=lead.width))(seeds)
    noise = jax.vmap(lambda key: jax.random.fold_in(key, _DATA))(keys)
    form = layers.shape(lead, *_ends(sweep, lead), plain=_plain(sweep, lead))
    drawn = problems.draw(sweep, lead, form, teacher, keys, noise)
    numbers = (sweep.start.distance, sweep.start.first_scale)
    part = sweep.functions[lead.start] if user_functions.is_own(lead.start) else None
    begun = layers.begin(lead, form, starts, drawn.solved, drawn.norm, numbers, part)
    room = shard.max_depth if sweep.is_padded(lead) else 0
    start = {"params": layers.stored(begun, form, room), **drawn.each}
    return Ready(drawn.shared, start, noise, True, drawn.rank, form, drawn)


def _ends(sweep: Sweep, cell: Cell) -> tuple[int, int]:
    """``d_0`` and ``d_N``."""
    spec = sweep.problem
    if spec.input_dim and spec.output_dim:
        return spec.input_dim, spec.output_dim
    square, *_ = instances._from_data(spec, cell.data, cell.width, cell.precision)
    return square.target.shape[1], square.target.shape[0]


def _plain(sweep: Sweep, cell: Cell) -> bool:
    """Whether a user's function sees the layers: then they are N matrices, no runs."""
    return sweep.special or user_functions.is_own(cell.optimizer)


def resolve(sweep: Sweep, cells: Sequence[Cell], ready: Ready) -> Chosen:
    """Scales, step sizes and length of the cells of a shard."""
    scales = [_scales(cell, ready, i) for i, cell in enumerate(cells)]
    fitted = sweep.problem.kind == "teacher" and not cells[0].label_noise
    units: list[Rate | None] = [None] * len(cells)
    if fitted or cells[0].activation == "linear":
        units = _units(cells, ready, scales)
    sizes = [_step_size(cell, ready, i, units[i]) for i, cell in enumerate(cells)]
    steps = max(_num_steps(sweep, c, r, s) for c, r, s in zip(cells, units, sizes, strict=True))
    records = sweep.record.records
    interval = max(1, min(math.ceil(steps / records), sweep.record.max_steps // records))
    momenta = np.array([cell.momentum for cell in cells])
    return Chosen(np.array(sizes), LayerScales(*np.array(scales).T), momenta, units, interval)


def _scales(cell: Cell, ready: Ready, i: int) -> LayerScales:
    """``1/||W_f*||_2^2`` for orthonormal layers, f the free one; shared among those between by rule ``middle``."""
    last = float(ready.drawn.norm[i]) ** -2
    between = last / max(ready.form.pace.count(1), 1) if cell.step_rule == "middle" else last
    return LayerScales(1.0, between, last)


def _units(cells: Sequence[Cell], ready: Ready, scales: list[LayerScales]) -> list[Rate | None]:
    """The unit rates, once a seed: steps and momenta share them."""
    found: dict[int, Rate | None] = {}
    solved = ready.drawn.solved
    for i, cell in enumerate(cells):
        if cell.seed not in found:
            here = None if solved is None else [layer[i] for layer in solved]
            arrays = forecast.one(ready.drawn, i)
            known = here is not None
            found[cell.seed] = (
                forecast.unit_rate(cell, ready.form, here, arrays, scales[i]) if known else None
            )
    return [found[cell.seed] for cell in cells]


def _step_size(cell: Cell, ready: Ready, i: int, rate: Rate | None) -> float:
    if cell.step_rule in ("fixed", "middle"):
        return cell.step * float(ready.drawn.unit[i])
    if rate is None:
        raise ValueError(
            f'step_rule "{cell.step_rule}": theory has no rate at the solution of seed {cell.seed}, '
            f'depth {cell.depth}; give step_rule "fixed"'
        )
    return cell.step * float(rate.step_optimal if cell.step_rule == "optimal" else rate.step_max)


def _num_steps(sweep: Sweep, cell: Cell, rate: Rate | None, size: float) -> int:
    """Steps for the predicted factor to reach ``depth_of_fit``; ``max_steps`` where nothing says how many."""
    predicted = forecast.own_rate(cell, rate, size)
    margin = _MARGIN.get(cell.start)
    slope = abs(math.log(predicted.factor)) if predicted is not None and predicted.factor > 0 else 0.0
    if not slope or margin is None:
        return sweep.record.max_steps
    needed = margin * abs(math.log(sweep.record.depth_of_fit)) / slope + _EXTRA_STEPS
    return int(min(sweep.record.max_steps, math.ceil(needed)))


def steps(chosen: Any, column: Callable[[np.ndarray], Any]) -> Steps:
    """The traced numbers of the cells, from :class:`Chosen` or ``settings.Settings``."""
    scales = LayerScales(*map(column, chosen.scales))
    return Steps(column(chosen.step_size), scales, column(chosen.momentum))


def engine(
    sweep: Sweep,
    lead: Cell,
    problem: dict[str, Any],
    start: dict[str, Any],
    key: jax.Array,
    steps: Steps,
    depth: Any,
) -> train.Engine:
    """One cell: its problem, its optimizer, and what is measured."""
    params = start["params"]
    arrays = {**problem, **{name: value for name, value in start.items() if name != "params"}}
    padded = lead.depth == 0
    ends = params[0].shape[-1], params[-1].shape[-2]
    form = layers.shape(
        replace(lead, depth=3) if padded else lead, *ends, plain=padded or _plain(sweep, lead)
    )
    options = {"depth": depth} if padded else {}
    trained, measured = problems.build(sweep, lead, arrays, key, params)
    optimizer = _optimizer(sweep, lead, form, params, steps)
    made = train.prepare(params, trained, optimizer, constrained=form.constrained, **options)
    metrics = [sweep.functions[name] for name in sweep.record.metrics]

    def report(carry, step):
        record = train.measure(carry[0], measured, step, form.constrained, **options)
        told = accuracy.accuracies(measured, lambda: network.end_to_end(carry[0], **options))
        told |= _measured(metrics, carry[0], record.loss)
        return record._replace(extra=told) if told else record

    return made._replace(report=report)


def _optimizer(sweep: Sweep, lead: Cell, form: layers.Shape, params: Params, steps: Steps):
    scales = layers.scale_tree(steps.scales, form)
    if user_functions.is_own(lead.optimizer):
        return _own_optimizer(sweep.functions[lead.optimizer], params, steps.size, scales)
    return recipe(lead, steps, scales, form.constrained)


def recipe(said: Any, steps: Steps, scales: Any, constrained: Any) -> optax.GradientTransformation:
    """The transformation of the table ``words.OPTIMIZERS``.

    Args:
      said: a cell or a program: its ``optimizer`` and ``retraction``.
      scales: one multiplier a layer, in the params' structure.
      constrained: which layers stay orthonormal; None as the recipes have it, all but the first.
    """
    given = SimpleNamespace(
        size=steps.size,
        scales=scales,
        momentum=steps.momentum,
        constrained=constrained,
        retraction=RETRACTIONS.get(said.retraction),
    )
    return registry.OPTIMIZERS[said.optimizer].make(optim, optax, given)


def _own_optimizer(part: user_functions.Own, params: Params, size, scales) -> Any:
    """A user's transformation, tried once on the layers."""
    made = user_functions.call("optimizer", part, _OPTIMIZER, size, scales)
    if not (callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))):
        raise user_functions.refuse("optimizer", part, f"a {type(made).__name__}", _OPTIMIZER)

    def once(w):
        more = {}
        if isinstance(made, optax.GradientTransformationExtraArgs):
            more = {"value": jnp.sum(w[0]), "value_fn": lambda w: jnp.sum(w[0])}
        return made.update(w, made.init(w), w, **more)[0]  # pyright: ignore[reportCallIssue]

    tried = user_functions.Own(lambda w: jax.eval_shape(once, w), part.name)
    problems.like(
        "optimizer", part, user_functions.call("optimizer", tried, _OPTIMIZER, params), params, "updates"
    )
    return made


def _measured(metrics: Sequence[user_functions.Own], params: Params, like: jax.Array) -> dict[str, jax.Array]:
    """All scalars of the user's metrics, by name."""
    found: dict[str, jax.Array] = {}
    for part in metrics:
        made = user_functions.call("metrics", part, _METRIC, params)
        if not isinstance(made, dict):
            raise user_functions.refuse("metrics", part, f"a {type(made).__name__}", _METRIC)
        for name, value in made.items():
            number = jnp.asarray(value)
            if number.shape != () or not str(name).isidentifier() or name in found:
                what = f"shape {number.shape} for {name!r}" if number.shape else f"the name {name!r}"
                raise user_functions.refuse("metrics", part, what, f"{_METRIC}, under names of their own")
            found[name] = number.astype(like.dtype)
    return found


def columns(
    sweep: Sweep,
    cells: Sequence[Cell],
    ready: Ready,
    chosen: Chosen,
    ended: Params,
    trace: Trace,
    seconds: float,
) -> dict[str, Any]:
    """The columns of ``store.schema``; arguments as ``rows.columns``."""
    count = len(cells)
    arrays: Any = [np.asarray(field)[:count] for field in trace]
    trace = _judged(cells[0], Trace(*arrays))
    each = [_rate_found(c, ready, chosen, ended, i, int(trace.status[i, -1])) for i, c in enumerate(cells)]
    known = Rate(
        *(np.array([math.nan if r is None else r[i] for r in each], float) for i in range(len(Rate._fields)))
    )
    found: dict[str, Any] = {name: [getattr(cell, name) for cell in cells] for name in cells[0].coordinates()}
    found |= {"cell": [sweep.key(cell) for cell in cells], "seconds": np.full(count, seconds)}
    found["rank"] = None if ready.rank is None else np.full(count, ready.rank)
    found |= column_values._outcomes(
        trace, sweep.record.tolerance, None if None in each else known
    ) | column_values._curves(trace)
    told = {name: np.ma.masked_invalid(value) for name, value in known._asdict().items()}
    found |= column_values._predictions(Rate(**told), chosen, count)  # type: ignore[arg-type]
    if ready.drawn.curvature is not None:
        found |= dict(zip(("curvature_min", "curvature_max"), ready.drawn.curvature[:count].T, strict=True))
    return found


def _judged(cell: Cell, trace: Trace) -> Trace:
    """On mini-batches a run ends in noise of bounded size: that is no divergence."""
    if not cell.batch_size:
        return trace
    bounded = trace.distance[:, -1] <= train.BLOWUP * trace.distance[:, 0]
    noisy = bounded[:, None] & (trace.status == Status.DIVERGED)
    return trace._replace(status=np.where(noisy, Status.RUNNING, trace.status))


def _scales_of(chosen: Chosen, i: int) -> LayerScales:
    """The scales of cell i, as plain numbers."""
    return LayerScales(*(float(np.asarray(s)[i]) for s in chosen.scales))


def _rate_found(cell: Cell, ready: Ready, chosen: Chosen, ended: Params, i: int, status: int) -> Rate | None:
    """The prediction at the layers that a converged run found, else at the known solution."""
    rate, size = chosen.units[i], float(chosen.step_size[i])
    if rate is not None and status == Status.CONVERGED and forecast.own_rate(cell, rate, size) is not None:
        here = [np.asarray(w[i], np.float64) for w in layers.matrices(ended, cell.depth)]
        scales = _scales_of(chosen, i)
        rate = forecast.unit_rate(cell, ready.form, here, forecast.one(ready.drawn, i), scales)
    return forecast.own_rate(cell, rate, size)


def leaves(ended: Any, depth: int) -> list[np.ndarray]:
    """The trained weights as they are stored, B in front, without layers that only fill a run up."""
    found = [np.asarray(leaf) for leaf in ended.result]
    extra = sum(leaf.shape[1] if leaf.ndim == 4 else 1 for leaf in found) - depth
    if extra:
        found[1] = found[1][:, : found[1].shape[1] - extra]
    return [leaf for leaf in found if leaf.size]
