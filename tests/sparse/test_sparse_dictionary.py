"""Dictionaries against loops in numpy: synthesis, its adjoint, random kinds, coherence, mistakes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax import sparse


def key(seed):
    return jax.random.key(seed)


def kernel(seed, *shape):
    draw = np.random.default_rng(seed).standard_normal(shape)
    return draw / np.sqrt(np.sum(draw**2, axis=tuple(range(len(shape) - 1)), keepdims=True))


LINE = sparse.convolution(kernel(0, 5, 2, 3), 11, 2)
PLANE = sparse.convolution(kernel(1, 3, 2, 2, 4), (7, 6), (2, 1))
DENSE = sparse.dense(kernel(2, 4, 6))
JOINT = sparse.join(
    [sparse.dense(kernel(3, 5, 6)), sparse.dense(kernel(4, 6, 3)), sparse.dense(kernel(5, 3, 4))]
)
ALL = {"line": LINE, "plane": PLANE, "dense": DENSE, "joint": JOINT}


def by_loops(kernel, size, stride):
    """The matrix of a convolution, written atom by atom."""
    widths, channels, atoms = kernel.shape[:-2], kernel.shape[-2], kernel.shape[-1]
    positions = [range(0, n - w + 1, s) for n, w, s in zip(size, widths, stride, strict=True)]
    columns = []
    for place in itertools.product(*positions):
        for a in range(atoms):
            signal = np.zeros((*size, channels))
            window = tuple(slice(p, p + w) for p, w in zip(place, widths, strict=True))
            signal[window] = kernel[..., a]
            columns.append(signal.ravel())
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("dictionary", [LINE, PLANE], ids=["line", "plane"])
def test_a_convolution_is_its_atoms_at_every_stride(dictionary):
    expected = by_loops(np.asarray(dictionary.kernel), dictionary.size, dictionary.stride)
    np.testing.assert_allclose(sparse.matrix(dictionary), expected, atol=1e-15)


def test_a_joint_dictionary_is_its_blocks():
    first, second, third = (np.asarray(d.kernel) for d in JOINT.dictionaries)
    expected = np.block(
        [
            [first, np.zeros((5, 3)), np.zeros((5, 4))],
            [-np.eye(6), second, np.zeros((6, 4))],
            [np.zeros((3, 6)), -np.eye(3), third],
        ]
    )
    np.testing.assert_allclose(sparse.matrix(JOINT), expected, atol=1e-15)
    signal = JOINT.signal(jnp.ones((2, 5)))
    assert [s.shape for s in signal] == [(2, 5), (2, 6), (2, 3)]
    assert float(jnp.sum(signal[0])) == 10
    assert not any(np.any(s) for s in signal[1:])


@pytest.mark.parametrize("name", ALL)
def test_analysis_is_the_transpose_of_synthesis(name):
    dictionary, rng = ALL[name], np.random.default_rng(0)
    matrix = np.asarray(sparse.matrix(dictionary))
    draw = lambda tree: jax.tree.map(lambda z: jnp.asarray(rng.standard_normal((3, 2, *z.shape))), tree)  # noqa: E731
    code = draw(dictionary.zeros())
    signal = dictionary.synthesize(code)
    flat = lambda tree: np.concatenate([np.asarray(x).reshape(6, -1) for x in jax.tree.leaves(tree)], axis=1)  # noqa: E731
    np.testing.assert_allclose(flat(signal), flat(code) @ matrix.T, atol=1e-13)
    np.testing.assert_allclose(flat(dictionary.analyze(signal)), flat(signal) @ matrix, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "rows", "columns", "blocks"),
    [("gaussian", 6, 9, 1), ("gaussian", 6, 9, 3), ("orthonormal", 8, 6, 1), ("orthonormal", 8, 6, 2),
     ("orthonormal", 5, 5, 5), ("tight", 5, 7, 1), ("tight", 5, 6, 1), ("tight", 6, 15, 3), ("tight", 4, 4, 1)],
)  # fmt: skip
def test_random_kinds(kind, rows, columns, blocks):
    made = np.asarray(sparse.random(key(0), rows, columns, kind, blocks=blocks))
    assert made.shape == (rows, columns)
    np.testing.assert_allclose(np.linalg.norm(made, axis=0), 1, atol=1e-14)
    for i in range(columns):  # an atom lives on its block's rows alone
        block = i // (columns // blocks)
        outside = np.delete(made[:, i], range(block * rows // blocks, (block + 1) * rows // blocks))
        assert not outside.any()
    if kind == "orthonormal":
        np.testing.assert_allclose(made.T @ made, np.eye(columns), atol=1e-13)
    if kind == "tight":
        np.testing.assert_allclose(made @ made.T, columns / rows * np.eye(rows), atol=1e-12)
    assert not np.allclose(made, sparse.random(key(1), rows, columns, kind, blocks=blocks))


def test_a_tight_frame_of_one_column_more_has_the_least_coherence():
    """Its Gram matrix is 1 on and 1/rows off the diagonal, up to sign (Welch's bound, attained)."""
    frame = sparse.dense(sparse.random(key(0), 6, 7, "tight"))
    assert sparse.coherence(frame) == pytest.approx(1 / 6, abs=1e-12)
    assert sparse.uniqueness_bound(frame) == pytest.approx(3.5, abs=1e-10)


@pytest.mark.parametrize(
    "dictionary",
    [sparse.convolution(kernel(6, 5, 2, 3), 25, s) for s in (1, 2, 4, 5)]
    + [sparse.convolution(kernel(7, 5, 1, 1), 25, s) for s in (1, 2, 4)]  # one atom: with itself, further on
    + [sparse.convolution(kernel(7, 3, 4, 1, 2), (9, 12), (2, 4))],
)
def test_coherence_is_that_of_all_pairs_of_atoms(dictionary):
    atoms = by_loops(np.asarray(dictionary.kernel), dictionary.size, dictionary.stride)
    gram = np.abs(atoms.T @ atoms) - np.eye(atoms.shape[1])
    assert sparse.coherence(dictionary) == pytest.approx(gram.max(), abs=1e-12)


def test_coherence_and_uniqueness_of_orthonormal_and_repeated_atoms():
    assert sparse.coherence(sparse.dense(np.eye(3))) == 0
    assert sparse.uniqueness_bound(sparse.dense(np.eye(3))) == np.inf
    twice = sparse.dense(np.hstack([np.eye(3), np.eye(3)]))
    assert sparse.coherence(twice) == 1
    assert sparse.uniqueness_bound(twice) == 1


def test_samples_are_models_of_the_chain():
    chain = [sparse.dense(kernel(8, 5, 8)), sparse.dense(np.asarray(sparse.random(key(3), 8, 6, blocks=2)))]
    signal, first, last = sparse.sample(key(4), chain, 2, signals=50, smallest=0.25)
    np.testing.assert_array_equal(np.sum(np.asarray(last) != 0, axis=1), 2)
    sizes = np.abs(np.asarray(last)[np.asarray(last) != 0])
    assert 0.25 <= sizes.min() < 0.3
    assert 0.95 < sizes.max() <= 1
    assert 0.3 < np.mean(np.asarray(last)[np.asarray(last) != 0] > 0) < 0.7
    np.testing.assert_allclose(first, np.asarray(last) @ np.asarray(chain[1].kernel).T, atol=1e-15)
    np.testing.assert_allclose(signal, np.asarray(first) @ np.asarray(chain[0].kernel).T, atol=1e-15)
    assert len(np.unique(np.nonzero(np.asarray(last))[1])) == 6  # every place is drawn
    assert np.all(np.asarray(sparse.sample(key(4), chain, 2, nonnegative=True)[2]) >= 0)


MISTAKES = [
    (lambda: sparse.dense(jnp.ones(3)), r"has shape \(3,\); give a matrix"),
    (lambda: sparse.dense(jnp.ones((2, 0))), "give a matrix"),
    (lambda: sparse.dense(2 * jnp.eye(3)), "norm of an atom is 1 off 1; divide"),
    (lambda: sparse.dense(jnp.eye(3).at[0, 0].set(jnp.nan)), "norm of an atom is nan off 1"),
    (lambda: sparse.dense(jnp.eye(3, dtype=int)), "dtype int64; give floats"),
    (lambda: sparse.convolution(kernel(0, 3, 2), 9), r"kernel has shape \(3, 2\)"),
    (lambda: sparse.convolution(kernel(0, 3, 1, 2), 2), "size 2, width 3, stride 1"),
    (lambda: sparse.convolution(kernel(0, 3, 1, 2), 8, 2), "size 8, width 3, stride 2"),
    (lambda: sparse.convolution(kernel(0, 3, 1, 2), 11, 4), "stride <= width"),
    (lambda: sparse.convolution(kernel(0, 3, 1, 2), 9, 0), "stride 0"),
    (lambda: sparse.convolution(3 * kernel(0, 3, 1, 2), 9), "norm of an atom is 2 off 1"),
    (lambda: sparse.join([]), "no dictionaries"),
    (lambda: sparse.join([DENSE, DENSE]), r"codes of shape \(6,\), the next one signals of \(4,\)"),
    (lambda: sparse.random(key(0), 3, 4, "orthonormal"), "no orthonormal dictionary has 3 rows, 4 columns"),
    (lambda: sparse.random(key(0), 4, 3, "tight"), "no tight dictionary"),
    (lambda: sparse.random(key(0), 4, 6, blocks=3), "and 3 blocks"),
    (lambda: sparse.random(key(0), 4, 6, "haar"), "'haar' is not known; give one of gaussian"),
    (lambda: sparse.sample(key(0), [DENSE], 7), "sparsity 7; a code of 6 entries has 1 to 6"),
    (lambda: sparse.sample(key(0), [DENSE], 0), "sparsity 0"),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_mistakes_are_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_norms_are_not_checked_where_they_are_traced():
    jax.jit(lambda m: sparse.dense(m).synthesize(jnp.ones(3)))(2 * jnp.eye(3))
