r"""Training in two-layer form: one step of the exact reduction, with or without momentum."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dlnjax import _monitor, stiefel
from dlnjax import train as training
from dlnjax._linalg import skew, transpose, transposed
from dlnjax._linalg import small_matmul as matmul
from dlnjax._types import Count, Number, Scales, Trace
from dlnjax.problem import Quadratic
from dlnjax.reduced.form import LayerScales, Reduced, end_to_end, layer_steps, power
from dlnjax.reduced.momentum import Memory, Rule, Triple, advance, at_rest
from dlnjax.reduced.momentum import turn as turn_memory
from dlnjax.stiefel._rotation import POLISH_EVERY, turn, turns
from dlnjax.stiefel._shape import batch_as_axis


def train(
    reduced: Reduced,
    problem: Quadratic,
    *,
    step_size: Number,
    scales: Scales | None = None,
    num_steps: int | None = None,
    record_every: int = 1,
    layers: bool = False,
    momentum: Number | None = None,
    second_moment: Number | None = None,
    epsilon: Number = 1e-8,
    record_intervals: jax.Array | None = None,
    tolerance: float = 1e-8,
) -> tuple[Reduced, Trace]:
    """Riemannian gradient descent of the N-layer network, at a cost that hardly depends on N.

    Args:
      reduced: from :func:`reduce`.
      problem: anything with ``product_loss``, ``product_gradient`` and ``product_distance``.
      step_size: mu > 0; a float or traced scalar.
      scales: one multiplier a layer as in ``optim.rgd``, the middle ones equal; None: all 1.
      num_steps: steps to take, recorded every ``record_every`` and at the last.
      layers: carry the prefixes along (O(N) a step), so that :func:`layers` recovers every layer.
      momentum: heavy ball's beta in [0, 1), with momenta transported by projection
        (``m <- beta P(m) + P(g)``); None: plain gradient descent.
      second_moment: Adam's b2 in [0, 1), ``momentum`` then being its b1: the steps of ``optim.adam`` with one
        second moment a layer. They reduce because all middle layers have relative gradients of one norm. Where
        gradients vanish Adam's steps do not, and rounding grows: the layers agree to 1e-14 while the run is
        regular, and to 1e-60 in arithmetic of 60 digits.
      epsilon: added to the root of the second moment.
      record_intervals: in place of ``num_steps``, as in ``train.train``.
      tolerance: as in ``train.train``.

    Returns:
      The trained network and the :class:`Trace` of the N-layer run. The orthonormality error is the frame's.

    Raises:
      ValueError: numbers of steps as in ``train.train``; fewer than two layers; a step size, scale, momentum, second
        moment, epsilon or tolerance out of range. Traced numbers are not checked: a negative step ascends.
    """
    training.check_number("tolerance", tolerance, 0.0)
    lengths = training.lengths(num_steps, record_every, record_intervals)
    engine = prepare(
        reduced,
        problem,
        step_size=step_size,
        scales=scales,
        layers=layers,
        momentum=momentum,
        second_moment=second_moment,
        epsilon=epsilon,
    )
    return training.scan(engine, intervals=lengths, tolerance=tolerance)


def prepare(
    reduced: Reduced,
    problem: Quadratic,
    *,
    step_size: Number,
    scales: Scales | None = None,
    layers: bool = False,
    momentum: Number | None = None,
    second_moment: Number | None = None,
    epsilon: Number = 1e-8,
) -> training.Engine:
    """The engine behind :func:`train`; arguments as there. Its carry does not contain the number of layers."""
    for name, number, below in (("momentum", momentum, 1.0), ("second_moment", second_moment, 1.0)):
        training.check_number(name, number, 0.0, below)
    training.check_number("epsilon", epsilon, 0.0)
    training.check_number("num_layers", reduced.num_layers, 2)
    steps = layer_steps(step_size, scales, reduced.first.dtype)
    begun = reduced if layers else reduced._replace(prefixes=None)

    def whole(carried: Reduced) -> Reduced:
        return carried._replace(num_layers=reduced.num_layers)

    rule = Rule(momentum, second_moment, epsilon)

    def one_step(carry, step):
        network, memory = carry
        network, memory = _step(whole(network), memory, problem, steps, rule, step)
        return (network._replace(num_layers=None), memory), jnp.sum(network.first)  # pyright: ignore

    def report(carry, step):
        return _measure(whole(carry[0]), problem, step)

    carry = (begun._replace(num_layers=None), at_rest(begun.first, begun.frame, rule))  # pyright: ignore
    return training.Engine(carry, one_step, report, lambda carry: whole(carry[0]))


def _gradients(network: Reduced, problem: Quadratic) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradient of W_1, the middle layers' relative gradient Omega, and the last layer's tangent one."""
    first, frame = network.first, network.frame
    gradient = problem.product_gradient(end_to_end(network))
    inward = matmul(transposed(frame), gradient)
    relative = skew(matmul(inward, transpose(first)))  # skew(U^T F)
    if _is_square(frame):
        return inward, relative, matmul(frame, relative)
    return inward, relative, stiefel.project_tangent(frame, matmul(gradient, transpose(first)))


def _is_square(frame: jax.Array) -> bool:
    return frame.shape[-2] == frame.shape[-1]


def _step(
    network: Reduced, memory: Memory | None, problem, steps: LayerScales, rule: Rule, step: Count
) -> tuple[Reduced, Memory | None]:
    first, middle, last = _gradients(network, problem)
    if memory is not None:
        memory, (first, middle, last) = advance(memory, Triple(first, middle, last), network.frame, rule)
    relative, between = -steps.middle * middle, jnp.asarray(network.num_layers - 2, jnp.int32)
    frame, prefixes = network.frame, network.prefixes
    if prefixes is not None:
        prefixes = _turn(prefixes, _rotation(relative))
    if memory is None and _is_square(frame):
        alike = jnp.asarray(steps.last == steps.middle)
        polishing = jnp.asarray(step) % POLISH_EVERY == 0
        frame = _turned_frame(frame, relative, -steps.last * middle, between, alike, polishing)
    else:
        turned = turns(relative, between, _by_squaring)
        frame = stiefel.retract_polar(frame, -steps.last * last)
        frame = frame + matmul(frame, turned)
        memory = None if memory is None else turn_memory(memory, _rotation(relative), turned)
    return network._replace(first=network.first - steps.first * first, frame=frame, prefixes=prefixes), memory


def _by_squaring(relative: jax.Array, exponent: Count) -> jax.Array:
    return power(_rotation(relative), exponent)


@batch_as_axis
def _turned_frame(
    frame: jax.Array,
    relative: jax.Array,
    last: jax.Array,
    between: jax.Array,
    alike: jax.Array,
    polishing: jax.Array,
) -> jax.Array:
    """A square frame one step further, where the last layer's step is a rotation like the others'.

    Args:
      frame: U, ``(..., r, r)``.
      relative, last: ``K = -mu' Omega`` for the steps of the middle layers and of the last.
      between: how many middle layers.
      alike: whether both steps are the same: it is then one turn more.
      polishing: whether to take off the rounding that rotations gather.
    """

    together = jnp.all(alike)
    start = jax.lax.cond(together, lambda: frame, lambda: frame + matmul(frame, turn(last)))
    start = jax.lax.cond(jnp.any(polishing), stiefel.project, lambda start: start, start)
    return start + matmul(start, turns(relative, between + together.astype(jnp.int32), _by_squaring))


def _rotation(relative: jax.Array) -> jax.Array:
    """``R = polar(I + K)``, K skew."""
    return stiefel.retract_polar(jnp.eye(relative.shape[-1], dtype=relative.dtype), relative)


def _turn(prefixes: jax.Array, rotation: jax.Array) -> jax.Array:
    """``S_i R^{i-1}`` for i = 2..N-1."""

    def body(turned, prefix):
        turned = matmul(turned, rotation)
        return turned, matmul(prefix, turned)

    return jax.lax.scan(body, jnp.eye(rotation.shape[0], dtype=rotation.dtype), prefixes)[1]


def _measure(network: Reduced, problem: Quadratic, step: Count) -> _monitor.Record:
    """As ``train.measure``; each of the N - 2 middle layers has the gradient norm ``||Omega||``."""
    product = end_to_end(network)
    first, middle, last = _gradients(network, problem)
    squares = [jnp.sum(jnp.square(g)) for g in (first, middle, last)]
    between = jnp.asarray(network.num_layers - 2, product.dtype)
    total = squares[0] + between * squares[1] + squares[2]
    return _monitor.Record(
        jnp.asarray(step, jnp.int32),
        problem.product_loss(product),
        problem.product_distance(product),
        jnp.sqrt(total),
        stiefel.orthonormality_error(network.frame),
    )
