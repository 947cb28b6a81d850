"""The asymptotic factor of a recorded error curve, with an interval, or the reason why there is none.

A linearly convergent run leaves ``d_t = A f^t (1 + c g^t + ...) + noise``: the slowest mode ``f``, faster
modes that die out (``|g| < 1``), and a rounding floor where the curve stalls. Only ``f`` is wanted. So the
window is chosen by the data: late enough that the slope of ``log d`` has settled, early enough that the floor
is far below. Every admissible window is fitted twice, by a straight line and by a line with one decaying
exponential, and each fit carries a bound on its own error: what the floor could do to it, what is left of the
faster modes, and how far the curve later departs from it. The fit with the smallest bound is reported. A
curve on which no bound is small has no rate.

What no fit can see is a slower mode that has not surfaced above the floor; comparing with the prediction is
what finds it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]

_MIN_RECORDS = 12
#: Least fall of ``log d`` (in nats) inside a window: a mixture of modes looks straight on a shorter stretch.
_MIN_DECAY = 2.0
#: A slope known no better than this, relatively, has not settled.
_MAX_UNCERTAINTY = 3e-3
#: Half width of the interval in units of the error bound (calibrated in tests/analysis/test_analysis_rates.py).
_COVERAGE = 3.0
#: Levels above the floor at which a window may end.
_CLEARANCE = (30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 1e5, 1e7)
_STARTS = 12
#: Decay constants of the extra mode, in units of the window's length.
_DECAYS = np.geomspace(1.5, 40.0, 14)
#: Fits whose bound is within this factor of the smallest have a say in the interval.
_RIVALS = 5.0


class Fit(NamedTuple):
    """The factor by which the error shrinks each step, as measured.

    Attributes:
      factor: ``exp`` of the slope of ``log distance``; None where no rate is fitted.
      low, high: ends of the interval around ``factor``; None where no rate is fitted.
      first, last: the steps at which the fitted window begins and ends; None where no rate is fitted.
      reason: why no rate is fitted, None where one is.
    """

    factor: float | None
    low: float | None
    high: float | None
    first: int | None
    last: int | None
    reason: str | None


def fit(step: ArrayLike, distance: ArrayLike) -> Fit:
    """Measure the asymptotic factor ``f`` of ``distance ~ A f^step``.

    Args:
      step: ``(T,)`` increasing step numbers of the records.
      distance: ``(T,)`` nonnegative errors at these steps; records from the first one that is not finite or
        not positive on are ignored.

    Returns:
      A :class:`Fit`. Its interval covers rounding noise and modes still decaying; its reason starts with
      ``no asymptotic regime:`` where the curve supports no rate.

    Raises:
      ValueError: if the two arguments are not vectors of one length, or the steps do not increase.

    Example:
      >>> steps = np.arange(0, 1000, 5)
      >>> round(fit(steps, 0.1 * 0.98**steps).factor, 9)
      0.98
    """
    step, distance = _checked(step, distance)
    sound = np.isfinite(distance) & (distance > 0)
    count = len(sound) if sound.all() else int(np.argmin(sound))
    step, distance = step[:count], distance[:count]
    if count < _MIN_RECORDS:
        return _refuse(f"{count} usable records; a fit needs {_MIN_RECORDS}")
    floor = rounding_floor(distance)
    ends = _ends(distance, floor)
    if not ends:
        return _refuse("the error does not fall far enough above its rounding floor")
    best = _best_window(step, np.log(distance), floor / distance, ends)
    if best is None:
        return _refuse(f"the error falls by less than a factor {np.exp(_MIN_DECAY):.3g}")
    slope, bound, first, last = best
    if slope >= 0 or bound > _MAX_UNCERTAINTY * -slope:
        return _refuse(f"the slope is known to {bound / abs(slope):.1%} only; it has not settled")
    margin = _COVERAGE * bound + 1e-15
    low, high = np.exp(slope - margin), np.exp(slope + margin)
    return Fit(float(np.exp(slope)), float(low), float(high), int(step[first]), int(step[last - 1]), None)


def rounding_floor(distance: Vector) -> float:
    """Level of the noise at the end of a positive error curve ``(T,)``.

    A curve that stalls shows its floor. One that still falls shows only what is rough about it: second
    differences of ``log d``, taken ten times because rounding noise is correlated between records.
    """
    log = np.log(distance)
    tail = max(8, len(log) // 20)
    pace = (log[0] - log.min()) / max(1, int(np.argmin(log)))
    if (log[-tail] - log[-1]) / (tail - 1) < 0.5 * pace:
        return float(distance[-tail:].max())
    late = slice(max(0, len(log) * 3 // 4 - 2), None)
    rough = np.abs(np.diff(log[late], 2)) * distance[late][1:-1]
    return max(10 * float(np.median(rough)), 4e-16 * float(distance.max()))


def _checked(step: ArrayLike, distance: ArrayLike) -> tuple[Vector, Vector]:
    step, distance = np.asarray(step, float), np.asarray(distance, float)
    if step.ndim != 1 or step.shape != distance.shape:
        raise ValueError(f"step {step.shape} and distance {distance.shape} must be vectors of one length")
    if (np.diff(step) <= 0).any():
        raise ValueError("steps must increase")
    return step, distance


def _refuse(why: str) -> Fit:
    return Fit(None, None, None, None, None, f"no asymptotic regime: {why}")


def _ends(distance: Vector, floor: float) -> list[int]:
    """Where a window may end: just before the curve first comes within a factor of the floor."""
    ends = {
        int(np.argmax(below)) if (below := distance < c * floor).any() else len(distance) for c in _CLEARANCE
    }
    return sorted(end for end in ends if end >= _MIN_RECORDS)


def _best_window(step, log, noise, ends) -> tuple[float, float, int, int] | None:
    """``(slope, bound, first, last)`` of the window and model whose error bound is smallest.

    The smallest of many bounds is small partly by luck, so it is widened to the disagreement with the other
    fits that claim nearly as much.
    """
    found, usable = [], max(ends)
    for last in ends:
        for first in np.unique(np.linspace(0, last - _MIN_RECORDS, _STARTS).astype(int)):
            if log[first] - log[last - 1] >= _MIN_DECAY:
                window = slice(first, last)
                for slope, bound in _estimates(step[window], log[window], noise[window]):
                    missed = _missed_later(
                        step[first:usable], log[first:usable], noise[first:usable], last - first, slope
                    )
                    found.append((slope, bound + missed, first, last))
    if not found:
        return None
    slopes, bounds, firsts, lasts = np.array(found).T
    best = int(np.argmin(bounds))
    rivals = slopes[bounds <= _RIVALS * bounds[best]]
    bound = max(bounds[best], np.abs(rivals - slopes[best]).max())
    return float(slopes[best]), float(bound), int(firsts[best]), int(lasts[best])


def _missed_later(step: Vector, log: Vector, noise: Vector, count: int, slope: float) -> float:
    """How far slopes from the window (the first ``count`` records) to later ones are off, beyond noise."""
    if count == len(step):
        return 0.0
    anchor = slice(count * 2 // 3, count)
    line = log - slope * step
    misses = np.abs(line[count:] - line[anchor].mean()) - 3 * noise[count:]
    return float(max(0.0, (misses / (step[count:] - step[anchor].mean())).max()))


def _estimates(step: Vector, log: Vector, noise: Vector) -> list[tuple[float, float]]:
    """``(slope, bound on its error)`` of the straight line and of the line with one decaying mode."""
    length = step[-1] - step[0]
    time = (step - step[0]) / length
    modes = np.exp(-np.outer(_DECAYS, time))
    late = len(time) // 3
    line, line_noise = _slope(time, log, noise)
    bent, bent_noise, misfit = _bent(time, modes, log, noise)
    later, _, _ = _bent(time[late:], modes[:, late:], log[late:], noise[late:])
    return [
        (line / length, (line_noise + misfit + abs(line - bent)) / length),
        (bent / length, (bent_noise + misfit + abs(later - bent)) / length),
    ]


def _slope(time: Vector, log: Vector, noise: Vector) -> tuple[float, float]:
    """Least squares slope and the most that relative errors within ``noise`` can move it."""
    centred = time - time.mean()
    weights = centred / (centred @ centred)
    return float(weights @ log), float(np.abs(weights) @ noise)


def _bent(time: Vector, modes: Vector, log: Vector, noise: Vector) -> tuple[float, float, float]:
    """The slope beside the one mode out of ``(decays, T)`` that leaves the smallest residual.

    Regression in two stages: with ``1`` and the mode projected out of the time, the slope is one quotient.
    """
    modes = modes - modes.mean(axis=1, keepdims=True)
    modes = modes / np.linalg.norm(modes, axis=1, keepdims=True)
    time, log = time - time.mean(), log - log.mean()
    freed_time = time - (modes @ time)[:, None] * modes
    freed_log = log - (modes @ log)[:, None] * modes
    weights = freed_time / (freed_time * freed_time).sum(axis=1, keepdims=True)
    slopes = weights @ log
    residuals = freed_log - slopes[:, None] * freed_time
    best = int(np.argmin((residuals**2).sum(axis=1)))
    return float(slopes[best]), float(np.abs(weights[best]) @ noise), 2 * float(residuals[best].std())
