"""Extreme nonzero eigenvalues of the operators that rates come from: dense, bordered, and matrix-free.

Three ways, by what the operator looks like. Small ones are formed and solved. An operator that is diagonal but for a
thin border is solved by counting: the number of its eigenvalues below any bound follows from the inertia of a small
Schur complement, so bisection finds any of them however wide the data. Everything else goes through Lanczos with full
reorthogonalisation in the inner product in which the operator is self-adjoint; ``jax.experimental.sparse.linalg`` would
need JAX in double precision, which the library never switches on.

Which eigenvalues are zero is counted, not guessed from their size, wherever the number of gauge directions is known:
with raw features of a large mean the smallest true eigenvalue is far below any threshold that one would choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dlnjax._types import Number, Rate

#: Where the zeros are not counted, eigenvalues between ``RESOLUTION`` and this fraction of the largest are ambiguous.
ZERO = 1e-10
#: Below this fraction of the largest an eigenvalue of a matrix that was formed is not known from rounding.
RESOLUTION = 1e-13


class Extremes(NamedTuple):
    """Smallest nonzero and largest eigenvalue, and how many are not zero (-1 where not counted).

    A negative eigenvalue (the point is a saddle) is nonzero and then the smallest.
    """

    smallest: float
    largest: float
    nonzero: int


def extremes(
    eigenvalues: np.ndarray,
    multiplicity: np.ndarray | None = None,
    *,
    zeros: int | None = None,
    zero: float | None = None,
    resolution: float = RESOLUTION,
) -> Extremes:
    """Of a list of eigenvalues, with multiplicities if given.

    Args:
      eigenvalues: any order. multiplicity: of each, whole numbers >= 0.
      zeros: how many of them are zero (those of least modulus); None where that is not known.
      zero: without ``zeros``, up to which fraction of the largest modulus an eigenvalue counts as zero; None takes
        ``resolution``, and refuses a spectrum with eigenvalues between that and ``ZERO``, which may be either.
      resolution: below this fraction of the largest modulus eigenvalues are rounding.

    Raises:
      ValueError: no nonzero eigenvalue; eigenvalues that rounding hides; an ambiguous spectrum; not finite.

    Example:
      >>> from dlnjax.theory import spectrum
      >>> spectrum.extremes([0.0, 2.0, 1.0, 1e-30], zeros=2)
      Extremes(smallest=1.0, largest=2.0, nonzero=2)
    """
    values = np.asarray(eigenvalues, dtype=np.float64).ravel()
    counts = np.ones(values.size, int) if multiplicity is None else np.asarray(multiplicity).ravel()
    values, counts = values[counts > 0], counts[counts > 0]
    if not np.all(np.isfinite(values)):
        raise ValueError(
            "an eigenvalue is not finite: the numbers are too large; rescale the data or the target"
        )
    order = np.argsort(np.abs(values), kind="stable")
    values, counts = values[order], counts[order]
    largest = float(np.abs(values[-1])) if values.size else 0.0
    kept = np.abs(values) > (resolution if zero is None else zero) * largest
    if zeros is not None:
        kept = (np.cumsum(counts) > zeros) & (np.abs(values) > 0)
        _check_resolved(np.abs(values[kept]), largest, resolution)
    if not kept.any():
        raise ValueError("every eigenvalue is zero: no layer can change the product here, there is no rate")
    if zeros is None and zero is None:
        _check_unambiguous(np.abs(values[kept]), largest)
    nonzero = counts[kept].sum() if zeros is None else counts.sum() - zeros
    return Extremes(float(values[kept].min()), float(values[kept].max()), int(nonzero))


def _check_resolved(kept: np.ndarray, largest: float, resolution: float) -> None:
    if kept.size and kept[0] < resolution * largest:
        raise ValueError(
            f"ill-conditioned: the eigenvalues span more than {-np.log10(resolution):.0f} decades (largest "
            f"{largest:.3g}, "
            "smallest lost in rounding), so there is no rate; centre and scale the features"
        )


def _check_unambiguous(kept: np.ndarray, largest: float) -> None:
    if kept[0] <= ZERO * largest:
        raise ValueError(
            f"ambiguous: {np.sum(kept <= ZERO * largest)} eigenvalues lie below {ZERO:g} of the largest, "
            f"{largest:.3g}; they "
            "may be slow modes or zeros. Give zero=..., the fraction up to which they count as zero, or centre "
            "the features"
        )


def rate(found: Extremes, step_size: Number, total: int, gradient: float = math.nan) -> Rate:
    """The :class:`Rate` of a spectrum that is linear in the step size.

    Args:
      found: the extreme nonzero eigenvalues.
      step_size: mu, the unit of ``step_max`` and ``step_optimal``.
      total: the dimension of the space in which zeros are counted.
      gradient: the relative gradient of the point.

    Raises:
      ValueError: a step size that is not positive and finite, or a spectrum that is not finite.

    Example:
      >>> from dlnjax.theory import spectrum
      >>> rate = spectrum.rate(spectrum.Extremes(0.1, 0.4, 3), 0.1, 4)
      >>> rate.factor, rate.num_zero, round(rate.step_max, 6), round(rate.step_optimal, 6)
      (0.9, 1, 0.5, 0.4)
    """
    low, high, mu = found.smallest, found.largest, float(step_size)
    if not (mu > 0 and math.isfinite(mu)):
        raise ValueError(f"step_size={step_size}; give a positive, finite number")
    if not (math.isfinite(low) and math.isfinite(high) and low != 0):
        raise ValueError(f"eigenvalues from {low} to {high}: out of range; rescale the data or the target")
    return Rate(
        factor=max(abs(1 - low), abs(1 - high)),
        eigenvalue_min=low,
        eigenvalue_max=high,
        num_zero=total - found.nonzero if found.nonzero >= 0 else -1,
        step_max=2 * mu / high if low > 0 else 0.0,
        step_optimal=2 * mu / (low + high) if low > 0 else 0.0,
        gradient=gradient,
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


def bordered_extremes(
    matrix: Bordered, total: int, zeros: int, tolerance: float = 1e-12, resolution: float = RESOLUTION
) -> Extremes:
    """Extreme nonzero eigenvalues by counting, each to a relative ``tolerance``.

    Args:
      matrix: of ``total`` rows. zeros: how many of its eigenvalues are zero.
      resolution: below this fraction of the largest an eigenvalue is rounding.

    Raises:
      ValueError: a smallest eigenvalue that rounding hides.

    Example:
      >>> import numpy as np
      >>> from dlnjax.theory import spectrum
      >>> matrix = spectrum.Bordered(np.array([2.0]), 1, lambda t: np.array([[2 - t - 1 / (2 - t)]]), 10.0)
      >>> ends = spectrum.bordered_extremes(matrix, 2, 0)  # of [[2, 1], [1, 2]]
      >>> [round(float(x), 6) for x in ends[:2]]
      [1.0, 3.0]
    """
    high = matrix.bound
    while matrix.below(high) < total:
        high *= 2
    low = max(float(matrix.poles.max()), 0.0)
    largest = matrix.eigenvalue(total - 1, low * (1 - 1e-14), high, tolerance)
    cut = resolution * largest
    negative, below = matrix.below(-cut), matrix.below(cut)
    if below != zeros + negative:
        _check_resolved(np.zeros(1), largest, resolution)
    first, start, end = (0, -high, -cut) if negative else (zeros, cut, largest * (1 + 1e-9))
    smallest = matrix.eigenvalue(first, start, end, tolerance)
    return Extremes(smallest, largest, total - zeros)


def lanczos_largest(
    apply: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    inner: Callable[[np.ndarray], np.ndarray] | None = None,
    tolerance: float = 1e-9,
    max_iterations: int = 600,
    shift: float = 0.0,
) -> float:
    """The largest eigenvalue of a map that is self-adjoint in the inner product ``<x, M y>``.

    Stops once an eigenvalue is certain within ``tolerance`` of the estimate (by its residual, or that squared over the
    gap to the next Ritz value and its residual) or the vectors span the space that the start generates. That no larger
    eigenvalue exists follows for a start with a part along each, as a random one has.

    Args:
      apply: the map on vectors ``(n,)``.
      start: a start vector in the subspace of interest, which ``apply`` keeps.
      inner: ``M``, positive definite on that subspace; None is the identity.
      tolerance: relative to ``|value - shift|``.
      max_iterations: Lanczos vectors kept at most.
      shift: what the caller subtracts the value from.

    Raises:
      ValueError: not converged; form the operator or reduce it instead.

    Example:
      >>> import numpy as np
      >>> from dlnjax.theory import spectrum
      >>> round(spectrum.lanczos_largest(lambda x: np.array([1.0, 2.0, 5.0]) * x, np.ones(3)), 6)
      5.0
    """
    metric = inner if inner is not None else (lambda x: x)
    weighted = metric(start)
    size = np.sqrt(start @ weighted)
    basis, dual = np.zeros((2, min(max_iterations, start.size) + 1, start.size))
    basis[0], dual[0] = start / size, weighted / size
    diagonal: list[float] = []
    border: list[float] = []
    for count in range(1, min(max_iterations, start.size) + 1):
        image = apply(basis[count - 1])
        diagonal.append(float(dual[count - 1] @ image))
        for _ in range(2):
            image = image - (dual[:count] @ image) @ basis[:count]
        weighted = metric(image)
        length = float(np.sqrt(max(image @ weighted, 0.0)))
        complete = count == start.size or length <= 1e-13 * max(map(abs, diagonal))
        if complete or count % 10 == 0:
            values, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(border, 1) + np.diag(border, -1))
            if complete or _error(values, length * np.abs(vectors[-1])) <= tolerance * abs(
                values[-1] - shift
            ):
                return float(values[-1])
        border.append(length)
        basis[count], dual[count] = image / length, weighted / length
    raise ValueError(
        f"Lanczos did not converge in {max_iterations} iterations: the spectrum is too ill-conditioned; "
        "equal hidden widths take rates.predict_reduced, which is exact at any conditioning"
    )


def _error(values: np.ndarray, residuals: np.ndarray) -> float:
    """A bound of the error of the largest Ritz value: its residual, or that squared over the gap (Kato and Temple)."""
    first = float(residuals[-1])
    gap = float(values[-1] - values[-2] - residuals[-2]) if len(values) > 1 else 0.0
    return min(first, first**2 / gap) if gap > first else first


def lanczos_extremes(
    apply: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    project: Callable[[np.ndarray], np.ndarray],
    inner: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Extremes:
    """Largest and smallest nonzero eigenvalue of a positive semidefinite map with a known range, to 1e-9 relative.

    The smallest is ``shift`` less the largest of ``shift - K``, ``shift = 1.01 lambda_max``, on the range, where
    ``project`` puts a vector: the number of steps grows with the root of the condition number.

    Raises:
      ValueError: not converged.

    Example:
      >>> import numpy as np
      >>> from dlnjax.theory import spectrum
      >>> seen = np.array([1.0, 1.0, 0.0])  # the range of the map
      >>> ends = spectrum.lanczos_extremes(lambda x: np.array([1.0, 4.0, 0.0]) * x, np.ones(3), lambda x: seen * x)
      >>> round(ends.smallest, 6), round(ends.largest, 6)
      (1.0, 4.0)
    """
    largest = lanczos_largest(apply, project(start), inner)
    shift = 1.01 * largest
    smallest = shift - lanczos_largest(
        lambda x: project(shift * x - apply(x)), project(start), inner, shift=shift
    )
    if not abs(smallest) * 1e-9 >= 4 * np.finfo(float).eps * largest:
        raise ValueError(
            f"Lanczos did not converge: the smallest eigenvalue is about {smallest / largest:.1g} of the "
            f"largest, which the shift "
            "hides; form the operator or reduce it instead"
        )
    return Extremes(smallest, largest, -1)
