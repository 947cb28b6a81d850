"""The compiled training program of a shard: cells as the batch of a ``vmap``, split over devices by ``shard_map``.

Depth and the steps between records are traced and common to the shard, so that a program compiles once for a width,
dtype and engine, and serves every depth, step size, seed and length, and every piece of a run (``loop``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dlnjax._types import PyTree
from dlnjax.reduced import LayerScales
from dlnjax.sweep.compute import batching, loop, memory
from dlnjax.sweep.compute.backend import EngineMaker, Instances, Steps
from dlnjax.sweep.compute.backends import BACKENDS
from dlnjax.sweep.compute.compilation import Job
from dlnjax.sweep.compute.session import Compiled, Session
from dlnjax.sweep.compute.step_rules import Settings
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.sweep.plan import Shard


def precision(sweep: Sweep) -> AbstractContextManager[object]:
    """The sweep's precision in this thread, whatever the caller's JAX is set to."""
    return jax.enable_x64(sweep.precision == "float64")


def ready(
    session: Session, sweep: Sweep, shard: Shard, instances: Instances, settings: Settings
) -> tuple[Compiled, tuple[PyTree, ...]]:
    """The compiled program of a shard, and its arguments on the devices."""
    dtype = jnp.dtype(shard.program.precision)
    padding = shard.batch - len(shard.cells)

    def column(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, padding), mode="edge").astype(dtype)

    columns: Any = [column(scale) for scale in settings.scales]
    steps = Steps(column(settings.step_size), LayerScales(*columns), column(settings.momentum))
    depth = np.asarray(shard.cells[0].depth, "int32")
    arguments = (instances.problem, instances.start, instances.keys, steps, depth)
    compiled = _compiled(session, sweep, shard, instances.shared, arguments)
    return compiled, jax.device_put(arguments, compiled.places)


def jobs(session: Session, sweep: Sweep, shard: Shard) -> tuple[Job, Job]:
    """How to make the program that draws the cells, and the one that trains them, ahead of their use."""
    lead, backend = shard.cells[0], BACKENDS[shard.program.engine]
    name = (sweep.problem, sweep.start, sweep.record, shard.program, lead.start, shard.batch, shard.max_depth)
    drawing = backend.drawing(session, sweep, shard)
    if drawing is None:  # the arguments are only known once they are computed
        return Job(("draw", *name)), Job(("train", *name))

    def draw() -> None:
        with precision(sweep):  # it is a thread's own
            drawing()

    def train() -> None:
        with precision(sweep):
            shared, shapes = backend.shapes(session, sweep, shard) or (False, ())
            column: Any = jax.ShapeDtypeStruct((shard.batch,), jnp.dtype(shard.program.precision))
            steps = Steps(column, LayerScales(column, column, column), column)
            arguments = (*shapes, steps, jax.ShapeDtypeStruct((), jnp.int32))
            _compiled(session, sweep, shard, shared, arguments)

    return Job(("draw", *name), draw), Job(("train", *name), train)


def reordered(compiled: Compiled, arguments: tuple[PyTree, ...], order: np.ndarray) -> tuple[PyTree, ...]:
    """The arguments with the cells in another order, moved by way of the host: no program compiles for it."""

    def moved(a: jax.Array) -> np.ndarray | jax.Array:
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return np.asarray(a)[order]
        numbers: Any = np.asarray(jax.random.key_data(a))[order]
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(a))

    each = (
        jax.tree.map(moved, argument) if place == compiled.sharding else argument
        for argument, place in zip(arguments, compiled.places, strict=True)
    )
    return jax.device_put(tuple(each), compiled.places)


def _compiled(
    session: Session, sweep: Sweep, shard: Shard, shared: bool, arguments: tuple[PyTree, ...]
) -> Compiled:
    """The program, compiled once; of ``arguments`` only the shapes matter."""
    mesh = batching.mesh(shard.batch)
    shapes = tuple((a.shape, str(a.dtype)) for a in jax.tree.leaves(arguments))
    record = sweep.record
    goal = loop.Goal(record.tolerance, record.depth_of_fit)
    key = (shard.program, shard.max_depth, record.records, goal, shared, mesh.size, shapes)
    key += tuple(sweep.functions.values())
    if key not in session.training:
        engine = BACKENDS[shard.program.engine].engine(sweep, shard)
        with session.compiler.waiting():
            session.training[key] = compile_training(
                engine, (record.records, goal), (shared, shard.program.width), mesh, arguments
            )
    return session.training[key]


def compile_training(
    engine: EngineMaker,
    record: tuple[int, loop.Goal],
    form: tuple[bool, int],
    mesh: Mesh,
    arguments: tuple[PyTree, ...],
) -> Compiled:
    """``loop.program`` over a batch: blocks of cells within a device, shard_map over devices.

    Args:
      engine: what trains one cell.
      record: records of a run, and when it is over.
      form: whether the problem is shared by all cells, and the width that sets the size of blocks.
      mesh: the devices.
      arguments: arrays or their shapes.

    Raises:
      memory.TooLarge: the devices' memory does not hold as many cells; before the program is compiled where the
        sizes of its arguments and state show it, after it where its own account does.
    """
    shared, width = form
    device = mesh.devices.flat[0]
    split, whole = PartitionSpec("cells"), PartitionSpec()

    def cell(problem, start, key, steps, depth, state, first, last, interval):
        build = partial(engine, problem, start, key, steps, depth)
        return loop.program(build, *record, state, first, last, interval)

    def blank(*arguments):
        return loop.begin(partial(engine, *arguments), record[0])

    axes = (None if shared else 0, 0, 0, 0, None)
    specs = (whole if shared else split, split, split, split, whole)
    shapes = jax.eval_shape(jax.vmap(blank, in_axes=axes), *arguments)
    share = memory.Share(arguments[2].shape[0], mesh.size, batching.cells(width))
    batched_arguments = [a for a, axis in zip(arguments, axes, strict=True) if axis == 0]
    memory.check_sizes(share, batched_arguments, shapes, device)
    batched: Callable[..., PyTree] = batching.blocked(cell, (*axes, 0, None, None, None), width)
    # check_vma is off: loop carries that start as constants would need a cast each
    mapped = jax.shard_map(
        batched, mesh=mesh, in_specs=(*specs, split, whole, whole, whole), out_specs=split, check_vma=False
    )
    number = jax.ShapeDtypeStruct((), jnp.int32)
    lowered = jax.jit(mapped, donate_argnums=len(axes)).lower(*arguments, shapes, number, number, number)
    call = lowered.compile()
    memory.check_program(share, call, device)
    places = tuple(NamedSharding(mesh, spec) for spec in specs)
    return Compiled(call, places, NamedSharding(mesh, split), shapes)
