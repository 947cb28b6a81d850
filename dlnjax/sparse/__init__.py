"""Deep sparse coding: ``y = D_1 x_1, x_1 = D_2 x_2, ...``, every code sparse, computed by unrolled networks.

Li, Feng & Zhou, "Convergence Analysis for Deep Sparse Coding via Convolutional Neural Networks" (arXiv 2408.05540).
Of that paper the abstract and the introduction could be read: the model and the kinds of claim are [paper], all
constants classical, as cited, or [derived]. A chain of orthonormal dictionaries is a deep orthonormal linear network.
"""

from dlnjax.sparse.bounds import Stability, identification, is_unique, predict, stability, uniqueness_bound
from dlnjax.sparse.codes import ACTIVATIONS, analytic_weights, encode, fista_momentum, pursue
from dlnjax.sparse.dictionary import (
    Dictionary,
    Joint,
    coherence,
    convolution,
    dense,
    join,
    largest_eigenvalue,
)
from dlnjax.sparse.dictionary import matrix, random, sample  # noqa: I001

__all__ = [
    "ACTIVATIONS", "Dictionary", "Joint", "Stability", "analytic_weights", "coherence", "convolution", "dense", "encode",
    "fista_momentum", "identification", "is_unique", "join", "largest_eigenvalue", "matrix", "predict", "pursue",
    "random", "sample", "stability", "uniqueness_bound",
]  # fmt: skip
