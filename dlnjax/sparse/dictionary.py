r"""Dictionaries of a deep sparse coding model: dense, convolutional, and all of a chain at once.

A dictionary maps codes to signals, ``y = D x`` (``synthesize``), and signals to correlations, ``D^T y`` (``analyze``);
leading axes are a batch. Networks use nothing else. Its columns, the atoms, have norm 1.
"""

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
from jax.lax import Precision

from dlnjax import stiefel
from dlnjax._linalg import matmul, transpose

#: Largest deviation of an atom's norm from 1, in units of the dtype's rounding.
_ROUNDINGS = 1000
#: Alternating projections from a Gaussian matrix to a tight frame; about 100 reach rounding error.
_ROUNDS = 200


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Dictionary:
    """Atoms at every stride of the signal; see :func:`dense` (no size, one position) and :func:`convolution`.

    Signals are ``(..., *size, channels)``, codes ``(..., *positions, atoms)``, positions = (size - width) / stride + 1.
    """

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
        """The zero code of one signal."""
        steps = zip(self.size, self.kernel.shape, self.stride, strict=False)
        positions = ((size - width) // stride + 1 for size, width, stride in steps)
        return jnp.zeros((*positions, self.kernel.shape[-1]), self.kernel.dtype)

    def _convolve(
        self, x: jax.Array, kernel: jax.Array, stride: Any, margins: Any, dilation: Any
    ) -> jax.Array:
        if not self.size:
            return matmul(x, kernel)
        one, axes = len(self.size) + 1, "HW"[: len(self.size)]
        out = jax.lax.conv_general_dilated(
            x.reshape(-1, *x.shape[-one:]), kernel, stride, margins, lhs_dilation=dilation,
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"), precision=Precision.HIGHEST,
        )  # fmt: skip
        return out.reshape(*x.shape[:-one], *out.shape[1:])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Joint:
    """All codes of a chain: ``(x_1, ..., x_J) -> (D_1 x_1, D_2 x_2 - x_1, ..., D_J x_J - x_{J-1})``. See :func:`join`."""

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
    """A dictionary from its matrix (rows, columns); ValueError unless its columns have norm 1 (if not traced).

    Example:
      >>> import jax.numpy as jnp
      >>> dense(jnp.eye(3)).synthesize(jnp.array([1.0, 0.0, 2.0])).tolist()
      [1.0, 0.0, 2.0]
    """
    if np.ndim(matrix) != 2 or 0 in np.shape(matrix):
        raise ValueError(f"the dictionary has shape {np.shape(matrix)}; give a matrix (rows, columns)")
    return Dictionary(_normed(jnp.asarray(matrix)))


def convolution(kernel: jax.Array, size: Any, stride: Any = 1) -> Dictionary:
    """A convolutional dictionary of one or two dimensions; ValueError for shapes or norms that do not fit.

    Args:
      kernel: ``(*width, channels, atoms)``, every atom of norm 1.
      size, stride: of a signal and of an atom's positions, one or two numbers. Positions cover all of the signal.
    """
    widths = np.shape(kernel)[:-2]
    if len(widths) not in (1, 2) or 0 in np.shape(kernel):
        raise ValueError(
            f"the kernel has shape {np.shape(kernel)}; give (width, channels, atoms) or two widths"
        )
    sizes, strides = (tuple(np.broadcast_to(n, len(widths)).tolist()) for n in (size, stride))
    for n, w, s in zip(sizes, widths, strides, strict=True):
        if not (1 <= s <= w <= n and (n - w) % s == 0):
            raise ValueError(
                f"size {n}, width {w}, stride {s}; stride <= width <= size = width + k stride is needed"
            )
    return Dictionary(_normed(jnp.asarray(kernel)), sizes, strides)


def join(dictionaries: Sequence[Dictionary]) -> Joint:
    """A chain's dictionaries as one, D_1 first; ValueError where a code is no signal of the next.

    Coding ``joint.signal(y) = (y, 0, ..., 0)`` minimises half of ``||y - D_1 x_1||^2 + sum ||x_j - D_{j+1} x_{j+1}||^2``
    plus the penalties of all codes.
    """
    if not dictionaries:
        raise ValueError("a chain of no dictionaries; give at least one")
    for i, (first, second) in enumerate(pairwise(dictionaries), 1):
        code, signal = first.zeros().shape, (*second.size, second.kernel.shape[-2])
        if code != signal:
            raise ValueError(
                f"dictionary {i} has codes of shape {code}, dictionary {i + 1} signals of {signal}"
            )
    return Joint(tuple(dictionaries))


def random(
    key: jax.Array, rows: int, columns: int, kind: str = "gaussian", *, blocks: int = 1, dtype: Any = float
) -> jax.Array:
    """A random matrix with columns of norm 1, for :func:`dense` or, reshaped, :func:`convolution`.

    Args:
      kind: ``gaussian`` (normalised), ``orthonormal`` (Haar, columns <= rows), or ``tight`` (columns >= rows,
        ``D D^T = (columns / rows) I``, by alternating projections); ValueError where there is none.
      blocks: diagonal blocks, each of this kind: the few nonzeros of an atom keep a chain's other codes sparse.
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
        draw = jax.lax.fori_loop(0, _ROUNDS, lambda _, d: stiefel.project(unit(d)), draw)
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
        raise ValueError(
            f"sparsity {sparsity}; a code of {zeros.size} entries has 1 to {zeros.size} nonzeros"
        )
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


def coherence(dictionary: Dictionary) -> float:
    """Mutual coherence ``mu``, the largest cosine between two atoms (0 to 1), of a convolution at all positions."""
    spans = zip(dictionary.size, dictionary.kernel.shape, dictionary.stride, strict=False)
    size = tuple(min(n, w + (w - 1) // s * s) for n, w, s in spans)  # any two atoms that overlap fit on this
    atoms = np.asarray(matrix(Dictionary(dictionary.kernel, size, dictionary.stride)), np.float64)
    atoms = atoms / np.maximum(np.linalg.norm(atoms, axis=0), 1e-300)
    return min(float(np.max(np.abs(np.triu(atoms.T @ atoms, 1)))), 1.0)


def largest_eigenvalue(dictionary: Dictionary | Joint) -> jax.Array:
    """``||D||_2^2``: networks with a step size below ``2 / ||D||_2^2`` converge."""
    atoms = matrix(dictionary)
    atoms = atoms if atoms.shape[0] < atoms.shape[1] else atoms.T
    return jnp.linalg.eigvalsh(matmul(atoms, atoms.T))[-1]


def _normed(kernel: jax.Array) -> jax.Array:
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise ValueError(f"the dictionary has dtype {kernel.dtype}; give floats")
    if not isinstance(kernel, Tracer):
        norms = np.linalg.norm(np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1]), axis=0)
        off = np.max(np.abs(norms - 1))
        if not off <= _ROUNDINGS * jnp.finfo(kernel.dtype).eps:
            raise ValueError(f"the norm of an atom is {off:.3g} off 1; divide every atom by its norm")
    return kernel
