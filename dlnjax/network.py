"""Deep linear networks as tuples of layers: their product, its pullback, and how layers are stored.

Layers are ``W_1, ..., W_N`` with ``W_1`` first, ``W_i`` of shape ``(d_i, d_{i-1})``; the network is the
product ``W = W_N ... W_1``. Equal square layers behind the first can be stored as one *run* of shape
``(k, d, d)``: programs then loop over the run instead of unrolling it, and a traced ``depth`` can say
how many of its layers take part, so that one compiled program serves every depth. A depth that is known when the
program is built is checked; a traced one cannot be, except under ``jax.experimental.checkify``: it must lie between
the layers outside the run and all layers stored, or other layers are used than were meant.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.experimental import checkify

from dlnjax._linalg import matmul, transpose
from dlnjax._types import Count, Layers, Params

Activation = Callable[[jax.Array], jax.Array]
Pullback = Callable[[jax.Array], Params]


def _arrays(params: Layers) -> Params:
    """Layers as JAX arrays: a loop over a run indexes it by a traced number, which numpy arrays refuse."""
    return tuple(map(jnp.asarray, params))


def _length(leaf: jax.Array | np.ndarray) -> int:
    return leaf.shape[0] if leaf.ndim == 3 else 1


def num_layers(params: Layers) -> int:
    """The number of layers stored, each layer of a run counted.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import network
      >>> network.num_layers((jnp.ones((2, 5)), jnp.ones((4, 2, 2)), jnp.ones((3, 2))))  # a run of four
      6
    """
    return sum(_length(leaf) for leaf in params)


def dims(params: Layers) -> tuple[int, ...]:
    """Widths ``(d_0, d_1, ..., d_N)`` of the layers, checked to fit one another.

    Raises:
      ValueError: a layer that is no matrix or run of square matrices, or does not fit the one before it; a run in
        the place of ``W_1``, which stands by itself.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import network
      >>> network.dims((jnp.ones((2, 5)), jnp.ones((3, 2))))
      (5, 2, 3)
    """
    if not params:
        raise ValueError("params is empty; a network has at least one layer")
    if params[0].ndim == 3:
        raise ValueError(
            f"params[0] has shape {params[0].shape}; W_1 is a matrix (d_1, d_0), runs come behind it"
        )
    widths = [params[0].shape[-1]]
    for i, leaf in enumerate(params):
        if leaf.ndim not in (2, 3) or (leaf.ndim == 3 and leaf.shape[-2] != leaf.shape[-1]):
            raise ValueError(f"params[{i}] has shape {leaf.shape}; give (d_i, d_(i-1)) or a run (k, d, d)")
        if leaf.shape[-1] != widths[-1]:
            raise ValueError(
                f"params[{i}] has shape {leaf.shape} but the layer before it has {widths[-1]} outputs; "
                f"its last axis must be {widths[-1]}"
            )
        widths += [leaf.shape[-2]] * _length(leaf)
    return tuple(widths)


def _active(params: Params, depth: Count | None) -> list[Count]:
    """How many layers of each leaf take part: all, but of the one run as many as ``depth`` leaves over."""
    lengths: list[Count] = [_length(leaf) for leaf in params]
    if depth is None:
        return lengths
    runs = [i for i, leaf in enumerate(params) if leaf.ndim == 3]
    if len(runs) != 1:
        raise ValueError(
            f"depth needs params with exactly one run (k, d, d), got {len(runs)}; see network.pad"
        )
    stored = num_layers(params)
    outside = stored - _length(params[runs[0]])
    depth = checked_depth(depth, outside, stored)
    lengths[runs[0]] = depth - outside
    return lengths


def checked_depth(depth: Count, least: int, most: int) -> Count:
    """A number of layers between ``least`` and ``most``: refused if it is another, under checkify where it is traced.

    Raises:
      ValueError: a depth known now that is no integer or outside.

    Example:
      >>> from dlnjax import network
      >>> network.checked_depth(4, 2, 6)
      4
    """
    if isinstance(depth, Tracer):
        text = f"depth={{depth}} is not between {least} and {most}, the layers stored"
        checkify.debug_check(jnp.all((depth >= least) & (depth <= most)), text, depth=depth)
        return depth
    try:
        known = operator.index(depth)
    except TypeError:
        raise ValueError(f"depth={depth!r}; give an integer from {least} to {most}") from None
    if not least <= known <= most:
        raise ValueError(
            f"depth={known}; these params hold {least} to {most} layers: give a depth among them, or pad to more"
        )
    return known


def _loop(active: Count, body: Callable, carry, reverse: bool = False):
    """``body(i, carry)`` for i in range(active); a scan (hence differentiable both ways) when static."""
    if reverse:
        return jax.lax.fori_loop(0, active, lambda i, c: body(active - 1 - i, c), carry)
    return jax.lax.fori_loop(0, active, body, carry)


def end_to_end(params: Layers, depth: Count | None = None) -> jax.Array:
    """The product ``W = W_N ... W_1`` of shape ``(d_N, d_0)``.

    The products are taken from the side whose outer width is the smaller, which on data
    (``d_0`` much larger than ``d_N``) saves the factor ``d_0 / d_N``.

    Args:
      params: layers or runs, ``W_1`` first.
      depth: a traced or static number of layers, from those outside the run to all; of the one run only the first
        ``depth - (layers outside the run)`` then take part. None: all.

    Raises:
      ValueError: a static depth that is no integer or outside this range, or params without exactly one run.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import network
      >>> layers = network.pad((2 * jnp.eye(3), 3 * jnp.eye(3)), depth=6)  # four identities between them
      >>> float(network.end_to_end(layers, depth=4)[0, 0])
      6.0
    """
    params = _arrays(params)
    widths = dims(params)
    active = _active(params, depth)
    if widths[-1] < widths[0]:
        product = params[-1] if params[-1].ndim == 2 else jnp.eye(widths[-1], dtype=params[-1].dtype)
        rest = list(zip(params, active, strict=True))[: -1 if params[-1].ndim == 2 else None]
        for leaf, count in reversed(rest):
            product = _times_run(product, leaf, count) if leaf.ndim == 3 else matmul(product, leaf)
        return product
    product = params[0]
    for leaf, count in list(zip(params, active, strict=True))[1:]:
        product = _run_times(leaf, product, count) if leaf.ndim == 3 else matmul(leaf, product)
    return product


def _run_times(run: jax.Array, x: jax.Array, active: Count) -> jax.Array:
    if not run.shape[0]:
        return x
    return _loop(active, lambda i, c: matmul(run[i], c), x)


def _times_run(x: jax.Array, run: jax.Array, active: Count) -> jax.Array:
    if not run.shape[0]:
        return x
    return _loop(active, lambda i, c: matmul(c, run[i]), x, reverse=True)


def vjp(params: Layers, depth: Count | None = None) -> tuple[jax.Array, Pullback]:
    r"""The product and the map from ``G = dL/dW`` to the layer gradients, sharing one forward pass.

    With ``A_i = W_N ... W_{i+1}`` and ``B_i = W_{i-1} ... W_1`` the gradients are
    :math:`g_i = A_i^T G B_i^T` (Qin, Tan and Zhu, 2024; derived again here). They are
    formed as ``g_i = (B'_i Q_i)^T`` with the prefix ``B'_i = W_{i-1} ... W_2`` and the rows
    ``Q_i = (W_1 G^T) A_i``: three products a layer, none with a transposed operand, none of width ``d_0``.

    Args:
      params: layers or runs, ``W_1`` first.
      depth: as in :func:`end_to_end`; layers that take no part get a gradient of exactly zero.

    Returns:
      ``(product, pullback)``, the product ``(d_N, d_0)`` and ``pullback(G) -> gradients`` in params' structure.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import network
      >>> product, pullback = network.vjp((jnp.array([[2.0]]), jnp.array([[3.0]])))
      >>> product.item(), [g.item() for g in pullback(jnp.array([[1.0]]))]  # d(w2 w1) = w2, w1
      (6.0, [3.0, 2.0])
    """
    params = _arrays(params)
    dims(params)
    first, rest, active = params[0], params[1:], _active(params, depth)[1:]
    prefix = jnp.eye(first.shape[0], dtype=first.dtype)
    prefixes = []  # B'_i of every layer behind the first, stacked along a run
    for leaf, count in zip(rest, active, strict=True):
        before, prefix = _prefixes(leaf, prefix, count)
        prefixes.append(before)

    def pullback(gradient: jax.Array) -> Params:
        rows = matmul(first, transpose(gradient))
        gradients = []
        for leaf, before, count in reversed(list(zip(rest, prefixes, active, strict=True))):
            layer_gradient, rows = _backward(leaf, before, rows, count)
            gradients.append(layer_gradient)
        return (matmul(transpose(prefix), gradient), *reversed(gradients))

    return matmul(prefix, first), pullback


def _prefixes(leaf: jax.Array, prefix: jax.Array, active: Count) -> tuple[jax.Array, jax.Array]:
    """The prefix in front of each layer of a leaf, and the prefix behind it."""
    if leaf.ndim == 2:
        return prefix, matmul(leaf, prefix)
    if not leaf.shape[0]:
        return jnp.zeros((0, *prefix.shape), prefix.dtype), prefix
    buffer = jnp.zeros((leaf.shape[0], *prefix.shape), prefix.dtype)

    def body(i, carry):
        buffer, prefix = carry
        return jax.lax.dynamic_update_index_in_dim(buffer, prefix, i, 0), matmul(leaf[i], prefix)

    return _loop(active, body, (buffer, prefix))


def _backward(
    leaf: jax.Array, before: jax.Array, rows: jax.Array, active: Count
) -> tuple[jax.Array, jax.Array]:
    """The gradients ``(B' Q)^T`` of a leaf's layers, and the rows ``Q W`` in front of it."""
    if leaf.ndim == 2:
        return transpose(matmul(before, rows)), matmul(rows, leaf)
    if not leaf.shape[0]:
        return leaf, rows
    buffer = jnp.zeros_like(leaf)

    def body(i, carry):
        buffer, rows = carry
        layer_gradient = transpose(matmul(before[i], rows))
        return jax.lax.dynamic_update_index_in_dim(buffer, layer_gradient, i, 0), matmul(rows, leaf[i])

    return _loop(active, body, (buffer, rows), reverse=True)


def layer_gradients(params: Layers, gradient: jax.Array | np.ndarray, depth: Count | None = None) -> Params:
    """The layer gradients ``g_i = A_i^T G B_i^T`` for a product gradient ``G`` of shape ``(d_N, d_0)``.

    Args:
      params: layers or runs, ``W_1`` first.
      gradient: ``G = dL/dW`` at the product, ``(d_N, d_0)``.
      depth: as in :func:`end_to_end`.

    Raises:
      ValueError: a gradient that has not the product's shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import network
      >>> first, last = network.layer_gradients((jnp.eye(2, 3), jnp.ones((1, 2))), jnp.ones((1, 3)))
      >>> first.tolist(), last.tolist()
      ([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [[1.0, 1.0]])
    """
    params, gradient = _arrays(params), jnp.asarray(gradient)
    widths = dims(params)
    if gradient.shape != (widths[-1], widths[0]):
        raise ValueError(
            f"gradient has shape {gradient.shape}; the product has ({widths[-1]}, {widths[0]}): "
            "give dL/dW of that shape"
        )
    return vjp(params, depth)[1](gradient)


def forward(params: Layers, x: jax.Array | np.ndarray, activation: Activation | None = None) -> jax.Array:
    """Outputs ``W_N phi(W_{N-1} ... phi(W_1 x))``: every layer but the last is activated.

    Args:
      params: layers or runs, ``W_1`` first.
      x: ``(d_0, n)``, one input a column.
      activation: elementwise ``phi``; None is the linear network.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from dlnjax import network
      >>> params, x = (-jnp.eye(2), jnp.ones((1, 2))), jnp.array([[3.0], [-1.0]])
      >>> [network.forward(params, x, phi).item() for phi in (None, jax.nn.relu)]
      [-2.0, 1.0]
    """
    params, x = _arrays(params), jnp.asarray(x)
    dims(params)
    phi = activation if activation is not None else (lambda z: z)
    layers = [leaf for leaf in params if leaf.shape[0]]
    last = layers.pop()
    for leaf in layers:
        x = phi(matmul(leaf, x)) if leaf.ndim == 2 else _activated(leaf, x, phi)
    if last.ndim == 2:
        return matmul(last, x)
    return matmul(last[-1], _activated(last[:-1], x, phi))


def _activated(run: jax.Array, x: jax.Array, phi: Activation) -> jax.Array:
    return jax.lax.scan(lambda c, w: (phi(matmul(w, c)), None), x, run)[0]


def stack(params: Layers) -> Params:
    """Consecutive equal square layers behind the first, gathered into runs ``(k, d, d)``.

    ``W_1`` always stays by itself: it is the layer that is left free.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import network
      >>> [leaf.shape for leaf in network.stack((jnp.ones((2, 5)), *[jnp.eye(2)] * 3, jnp.ones((1, 2))))]
      [(2, 5), (3, 2, 2), (1, 2)]
    """
    params = _arrays(params)
    grouped: list[jax.Array] = [params[0]]
    for leaf in params[1:]:
        run = leaf[None] if leaf.ndim == 2 and leaf.shape[0] == leaf.shape[1] else leaf
        last = grouped[-1]
        if run.ndim == 3 and last.ndim == 3 and last.shape[1:] == run.shape[1:]:
            grouped[-1] = jnp.concatenate([last, run])
        else:
            grouped.append(run)
    return tuple(grouped)


def unstack(params: Layers) -> Params:
    """Every run taken apart into its layers: a tuple of N matrices.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import network
      >>> [leaf.shape for leaf in network.unstack((jnp.ones((2, 5)), jnp.ones((2, 2, 2))))]
      [(2, 5), (2, 2), (2, 2)]
    """

    def layers(leaf: jax.Array) -> Iterable[jax.Array]:
        return (leaf[i] for i in range(leaf.shape[0])) if leaf.ndim == 3 else (leaf,)

    return tuple(layer for leaf in _arrays(params) for layer in layers(leaf))


def pad(params: Layers, depth: int) -> Params:
    """Params with identity layers put at the end of the run behind ``W_1``, up to ``depth`` layers.

    The product is unchanged. The identity layers are exactly inert when their scale is 0, or when a
    run is trained with the traced ``depth`` of the layers that count.

    Args:
      params: layers or runs, ``W_1`` first, with at most one run once stacked.
      depth: layers to store. Where none is missing and none is square, the run is there with no layer in it,
        ``(0, d, d)``: programs for padded params then have one form.

    Raises:
      ValueError: more layers than ``depth``, a depth that is no integer, or several runs.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import network
      >>> [leaf.shape for leaf in network.pad((jnp.ones((2, 3)), jnp.ones((4, 2))), depth=5)]
      [(2, 3), (3, 2, 2), (4, 2)]
    """
    dims(params)
    params = stack(params)
    try:
        depth = operator.index(depth)
    except TypeError:
        raise ValueError(f"depth={depth!r}; pad needs an integer known when the program is built") from None
    missing = depth - num_layers(params)
    runs = [i for i, leaf in enumerate(params) if leaf.ndim == 3]
    if missing < 0:
        raise ValueError(
            f"depth={depth} is below the {num_layers(params)} layers given; pad only adds layers"
        )
    if len(runs) > 1:
        raise ValueError(f"params has {len(runs)} runs of square layers; pad needs equal hidden widths")
    place = runs[0] if runs else 1
    width = params[place].shape[-1] if runs else params[0].shape[0]
    identity = jnp.broadcast_to(jnp.eye(width, dtype=params[0].dtype), (missing, width, width))
    run = jnp.concatenate([params[place], identity]) if runs else identity
    return (*params[:place], run, *params[place + bool(runs) :])
