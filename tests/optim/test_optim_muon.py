"""Muon on the manifold: its closed form against a bound and a splitting in numpy, and what a constant step does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import initial, network, optim, problem, stiefel, train
from dlnjax.theory import closed

#: Tall with and without a reduction to the span, wide, square of odd and even size, optimum of lower rank.
SHAPES = [(9, 2), (6, 3), (3, 6), (5, 4), (9, 7), (5, 5), (4, 4)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
TOLERANCE = {np.float32: 1e-6, np.float64: 1e-14}


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    """These programs run for milliseconds and compile for seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def case(shape, seed=0):
    rng = np.random.default_rng(seed)
    return oracles.polar_factor(rng.standard_normal(shape)), rng.standard_normal(shape)


def hard_cases(shape):
    """Points, and gradients: generic, ill conditioned, of rank one, tiny, huge."""
    w, g = case((5, *shape))
    left, s, right = np.linalg.svd(g[1], full_matrices=False)
    g[1] = (left * np.logspace(0, -9, len(s))) @ right
    g[2] = np.outer(g[2, :, 0], g[2, 0])
    g[3], g[4] = 1e-30 * g[3], 1e30 * g[4]
    return w, g


def feasible_and_optimal(w, g, phi, tolerance):
    """Tangent, of norm one, and as good as the bound <skew(G W^T), S> <= ||skew(G W^T)||_* allows."""
    if w.shape[0] < w.shape[1]:
        w, g, phi = w.T, g.T, phi.T
    a = (g @ w.T - w @ g.T) / 2
    best = np.sum(np.linalg.svd(a, compute_uv=False))
    assert np.max(np.abs(w.T @ phi + phi.T @ w)) < tolerance
    assert np.linalg.norm(phi, 2) < 1 + tolerance
    assert np.sum(oracles.tangent(w, g) * phi) == pytest.approx(best, rel=10 * tolerance)


@each_shape
@pytest.mark.parametrize(
    "dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)], ids=lambda d: d.__name__
)
def test_direction_is_feasible_and_optimal_to_rounding(shape, dtype):
    w, g = (x.astype(dtype) for x in hard_cases(shape))
    found = jax.jit(optim.spectral_direction)(w, g)
    assert found.dtype == dtype
    for point, gradient, phi in zip(w, g, found, strict=True):
        double = (np.asarray(x, np.float64) for x in (point, gradient, phi))
        feasible_and_optimal(*double, TOLERANCE[dtype])


@pytest.mark.parametrize(
    "shape",
    [(6, 2), *[pytest.param(s, marks=pytest.mark.slow) for s in [(6, 4), (5, 4), (9, 7), (5, 5)]]],
    ids=str,
)
def test_bound_is_attained_by_a_method_that_does_not_know_it(shape):
    w, g = case(shape)
    bound = np.sum(np.linalg.svd((g @ w.T - w @ g.T) / 2, compute_uv=False))
    assert oracles.spectral_value(w, g) == pytest.approx(bound, rel=1e-7)


def test_zero_gradients_batches_and_vectors():
    run = jax.jit(optim.spectral_direction)
    w, g = case((2, 4, 4))
    assert np.all(run(w, 0 * g) == 0)
    assert np.all(run(w, w @ (g + g.swapaxes(-1, -2))) * 0 == 0)
    batched = jax.jit(jax.vmap(optim.spectral_direction))(w, g)
    np.testing.assert_allclose(batched, run(w, g), atol=1e-14)
    w, g = case((1, 4))  # a vector: the projected gradient, normalised
    xi = oracles.tangent(w, g)
    np.testing.assert_allclose(run(w, g), xi / np.linalg.norm(xi), atol=1e-14)


@pytest.mark.parametrize("shape", [(6, 2), (5, 4)], ids=str)
def test_commutes_with_the_gauge_and_with_rotations_of_the_rows(shape):
    w, g = case(shape)
    u, q = (
        oracles.polar_factor(case((shape[0],) * 2, 1)[1]),
        oracles.polar_factor(case((shape[1],) * 2, 2)[1]),
    )
    run = jax.jit(optim.spectral_direction)
    np.testing.assert_allclose(run(u @ w @ q, u @ g @ q), u @ run(w, g) @ q, atol=1e-13)


@pytest.mark.slow
def test_a_constant_step_of_unit_length_stalls_at_its_size_and_the_dual_length_converges():
    w, target = (jnp.asarray(oracles.polar_factor(x)) for x in case((4, 2), 3))
    target = jnp.asarray(oracles.polar_factor(w + 0.3 * target))

    def end(optimizer, steps):
        def step(_, carry):
            w, state = carry
            updates, state = optimizer.update(w - target, state, w)
            return optax.apply_updates(w, updates), state

        last = jax.jit(lambda w: jax.lax.fori_loop(0, steps, step, (w, optimizer.init(w))))(w)[0]
        assert stiefel.orthonormality_error(last) < 1e-13
        return float(jnp.linalg.norm(last - target))

    for mu in (1e-2, 1e-3):
        left = end(optim.muon(mu, constrained=True), 2000)
        assert mu / 20 < left < 3 * mu
    assert end(optim.muon(0.3, length="dual", constrained=True), 150) < 1e-10
    falling = optax.exponential_decay(0.05, 1, 0.93)
    with jax.numpy_dtype_promotion("standard"):
        assert end(optim.muon(falling, constrained=True), 400) < 1e-9


def test_edge_of_the_dual_length_bounds_the_hessian_and_is_attained_by_one_common_turn():
    """Against the product's first variation in numpy: coupled directions in the norm that is steepest descent's own."""
    rng, sigma, scales = np.random.default_rng(0), np.array([1.0, 0.8, 0.6, 0.4]), np.array([1.0, 0.5, 0.8])
    dims = (6, 4, 4, 5)
    edge = closed.spectral_step_max(sigma, dims=dims, scales=scales)
    u, v = (
        oracles.polar_factor(rng.standard_normal((5, 4))),
        oracles.polar_factor(rng.standard_normal((6, 4))),
    )
    layers = oracles.with_product(rng, dims, (u * sigma) @ v.T)
    frame = oracles.chain_product(layers[1:])
    turn = np.kron(np.eye(2), [[0.0, -1.0], [1.0, 0.0]])  # skew and orthogonal

    def quotient(xi):
        parts = [oracles.chain_product([*layers[:i], x, *layers[i + 1 :]]) for i, x in enumerate(xi)]
        norms = [np.linalg.norm(xi[0]), *(np.linalg.norm(x, 2) for x in xi[1:])]
        return np.sum(sum(parts) ** 2) / np.sum(np.square(norms) / scales)

    for _ in range(30):
        assert quotient(oracles.tangents(layers, [rng.standard_normal(w.shape) for w in layers])) < 2 / edge
    common, after = [], np.eye(5)  # layers after the one that turns
    for w, s in zip(layers[:0:-1], scales[:0:-1], strict=True):
        basis = after.T @ u
        common.insert(0, s * basis @ turn @ basis.T @ w)
        after = after @ w
    along = frame.T @ u @ turn @ (u.T @ frame @ layers[0])
    common.insert(0, scales[0] * along / np.sum(sigma**2))
    assert quotient(common) == pytest.approx(2 / edge, rel=1e-12)


@pytest.mark.slow
def test_edge_of_the_dual_length_is_sharp():
    dims, sigma = (6, 4, 4, 6), [1.0, 0.8, 0.6, 0.4]
    teacher = network.stack(initial.teacher(jax.random.key(0), dims, sigma))
    task = problem.whitened(network.end_to_end(teacher))
    start = network.stack(initial.perturb(jax.random.key(1), network.unstack(teacher), 1e-5))
    edge = closed.spectral_step_max(sigma, dims=dims)

    @jax.jit
    def end(mu):
        optimizer = optim.muon(mu, length="dual")
        return train.train(start, task, optimizer, num_steps=500, record_every=500)[1].distance[-1]

    assert end(0.98 * edge) < 1e-12
    assert end(1.02 * edge) > 1e-2


@pytest.mark.mistakes
def test_bad_length_is_told_the_choices():
    with pytest.raises(ValueError, match="length is 'long'; choose one of unit, dual"):
        optim.muon(0.1, length="long")
