r"""The two maps on products that rates are made of: the layers' metric and the loss's curvature.

The layers see a product direction through ``J J^*``, weighted by their steps; the loss sees it through its
Hessian on the manifold of products of the network's rank. Their composition has the nonzero spectrum of
the weighted Riemannian Hessian in the layers, in a space that does not grow with depth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dlnjax.theory import _host

Map = Callable[[np.ndarray], np.ndarray]


def layer_metric(net: _host.Chain) -> Map:
    r"""``Delta -> sum_i mu_i A_i P_i(A_i^T Delta B_i^T) B_i`` (``P_i = id``: free layers).

    Over leading axes. Every ``B_i`` with ``i >= 2`` ends in ``W_1``, so only the first layer's term has the
    width ``d_0``.
    """
    first, rest = net.layers[0], net.layers[1:]
    befores = [np.eye(first.shape[0])]
    for layer in rest:
        befores.append(layer @ befores[-1])
    afters = [np.eye(net.layers[-1].shape[0])]
    for layer in reversed(rest):
        afters.append(afters[-1] @ layer)
    afters.reverse()  # afters[i] = W_N ... W_{i+2}: what follows net.layers[i]

    def term(i: int, x: np.ndarray) -> np.ndarray:
        pulled = afters[i].T @ x
        if net.constrained[i]:
            pulled = _host.project_tangent(net.layers[i], pulled)
        return net.steps[i] * (afters[i] @ pulled)

    def apply(delta: np.ndarray) -> np.ndarray:
        narrow = delta @ first.T
        total = np.zeros_like(narrow)
        for i in range(1, len(net.layers)):
            total = total + term(i, narrow @ befores[i - 1].T) @ befores[i - 1]
        return term(0, delta) + total @ first

    return apply


def product_hessian(product: np.ndarray, rank: int, data: _host.Data, normal: np.ndarray) -> tuple[Map, Map]:
    r"""The Hessian of the loss on the products of this rank, at a critical one, and the tangent projection.

    .. math:: \Delta \mapsto P_T(\Delta C + G \Delta^T W^{+T} + W^{+T} \Delta^T G)

    with ``G`` the product gradient, which is normal there: the second-order part of a curve of rank r through
    ``W`` is ``Delta W^+ Delta`` in the normal space.

    Args:
      product: ``W (d_N, d_0)`` of exactly this rank.
      rank: r.
      data: statistics.
      normal: ``G``, with zero column- and row-space parts.
    """
    left, values, right = np.linalg.svd(product, full_matrices=False)
    left, values, right = left[:, :rank], values[:rank], right[:rank]
    inverse = (left / values) @ right  # W^{+T}

    def project(x: np.ndarray) -> np.ndarray:
        outside = x - left @ (left.T @ x)
        return x - outside + (outside @ right.T) @ right

    def hessian(delta: np.ndarray) -> np.ndarray:
        delta = project(delta)
        turned = np.swapaxes(delta, -1, -2)
        return project(data.weigh(delta) + normal @ (turned @ inverse) + inverse @ (turned @ normal))

    return hessian, project
