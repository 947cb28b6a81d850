"""The layers of a cell: which are free, how they are stored, a solution they head for, and where they start.

Solutions are made on the host in double precision: any widths, any free layer. The layers in front of the free one
carry the target's right singular vectors, those behind it the left ones, and the free layer the singular values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import initial, stiefel
from dlnjax._types import Params, Scales
from dlnjax.reduced import LayerScales
from dlnjax.sweep.config import registry, user_functions
from dlnjax.sweep.config.cell import Cell

#: An orthonormal start of the user's may be off by this (Frobenius norm).
_OFF = 1e-4

A = TypeVar("A", jax.Array, np.ndarray)


class Shape(NamedTuple):
    """What the layers of a cell look like, all of it static.

    Attributes:
      dims: ``(d_0, ..., d_N)``.
      pace: a layer's kind of step scale (``words.pace``).
      held: which layers stay orthonormal.
      runs: ``(first, length)`` of each leaf: equal square layers of one kind behind the first are one run.
    """

    dims: tuple[int, ...]
    pace: tuple[int, ...]
    held: tuple[bool, ...]
    runs: tuple[tuple[int, int], ...]

    @property
    def free(self) -> int:
        """The layer that carries the singular values; the first where none or all are free."""
        return self.pace.index(0) if 0 in self.pace else 0

    @property
    def constrained(self) -> tuple[bool, ...]:
        """One flag a leaf."""
        return tuple(self.held[first] for first, _ in self.runs)


def shape(cell: Cell, input_dim: int, output_dim: int, plain: bool) -> Shape:
    """The shape of a cell's layers; ``plain`` stores every layer by itself, as a user's function expects them."""
    dims = registry.widths(cell.profile, cell.width, cell.depth, input_dim, output_dim)
    held = registry.held(cell.optimizer, cell.free, cell.depth)
    runs: list[tuple[int, int]] = []
    for i in range(cell.depth):
        before = runs[-1][0] if runs else 0
        alike = before > 0 and dims[before : before + 2] == dims[i : i + 2] and held[before] == held[i]
        if alike and not plain and dims[i] == dims[i + 1]:
            runs[-1] = (before, runs[-1][1] + 1)
        else:
            runs.append((i, 1))
    return Shape(dims, registry.pace(cell.free, cell.depth), held, tuple(runs))


def stored(layers: Sequence[jax.Array | np.ndarray], form: Shape, room: int = 0) -> Params:
    """N layers as leaves: a run where the shape says so. A square layer alone stays a matrix.

    With ``room`` for that many layers they are ``(W_1, run, W_N)``, the run filled up with identities.
    """
    if room:
        first, *middle, last = (jnp.asarray(layer) for layer in layers)
        width = first.shape[-2]
        fill = jnp.broadcast_to(jnp.eye(width, dtype=first.dtype), (len(first), width, width))
        run = jnp.stack([*middle, *[fill] * (max(room, 3) - len(layers))], -3)
        return (first, run, last)
    return tuple(
        jnp.stack(layers[first : first + length], -3) if length > 1 else jnp.asarray(layers[first])
        for first, length in form.runs
    )


def scale_tree(scales: LayerScales, form: Shape) -> Scales:
    """One multiplier a layer, in the params' structure: 1 of a free layer, ``middle`` and ``last`` of the others."""
    each = [scales[kind] for kind in form.pace]
    return tuple(
        jnp.stack(each[first : first + length]) if length > 1 else each[first] for first, length in form.runs
    )


def matrices(leaves: Sequence[A], depth: int) -> list[A]:
    """The N layers of leaves with B in front, without those that only fill a run up."""
    each = [
        w
        for leaf in leaves
        for w in ([leaf[:, k] for k in range(leaf.shape[1])] if leaf.ndim == 4 else [leaf])
    ]
    return [*each[: depth - 1], each[-1]]


def solution(target: np.ndarray, layers: Sequence[np.ndarray], free: int) -> list[np.ndarray]:
    """Layers with the product ``target``, orthonormal but for one.

    Args:
      target: ``(B, d_N, d_0)``, of rank at most the narrowest width.
      layers: orthonormal, B in front; the ends of the two chains around the free layer are turned, no more.
      free: place of the layer that carries the singular values.
    """
    solved = [np.asarray(layer, np.float64) for layer in layers]
    left, values, right = np.linalg.svd(target)
    narrow = min(
        size for layer in solved for size in layer.shape[1:]
    )  # rounding in single precision adds rank
    rank = min(narrow, int(np.max(np.sum(values > 1e-10 * values[:, :1], axis=1))))
    core = values[:, :rank, None] * np.eye(rank)
    behind, front = solved[free + 1 :], solved[:free]
    if behind:
        u, s, v = np.linalg.svd(_product(behind))
        solved[-1] = left @ np.swapaxes(u, 1, 2) @ solved[-1]
        core = np.swapaxes(v, 1, 2)[:, :, :rank] / s[:, None, :rank] @ core
    else:
        core = left[:, :, :rank] @ core
    if front:
        u, s, v = np.linalg.svd(_product(front))
        solved[0] = solved[0] @ np.swapaxes(v, 1, 2) @ right
        core = core / s[:, None, :rank] @ np.swapaxes(u, 1, 2)[:, :rank]
    else:
        core = core @ right[:, :rank]
    solved[free] = core
    return solved


def _product(layers: Sequence[np.ndarray]) -> np.ndarray:
    product = layers[0]
    for layer in layers[1:]:
        product = layer @ product
    return product


def normal(keys: jax.Array, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """Standard normal matrices of these shapes, B in front, in double precision on the host.

    Matrix i draws from ``fold_in(key, i)``: it depends on the key, its place and its size alone.
    """
    drawn: dict[int, np.ndarray] = {}
    for size in {rows * columns for rows, columns in shapes}:
        places = [i for i, (rows, columns) in enumerate(shapes) if rows * columns == size]
        normals = np.asarray(_normal(keys, jnp.array(places, jnp.int32), size), np.float64)
        drawn |= {i: normals[:, at].reshape(-1, *shapes[i]) for at, i in enumerate(places)}
    return [drawn[i] for i in range(len(shapes))]


@partial(jax.jit, static_argnames="size")
def _normal(keys: jax.Array, places: jax.Array, size: int) -> jax.Array:
    def one(key, place):
        return jax.random.normal(jax.random.fold_in(key, place), (size,))

    return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(keys, places)


def haar(keys: jax.Array, dims: Sequence[int]) -> list[np.ndarray]:
    """Uniformly distributed orthonormal layers, B in front: the polar factors of normal ones."""
    return [polar(layer) for layer in normal(keys, _sizes(dims))]


def _sizes(dims: Sequence[int]) -> list[tuple[int, int]]:
    return [(dims[i + 1], dims[i]) for i in range(len(dims) - 1)]


def begin(
    cell: Cell,
    form: Shape,
    keys: jax.Array,
    solved: Sequence[np.ndarray] | None,
    norm: np.ndarray,
    numbers: tuple[float, float],
    part: user_functions.UserFunction | None,
) -> list[jax.Array]:
    """The N layers that the cells start from, B in front.

    Args:
      cell: any of them: they share the start.
      keys: ``(B,)``.
      solved: the solution, for ``near``.
      norm: ``(B,)`` the spectral norm of the free layer at the solution.
      numbers: ``distance`` and ``first_scale``.
      part: the user's own start.
    """
    dtype = jnp.dtype(cell.precision)
    if part is not None:
        return _own(part, form, keys, dtype)
    if cell.start == "near":
        assert solved is not None, "near is refused without a solution"
        return _near(form, keys, solved, norm, numbers[0] / cell.depth, dtype)
    sizes = numbers[1] * norm[:, None, None]
    if cell.start == "balanced":
        ends = (form.dims[-1], form.dims[0])
        product = sizes / sum(d**0.5 for d in ends) * normal(keys, [ends])[0]  # of about this spectral norm
        return list(_spectral(jnp.asarray(product, dtype), form.dims))
    start = _STARTS[cell.start](keys, form.dims)
    if not form.held[form.free]:
        start[form.free] = sizes * start[form.free]
    return [jnp.asarray(layer, dtype) for layer in start]


@partial(jax.jit, static_argnames="dims")
def _spectral(product: jax.Array, dims: tuple[int, ...]) -> Params:
    return jax.vmap(lambda p: initial.spectral(p, dims))(product)


def _gaussian(keys: jax.Array, dims: Sequence[int]) -> list[np.ndarray]:
    """Variance ``1/d_{i-1}`` an entry, as ``initial.gaussian``."""
    return [layer / layer.shape[2] ** 0.5 for layer in normal(keys, _sizes(dims))]


def _identity(keys: jax.Array, dims: Sequence[int]) -> list[np.ndarray]:
    return [np.broadcast_to(np.eye(*size), (len(keys), *size)) for size in _sizes(dims)]


_STARTS: dict[str, Callable[..., list[np.ndarray]]] = {
    "haar": haar,
    "gaussian": _gaussian,
    "identity": _identity,
}


def _near(form: Shape, keys, solved, norm: np.ndarray, distance: float, dtype) -> list[jax.Array]:
    """The solution plus noise of total Frobenius norm ``distance`` (of the free layer in units of its norm)."""
    noise = normal(keys, _sizes(form.dims))
    total = np.sqrt(sum(np.sum(np.square(x), axis=(1, 2), keepdims=True) for x in noise))
    layers = []
    for i, (layer, x) in enumerate(zip(solved, noise, strict=True)):
        loose = i == form.free
        moved = layer + distance * x / total * (norm[:, None, None] if loose else 1.0)
        layers.append(jnp.asarray(moved if loose and not form.held[i] else polar(moved), dtype))
    return layers


def polar(matrices: np.ndarray) -> np.ndarray:
    """The polar factors, over leading axes."""
    left, _, right = np.linalg.svd(matrices, full_matrices=False)
    return left @ right


def _own(part: user_functions.UserFunction, form: Shape, keys: jax.Array, dtype) -> list[jax.Array]:
    shapes = _sizes(form.dims)
    wanted = f"a tuple of matrices of shapes {shapes}, W_1 first"
    draws = []
    for key in keys:
        matrices = user_functions.call("start", part, f"a function (key, dims) -> {wanted}", key, form.dims)
        if not isinstance(matrices, list | tuple) or len(matrices) != len(shapes):
            count = f" of {len(matrices)}" if hasattr(matrices, "__len__") else ""
            raise user_functions.refuse("start", part, f"a {type(matrices).__name__}{count}", wanted)
        draws.append([_matrix(part, i, w, shapes[i], form.held[i], dtype) for i, w in enumerate(matrices)])
    return [jnp.stack(layer) for layer in zip(*draws, strict=True)]


def _matrix(
    part: user_functions.UserFunction, i: int, matrix: Any, size: tuple[int, int], held: bool, dtype
) -> jax.Array:
    """One layer of a user's start, checked."""
    if not hasattr(matrix, "shape") or tuple(matrix.shape) != size:
        got = f"shape {tuple(matrix.shape)}" if hasattr(matrix, "shape") else f"a {type(matrix).__name__}"
        raise user_functions.refuse("start", part, f"{got} for W_{i + 1}", f"an array of shape {size}")
    if not jnp.issubdtype(matrix.dtype, jnp.floating):
        raise user_functions.refuse(
            "start", part, f"a matrix of {matrix.dtype} for W_{i + 1}", "floating point numbers"
        )
    array = jnp.asarray(matrix, dtype)
    error = float(stiefel.orthonormality_error(array)) if held else 0.0
    if not error <= _OFF:
        raise user_functions.refuse(
            "start", part, f"W_{i + 1} off from orthonormal by {error:.2g}",
            'stiefel.project(W), free "all", or an optimizer without constraints',
        )  # fmt: skip
    return array
