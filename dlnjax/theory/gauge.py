r"""The symmetry of a product of layers, and the distance that does not see it.

``W_i -> R_i^T W_i R_{i-1}`` with ``R_0 = I``, ``R_N = I`` and ``R_i`` orthogonal changes neither the product
nor the constraints. Source A measures distance modulo this gauge [paper]:

.. math:: \mathrm{dist}^2 = \min_R \|W_1 - R_1^T W_1^*\|^2
          + \|W_1^*\|_2^2 \sum_{i \ge 2} \|W_i - R_i^T W_i^* R_{i-1}\|^2 .

Found by alternating Procrustes problems from the chain start, which near a solution is as good as always
the global minimum; from the identity the search misses it in about half of all scrambled cases. Host
float64, over any leading batch axes. For strictly growing widths the solution set is larger than a gauge
orbit, and this distance need not go to zero where the product's error does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dlnjax.theory import _host

Layers = list[np.ndarray]


def distance_squared(
    params: Sequence[Any],
    target: Sequence[Any],
    *,
    weight: float | None = None,
    restarts: int = 0,
    start: str = "chain",
    seed: int = 0,
    tolerance: float = 1e-13,
    max_sweeps: int = 500,
) -> Any:
    """``dist^2`` between a network and a target, from the chain start and random ones.

    Args:
      params: layers ``(..., d_i, d_{i-1})``; runs only without batch axes.
      target: layers of the same shapes.
      weight: ``||W_1*||_2^2``; None takes it from ``target``.
      start: ``"chain"``, or ``"identity"`` (which misses the minimum in about half of all scrambled cases).
      restarts: random starts besides the chain (for points far from each other).
      seed: of the random starts.
      tolerance: sweeps stop once the distance falls by less than this fraction.
      max_sweeps: at most this many sweeps a start.

    Returns:
      A float, or an array over the batch.

    Raises:
      ValueError: another start.
    """
    layers, goal = _layers(params), _layers(target)
    scale = (
        np.square(np.linalg.norm(goal[0], 2, axis=(-2, -1))) if weight is None else np.asarray(weight, float)
    )
    if start not in ("chain", "identity"):
        raise ValueError(f"start={start!r}; give 'chain' or 'identity'")
    starts = [_chain_start(layers, goal)]
    if start == "identity":
        starts = [[np.broadcast_to(np.eye(r.shape[-1]), r.shape) for r in starts[0]]]
    rng = np.random.default_rng(seed)
    for _ in range(restarts):
        starts.append([_random_orthogonal(rng, r.shape) for r in starts[0]])
    found = [_descend(layers, goal, scale, rotations, tolerance, max_sweeps)[0] for rotations in starts]
    best = np.min(found, axis=0)
    return float(best) if np.ndim(best) == 0 else best


def align(params: Sequence[Any], target: Sequence[Any], *, weight: float | None = None) -> Layers:
    """The member of the target's gauge orbit nearest to ``params`` (chain start), as float64 layers."""
    layers, goal = _layers(params), _layers(target)
    scale = (
        np.square(np.linalg.norm(goal[0], 2, axis=(-2, -1))) if weight is None else np.asarray(weight, float)
    )
    rotations = _descend(layers, goal, scale, _chain_start(layers, goal), 1e-15, 500)[1]
    return _turned(goal, rotations)


def transform(params: Sequence[Any], rotations: Sequence[Any]) -> Layers:
    """``W_i -> R_i^T W_i R_{i-1}``, given ``R_1, ..., R_{N-1}``; the product does not change.

    Raises:
      ValueError: not one rotation between each two layers.
    """
    layers = _layers(params)
    if len(rotations) != len(layers) - 1:
        raise ValueError(
            f"{len(rotations)} rotations for {len(layers)} layers; give {len(layers) - 1}, R_1 first"
        )
    return _turned(layers, [_host.array(r) for r in rotations])


def random_rotations(seed: int, dims: Sequence[int]) -> list[np.ndarray]:
    """Haar ``R_1, ..., R_{N-1}`` for widths ``(d_0, ..., d_N)``."""
    rng = np.random.default_rng(seed)
    return [_random_orthogonal(rng, (d, d)) for d in dims[1:-1]]


def canonical(params: Sequence[Any]) -> Layers:
    """The representative of a gauge orbit that depends on the product alone: ``(diag(s) V^T, I, ..., I, P)``.

    For equal hidden widths r, orthonormal layers behind the first, ``d_N >= r`` and a product of rank r with
    distinct singular values: then two networks with one product have one canonical form. The largest entry of
    each column of P is positive.

    Raises:
      ValueError: other networks.
    """
    net = _host.chain(tuple(params))
    if not net.reducible or net.layers[-1].shape[0] < net.layers[-1].shape[1]:
        raise ValueError(
            "the canonical form needs equal hidden widths r and d_N >= r; use align for other networks"
        )
    r = net.layers[0].shape[0]
    left, values, right = np.linalg.svd(net.product, full_matrices=False)
    left, right = left[:, :r], values[:r, None] * right[:r]
    signs = np.sign(left[np.argmax(np.abs(left), axis=0), np.arange(r)])
    middle = [np.eye(r)] * (len(net.layers) - 2)
    return [signs[:, None] * right, *middle, left * signs]


def _layers(params: Sequence[Any]) -> Layers:
    """Layers in float64; a run among unbatched layers is taken apart."""
    if np.ndim(params[0]) == 2 and any(np.ndim(leaf) == 3 for leaf in params):
        return list(_host.chain(tuple(params)).layers)
    return [_host.array(leaf) for leaf in params]


def _t(x: np.ndarray) -> np.ndarray:
    return np.swapaxes(x, -1, -2)


def _chain_start(layers: Layers, goal: Layers) -> Layers:
    """``R_{i-1} = polar(W_i*^T R_i W_i)`` for i = N, ..., 2, from ``R_N = I``."""
    rotations: Layers = []
    carried = None
    for w, g in zip(layers[:0:-1], goal[:0:-1], strict=True):
        turned = g if carried is None else _t(carried) @ g
        carried = _host.polar(_t(turned) @ w)
        rotations.append(carried)
    return rotations[::-1]


def _turned(goal: Layers, rotations: Layers) -> Layers:
    result = []
    for i, g in enumerate(goal):
        left = _t(rotations[i]) @ g if i < len(rotations) else g
        result.append(left @ rotations[i - 1] if i > 0 else left)
    return result


def _value(layers: Layers, goal: Layers, scale: np.ndarray, rotations: Layers) -> np.ndarray:
    gaps = [
        np.sum(np.square(w - g), axis=(-2, -1)) for w, g in zip(layers, _turned(goal, rotations), strict=True)
    ]
    return gaps[0] + scale * sum(gaps[1:])


def _descend(layers, goal, scale, rotations: Layers, tolerance: float, max_sweeps: int):
    """Alternating Procrustes ``R_i = polar(w_i W_i* R_{i-1} W_i^T + w_{i+1} W_{i+1}*^T R_{i+1} W_{i+1})``."""
    rotations = list(rotations)
    last = len(rotations) - 1
    weight = np.asarray(scale)[..., None, None]
    value = _value(layers, goal, scale, rotations)
    for _ in range(max_sweeps):
        for i in range(last + 1):
            before = goal[i] @ rotations[i - 1] if i > 0 else goal[i]
            after = _t(goal[i + 1]) @ rotations[i + 1] if i < last else _t(goal[i + 1])
            mine = before @ _t(layers[i])
            rotations[i] = _host.polar((weight * mine if i > 0 else mine) + weight * (after @ layers[i + 1]))
        now = _value(layers, goal, scale, rotations)
        done = np.all(value - now <= tolerance * np.maximum(value, 1e-300))
        value = np.minimum(value, now)
        if done or last == 0:
            break
    return value, rotations


def _random_orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    factor, upper = np.linalg.qr(rng.standard_normal(shape))
    return factor * np.sign(np.diagonal(upper, axis1=-2, axis2=-1))[..., None, :]
