"""Are sparse codes unique and stable within the bounds? Every support is tried, every error is measured.

Inside the bounds nothing may contradict them; outside, how often something does is counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import sparse
from dlnjax._types import PyTree
from dlnjax.campaigns.checks.finding import Finding, Row, row

#: Relative residual below which a support explains a signal, and relative change from which a code is another one.
_EXPLAINS, _DIFFERS = 1e-9, 1e-6
#: Chains by kind, rows, columns and blocks of each dictionary, and numbers of nonzeros of the last code. A tight
#: frame with one column more than rows has coherence 1/rows, so that its bound is (1 + rows) / 2, and its spark is
#: rows + 1.
_UNIQUE = [
    ([("tight", 5, 6, 1)], (1, 2, 3)),
    ([("tight", 7, 8, 1)], (2, 3, 4)),
    ([("tight", 9, 10, 1)], (3, 4, 5)),
    ([("gaussian", 8, 12, 1)], (1, 2, 4)),
    ([("gaussian", 40, 12, 1)], (1, 2)),
    ([("tight", 12, 13, 1), ("gaussian", 13, 13, 13)], (2, 3)),
    ([("tight", 14, 15, 1), ("orthonormal", 15, 10, 5)], (1, 2, 3)),
    ([("gaussian", 6, 9, 1), ("gaussian", 9, 12, 3)], (1, 2)),
    ([("orthonormal", 12, 12, 1), ("orthonormal", 12, 8, 4), ("tight", 8, 12, 4)], (1, 2)),
]
_STABLE = [
    ([("tight", 24, 25, 1)], (2, 5, 9)),
    ([("gaussian", 200, 30, 1)], (1, 2, 3)),
    ([("orthonormal", 24, 24, 1)], (4, 8)),
    ([("tight", 32, 33, 1), ("orthonormal", 33, 22, 11)], (1, 2, 4)),
    ([("tight", 40, 42, 1), ("gaussian", 42, 28, 14)], (1, 2)),
    ([("orthonormal", 32, 32, 1), ("orthonormal", 32, 24, 8), ("orthonormal", 24, 16, 8)], (1, 2, 3)),
    ([("tight", 48, 49, 1), ("orthonormal", 49, 42, 7), ("orthonormal", 42, 21, 21)], (1, 2)),
]
#: Layers that bring a code to rounding. On small supports these dictionaries are well conditioned, but along a null
#: vector of the whole a layer moves the code by its threshold at most, so noise must not be too small for them.
_LAYERS, _NOISE = 6000, (1e-3, 1e-1)

draw: Callable[..., jax.Array] = jax.jit(sparse.random, static_argnums=(1, 2, 3), static_argnames=("blocks",))
Chain = list[sparse.Dictionary]


def chain(rng: np.random.Generator, specs: list[tuple[str, int, int, int]]) -> Chain:
    """Random dictionaries of these kinds, rows, columns and blocks."""
    keys = [jax.random.key(int(rng.integers(2**31))) for _ in specs]
    return [
        sparse.dense(draw(key, rows, columns, kind, blocks=blocks))
        for key, (kind, rows, columns, blocks) in zip(keys, specs, strict=True)
    ]


def uniqueness(instances: int = 1600, seed: int = 0) -> Finding:
    """Models of one to three dictionaries against every support that might explain them as well.

    With one dictionary the code is the worst there is, half of the null vector (or nearest to one) of ``2 s`` atoms;
    in a chain it is random. A violation is another explanation, as sparse in every code, where ``sparse.is_unique``.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for i in range(instances):
        specs, sparsities = _UNIQUE[i % len(_UNIQUE)]
        chosen = chain(rng, specs)
        codes = _codes(rng, chosen, int(sparsities[(i // len(_UNIQUE)) % len(sparsities)]))
        counts = [int(np.sum(np.abs(x) > _EXPLAINS)) for x in codes]
        inside, others = sparse.is_unique(chosen, counts), _others(chosen, codes, counts)
        bound = sparse.uniqueness_bound(chosen[0])
        rows.append(
            row("uniqueness", i, None, depth=len(specs), dictionary=specs[0][0], sparsity=counts[0],
                bound=min(bound, 1e6), inside=int(inside), others=others, checks=int(inside),
                violations=int(inside and others > 0), ratio=None)
        )  # fmt: skip
    details = {"inside": sum(r["inside"] for r in rows), "outside, counterexamples": _counter(rows, "others")}
    return Finding("uniqueness", "within the bounds no other code is as sparse", rows, details)


def _counter(rows: list[Row], name: str) -> str:
    outside = [r for r in rows if not r["inside"]]
    return f"{sum(r[name] > 0 for r in outside)} of {len(outside)}"


def _codes(rng: np.random.Generator, chosen: Chain, sparsity: int) -> list[np.ndarray]:
    """``x_1, ..., x_J``: adversarial for one dictionary, random for more."""
    if len(chosen) == 1:
        return [_worst(np.asarray(chosen[0].kernel), sparsity)]
    model = sparse.sample(jax.random.key(int(rng.integers(2**31))), chosen, sparsity)
    return [np.asarray(x[0]) for x in model[1:]]


def _worst(atoms: np.ndarray, sparsity: int) -> np.ndarray:
    """A code whose negative rest is nearest to explaining the same signal."""
    sets = np.array(list(combinations(range(atoms.shape[1]), min(2 * sparsity, atoms.shape[1]))))
    gram = atoms.T @ atoms
    values, vectors = np.linalg.eigh(gram[sets[:, :, None], sets[:, None, :]])
    least = int(np.argmin(values[:, 0]))
    code = np.zeros(atoms.shape[1])
    code[sets[least][:sparsity]] = vectors[least, :sparsity, 0]
    return code


def _others(chosen: Chain, codes: list[np.ndarray], counts: list[int]) -> int:
    """How many supports of the last code's size explain the signal by codes that are as sparse, and are others."""
    matrices = [np.asarray(d.kernel) for d in chosen]
    product = functools.reduce(np.matmul, matrices)
    signal = product @ codes[-1]
    sets = np.array(list(combinations(range(product.shape[1]), counts[-1])))
    parts = product.T[sets].transpose(0, 2, 1)  # (sets, rows, s)
    fits = (np.linalg.pinv(parts) @ signal)[..., None]
    residual = np.linalg.norm((parts @ fits)[..., 0] - signal, axis=1)
    others = 0
    for k in np.flatnonzero(residual < _EXPLAINS * np.linalg.norm(signal)):
        code = np.zeros(product.shape[1])
        code[sets[k]] = fits[k, :, 0]
        made = [code]
        for matrix in matrices[:0:-1]:
            made.insert(0, matrix @ made[0])
        sparse_enough = all(
            np.sum(np.abs(x) > _EXPLAINS) <= count for x, count in zip(made, counts, strict=True)
        )
        apart = np.linalg.norm(code - codes[-1]) > _DIFFERS * np.linalg.norm(codes[-1])
        others += int(sparse_enough and apart)
    return others


def stability(instances: int = 1700, seed: int = 0) -> Finding:
    """Codes of noisy signals by layered pursuit, at the thresholds of ``sparse.stability``, signed and nonnegative.

    The noise is random or along an atom off the support. Ratio: the largest error over its bound, of any code; a false
    atom, too, is a violation. Outside the bounds the thresholds are twice the noise and false atoms are counted.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for i in range(instances):
        specs, sparsities = _STABLE[i % len(_STABLE)]
        sparsity = int(sparsities[(i // len(_STABLE)) % len(sparsities)])
        rows.append(_noisy(rng, i, chain(rng, specs), specs[0][0], sparsity, nonnegative=i % 2 == 1))
    outside = {"outside, models with false atoms": _counter(rows, "false_atoms")}
    return Finding("stability", "errors of the codes stay below the stability bound", rows, outside)


def _noisy(
    rng: np.random.Generator, instance: int, chosen: Chain, kind: str, sparsity: int, *, nonnegative: bool
) -> Row:
    if nonnegative:  # with one sign the codes of the chain are nonnegative too
        chosen = [chosen[0], *(sparse.dense(jnp.abs(d.kernel)) for d in chosen[1:])]
    key = jax.random.key(int(rng.integers(2**31)))
    model = sparse.sample(key, chosen, sparsity, nonnegative=nonnegative)
    signal, *codes = (np.asarray(x[0]) for x in model)
    counts = [int(np.sum(np.abs(x) > _EXPLAINS)) for x in codes]
    noise = float(np.exp(rng.uniform(*np.log(_NOISE))))
    bounds = sparse.stability(chosen, counts, noise)
    thresholds = bounds.thresholds if bounds.applies else [2 * noise] * len(chosen)
    along = np.asarray(chosen[0].kernel)[:, rng.choice(np.flatnonzero(np.abs(codes[0]) <= _EXPLAINS))]
    direction = along if instance % 4 < 2 else rng.standard_normal(signal.size)
    noisy = signal + noise * direction / np.linalg.norm(direction)
    coded = _pursue(tuple(chosen), jnp.asarray(noisy), tuple(thresholds), "relu" if nonnegative else "soft")
    given = [np.asarray(x) for x in coded]
    false = sum(
        int(np.sum((np.abs(g) > _EXPLAINS * noise) & (np.abs(x) <= _EXPLAINS)))
        for g, x in zip(given, codes, strict=True)
    )
    ratio = None
    if bounds.applies:
        errors = [float(np.max(np.abs(g - x))) for g, x in zip(given, codes, strict=True)]
        other = _refit(chosen, codes, noisy)
        apart = [float(np.linalg.norm(o - x)) for o, x in zip(other, codes, strict=True)]
        pairs = [*zip(errors, bounds.errors, strict=True), *zip(apart, bounds.deviations, strict=True)]
        ratio = max(measured / bound for measured, bound in pairs)
    held = ratio is None or (ratio <= 1 + _EXPLAINS and not false)
    return row(
        "stability", instance, None, depth=len(chosen), dictionary=kind, sparsity=counts[0], noise=noise,
        nonnegative=int(nonnegative), inside=int(bounds.applies), false_atoms=false, checks=int(bounds.applies),
        violations=int(not held), ratio=ratio,
    )  # fmt: skip


def _refit(chosen: Chain, codes: list[np.ndarray], noisy: np.ndarray) -> list[np.ndarray]:
    """Other codes as sparse that explain the noisy signal at least as well: least squares on the true support."""
    matrices = [np.asarray(d.kernel) for d in chosen]
    product, on = functools.reduce(np.matmul, matrices), np.abs(codes[-1]) > 0
    code = np.zeros(codes[-1].size)
    code[on] = np.linalg.lstsq(product[:, on], noisy, rcond=None)[0]
    made = [code]
    for matrix in matrices[:0:-1]:
        made.insert(0, matrix @ made[0])
    return made


@functools.partial(jax.jit, static_argnums=3)
def _pursue(chosen: tuple[PyTree, ...], signal: jax.Array, thresholds: tuple[PyTree, ...], activation: str):
    return sparse.pursue(chosen, signal, thresholds, num_layers=_LAYERS, activation=activation)
