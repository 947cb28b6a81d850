r"""Source E: gradient flow from balanced, aligned starts, one scalar mode at a time.

Every mode's strength a follows ``da/dt = N a^{2 - 2/N} (s - a)`` towards the target's singular value s. For
``N = 2`` it is logistic; for any N the time as a function of the strength is an integral, so times to learn
need no integration in time.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def speed(strength: Any, singular_value: Any, num_layers: int) -> Any:
    """``N a^{2 - 2/N} (s - a)``."""
    return num_layers * strength ** (2 - 2 / num_layers) * (singular_value - strength)


def trajectory(times: Any, start: float, singular_value: float, num_layers: int) -> np.ndarray:
    r"""The strength ``a(t)`` of one mode.

    ``a(t) = s e^{2st} / (e^{2st} - 1 + s/a_0)`` for ``N = 2`` [paper]; for other N the inverse of
    :func:`time_to_reach`, found by bisection, to about 1e-13 relative.

    Args:
      times: any shape, >= 0; the flow is of ``1/2 (a - s)^2`` summed over modes.
      start: ``a_0 > 0``.
      singular_value: ``s > 0``.
      num_layers: N >= 1.

    Raises:
      ValueError: a start or singular value that is not positive.
    """
    _check(start, singular_value, num_layers)
    times = np.asarray(times, dtype=np.float64)
    s = singular_value
    if num_layers == 2:
        return s / (1 + (s / start - 1) * np.exp(-2 * s * times))
    if num_layers == 1:
        return s + (start - s) * np.exp(-times)
    if start == s:
        return np.full(times.shape, float(s))
    fastest = num_layers * s * max(start, s) ** (1 - 2 / num_layers)
    origin = _logit(start, s)
    low, high = np.full(times.shape, origin), origin + fastest * times
    for _ in range(64):
        middle = (low + high) / 2
        early = _elapsed(origin, middle, start < s, s, num_layers) < times
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    return _strength((low + high) / 2, start < s, s)


def time_to_reach(strength: Any, start: float, singular_value: float, num_layers: int) -> np.ndarray:
    r"""``t = int_{a_0}^a da' / (N a'^{2-2/N} (s - a'))``: when a mode has come to ``strength``.

    By Gauss-Legendre quadrature in ``u = log(a / |s - a|)``, in which the integrand
    ``1 / (N s a^{1-2/N})`` is smooth from the smallest start to the end.

    Args:
      strength: between ``start`` and ``singular_value``, the latter excluded; any shape.
      start, singular_value, num_layers: as in :func:`trajectory`.
    """
    _check(start, singular_value, num_layers)
    strength = np.asarray(strength, dtype=np.float64)
    places = _logit(strength, singular_value)
    return _elapsed(_logit(start, singular_value), places, start < singular_value, singular_value, num_layers)


def _logit(strength: Any, s: float) -> Any:
    return np.log(strength / np.abs(s - strength))


def _strength(place: Any, below: bool, s: float) -> Any:
    """The inverse of :func:`_logit`, below or above s."""
    return s / (1 + np.exp(-place)) if below else s / (-np.expm1(-place))


def _elapsed(origin: float, place: np.ndarray, below: bool, s: float, num_layers: int) -> np.ndarray:
    nodes, weights = np.polynomial.legendre.leggauss(16)
    panels = 48
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
      ValueError: a fraction outside (start/s, 1).
    """
    if not start / singular_value <= fraction < 1:
        raise ValueError(f"fraction={fraction}; give one between start/singular_value and 1")
    return float(time_to_reach(fraction * singular_value, start, singular_value, num_layers))


def _check(start: float, singular_value: float, num_layers: int) -> None:
    if not (start > 0 and singular_value > 0):
        raise ValueError(f"start={start}, singular_value={singular_value}; both must be positive")
    if num_layers < 1:
        raise ValueError(f"num_layers={num_layers}; give at least 1")
