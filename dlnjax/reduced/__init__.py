r"""Depth as a number: the exact two-layer reduction of Riemannian gradient descent [derived].

With equal hidden widths r, the polar retraction and one step for all middle layers, the product of an
N-layer network under Riemannian gradient descent is that of a two-layer one whose frame
:math:`U = W_N \cdots W_2` turns by a power of one rotation. With ``G = dL/dW``, ``F = G W_1^T``,
``Omega = skew(U^T F)`` and ``R = polar(I - mu' Omega)``,

.. math:: U^+ = \mathrm{Retr}_U(-\mu_N P_U(F))\, R^{N-2}, \qquad W_1^+ = W_1 - \mu\, U^T G .

The power costs what the angle needs that its rotations come to, and O(log N) products at most, so a thousand
layers cost what thirty do. It holds because the middle layers all carry the same relative gradient
(``W_{i+1}^T g_{i+1} = g_i W_i^T``) and the polar retraction commutes with rotations; QR and elementwise Adam do
not, and have no such reduction.
Heavy ball with projection transport reduces too, and so does Adam with one second moment a layer.
"""

from dlnjax.reduced.engine import prepare, train
from dlnjax.reduced.form import (
    LayerScales,
    Reduced,
    end_to_end,
    expand,
    frame,
    layer_scales,
    layer_steps,
    layers,
    power,
    reduce,
)

__all__ = [
    "LayerScales",
    "Reduced",
    "end_to_end",
    "expand",
    "frame",
    "layer_scales",
    "layer_steps",
    "layers",
    "power",
    "prepare",
    "reduce",
    "train",
]
