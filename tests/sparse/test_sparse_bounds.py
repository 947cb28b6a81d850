"""Bounds and rates against enumeration, companion matrices and runs."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlnjax import sparse


@functools.cache
def draw(seed, kind, rows, columns, blocks=1):
    return sparse.dense(sparse.random(jax.random.key(seed), rows, columns, kind, blocks=blocks))


def spark(matrix):
    """The fewest dependent columns, by enumeration."""
    for k in range(1, matrix.shape[1] + 1):
        for chosen in itertools.combinations(range(matrix.shape[1]), k):
            if np.linalg.matrix_rank(matrix[:, chosen], tol=1e-9) < k:
                return k
    return math.inf


@pytest.mark.parametrize("shape", [("tight", 5, 6), ("tight", 4, 5), ("gaussian", 4, 6), ("tight", 3, 6)])
@pytest.mark.parametrize("seed", range(3))
def test_below_the_uniqueness_bound_no_atoms_are_dependent(shape, seed):
    """Codes of s nonzeros are unique iff 2 s < spark; the bound must never promise more."""
    dictionary = draw(seed, *shape)
    least = spark(np.asarray(dictionary.kernel))
    for s in range(1, shape[2]):
        assert not sparse.is_unique([dictionary], [s]) or 2 * s < least
    if shape[2] == shape[1] + 1:  # the bound is (1 + rows) / 2 and the spark rows + 1: nothing is given away
        assert sparse.is_unique([dictionary], [math.ceil((1 + shape[1]) / 2 - 1)])
        assert not sparse.is_unique([dictionary], [math.ceil((1 + shape[1]) / 2 + 1e-9)])


def test_a_chain_is_unique_by_its_products_where_not_by_each_dictionary():
    """A last dictionary of coherent atoms after a first one that tells them apart, and the other way round."""
    first, second = draw(0, "tight", 5, 6), draw(0, "orthonormal", 6, 4, 2)
    assert sparse.is_unique([first, second], [2, 1])  # each below its bound of 3 and infinity
    assert not sparse.is_unique([first, second], [3, 5 - 1])  # 3 is not below 3, the product has a coherence
    product = np.asarray(first.kernel) @ np.asarray(second.kernel)
    product /= np.linalg.norm(product, axis=0)
    mu = np.abs(product.T @ product - np.eye(4)).max()
    assert 2 > (1 + 1 / mu) / 2 > 1
    assert sparse.is_unique([first, second], [6, 1])  # x_1 is not unique by itself: x_2 is, by the product
    assert not sparse.is_unique([first, second], [6, 2])


def test_a_third_dictionary_after_a_unique_code():
    chain = [draw(0, "tight", 9, 10), draw(1, "gaussian", 10, 8, 2), draw(2, "orthonormal", 8, 8, 4)]
    assert sparse.uniqueness_bound(chain[1]) < 3
    bounds = {"all": sparse.is_unique(chain, [4, 1, 1]), "not the second": sparse.is_unique(chain, [4, 4, 3])}
    assert bounds == {"all": True, "not the second": False}


def test_stability_is_its_formula_for_a_known_coherence():
    """mu = 1/6: s = 2 of noise 0.1, then an orthonormal dictionary of 2 x 2 blocks."""
    chain = [
        draw(0, "tight", 6, 7),
        sparse.dense(np.vstack([np.kron(np.eye(3), [[0.6], [0.8]]), np.zeros((1, 3))])),
    ]
    bounds = sparse.stability(chain, [2, 1], 0.1)
    lam = 0.1 * (7 / 6) / (1 - 3 / 6)
    error = (lam + 0.1) / (1 - 1 / 6)
    assert bounds.applies
    assert bounds.thresholds == pytest.approx([lam, 1.4 * error])  # largest sum of two entries: 0.6 + 0.8
    assert bounds.errors == pytest.approx([error, 2.8 * error])
    assert bounds.deviations == pytest.approx([0.2 / math.sqrt(0.5), 0.2 / math.sqrt(0.5)])
    assert sparse.stability(chain, [2, 1], 0.0)[2:] == ((0, 0), (0, 0), (0, 0))
    refused = sparse.stability(chain, [4, 1], 0.1)
    assert not refused.applies
    assert "code 1 has 4 nonzeros, not below (1 + 1/mu)/2 = 3.5" in refused.reason
    assert refused.thresholds == ()


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 4), st.integers(1, 4), st.floats(1e-4, 0.2), st.booleans())
def test_errors_stay_below_the_stability_bound(seed, sparsity, noise, along):
    """Limits by coordinate descent in numpy, noise random or along an atom off the support."""
    rng = np.random.default_rng(seed)
    atoms = np.asarray(draw(seed, "tight", 9, 10).kernel)
    x = np.zeros(10)
    x[rng.choice(10, sparsity, replace=False)] = rng.uniform(0.5, 1, sparsity) * rng.choice([-1, 1], sparsity)
    direction = atoms[:, np.flatnonzero(x == 0)[0]] if along else rng.standard_normal(9)
    y = atoms @ x + noise * direction / np.linalg.norm(direction)
    bounds = sparse.stability([sparse.dense(atoms)], [sparsity], noise)
    assert bounds.applies
    made = np.zeros(10)
    for _ in range(3000):
        for i in range(10):
            pull = atoms[:, i] @ (y - atoms @ made) + made[i]
            made[i] = np.sign(pull) * max(abs(pull) - bounds.thresholds[0], 0)
    assert np.all(np.abs(made[x == 0]) < 1e-9 * noise)
    assert np.max(np.abs(made - x)) <= bounds.errors[0] * (1 + 1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("step", [0.1, 0.5, 0.9])
def test_the_factor_is_the_spectral_radius_of_a_layer(momentum, step):
    """Of (code, code before), as one matrix, with slopes of any size and other weights."""
    dictionary, rng = draw(0, "gaussian", 8, 12), np.random.default_rng(1)
    atoms, weights = np.asarray(dictionary.kernel), sparse.analytic_weights(dictionary)
    for slopes in (rng.random(12) < 0.4, rng.uniform(0, 1, 12)):
        for used in (None, weights):
            seen = atoms if used is None else np.asarray(used.kernel)
            layer = slopes[:, None] * (np.eye(12) - step * seen.T @ atoms)
            both = np.block([[(1 + momentum) * layer, -momentum * layer], [np.eye(12), np.zeros((12, 12))]])
            expected = np.max(np.abs(np.linalg.eigvals(both)))
            assert sparse.predict(dictionary, slopes, step, momentum, used) == pytest.approx(
                expected, abs=1e-7
            )
    on = np.arange(12) < 3
    spectrum = np.linalg.eigvalsh(atoms[:, on].T @ atoms[:, on])
    assert sparse.predict(dictionary, on, step) == pytest.approx(
        np.max(np.abs(1 - step * spectrum)), abs=1e-13
    )


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_joint_codes_of_orthonormal_chains_have_a_closed_form(depth):
    """``1 - lambda_1 / lambda_J``, ``lambda_k = 2 - 2 cos((2 k - 1) pi / (2 J + 1))``, at step ``1 / ||D||^2``."""
    both = sparse.join([draw(j, "orthonormal", 5, 5) for j in range(depth)])
    low, high = (2 - 2 * math.cos((2 * k - 1) * math.pi / (2 * depth + 1)) for k in (1, depth))
    assert float(sparse.lipschitz(both)) == pytest.approx(high, rel=1e-12)
    whole = jax.tree.map(lambda z: np.ones(z.shape, bool), both.zeros())
    assert sparse.predict(both, whole, 1 / high) == pytest.approx(1 - low / high, abs=1e-12)


def standing(codes):
    """The layer from which on all signs are the last one's."""
    signs = np.sign(codes)
    return next(k for k in range(len(signs)) if np.all(signs[k:] == signs[-1])) + 1


@pytest.mark.parametrize("momentum", [0.0, "fista"])
@pytest.mark.parametrize("kind", [("gaussian", 10, 15), ("tight", 8, 12), ("orthonormal", 9, 9)])
def test_the_support_stands_by_its_bound(kind, momentum):
    dictionary = draw(0, *kind)
    edge = 2 / float(sparse.lipschitz(dictionary))
    for seed in range(4):
        signal = sparse.sample(jax.random.key(seed), [dictionary], 3)[0][0]
        for share in (0.2, 0.49) if momentum else (0.2, 0.5, 0.9):
            step = share * edge
            codes = sparse.encode(
                dictionary, signal, 0.2, num_layers=6000, step_size=step, momentum=momentum, history=True
            )
            bound = sparse.identification(dictionary, codes[-1], signal, 0.2, step, momentum)
            assert standing(np.asarray(codes)) <= bound < math.inf


def test_identification_of_orthonormal_dictionaries_is_by_contraction_alone():
    """No atom is ever false there: ``log(||x|| / min |x_i|) / log(1 / q)`` layers, q = |1 - t|."""
    signal = jnp.array([1.2, 0.4, 0.1])
    bound = sparse.identification(sparse.dense(np.eye(3)), np.array([1.0, 0.2, 0.0]), signal, 0.2, 0.5)
    assert bound == 1 + math.ceil(math.log(math.hypot(1, 0.2) / 0.2) / math.log(2))


def test_where_no_identification_is_known():
    twice = sparse.dense(
        np.hstack([np.eye(2), np.eye(2)])
    )  # two atoms are one: no margin, no single minimiser
    assert sparse.identification(twice, np.array([0.4, 0, 0, 0]), np.array([0.5, 0]), 0.1, 0.3) == math.inf
    plain, x, y = sparse.dense(np.eye(2)), np.array([0.4, 0]), np.array([0.5, 0])
    assert sparse.identification(plain, x, y, 0.1, 1.5, "fista") == math.inf
    assert sparse.identification(plain, np.zeros(2), 0.1 * y, 0.1, 0.5) == 1


EYE = sparse.dense(np.eye(3))
MISTAKES = [
    (
        lambda: sparse.is_unique([EYE], [4]),
        r"sparsities \[4\]; give one per dictionary, from 1 to at most \[3\]",
    ),
    (lambda: sparse.is_unique([EYE], [1, 1]), "give one per dictionary"),
    (lambda: sparse.stability([EYE], [0], 0.1), r"sparsities \[0\]"),
    (lambda: sparse.stability([EYE], [1], -0.1), "noise=-0.1; give 0 or more"),
    (lambda: sparse.stability([EYE], [1], math.nan), "noise=nan"),
    (lambda: sparse.predict(EYE, np.ones(2), 0.1), "slopes have 2 entries; the code has 3"),
    (lambda: sparse.identification(EYE, np.ones(3), np.zeros(3), 0.1, 0.5), "violates optimality"),
    (
        lambda: sparse.identification(EYE, np.zeros(3), np.zeros(3), 0.1, 2.0),
        r"step_size=2.0; give .* below 2",
    ),
    (lambda: sparse.identification(EYE, np.zeros(3), np.zeros(3), 0.1, 1.0, 0.5), "momentum=0.5"),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_mistakes_are_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
