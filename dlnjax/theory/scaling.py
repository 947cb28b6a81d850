"""Optimal per-layer scales: how much of depth's cost is the steps' own doing [derived].

Three families, each optimised over its spectrum's condition number ``Lambda = lambda_max / lambda_min``
(the best factor is ``(Lambda - 1)/(Lambda + 1)``): one ratio between the first layer and the rest; the
middle scaling of ``scales.middle``, which removes depth; and first, middle and last freely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dlnjax._types import Rate
from dlnjax.theory.closed import closed_form


class Scaling(NamedTuple):
    """Scales ``(first, middle, last)``, the best step size with them, and the factor it gives."""

    scales: tuple[float, float, float]
    step_size: float
    factor: float


def condition(rate: Rate) -> float:
    """``Lambda = lambda_max / lambda_min``.

    Raises:
      ValueError: a saddle, which has no best step.

    Example:
      >>> from dlnjax.theory import closed, scaling
      >>> round(scaling.condition(closed.closed_form([1.0], dims=(2, 1, 2), step_size=0.1, scales=(1, 1, 3))), 6)
      3.0
    """
    if not 0 < rate.eigenvalue_min <= rate.eigenvalue_max < np.inf:
        raise ValueError(
            f"eigenvalues from {rate.eigenvalue_min} to {rate.eigenvalue_max}: a saddle has no best step; "
            f"predict at a minimum"
        )
    return float(rate.eigenvalue_max / rate.eigenvalue_min)


def at_best_step(rate: Rate, scales: Sequence[float]) -> Scaling:
    """The scaling with ``mu_opt``, from a rate predicted at step size 1.

    Example:
      >>> from dlnjax.theory import closed, scaling
      >>> rate = closed.closed_form([1.0], dims=(2, 1, 2), step_size=1.0, scales=(1, 1, 3))
      >>> scaling.at_best_step(rate, (1, 1, 3))
      Scaling(scales=(1.0, 1.0, 3.0), step_size=0.5, factor=0.5)
    """
    ratio = condition(rate)
    first, middle, last = (float(s) for s in scales)
    return Scaling((first, middle, last), float(rate.step_optimal), (ratio - 1) / (ratio + 1))


def discrepant(singular_values: Sequence[float], dims: Sequence[int]) -> Scaling:
    """The steps of Qin, Tan and Zhu, 2024: 1 and ``1/sigma_1^2`` for every other layer.

    Example:
      >>> from dlnjax.theory import scaling
      >>> scaling.discrepant([2.0, 1.0], (2, 2, 2, 2)).scales
      (1.0, 0.25, 0.25)
    """
    return _closed(singular_values, dims)((1.0, *[1 / _largest(singular_values) ** 2] * 2))


def middle(singular_values: Sequence[float], dims: Sequence[int]) -> Scaling:
    """1, ``1/((N-2) sigma_1^2)`` and ``1/sigma_1^2``: factor and edge independent of depth for ``N >= 3``.

    Example:
      >>> from dlnjax.theory import scaling
      >>> [round(scaling.middle([2.0, 1.0], (2,) * (depth + 1)).factor, 4) for depth in (3, 100)]
      [0.3846, 0.3846]
    """
    last = 1 / _largest(singular_values) ** 2
    return _closed(singular_values, dims)((1.0, last / max(len(dims) - 3, 1), last))


def best_ratio(singular_values: Sequence[float], dims: Sequence[int]) -> Scaling:
    """The best single ratio between the first layer's step and everybody else's.

    Example:
      >>> from dlnjax.theory import scaling
      >>> discrepant, tuned = (f([2.0, 1.0], (4, 2, 2, 4)) for f in (scaling.discrepant, scaling.best_ratio))
      >>> tuned.factor < discrepant.factor
      True
    """
    evaluate = _closed(singular_values, dims)
    guess = -2 * np.log(_largest(singular_values))
    return optimise(lambda x: evaluate((1.0, *[float(np.exp(x[0]))] * 2)), [guess])


def best(singular_values: Sequence[float], dims: Sequence[int]) -> Scaling:
    """The best first, middle and last scales; no worse than :func:`middle`, where the search starts.

    Example:
      >>> from dlnjax.theory import scaling
      >>> tuned, middle = (f([2.0, 1.0], (4, 2, 2, 4)) for f in (scaling.best, scaling.middle))
      >>> tuned.factor <= middle.factor
      True
    """
    evaluate = _closed(singular_values, dims)
    start = [float(np.log(s)) for s in middle(singular_values, dims).scales[1:]]
    return optimise(lambda x: evaluate((1.0, float(np.exp(x[0])), float(np.exp(x[1])))), start)


def _largest(singular_values: Sequence[float]) -> float:
    sizes = np.asarray(singular_values, np.float64)
    if (
        sizes.ndim != 1
        or not sizes.size
        or not np.all(np.isfinite(sizes))
        or not 1e-140 < sizes.max() < 1e140
    ):
        raise ValueError(
            f"singular_values={singular_values}; give finite numbers, the largest in (1e-140, 1e140)"
        )
    return float(sizes.max())


def optimise(
    evaluate: Callable[[np.ndarray], Scaling],
    start: Sequence[float],
    sweeps: int = 2000,
    tolerance: float = 1e-10,
) -> Scaling:
    """Minimise a scaling's factor over the logarithms of some scales: pattern search with shrinking steps.

    The factor is a maximum over a spectrum, so it has kinks and no gradient is asked of it; diagonal moves
    are tried too, as the optimum sits where two eigenvalues cross.

    Args:
      evaluate: ``(k,)`` logarithms to a :class:`Scaling`; ``lambda x: at_best_step(rates.predict(...), ...)``
        optimises for any network and data.
      start: ``(k,)``.
      sweeps: at most so many sweeps over all moves.
      tolerance: the search ends once moves of this length (in logarithms) do not help.

    Raises:
      ValueError: no end within ``sweeps``.

    Example:
      >>> from dlnjax.theory import scaling
      >>> tuned = scaling.optimise(lambda x: scaling.Scaling((1, 1, 1), 0.1, float(abs(x[0] - 2))), [0.0])
      >>> round(tuned.factor, 6)
      0.0
    """
    point = np.array(start, dtype=np.float64)
    found, step = evaluate(point), 1.0
    axes = np.eye(point.size)
    moves = [*axes, *(a + b for a in axes for b in axes), *(a - b for a in axes for b in axes if a is not b)]
    for _ in range(sweeps):
        trials = [point + sign * step * move for move in moves for sign in (1, -1)]
        results = [evaluate(trial) for trial in trials]
        leader = int(np.argmin([r.factor for r in results]))
        if results[leader].factor < found.factor:
            point, found = trials[leader], results[leader]
        else:
            step /= 2
            if step < tolerance:
                return found
    raise ValueError(
        f"no optimum within {sweeps} sweeps: moves of {step:.2g} still help; give more, or a nearer start"
    )


def _closed(singular_values: Sequence[float], dims: Sequence[int]) -> Callable[[Sequence[float]], Scaling]:
    def evaluate(scales: Sequence[float]) -> Scaling:
        return at_best_step(closed_form(singular_values, dims=dims, step_size=1.0, scales=scales), scales)

    return evaluate
