r"""Depth as a number: the exact two-layer reduction of Riemannian gradient descent [derived].

With equal hidden widths r, the polar retraction and one step for all middle layers, the product of an
N-layer network under Riemannian gradient descent is that of a two-layer one whose frame
:math:`U = W_N \cdots W_2` turns by a power of one rotation. With ``G = dL/dW``, ``F = G W_1^T``,
``Omega = skew(U^T F)`` and ``R = polar(I - mu' Omega)``,

.. math:: U^+ = \mathrm{Retr}_U(-\mu_N P_U(F))\, R^{N-2}, \qquad W_1^+ = W_1 - \mu\, U^T G .

The power costs O(log N) products of size r, so a thousand layers cost about what thirty do. It holds
because the middle layers all carry the same relative gradient (``W_{i+1}^T g_{i+1} = g_i W_i^T``) and the
polar retraction commutes with rotations; QR and elementwise Adam do not, and have no such reduction.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlnjax import network, stiefel
from dlnjax import train as training
from dlnjax._linalg import matmul, skew, transpose
from dlnjax._types import Count, Number, Params, Scales, Trace
from dlnjax.problem import Quadratic


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


class Momenta(NamedTuple):
    """Heavy ball: the momentum of W_1, the relative one all middle layers share, and that of the last layer."""

    first: jax.Array  # (r, d_0)
    middle: jax.Array  # (r, r)
    last: jax.Array  # (d_N, r)


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


def power(matrix: jax.Array, exponent: Count) -> jax.Array:
    """``matrix`` to a non-negative integer power, by repeated squaring: at most 2 log2(exponent) products.

    Args:
      matrix: ``(r, r)``.
      exponent: may be traced.
    """
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)

    def step(state):
        result, base, left = state
        result = jnp.where(left % 2 == 1, matmul(result, base), result)
        return result, matmul(base, base), left // 2

    exponent = jnp.asarray(exponent, jnp.int32)
    return jax.lax.while_loop(lambda state: state[2] > 0, step, (identity, matrix, exponent))[0]


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
      record_intervals: in place of ``num_steps``, as in ``train.train``.
      tolerance: as in ``train.train``.

    Returns:
      The trained network and the :class:`Trace` of the N-layer run. The orthonormality error is the frame's.
    """
    lengths = training.lengths(num_steps, record_every, record_intervals)
    steps = LayerScales(*(step_size * s for s in layer_scales(scales)))
    network_start = reduced if layers else reduced._replace(prefixes=None)

    def one_step(carry, step):
        network, momenta = carry
        network, momenta = _step(network, momenta, problem, steps, momentum)
        return (network, momenta), jnp.sum(network.first)

    def report(carry, step):
        return _measure(carry[0], problem, step)

    start = (network_start, None if momentum is None else _at_rest(reduced))
    (trained, _), trace = training.scan(start, one_step, report, intervals=lengths, tolerance=tolerance)
    return trained, trace


def _gradients(network: Reduced, problem: Quadratic) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradient of W_1, the middle layers' relative gradient Omega, and the last layer's tangent one."""
    gradient = problem.product_gradient(end_to_end(network))
    framed = matmul(gradient, transpose(network.first))
    relative = skew(matmul(transpose(network.frame), framed))
    return (
        matmul(transpose(network.frame), gradient),
        relative,
        stiefel.project_tangent(network.frame, framed),
    )


def _at_rest(network: Reduced) -> Momenta:
    rank = network.first.shape[0]
    zero = jnp.zeros((rank, rank), network.first.dtype)
    return Momenta(jnp.zeros_like(network.first), zero, jnp.zeros_like(network.frame))


def _step(network: Reduced, momenta: Momenta | None, problem, steps: LayerScales, momentum: Number | None):
    first, middle, last = _gradients(network, problem)
    if momenta is not None and momentum is not None:
        first = momentum * momenta.first + first
        middle = momentum * skew(momenta.middle) + middle
        last = momentum * stiefel.project_tangent(network.frame, momenta.last) + last
    identity = jnp.eye(network.first.shape[0], dtype=network.first.dtype)
    rotation = stiefel.retract_polar(identity, -steps.middle * middle)
    turned = power(rotation, network.num_layers - 2)
    moved = network._replace(
        first=network.first - steps.first * first,
        frame=matmul(stiefel.retract_polar(network.frame, -steps.last * last), turned),
        prefixes=None if network.prefixes is None else _turn(network.prefixes, rotation),
    )
    if momenta is None:
        return moved, None
    return moved, Momenta(first, matmul(transpose(rotation), middle), matmul(last, turned))


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
