"""A network as plain float64 matrices on the host, which is how theory reads it.

Predictions are small dense linear algebra done once a cell; numpy in double precision keeps them exact
whatever precision JAX runs at, and costs no compilation. Runs of layers are taken apart, step sizes and
scales become one number a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dlnjax._types import Params, Problem
from dlnjax.problem import Quadratic


class Chain(NamedTuple):
    """Layers ``W_1, ..., W_N`` in float64, with each layer's step and whether it is orthonormal.

    Attributes:
      layers: N matrices ``(d_i, d_{i-1})``.
      steps: ``(N,)`` the step size of each layer, ``mu_i``.
      constrained: N flags; True where the layer stays on the Stiefel manifold.
    """

    layers: tuple[np.ndarray, ...]
    steps: np.ndarray
    constrained: tuple[bool, ...]

    @property
    def frame(self) -> np.ndarray:
        """``U = W_N ... W_2``, ``(d_N, d_1)``."""
        return compose(self.layers[1:], self.layers[0].shape[0])

    @property
    def product(self) -> np.ndarray:
        """``W = W_N ... W_1``."""
        return self.frame @ self.layers[0]

    @property
    def reducible(self) -> bool:
        """Equal hidden widths, a free first layer and orthonormal others: what the reduction needs."""
        square = all(w.shape == (self.layers[0].shape[0],) * 2 for w in self.layers[1:-1])
        return (
            square and len(self.layers) > 1 and self.constrained == (False, *[True] * (len(self.layers) - 1))
        )


def array(x: Any) -> np.ndarray:
    """``x`` as a float64 array on the host."""
    return np.asarray(x, dtype=np.float64)


def compose(layers: Sequence[np.ndarray], width: int) -> np.ndarray:
    """The product of the layers, last to first; the identity of this width where there are none."""
    product = np.eye(width)
    for layer in layers:
        product = layer @ product
    return product


def polar(x: np.ndarray) -> np.ndarray:
    """The polar factor: the nearest orthonormal matrix."""
    left, _, right = np.linalg.svd(x, full_matrices=False)
    return left @ right


def project_tangent(point: np.ndarray, x: np.ndarray) -> np.ndarray:
    """``P_W(x) = x - W sym(W^T x)``, tall; ``x - sym(x W^T) W``, wide; over leading axes of x."""
    if point.shape[0] >= point.shape[1]:
        inner = point.T @ x
        return x - point @ (inner + np.swapaxes(inner, -1, -2)) / 2
    outer = x @ point.T
    return x - (outer + np.swapaxes(outer, -1, -2)) @ point / 2


def chain(params: Params, step_size: Any = 1.0, scales: Any = None, constrained: Any = None) -> Chain:
    """Read ``params`` (layers and runs) with their steps ``step_size * scale``.

    Args:
      params: layers ``(d_i, d_{i-1})`` or runs ``(k, d, d)``, ``W_1`` first.
      step_size: a number.
      scales: None, or one multiplier a leaf; a run takes a scalar or ``(k,)``.
      constrained: None (all but the first leaf), or one bool a leaf.

    Raises:
      ValueError: trees that do not fit the params.
    """
    flags = [i > 0 for i in range(len(params))] if constrained is None else jax.tree.leaves(constrained)
    multipliers = [1.0] * len(params) if scales is None else list(scales)
    for name, given in (("scales", multipliers), ("constrained", flags)):
        if len(given) != len(params):
            raise ValueError(f"{name} has {len(given)} entries for {len(params)} leaves; give one a leaf")
    layers, steps, kinds = [], [], []
    for leaf, scale, flag in zip(params, multipliers, flags, strict=True):
        matrices = array(leaf) if np.ndim(leaf) == 3 else array(leaf)[None]
        if np.ndim(scale) > 1 or (np.ndim(scale) == 1 and np.shape(scale) != (len(matrices),)):
            raise ValueError(
                f"a scale of shape {np.shape(scale)} for {len(matrices)} layers; give one a layer"
            )
        layers += list(matrices)
        steps += list(np.broadcast_to(float(step_size) * array(scale), (len(matrices),)))
        kinds += [bool(flag)] * len(matrices)
    return Chain(tuple(layers), np.array(steps), tuple(kinds))


def layer_steps(step_size: Any, scales: Any, num_layers: int) -> np.ndarray:
    """``mu_1, ..., mu_N`` from ``(first, middle, last)`` or one scale a layer; None is all ones.

    Raises:
      ValueError: another number of scales, or a step that is not positive.
    """
    if num_layers < 2:
        raise ValueError(f"num_layers={num_layers}; give at least 2")
    given = [1.0] * num_layers if scales is None else [float(s) for s in scales]
    if len(given) == 3:
        given = [given[0], *[given[1]] * (num_layers - 2), given[2]]
    if len(given) != num_layers:
        raise ValueError(
            f"{len(given)} scales for {num_layers} layers; give (first, middle, last) or one a layer"
        )
    steps = float(step_size) * np.array(given)
    if not (np.all(np.isfinite(steps)) and np.all(steps > 0)):
        raise ValueError(
            f"step_size={step_size} with scales {given[:4]}...; every step must be positive and finite"
        )
    return steps


class Data(NamedTuple):
    """``L(W) = 1/2 ||(W - target) C^{1/2}||^2 + const`` in float64; ``covariance`` None is ``C = I``."""

    target: np.ndarray
    covariance: np.ndarray | None

    def gradient(self, product: np.ndarray) -> np.ndarray:
        """``G = (W - W_ls) C``."""
        return self.weigh(product - self.target)

    def weigh(self, x: np.ndarray) -> np.ndarray:
        """``x C``."""
        return x if self.covariance is None else x @ self.covariance


def data(problem: Problem | Quadratic) -> Data:
    """The statistics of a quadratic problem.

    Raises:
      ValueError: another kind of problem.
    """
    if not isinstance(problem, Quadratic):
        raise ValueError(
            f"problem is a {type(problem).__name__}; this prediction needs a problem.Quadratic "
            "(for others: rates.predict_outputs, rates.predict_hessian)"
        )
    return Data(array(problem.target), None if problem.covariance is None else array(problem.covariance))


def is_quadratic(problem: Any) -> bool:
    """Whether the problem is a square loss of the product."""
    return isinstance(problem, Quadratic)
