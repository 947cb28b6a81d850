"""The asymptotic factor of a recorded error curve, with an interval, or the reason why there is none.

A linearly convergent run leaves ``d_t^2 = sum_k C_k f_k^(2t)`` and a rounding floor. Wanted is the slowest mode
``f_1``, and what can be known of it depends on its neighbours. Two modes of rates ``b`` and ``b + g`` bend the
logarithm of ``d_t^2`` by ``w (1 - w) g^2``, ``w`` the share of the slower; a bend below the noise hides a pair whose
slower mode lies up to ``sqrt(bend (1 - w) / w)`` below their mean. So windows of records are fitted with one to four
modes, and every fit answers with two numbers: how well it knows its slowest rate, and how large a bend that mode may
hide. Where no bend is seen and the noise leaves no place for one, the interval is the first alone: a few millionths of
the rate. Otherwise the distance to a hidden slower mode with a thousandth of the squared error is added. For close
modes that mostly comes to more than 5% of the rate: they are *not separable*, and there is no rate.

Coverage is measured: results/methods/intervals.csv holds the share of intervals that contain the truth, for gaps of 0
to 50%, one to four modes, floors, lengths, signs and precisions (:mod:`dlnjax.analysis.coverage`).

What no fit can see is a slower mode that has not surfaced above the floor; comparing with the prediction is what
finds it. Modes closer than a hundredth of their rate may count as one, the interval then being about their mean: of
fresh curves with two modes 0.5% apart 1 interval of 20 missed the slower, 0.1% apart 7 of 40.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dlnjax.analysis._modes import Slowest, Vector, Window, slowest_of

_MIN_RECORDS = 12
#: Least fall of ``log d`` (in nats) inside a window: a mixture of modes looks straight on a shorter stretch.
_MIN_DECAY = 2.0
#: A slope known no better than this, relatively, is no answer.
_MAX_UNCERTAINTY = 0.05
#: Windows that end where the curve comes this near to its floor, and how many of them.
_CLEARANCE, _STARTS = 3.0, 12
_MOST_MODES = 4
#: Root mean square residual, in tenths of the floor, beyond which a fit has not caught the curve.
_MISFIT = 10.0
#: The slowest mode must stand this many standard deviations above nothing.
_SEEN = 5.0
#: Half width of the interval in standard deviations of the rate. They are many because the fit is the best of many.
_DEVIATIONS = 12.0
#: No interval is narrower than this, relatively to the rate: what four modes miss of the others.
_LEAST = 3e-6
#: Where no pair of modes this far apart (relatively to their rate, of equal shares) can hide, none is allowed for.
_RESOLVED = 2e-4
#: A bend of more standard deviations than this is one.
_BENT = 3.0
#: ``sqrt((1 - w) / w)`` for the smallest share ``w`` that a hidden slower mode has: a thousandth.
_HIDDEN = 40.0
#: Fits whose half width is within this factor of the smallest have a say in the interval.
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
      A :class:`Fit`. Its interval is meant to hold the slowest mode's factor in at least 95 of 100 curves; its reason
      starts with ``no asymptotic regime:`` where the curve supports no rate.

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
    if count:  # by a power of two, so that nothing is rounded
        distance = np.ldexp(distance, -np.frexp(distance.max())[1])
    if count < _MIN_RECORDS or not distance.min() > 0:
        return _refuse(f"{count} usable records; a fit needs {_MIN_RECORDS} within the range of numbers")
    candidates = _candidates(step, distance)
    if not candidates:
        return _refuse(
            "no window above the rounding floor is a sum of a few modes that has fallen far enough"
        )
    slopes, halves, firsts, lasts = np.array(candidates).T
    best = int(np.argmin(halves))
    rivals = slopes[halves <= _RIVALS * halves[best]]
    half = max(halves[best], np.abs(rivals - slopes[best]).max())
    if half > _MAX_UNCERTAINTY * slopes[best]:
        return _refuse(
            f"not separable: the slowest mode's rate is known to {half / slopes[best]:.2g} of itself only"
        )
    low, factor, high = np.exp([-slopes[best] - half, -slopes[best], -slopes[best] + half])
    first, last = int(firsts[best]), int(lasts[best])
    return Fit(
        float(factor), float(low) - 1e-15, float(high) + 1e-15, int(step[first]), int(step[last - 1]), None
    )


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


def _candidates(step: Vector, distance: Vector) -> list[tuple[float, float, int, int]]:
    """``(slope, half width, first, last)`` of every fit that holds water; slopes of ``-log d`` per step."""
    floor = rounding_floor(distance)
    near = distance < _CLEARANCE * floor
    last = int(np.argmax(near)) if near.any() else len(distance)
    candidates = []
    for first in np.unique(np.linspace(0, max(0, last - _MIN_RECORDS), _STARTS).astype(int)):
        here, length = slice(first, last), step[last - 1] - step[first]
        if last - first < _MIN_RECORDS or np.log(distance[first] / distance[last - 1]) < _MIN_DECAY:
            continue
        fall = distance[here] / distance[first]
        noise = 0.2 * fall * floor / distance[first] + 1e-15 * fall**2
        window = Window((step[here] - step[first]) / length, fall**2, 1 / noise)
        for one in slowest_of(window, min(_MOST_MODES, (last - first - 4) // 2)):
            if _sound(one):
                candidates.append((one.rate / 2 / length, _half_width(one) / 2 / length, first, last))
    return candidates


def _sound(one: Slowest) -> bool:
    """Whether a fit follows the curve to its noise, with a slowest mode that is really there and falls."""
    return one.residual <= _MISFIT and one.amplitude > _SEEN and one.rate >= 2 * _MIN_DECAY


def _half_width(one: Slowest) -> float:
    """Half the interval of the slowest rate: what noise leaves open and, unless excluded, a slower mode close by."""
    width = _DEVIATIONS * one.error + _LEAST * one.rate
    hidden = np.sqrt(abs(one.bend) + 2 * one.bend_error)
    if hidden <= _RESOLVED * one.rate and abs(one.bend_seen) <= _BENT:
        return width
    return width + _HIDDEN * hidden
