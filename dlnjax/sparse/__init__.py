"""Deep sparse coding: ``y = D_1 x_1, x_1 = D_2 x_2, ...``, every code sparse, computed by unrolled networks.

Li, Feng & Zhou, "Convergence Analysis for Deep Sparse Coding via Convolutional Neural Networks" (arXiv 2408.05540).
Of that paper the abstract and introduction could be read: the model and kinds of claim are [paper], all constants
classical, as cited, or [derived]. A chain of orthonormal dictionaries is a deep orthonormal linear network.
"""

from dlnjax.sparse.bounds import (
    Stability,
    coherence,
    identification,
    is_unique,
    predict,
    stability,
    uniqueness_bound,
)
from dlnjax.sparse.codes import ACTIVATIONS, analytic_weights, encode, fista_momentum, lipschitz, pursue
from dlnjax.sparse.dictionary import Dictionary, Joint, convolution, dense, join, matrix, random, sample

__all__ = [
    "ACTIVATIONS", "Dictionary", "Joint", "Stability", "analytic_weights", "coherence", "convolution", "dense",
    "encode", "fista_momentum", "identification", "is_unique", "join", "lipschitz", "matrix", "predict", "pursue",
    "random", "sample", "stability", "uniqueness_bound",
]  # fmt: skip
