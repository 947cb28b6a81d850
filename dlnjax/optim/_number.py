"""Numbers that a caller gives: Python's, numpy's, or arrays of JAX, checked once and in one way."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from dlnjax._types import PyTree

#: A Python or numpy number, or a scalar array, which may be traced.
Number = float | jax.Array


def number(name: str, value: object) -> Number:
    """``value`` as a Python float, or as it is if it is an array of JAX.

    Raises:
      TypeError: no real number. ValueError: more than one.
    """
    shape = getattr(value, "shape", ())
    if shape != ():
        raise ValueError(f"{name} has shape {shape}; give one number")
    if isinstance(value, jax.Array):
        return value
    real = isinstance(value, (int, float, np.number, np.ndarray)) and not isinstance(value, (bool, np.bool_))
    if not real or np.asarray(value).dtype.kind not in "iuf":
        raise TypeError(f"{name} is {value!r}; give a number or a scalar array")
    return float(np.asarray(value))


def is_known(value: object) -> bool:
    """Whether the value can be looked at: a traced one is the caller's to check."""
    return isinstance(value, float)


def own(value: Number | np.ndarray | np.number, dtype: DTypeLike | None = None) -> jax.Array:
    """The number as an array of its own: a state that is donated takes no array of the caller's with it."""
    if dtype is None:
        given = value.dtype if isinstance(value, jax.Array) else None
        floating = given is not None and jnp.issubdtype(given, jnp.floating)
        dtype = jax.dtypes.canonicalize_dtype(given if floating else float)
    return jnp.array(value, dtype, copy=True)


def start_of(value: Number, params: PyTree, dtype: DTypeLike) -> jax.Array:
    """A state's first number, which varies over the devices as the params do (``shard_map`` looks at the types)."""
    leaves = [leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array)]
    zero = sum((jnp.sum(jnp.zeros_like(leaf, jnp.int32), dtype=jnp.int32) for leaf in leaves), jnp.int32(0))
    first = own(value, dtype)
    return jnp.where(zero == 0, first, first)


def cast(value: Number, like: jax.Array) -> jax.Array:
    """A number in the dtype of a leaf, so that nothing promotes."""
    return jnp.asarray(value).astype(like.dtype)


def check_decay(name: str, value: object) -> Number:
    """A decay in [0, 1)."""
    decay = number(name, value)
    if is_known(decay) and not 0 <= decay < 1:
        raise ValueError(f"{name} is {decay}; it must lie in [0, 1)")
    return decay


def check_rounded(name: str, decay: Number, like: jax.Array) -> None:
    """Refuse a decay that is 1 in the dtype it is computed in: an average with it would never begin."""
    if is_known(decay) and float(np.asarray(decay, jnp.finfo(like.dtype).dtype)) == 1:
        raise ValueError(f"{name} is {decay!r}, which {like.dtype} rounds to 1; give a smaller one")
