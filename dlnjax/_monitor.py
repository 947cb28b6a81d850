"""When a run has converged or diverged: what is measured at each record, and the status that follows from it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlnjax._types import PyTree, Status, Trace

#: Records in a row, above ``BLOWUP`` times the start or oscillating, after which a run counts as diverged.
PATIENCE = 100
BLOWUP = 10.0
#: An error is stuck while its best value falls by less than this fraction and the gradient is above this part of its
#: start's.
PROGRESS = 1e-6
LARGE_GRADIENT = 1e-2
#: Rises, and as many falls, of the recorded loss while the error is stuck that make an oscillation: a slow monotone
#: fall has none, the odd one comes from rounding.
SWINGS = 5
#: A swing counts if some step since the record before changed the engine's probe by more roundings than this. Weights
#: that a tiny step cannot move any more leave a loss that jitters, too.
ROUNDINGS = 1e3


class Record(NamedTuple):
    """What is measured at one recorded step; scalars, in the units of :class:`Trace`."""

    step: jax.Array
    loss: jax.Array
    distance: jax.Array
    gradient_norm: jax.Array
    orthonormality_error: jax.Array
    extra: PyTree = ()  # scalars by name that a caller measures besides


class Monitor(NamedTuple):
    """What deciding a status needs to remember between records."""

    start_distance: jax.Array
    start_gradient: jax.Array
    best: jax.Array  # smallest distance so far
    last_loss: jax.Array  # at the record before
    stalled: jax.Array  # records since the best fell by PROGRESS, gradient large all the while
    rises: jax.Array  # of the loss from record to record, among these
    falls: jax.Array
    above: jax.Array  # records in a row above BLOWUP * start
    status: jax.Array
    first_bad_step: jax.Array


def begin(record: Record) -> Monitor:
    """The monitor at step 0."""
    finite = jnp.isfinite(record.distance) & jnp.isfinite(record.loss)
    zero = jnp.zeros_like(
        finite, jnp.int32
    )  # of the record: under shard_map it varies over the mesh as that does
    return Monitor(
        start_distance=record.distance,
        start_gradient=record.gradient_norm,
        best=record.distance,
        last_loss=record.loss,
        stalled=zero,
        rises=zero,
        falls=zero,
        above=zero,
        status=jnp.where(finite, Status.RUNNING, Status.DIVERGED).astype(jnp.int32),
        first_bad_step=jnp.where(finite, -1, 0).astype(jnp.int32),
    )


def observe(
    monitor: Monitor, record: Record, bad_step: jax.Array, tolerance: float, moving: jax.Array | bool = True
) -> Monitor:
    """The status after one more record; ``moving``: whether the weights moved since the last one, beyond rounding.

    Diverged is final: a number that is not finite; an error above ten times its start for ``PATIENCE`` records in a
    row; or an oscillation that is seen as one: for ``PATIENCE`` records the best error falls by less than a millionth
    although the gradient is above a hundredth of its start, and the recorded loss meanwhile rises and falls,
    ``SWINGS`` times each, by steps that move the weights. (Just beyond the stability edge the iterates settle in a
    period-2 orbit and stay finite; recorded at every second step it shows by its rounding.) A fall that is merely
    slow, as at a tiny step, is none of these. Converged is final unless the run diverges later.
    """
    zero = jnp.zeros_like(monitor.stalled)
    finite = jnp.isfinite(record.distance) & jnp.isfinite(record.loss) & (bad_step < 0)
    above = jnp.where(record.distance > BLOWUP * monitor.start_distance, monitor.above + 1, zero)
    progress = record.distance <= (1 - PROGRESS) * monitor.best
    stuck = ~progress & (record.gradient_norm > LARGE_GRADIENT * monitor.start_gradient)
    stalled, rises, falls = (
        jnp.where(stuck, count + more.astype(jnp.int32), zero)
        for count, more in (
            (monitor.stalled, stuck),
            (monitor.rises, (record.loss > monitor.last_loss) & moving),
            (monitor.falls, (record.loss < monitor.last_loss) & moving),
        )
    )
    oscillates = (stalled >= PATIENCE) & (rises >= SWINGS) & (falls >= SWINGS)
    diverged = ~finite | (above >= PATIENCE) | oscillates | (monitor.status == Status.DIVERGED)
    converged = (record.distance <= tolerance * monitor.start_distance) | (monitor.status == Status.CONVERGED)
    status = jnp.where(diverged, Status.DIVERGED, jnp.where(converged, Status.CONVERGED, Status.RUNNING))
    here = jnp.where(bad_step >= 0, bad_step, record.step)
    first_bad = jnp.where(diverged & (monitor.first_bad_step < 0), here, monitor.first_bad_step)
    return Monitor(
        start_distance=monitor.start_distance,
        start_gradient=monitor.start_gradient,
        best=jnp.where(progress, record.distance, monitor.best),
        last_loss=record.loss,
        stalled=stalled,
        rises=rises,
        falls=falls,
        above=above,
        status=status.astype(jnp.int32),
        first_bad_step=first_bad.astype(jnp.int32),
    )


def trace(records: Record, statuses: jax.Array, monitor: Monitor) -> Trace:
    """The trace of T records, the monitor behind the last of them."""
    scalars = {name: value for name, value in records._asdict().items() if name != "extra"}
    return Trace(**scalars, status=statuses, first_bad_step=monitor.first_bad_step)
