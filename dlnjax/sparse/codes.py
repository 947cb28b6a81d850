r"""Sparse codes by networks: unrolled proximal steps, one layer of the network per step.

A layer is ``x <- prox_{t lambda}(v + t W^T (y - D v))``, ``v = x + beta_k (x - x_before)``: a convolution, a transposed
one and an activation. W = D, beta = 0 is ISTA (Daubechies et al. 2004), :func:`fista_momentum` FISTA (Beck & Teboulle
2009), t and lambda learned per layer with analytic W ALISTA (Liu et al. 2019), a lighter LISTA."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlnjax._linalg import matmul
from dlnjax._types import PyTree
from dlnjax.sparse.dictionary import Dictionary, Joint, join, matrix

#: ``(u, tau) -> x``, elementwise. Functions that never fall and never expand are proximal maps of convex penalties
#: (Combettes & Pesquet 2020): ``soft`` of ``tau |x|``, ``relu`` of it over x >= 0, ``clipped`` over 0 <= x <= 1.
#: ``hard`` expands: it is the map of tau^2 / 2 times the number of nonzeros, which is not convex.
ACTIVATIONS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "soft": lambda u, tau: u - jnp.clip(u, -tau, tau),
    "relu": lambda u, tau: jnp.maximum(u - tau, 0),
    "clipped": lambda u, tau: jnp.clip(u - tau, 0, 1),
    "tanh": lambda u, tau: jnp.tanh(u - jnp.clip(u, -tau, tau)),
    "hard": lambda u, tau: jnp.where(jnp.abs(u) > tau, u, 0),
}


def encode(
    dictionary: Dictionary | Joint, signal: PyTree, threshold: PyTree, *, num_layers: int, step_size: PyTree = None,
    momentum: PyTree = 0.0, activation: PyTree = "soft", weights: PyTree = None, start: PyTree = None,
    history: bool = False,
) -> PyTree:  # fmt: skip
    """The code of a signal by a network of ``num_layers`` layers; pure, differentiable, one ``lax.scan``.

    With ``soft`` (``relu``) it tends to a minimiser of ``1/2 ||y - D x||^2 + lambda ||x||_1`` (over x >= 0).

    Args:
      signal: y, as the dictionary D takes it; leading axes are a batch.
      threshold: lambda >= 0, a number or ``(num_layers,)``; with a :class:`Joint` also a tuple of these, one per code.
      step_size: t > 0, a number or ``(num_layers,)``; None is ``1 / ||D||_2^2``, see :func:`lipschitz`.
      momentum: beta, a number or ``(num_layers,)``; ``"fista"`` is :func:`fista_momentum`.
      activation: a name in :data:`ACTIVATIONS`, or a function ``(u, tau) -> x``; others are a ValueError.
      weights, start: W, by default D, see :func:`analytic_weights`, and the code to begin with, by default 0.
      history: return the codes after every layer, on a new first axis, not the last alone.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import sparse
      >>> encode(sparse.dense(jnp.eye(2)), jnp.array([2.0, 0.25]), 0.5, num_layers=3).tolist()
      [1.5, 0.0]
    """
    _check(dictionary, signal, num_layers, activation)
    step_size = 1 / lipschitz(dictionary) if step_size is None else step_size
    momentum = fista_momentum(num_layers) if isinstance(momentum, str) and momentum == "fista" else momentum
    plain = isinstance(momentum, int | float) and momentum == 0
    dtype = jax.tree.leaves(dictionary.zeros())[0].dtype
    *values, beta = _per_layer(num_layers, dtype, step_size=step_size, threshold=threshold, momentum=momentum)
    prox = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    weights = weights or dictionary

    def layer(carry, values):
        (ahead, code), (t, lam, beta) = carry, values  # the next layer's beta: one pass does all but D
        residual = jax.tree.map(jnp.subtract, signal, dictionary.synthesize(ahead))
        moved = jax.tree.map(lambda x, c: x + t * c, ahead, weights.analyze(residual))
        lam = lam if isinstance(lam, tuple) else jax.tree.map(lambda _: lam, moved)
        new = jax.tree.map(lambda u, one: prox(u, t * one), moved, lam)
        ahead = new if plain else jax.tree.map(lambda x, z: x + beta * (x - z), new, code)
        return (ahead, None if plain else new), (new if history else None)

    if start is None:
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, dtype), jax.eval_shape(dictionary.analyze, signal))
    carry, values = (start, None if plain else start), (*values, jnp.roll(beta, -1))
    (ahead, last), codes = jax.lax.scan(layer, carry, values)
    return codes if history else ahead if plain else last


def pursue(
    dictionaries: Sequence[Dictionary], signal: jax.Array, thresholds: Sequence[PyTree], *,
    step_sizes: Sequence[PyTree] | None = None, **options: PyTree,
) -> tuple[jax.Array, ...]:  # fmt: skip
    """Codes ``(x_1, ..., x_J)`` layer by layer: each is the next dictionary's signal; ``options`` go to :func:`encode`.

    All at once are ``encode(joint, joint.signal(y), thresholds, ...)`` with ``joint = join(dictionaries)``.
    """
    codes, count = [signal], len(join(dictionaries).dictionaries)
    steps = [None] * count if step_sizes is None else step_sizes
    if not len(steps) == len(thresholds) == count:
        raise ValueError(f"{len(thresholds)} thresholds, {len(steps)} step sizes; give {count} of each")
    for dictionary, threshold, step in zip(dictionaries, thresholds, steps, strict=True):
        codes.append(encode(dictionary, codes[-1], threshold, step_size=step, **options))
    return tuple(codes[1:])


def lipschitz(dictionary: Dictionary | Joint) -> jax.Array:
    """``||D||_2^2``, by singular values: networks with a step size below ``2 / ||D||_2^2`` converge."""
    return jnp.linalg.norm(matrix(dictionary), 2) ** 2


def fista_momentum(num_layers: int) -> np.ndarray:
    """``beta_k = (t_{k-1} - 1) / t_k`` of layer k from 1 on, ``t_0 = t_1 = 1, t_{k+1} = (1 + sqrt(1 + 4 t_k^2))/2``."""
    t = [1.0, 1.0]
    for _ in range(num_layers - 1):
        t.append((1 + math.sqrt(1 + 4 * t[-1] ** 2)) / 2)
    return np.array([(a - 1) / b for a, b in pairwise(t)])


def analytic_weights(dictionary: Dictionary) -> Dictionary:
    """Weights of the least total coherence, ``min ||W^T D||_F`` with ``<w_i, d_i> = 1``.

    ``w_i = M^+ d_i / (d_i^T M^+ d_i)``, ``M = D D^T``, of a convolution its block on the window of an atom with all
    neighbours (Liu, Chen, Wang & Yin 2019; closed form [derived]). A tight frame's weights are its atoms.
    """
    kernel, stride = dictionary.kernel, dictionary.stride
    sides = [(w - 1) // s * s for w, s in zip(kernel.shape, stride, strict=False)]
    size = tuple(w + 2 * side for w, side in zip(kernel.shape, sides, strict=False))
    near = matrix(Dictionary(kernel, size, stride)).reshape(*size, kernel.shape[-2], -1)
    near = near[tuple(slice(side, n - side) for n, side in zip(size, sides, strict=True))]
    near, atoms = (a.reshape(-1, a.shape[-1]) for a in (near, kernel))
    solved = matmul(jnp.linalg.pinv(matmul(near, near.T), hermitian=True), atoms)
    solved = solved / jnp.sum(atoms * solved, 0, keepdims=True)
    return Dictionary(solved.reshape(kernel.shape), dictionary.size, stride)


def _per_layer(num_layers: int, dtype: PyTree, **values: PyTree) -> tuple[PyTree, ...]:
    for name, leaf in ((name, leaf) for name, value in values.items() for leaf in jax.tree.leaves(value)):
        if jnp.shape(leaf) not in ((), (num_layers,)):
            raise ValueError(f"{name} has shape {jnp.shape(leaf)}; give a number or ({num_layers},)")
        low = {"threshold": 0, "step_size": np.finfo(float).tiny}.get(name, -np.inf)
        if not isinstance(leaf, Tracer) and not np.all(np.asarray(leaf) >= low):
            raise ValueError(f"{name}={np.min(leaf):g}; a threshold is 0 or more, a step size more than 0")
    return jax.tree.map(lambda v: jnp.broadcast_to(jnp.asarray(v, dtype), num_layers), tuple(values.values()))


def _check(dictionary: Dictionary | Joint, signal: PyTree, num_layers: int, activation: PyTree) -> None:
    if not isinstance(num_layers, int) or num_layers < 1:
        raise ValueError(f"num_layers={num_layers!r}; give a whole number from 1 on")
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is not known; give one of {', '.join(ACTIVATIONS)}")
    one = jax.eval_shape(lambda: dictionary.synthesize(dictionary.zeros()))  # pyright: ignore[reportArgumentType]
    wanted, given = ([jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (one, signal))
    if len(given) != len(wanted) or any(g[-len(w) :] != w for g, w in zip(given, wanted, strict=True)):
        raise ValueError(f"signals of shape {given}; the dictionary takes {wanted}, behind any batch axes")
