"""What counts as a point: the checks every function of the package makes, and the tall view of a wide matrix.

A wide matrix is a point when its transpose is, so each formula is written once and carried over by
transposing: the wide result equals the transposed tall one exactly. Formulas that mean the same for a square
matrix from either side are written for rows (:func:`by_rows`), since on a CPU ``Y Y^T`` is faster than
``Y^T Y``; the others for columns (:func:`by_columns`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import signature

import jax
import jax.numpy as jnp
from jax import lax

from dlnjax._linalg import adjoint, matmul
from dlnjax._types import PyTree


def check_matrix(name: str, matrix: jax.Array) -> None:
    """Refuse what cannot hold orthonormal columns: fewer than two axes, an empty matrix, integers.

    The dtypes: float32, float64, complex64, complex128, and bfloat16 and float16 through :func:`widened`.
    """
    if not hasattr(matrix, "dtype") or not hasattr(matrix, "shape"):
        raise TypeError(f"{name} must be an array, got {type(matrix).__name__}; wrap it in jnp.asarray")
    if not jnp.issubdtype(matrix.dtype, jnp.inexact):
        raise TypeError(
            f"{name} has dtype {matrix.dtype}; orthonormal matrices need a floating or complex dtype"
        )
    if len(matrix.shape) < 2:
        raise ValueError(
            f"{name} has shape {matrix.shape}; a matrix (..., n, p) with two or more axes is needed"
        )
    if 0 in matrix.shape[-2:]:
        raise ValueError(f"{name} has shape {matrix.shape}; a point needs at least one row and one column")


def check_pair(point: jax.Array, vector: jax.Array, name: str = "tangent") -> None:
    """Refuse a vector that cannot live at the point: another shape or another dtype."""
    check_matrix("point", point)
    check_matrix(name, vector)
    if point.shape != vector.shape:
        raise ValueError(
            f"point has shape {point.shape} but {name} has shape {vector.shape}; they must be equal"
        )
    if point.dtype != vector.dtype:
        raise TypeError(
            f"point has dtype {point.dtype} but {name} has dtype {vector.dtype}; cast one of them"
        )


def widened(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Compute in float32 what is given in 16 bits, and round every result of a floating dtype once.

    The numbers among the arguments stay as they are.
    """

    @functools.wraps(function)
    def wide(*args: PyTree, **kwargs: object) -> PyTree:
        narrow = next((a.dtype for a in args if _is_narrow(a)), None)
        if narrow is None:
            return function(*args, **kwargs)
        out = function(*(a.astype(jnp.float32) if _is_narrow(a) else a for a in args), **kwargs)
        return jax.tree.map(lambda x: x.astype(narrow) if jnp.issubdtype(x.dtype, jnp.floating) else x, out)

    return wide


def _is_narrow(array: object) -> bool:
    dtype = getattr(array, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def is_wide(matrix: jax.Array) -> bool:
    """More columns than rows; a square matrix counts as tall."""
    return matrix.shape[-1] > matrix.shape[-2]


def is_tall(matrix: jax.Array) -> bool:
    """More rows than columns."""
    return matrix.shape[-1] < matrix.shape[-2]


def _lifted(
    function: Callable[..., jax.Array], other_side: Callable[[jax.Array], bool]
) -> Callable[..., jax.Array]:
    static = ("metric",) if "metric" in signature(function).parameters else ()
    jitted = widened(jax.jit(function, static_argnames=static))

    @functools.wraps(function)
    def lifted(point: jax.Array, vector: jax.Array, *args: object, **kwargs: object) -> jax.Array:
        check_pair(point, vector)
        if other_side(point):
            return adjoint(jitted(adjoint(point), adjoint(vector), *args, **kwargs))
        return jitted(point, vector, *args, **kwargs)

    return lifted


def by_columns(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Lift ``f(point, vector, ...)``, written for tall matrices, to all shapes; inputs are checked."""
    return _lifted(function, is_wide)


def by_rows(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Lift ``f(point, vector, ...)``, written for wide and square matrices, to all shapes; inputs are checked."""
    return _lifted(function, is_tall)


def identity_like(square: jax.Array) -> jax.Array:
    """The identity in the shape and dtype of a batch of square matrices (no rank promotion).

    The zero makes it vary over a mesh as they do, by type: inside ``shard_map`` loops begin with it.
    """
    identity = jnp.broadcast_to(jnp.eye(square.shape[-1], dtype=square.dtype), square.shape)
    return identity + jnp.zeros_like(square)


def gram(matrix: jax.Array) -> jax.Array:
    """``Y Y^T``."""
    return matmul(matrix, adjoint(matrix))


def once(condition: jax.Array, function: Callable[[PyTree], PyTree], state: PyTree) -> PyTree:
    """``function(state)`` if the scalar condition holds, else ``state``: a loop of at most one turn.

    Unlike ``cond`` it stays a branch under vmap, so that the rare case costs nothing while it does not occur.
    """
    return lax.while_loop(
        lambda c: c[0], lambda c: (jnp.zeros_like(c[0]), function(c[1])), (condition, state)
    )[1]


def batch_as_axis(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Make vmap add a leading batch axis to every argument instead of batching the loops inside.

    ``function`` must accept any leading axes, the same for all arguments (a number that a batch
    shares stays one). Its loops then keep scalar conditions (the worst matrix decides), and need no masks.
    Jitted, so that eager calls compile once a shape.
    """
    wrapped = jax.custom_batching.custom_vmap(function)

    @wrapped.def_vmap
    def rule(axis_size, in_batched, *args):
        args = [
            a if batched or jnp.ndim(a) == 0 else jnp.broadcast_to(a, (axis_size, *a.shape))
            for a, batched in zip(args, in_batched, strict=True)
        ]
        out = wrapped(*args)
        return out, jax.tree.map(lambda _: True, out)

    return jax.jit(wrapped)
