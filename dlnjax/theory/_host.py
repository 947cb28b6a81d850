"""A network as plain float64 matrices on the host, which is how theory reads it.

Predictions are small dense linear algebra done once a cell; numpy in double precision keeps them exact
whatever precision JAX runs at, and costs no compilation. Runs of layers are taken apart, step sizes and
scales become one number a layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from dlnjax._types import Number, Problem
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


def array(x: ArrayLike) -> np.ndarray:
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


def chain(
    params: Sequence[ArrayLike],
    step_size: Number = 1.0,
    scales: Sequence[ArrayLike] | None = None,
    constrained: Sequence[bool] | None = None,
) -> Chain:
    """Read ``params`` (layers and runs) with their steps ``step_size * scale``.

    Args:
      params: layers ``(d_i, d_{i-1})`` or runs ``(k, d, d)``, ``W_1`` first.
      step_size: a number.
      scales: None, or one multiplier a leaf; a run takes a scalar or ``(k,)``.
      constrained: None (all but the first leaf), or one bool a leaf.

    Raises:
      ValueError: trees that do not fit the params, layers that do not follow each other or are not finite, a step that
        is negative or not finite, no positive step.
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
    net = Chain(tuple(layers), np.array(steps), tuple(kinds))
    _check(net, step_size, multipliers)
    return net


def _check(net: Chain, step_size: Number, scales: Sequence[ArrayLike]) -> None:
    shapes = [w.shape for w in net.layers]
    if not shapes or any(len(s) != 2 or 0 in s for s in shapes):
        raise ValueError(
            f"layers of shapes {shapes[:6]}; give at least one matrix (d_i, d_(i-1)), none of it empty"
        )
    for i, (before, after) in enumerate(pairwise(shapes)):
        if after[1] != before[0]:
            raise ValueError(
                f"layer {i + 2} of shape {after} does not follow layer {i + 1} of shape {before}"
            )
    for i, w in enumerate(net.layers):
        if not np.all(np.isfinite(w)):
            raise ValueError(f"layer {i + 1} holds numbers that are not finite")
    if not (np.all(np.isfinite(net.steps)) and np.all(net.steps >= 0) and np.any(net.steps > 0)):
        raise ValueError(
            f"step_size={step_size} with scales {scales[:4]}; every step must be finite and >= 0, and one positive"
        )


def orthonormality_error(w: np.ndarray) -> float:
    """``||W^T W - I||_F``, tall, or ``||W W^T - I||_F``, wide."""
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    return float(np.linalg.norm(gram - np.eye(len(gram))))


def departure(net: Chain, tolerance: float) -> str | None:
    """Which constrained layer is not orthonormal to this tolerance, in words; None if all are."""
    for i, (w, held) in enumerate(zip(net.layers, net.constrained, strict=True)):
        error = orthonormality_error(w) if held else 0.0
        if not error <= tolerance:
            return f"layer {i + 1} is constrained but not orthonormal: its Gram matrix is {error:.2g} from the identity"
    return None


def check_orthonormal(net: Chain, tolerance: float) -> None:
    """Raise unless the constrained layers are orthonormal, to the tolerance and to 1e-4 at most.

    Raises:
      ValueError: a layer that is not.
    """
    reason = departure(net, max(tolerance, 1e-4))
    if reason:
        raise ValueError(f"{reason}; give orthonormal layers, or constrained=... with False for it")


def check_stationary(size: float, tolerance: float) -> None:
    """Raise unless a point's relative gradient is at most the tolerance.

    Raises:
      ValueError: a point that is not critical.
    """
    if not size <= tolerance:
        raise ValueError(
            f"the layers are no critical point: their gradient is {size:.2g} of its scale, above "
            f"tolerance={tolerance:g}; "
            "there is a rate at a solution only. Train on, or give a larger tolerance"
        )


def afters(net: Chain) -> list[np.ndarray]:
    """``A_i = W_N ... W_{i+1}`` for i = 1..N."""
    found = [np.eye(net.layers[-1].shape[0])]
    for layer in net.layers[:0:-1]:
        found.append(found[-1] @ layer)
    return found[::-1]


def befores(net: Chain) -> list[np.ndarray]:
    """``B_i = W_{i-1} ... W_1`` for i = 1..N."""
    found = [np.eye(net.layers[0].shape[1])]
    for layer in net.layers[:-1]:
        found.append(layer @ found[-1])
    return found


def relative_gradient(net: Chain, data: Data) -> float:
    r"""The layers' gradient at a point, by the size of what cancels in it.

    .. math:: \Big(\sum_i \mu_i \|P_i(A_i^T G B_i^T)\|^2 \Big)^{1/2} \Big/
              \Big(\sum_i \mu_i \max(\|A_i^T W C B_i^T\|, \|A_i^T T C B_i^T\|)^2 \Big)^{1/2}

    with ``G = (W - T) C``: about the relative error of a solution, 0 at a critical point.
    """
    ends = [data.gradient(net.product), data.weigh(net.product), data.weigh(data.target)]
    sizes = []
    for w, step, held, a, b in zip(
        net.layers, net.steps, net.constrained, afters(net), befores(net), strict=True
    ):
        pulled = [np.sqrt(step) * (a.T @ x @ b.T) for x in ends]
        own = project_tangent(w, pulled[0]) if held else pulled[0]
        sizes.append((np.linalg.norm(own), max(np.linalg.norm(pulled[1]), np.linalg.norm(pulled[2]))))
    own, scale = np.linalg.norm(np.array(sizes), axis=0)
    return float(own / scale) if scale > 0 else 0.0


def layer_steps(
    step_size: Number, scales: Sequence[Number] | np.ndarray | None, num_layers: int
) -> np.ndarray:
    """``mu_1, ..., mu_N`` from ``(first, middle, last)`` or one scale a layer; None is all ones.

    Raises:
      ValueError: another number of scales, or a step that is not positive.
    """
    if num_layers != int(num_layers) or num_layers < 2:
        raise ValueError(
            f"num_layers={num_layers}; give a whole number of at least 2 (one layer has no depth)"
        )
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
    """``L(W) = 1/2 ||(W - target) C^{1/2}||^2 + const`` in float64; ``covariance`` None is ``C = I``.

    Attributes:
      target: ``(d_N, d_0)``.
      covariance: ``C``, ``(d_0, d_0)``, or None.
      root: ``C^{1/2}``, which knows small eigenvalues of C far better than C does; None where it is not given.
    """

    target: np.ndarray
    covariance: np.ndarray | None
    root: np.ndarray | None = None

    def gradient(self, product: np.ndarray) -> np.ndarray:
        """``G = (W - W_ls) C``."""
        return self.weigh(product - self.target)

    def weigh(self, x: np.ndarray) -> np.ndarray:
        """``x C``."""
        return x if self.covariance is None else x @ self.covariance

    def eigen(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues of C, ascending, those in which the data do not extend exactly 0, and vectors in columns.

        A diagonal C is exact. Otherwise the eigenvalues come from the root, where its square is C, and count as zero
        below 16 rounding units of the largest root; from C alone, below 16 rounding units of C.

        Raises:
          ValueError: a C without a root whose eigenvalues rounding hides.
        """
        width = self.target.shape[1]
        if self.covariance is None:
            return np.ones(width), np.eye(width)
        return _eigen(self.covariance, self.root)


_EIGEN: dict[str, tuple[np.ndarray, np.ndarray]] = {}


def _eigen(covariance: np.ndarray, root: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """:meth:`Data.eigen`; the last few are remembered, as cells share their data."""
    key = hashlib.sha256(covariance.tobytes()).hexdigest()
    if key not in _EIGEN:
        if len(_EIGEN) >= 4:
            _EIGEN.pop(next(iter(_EIGEN)))
        _EIGEN[key] = _decomposed(covariance, root)
    return _EIGEN[key]


def _decomposed(covariance: np.ndarray, root: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    diagonal = np.diag(covariance)
    if np.count_nonzero(covariance) == np.count_nonzero(diagonal):
        order = np.argsort(diagonal)
        return np.maximum(diagonal[order], 0.0), np.eye(len(diagonal))[:, order]
    size = np.linalg.norm(covariance)
    if root is not None and np.linalg.norm(root @ root - covariance) <= 1e-13 * size * len(covariance):
        values, vectors = np.linalg.eigh(root)
        values = np.where(values > 16 * _EPS * values[-1], values, 0.0) ** 2
    else:
        values, vectors = np.linalg.eigh(covariance)
        values = np.where(values > 16 * _EPS * values[-1], values, 0.0)
        unsure = values[(values > 0) & (values < 1e-12 * values[-1])]
        if unsure.size:
            raise ValueError(
                f"ill-conditioned: the covariance has an eigenvalue {unsure[0] / values[-1]:.2g} of its largest, which "
                "rounding hides; centre and scale the features, or give the problem's root C^(1/2) as "
                "problem.regression does"
            )
    return values, vectors


_EPS = float(np.finfo(np.float64).eps)


def data(problem: Problem | Quadratic) -> Data:
    """The statistics of a quadratic problem; a covariance in principal coordinates becomes a matrix.

    Raises:
      ValueError: another kind of problem, statistics that are not finite or not of one shape.
    """
    if not isinstance(problem, Quadratic):
        raise ValueError(
            f"problem is a {type(problem).__name__}; this prediction needs a problem.Quadratic "
            "(for others: hessian.predict_outputs, hessian.predict_hessian)"
        )
    target = array(problem.target)
    square, root = (None if x is None else _as_matrix(array(x)) for x in (problem.covariance, problem.root))
    if (
        target.ndim != 2
        or target.size == 0
        or (square is not None and square.shape != (target.shape[1],) * 2)
    ):
        shape = None if square is None else square.shape
        raise ValueError(
            f"a problem with a target of shape {target.shape} and a covariance of shape {shape}; "
            "give one problem, its target (d_N, d_0)"
        )
    if not (np.all(np.isfinite(target)) and (square is None or np.all(np.isfinite(square)))):
        raise ValueError("the problem's target or covariance holds numbers that are not finite")
    return Data(target, square, root)


def _as_matrix(x: np.ndarray) -> np.ndarray:
    return np.diag(x) if x.ndim == 1 else x


def is_quadratic(problem: object) -> bool:
    """Whether the problem is a square loss of the product."""
    return isinstance(problem, Quadratic)
