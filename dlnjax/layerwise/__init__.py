r"""Riemannian gradient descent layer by layer in one pass: what ``optim.rgd`` does, with fewer products.

For equal hidden widths the middle layers are square, and what moves layer i is the rotation
``R_i = polar(I - mu' Omega_i)``, ``Omega_i = skew(W_i^T g_i)``: ``W_i <- W_i R_i``. From one layer to the next both
are carried by the layer itself, since ``g_i W_i^T = W_{i+1}^T g_{i+1}`` and ``W_i W_i^T = I``:

.. math:: \Omega_{i+1} = W_i\, \Omega_i\, W_i^T, \qquad R_{i+1} = W_i R_i W_i^T .

So one polar factor a step serves all of them, and a layer costs three products of size r (the move, what it carries
on, the product of the moved layers that the next step starts from) where the composed transformation takes ten. A
square last layer with the same step is moved as the middle ones are.
The loop follows the traced depth, so that padding costs nothing, and every layer is read and written once.
On an accelerator, where a chain of small products is all waiting, chunks of layers are moved at once: the rotation
reaches each of them by the product of the layers before it, in logarithmic depth (``chunked``).
Moved by rotations alone the layers would gather rounding: every so many steps they are projected anew, at every step
while steps are large.
A test holds the two equal to 1e-12. Depth stays a loop here; in :mod:`dlnjax.reduced` it is a number.
"""

from dlnjax.layerwise.engine import Layers, prepare, train

__all__ = ["Layers", "prepare", "train"]
