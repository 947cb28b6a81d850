"""Per-layer multipliers of the step size: what makes the free layer and the orthonormal ones move at one pace.

A scale tree has the params' structure; a run of k layers takes a scalar or an array ``(k,)``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.core import Tracer

from dlnjax import network
from dlnjax._types import Params, Scales


def spectral_norm_squared(matrix: jax.Array) -> jax.Array:
    """``||W||_2^2``, the largest squared singular value."""
    return jnp.square(jnp.linalg.norm(matrix, 2))


def discrepant(params: Params) -> Scales:
    """1 for ``W_1`` and ``1 / ||W_1||_2^2`` for every other layer: the discrepant steps of Qin, Tan and Zhu, 2024.

    Give the teacher's or the best solution's params where they are known: predictions use the same scales.

    Raises:
      ValueError: a first layer that is zero, not finite, or of a norm whose square is out of range (unless traced).
    """
    inverse = _inverse(params)
    return (jnp.ones_like(inverse), *([inverse] * (len(params) - 1)))


def _inverse(params: Params, shared_by: int = 1) -> jax.Array:
    """``1 / ||W_1||_2^2``, of which a part for each of so many layers is still a normal number."""
    inverse = 1 / spectral_norm_squared(params[0])
    least = shared_by * float(jnp.finfo(inverse.dtype).tiny)
    if not isinstance(inverse, Tracer) and not least <= float(inverse) < float("inf"):
        raise ValueError(
            f"1/||W_1||_2^2 is {inverse}; give a first layer that is not zero, and rescale the target where its "
            f"square is "
            "out of range"
        )
    return inverse


def middle(params: Params) -> Scales:
    r"""The scales with which the rate does not depend on depth [derived; dlnjax docs, "middle scaling"].

    ``1`` for ``W_1``, ``1/||W_1||_2^2`` for the last layer and ``1/((N-2) ||W_1||_2^2)`` for the ``N - 2``
    layers between: the middle layers, which all turn the same way, then turn together as much as one layer does.

    Raises:
      ValueError: as :func:`discrepant`.
    """
    middle_layers = max(network.num_layers(params) - 2, 1)
    last = _inverse(params, middle_layers)
    between = last / middle_layers
    scales: list = [jnp.ones_like(last)]
    for leaf in params[1:]:
        scales.append(between if leaf.ndim == 2 else jnp.full(leaf.shape[0], between))
    if len(params) > 1:
        scales[-1] = last if params[-1].ndim == 2 else scales[-1].at[-1].set(last)
    return tuple(scales)
