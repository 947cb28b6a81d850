r"""When sparse codes are unique and stable, and how fast a network reaches them; in numpy, float64.

That deep sparse codes are all three is [paper: Li, Feng & Zhou, arXiv 2408.05540, abstract]; constants are as cited.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dlnjax._types import PyTree
from dlnjax.sparse.dictionary import Dictionary, Joint, join, matrix


class Stability(NamedTuple):
    """Bounds per dictionary, see :func:`stability`; where one does not apply the ``reason``, and those before it."""

    applies: bool
    reason: str
    thresholds: tuple[float, ...]
    errors: tuple[float, ...]
    deviations: tuple[float, ...]


def coherence(dictionary: Dictionary) -> float:
    """Mutual coherence ``mu``, the largest cosine between two atoms (0 to 1), of a convolution at all positions."""
    spans = zip(dictionary.size, dictionary.kernel.shape, dictionary.stride, strict=False)
    size = tuple(min(n, w + (w - 1) // s * s) for n, w, s in spans)  # any two atoms that overlap fit on this
    atoms = np.asarray(matrix(Dictionary(dictionary.kernel, size, dictionary.stride)), np.float64)
    atoms = atoms / np.maximum(np.linalg.norm(atoms, axis=0), 1e-300)
    return min(float(np.max(np.abs(np.triu(atoms.T @ atoms, 1)))), 1.0)


def uniqueness_bound(dictionary: Dictionary) -> float:
    """``(1 + 1/mu) / 2``: a code with fewer nonzeros is the only one with so few [paper: Donoho & Elad 2003]."""
    mu = coherence(dictionary)
    return (1 + 1 / mu) / 2 if mu else math.inf


def is_unique(dictionaries: Sequence[Dictionary], sparsities: Sequence[int]) -> bool:
    """Whether the bounds say that a chain's codes are the only ones with these numbers of nonzeros [derived].

    ``x_j`` is, if ``s_j`` is below the bound of ``D_{i+1} ... D_j`` (atoms normalised) and ``x_i`` unique or i = 0.
    """
    chain, unique = _chain(dictionaries, sparsities), [True]
    for j, s in enumerate(sparsities, 1):
        product, bounds = np.eye(chain[j - 1].shape[1]), []
        for atoms in reversed(chain[:j]):
            product = atoms @ product
            bounds.insert(0, uniqueness_bound(Dictionary(jnp.asarray(product))))
        unique.append(any(before and s < bound for before, bound in zip(unique, bounds, strict=True)))
    return unique[-1]


def stability(dictionaries: Sequence[Dictionary], sparsities: Sequence[int], noise: float) -> Stability:
    """Thresholds and errors of codes by layered pursuit (soft or relu), for signals with noise ``||e||_2 <= noise``.

    With mu_j the coherences, s_j the sparsities and ``eps_1 = noise`` [derived; for one as Tropp 2006]:

    - thresholds: ``lambda_j = eps_j (1 + mu_j) / (1 - (2 s_j - 1) mu_j)`` keeps the support within the true one,
    - errors: then ``||x_j' - x_j||_inf <= (lambda_j + eps_j) / (1 - (s_j - 1) mu_j)``; ``eps_{j+1}`` is this times the
      largest sum of the sizes of s_j entries of an atom of ``D_{j+1}``,
    - deviations: codes as sparse that explain the signal as well differ by at most ``||.||_2 = 2 noise / g_1``, this
      over ``g_2``, ..., ``g_j^2 = 1 - (2 s_j - 1) mu_j`` (g_1 of Donoho, Elad & Temlyakov 2006, the rest [derived]).
    """
    if not noise >= 0:
        raise ValueError(f"noise={noise}; give 0 or more")
    lambdas, bounds, deviations, chain = [], [], [], _chain(dictionaries, sparsities)
    for j, (atoms, s) in enumerate(zip(chain, sparsities, strict=True)):
        mu, sizes = coherence(dictionaries[j]), np.sort(np.abs(atoms), 0)[::-1]
        eps = bounds[-1] * float(np.max(np.sum(sizes[: sparsities[j - 1]], 0))) if j else float(noise)
        gap = 1 - (2 * s - 1) * mu
        if gap <= 0:
            reason = f"code {j + 1} has {s} nonzeros, not below (1 + 1/mu)/2 = {(1 + 1 / mu) / 2:.4g}"
            return Stability(False, reason, tuple(lambdas), tuple(bounds), tuple(deviations))
        lambdas.append(eps * (1 + mu) / gap)
        bounds.append((lambdas[-1] + eps) / (1 - (s - 1) * mu))
        deviations.append((deviations[-1] if j else 2 * float(noise)) / math.sqrt(gap))
    return Stability(True, "", tuple(lambdas), tuple(bounds), tuple(deviations))


def predict(
    dictionary: Dictionary | Joint,
    slopes: PyTree,
    step_size: float,
    momentum: float = 0.0,
    weights: PyTree = None,
) -> float:
    """The error's factor per layer once the support stands, where the network is affine [derived].

    The largest modulus of a root of ``z^2 - a (1 + beta) z + a beta``, a any eigenvalue of ``Phi (I - t W^T D)`` on the
    support: for ISTA ``max |1 - t lambda|`` over the spectrum of ``D_S^T D_S``. FISTA's momentum tends to 1: give that.
    ``slopes`` is Phi, the support as bools or the activation's slope at every entry; the others are as in ``encode``.
    """
    phi, atoms = _flat(slopes), np.asarray(matrix(dictionary), np.float64)
    if phi.size != atoms.shape[1]:
        raise ValueError(f"slopes have {phi.size} entries; the code has {atoms.shape[1]}")
    on, seen = np.flatnonzero(phi), atoms if weights is None else np.asarray(matrix(weights), np.float64)
    layer = phi[on, None] * (np.eye(on.size) - step_size * seen[:, on].T @ atoms[:, on])
    a = np.linalg.eigvals(layer).astype(complex)
    middle, root = a * (1 + momentum), np.sqrt((a * (1 + momentum)) ** 2 - 4 * a * momentum)
    return float(np.max(np.abs([middle + root, middle - root]), initial=0.0) / 2)


def identification(
    dictionary: Dictionary | Joint, code: PyTree, signal: PyTree, threshold: float, step_size: float,
    momentum: PyTree = 0.0,
) -> float:  # fmt: skip
    """A layer from which on a soft threshold network that starts at 0 has the signs of its limit x [derived].

    With gamma the least ``lambda - |<d_j, y - D x>|`` off the support, they stand within delta = ``min(|x_i|,
    t gamma)`` of x. ISTA is there in ``2 floor((||x|| / (t gamma))^2) + log(||x|| / delta) / log(1 / q)`` layers,
    q = ``predict``, and the first term 0 if ``||x|| max_j ||D_S^T d_j|| <= gamma``; ``"fista"`` by its objective's rate
    (Beck & Teboulle 2009), for ``t <= 1 / ||D||^2``. Infinity where nothing is known.
    """
    atoms, x, y = np.asarray(matrix(dictionary), np.float64), _flat(code), _flat(signal)
    edge, on, pull = 2 / np.linalg.norm(atoms, 2) ** 2, x != 0, atoms.T @ (y - atoms @ x)
    if momentum not in (0, "fista") or not 0 < step_size < edge:
        raise ValueError(f"momentum={momentum!r}, step_size={step_size}; give 0 or 'fista', below {edge:.6g}")
    gamma, length = threshold - np.max(np.abs(pull[~on]), initial=0), np.linalg.norm(x)
    wrong = np.max(np.abs(pull[on] - threshold * np.sign(x[on])), initial=-gamma)
    if wrong > 1e-6 * np.max(np.abs(atoms.T @ y)):
        raise ValueError(f"the code violates optimality by {wrong:.2g}; compute it with more layers")
    least = float(np.min(np.abs(x[on]), initial=np.inf))
    own = np.linalg.svd(atoms[:, on] if on.sum() <= len(atoms) else 0 * atoms, compute_uv=False)
    delta, sigma = min(least, step_size * gamma), np.min(own, initial=1.0)
    if delta <= 1e-12 * threshold or sigma < 1e-10 or (momentum and step_size > edge / 2 * (1 + 1e-12)):
        return math.inf
    if (
        momentum
    ):  # an excess w^2 of the objective bounds the distance of the extrapolated code by 3 (a w^2 + b w)
        a, b = (1 + np.linalg.norm(atoms, axis=0).max() / sigma) / gamma, math.sqrt(2) / sigma
        w = 2 * delta / 3 / (b + math.sqrt(b**2 + 4 * a * delta / 3))
        return 1 + math.ceil(length * math.sqrt(2 / step_size) / w)
    enter = length * np.max(np.linalg.norm(atoms[:, on].T @ atoms[:, ~on], axis=0), initial=0.0) > gamma
    false = 2 * math.floor((length / (step_size * gamma)) ** 2) if enter else 0
    contraction = -math.log(max(predict(dictionary, on, step_size), 1e-300))
    return 1 + false + math.ceil(math.log(max(length / (delta if enter else least), 1)) / contraction)


def _chain(dictionaries: Sequence[Dictionary], sparsities: Sequence[int]) -> list[np.ndarray]:
    chain = [np.asarray(matrix(d), np.float64) for d in join(dictionaries).dictionaries]
    top = [atoms.shape[1] for atoms in chain]
    if len(sparsities) != len(chain) or any(not 1 <= s <= n for s, n in zip(sparsities, top, strict=True)):
        raise ValueError(f"sparsities {list(sparsities)}; give one per dictionary, from 1 to at most {top}")
    return chain


def _flat(tree: PyTree) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0], np.float64)
