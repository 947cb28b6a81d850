r"""Riemannian gradient descent layer by layer in one pass: what ``optim.rgd`` does, with fewer products.

For equal hidden widths the middle layers are square, and their gradients are only needed through
:math:`H_i = W_i^T g_i`: with the prefix ``B_i = W_{i-1} ... W_2`` and the rows ``Q_{i-1} = (W_1 G^T) A_i W_i`` it is
``H_i^T = B_i Q_{i-1}``. So a layer costs seven products of size r (prefix, rows, ``H_i``, ``W_i skew(H_i)``, and
three for the polar factor; two once the steps are small) where the composed transformation takes ten,
and the loops follow the traced depth, so that padding costs nothing. A test holds the two equal to 1e-12.
Every layer's own gradient is formed: nothing here relies on the reduction (:mod:`dlnjax.reduced`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from dlnjax import network, stiefel
from dlnjax import train as training
from dlnjax._linalg import matmul, skew, transpose
from dlnjax._types import Count, Number, Params, Scales, Trace
from dlnjax.reduced import LayerScales, layer_scales

# Narrow layers are handled several at a time: a product of 4 x 4 matrices costs less than the loop around it.
_NARROW, _BLOCK = 12, 4


def train(
    params: Params,
    problem: Any,
    *,
    step_size: Number,
    scales: Scales | None = None,
    num_steps: int | None = None,
    record_every: int = 1,
    depth: Count | None = None,
    record_intervals: jax.Array | None = None,
    tolerance: float = 1e-8,
) -> tuple[Params, Trace]:
    """``train.train`` with ``optim.rgd`` (polar retraction, every layer but the first orthonormal), faster.

    Args:
      params: ``(W_1, run (k, r, r), W_N)``; see ``network.pad`` and ``reduced.expand``.
      problem: anything with ``product_gradient``, and what ``train.train`` asks for.
      step_size: mu > 0, a float or traced scalar.
      scales: multipliers as in ``optim.rgd``, one value for the middle layers; None: all 1.
      num_steps, record_every, depth, record_intervals, tolerance: as in ``train.train``.

    Raises:
      ValueError: params of another form, or middle layers with different scales.
    """
    between = training.lengths(num_steps, record_every, record_intervals)
    engine = prepare(params, problem, step_size=step_size, scales=scales, depth=depth)
    return training.scan(engine, intervals=between, tolerance=tolerance)


def prepare(
    params: Params,
    problem: Any,
    *,
    step_size: Number,
    scales: Scales | None = None,
    depth: Count | None = None,
) -> training.Engine:
    """The engine behind :func:`train`; arguments and mistakes as there."""
    if len(params) != 3 or params[1].ndim != 3:
        shapes = [leaf.shape for leaf in params]
        raise ValueError(f"params have shapes {shapes}; give (W_1, run (k, r, r), W_N), see network.pad")
    steps = LayerScales(*(step_size * s for s in layer_scales(scales)))
    layers = network.num_layers(params) if depth is None else depth
    block = _BLOCK if params[1].shape[-1] <= _NARROW else 1
    held = training.default_constrained(params)
    stored = params[1].shape[0]

    def one_step(params, step):
        params = _step(params, problem, steps, layers, block)
        return params, jnp.sum(params[0])

    def report(params, step):
        return training.measure(params, problem, step, held, depth=layers)

    def finish(params):
        return params[0], params[1][:stored], params[2]

    return training.Engine(_whole_blocks(params, block), one_step, report, finish)


def _whole_blocks(params: Params, block: int) -> Params:
    """The run filled up with identities to whole blocks."""
    first, run, last = params
    missing = -run.shape[0] % block if run.shape[0] else block
    identity = jnp.broadcast_to(jnp.eye(run.shape[-1], dtype=run.dtype), (missing, *run.shape[1:]))
    return first, jnp.concatenate([run, identity]), last


def _step(params: Params, problem, steps: LayerScales, depth: Count, block: int) -> Params:
    first, run, last = params
    blocks = (depth - 2 + block - 1) // block
    prefixes, prefix = _forward(run, blocks, block)
    frame = matmul(last, prefix)
    gradient = problem.product_gradient(matmul(frame, first))
    rows = matmul(first, transpose(gradient))  # Q_N, (r, d_N)
    tangent = stiefel.project_tangent(last, transpose(matmul(prefix, rows)))
    # identities that fill up the last block have no step
    active = jnp.arange(run.shape[0], dtype=jnp.int32) < depth - 2
    middle = jnp.where(active, steps.middle, 0)
    moved = _backward(run, prefixes, matmul(rows, last), middle.astype(run.dtype), blocks, block)
    return (
        first - steps.first * matmul(transpose(frame), gradient),
        moved,
        stiefel.retract_polar(last, -steps.last * tangent),
    )


def _forward(run: jax.Array, blocks: Count, block: int) -> tuple[jax.Array, jax.Array]:
    """The prefixes ``B_i`` of the run's layers, and the one behind it."""

    def body(j, carry):
        prefixes, prefix = carry
        layers, found = jax.lax.dynamic_slice_in_dim(run, j * block, block), []
        for i in range(block):
            found.append(prefix)
            prefix = matmul(layers[i], prefix)
        return jax.lax.dynamic_update_slice_in_dim(prefixes, jnp.stack(found), j * block, 0), prefix

    return jax.lax.fori_loop(0, blocks, body, (jnp.zeros_like(run), jnp.eye(run.shape[-1], dtype=run.dtype)))


def _backward(
    run: jax.Array, prefixes: jax.Array, rows: jax.Array, steps: jax.Array, blocks: Count, block: int
) -> jax.Array:
    """Every layer of the run moved by ``Retr(W_i, -mu_i W_i skew(W_i^T g_i))``, the last block first."""

    def body(j, carry):
        rows, moved = carry
        place = (blocks - 1 - j) * block
        layers = jax.lax.dynamic_slice_in_dim(run, place, block)
        before = jax.lax.dynamic_slice_in_dim(prefixes, place, block)
        found = []
        for i in reversed(range(block)):
            rows = matmul(rows, layers[i])
            found.append(rows)
        relative = skew(matmul(before, jnp.stack(found[::-1])))  # -skew(W_i^T g_i)
        size = jax.lax.dynamic_slice_in_dim(steps, place, block)[:, None, None]
        turned = stiefel.retract_polar(layers, size * matmul(layers, relative))
        return rows, jax.lax.dynamic_update_slice_in_dim(moved, turned, place, 0)

    return jax.lax.fori_loop(0, blocks, body, (rows, run))[1]
