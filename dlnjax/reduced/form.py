"""The two-layer form of an N-layer network: to it, back from it, and the powers of a rotation it needs."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike

from dlnjax import network, stiefel
from dlnjax._linalg import small_matmul as matmul
from dlnjax._linalg import transpose
from dlnjax._types import Count, Number, Params, Scales
from dlnjax.train import check_number


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

    Raises:
      ValueError: ``max_layers`` below 2 or, where it is known now, below ``num_layers``.
    """
    least = 2 if isinstance(reduced.num_layers, Tracer) else int(reduced.num_layers)
    if max_layers < max(least, 2):
        raise ValueError(
            f"max_layers={max_layers} is below the {least} layers of the network; give at least as many"
        )
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
    flat = [
        value
        for entry in rest
        for value in (entry if isinstance(entry, jax.Array | np.ndarray) and entry.ndim else [entry])
    ]
    if not flat:
        raise ValueError(f"scales={scales!r}; give one multiplier per layer, of two layers at least")
    if len(flat) == 1:
        return LayerScales(first, flat[0], flat[0])
    between, last = flat[:-1], flat[-1]
    known = [v for v in between if not isinstance(v, Tracer)]
    if known and not np.allclose(np.array(known, float), float(known[0]), rtol=1e-12, atol=0):
        raise ValueError(
            "the middle layers have different scales; the reduction needs one scale for all of them"
        )
    return LayerScales(first, between[0], last)


def layer_steps(step_size: Number, scales: Scales | None, dtype: DTypeLike) -> LayerScales:
    """The steps of the first, each middle and the last layer, as numbers of this dtype; scales as in :func:`train`.

    Raises:
      ValueError: a step size or scale known now that is negative or not a number.
    """
    check_number("step_size", step_size, 0.0)
    for name, scale in layer_scales(scales)._asdict().items():
        check_number(f"scales.{name}", scale, 0.0)
    size = jnp.asarray(step_size, dtype)
    return LayerScales(*(size * jnp.asarray(scale, dtype) for scale in layer_scales(scales)))


def power(rotation: jax.Array, exponent: Count) -> jax.Array:
    """A rotation to a non-negative integer power: log2(exponent) squarings, and few products besides.

    The exponent is written with digits -1, 0, 1, no two neighbours of which are nonzero; a digit -1 costs
    no more than a 1, since the inverse of a rotation is its transpose. ``510 = 2^9 - 2`` takes ten products
    where the binary digits take fifteen.

    Args:
      rotation: ``(r, r)``, orthogonal.
      exponent: may be traced; where it is not batched, digits 0 cost nothing under vmap either. A negative one that
        is traced gives the identity.

    Raises:
      ValueError: a negative exponent known now.

    Example:
      >>> import jax.numpy as jnp
      >>> quarter = jnp.array([[0.0, -1.0], [1.0, 0.0]])
      >>> power(quarter, 6).tolist()
      [[-1.0, 0.0], [0.0, -1.0]]
    """
    check_number("exponent", exponent, 0)
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
