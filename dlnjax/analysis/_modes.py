r"""Sums of decaying modes fitted to a squared error curve, and what the data leave open about the slowest of them.

On a window of records the square of the error is :math:`y_t = \sum_{k \le m} C_k e^{-b_k t}`, amplitudes of either
sign: for orthogonal modes that is exact, cross terms and second orders of a nonlinear start are further modes. The
amplitudes are linear and solved for, the rates are found by damped Gauss-Newton steps on what is left (variable
projection; Golub and Pereyra, 1973, with the shorter derivative of Kaufman, 1975).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

_ITERATIONS, _DAMPINGS = 30, 8
#: Where a further mode is looked for: fractions of the slowest rate, multiples of the fastest.
_SLOWER, _FASTER = np.array([0.5, 0.8, 0.95, 0.99]), np.array([1.02, 1.1, 1.3, 1.8, 2.5, 4.0, 8.0])
#: Rates of more than this in units of the window's inverse length are over before the second record.
_FASTEST = 5e3
#: A further mode that leaves more than this part of the squares ends the search.
_WORTH_IT = 0.8
#: Largest correlation of neighbouring residuals that is allowed for.
_CORRELATION = 0.97


class Window(NamedTuple):
    """Records ``(T,)``: times from 0 to 1, the squared error beginning with 1, and one over its noise."""

    time: Vector
    square: Vector
    weight: Vector


class Slowest(NamedTuple):
    """What one fit says of the slowest mode of the squared error; times in units of the window's length.

    Attributes:
      rate: ``b_1``.
      error: its standard deviation, by the size of the residuals and their correlation.
      bend: curvature of its logarithm, 0 where it is one mode; a cluster of modes with rates ``b`` has their variance.
      bend_error: its standard deviation.
      bend_seen: the bend in units of the standard deviation that it would have were the residuals independent.
      amplitude: ``C_1`` in units of its standard deviation.
      residual: root mean square residual in units of the noise.
    """

    rate: float
    error: float
    bend: float
    bend_error: float
    bend_seen: float
    amplitude: float
    residual: float


class _Projection(NamedTuple):
    """Weighted modes ``(T, m)``, their QR factors, the amplitudes and the residual."""

    modes: NDArray
    q: NDArray
    amplitudes: NDArray
    residual: NDArray


def slowest_of(window: Window, most: int) -> list[Slowest]:
    """The slowest mode by fits of 1 to ``most`` modes, each begun from the one before, until one more hardly helps.

    Fits whose parameters are not identifiable are left out.
    """
    rates, estimates, left = np.array([_mean_rate(window)]), [], np.inf
    for count in range(1, most + 1):
        if count > 1:
            begun = _one_more(window, rates)
            if begun is None:
                break
            rates = begun
        rates = _improved(window, rates)
        before, left = left, float(np.sum(_projected(window, rates).residual ** 2))
        estimate = _assessed(window, rates)
        if estimate is not None:
            estimates.append(estimate)
        if left > _WORTH_IT * before:
            break
    return estimates


def _mean_rate(window: Window) -> float:
    """Least squares slope of the logarithm."""
    time = window.time - window.time.mean()
    return max(1e-3, -float(time @ np.log(window.square) / (time @ time)))


def _projected(window: Window, rates: Vector) -> _Projection:
    modes = np.exp(-np.outer(window.time, rates)) * window.weight[:, None]
    q, r = np.linalg.qr(modes)
    values = window.weight * window.square
    onto = q.T @ values
    amplitudes = np.linalg.lstsq(r, onto, rcond=1e-14)[0]
    return _Projection(modes, q, amplitudes, values - q @ onto)


def _one_more(window: Window, rates: Vector) -> Vector | None:
    """The rates with one more, where it leaves the least."""
    trials = []
    for rate in (*rates[0] * _SLOWER, *rates[-1] * _FASTER):
        more = np.sort(np.append(rates, rate))
        if rate < _FASTEST and (np.diff(more) > 1e-9 * more[1:]).all():
            trials.append((float(np.sum(_projected(window, more).residual ** 2)), more))
    return min(trials, key=lambda trial: trial[0])[1] if trials else None


def _improved(window: Window, rates: Vector) -> Vector:
    """Rates ``b_k`` that leave the least squares; their increments stay positive, so that they stay in order."""
    damping, steps = 1e-3, np.log(np.diff(rates, prepend=0.0))
    now = _projected(window, rates)
    for _ in range(_ITERATIONS):
        cost = now.residual @ now.residual
        by_rate = window.time[:, None] * now.modes * now.amplitudes
        slope = np.cumsum(by_rate[:, ::-1], axis=1)[:, ::-1] * np.exp(steps)
        slope = slope - now.q @ (now.q.T @ slope)
        normal, down = slope.T @ slope, slope.T @ now.residual
        for _ in range(_DAMPINGS):
            move = np.linalg.lstsq(normal + damping * np.diag(np.diag(normal)), -down, rcond=None)[0]
            trial = steps + np.clip(move, -1.5, 1.5)
            moved = np.cumsum(np.exp(trial))
            if moved[-1] < 2 * _FASTEST:
                then = _projected(window, moved)
                if then.residual @ then.residual < cost:
                    break
            damping *= 10
        else:
            return rates
        steps, rates, now, damping = trial, moved, then, max(damping / 10, 1e-12)
        if cost - now.residual @ now.residual < 1e-6 * cost:
            break
    return rates


def _assessed(window: Window, rates: Vector) -> Slowest | None:
    """The fit's estimate of the slowest mode; None where its parameters are not identifiable."""
    now, count = _projected(window, rates), len(rates)
    slopes = np.concatenate([now.modes, -window.time[:, None] * now.modes * now.amplitudes], axis=1)
    sizes = np.linalg.norm(slopes, axis=0)
    if not (sizes > 0).all():
        return None
    q, r = np.linalg.qr(slopes / sizes)
    if np.abs(np.diag(r)).min() < 1e-13:
        return None
    weights = np.linalg.norm(np.linalg.inv(r), axis=1) / sizes
    bending = now.modes[:, 0] * now.amplitudes[0] * window.time**2 / 2
    bending = bending - q @ (q.T @ bending)
    free = float(bending @ bending)
    noise, residual = _noise(now.residual, 2 * count)
    if not free > 0:
        return None
    bend = float(bending @ now.residual) / free
    return Slowest(
        rate=float(rates[0]),
        error=float(weights[count] * noise),
        bend=bend,
        bend_error=noise / free**0.5,
        bend_seen=bend * free**0.5 / max(residual, 1e-3),
        amplitude=float(now.amplitudes[0] / (weights[0] * noise)),
        residual=residual,
    )


def _noise(residual: Vector, parameters: int) -> tuple[float, float]:
    """Size of the residuals, once as it acts on smooth functions (their correlation counted) and once as it is."""
    size = float(np.sqrt(residual @ residual / max(1, len(residual) - parameters)))
    if size < 1e-3:
        return 1e-3, size
    correlation = float(np.clip(residual[1:] @ residual[:-1] / (residual @ residual), 0, _CORRELATION))
    return size * np.sqrt((1 + correlation) / (1 - correlation)), size
