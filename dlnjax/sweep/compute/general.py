"""The backend of all else: any parts, layer by layer, by the optax transformation.

Seeds, steps and momenta are a program's batch, as everywhere. Depth is a traced number where layers can be padded
(plain layers on statistics); else it is static, and a program serves one depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import network, train
from dlnjax._types import Count, Params, PyTree, Rate
from dlnjax.reduced import LayerScales
from dlnjax.sweep.compute import accuracy, forecast, layers, optimizers, problems, two_layer
from dlnjax.sweep.compute.backend import EngineMaker, Instances, Steps
from dlnjax.sweep.compute.loop import Ended
from dlnjax.sweep.compute.session import Session
from dlnjax.sweep.config import user_functions
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.sweep.plan import Shard

# Stream of samples, labels' noise and mini-batches, beside those of the middle layers.
_DATA = 1 << 30
_METRIC = "a function params -> dict of numbers"


@dataclass(frozen=True, kw_only=True)
class GeneralInstances(Instances):
    """Cells with parts beyond plain linear networks; N matrices as a solution, in double precision on the host."""

    lead: Cell
    form: layers.Shape
    drawn: problems.Drawn
    is_fitted: bool  # whether the layers drawn solve the problem, whatever the activation

    def unit_rate(self, i: int, scales: LayerScales, ended: Params | None = None) -> Rate | None:
        if self.drawn.solved is None or not (self.is_fitted or self.lead.activation == "linear"):
            return None
        matrices = self.drawn.solved if ended is None else layers.matrices(ended, self.lead.depth)
        here = [np.asarray(matrix[i], np.float64) for matrix in matrices]
        arrays = {**self.drawn.shared, **jax.tree.map(lambda a: a[i], self.drawn.each)}
        return forecast.unit_rate(self.lead, self.form, here, arrays, scales)


class General:
    """The optax transformation itself, layer by layer: any optimizer, start, activation, loss, widths and metrics."""

    def draw(self, session: Session, sweep: Sweep, cells: Sequence[Cell], shard: Shard) -> GeneralInstances:
        filled, lead, count = [*cells, *[cells[-1]] * (shard.batch - len(cells))], cells[0], len(cells)
        seeds = jnp.array([cell.seed for cell in filled], jnp.uint32)
        teacher, starts, keys = jax.vmap(partial(two_layer.streams, width=lead.width))(seeds)
        noise = jax.vmap(lambda key: jax.random.fold_in(key, _DATA))(keys)
        form = layers.shape(lead, *_ends(sweep, lead), plain=_is_plain(sweep, lead))
        drawn = problems.draw(sweep, lead, form, teacher, keys, noise)
        sizes = (sweep.start.distance, sweep.start.first_scale)
        function = sweep.functions[lead.start] if user_functions.is_name(lead.start) else None
        begun = layers.begin(lead, form, starts, drawn.solved, drawn.norm, sizes, function)
        padding = shard.max_depth if sweep.is_padded(lead) else 0
        return GeneralInstances(
            problem=drawn.shared,
            start={"params": layers.stored(begun, form, padding), **drawn.each},
            keys=noise,
            shared=True,
            rank=drawn.rank,
            unit=drawn.unit[:count],
            norms=drawn.norm[:count],
            num_middle=form.pace.count(1),
            curvature=None if drawn.curvature is None else drawn.curvature[:count],
            lead=lead,
            form=form,
            drawn=drawn,
            is_fitted=sweep.problem.kind == "teacher" and not lead.label_noise,
        )

    def engine(self, sweep: Sweep, shard: Shard) -> EngineMaker:
        assert shard.program.lead is not None  # the general path sets it
        return partial(_engine, sweep, shard.program.lead)

    def shapes(self, session: Session, sweep: Sweep, shard: Shard) -> None:
        return None

    def drawing(self, session: Session, sweep: Sweep, shard: Shard) -> None:
        return None

    def trained(self, ended: Ended, depth: int) -> list[np.ndarray]:
        """The layers as stored, without those that only fill a run up."""
        leaves = [np.asarray(leaf) for leaf in ended.result]
        extra = sum(leaf.shape[1] if leaf.ndim == 4 else 1 for leaf in leaves) - depth
        if extra:
            leaves[1] = leaves[1][:, : leaves[1].shape[1] - extra]
        return [leaf for leaf in leaves if leaf.size]


def _ends(sweep: Sweep, cell: Cell) -> tuple[int, int]:
    """``d_0`` and ``d_N``."""
    spec = sweep.problem
    if spec.input_dim and spec.output_dim:
        return spec.input_dim, spec.output_dim
    square, *_ = two_layer.from_data(spec, cell.data, cell.width, cell.precision)
    return square.target.shape[1], square.target.shape[0]


def _is_plain(sweep: Sweep, cell: Cell) -> bool:
    """Whether a user's function sees the layers: then they are N matrices, no runs."""
    return sweep.special or user_functions.is_name(cell.optimizer)


def _engine(
    sweep: Sweep,
    lead: Cell,
    problem: dict[str, PyTree],
    start: dict[str, PyTree],
    key: jax.Array,
    steps: Steps,
    depth: Count,
) -> train.Engine:
    """One cell: its problem, its optimizer, and what is measured."""
    params = start["params"]
    arrays = {**problem, **{name: value for name, value in start.items() if name != "params"}}
    padded = lead.depth == 0
    ends = params[0].shape[-1], params[-1].shape[-2]
    form = layers.shape(
        replace(lead, depth=3) if padded else lead, *ends, plain=padded or _is_plain(sweep, lead)
    )
    options = {"depth": depth} if padded else {}
    trained, measured = problems.build(sweep, lead, arrays, key, params)
    optimizer = _optimizer(sweep, lead, form, params, steps)
    engine = train.prepare(params, trained, optimizer, constrained=form.constrained, **options)
    metrics = [sweep.functions[name] for name in sweep.record.metrics]

    def report(carry, step):
        record = train.measure(carry[0], measured, step, form.constrained, **options)
        extra = accuracy.accuracies(measured, lambda: network.end_to_end(carry[0], **options))
        extra |= _measured(metrics, carry[0], record.loss)
        return record._replace(extra=extra) if extra else record

    return engine._replace(report=report)


def _optimizer(sweep: Sweep, lead: Cell, form: layers.Shape, params: Params, steps: Steps):
    scales = layers.scale_tree(steps.scales, form)
    if user_functions.is_name(lead.optimizer):
        return optimizers.checked(sweep.functions[lead.optimizer], params, steps.size, scales)
    return optimizers.recipe(lead, steps, scales, form.constrained)


def _measured(
    metrics: Sequence[user_functions.UserFunction], params: Params, like: jax.Array
) -> dict[str, jax.Array]:
    """All scalars of the user's metrics, by name."""
    scalars: dict[str, jax.Array] = {}
    for part in metrics:
        values = user_functions.call("metrics", part, _METRIC, params)
        if not isinstance(values, dict):
            raise user_functions.refuse("metrics", part, f"a {type(values).__name__}", _METRIC)
        for name, value in values.items():
            number = jnp.asarray(value)
            if number.shape != () or not str(name).isidentifier() or name in scalars:
                what = f"shape {number.shape} for {name!r}" if number.shape else f"the name {name!r}"
                raise user_functions.refuse("metrics", part, what, f"{_METRIC}, under names of their own")
            scalars[name] = number.astype(like.dtype)
    return scalars
