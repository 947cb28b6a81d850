"""Starts: the layers a run begins from, and teachers whose product has a chosen spectrum.

``dims = (d_0, d_1, ..., d_N)``; every function returns a plain tuple of matrices, ``W_1`` first, and
``network.stack`` gathers equal square layers into runs. Layer i draws from ``fold_in(key, i)``, so a
layer's numbers depend on the key and its place alone, not on how many layers follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import DTypeLike

from dlnjax import network, stiefel
from dlnjax._linalg import matmul, transpose
from dlnjax._types import Params


def _check(dims: Sequence[int]) -> None:
    if len(dims) < 2 or any(int(d) != d or d < 1 for d in dims):
        raise ValueError(
            f"dims={tuple(dims)}; give the widths (d_0, ..., d_N), at least two positive integers"
        )


def _check_size(name: str, size: float | jax.Array, dtype: DTypeLike | None) -> None:
    """Refuses a size with which entries of a layer overflow, or with which those that count become 0."""
    if isinstance(size, Tracer):
        return
    kind = jnp.finfo(jnp.dtype(dtype or float))
    least, most = float(kind.tiny) / float(kind.eps), float(kind.max) / 16
    if not (float(size) == 0 or least <= float(size) <= most):
        raise ValueError(
            f"{name}={size}; give 0, or a number from {least:.2g} to {most:.2g} for {kind.dtype}"
        )


@partial(jax.jit, static_argnames=("sample", "shape", "dtype"))
def _batch(
    key: jax.Array, places: jax.Array, *, sample: Callable, shape: tuple[int, int], dtype
) -> jax.Array:
    return jax.vmap(lambda i: sample(jax.random.fold_in(key, i), shape, dtype))(places)


def _draw(key: jax.Array, dims: Sequence[int], sample: Callable, dtype) -> Params:
    """One sample a layer; layers of one shape are drawn in one batch, so that programs stay small."""
    shapes = [(dims[i + 1], dims[i]) for i in range(len(dims) - 1)]
    layers: dict[int, jax.Array] = {}
    for shape in dict.fromkeys(shapes):
        places = [i for i, s in enumerate(shapes) if s == shape]
        batch = _batch(key, jnp.array(places), sample=sample, shape=shape, dtype=jnp.dtype(dtype or float))
        layers.update({i: batch[j] for j, i in enumerate(places)})
    return tuple(layers[i] for i in range(len(shapes)))


def haar(
    key: jax.Array, dims: Sequence[int], first_scale: float = 1.0, dtype: DTypeLike | None = None
) -> Params:
    """Independent uniformly distributed orthonormal layers, the first multiplied by ``first_scale``.

    Args:
      key: PRNG key.
      dims: ``(d_0, ..., d_N)``.
      first_scale: the singular value of ``W_1``.
      dtype: a floating dtype; None is JAX's default.

    Raises:
      ValueError: dims that are none, or a scale that is negative or outside the dtype's range (as in every function
        here; traced values are not checked).
    """
    _check(dims)
    _check_size("first_scale", first_scale, dtype)
    first, *rest = _draw(key, dims, stiefel.random, dtype)
    return (first_scale * first, *rest)


def teacher(
    key: jax.Array, dims: Sequence[int], singular_values: Sequence[float], dtype: DTypeLike | None = None
) -> Params:
    """Orthonormal layers 2..N and a first layer, with a product of the given singular values.

    ``W_1 = A^+ P diag(s) V^T`` with ``A = W_N ... W_2``, P orthonormal in the range of A and V Haar.

    Args:
      key: PRNG key.
      dims: ``(d_0, ..., d_N)``.
      singular_values: positive, nonincreasing, rho of them, ``rho <= min(dims)``.

    Raises:
      ValueError: a rank that some width cannot carry, or singular values out of order.
    """
    _check(dims)
    values = jnp.asarray(singular_values, dtype or float)
    rho = len(singular_values)
    if rho > min(dims):
        raise ValueError(
            f"rank {rho} exceeds the narrowest width {min(dims)}; give at most {min(dims)} values"
        )
    if (
        rho == 0
        or not all(0 < s < float("inf") for s in singular_values)
        or list(singular_values) != sorted(singular_values)[::-1]
    ):
        raise ValueError(f"singular_values={list(singular_values)}; give positive, nonincreasing numbers")
    kind = jnp.finfo(values.dtype)
    if not (singular_values[-1] >= float(kind.tiny) and singular_values[0] <= float(kind.max)):
        raise ValueError(
            f"singular_values={list(singular_values)} are out of the range of {values.dtype}; rescale them, or "
            f"give dtype"
        )
    layers_key, left_key, right_key = jax.random.split(key, 3)
    rest = haar(layers_key, dims, 1.0, dtype)[1:]
    right = stiefel.random(right_key, (dims[0], rho), values.dtype)
    left = stiefel.random(left_key, (min(dims[1:]), rho), values.dtype)
    return (_first_layer(rest, dims[1:], left, values, right), *rest)


def _first_layer(rest: Params, widths: Sequence[int], left, values, right) -> jax.Array:
    """``W_1`` with ``W_N ... W_2 W_1 = P diag(s) V^T``.

    Where the widths only grow A is an isometry and ``W_1 = Q diag(s) V^T``; where they only shrink
    ``A A^T = I`` and ``W_1 = A^T P diag(s) V^T``; otherwise A's pseudo-inverse is needed.
    """
    core = matmul(left * values[None], transpose(right))
    if list(widths) == sorted(widths):
        return core
    chain = network.end_to_end(rest)
    if list(widths) == sorted(widths, reverse=True):
        return matmul(transpose(chain), core)
    _, singular, coordinates = jnp.linalg.svd(chain, full_matrices=False)
    narrow = left.shape[0]
    return matmul(transpose(coordinates[:narrow]) / singular[None, :narrow], core)


def perturb(key: jax.Array, params: Params, noise: float | jax.Array) -> Params:
    """``params`` plus Gaussian noise of this standard deviation an entry; layers behind the first re-projected.

    A run ``(k, d, d)`` gets independent noise in every layer.
    """
    _check_size("noise", noise, params[0].dtype)

    def noisy(i: int, leaf: jax.Array) -> jax.Array:
        return leaf + noise * jax.random.normal(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)

    first, *rest = (noisy(i, leaf) for i, leaf in enumerate(params))
    return (first, *(stiefel.project(leaf) for leaf in rest))


def gaussian(
    key: jax.Array, dims: Sequence[int], gain: float = 1.0, dtype: DTypeLike | None = None
) -> Params:
    """Independent normal layers, ``W_i`` with variance ``gain^2 / d_{i-1}`` an entry (LeCun scaling at gain 1)."""
    _check(dims)
    _check_size("gain", gain, dtype)
    layers = _draw(key, dims, jax.random.normal, dtype)
    return tuple(gain / layer.shape[1] ** 0.5 * layer for layer in layers)


def spectral(product: jax.Array, dims: Sequence[int]) -> Params:
    """The balanced factorisation of a product: ``W_{i+1}^T W_{i+1} = W_i W_i^T`` and ``W_N ... W_1 = product``.

    With ``product = U S V^T`` every layer carries ``S^{1/N}`` (Saxe, McClelland and Ganguli, 2013; Bah et al., 2022).

    Args:
      product: ``(d_N, d_0)``, of rank at most the narrowest width; of any other the layers carry the best product of
        that rank.
      dims: ``(d_0, ..., d_N)``.

    Raises:
      ValueError: a product of another shape, or one that is not finite (unless traced).
    """
    _check(dims)
    if product.shape != (dims[-1], dims[0]):
        raise ValueError(f"product has shape {product.shape}; dims ask for ({dims[-1]}, {dims[0]})")
    if not isinstance(product, Tracer) and not np.all(np.isfinite(np.asarray(product))):
        raise ValueError("product holds numbers that are not finite")
    layers = len(dims) - 1
    rank = min(dims)
    left, values, right = jnp.linalg.svd(product, full_matrices=False)
    root = values[:rank] ** (1 / layers)

    def embed(out: int, into: int) -> jax.Array:
        return jnp.zeros((out, into), product.dtype).at[jnp.arange(rank), jnp.arange(rank)].set(root)

    params = [embed(dims[i + 1], dims[i]) for i in range(layers)]
    params[-1] = matmul(left[:, :rank], params[-1][:rank])
    params[0] = matmul(params[0][:, :rank], right[:rank])
    return tuple(params)


def balanced(
    key: jax.Array, dims: Sequence[int], scale: float = 1.0, dtype: DTypeLike | None = None
) -> Params:
    """A random balanced start: the factorisation of a Gaussian product with entries of this standard deviation."""
    _check(dims)
    _check_size("scale", scale, dtype)
    product = scale * jax.random.normal(key, (dims[-1], dims[0]), dtype or float)
    return spectral(product, dims)


def identity(dims: Sequence[int], scale: float = 1.0, dtype: DTypeLike | None = None) -> Params:
    """Every layer ``scale`` times the (rectangular) identity."""
    _check(dims)
    _check_size("scale", scale, dtype)
    return tuple(scale * jnp.eye(dims[i + 1], dims[i], dtype=dtype or float) for i in range(len(dims) - 1))
