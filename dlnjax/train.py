"""Training as one pure function: ``(params, problem, optimizer) -> (params, Trace)``.

Nothing is jitted, printed or stored here: the caller composes ``jit``, ``vmap`` and ``shard_map``. The
scan runs over records; between two records a loop of some steps reports nothing, so a trace of fixed
length serves runs of any length, and the intervals and the depth can be traced: one program for all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from dlnjax import stiefel
from dlnjax._types import Count, Params, Problem, Status, Trace

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
    extra: Any = ()  # scalars by name that a caller measures besides


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


def default_constrained(params: Params) -> tuple[bool, ...]:
    """Every layer but the first is orthonormal (Qin, Tan and Zhu, 2024)."""
    return (False, *([True] * (len(params) - 1)))


def measure(
    params: Params, problem: Problem, step: Count, constrained: tuple[bool, ...], **depth: Any
) -> Record:
    """Loss, distance, Riemannian gradient norm and orthonormality error at ``params``."""
    loss = problem.loss(params, **depth)
    measured = getattr(problem, "distance", None)
    distance = jnp.sqrt(2 * jnp.abs(loss)) if measured is None else measured(params, **depth)
    gradients = problem.gradients(params, jnp.asarray(step, jnp.int32), **depth)
    riemannian = [
        stiefel.project_tangent(w, g) if held else g
        for w, g, held in zip(params, gradients, constrained, strict=True)
    ]
    squares = jnp.stack([jnp.sum(jnp.square(g)) for g in riemannian])
    errors = [
        jnp.max(stiefel.orthonormality_error(w), initial=0)  # a run may hold no layer
        for w, held in zip(params, constrained, strict=True)
        if held
    ]
    error = jnp.max(jnp.stack(errors)) if errors else jnp.zeros_like(loss)
    return Record(jnp.asarray(step, jnp.int32), loss, distance, jnp.sqrt(jnp.sum(squares)), error)


class Engine(NamedTuple):
    """A way to train: where it starts, one step of it, what is measured, and what the end state means.

    Attributes:
      carry: the engine's own state at step 0: params and optimizer state, or the reduced network.
      one_step: ``(carry, step) -> (carry, probe)``; the probe is a scalar that is not finite as soon as the run is not.
      report: ``(carry, step) -> Record``.
      finish: ``carry -> params``, in the form that the caller started from.
    """

    carry: Any
    one_step: Callable[[Any, jax.Array], tuple[Any, jax.Array]]
    report: Callable[[Any, jax.Array], Record]
    finish: Callable[[Any], Any]


class Run(NamedTuple):
    """A run between two records: what a checkpoint keeps and what the next chunk starts from."""

    carry: Any  # the engine's own state: params and optimizer state, or the reduced network
    monitor: Monitor
    bad_step: jax.Array  # first step whose probe was not finite, -1 while there is none
    step: jax.Array
    probe: jax.Array  # of the last step; not a number before the first


def start(engine: Engine) -> tuple[Run, Record]:
    """The run at step 0, and its record."""
    zero = jnp.zeros((), jnp.int32)
    record = engine.report(engine.carry, zero)
    monitor, unknown = begin(record), jnp.full_like(record.loss, jnp.nan)
    return Run(engine.carry, monitor, jnp.full_like(monitor.first_bad_step, -1), zero, unknown), record


def advance(run: Run, engine: Engine, interval: Count, tolerance: float) -> tuple[Run, Record]:
    """The run ``interval`` steps later, and the record there; the one loop behind every engine.

    Args:
      run: from :func:`start` or from here; ``engine.carry`` is not looked at.
      interval: steps until the record, may be traced.
      tolerance: relative distance at which the run counts as converged.
    """

    def inner(j, state):
        carry, bad_step, last, longest = state
        carry, probe = engine.one_step(carry, run.step + j)
        probe = probe.astype(last.dtype)
        newly_bad = (bad_step < 0) & ~jnp.isfinite(probe)
        longest = jnp.fmax(longest, jnp.abs(probe - last))
        return carry, jnp.where(newly_bad, run.step + j + 1, bad_step), probe, longest

    begun = (run.carry, run.bad_step, run.probe, jnp.zeros_like(run.probe))
    carry, bad_step, probe, longest = jax.lax.fori_loop(0, interval, inner, begun)
    step = run.step + interval
    record = engine.report(carry, step)
    moving = longest > ROUNDINGS * jnp.finfo(probe.dtype).eps * jnp.abs(probe)
    return Run(
        carry, observe(run.monitor, record, bad_step, tolerance, moving), bad_step, step, probe
    ), record


def scan(engine: Engine, *, intervals: jax.Array, tolerance: float) -> tuple[Any, Trace]:
    """A whole run: what it ends with, and the trace containing step 0.

    Args:
      intervals: ``(T,)`` integers, the steps between records; values may be traced.
      tolerance: as in :func:`advance`.
    """

    def one_record(run: Run, interval):
        run, record = advance(run, engine, interval, tolerance)
        return run, (record, run.monitor.status)

    run, first = start(engine)
    status = run.monitor.status
    run, rest = jax.lax.scan(one_record, run, jnp.asarray(intervals, jnp.int32))
    records, statuses = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), (first, status), rest)
    return engine.finish(run.carry), trace(records, statuses, run.monitor)


def trace(records: Record, statuses: jax.Array, monitor: Monitor) -> Trace:
    """The trace of T records, the monitor behind the last of them."""
    told = {name: value for name, value in records._asdict().items() if name != "extra"}
    return Trace(**told, status=statuses, first_bad_step=monitor.first_bad_step)


def lengths(num_steps: int | None, record_every: int, record_intervals: jax.Array | None) -> jax.Array:
    """Steps between records: as given, or so that every ``record_every``-th step and the last are recorded.

    Raises:
      ValueError: neither or both of ``num_steps`` and ``record_intervals``, or a number of steps that is no integer
        or below 1. Traced intervals cannot be checked: one below 1 takes no step and repeats the record.
    """
    if (num_steps is None) == (record_intervals is None):
        raise ValueError("give either num_steps (with record_every) or record_intervals")
    if num_steps is None:
        return _checked_intervals(record_intervals)
    steps, every = _positive("num_steps", num_steps), _positive("record_every", record_every)
    whole, rest = divmod(steps, every)
    return jnp.array([every] * whole + [rest] * bool(rest), jnp.int32)


def _positive(name: str, number: Any) -> int:
    try:
        known = operator.index(number)
    except TypeError:
        known = 0
    if isinstance(number, bool) or known < 1:
        raise ValueError(f"{name}={number!r}; give an integer of at least 1")
    return known


def _checked_intervals(intervals: Any) -> jax.Array:
    if isinstance(intervals, Tracer):
        return jnp.asarray(intervals, jnp.int32)
    known = np.asarray(intervals)
    if known.ndim != 1 or not known.size or not np.issubdtype(known.dtype, np.integer) or known.min() < 1:
        raise ValueError(f"record_intervals={intervals!r}; give a vector of integers of at least 1")
    return jnp.asarray(known, jnp.int32)


def check_number(name: str, number: Any, least: float, below: float = np.inf) -> None:
    """Refuse a number known now that is not in ``[least, below)``; traced ones pass.

    Raises:
      ValueError: such a number, not-a-number among them.
    """
    if number is None or callable(number) or isinstance(number, Tracer):
        return
    if not np.all((np.asarray(number) >= least) & (np.asarray(number) < below)):
        raise ValueError(f"{name}={number!r}; give a number of at least {least:g}" + ("" if below == np.inf else
                         f" and below {below:g}"))  # fmt: skip


def prepare(
    params: Params,
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    depth: Count | None = None,
    constrained: tuple[bool, ...] | None = None,
) -> Engine:
    """The engine behind :func:`train`; arguments as there.

    An optimizer that takes extra arguments gets the loss: ``value`` and ``value_fn``, as optax's line searches do.
    """
    held = default_constrained(params) if constrained is None else constrained
    options = {} if depth is None else {"depth": depth}
    update: Any = optimizer.update
    takes_value = isinstance(optimizer, optax.GradientTransformationExtraArgs)

    def loss(params):
        return problem.loss(params, **options)

    def one_step(carry, step):
        params, state = carry
        gradients = problem.gradients(params, step, **options)
        extra = {"value": loss(params), "value_fn": loss} if takes_value else {}
        updates, state = update(gradients, state, params, **extra)
        params = cast(Params, optax.apply_updates(params, updates))
        return (params, state), jnp.sum(params[0])

    def report(carry, step):
        return measure(carry[0], problem, step, held, **options)

    return Engine((params, optimizer.init(params)), one_step, report, lambda carry: carry[0])


def train(
    params: Params,
    problem: Problem,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int | None = None,
    record_every: int = 1,
    depth: Count | None = None,
    record_intervals: jax.Array | None = None,
    constrained: tuple[bool, ...] | None = None,
    tolerance: float = 1e-8,
) -> tuple[Params, Trace]:
    """Trains and reports: pure, vmappable over every array argument, not jitted.

    Args:
      params: layers or runs, ``W_1`` first.
      problem: anything with ``loss(params)`` and ``gradients(params, step)`` (:class:`dlnjax._types.Problem`).
      optimizer: an optax transformation; it is initialised here.
      num_steps: steps to take.
      record_every: steps between records; the last step is always recorded.
      depth: a number of layers, traced or not: trains the first layers of padded params (``network.pad``), the
        problem's methods taking ``depth`` too; the rest stays untouched. Under vmap over it all take as long as
        the deepest.
      record_intervals: in place of ``num_steps``: ``(T,)`` integers, the steps between records. Its values
        may be traced, so that one program serves runs of any length.
      constrained: which leaves are orthonormal, for the measurements; default all but the first.
      tolerance: a run is converged once its distance is at most this times the start's.

    Returns:
      The trained params and a :class:`Trace` that holds step 0 and the last.

    Raises:
      ValueError: neither or both of ``num_steps`` and ``record_intervals``; numbers of steps that are no integers or
        below 1; a depth (known now) that the params do not hold; a tolerance below 0.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from dlnjax import initial, optim, problem
      >>> start = initial.haar(jax.random.key(0), (3, 2, 4), first_scale=0.5)
      >>> task = problem.whitened(jnp.eye(4, 3))
      >>> _, trace = train(start, task, optim.rgd(0.1), num_steps=20, record_every=10)
      >>> trace.step.tolist(), bool(trace.loss[-1] < trace.loss[0])
      ([0, 10, 20], True)
    """
    check_number("tolerance", tolerance, 0.0)
    between = lengths(num_steps, record_every, record_intervals)
    engine = prepare(params, problem, optimizer, depth=depth, constrained=constrained)
    return scan(engine, intervals=between, tolerance=tolerance)
