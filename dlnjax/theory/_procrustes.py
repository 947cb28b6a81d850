r"""The rotations that bring a target nearest to a network: Newton's method along the chain of layers.

With ``V_i = R_i^T W_i^* R_{i-1}`` the weighted distance is, up to a constant, minus
``phi = sum_i w_i <W_i, V_i>``. Turning ``R_i`` by a skew ``Omega_i`` gives to second order

.. math:: -\phi + \sum_i w_i \big( \langle W_i, \Omega_i V_i - V_i \Omega_{i-1} + \Omega_i V_i \Omega_{i-1}\rangle
          - \tfrac12 \langle W_i, \Omega_i^2 V_i + V_i \Omega_{i-1}^2 \rangle \big),

which couples neighbours only: its Hessian is block tridiagonal, and one elimination along the chain solves for all
rotations together. Alternating over single rotations instead diffuses along the chain: it needs about the square of
the depth in sweeps, and its last steps are too small to distinguish from convergence. Batched, float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dlnjax.theory import _host

Layers = list[np.ndarray]
#: Skew matrices of more coordinates than this (widths above 32) are turned one after the other instead.
LARGEST = 500
_EPS = float(np.finfo(np.float64).eps)


class Found(NamedTuple):
    """The distance at the rotations found, and whether the stopping test holds, over the batch."""

    value: np.ndarray
    rotations: Layers
    converged: np.ndarray


def transpose(x: np.ndarray) -> np.ndarray:
    """The last two axes swapped."""
    return np.swapaxes(x, -1, -2)


def turned(goal: Layers, rotations: Layers) -> Layers:
    """``V_i = R_i^T W_i^* R_{i-1}``, the rotations at both ends the identity."""
    result = []
    for i, layer in enumerate(goal):
        behind = transpose(rotations[i]) @ layer if i < len(rotations) else layer
        result.append(behind @ rotations[i - 1] if i > 0 else behind)
    return result


def distance(layers: Layers, goal: Layers, weight: np.ndarray, rotations: Layers) -> np.ndarray:
    """``||W_1 - V_1||^2 + weight sum_{i >= 2} ||W_i - V_i||^2`` over the batch."""
    pairs = zip(layers, turned(goal, rotations), strict=True)
    gaps = [np.sum(np.square(w - v), axis=(-2, -1)) for w, v in pairs]
    return gaps[0] + weight * sum(gaps[1:])


def minimise(
    layers: Layers, goal: Layers, weight: np.ndarray, rotations: Layers, tolerance: float, max_steps: int
) -> Found:
    """A local minimum of the distance: a few alternating sweeps, then Newton steps along the chain.

    Stops where the distance that a Newton step would still remove is at most ``tolerance`` of the distance, or of the
    rounding of its terms, and the Hessian there has no negative eigenvalue.
    """
    rotations = [np.array(np.broadcast_to(r, weight.shape + r.shape[-2:])) for r in rotations]
    size = np.sum(np.square(layers[0]), axis=(-2, -1)) + np.sum(np.square(goal[0]), axis=(-2, -1))
    size = size + weight * sum(2.0 * min(w.shape[-2:]) for w in layers[1:])
    # ten rounding units of the terms, squared; a distance is known to its root times the floor's
    floor = np.broadcast_to(100 * _EPS**2 * size, weight.shape)
    widest = max((r.shape[-1] for r in rotations), default=1)
    if widest * (widest - 1) // 2 > LARGEST:
        return _alternate(layers, goal, weight, rotations, tolerance, floor, max_steps)
    rotations = _alternate(layers, goal, weight, rotations, tolerance, floor, 10).rotations
    if not rotations or widest == 1:  # nothing to turn: the sweeps have chosen the signs
        value = distance(layers, goal, weight, rotations)
        return Found(value, rotations, np.ones(np.shape(value), bool))
    return _newton(layers, goal, weight, rotations, tolerance, floor, max_steps)


def _alternate(layers, goal, weight, rotations: Layers, tolerance, floor, sweeps: int) -> Found:
    """Single rotations in turn, ``R_i = polar(w_i W_i^* R_{i-1} W_i^T + w_{i+1} W_{i+1}^{*T} R_{i+1} W_{i+1})``.

    A sweep's gain bounds nothing, so the test asks that the gradient, over the least curvature that a chain of this
    length can have, leaves no more than the tolerance.
    """
    rotations, last = list(rotations), len(rotations) - 1
    w = weight[..., None, None]
    value = distance(layers, goal, weight, rotations)
    converged = np.full(np.shape(value), not rotations)
    for _ in range(sweeps):
        for i in range(last + 1):
            before = goal[i] @ rotations[i - 1] if i > 0 else goal[i]
            after = transpose(goal[i + 1]) @ (rotations[i + 1] if i < last else np.eye(goal[i + 1].shape[-2]))
            mine = before @ transpose(layers[i])
            rotations[i] = _host.polar((w * mine if i > 0 else mine) + w * (after @ layers[i + 1]))
        now = distance(layers, goal, weight, rotations)
        gain, value = value - now, now
        converged = gain * len(layers) ** 2 <= tolerance * value + floor + np.sqrt(floor * value)
        if np.all(converged):
            break
    return Found(value, rotations, converged)


def _newton(layers, goal, weight, rotations: Layers, tolerance, floor, max_steps: int) -> Found:
    """Damped Newton steps: the damping grows where a step gains too little and falls where it does not."""
    rng = np.random.default_rng(0)
    value = distance(layers, goal, weight, rotations)
    scale = _scale(layers, weight)
    damping = np.zeros_like(value)
    converged = np.zeros(value.shape, bool)
    for _ in range(max_steps):
        slopes, diagonal, border = _second_order(layers, turned(goal, rotations), weight)
        step, gain, positive = _solve(slopes, diagonal, border, damping + 1e-13 * scale, 16 * _EPS * scale)
        small = gain <= tolerance * value + floor + np.sqrt(floor * value)
        converged = converged | (positive & small & (damping <= 1e-8 * scale))
        if np.all(converged):
            break
        kick = 1e-3 * (positive & small & ~converged & (damping > 1e3 * scale))  # a saddle or a maximum
        tried = [
            r @ _cayley(np.where((positive & ~converged)[..., None, None], s, 0) + _random_skew(rng, s, kick))
            for r, s in zip(rotations, step, strict=True)
        ]
        now = distance(layers, goal, weight, tried)
        better = positive & ((value - now >= 0.1 * gain) | small | (kick > 0))
        damping = np.where(better, np.where(damping < 1e-6 * scale, 0, damping / 10), damping)
        damping = np.where(better, damping, np.maximum(4 * damping, 1e-4 * scale))
        damping = np.where(kick > 0, 1e-4 * scale, damping)
        moved = (better & ~converged)[..., None, None]
        rotations = [np.where(moved, t, r) for t, r in zip(tried, rotations, strict=True)]
        value = np.where(better & ~converged, now, value)
    rotations = [_host.polar(r) for r in rotations]
    return Found(distance(layers, goal, weight, rotations), rotations, converged)


def _scale(layers: Layers, weight: np.ndarray) -> np.ndarray:
    """The size of the Hessian's entries: the unit of the damping."""
    return np.maximum(np.maximum(np.sum(np.square(layers[0]), axis=(-2, -1)), weight), 1e-300)


def _basis(width: int) -> np.ndarray:
    """``(m, d, d)``: an orthonormal basis of the skew matrices, ``m = d (d - 1) / 2``."""
    a, b = np.triu_indices(width, 1)
    basis = np.zeros((a.size, width, width))
    basis[np.arange(a.size), a, b], basis[np.arange(a.size), b, a] = np.sqrt(0.5), -np.sqrt(0.5)
    return basis


def _second_order(layers: Layers, here: Layers, weight: np.ndarray):
    """Gradient, diagonal and border blocks of the quadratic in the skew coordinates of all rotations."""
    weights = [np.ones_like(weight), *[weight] * (len(layers) - 1)]
    bases = [_basis(w.shape[-2]) for w in layers[:-1]]
    slopes, diagonal, border = [], [], []
    for i, basis in enumerate(bases):
        count, width = len(basis), basis.shape[-1]
        own, next_ = (w[..., None, None] for w in weights[i : i + 2])
        behind = own * layers[i] @ transpose(here[i])  # W_i V_i^T
        before = next_ * transpose(here[i + 1]) @ layers[i + 1]  # V_{i+1}^T W_{i+1}
        flat = basis.reshape(count, width**2)
        slopes.append((behind - before).reshape(*behind.shape[:-2], width**2) @ flat.T)
        curved = behind + transpose(behind) + before + transpose(before)
        images = (basis @ curved[..., None, :, :]).reshape(*behind.shape[:-2], count, width**2)
        block = images @ flat.T / 2
        diagonal.append((block + transpose(block)) / 2)
        if i > 0:
            pulled = own[..., None] * (
                transpose(here[i])[..., None, :, :] @ transpose(basis) @ layers[i][..., None, :, :]
            )
            other = bases[i - 1].shape[-1] ** 2
            border.append(
                pulled.reshape(*pulled.shape[:-2], other) @ bases[i - 1].reshape(len(bases[i - 1]), other).T
            )
    return slopes, diagonal, border


class _Pivot(NamedTuple):
    """A symmetric block by its eigenvalues and vectors, those not above zero replaced by one."""

    values: np.ndarray
    vectors: np.ndarray
    positive: np.ndarray

    def solve(self, right: np.ndarray) -> np.ndarray:
        return self.vectors @ (transpose(self.vectors) @ right / self.values[..., None])


def _pivot(block: np.ndarray) -> _Pivot:
    if not block.shape[-1]:  # width one: nothing turns
        return _Pivot(block.sum(-1), block, np.ones(block.shape[:-2], bool))
    values, vectors = np.linalg.eigh((block + transpose(block)) / 2)
    return _Pivot(np.where(values > 0, values, 1), vectors, np.all(values > 0, axis=-1))


def _solve(slopes, diagonal, border, damping: np.ndarray, noise: np.ndarray):
    """``-(H + damping)^{-1} g`` as skew matrices, the gain ``g^T (H + damping)^{-1} g``, and where ``H + damping > 0``.

    Parts of the gradient below ``noise``, its rounding, count as zero: directions that turn nothing have no curvature.
    """
    pivots: list[_Pivot] = []
    heads: list[np.ndarray] = []
    gain = np.zeros(damping.shape)
    for i, (slope, block) in enumerate(zip(slopes, diagonal, strict=True)):
        matrix, head = block + damping[..., None, None] * np.eye(block.shape[-1]), slope[..., None]
        if i > 0:
            matrix = matrix - border[i - 1] @ pivots[-1].solve(transpose(border[i - 1]))
            head = head - border[i - 1] @ pivots[-1].solve(heads[-1])
        pivot = _pivot(matrix)
        seen = transpose(pivot.vectors) @ head
        seen = np.where(np.abs(seen) > noise[..., None, None], seen, 0)
        gain = gain + np.sum(np.square(seen[..., 0]) / pivot.values, axis=-1)
        pivots.append(pivot)
        heads.append(pivot.vectors @ seen)
    steps: list[np.ndarray] = []
    for i in reversed(range(len(pivots))):
        head = heads[i] + transpose(border[i]) @ steps[-1] if steps else heads[i]
        steps.append(-pivots[i].solve(head))
    skews = []
    for step, pivot in zip(reversed(steps), pivots, strict=True):
        basis = _basis(_width(pivot.values.shape[-1]))
        skews.append(np.einsum("...k,kab->...ab", step[..., 0], basis))
    return skews, gain, np.all([p.positive for p in pivots], axis=0)


def _width(count: int) -> int:
    """d from ``d (d - 1) / 2``; no coordinates stand for width one."""
    return round((1 + np.sqrt(1 + 8 * count)) / 2)


def _cayley(skew: np.ndarray) -> np.ndarray:
    """A rotation that agrees with ``exp(skew)`` to second order."""
    identity = np.eye(skew.shape[-1])
    return np.linalg.solve(identity - skew / 2, identity + skew / 2)


def _random_skew(rng: np.random.Generator, like: np.ndarray, size: np.ndarray) -> np.ndarray:
    drawn = rng.standard_normal(like.shape)
    return size[..., None, None] * (drawn - transpose(drawn))


def chain_start(layers: Layers, goal: Layers, weight: np.ndarray) -> Layers:
    """Rotations carried along the chain, from the output, from the input, or from both ends: the nearest of the three.

    From the output ``R_{i-1} = polar(W_i^{*T} R_i W_i)``, ``R_N = I``; from the input
    ``R_i = polar(W_i^* R_{i-1} W_i^T)``, ``R_0 = I``. Where a layer narrows, the first leaves part of a
    rotation open, the
    second where it widens. With ``B_i = W_i ... W_2`` and ``A_i = W_N ... W_{i+1}`` the third is
    ``R_i = polar(B_i^* R_1 B_i^T + A_i^{*T} A_i)``, its open parts filled from the input.
    """
    backward: Layers = []
    for w, g in zip(layers[:0:-1], goal[:0:-1], strict=True):
        carried = transpose(backward[-1]) @ g if backward else g
        backward.append(_host.polar(transpose(carried) @ w))
    forward: Layers = []
    for w, g in zip(layers[:-1], goal[:-1], strict=True):
        carried = g @ forward[-1] if forward else g
        forward.append(_host.polar(carried @ transpose(w)))
    starts = [backward[::-1], forward, _from_both_ends(layers, goal)]
    values = np.array([distance(layers, goal, weight, s) for s in starts])
    return _chosen(np.argmin(values, axis=0), starts)


def _chosen(place: np.ndarray, choices: Sequence[Layers]) -> Layers:
    return [np.choose(place[..., None, None], each) for each in zip(*choices, strict=True)]


def _from_both_ends(layers: Layers, goal: Layers) -> Layers:
    pulls = []  # A_i^{*T} A_i, from the output
    after, after_goal = np.eye(layers[-1].shape[-2]), np.eye(layers[-1].shape[-2])
    for w, g in zip(layers[:0:-1], goal[:0:-1], strict=True):
        after, after_goal = after @ w, after_goal @ g
        pulls.append(transpose(after_goal) @ after)
    rotations: Layers = []
    before = before_goal = None
    for w, g, pull in zip(layers[:-1], goal[:-1], pulls[::-1], strict=True):
        if before is None or before_goal is None:
            push = g @ transpose(w)
            size = np.linalg.norm(push, 2, axis=(-2, -1))[..., None, None]
            rotations.append(_host.polar(pull + push / np.where(size > 0, size, 1)))
            before = before_goal = np.eye(w.shape[-2])
            continue
        nearest = g @ rotations[-1] @ transpose(w)
        before, before_goal = w @ before, g @ before_goal
        rotations.append(_host.polar(before_goal @ rotations[0] @ transpose(before) + pull + 1e-3 * nearest))
    return rotations


def best(found: Sequence[Found]) -> Found:
    """Over the batch the least distance; converged where some search that finished found no more."""
    values = np.array([f.value for f in found])
    least = np.min(values, axis=0)
    finished = np.array([f.converged for f in found]) & (values <= least * (1 + 1e-9))
    rotations = _chosen(np.argmin(values, axis=0), [f.rotations for f in found])
    return Found(least, rotations, np.any(finished, axis=0))
