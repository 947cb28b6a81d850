"""Training as one pure function: ``(params, problem, optimizer) -> (params, Trace)``.

Nothing is jitted, printed or stored here: the caller composes ``jit``, ``vmap`` and ``shard_map``. The
scan runs over records; between two records a loop of some steps reports nothing, so a trace of fixed
length serves runs of any length, and the intervals and the depth can be traced: one program for all.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from dlnjax import stiefel
from dlnjax._monitor import ROUNDINGS, Monitor, Record, begin, observe, trace
from dlnjax._types import Count, Params, Problem, PyTree, Trace


def default_constrained(params: Params) -> tuple[bool, ...]:
    """Every layer but the first is orthonormal (Qin, Tan and Zhu, 2024).

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import train
      >>> train.default_constrained((jnp.eye(2, 3), jnp.eye(2), jnp.eye(4, 2)))
      (False, True, True)
    """
    return (False, *([True] * (len(params) - 1)))


def measure(
    params: Params, problem: Problem, step: Count, constrained: tuple[bool, ...], **depth: Any
) -> Record:
    """Loss, distance, Riemannian gradient norm and orthonormality error at ``params``.

    The distance is the problem's own where it has one, else ``sqrt(2 |loss|)``.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import problem, train
      >>> task = problem.whitened(jnp.diag(jnp.array([3.0, 1.0])))
      >>> record = train.measure((jnp.eye(2), jnp.eye(2)), task, 0, (False, True))
      >>> float(record.loss), float(record.distance)  # 2^2 / 2, and ||W - W*||
      (2.0, 2.0)
    """
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

    carry: PyTree
    one_step: Callable[[PyTree, jax.Array], tuple[PyTree, jax.Array]]
    report: Callable[[PyTree, jax.Array], Record]
    finish: Callable[[PyTree], PyTree]


class Run(NamedTuple):
    """A run between two records: what a checkpoint keeps and what the next chunk starts from."""

    carry: PyTree  # the engine's own state: params and optimizer state, or the reduced network
    monitor: Monitor
    bad_step: jax.Array  # first step whose probe was not finite, -1 while there is none
    step: jax.Array
    probe: jax.Array  # of the last step; not a number before the first


def start(engine: Engine) -> tuple[Run, Record]:
    """The run at step 0, and its record.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from dlnjax import initial, optim, problem, train
      >>> task, layers = problem.whitened(jnp.eye(3)), initial.haar(jax.random.key(0), (3, 3, 3), 0.5)
      >>> engine = train.prepare(layers, task, optim.rgd(0.1))
      >>> run, record = train.start(engine)
      >>> int(run.step), int(record.step)
      (0, 0)
    """
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

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from dlnjax import initial, optim, problem, train
      >>> task, layers = problem.whitened(jnp.eye(3)), initial.haar(jax.random.key(0), (3, 3, 3), 0.5)
      >>> engine = train.prepare(layers, task, optim.rgd(0.1))
      >>> run, first = train.start(engine)
      >>> run, second = train.advance(run, engine, 5, 1e-8)
      >>> int(second.step), bool(second.loss < first.loss)
      (5, True)
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


def scan(engine: Engine, *, intervals: jax.Array, tolerance: float) -> tuple[PyTree, Trace]:
    """A whole run: what it ends with, and the trace containing step 0.

    Args:
      intervals: ``(T,)`` integers, the steps between records; values may be traced.
      tolerance: as in :func:`advance`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from dlnjax import initial, optim, problem, train
      >>> task, layers = problem.whitened(jnp.eye(3)), initial.haar(jax.random.key(0), (3, 3, 3), 0.5)
      >>> engine = train.prepare(layers, task, optim.rgd(0.1))
      >>> layers, trace = train.scan(engine, intervals=jnp.array([5, 5]), tolerance=1e-8)
      >>> trace.step.tolist()
      [0, 5, 10]
    """

    def one_record(run: Run, interval):
        run, record = advance(run, engine, interval, tolerance)
        return run, (record, run.monitor.status)

    run, first = start(engine)
    status = run.monitor.status
    run, rest = jax.lax.scan(one_record, run, jnp.asarray(intervals, jnp.int32))
    records, statuses = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), (first, status), rest)
    return engine.finish(run.carry), trace(records, statuses, run.monitor)


def lengths(num_steps: int | None, record_every: int, record_intervals: jax.Array | None) -> jax.Array:
    """Steps between records: as given, or so that every ``record_every``-th step and the last are recorded.

    Raises:
      ValueError: neither or both of ``num_steps`` and ``record_intervals``, or a number of steps that is no integer
        or below 1. Traced intervals cannot be checked: one below 1 takes no step and repeats the record.

    Example:
      >>> from dlnjax import train
      >>> train.lengths(25, 10, None).tolist()
      [10, 10, 5]
    """
    if (num_steps is None) == (record_intervals is None):
        raise ValueError("give either num_steps (with record_every) or record_intervals")
    if num_steps is None:
        return _checked_intervals(record_intervals)
    steps, every = _positive("num_steps", num_steps), _positive("record_every", record_every)
    whole, rest = divmod(steps, every)
    return jnp.array([every] * whole + [rest] * bool(rest), jnp.int32)


def _positive(name: str, number: SupportsIndex) -> int:
    try:
        known = operator.index(number)
    except TypeError:
        known = 0
    if isinstance(number, bool) or known < 1:
        raise ValueError(f"{name}={number!r}; give an integer of at least 1")
    return known


def _checked_intervals(intervals: object) -> jax.Array:
    if isinstance(intervals, Tracer):
        return jnp.asarray(intervals, jnp.int32)
    known = np.asarray(intervals)
    if known.ndim != 1 or not known.size or not np.issubdtype(known.dtype, np.integer) or known.min() < 1:
        raise ValueError(f"record_intervals={intervals!r}; give a vector of integers of at least 1")
    return jnp.asarray(known, jnp.int32)


def check_number(name: str, number: object, least: float, below: float = np.inf) -> None:
    """Refuse a number known now that is not in ``[least, below)``; traced ones pass.

    Raises:
      ValueError: such a number, not-a-number among them.

    Example:
      >>> from dlnjax import train
      >>> train.check_number("momentum", 0.9, 0.0, 1.0)
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

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim, problem, train
      >>> engine = train.prepare((jnp.eye(2), jnp.eye(2)), problem.whitened(2 * jnp.eye(2)), optim.rgd(0.1))
      >>> (params, _), probe = engine.one_step(engine.carry, 0)
      >>> round(float(params[0][0, 0]), 6)  # 1 + 0.1 (2 - 1)
      1.1
    """
    held = default_constrained(params) if constrained is None else constrained
    options = {} if depth is None else {"depth": depth}
    update: PyTree = optimizer.update
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
      >>> from dlnjax import initial, optim, problem, train
      >>> start = initial.haar(jax.random.key(0), (3, 2, 4), first_scale=0.5)
      >>> task = problem.whitened(jnp.eye(4, 3))
      >>> _, trace = train.train(start, task, optim.rgd(0.1), num_steps=20, record_every=10)
      >>> trace.step.tolist(), bool(trace.loss[-1] < trace.loss[0])
      ([0, 10, 20], True)
    """
    check_number("tolerance", tolerance, 0.0)
    between = lengths(num_steps, record_every, record_intervals)
    engine = prepare(params, problem, optimizer, depth=depth, constrained=constrained)
    return scan(engine, intervals=between, tolerance=tolerance)
