r"""The symmetry of a product of layers, and the distance that does not see it.

``W_i -> R_i^T W_i R_{i-1}`` with ``R_0 = I``, ``R_N = I`` and ``R_i`` orthogonal changes neither the product
nor the constraints. Qin, Tan and Zhu, 2024, measure distance modulo this gauge [paper]:

.. math:: \mathrm{dist}^2 = \min_R \|W_1 - R_1^T W_1^*\|^2
          + \|W_1^*\|_2^2 \sum_{i \ge 2} \|W_i - R_i^T W_i^* R_{i-1}\|^2 .

Found by Newton's method along the chain of layers, from a start along the chain, which near a solution is as
good as always
in the basin of the global minimum; from the identity the search misses it in about half of all scrambled cases. Host
float64, over any leading batch axes. For strictly growing widths the solution set is larger than a gauge orbit, and
this distance need not go to zero where the product's error does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from dlnjax.theory import _host, _procrustes

Layers = list[np.ndarray]


def distance_squared(
    params: Sequence[ArrayLike],
    target: Sequence[ArrayLike],
    *,
    weight: float | None = None,
    restarts: int = 0,
    start: str = "chain",
    seed: int = 0,
    tolerance: float = 1e-13,
    max_sweeps: int = 500,
) -> float | np.ndarray:
    """``dist^2`` between a network and a target: the least of the local minima found from chain and random starts.

    Each start ends at a local minimum to the stated tolerance. Near a solution the start along the chain leads
    to the global one; far from it add restarts.

    Args:
      params: layers ``(..., d_i, d_{i-1})``; runs only without batch axes.
      target: layers of the same shapes.
      weight: ``||W_1*||_2^2``; None takes it from ``target``.
      start: ``"chain"``, or ``"identity"`` (which misses the minimum in about half of all scrambled cases).
      restarts: random starts besides the chain (for points far from each other).
      seed: of the random starts.
      tolerance: a search stops once a Newton step would lower the distance by less than this fraction of it (or of the
        rounding of its terms); for widths above 32, where single rotations alternate, by an estimate of the same.
      max_sweeps: at most this many Newton steps (sweeps along the chain) a start.

    Returns:
      A float, or an array over the batch.

    Raises:
      ValueError: another start; layers that do not match, or are not finite; a search that has not converged.

    Example:
      >>> import numpy as np
      >>> from dlnjax.theory import gauge
      >>> turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
      >>> round(gauge.distance_squared([turn, turn.T], [np.eye(2), np.eye(2)]), 12)
      0.0
    """
    if start not in ("chain", "identity"):
        raise ValueError(f"start={start!r}; give 'chain' or 'identity'")
    layers, goal, scale = _prepared(params, target, weight)
    starts = [_procrustes.chain_start(layers, goal, scale)]
    if start == "identity":
        starts = [[np.broadcast_to(np.eye(r.shape[-1]), r.shape) for r in starts[0]]]
    rng = np.random.default_rng(seed)
    for _ in range(restarts):
        starts.append([_random_orthogonal(rng, r.shape) for r in starts[0]])
    found = _procrustes.best(
        [_procrustes.minimise(layers, goal, scale, r, tolerance, max_sweeps) for r in starts]
    )
    _check_converged(found.converged, max_sweeps)
    return float(found.value) if np.ndim(found.value) == 0 else found.value


def align(params: Sequence[ArrayLike], target: Sequence[ArrayLike], *, weight: float | None = None) -> Layers:
    """The member of the target's gauge orbit nearest to ``params`` (chain start), as float64 layers.

    Raises:
      ValueError: as :func:`distance_squared`.

    Example:
      >>> import numpy as np
      >>> from dlnjax.theory import gauge
      >>> turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
      >>> nearest = gauge.align([turn, turn.T], [np.eye(2), np.eye(2)])
      >>> bool(np.allclose(nearest, [turn, turn.T]))
      True
    """
    layers, goal, scale = _prepared(params, target, weight)
    start = _procrustes.chain_start(layers, goal, scale)
    found = _procrustes.minimise(layers, goal, scale, start, 1e-13, 500)
    _check_converged(found.converged, 500)
    return _procrustes.turned(goal, found.rotations)


def _prepared(
    params: Sequence[ArrayLike], target: Sequence[ArrayLike], weight: float | None
) -> tuple[Layers, Layers, np.ndarray]:
    """Layers of both and the weight, over one batch, broadcast."""
    layers, goal = _layers(params), _layers(target)
    if [w.shape[-2:] for w in layers] != [w.shape[-2:] for w in goal]:
        raise ValueError(
            f"params have shapes {[w.shape for w in layers][:6]} and the target {[w.shape for w in goal][:6]}; "
            "give two networks of the same widths"
        )
    if not all(np.all(np.isfinite(w)) for w in [*layers, *goal]):
        raise ValueError("a layer holds numbers that are not finite; there is no distance")
    scale = (
        np.square(np.linalg.norm(goal[0], 2, axis=(-2, -1))) if weight is None else np.asarray(weight, float)
    )
    if not np.all(np.isfinite(scale) & (scale >= 0)):
        raise ValueError(f"weight={scale}; give a finite number >= 0 (None takes ||W_1*||_2^2)")
    batch = np.broadcast_shapes(scale.shape, *(w.shape[:-2] for w in [*layers, *goal]))
    layers, goal = ([np.broadcast_to(w, batch + w.shape[-2:]) for w in tree] for tree in (layers, goal))
    return layers, goal, np.broadcast_to(scale, batch)


def _check_converged(converged: np.ndarray, max_sweeps: int) -> None:
    if not np.all(converged):
        raise ValueError(
            f"{np.sum(~converged)} of {np.size(converged)} distances have not converged in {max_sweeps} sweeps; "
            "give more max_sweeps or a larger tolerance"
        )


def transform(params: Sequence[ArrayLike], rotations: Sequence[ArrayLike]) -> Layers:
    """``W_i -> R_i^T W_i R_{i-1}``, given ``R_1, ..., R_{N-1}``; the product does not change.

    Raises:
      ValueError: not one rotation between each two layers.

    Example:
      >>> import numpy as np
      >>> from dlnjax.theory import gauge
      >>> first, last = gauge.transform([np.ones((2, 3)), np.eye(2)], [np.array([[0.0, 1.0], [-1.0, 0.0]])])
      >>> (last @ first).tolist()
      [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    layers = _layers(params)
    if len(rotations) != len(layers) - 1:
        raise ValueError(
            f"{len(rotations)} rotations for {len(layers)} layers; give {len(layers) - 1}, R_1 first"
        )
    return _procrustes.turned(layers, [_host.array(r) for r in rotations])


def random_rotations(seed: int, dims: Sequence[int]) -> list[np.ndarray]:
    """Haar ``R_1, ..., R_{N-1}`` for widths ``(d_0, ..., d_N)``.

    Example:
      >>> from dlnjax.theory import gauge
      >>> [r.shape for r in gauge.random_rotations(0, (5, 2, 3, 4))]
      [(2, 2), (3, 3)]
    """
    rng = np.random.default_rng(seed)
    return [_random_orthogonal(rng, (d, d)) for d in dims[1:-1]]


def canonical(params: Sequence[ArrayLike]) -> Layers:
    """The representative of a gauge orbit that depends on the product alone: ``(diag(s) V^T, I, ..., I, P)``.

    For equal hidden widths r, orthonormal layers behind the first, ``d_N >= r`` and a product of rank r with
    distinct singular values: then two networks with one product have one canonical form. The largest entry of
    each column of P is positive.

    Raises:
      ValueError: other networks.

    Example:
      >>> import numpy as np
      >>> from dlnjax.theory import gauge
      >>> layers = [np.array([[0.0, 2.0], [3.0, 0.0]]), np.eye(2)]
      >>> turned = gauge.transform(layers, gauge.random_rotations(0, (2, 2, 2)))
      >>> bool(np.allclose(gauge.canonical(layers), gauge.canonical(turned)))
      True
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


def _layers(params: Sequence[ArrayLike]) -> Layers:
    """Layers in float64; a run among unbatched layers is taken apart."""
    if np.ndim(params[0]) == 2 and any(np.ndim(leaf) == 3 for leaf in params):
        return list(_host.chain(tuple(params)).layers)
    return [_host.array(leaf) for leaf in params]


def _random_orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    factor, upper = np.linalg.qr(rng.standard_normal(shape))
    return factor * np.sign(np.diagonal(upper, axis1=-2, axis2=-1))[..., None, :]
