r"""Heavy ball on the same spectrum: what momentum buys, and what depth then costs [derived].

With ``m <- beta m + g`` and ``W <- W - mu m`` every mode of the linearised step obeys
``z^2 - (1 + beta - lambda) z + beta = 0``. At the best step and momentum the factor is
``(sqrt(Lambda) - 1) / (sqrt(Lambda) + 1)``, ``Lambda = lambda_max / lambda_min``: over orthonormal layers
``1 - c / sqrt(N)`` where plain descent has ``1 - c / N``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from dlnjax._types import Rate, Values


class Best(NamedTuple):
    """The best heavy ball for a spectrum: its factor, momentum ``beta`` and step size ``mu``."""

    factor: float
    momentum: float
    step_size: float


def mode_factor(eigenvalue: ArrayLike | Sequence[Values], momentum: ArrayLike) -> np.ndarray:
    """Modulus of the larger root of ``z^2 - (1 + beta - lambda) z + beta``, over arrays of eigenvalues and momenta.

    Raises:
      ValueError: a momentum outside [0, 1).

    Example:
      >>> from dlnjax.theory import momentum
      >>> momentum.mode_factor([0.1, 0.25], [0.0, 0.25]).round(6).tolist()  # plain, and at the double root
      [0.9, 0.5]
    """
    momentum = np.asarray(momentum, dtype=np.float64)
    if not np.all((momentum >= 0) & (momentum < 1)):
        raise ValueError(f"momentum={momentum}; give numbers in [0, 1)")
    trace = 1 + momentum - np.asarray(eigenvalue, dtype=np.float64)
    square = trace**2 - 4 * momentum
    real = (np.abs(trace) + np.sqrt(np.maximum(square, 0))) / 2
    return np.where(square < 0, np.sqrt(momentum), real)


def predict(rate: Rate, momentum: float) -> float:
    """The factor per step of heavy ball at the step size that ``rate`` was predicted for.

    The modulus falls and then rises in the eigenvalue, so the extreme ones decide. On the double root the
    error carries a further factor linear in the step. At a saddle (a negative eigenvalue) it is above one.

    Args:
      rate: from ``rates.predict`` (its eigenvalues contain the step size).
      momentum: ``beta`` in [0, 1).

    Raises:
      ValueError: a momentum outside [0, 1).

    Example:
      >>> from dlnjax.theory import momentum, spectrum
      >>> rate = spectrum.rate(spectrum.extremes([0.25, 0.5]), 0.1, 2)
      >>> momentum.predict(rate, 0.0), momentum.predict(rate, 0.25)  # both modes at the modulus sqrt(0.25)
      (0.75, 0.5)
    """
    return float(np.max(mode_factor([rate.eigenvalue_min, rate.eigenvalue_max], momentum)))


def step_max(rate: Rate, step_size: float, momentum: float) -> float:
    """The stability edge ``2 (1 + beta) mu / lambda_max``; 0 at a saddle, where no step is stable.

    Args:
      rate: from ``rates.predict`` at ``step_size > 0``. momentum: ``beta`` in [0, 1).

    Raises:
      ValueError: a momentum outside [0, 1), a step size that is not positive.

    Example:
      >>> from dlnjax.theory import momentum, spectrum
      >>> rate = spectrum.rate(spectrum.extremes([0.25, 0.5]), 0.1, 2)
      >>> round(momentum.step_max(rate, 0.1, 0.5), 6)  # 2 (1 + 0.5) 0.1 / 0.5
      0.6
    """
    mode_factor(1.0, momentum)
    _check_step(step_size)
    return float(2 * (1 + momentum) * step_size / rate.eigenvalue_max) if rate.eigenvalue_min > 0 else 0.0


def best(rate: Rate, step_size: float) -> Best:
    """The momentum and step size with the smallest factor for this spectrum (Polyak, 1964).

    Args:
      rate: from ``rates.predict`` at ``step_size``.
      step_size: the mu of that prediction.

    Raises:
      ValueError: a saddle, where every step grows; a step size that is not positive.

    Example:
      >>> from dlnjax.theory import momentum, spectrum
      >>> rate = spectrum.rate(spectrum.extremes([0.25, 2.25]), 0.1, 2)
      >>> momentum.best(rate, 0.1)
      Best(factor=0.5, momentum=0.25, step_size=0.1)
    """
    _check_step(step_size)
    if not 0 < rate.eigenvalue_min <= rate.eigenvalue_max < np.inf:
        raise ValueError(
            f"eigenvalues from {rate.eigenvalue_min} to {rate.eigenvalue_max}: a saddle has no best step; "
            f"predict at a minimum"
        )
    low, high = np.sqrt(rate.eigenvalue_min), np.sqrt(rate.eigenvalue_max)
    factor = float((high - low) / (high + low))
    return Best(factor, factor**2, float(4 * step_size / (low + high) ** 2))


def _check_step(step_size: float) -> None:
    if not 0 < step_size < np.inf:
        raise ValueError(f"step_size={step_size}; give a positive, finite number")
