"""Extreme nonzero eigenvalues of the operators that rates come from: dense, bordered, and matrix-free.

Three ways, by what the operator looks like. Small ones are formed and solved. The operator of the
two-layer reduction is diagonal but for a thin border, and the number of its eigenvalues below any bound
follows from the inertia of a small Schur complement, so bisection finds any of them exactly however wide
the data and however ill-conditioned. Everything else goes through Lanczos with full reorthogonalisation
in the inner product in which the operator is self-adjoint; ``jax.experimental.sparse.linalg`` would need
JAX in double precision, which the library never switches on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dlnjax._types import Rate

#: Eigenvalues up to this fraction of the largest count as zero (theory: gauge directions and null space).
ZERO = 1e-10


class Extremes(NamedTuple):
    """Smallest nonzero and largest eigenvalue, and how many are not zero (-1 where not counted).

    A negative eigenvalue (the point is a saddle) is nonzero and then the smallest.
    """

    smallest: float
    largest: float
    nonzero: int


def extremes(eigenvalues: np.ndarray, multiplicity: np.ndarray | None = None) -> Extremes:
    """Of a list of eigenvalues, with multiplicities if given.

    Raises:
      ValueError: no nonzero eigenvalue.
    """
    values = np.asarray(eigenvalues, dtype=np.float64).ravel()
    counts = np.ones(values.size, int) if multiplicity is None else np.asarray(multiplicity).ravel()
    largest = float(np.max(np.abs(values), initial=0.0, where=counts > 0))
    kept = (np.abs(values) > ZERO * largest) & (counts > 0)
    if not kept.any():
        raise ValueError("every eigenvalue is zero: no layer can change the product here, there is no rate")
    return Extremes(float(values[kept].min()), float(values[kept].max()), int(counts[kept].sum()))


def rate(found: Extremes, step_size: float, total: int) -> Rate:
    """The :class:`Rate` of a spectrum that is linear in the step size.

    Args:
      found: the extreme nonzero eigenvalues.
      step_size: mu, the unit of ``step_max`` and ``step_optimal``.
      total: the dimension of the space in which zeros are counted.
    """
    low, high, mu = found.smallest, found.largest, float(step_size)
    return Rate(
        factor=max(abs(1 - low), abs(1 - high)),
        eigenvalue_min=low,
        eigenvalue_max=high,
        num_zero=total - found.nonzero if found.nonzero >= 0 else -1,
        step_max=2 * mu / high if low > 0 else 0.0,
        step_optimal=2 * mu / (low + high) if low > 0 else 0.0,
    )


class Bordered(NamedTuple):
    """The symmetric matrix ``[[diag(poles), B], [B^T, E]]``, through its Schur complement alone.

    Attributes:
      poles: ``(n,)`` distinct or repeated diagonal entries, each standing for ``multiplicity`` rows.
      multiplicity: rows a pole stands for.
      complement: ``t -> S(t) = E - t - B^T (diag(poles) - t)^{-1} B``, ``(m, m)``.
      bound: a number above every eigenvalue's modulus (it is doubled where it is not).
    """

    poles: np.ndarray
    multiplicity: int
    complement: Callable[[float], np.ndarray]
    bound: float

    def margin(self, t: float, index: int) -> float:
        """Negative if more than ``index`` eigenvalues are smaller than t (Haynsworth's inertia additivity).

        Between two poles it is one decreasing function of t, and its zero is the eigenvalue of this index.
        """
        place = index - self.multiplicity * int(np.sum(self.poles < t))
        inner = np.linalg.eigvalsh(self.complement(t))
        return -np.inf if place < 0 else np.inf if place >= inner.size else float(inner[place])

    def below(self, t: float) -> int:
        """How many eigenvalues are smaller than t."""
        outer = self.multiplicity * int(np.sum(self.poles < t))
        return outer + int(np.sum(np.linalg.eigvalsh(self.complement(t)) < 0))

    def eigenvalue(self, index: int, low: float, high: float, tolerance: float) -> float:
        """The eigenvalue of this index (from 0, ascending), known to lie in ``(low, high)``.

        Bisection, geometric over decades, until no pole is left between; then regula falsi, halving the
        stale end's value (Illinois), with a bisection whenever three steps did not halve the bracket.
        """
        values = [np.inf, -np.inf]
        widths = [high - low]
        while high - low > tolerance * max(abs(low), abs(high)) and len(widths) < 200:
            clear = not np.any((self.poles > low) & (self.poles < high)) and np.all(np.isfinite(values))
            stalled = len(widths) > 3 and widths[-1] > widths[-4] / 2
            if clear and not stalled:
                point = low + (high - low) * values[0] / (values[0] - values[1])
                point = min(max(point, low + tolerance * (high - low)), high - tolerance * (high - low))
            else:
                point = np.sqrt(low * high) if low > 0 and high > 4 * low else (low + high) / 2
            value = self.margin(point, index)
            if value >= 0:
                low, values = point, [value, values[1] / 2]
            else:
                high, values = point, [values[0] / 2, value]
            widths.append(high - low)
        return (low + high) / 2


def bordered_extremes(matrix: Bordered, total: int, tolerance: float = 1e-12) -> Extremes:
    """Extreme nonzero eigenvalues by counting, each to a relative ``tolerance``."""
    high = matrix.bound
    while matrix.below(high) < total:
        high *= 2
    low = max(float(matrix.poles.max()), 0.0)
    largest = matrix.eigenvalue(total - 1, low * (1 - 1e-14), high, tolerance)
    cut = ZERO * largest
    zeros, negative = matrix.below(cut), matrix.below(-cut)
    first, start, end = (0, -high, -cut) if negative else (zeros, cut, largest * (1 + 1e-9))
    smallest = matrix.eigenvalue(first, start, end, tolerance)
    return Extremes(smallest, largest, total - zeros + negative)


def lanczos_largest(
    apply: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    inner: Callable[[np.ndarray], np.ndarray] | None = None,
    tolerance: float = 1e-12,
    max_iterations: int = 600,
) -> float:
    """The largest eigenvalue of a map that is self-adjoint in the inner product ``<x, M y>``.

    Args:
      apply: the map on vectors ``(n,)``.
      start: a start vector in the subspace of interest, which ``apply`` keeps.
      inner: ``M``, positive definite on that subspace; None is the identity.
      tolerance: stop once the estimate's residual bound, squared over the gap, is this small (relative).
      max_iterations: Lanczos vectors kept at most.

    Raises:
      ValueError: not converged; form the operator or reduce it instead.
    """
    metric = inner if inner is not None else (lambda x: x)
    weighted = metric(start)
    size = np.sqrt(start @ weighted)
    basis, dual = [start / size], [weighted / size]
    diagonal: list[float] = []
    border: list[float] = []
    for count in range(1, max_iterations + 1):
        image = apply(basis[-1])
        diagonal.append(float(dual[-1] @ image))
        known, duals = np.array(basis), np.array(dual)
        for _ in range(2):
            image = image - (duals @ image) @ known
        weighted = metric(image)
        length = float(np.sqrt(max(image @ weighted, 0.0)))
        if count % 5 == 0 or length < 1e-14 * abs(diagonal[0]) or count == start.size:
            values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(border, 1) + np.diag(border, -1))
            error = length * abs(vectors[-1, -1])
            if error <= np.sqrt(tolerance) * 1e-2 * abs(values[-1]) or count == start.size:
                return float(values[-1])
        border.append(length)
        basis.append(image / length)
        dual.append(weighted / length)
    raise ValueError(
        f"Lanczos did not converge in {max_iterations} iterations: the spectrum is too ill-conditioned; "
        "equal hidden widths take rates.predict_reduced, which is exact at any conditioning"
    )


def lanczos_extremes(
    apply: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    project: Callable[[np.ndarray], np.ndarray],
    inner: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Extremes:
    """Largest and smallest nonzero eigenvalue of a positive semidefinite map with a known range.

    The smallest is the largest of ``1.01 lambda_max - K`` on the range, where ``project`` puts a vector.
    """
    largest = lanczos_largest(apply, project(start), inner)
    shift = 1.01 * largest
    smallest = shift - lanczos_largest(lambda x: project(shift * x - apply(x)), project(start), inner)
    return Extremes(smallest, largest, -1)
