r"""What is proved about a run before it starts: constants of the loss, the basin, the step and the factor.

The theorem [derived] is for equal hidden widths, a product of rank r = the width, ``d_N >= r`` and one step
``mu' = mu / sigma_1^2`` behind the first layer: from ``dist^2(0) <= alpha beta sigma_r^2 / (4 N^2)`` with
``mu <= 3 beta / (4 N)``,

.. math:: \mathrm{dist}^2(t+1) \le (1 - 2 \alpha \mu / (5 \kappa^2))\, \mathrm{dist}^2(t),

dist the gauge-invariant distance of :mod:`dlnjax.theory.gauge`. Qin, Tan and Zhu's theorem, 2024 [paper] has the same
shape, with constants that were not available to this project. Where an assumption fails the answer is
``applies = False`` with the reason, and no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from dlnjax._types import Layers, Number, Problem
from dlnjax.theory import _host

_SLACK = 1e-9
#: A product gradient above this fraction of (largest curvature x product) is a residual.
_RESIDUAL = 1e-5
#: Layers behind the first whose Gram matrix is farther than this from the identity are not orthonormal.
_ORTHONORMAL = 1e-5


class Guarantee(NamedTuple):
    """What the theorem promises, or why it says nothing.

    Attributes:
      applies: whether every assumption holds.
      reason: the first assumption that fails; None where it applies.
      radius: the basin, ``dist(0) <= radius``; None where it does not apply.
      step_max: the largest ``mu`` allowed; None where it does not apply.
      factor: of ``dist`` per step; None where it does not apply.
    """

    applies: bool
    reason: str | None
    radius: float | None
    step_max: float | None
    factor: float | None


class Constants(NamedTuple):
    """``<dh(P) - dh(Q), P - Q> >= alpha ||P - Q||^2 + beta ||dh(P) - dh(Q)||^2``, ``alpha beta <= 1/4``."""

    alpha: float
    beta: float


def constants_from_curvature(low: float, high: float) -> Constants:
    """RCG constants of a loss whose Hessian on products lies between ``low`` and ``high`` [derived].

    ``alpha = m M / (m + M)``, ``beta = 1 / (m + M)``: strong convexity and cocoercivity joined.

    Raises:
      ValueError: not ``0 <= low <= high`` with ``high > 0`` and finite.

    Example:
      >>> from dlnjax.theory import guarantee
      >>> guarantee.constants_from_curvature(1.0, 3.0)
      Constants(alpha=0.75, beta=0.25)
    """
    if not (0 <= low <= high < np.inf and high > 0):
        raise ValueError(f"curvature between {low} and {high}; give 0 <= low <= high, high > 0")
    return Constants(low * high / (low + high), 1 / (low + high))


def constants(problem: Problem) -> Constants:
    """The RCG constants of a square loss, from the extreme eigenvalues of ``C``; 1/2 and 1/2 if whitened.

    A problem with a method ``curvature() -> (low, high)`` is asked instead.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import problem
      >>> from dlnjax.theory import guarantee
      >>> guarantee.constants(problem.whitened(jnp.eye(2)))
      Constants(alpha=0.5, beta=0.5)
    """
    asked = getattr(problem, "curvature", None)
    if asked is not None:
        return constants_from_curvature(*(float(x) for x in asked()))
    data = _host.data(problem)
    if data.covariance is None:
        return Constants(0.5, 0.5)
    values, _ = data.eigen()
    return constants_from_curvature(float(values[0]), float(values[-1]))


def from_spectrum(
    singular_values: Sequence[float],
    *,
    dims: Sequence[int],
    step_size: Number,
    scales: Sequence[Number] | np.ndarray | None = None,
    alpha: float = 0.5,
    beta: float = 0.5,
    distance: float | None = None,
) -> Guarantee:
    """The theorem from the singular values of the solution's product alone [derived].

    Args:
      singular_values: of ``W*``, positive; their number must be the hidden width.
      dims: ``(d_0, ..., d_N)``.
      step_size: ``mu``.
      scales: ``(first, middle, last)`` or one multiplier a layer; the theorem asks for 1 and ``1/sigma_1^2``.
      alpha, beta: RCG constants of the loss.
      distance: ``dist(0)``; None leaves the start unchecked (``radius`` then says what it must meet).

    Raises:
      ValueError: dims, steps, singular values, constants or a distance that are none (negative, not finite).

    Example:
      >>> from dlnjax.theory import guarantee
      >>> promise = guarantee.from_spectrum([1.0, 0.5], dims=(4, 2, 2, 4), step_size=0.01)
      >>> promise.applies, round(promise.radius, 6)
      (True, 0.041667)
    """
    widths = [int(d) for d in dims]
    depth = len(widths) - 1
    steps = _host.layer_steps(step_size, scales, depth)
    sigma = np.sort(np.asarray(singular_values, dtype=np.float64))[::-1]
    _check_numbers(sigma, alpha, beta, distance)
    rank = int(np.sum(sigma > 1e-12 * sigma.max(initial=0.0)))
    reason = _network_reason(widths, rank) or _loss_reason(alpha)
    if reason:
        return Guarantee(False, reason, None, None, None)
    sigma = sigma[:rank]
    radius = float(np.sqrt(alpha * beta) * sigma[-1] / (2 * depth))
    step_max = 3 * beta / (4 * depth)
    reason = _step_reason(steps, sigma[0], step_max) or _start_reason(distance, radius)
    if reason:
        return Guarantee(False, reason, None, None, None)
    kappa = sigma[0] / sigma[-1]
    return Guarantee(True, None, radius, step_max, float(np.sqrt(1 - 2 * alpha * steps[0] / (5 * kappa**2))))


def _check_numbers(sigma: np.ndarray, alpha: float, beta: float, distance: float | None) -> None:
    if sigma.ndim != 1 or not np.all(np.isfinite(sigma) & (sigma >= 0)):
        raise ValueError(f"singular_values={list(sigma)}; give finite numbers >= 0")
    if not (alpha >= 0 and 0 < beta < np.inf and alpha * beta <= 0.25 * (1 + _SLACK)):
        raise ValueError(f"alpha={alpha}, beta={beta}; give alpha >= 0, beta > 0 with alpha beta <= 1/4")
    if distance is not None and not 0 <= distance < np.inf:
        raise ValueError(f"distance={distance}; give a finite number >= 0, or None")


def _network_reason(dims: list[int], rank: int) -> str | None:
    if len(set(dims[1:-1])) > 1:
        return f"hidden widths {dims[1:-1][:6]} are unequal"
    if dims[-1] < dims[1]:
        return f"the last layer is wide: d_N={dims[-1]} < r={dims[1]}"
    if rank != dims[1]:
        return f"the solution has rank {rank}, the width is {dims[1]}"
    return None


def _loss_reason(alpha: float) -> str | None:
    return None if alpha > 0 else "the data do not span the inputs: alpha = 0"


def _step_reason(steps: np.ndarray, sigma: float, step_max: float) -> str | None:
    if np.ptp(steps[1:]) > _SLACK * steps[1]:
        return "the steps behind the first layer differ"
    if abs(steps[1] * sigma**2 / steps[0] - 1) > _SLACK:
        return f"the steps behind the first layer are {steps[1] / steps[0]:g} mu, not mu/sigma_1^2"
    if steps[0] > step_max * (1 + _SLACK):
        return f"mu={steps[0]:g} exceeds 3 beta/(4N) = {step_max:g}"
    return None


def _start_reason(distance: float | None, radius: float) -> str | None:
    if distance is None or distance <= radius:
        return None
    return f"the start is at distance {distance:g}, outside the basin {radius:g}"


def guarantee(
    params: Layers,
    problem: Problem,
    *,
    step_size: Number,
    scales: Sequence[ArrayLike] | None = None,
    distance: float | None = None,
) -> Guarantee:
    """The theorem for a solution's layers and a problem [derived].

    Args:
      params: layers of the solution ``W*`` (orthonormal behind the first), runs allowed.
      problem: a square loss, or one with ``curvature()`` and ``product_gradient``.
      step_size, scales: as the run takes them; scales one a leaf.
      distance: ``dist(0)`` from ``gauge.distance_squared``; None leaves the start unchecked.

    Returns:
      The promise, or ``applies=False`` with the reason: one layer only, layers behind the first that are not
      orthonormal
      (to 1e-5), a product that is no minimum (a gradient above 1e-5 of its scale), or an assumption of
      :func:`from_spectrum` that fails.

    Raises:
      ValueError: params, steps or a distance that are none; a problem without bounds of its curvature.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import problem
      >>> from dlnjax.theory.guarantee import guarantee
      >>> layers, goal = (2 * jnp.eye(2), jnp.eye(2)), problem.whitened(2 * jnp.eye(2))
      >>> [guarantee(layers, goal, step_size=0.01, scales=scales).applies for scales in (None, (1, 1 / 2**2))]
      [False, True]
    """
    net = _host.chain(params, step_size, scales)
    alpha, beta = constants(problem)
    dims = [net.layers[0].shape[1], *(w.shape[0] for w in net.layers)]
    reason = _layers_reason(net) or _minimum_reason(problem, net.product, alpha, beta)
    if reason:
        return Guarantee(False, reason, None, None, None)
    values = np.linalg.svd(net.product, compute_uv=False)
    kept = [float(v) for v in values if v > 1e-9 * values[0]]
    return from_spectrum(
        kept, dims=dims, step_size=1.0, scales=list(net.steps), alpha=alpha, beta=beta, distance=distance
    )


def _layers_reason(net: _host.Chain) -> str | None:
    if len(net.layers) < 2:
        return "one layer only: the theorem is about two and more"
    if not np.all(net.steps > 0):
        return "a layer does not move: its step is zero"
    return _host.departure(net, _ORTHONORMAL)


def _minimum_reason(problem: Problem, product: np.ndarray, alpha: float, beta: float) -> str | None:
    """Why the product is no minimum: ``||dh/dW||`` relative to the largest curvature times the product."""
    ask = getattr(problem, "product_gradient", None)
    if ask is None:
        return "the problem has no product_gradient: whether the product is a minimum cannot be checked"
    if _host.is_quadratic(problem):
        slope = _host.data(problem).gradient(product)
    else:
        slope = _host.array(ask(jnp.asarray(product)))
    high = (1 + np.sqrt(max(1 - 4 * alpha * beta, 0.0))) / (2 * beta)  # the larger root: the top curvature
    size = np.linalg.norm(slope)
    if not size <= _RESIDUAL * high * np.linalg.norm(product):
        return "the product is not a minimum of the loss: it leaves a residual"
    return None
