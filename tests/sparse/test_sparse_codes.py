"""Networks against textbook loops in numpy, their limits against optimality, their derivatives against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlnjax import sparse

RNG = np.random.default_rng(0)
ATOMS = (lambda d: d / np.linalg.norm(d, axis=0))(RNG.standard_normal((8, 12)))
DENSE = sparse.dense(ATOMS)
SIGNAL = ATOMS @ np.where(np.arange(12) % 4 == 0, 1.0, 0.0) + 0.01 * RNG.standard_normal(8)
EDGE = 2 / np.linalg.norm(ATOMS, 2) ** 2


def soft(u, tau):
    return np.sign(u) * np.maximum(np.abs(u) - tau, 0)


def textbook(step, lam, count, prox=soft, fista=False, weights=ATOMS):
    """ISTA, and FISTA as Beck and Teboulle write it: ``x_k = p(y_k)``, then t, then y."""
    x = y = np.zeros(12)
    t = 1.0
    for _ in range(count):
        before, x = x, prox(y + step * weights.T @ (SIGNAL - ATOMS @ y), step * lam)
        grown = (1 + np.sqrt(1 + 4 * t**2)) / 2
        y = x + (t - 1) / grown * (x - before) if fista else x
        t = grown
    return x


def code(**options):
    given = {"num_layers": 9, "step_size": 0.7 * EDGE} | options
    return sparse.encode(DENSE, jnp.asarray(SIGNAL), given.pop("threshold", 0.1), **given)


@pytest.mark.parametrize("fista", [False, True])
def test_layers_are_the_textbooks_steps(fista):
    expected = [textbook(0.4 * EDGE, 0.1, k, fista=fista) for k in range(1, 10)]
    made = code(step_size=0.4 * EDGE, momentum="fista" if fista else 0.0, history=True)
    np.testing.assert_allclose(made, expected, atol=1e-14)
    np.testing.assert_allclose(
        code(step_size=0.4 * EDGE, momentum="fista" if fista else 0.0), expected[-1], atol=1e-14
    )


@pytest.mark.parametrize(
    ("name", "prox"),
    [
        ("relu", lambda u, tau: np.maximum(u - tau, 0)),
        ("clipped", lambda u, tau: np.minimum(np.maximum(u - tau, 0), 1)),
        ("tanh", lambda u, tau: np.tanh(soft(u, tau))),
        ("hard", lambda u, tau: u * (np.abs(u) > tau)),
    ],
)
def test_other_activations(name, prox):
    np.testing.assert_allclose(code(activation=name), textbook(0.7 * EDGE, 0.1, 9, prox), atol=1e-14)
    np.testing.assert_allclose(code(activation=sparse.ACTIVATIONS[name]), code(activation=name), rtol=0)


PENALTIES = {
    "soft": lambda x, tau: tau * np.abs(x),
    "relu": lambda x, tau: np.where(x >= 0, tau * x, np.inf),
    "clipped": lambda x, tau: np.where((x >= 0) & (x <= 1), tau * x, np.inf),
    "hard": lambda x, tau: tau**2 / 2 * (x != 0),
}


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.sampled_from(sorted(PENALTIES)), st.floats(-3, 3), st.floats(0, 2))
def test_activations_are_proximal_maps(name, u, tau):
    """No point of a grid, nor 0, has a lower ``(x - u)^2 / 2 + penalty``."""
    x = float(sparse.ACTIVATIONS[name](jnp.float64(u), jnp.float64(tau)))
    value = lambda z: (z - u) ** 2 / 2 + PENALTIES[name](z, tau)  # noqa: E731
    assert value(np.float64(x)) <= value(np.append(np.linspace(-4, 4, 2001), 0.0)).min() + 1e-12


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    st.sampled_from(["soft", "relu", "clipped", "tanh"]), st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 2)
)
def test_convex_activations_neither_fall_nor_expand(name, u, v, tau):
    a, b = (float(sparse.ACTIVATIONS[name](jnp.float64(z), jnp.float64(tau))) for z in (u, v))
    assert (a - b) * (u - v) >= 0
    assert abs(a - b) <= abs(u - v) + 1e-15


@pytest.mark.parametrize("activation", ["soft", "relu"])
def test_the_limit_is_optimal(activation):
    x = np.asarray(code(num_layers=20_000, activation=activation))
    pull = ATOMS.T @ (SIGNAL - ATOMS @ x)
    np.testing.assert_allclose(pull[x != 0], 0.1 * np.sign(x[x != 0]), atol=1e-12)
    off = pull[x == 0] if activation == "relu" else np.abs(pull[x == 0])
    assert np.all(off <= 0.1 + 1e-12)
    assert activation == "soft" or np.all(x >= 0)


def test_the_limit_is_that_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    lasso = linear_model.Lasso(alpha=0.1 / 8, fit_intercept=False, tol=1e-14, max_iter=10**6)
    np.testing.assert_allclose(code(num_layers=20_000), lasso.fit(ATOMS, SIGNAL).coef_, atol=1e-7)


def test_values_per_layer():
    steps, thresholds = np.linspace(0.3, 0.9, 4) * EDGE, np.linspace(0.3, 0.0, 4)
    x = np.zeros(12)
    for step, lam in zip(steps, thresholds, strict=True):
        x = soft(x + step * ATOMS.T @ (SIGNAL - ATOMS @ x), step * lam)
    made = code(step_size=jnp.asarray(steps), threshold=jnp.asarray(thresholds), num_layers=4)
    np.testing.assert_allclose(made, x, atol=1e-14)


def test_a_network_continues_from_its_start():
    np.testing.assert_allclose(code(num_layers=5, start=code(num_layers=4)), code(num_layers=9), atol=1e-15)


def test_the_step_by_default_is_half_the_edge():
    np.testing.assert_allclose(code(step_size=None), code(step_size=EDGE / 2), atol=1e-13)


def test_batches_jit_and_vmap_give_the_codes_one_by_one():
    signals = jnp.asarray(RNG.standard_normal((3, 2, 8)))
    network = lambda d, y, lam: sparse.encode(d, y, lam, num_layers=5, step_size=0.2)  # noqa: E731
    single = np.array([[network(DENSE, y, 0.1) for y in pair] for pair in signals])
    np.testing.assert_allclose(network(DENSE, signals, 0.1), single, atol=1e-15)
    np.testing.assert_allclose(jax.jit(network)(DENSE, signals, 0.1), single, atol=1e-14)
    by_signal = jax.vmap(jax.vmap(network, (None, 0, None)), (None, 0, None))
    np.testing.assert_allclose(by_signal(DENSE, signals, 0.1), single, atol=1e-15)


def test_float32_stays_float32():
    dictionary = sparse.dense(jnp.asarray(ATOMS, jnp.float32))
    made = sparse.encode(dictionary, jnp.asarray(SIGNAL, jnp.float32), 0.1, num_layers=5, momentum="fista")
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, code(step_size=None, num_layers=5, momentum="fista"), atol=1e-6)


def test_derivatives_are_slopes():
    """Taylor: the remainder after the derivative falls with the square of the change, of kernel, threshold and step."""

    def loss(kernel, lam, step):
        x = sparse.encode(
            sparse.Dictionary(kernel),
            jnp.asarray(SIGNAL),
            lam,
            num_layers=6,
            step_size=step,
            activation="tanh",
        )
        return jnp.sum(x**2)

    point = (DENSE.kernel, jnp.full(6, 0.05), jnp.full(6, 0.3))
    change = tuple(jnp.asarray(RNG.standard_normal(p.shape)) for p in point)
    slope = sum(float(jnp.sum(g * c)) for g, c in zip(jax.grad(loss, (0, 1, 2))(*point), change, strict=True))
    sizes = np.array([1e-4, 3e-5, 1e-5])
    moved = [float(loss(*(p + h * c for p, c in zip(point, change, strict=True)))) for h in sizes]
    rest = np.abs(np.array(moved) - float(loss(*point)) - sizes * slope)
    assert np.polyfit(np.log(sizes), np.log(rest), 1)[0] == pytest.approx(2, abs=0.05)


def test_orthonormal_dictionaries_are_coded_by_one_layer():
    """Also a chain of them, layer by layer; the code is a threshold of the correlations."""
    keys = jax.random.split(jax.random.key(0), 3)
    chain = [sparse.dense(sparse.random(k, 8, 8, "orthonormal")) for k in keys]
    y = jnp.asarray(SIGNAL)
    codes = sparse.pursue(chain, y, [0.1, 0.05, 0.02], step_sizes=[1.0] * 3, num_layers=1)
    later = sparse.pursue(chain, y, [0.1, 0.05, 0.02], step_sizes=[1.0] * 3, num_layers=7)
    below = SIGNAL
    for x, z, d, lam in zip(codes, later, chain, (0.1, 0.05, 0.02), strict=True):
        below = soft(np.asarray(d.kernel).T @ below, lam)
        np.testing.assert_allclose(x, below, atol=1e-14)
        np.testing.assert_allclose(z, below, atol=1e-14)


def test_a_convolutional_chain_is_its_matrices():
    """Layer by layer and all at once: the same network with dense matrices, flattened."""
    draw = lambda seed, *s: jnp.asarray((lambda d: d / np.linalg.norm(d.reshape(-1, s[-1]), axis=0))(  # noqa: E731
        np.random.default_rng(seed).standard_normal(s)))  # fmt: skip
    chain = [sparse.convolution(draw(0, 3, 2, 4), 9, 2), sparse.convolution(draw(1, 2, 4, 3), 4, 1)]
    flat = [sparse.dense(sparse.matrix(d)) for d in chain]
    y = jnp.asarray(RNG.standard_normal((2, 9, 2)))
    options = {"num_layers": 8, "activation": "relu"}
    made = sparse.pursue(chain, y, [0.05, 0.02], **options)
    expected = sparse.pursue(flat, y.reshape(2, -1), [0.05, 0.02], **options)
    for x, z in zip(made, expected, strict=True):
        np.testing.assert_allclose(x.reshape(2, -1), z, atol=1e-13)
    both, whole = sparse.join(chain), sparse.join(flat)
    made = sparse.encode(both, both.signal(y), (0.05, 0.02), momentum="fista", **options)
    expected = sparse.encode(whole, whole.signal(y.reshape(2, -1)), (0.05, 0.02), momentum="fista", **options)
    for x, z in zip(made, expected, strict=True):
        np.testing.assert_allclose(x.reshape(2, -1), z, atol=1e-13)


def test_joint_codes_minimise_the_joint_objective():
    chain = [
        sparse.dense(sparse.random(jax.random.key(i), 8, 8, "gaussian", blocks=b))
        for i, b in enumerate((1, 4))
    ]
    both, y, lam = sparse.join(chain), jnp.asarray(SIGNAL), (0.05, 0.02)
    codes = sparse.encode(both, both.signal(y), lam, num_layers=30_000, momentum=0.5)
    first, second = (np.asarray(d.kernel) for d in chain)

    def objective(a, b):
        misfit = np.sum((SIGNAL - first @ a) ** 2) + np.sum((a - second @ b) ** 2)
        return misfit / 2 + lam[0] * np.abs(a).sum() + lam[1] * np.abs(b).sum()

    best = objective(*map(np.asarray, codes))
    for scale in (1e-1, 1e-3):
        for _ in range(50):
            moved = [np.asarray(x) + scale * RNG.standard_normal(8) * (RNG.random(8) < 0.5) for x in codes]
            assert objective(*moved) >= best - 1e-13


@pytest.mark.parametrize(
    "dictionary", [DENSE, sparse.convolution(jnp.asarray(ATOMS).reshape(4, 2, 12), 12, 2)]
)
def test_analytic_weights_have_the_least_total_coherence(dictionary):
    """Of all with ``<w_i, d_i> = 1``: no change that keeps this lowers the correlations with all atoms in reach."""
    weights = np.asarray(sparse.analytic_weights(dictionary).kernel).reshape(8, 12)
    np.testing.assert_allclose(np.sum(weights * ATOMS, axis=0), 1, atol=1e-12)
    around = ATOMS
    if dictionary.size:  # the window of the middle of three positions that overlap it
        around = (
            np.asarray(sparse.matrix(sparse.convolution(dictionary.kernel, 8, 2)))
            .reshape(8, 2, -1)[2:6]
            .reshape(8, -1)
        )
    least = np.sum((weights.T @ around) ** 2)
    for _ in range(50):
        change = RNG.standard_normal((8, 12))
        change -= ATOMS * np.sum(change * ATOMS, axis=0)
        assert np.sum(((weights + 1e-2 * change).T @ around) ** 2) >= least


def test_a_tight_frame_is_its_own_analytic_weights():
    frame = sparse.dense(sparse.random(jax.random.key(0), 6, 9, "tight"))
    np.testing.assert_allclose(sparse.analytic_weights(frame).kernel, frame.kernel, atol=1e-12)
    made = code(weights=sparse.analytic_weights(DENSE), step_size=0.1)
    expected = textbook(0.1, 0.1, 9, weights=np.asarray(sparse.analytic_weights(DENSE).kernel))
    np.testing.assert_allclose(made, expected, atol=1e-13)


MISTAKES = [
    (lambda: code(threshold=-0.1), "threshold=-0.1; a threshold is 0 or more"),
    (lambda: code(threshold=jnp.array([0.1] * 8 + [-0.2])), "threshold=-0.2"),
    (lambda: code(threshold=np.nan), "threshold=nan"),
    (lambda: code(threshold=jnp.ones(4)), r"threshold has shape \(4,\); give a number or \(9,\)"),
    (lambda: code(step_size=0.0), "step_size=0; a threshold is 0 or more, a step size more than 0"),
    (lambda: code(step_size=-1.0), "step_size=-1"),
    (lambda: code(momentum=jnp.ones(3)), r"momentum has shape \(3,\)"),
    (lambda: code(activation="sofd"), "'sofd' is not known; give one of soft, relu"),
    (lambda: code(num_layers=0), "num_layers=0; give a whole number"),
    (lambda: sparse.encode(DENSE, jnp.ones(7), 0.1, num_layers=2), r"signals of shape \[\(7,\)\]; .* takes \[\(8,\)\]"),
    (lambda: sparse.encode(sparse.join([DENSE]), (), 0.1, num_layers=2), r"signals of shape \[\]"),
    (lambda: sparse.pursue([DENSE], jnp.ones(8), [0.1, 0.2], num_layers=2), "2 thresholds, 1 step sizes; give 1"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_mistakes_are_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
