r"""Depth as a number: the exact two-layer reduction of Riemannian gradient descent [derived].

With equal hidden widths r, the polar retraction and one step for all middle layers, the product of an
N-layer network under Riemannian gradient descent is that of a two-layer one whose frame
:math:`U = W_N \cdots W_2` turns by a power of one rotation. With ``G = dL/dW``, ``F = G W_1^T``,
``Omega = skew(U^T F)`` and ``R = polar(I - mu' Omega)``,

.. math:: U^+ = \mathrm{Retr}_U(-\mu_N P_U(F))\, R^{N-2}, \qquad W_1^+ = W_1 - \mu\, U^T G .

The power costs what the angle needs that its rotations come to, and O(log N) products at most, so a thousand
layers cost what thirty do. It holds because the middle layers all carry the same relative gradient
(``W_{i+1}^T g_{i+1} = g_i W_i^T``) and the polar retraction commutes with rotations; QR and elementwise Adam do
not, and have no such reduction.
Heavy ball with projection transport reduces too, and so does Adam with one second moment a layer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlnjax import _moments, network, stiefel
from dlnjax import train as training
from dlnjax._linalg import skew, transpose, transposed
from dlnjax._linalg import small_matmul as matmul
from dlnjax._moments import Memory, Rule
from dlnjax._turns import POLISH_EVERY, turn, turns
from dlnjax._types import Count, Number, Params, Scales, Trace
from dlnjax.problem import Quadratic
from dlnjax.stiefel._shape import batch_as_axis


class Reduced(NamedTuple):
    """An N-layer network of equal hidden widths r, as two layers.

    Attributes:
      first: ``W_1``, ``(r, d_0)``.
      frame: ``U = W_N ... W_2``, ``(d_N, r)``, orthonormal (tall or wide).
      num_layers: N, at least 2; may be traced.
      prefixes: ``S_i = W_i ... W_2`` for i = 2..N-1, ``(N-2, r, r)``, or None where layers are not wanted.
    """

    first: jax.Array
    frame: jax.Array
    num_layers: Count
    prefixes: jax.Array | None = None


class LayerScales(NamedTuple):
    """Step multipliers of the first, each middle, and the last layer."""

    first: Number
    middle: Number
    last: Number


def reduce(params: Params) -> Reduced:
    """The two-layer form of a network with equal hidden widths.

    Raises:
      ValueError: a single layer, or hidden widths that differ.
    """
    widths = network.dims(params)
    if len(widths) < 3 or len(set(widths[1:-1])) != 1:
        raise ValueError(f"widths {widths}; the reduction needs two layers or more and equal hidden widths")
    layers = network.unstack(params)
    rank = widths[1]
    prefix = jnp.eye(rank, dtype=layers[0].dtype)
    prefixes = []
    for layer in layers[1:-1]:
        prefix = matmul(layer, prefix)
        prefixes.append(prefix)
    stacked = jnp.stack(prefixes) if prefixes else jnp.zeros((0, rank, rank), prefix.dtype)
    return Reduced(layers[0], matmul(layers[-1], prefix), len(layers), stacked)


def end_to_end(reduced: Reduced) -> jax.Array:
    """The product ``U W_1``, ``(d_N, d_0)``."""
    return matmul(reduced.frame, reduced.first)


def layers(reduced: Reduced) -> Params:
    """The layers ``(W_1, run, W_N)``, or ``(W_1, W_2)``: ``W_i = S_i S_{i-1}^T`` and ``W_N = U S_{N-1}^T``.

    Raises:
      ValueError: a reduced network trained without ``layers=True``.
    """
    if reduced.prefixes is None:
        raise ValueError("this reduced network has no prefixes; train it with layers=True to recover layers")
    rank = reduced.first.shape[0]
    identity = jnp.eye(rank, dtype=reduced.first.dtype)[None]
    before = jnp.concatenate([identity, reduced.prefixes])
    last = matmul(reduced.frame, transpose(before[-1]))
    if reduced.prefixes.shape[0] == 0:
        return (reduced.first, last)
    return (reduced.first, matmul(reduced.prefixes, transpose(before[:-1])), last)


def expand(key: jax.Array, reduced: Reduced, *, max_layers: int) -> Params:
    """An N-layer network with this two-layer form: Haar middle layers, and ``W_N = U S_{N-1}^T``.

    If U is Haar then so are all the layers, and independent: this is then the Haar start itself.

    Args:
      key: PRNG key; middle layer i is drawn from ``fold_in(key, i)``.
      reduced: ``num_layers`` may be traced.
      max_layers: layers stored, at least ``num_layers``; those of the run beyond N are identities
        (as ``network.pad``), so that one program serves every depth.

    Returns:
      ``(W_1, run (max_layers - 2, r, r), W_N)``.
    """
    rank = reduced.first.shape[0]
    dtype = reduced.first.dtype
    places = jnp.arange(max_layers - 2, dtype=jnp.int32)
    drawn = jax.vmap(lambda i: stiefel.random(jax.random.fold_in(key, i), (rank, rank), dtype))(places)
    counts = (places < reduced.num_layers - 2)[:, None, None]
    run = jnp.where(counts, drawn, jnp.eye(rank, dtype=dtype))
    prefix = network.end_to_end((jnp.eye(rank, dtype=dtype), run))
    return (reduced.first, run, matmul(reduced.frame, transpose(prefix)))


def frame(params: Params, depth: Count | None = None) -> jax.Array:
    """``U = W_N ... W_2`` of params, ``(d_N, d_1)``; ``depth`` as in ``network.end_to_end``."""
    identity = jnp.eye(params[0].shape[0], dtype=params[0].dtype)
    return network.end_to_end((identity, *params[1:]), depth)


def layer_scales(scales: Scales | None, num_layers: int | None = None) -> LayerScales:
    """The three multipliers that the reduction needs, from scales in params' structure.

    Args:
      scales: one multiplier a layer (a run: a scalar or ``(k,)``), a :class:`LayerScales`, or None for all 1.
      num_layers: N where it is known, which tells ``(first, last)`` from ``(first, run)``.

    Raises:
      ValueError: middle layers with different multipliers: the reduction does not hold for them.
    """
    if scales is None:
        return LayerScales(1.0, 1.0, 1.0)
    if isinstance(scales, LayerScales):
        return scales
    first, *rest = scales
    flat = [value for entry in rest for value in (entry if getattr(entry, "ndim", 0) else [entry])]
    if len(flat) == 1:
        return LayerScales(first, flat[0], flat[0])
    between, last = flat[:-1], flat[-1]
    known = [v for v in between if not isinstance(v, Tracer)]
    if known and not np.allclose(np.array(known, float), float(known[0]), rtol=1e-12, atol=0):
        raise ValueError(
            "the middle layers have different scales; the reduction needs one scale for all of them"
        )
    return LayerScales(first, between[0], last)


def layer_steps(step_size: Number, scales: Scales | None, dtype: Any) -> LayerScales:
    """The steps of the first, each middle and the last layer, as numbers of this dtype; scales as in :func:`train`."""
    size = jnp.asarray(step_size, dtype)
    return LayerScales(*(size * jnp.asarray(scale, dtype) for scale in layer_scales(scales)))


def power(rotation: jax.Array, exponent: Count) -> jax.Array:
    """A rotation to a non-negative integer power: log2(exponent) squarings, and few products besides.

    The exponent is written with digits -1, 0, 1, no two neighbours of which are nonzero; a digit -1 costs
    no more than a 1, since the inverse of a rotation is its transpose. ``510 = 2^9 - 2`` takes ten products
    where the binary digits take fifteen.

    Args:
      rotation: ``(r, r)``, orthogonal.
      exponent: may be traced; where it is not batched, digits 0 cost nothing under vmap either.
    """
    exponent = jnp.asarray(exponent, jnp.int32)
    half = exponent >> 1
    raised = exponent + half
    digits = half ^ raised  # bits at which the signed digit is not zero
    negative = half & digits

    def absorb(operands):
        result, base, backward = operands
        return matmul(result, jnp.where(backward, transpose(base), base))

    def step(state):
        result, base, digits, negative = state
        used = digits & 1 == 1
        result = jax.lax.cond(used, absorb, lambda operands: operands[0], (result, base, negative & 1 == 1))
        base = jax.lax.cond(digits > 1, lambda b: matmul(b, b), lambda b: b, base)
        return result, base, digits >> 1, negative >> 1

    start = (jnp.eye(rotation.shape[-1], dtype=rotation.dtype), rotation, digits, negative)
    return jax.lax.while_loop(lambda state: state[2] > 0, step, start)[0]


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
    """
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

    carry = (begun._replace(num_layers=None), _moments.at_rest(begun.first, begun.frame, rule))  # pyright: ignore
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
        memory, (first, middle, last) = _moments.advance(
            memory, _moments.Triple(first, middle, last), network.frame, rule
        )
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
        memory = None if memory is None else _moments.turn(memory, _rotation(relative), turned)
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


def _measure(network: Reduced, problem: Quadratic, step: Count) -> training.Record:
    """As ``train.measure``; each of the N - 2 middle layers has the gradient norm ``||Omega||``."""
    product = end_to_end(network)
    first, middle, last = _gradients(network, problem)
    squares = [jnp.sum(jnp.square(g)) for g in (first, middle, last)]
    between = jnp.asarray(network.num_layers - 2, product.dtype)
    total = squares[0] + between * squares[1] + squares[2]
    return training.Record(
        jnp.asarray(step, jnp.int32),
        problem.product_loss(product),
        problem.product_distance(product),
        jnp.sqrt(total),
        stiefel.orthonormality_error(network.frame),
    )
