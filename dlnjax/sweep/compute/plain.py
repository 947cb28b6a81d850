"""Backends of plain linear networks: trained layer by layer, or in the exact two-layer reduction.

Both start from the same two-layer form and report it at the end, so that a cell has one start and one result whichever
engine trains it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from dlnjax import layerwise, reduced, train
from dlnjax._linalg import matmul
from dlnjax._types import Count, PyTree
from dlnjax.problem import Quadratic
from dlnjax.sweep.compute import accuracy, optimizers, two_layer
from dlnjax.sweep.compute.backend import EngineMaker, Instances, Steps
from dlnjax.sweep.compute.loop import Ended
from dlnjax.sweep.compute.session import Session
from dlnjax.sweep.compute.two_layer import TwoLayer
from dlnjax.sweep.config import registry
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.sweep.plan import Program, Shard


class TwoLayerBackend:
    """What both engines share: cells drawn in two-layer form, by a program that can be made ahead of its use."""

    def draw(self, session: Session, sweep: Sweep, cells: Sequence[Cell], shard: Shard) -> Instances:
        return two_layer.draw(session, sweep, cells, shard.batch)

    def shapes(self, session: Session, sweep: Sweep, shard: Shard) -> tuple[bool, tuple[PyTree, ...]]:
        return two_layer.shapes(session, sweep, shard.cells[0], shard.batch)

    def drawing(self, session: Session, sweep: Sweep, shard: Shard) -> Callable[[], object]:
        lead = shard.cells[0]
        two_layer.is_shared(sweep, lead)  # what data need is computed here and kept
        return partial(two_layer.program, session, sweep, lead, shard.batch)


class Layers(TwoLayerBackend):
    """Every layer is trained."""

    def engine(self, sweep: Sweep, shard: Shard) -> EngineMaker:
        return partial(_layers, shard.program, shard.max_depth)

    def trained(self, ended: Ended, depth: int) -> list[np.ndarray]:
        """``(W_1, run, W_N)`` with the layers that train, ``(W_1, W_2)`` without a middle one."""
        carry = ended.carry
        params: Any = carry.params if isinstance(carry, layerwise.Layers) else carry[0]
        first, run, last = params
        return [first, run[:, : depth - 2], last] if depth > 2 else [first, last]


class Reduced(TwoLayerBackend):
    """``W_1`` and the frame ``U = W_N ... W_2`` are trained, exactly as the N layers would."""

    def engine(self, sweep: Sweep, shard: Shard) -> EngineMaker:
        return partial(_reduced, shard.program, shard.max_depth)

    def trained(self, ended: Ended, depth: int) -> list[np.ndarray]:
        """``(W_1, U)``."""
        return [np.asarray(leaf) for leaf in ended.result]


def _layers(
    program: Program,
    max_depth: int,
    problem: Quadratic,
    start: TwoLayer,
    key: jax.Array,
    steps: Steps,
    depth: Count,
) -> train.Engine:
    """One cell, layer by layer: by the optax transformation itself, or the one pass that equals it."""
    network = reduced.Reduced(start.first, start.frame, depth)
    params = reduced.expand(key, network, max_layers=max(max_depth, 3))
    if (program.optimizer, program.retraction) == ("rgd", "polar"):
        engine = layerwise.prepare(params, problem, step_size=steps.size, scales=steps.scales, depth=depth)
    else:
        optimizer = optimizers.recipe(program, steps, tuple(steps.scales), None)
        engine = train.prepare(params, problem, optimizer, depth=depth)

    def finish(carry: PyTree) -> TwoLayer:
        params = engine.finish(carry)
        return TwoLayer(params[0], reduced.frame(params, depth))

    return _in_two_layers(engine, problem, finish)


def _reduced(
    program: Program,
    max_depth: int,
    problem: Quadratic,
    start: TwoLayer,
    key: jax.Array,
    steps: Steps,
    depth: Count,
) -> train.Engine:
    """One cell by the exact reduction; the middle layers, and so ``key``, do not matter."""
    network = reduced.Reduced(start.first, start.frame, depth)
    momentum = steps.momentum if registry.optimizer(program.optimizer).momentum else None
    engine = reduced.prepare(network, problem, step_size=steps.size, scales=steps.scales, momentum=momentum)

    def finish(carry: PyTree) -> TwoLayer:
        ended = engine.finish(carry)
        return TwoLayer(ended.first, ended.frame)

    return _in_two_layers(engine, problem, finish)


def _in_two_layers(
    engine: train.Engine, problem: Quadratic, finish: Callable[[PyTree], TwoLayer]
) -> train.Engine:
    """The engine with its end in two-layer form, and what the product shows at every record."""

    def product(carry: PyTree) -> jax.Array:
        ended = finish(carry)
        return matmul(ended.frame, ended.first)

    return accuracy.reported(engine, problem, product)._replace(finish=finish)
