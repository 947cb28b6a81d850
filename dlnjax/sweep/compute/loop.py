"""A shard's run in pieces: one compiled program that goes from any record to any later one.

The program's state (donated, so that it is updated in place) holds the engine's carry, the monitor and the
records so far; the two ends of a piece are traced numbers. So one program starts a run, continues it and
finishes it, the numbers do not depend on where the pieces end, and a short run is one or two calls. Between
two pieces the host is free: it keeps a checkpoint when one is due, and Ctrl-C is noticed.

A cell is finished once its error is at ``depth_of_fit`` times its start, as far down as its config asks for, or is
not a number. It then keeps its state and repeats its last record; a block of cells that are all finished is
skipped, and between two pieces the cells that still run move together into as few blocks as hold them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import _monitor, train
from dlnjax._types import Count, PyTree, Status, Trace
from dlnjax.sweep.compute import batching
from dlnjax.sweep.store.checkpoints import Checkpoint

#: Seconds that a piece of a long run should take: how late Ctrl-C may be noticed, if a record takes no longer.
PIECE = 1.0
# The first piece, by which the pace is measured, is this part of the run.
_FIRST = 32
# A run that ends early is worth a checkpoint if this much would be lost, in seconds.
_WORTH_KEEPING = 5.0

Tree = TypeVar("Tree")


class State(NamedTuple):
    """A cell between two pieces: the run (its step left out) and room for all its records."""

    run: train.Run
    records: _monitor.Record
    statuses: jax.Array


class Ended(NamedTuple):
    """What a shard's run came to.

    Attributes:
      result: what the program makes of the final carry.
      trace: numpy arrays.
      carry: the engine's final carry.
      resumed: the record that a checkpoint let it start from, 0 without one.
      extra: further curves by name, ``(B, records + 1)`` each.
      seconds: spent waiting for the devices.
      packed: how often running cells moved together.
    """

    result: PyTree
    trace: Trace
    carry: PyTree
    resumed: int
    extra: dict[str, np.ndarray] | tuple[()] = ()
    seconds: float = 0.0
    packed: int = 0


class Goal(NamedTuple):
    """When a cell counts as converged, and when it needs no further steps; relative to its error at the start."""

    tolerance: float
    depth: float


def finished(goal: Goal, distance: jax.Array | np.ndarray, monitor: _monitor.Monitor) -> Any:
    """Whether further steps would only change rounding: the error is as small as asked for, or not a number."""
    deep = (monitor.status == Status.CONVERGED) & (distance <= goal.depth * monitor.start_distance)
    return deep | ((monitor.status == Status.DIVERGED) & ~(abs(distance) < np.inf))


def program(
    build: Callable[[], train.Engine],
    records: int,
    goal: Goal,
    state: State,
    first: Count,
    last: Count,
    interval: Count,
    everyone: Callable[[jax.Array], jax.Array] = batching.everyone,
) -> tuple[State, PyTree]:
    """One cell from record ``first`` to record ``last``, and what ``finish`` makes of it.

    Args:
      build: makes the cell's engine; what it draws is drawn only where ``first`` is 0.
      records: of the whole run, besides the one at step 0.
      goal: when it is converged, and when finished.
      state: from the piece before; anything of its form where ``first`` is 0.
      first, last: ``0 <= first < last <= records``; traced, common to a batch, as is ``interval``.
      interval: steps between records.
      everyone: whether a flag holds in the whole block of cells; only such a one saves work under ``vmap``.
    """
    engine = build()

    def one_record(i, state: State) -> State:
        run = state.run._replace(step=i * interval)
        before = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), state.records)
        done = finished(goal, before.distance, run.monitor)
        held = (run, before._replace(step=before.step + interval))
        moved = jax.lax.cond(
            everyone(done), lambda: held, lambda: train.advance(run, engine, interval, goal.tolerance)
        )
        kept, record = jax.tree.map(partial(jnp.where, done), held, moved)
        return _noted(state, kept, record, i + 1)

    state = jax.lax.cond(first == 0, lambda: begin(build, records), lambda: state)
    state = jax.lax.fori_loop(first, last, one_record, state)
    return state, engine.finish(state.run.carry)


def begin(build: Callable[[], train.Engine], records: int) -> State:
    """A cell at step 0."""
    run, record = train.start(build())
    room = jax.tree.map(lambda a: jnp.zeros((records + 1,), a.dtype), record)
    blank = State(run, room, jnp.zeros((records + 1,), jnp.int32))
    return _noted(blank, run, record, 0)


def _noted(state: State, run: train.Run, record: _monitor.Record, place: Count) -> State:
    def write(
        room: jax.Array, value: jax.Array
    ) -> jax.Array:  # a slice is written in place, a scatter is a loop
        return jax.lax.dynamic_update_index_in_dim(room, value, place, 0)

    records = jax.tree.map(write, state.records, record)
    step = jnp.zeros((), jnp.int32)  # known from the record's number: kept out of the batch
    return State(run._replace(step=step), records, write(state.statuses, run.monitor.status))


class Batch(NamedTuple):
    """A compiled program with what it is called with, for a batch of cells.

    Attributes:
      call: ``(*arguments, state, first, last, interval) -> (state, result)``; it uses up its state.
      arguments: what comes before the state.
      place: puts a state of numpy arrays onto the devices.
      blank: shapes and dtypes of the state.
      reorder: ``(arguments, order) -> arguments`` with the cells in another order.
      devices, width: how many share the cells, and the width that sets the size of blocks.
    """

    call: Callable[..., tuple[State, PyTree]]
    arguments: tuple[PyTree, ...]
    place: Callable[[State], State]
    blank: State
    reorder: Callable[[tuple[PyTree, ...], np.ndarray], tuple[PyTree, ...]]
    devices: int
    width: int


def run(
    batch: Batch, *, records: int, interval: int, goal: Goal, checkpoint: Checkpoint | None = None
) -> Ended:
    """A batch of cells from the start, or from the last checkpoint, to the last record.

    Args:
      records, interval, goal: as in :func:`program`.
      checkpoint: where checkpoints are kept and found.

    Raises:
      KeyboardInterrupt, SystemExit: between two pieces; what was done since the last checkpoint is kept first.
    """
    done, resumed_state = _resumed(checkpoint, batch.blank, records, interval)
    state, arguments = batch.place(resumed_state), batch.arguments
    order, packed = np.arange(len(resumed_state.statuses)), 0
    begun, resumed, result, pace, seconds = time.monotonic(), done, None, 0.0, 0.0
    try:
        while done < records:
            last = min(records, done + (_length(pace, records)))
            piece = time.monotonic()
            state, result = batch.call(*arguments, state, np.int32(done), np.int32(last), np.int32(interval))
            jax.block_until_ready(result)
            taken = time.monotonic() - piece
            pace, done, seconds = taken / (last - done), last, seconds + taken
            if checkpoint is not None and done < records and checkpoint.due():
                checkpoint.save(_kept(_back(state, order), done, interval))
                begun = time.monotonic()
            places = _places(batch, state, done, goal) if done < records else None
            if places is not None:
                moved = batch.place(_taken(state, places)), batch.reorder(arguments, places), order[places]
                (state, arguments, order), packed = moved, packed + 1
    except (KeyboardInterrupt, SystemExit):
        if checkpoint is not None and time.monotonic() - begun > _WORTH_KEEPING:
            _keep_if_possible(checkpoint, state, order, done, interval)
        raise
    whole = _back(state, order)
    trace = _monitor.trace(whole.records, whole.statuses, whole.run.monitor)
    extra = whole.records.extra
    return Ended(_back(result, order), trace, whole.run.carry, resumed, extra, seconds, packed)


def _places(batch: Batch, state: State, done: int, goal: Goal) -> np.ndarray | None:
    """The order in which cells should go on, None to leave them where they are."""
    monitor = jax.tree.map(np.asarray, state.run.monitor)
    distance = np.asarray(state.records.distance)[:, done]
    return batching.packing(finished(goal, distance, monitor), batch.devices, batch.width)


def _taken(tree: Tree, places: np.ndarray) -> Tree:
    return jax.tree.map(lambda a: np.asarray(a)[places], tree)


def _back(tree: Tree, order: np.ndarray) -> Tree:
    """Numpy arrays with the cells in their first order."""
    if np.all(order[:-1] < order[1:]):
        return jax.tree.map(np.asarray, tree)
    return _taken(tree, np.argsort(order))


def _length(pace: float, records: int) -> int:
    """Records of the next piece, from the seconds that one takes."""
    if pace == 0:
        return max(1, records // _FIRST)
    return max(1, int(min(PIECE / pace, records)))


def _kept(state: State, done: int, interval: int) -> dict[str, np.ndarray]:
    leaves = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    return {"done": np.array(done), "interval": np.array(interval), **leaves}


def _keep_if_possible(
    checkpoint: Checkpoint, state: State, order: np.ndarray, done: int, interval: int
) -> None:
    """A last checkpoint on the way out; without one where the interrupted piece has used up its state."""
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(state)):
        return
    kept = _kept(_back(state, order), done, interval)
    # the piece at hand may have ended in the state without having been counted: the records know
    steps = kept[f"leaf_{_place_of_steps(state)}"]
    reached = int(np.max(steps)) // interval
    checkpoint.save({**kept, "done": np.array(reached)})


def _place_of_steps(state: State) -> int:
    return len(jax.tree.leaves(state.run))


def _resumed(checkpoint: Checkpoint | None, blank: State, records: int, interval: int) -> tuple[int, State]:
    """The record and the state to start from: the checkpoint's if it is of this form, else zeros."""
    leaves, form = jax.tree.flatten(blank)
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is not None:
        arrays = [saved.get(f"leaf_{i}") for i in range(len(leaves))]
        fits = all(
            a is not None and (a.shape, a.dtype) == (leaf.shape, leaf.dtype)
            for a, leaf in zip(arrays, leaves, strict=True)
        )
        done = int(saved.get("done", np.array(0)))
        if fits and int(saved.get("interval", np.array(0))) == interval and 0 < done < records:
            return done, jax.tree.unflatten(form, arrays)
    return 0, jax.tree.unflatten(form, [np.zeros(leaf.shape, leaf.dtype) for leaf in leaves])
