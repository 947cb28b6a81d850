"""Random instances: solutions with a chosen spectrum, losses of a chosen curvature, starts at a distance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import losses, problem
from dlnjax.theory import gauge

Kind = TypeVar("Kind")
Tree = TypeVar("Tree")


def solution(rng: np.random.Generator, dims: tuple[int, ...], sigma: np.ndarray) -> list[np.ndarray]:
    """Layers, orthonormal behind the first, with a product of these singular values; widths not shrinking."""
    rest = [haar(rng, n, p) for p, n in pairwise(dims[1:])]
    first = haar(rng, dims[1], len(sigma)) * sigma @ haar(rng, dims[0], len(sigma)).T
    return [first, *rest]


def haar(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A Haar matrix with orthonormal columns, or rows if it is wide."""
    draw = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))[0]
    return draw if rows >= columns else draw.T


def polar(x: np.ndarray) -> np.ndarray:
    """The nearest matrix with orthonormal columns (rows)."""
    left, _, right = np.linalg.svd(x, full_matrices=False)
    return left @ right


def quadratic(product: np.ndarray, low: float, rng: np.random.Generator) -> problem.Quadratic:
    """A square loss with this minimiser and the spectrum of C in [low, 1] (both attained)."""
    d0 = product.shape[1]
    basis = haar(rng, d0, d0)
    values = np.concatenate([[low, 1.0], rng.uniform(low, 1, max(d0 - 2, 0))])[:d0]
    covariance, root = ((basis * v) @ basis.T for v in (values, np.sqrt(values)))
    target = jnp.asarray(product)
    return problem.Quadratic(target, target, jnp.zeros(()), jnp.asarray(covariance), jnp.asarray(root))


def weighted(product: np.ndarray, low: float, rng: np.random.Generator) -> losses.WeightedSquare:
    """A square loss with this minimiser, entries weighted from low to 1 (both attained)."""
    weights = rng.uniform(low, 1, product.shape)
    weights.flat[:2] = low, 1.0
    return losses.WeightedSquare(jnp.asarray(product), jnp.asarray(weights))


def sensing(product: np.ndarray, low: float, rng: np.random.Generator) -> losses.MatrixSensing:
    """A sensing loss with this minimiser and curvature from low to 1."""
    size = product.size
    values = np.sqrt(np.linspace(low, 1, size))
    flat = haar(rng, size + 4, size) * values @ haar(rng, size, size)
    return losses.MatrixSensing(jnp.asarray(product), jnp.asarray(flat.reshape(-1, *product.shape)))


def at_distance(rng: np.random.Generator, solution: list[np.ndarray], wanted: float) -> list[np.ndarray]:
    """A random start at gauge distance ``wanted`` from the solution."""
    noise = [rng.standard_normal(w.shape) for w in solution]
    noise[0] *= rng.choice([0.1, 1.0, 10.0])  # from mostly-rotated to mostly-stretched starts
    size = wanted / np.sqrt(sum(np.sum(n**2) for n in noise))
    moved = solution
    for _ in range(12):
        moved = [w + size * n for w, n in zip(solution, noise, strict=True)]
        moved = [moved[0], *(polar(w) for w in moved[1:])]
        size *= wanted / np.sqrt(gauge.distance_squared(moved, solution))
    return moved


def stack(items: Sequence[Tree]) -> Tree:
    """One tree with the items' leaves along a new first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *items)


def groups(instances: int, kinds: Sequence[Kind]) -> Iterator[tuple[Kind, int]]:
    """The instances shared out evenly over the kinds; a kind that gets none is left out."""
    for i, kind in enumerate(kinds):
        count = instances // len(kinds) + (i < instances % len(kinds))
        if count:
            yield kind, count
