"""Dictionaries D, dense, convolutional or joint: ``synthesize`` is D x, ``analyze`` D^T y, batch axes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from dlnjax import stiefel
from dlnjax._linalg import matmul, transpose

#: Largest deviation of an atom's norm from 1, in roundings, and most projections to a tight frame: 1000 are rare.
_ROUNDINGS, _ROUNDS = 1000, 20_000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dictionary:
    """Signals ``(..., *size, channels)`` and codes ``(..., *positions, atoms)``, position by stride; for :func:`dense`
    ones there is no size and one position. Its columns, the atoms, have norm 1."""

    kernel: jax.Array  # (*width, channels, atoms)
    size: tuple[int, ...] = field(default=(), metadata={"static": True})
    stride: tuple[int, ...] = field(default=(), metadata={"static": True})

    def synthesize(self, code: jax.Array) -> jax.Array:
        kernel = jnp.flip(transpose(self.kernel), tuple(range(len(self.size))))
        margins = [(width - 1, width - 1) for width in self.kernel.shape[:-2]]
        return self._convolve(code, kernel, (1,) * len(self.size), margins, self.stride)

    def analyze(self, signal: jax.Array) -> jax.Array:
        return self._convolve(signal, self.kernel, self.stride, [(0, 0)] * len(self.size), None)

    def zeros(self) -> jax.Array:
        steps = zip(self.size, self.kernel.shape, self.stride, strict=False)
        positions = ((size - width) // stride + 1 for size, width, stride in steps)
        return jnp.zeros((*positions, self.kernel.shape[-1]), self.kernel.dtype)

    def _convolve(self, x: jax.Array, kernel: jax.Array, stride: Any, margins: Any, dilation: Any) -> Any:
        if not self.size:
            return matmul(x, kernel)
        one, axes = len(self.size) + 1, "HW"[: len(self.size)]
        out = jax.lax.conv_general_dilated(
            x.reshape(-1, *x.shape[-one:]), kernel, stride, margins, lhs_dilation=dilation,
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"), precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip
        return out.reshape(*x.shape[:-one], *out.shape[1:])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Joint:
    """All codes of a chain: ``(x_1, ..., x_J) -> (D_1 x_1, D_2 x_2 - x_1, ...)``. Made by :func:`join`."""

    dictionaries: tuple[Dictionary, ...]

    def synthesize(self, code: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        first, *rest = (d.synthesize(x) for d, x in zip(self.dictionaries, code, strict=True))
        return (first, *(s - x for s, x in zip(rest, code[:-1], strict=True)))

    def analyze(self, signal: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        *rest, last = (d.analyze(y) for d, y in zip(self.dictionaries, signal, strict=True))
        return (*(c - y for c, y in zip(rest, signal[1:], strict=True)), last)

    def zeros(self) -> tuple[jax.Array, ...]:
        return tuple(d.zeros() for d in self.dictionaries)

    def signal(self, y: jax.Array) -> tuple[jax.Array, ...]:
        *codes, _ = zeros = self.zeros()
        return (y, *(jnp.zeros((*y.shape[: y.ndim - zeros[0].ndim], *x.shape), y.dtype) for x in codes))


def dense(matrix: jax.Array) -> Dictionary:
    """A dictionary from its matrix (rows, columns); ValueError unless its columns have norm 1 (if not traced)."""
    if np.ndim(matrix) != 2 or 0 in np.shape(matrix):
        raise ValueError(f"the dictionary has shape {np.shape(matrix)}; give a matrix (rows, columns)")
    return Dictionary(_normed(jnp.asarray(matrix)))


def convolution(kernel: jax.Array, size: Any, stride: Any = 1) -> Dictionary:
    """A convolutional dictionary of one or two dimensions; ValueError for shapes or norms that do not fit.

    The kernel is ``(*width, channels, atoms)``; size and stride are one number or two. All of a signal is covered.
    """
    widths = np.shape(kernel)[:-2]
    if len(widths) not in (1, 2) or 0 in np.shape(kernel):
        raise ValueError(f"the kernel has shape {np.shape(kernel)}; give (*width, channels, atoms)")
    sizes, strides = (tuple(np.broadcast_to(n, len(widths)).tolist()) for n in (size, stride))
    for n, w, s in zip(sizes, widths, strides, strict=True):
        if not (1 <= s <= w <= n and (n - w) % s == 0):
            raise ValueError(f"size {n}, width {w}, stride {s}; size = width + k stride, stride <= width")
    return Dictionary(_normed(jnp.asarray(kernel)), sizes, strides)


def join(dictionaries: Sequence[Dictionary]) -> Joint:
    """A chain's dictionaries as one, D_1 first; ValueError where a code is no signal of the next.

    Coding ``joint.signal(y) = (y, 0, ..., 0)`` minimises the penalties of all codes plus half of
    ``||y - D_1 x_1||^2 + sum_j ||x_j - D_{j+1} x_{j+1}||^2``.
    """
    if not dictionaries:
        raise ValueError("a chain of no dictionaries; give at least one")
    for i, (first, second) in enumerate(pairwise(dictionaries), 1):
        code, signal = first.zeros().shape, (*second.size, second.kernel.shape[-2])
        if code != signal:
            raise ValueError(f"dictionary {i} has codes of shape {code}, the next one signals of {signal}")
    return Joint(tuple(dictionaries))


def random(
    key: jax.Array, rows: int, columns: int, kind: str = "gaussian", *, blocks: int = 1, dtype: Any = float
) -> jax.Array:
    """A random matrix with columns of norm 1, for :func:`dense` or, reshaped, :func:`convolution`.

    ``gaussian`` is normalised, ``orthonormal`` Haar (columns <= rows), ``tight`` has ``D D^T = columns / rows I``
    (columns >= rows). With ``blocks`` on the diagonal, each of this kind, sparse atoms keep a chain's codes sparse.
    """
    possible = {"gaussian": True, "orthonormal": columns <= rows, "tight": columns >= rows}
    if kind not in possible:
        raise ValueError(f"kind {kind!r} is not known; give one of {', '.join(possible)}")
    if min(rows, columns, blocks) < 1 or rows % blocks or columns % blocks or not possible[kind]:
        raise ValueError(f"no {kind} dictionary has {rows} rows, {columns} columns and {blocks} blocks")
    shape = (blocks, rows // blocks, columns // blocks)
    unit = lambda d: d / jnp.linalg.norm(d, axis=-2, keepdims=True)  # noqa: E731
    draw = jax.random.normal(key, shape, dtype) if kind == "gaussian" else stiefel.random(key, shape, dtype)
    if kind == "tight":
        off = lambda d: jnp.max(jnp.abs(jnp.sum(d**2, -2) * columns / rows - 1))  # noqa: E731
        loose = lambda c: (off(c[0]) > 100 * jnp.finfo(draw.dtype).eps) & (c[1] < _ROUNDS)  # noqa: E731
        draw, _ = jax.lax.while_loop(loose, lambda c: (stiefel.project(unit(c[0])), c[1] + 1), (draw, 0))
    return jax.scipy.linalg.block_diag(*(draw if kind == "orthonormal" else unit(draw)))


def sample(
    key: jax.Array, dictionaries: Sequence[Dictionary], sparsity: int, *, signals: int = 1,
    nonnegative: bool = False, smallest: float = 0.5,
) -> tuple[jax.Array, ...]:  # fmt: skip
    """``(y, x_1, ..., x_J)`` of ``signals`` random models of a chain, D_1 first; ValueError: an impossible sparsity.

    x_J has ``sparsity`` nonzeros at random places, of sizes uniform in ``[smallest, 1]`` and random signs.
    """
    zeros = join(dictionaries).zeros()[-1]
    if not 1 <= sparsity <= zeros.size:
        raise ValueError(f"sparsity {sparsity}; a code of {zeros.size} entries has 1 to {zeros.size}")
    places, sizes, signs = jax.random.split(key, 3)
    order = jax.vmap(lambda k: jax.random.permutation(k, zeros.size))(jax.random.split(places, signals))
    size = jax.random.uniform(sizes, order.shape, zeros.dtype, smallest, 1.0)
    size = size if nonnegative else size * jax.random.rademacher(signs, order.shape, zeros.dtype)
    model = [jnp.where(order < sparsity, size, 0).reshape(signals, *zeros.shape)]
    for dictionary in reversed(dictionaries):
        model.insert(0, dictionary.synthesize(model[0]))
    return tuple(model)


def matrix(dictionary: Dictionary | Joint) -> jax.Array:
    """The matrix of a dictionary of any kind, columns in the order of its flattened code."""
    if isinstance(dictionary, Dictionary) and not dictionary.size:
        return dictionary.kernel
    flat, restore = ravel_pytree(dictionary.zeros())
    unit = jnp.eye(flat.size, dtype=flat.dtype)
    return jax.vmap(lambda e: ravel_pytree(dictionary.synthesize(restore(e)))[0])(unit).T


def _normed(kernel: jax.Array) -> jax.Array:
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise ValueError(f"the dictionary has dtype {kernel.dtype}; give floats")
    if not isinstance(kernel, Tracer):
        norms = np.linalg.norm(np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]), axis=0)
        off = float(np.max(np.abs(norms - 1)))
        if not off <= _ROUNDINGS * float(jnp.finfo(kernel.dtype).eps):
            raise ValueError(f"the norm of an atom is {off:.3g} off 1; divide every atom by its norm")
    return kernel
