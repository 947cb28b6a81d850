r"""Gradient flow (Saxe, McClelland and Ganguli, 2013) from balanced, aligned starts, one scalar mode at a time.

Every mode's strength a follows ``da/dt = N a^{2 - 2/N} (s - a)`` towards the target's singular value s. For
``N = 2`` it is logistic; for any N the time as a function of the strength is an integral, so times to learn
need no integration in time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def speed(strength: ArrayLike, singular_value: ArrayLike, num_layers: int) -> np.ndarray:
    """``N a^{2 - 2/N} (s - a)``.

    Args:
      strength: ``a >= 0``, any shape. singular_value: ``s > 0``. num_layers: N >= 1.

    Raises:
      ValueError: a negative strength, of which the power is not real, or arguments that are none.

    Example:
      >>> from dlnjax.theory import modes
      >>> float(modes.speed(0.5, 1.0, 2))  # 2 * 0.5 (1 - 0.5)
      0.5
    """
    strength, s = np.asarray(strength, np.float64), np.asarray(singular_value, np.float64)
    _check_depth(num_layers)
    if not (np.all(np.isfinite(strength) & (strength >= 0)) and np.all(np.isfinite(s) & (s > 0))):
        raise ValueError(f"strength={strength}, singular_value={s}; give finite a >= 0 and s > 0")
    return num_layers * strength ** (2 - 2 / num_layers) * (s - strength)


def trajectory(times: ArrayLike, start: float, singular_value: float, num_layers: int) -> np.ndarray:
    r"""The strength ``a(t)`` of one mode.

    ``a(t) = s e^{2st} / (e^{2st} - 1 + s/a_0)`` for ``N = 2`` [paper: Saxe, McClelland and Ganguli, 2013]; for other N
    the inverse of :func:`time_to_reach`, found by bisection, to the rounding of the time.

    Args:
      times: any shape, >= 0 and finite; the flow is of ``1/2 (a - s)^2`` summed over modes.
      start: ``a_0 > 0``.
      singular_value: ``s > 0``.
      num_layers: N >= 1.

    Raises:
      ValueError: a start or singular value that is not positive, negative times, no layer.

    Example:
      >>> from dlnjax.theory import modes
      >>> round(float(modes.trajectory(1.0, 0.1, 1.0, 2)), 6)
      0.450853
    """
    _check(start, singular_value, num_layers)
    times = np.asarray(times, dtype=np.float64)
    if not np.all(np.isfinite(times) & (times >= 0)):
        raise ValueError(
            f"times={times}; give finite times >= 0: the flow is followed forward from its start"
        )
    s = singular_value
    if start == s:
        return np.full(times.shape, float(s))
    if num_layers == 1:
        return s + (start - s) * np.exp(-times)
    origin = _logit(start, s)
    if num_layers == 2:
        return _strength(origin + 2 * s * times, start < s, s)
    fastest = num_layers * s * max(start, s) ** (1 - 2 / num_layers)
    low, high = np.full(times.shape, origin), np.minimum(origin + fastest * times, max(origin, 40.0))
    for _ in range(200):
        middle = (low + high) / 2
        if np.all((middle <= low) | (middle >= high)):
            break
        early = _elapsed(origin, middle, start < s, s, num_layers) < times
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    return _strength((low + high) / 2, start < s, s)


def time_to_reach(strength: ArrayLike, start: float, singular_value: float, num_layers: int) -> np.ndarray:
    r"""``t = int_{a_0}^a da' / (N a'^{2-2/N} (s - a'))``: when a mode has come to ``strength``.

    By Gauss-Legendre quadrature in ``u = log(a / |s - a|)``, in which the integrand
    ``1 / (N s a^{1-2/N})`` is smooth from the smallest start to the end.

    Args:
      strength: from ``start`` on towards ``singular_value``, which is never reached; any shape.
      start, singular_value, num_layers: as in :func:`trajectory`.

    Returns:
      Times >= 0 in the units of ``1/s`` for ``N = 2``.

    Raises:
      ValueError: a strength that the mode never has after its start; arguments as in :func:`trajectory`.

    Example:
      >>> from dlnjax.theory import modes
      >>> round(float(modes.time_to_reach(0.5, 0.1, 1.0, 2)), 6)  # log(9) / 2
      1.098612
    """
    _check(start, singular_value, num_layers)
    strength, s = np.asarray(strength, dtype=np.float64), singular_value
    ahead = (strength >= start) & (strength < s) if start < s else (strength <= start) & (strength > s)
    if not np.all(ahead | ((strength == start) & np.isfinite(strength))):
        raise ValueError(
            f"strength={strength} is never reached from start={start} on the way to singular_value={s}; give strengths "
            "from the start on, the singular value excluded"
        )
    if start == s:
        return np.zeros(strength.shape)
    return _elapsed(_logit(start, s), _logit(strength, s), start < s, s, num_layers)


def _logit(strength: float | np.ndarray, s: float) -> np.ndarray:
    return np.log(strength) - np.log(np.abs(s - strength))


def _strength(place: np.ndarray, below: bool, s: float) -> np.ndarray:
    """The inverse of :func:`_logit`, below or above s."""
    if not below:
        return s / (-np.expm1(-place))
    return s * np.where(place < 0, np.exp(np.minimum(place, 0)), 1) / (1 + np.exp(-np.abs(place)))


def _elapsed(origin: np.ndarray, place: np.ndarray, below: bool, s: float, num_layers: int) -> np.ndarray:
    nodes, weights = np.polynomial.legendre.leggauss(16)
    panels = 96
    width = (place - origin) / panels
    total = np.zeros(np.shape(place))
    for k in range(panels):
        u = origin + width[..., None] * (k + (1 + nodes) / 2)
        total = total + width / 2 * np.sum(weights * _strength(u, below, s) ** (2 / num_layers - 1), axis=-1)
    return total / (num_layers * s)


def time_to_learn(start: float, singular_value: float, num_layers: int, fraction: float = 0.5) -> float:
    """When a mode that starts small reaches this fraction of its singular value.

    Strong modes are learned first: ``N = 2`` takes ``log(s/a_0 - 1) / (2s)`` to a half, deeper ones about
    ``a_0^{-(1 - 2/N)} / ((N - 2) s)`` once the start is small.

    Raises:
      ValueError: a fraction outside [start/s, 1), or arguments as in :func:`trajectory`.

    Example:
      >>> from dlnjax.theory import modes
      >>> [round(modes.time_to_learn(1e-3, s, 2), 2) for s in (4.0, 1.0)]  # the strong mode first
      [1.04, 3.45]
    """
    _check(start, singular_value, num_layers)
    if not start / singular_value <= fraction < 1:
        raise ValueError(f"fraction={fraction}; give one between start/singular_value and 1")
    return float(time_to_reach(max(fraction * singular_value, start), start, singular_value, num_layers))


def _check(start: float, singular_value: float, num_layers: int) -> None:
    if not (0 < start < np.inf and 0 < singular_value < np.inf):
        raise ValueError(f"start={start}, singular_value={singular_value}; both must be positive and finite")
    _check_depth(num_layers)


def _check_depth(num_layers: int) -> None:
    if num_layers != int(num_layers) or num_layers < 1:
        raise ValueError(f"num_layers={num_layers}; give a whole number of at least 1")
