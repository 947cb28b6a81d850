r"""When sparse codes are unique and stable, and how fast a network reaches them; in numpy, float64.

``mu`` is a dictionary's coherence, ``s`` the number of nonzeros of a code. That deep sparse codes are unique, stable,
and reached at a rate is [paper: Li, Feng & Zhou, arXiv 2408.05540, abstract]; the constants are as cited.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dlnjax.sparse.dictionary import Dictionary, Joint, coherence, join, matrix

#: Relative violation of optimality up to which a code counts as a minimiser.
_OPTIMAL = 1e-6


class Stability(NamedTuple):
    """Bounds per dictionary, see :func:`stability`; where one does not apply the ``reason``, and those before it."""

    applies: bool
    reason: str
    thresholds: tuple[float, ...]
    errors: tuple[float, ...]
    deviations: tuple[float, ...]


def uniqueness_bound(dictionary: Dictionary) -> float:
    """``(1 + 1/mu) / 2``: a code with fewer nonzeros is the only one with so few [paper: Donoho & Elad 2003]."""
    mu = coherence(dictionary)
    return (1 + 1 / mu) / 2 if mu else math.inf


def is_unique(dictionaries: Sequence[Dictionary], sparsities: Sequence[int]) -> bool:
    """Whether the bounds say that a chain's codes are the only ones with these numbers of nonzeros [derived].

    ``x_j`` is unique if for some i < j its ``s_j`` is below the bound of ``D_{i+1} ... D_j`` (atoms normalised), and i is
    0 or ``x_i`` unique. If ``x_J`` is, all are.
    """
    chain, unique = _chain(dictionaries, sparsities), [True]
    for j, s in enumerate(sparsities, 1):
        product, bounds = np.eye(chain[j - 1].shape[1]), {}
        for i in reversed(range(j)):
            product = chain[i] @ product
            bounds[i] = uniqueness_bound(Dictionary(jnp.asarray(product)))
        unique.append(any(unique[i] and s < bound for i, bound in bounds.items()))
    return unique[-1]


def stability(dictionaries: Sequence[Dictionary], sparsities: Sequence[int], noise: float) -> Stability:
    r"""Thresholds and errors of codes by layered pursuit (soft or relu), for signals with noise ``||e||_2 <= noise``.

    From ``eps_1 = noise`` on, dictionary by dictionary [derived; one alone in the manner of Tropp 2006]:

    - thresholds: ``lambda_j = eps_j (1 + mu_j) / (1 - (2 s_j - 1) mu_j)`` keeps the support within the true one,
    - errors: then ``||x_j' - x_j||_inf <= (lambda_j + eps_j) / (1 - (s_j - 1) mu_j)``; ``eps_{j+1}`` is this times the
      largest sum of the sizes of s_j entries of an atom of ``D_{j+1}``,
    - deviations: codes as sparse that explain the signal as well differ by at most ``||.||_2 = 2 noise / g_1``, then
      by this over ``g_2``, ..., ``g_j^2 = 1 - (2 s_j - 1) mu_j`` [one: Donoho, Elad & Temlyakov 2006; chain: derived].

    Raises:
      ValueError: a sparsity above what is possible, or a noise below 0.
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
    dictionary: Dictionary | Joint, slopes: Any, step_size: float, momentum: float = 0.0,
    weights: Dictionary | Joint | None = None,
) -> float:  # fmt: skip
    """The error's factor per layer once the support stands, where the network is affine [derived].

    The largest modulus of a root of ``z^2 - a (1 + beta) z + a beta``, a any eigenvalue of ``Phi (I - t W^T D)`` on the
    support: for ISTA ``max |1 - t lambda|`` over the spectrum of ``D_S^T D_S``. FISTA's momentum tends to 1: give that.

    Args:
      slopes: Phi, the support as bools, or the activation's slope at every entry; flat or as the code is.
      step_size, momentum, weights: t, beta and W as in ``encode``, the same in all layers.
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
    dictionary: Dictionary | Joint,
    code: Any,
    signal: Any,
    threshold: float,
    step_size: float,
    momentum: Any = 0.0,
) -> float:
    r"""A layer from which on a soft threshold network that starts at 0 has the signs of its limit x [derived].

    With ``gamma`` the least ``lambda - |<d_j, y - D x>|`` off the support, the signs stand from distance ``delta =
    min(|x_i|, t gamma)`` on: ISTA, with the q of :func:`predict`, is there within ``2 floor((||x|| / (t gamma))^2) +
    log(||x|| / delta) / log(1 / q)`` layers, and both by the rate of the objective (Beck & Teboulle 2009).

    Args:
      code: x, a minimiser for ``threshold`` and the one signal y.
      momentum: 0 or ``"fista"``.

    Returns:
      The layer; infinity where gamma is 0, the atoms on the support are dependent, or t > 1 / ||D||^2 with FISTA.

    Raises:
      ValueError: another momentum, a step size outside (0, 2 / ||D||^2), or a code that is no minimiser.
    """
    atoms, x, y = np.asarray(matrix(dictionary), np.float64), _flat(code), _flat(signal)
    edge, on, pull = 2 / np.linalg.norm(atoms, 2) ** 2, x != 0, atoms.T @ (y - atoms @ x)
    if momentum not in (0, "fista") or not 0 < step_size < edge:
        raise ValueError(
            f"momentum={momentum!r}, step_size={step_size}; give 0 or 'fista', and one in (0, {edge:.6g})"
        )
    gamma = threshold - np.max(np.abs(pull[~on]), initial=0)
    wrong = np.max(np.abs(pull[on] - threshold * np.sign(x[on])), initial=-gamma)
    if wrong > _OPTIMAL * np.max(np.abs(atoms.T @ y)):
        raise ValueError(f"the code violates optimality by {wrong:.2g}; compute it with more layers")
    length, delta = np.linalg.norm(x), min(np.min(np.abs(x[on]), initial=np.inf), step_size * gamma)
    sigma = (
        np.min(np.linalg.svd(atoms[:, on], compute_uv=False), initial=1.0) if on.sum() <= len(atoms) else 0.0
    )
    safe = step_size <= edge / 2 * (1 + 1e-12)
    if delta <= 0 or sigma < 1e-10 or (momentum and not safe):
        return math.inf
    # an excess w^2 of the objective bounds the distance by a w^2 + b w, that of FISTA's extrapolated code by 3 times it
    a, b = (1 + np.linalg.norm(atoms, axis=0).max() / sigma) / gamma, math.sqrt(2) / sigma
    reach = delta / (3 if momentum else 1)
    w = 2 * reach / (b + math.sqrt(b**2 + 4 * a * reach))
    if momentum:
        return 1 + math.ceil(length * math.sqrt(2 / step_size) / w)
    by_rate = math.ceil(length**2 / (2 * step_size * w**2)) if safe else math.inf
    enter = length * np.max(np.linalg.norm(atoms[:, on].T @ atoms[:, ~on], axis=0), initial=0.0) > gamma
    within = delta if enter else np.min(np.abs(x[on]), initial=np.inf)
    contraction = math.log(max(length / within, 1)) / -math.log(
        max(predict(dictionary, on, step_size), 1e-300)
    )
    false = 2 * math.floor((length / (step_size * gamma)) ** 2) if enter else 0
    return 1 + min(by_rate, false + math.ceil(contraction))


def _chain(dictionaries: Sequence[Dictionary], sparsities: Sequence[int]) -> list[np.ndarray]:
    """The matrices of a chain whose codes can be so sparse."""
    chain = [np.asarray(matrix(d), np.float64) for d in join(dictionaries).dictionaries]
    entries = [atoms.shape[1] for atoms in chain]
    if len(sparsities) != len(chain) or any(
        not 1 <= s <= n for s, n in zip(sparsities, entries, strict=True)
    ):
        raise ValueError(
            f"sparsities {list(sparsities)}; give one per dictionary, from 1 to at most {entries}"
        )
    return chain


def _flat(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0], np.float64)
