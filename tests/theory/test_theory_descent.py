"""Source B: balancedness and its drift, step rules, critical points, rank-k optima."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dlnjax import initial, problem
from dlnjax.theory import descent


def instance(dims, seed, count=12):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((dims[0], count)), rng.standard_normal((dims[-1], count))
    layers = [rng.standard_normal((n, p)) / p**0.5 for p, n in itertools.pairwise(dims)]
    return x, y, layers


def gradients(layers, x, y):
    g = (oracles.chain_product(layers) @ x - y) @ x.T
    out = []
    for i, w in enumerate(layers):
        left = oracles.chain_product([np.eye(w.shape[0]), *layers[i + 1 :]])
        right = oracles.chain_product([np.eye(x.shape[0]), *layers[:i]])
        out.append(left.T @ g @ right.T)
    return out


@pytest.mark.parametrize("dims", [(3, 4, 2), (3, 3, 3, 3, 3), (4, 2, 5, 3)])
def test_drift_is_exact(dims):
    x, y, layers = instance(dims, 0)
    grads = gradients(layers, x, y)
    moved = [w - 0.01 * g for w, g in zip(layers, grads, strict=True)]
    before, after = (descent.balancedness(tuple(map(jnp.asarray, chain))) for chain in (layers, moved))
    drift = descent.drift(tuple(map(jnp.asarray, grads)), 0.01)
    size = max(np.abs(d).max() for d in after)
    for b, a, d, w, v in zip(before, after, drift, layers[:-1], layers[1:], strict=True):
        assert np.abs(np.asarray(b) - (v.T @ v - w @ w.T)).max() < 1e-13 * size
        assert np.abs(np.asarray(a - b - d)).max() < 1e-14 * size


def test_runs_count_as_layers():
    chain = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 4)))
    first = jnp.asarray(np.random.default_rng(1).standard_normal((4, 5)))
    stacked = descent.balancedness((first, chain))
    assert len(stacked) == 3
    for a, b in zip(stacked, descent.balancedness((first, *chain)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dims", [(3, 4, 2), (3, 3, 3, 3)])
def test_bounds_are_their_formulas_and_the_best_delta(dims):
    x, y, layers = instance(dims, 1)
    n, s, a = len(layers), 0.5, 0.5
    norm = lambda m: np.linalg.norm(m, 2)  # noqa: E731
    loss = np.sum((oracles.chain_product(layers) @ x - y) ** 2) / 2
    imbalance = max(norm(v.T @ v - w @ w.T) for w, v in itertools.pairwise(layers))
    big = (np.sqrt(2 * loss) + norm(y)) / np.linalg.svd(x)[1][-1]

    def derived(delta):
        k = big ** (2 / n) + 1.5 * (n - 1) * delta
        smooth = (2 * n - 1) * k ** (n - 1) * norm(x) ** 2 + (n - 1) * k ** (n / 2 - 1) * norm(x @ y.T)
        return min(2 * (1 - s) / smooth, (1 - a) * delta * s / loss)

    def published(delta):
        k = big ** (2 / n) + (n + 1) ** 2 * delta
        smooth = 2 * np.e * n * k ** (n - 1) * norm(x) ** 2
        smooth += np.sqrt(np.e) * n * k ** (n / 2 - 1) * norm(x @ y.T)
        return min(2 * (1 - s) / smooth, (1 - a) * delta * s / (4 * loss))

    deltas = np.geomspace(imbalance / a, 1e4 * imbalance, 4000)
    for bound, rule in ((descent.step_bound, derived), (descent.published_bound, published)):
        found = bound(tuple(layers), x, y)
        best = max(rule(d) for d in deltas)
        assert found.step_size == pytest.approx(rule(found.delta), rel=1e-9)
        assert found.step_size >= best * (1 - 1e-9)
        assert found.delta >= imbalance / a * (1 - 1e-12)
    with pytest.raises(ValueError, match="full row rank"):
        descent.step_bound(tuple(layers), x[:, :2], y[:, :2])
    with pytest.raises(ValueError, match="decrease=1"):
        descent.step_bound(tuple(layers), x, y, decrease=1.0)


def test_certificate_holds_at_the_bound_and_fails_far_beyond():
    x, y, layers = instance((3, 3, 3), 2)
    params = tuple(map(jnp.asarray, layers))
    made = problem.regression(jnp.asarray(x), jnp.asarray(y))
    bound = descent.step_bound(params, x, y)
    run = jax.jit(lambda step: descent.certify(params, made, bound, 100, step))
    _, found = run(bound.step_size)
    assert max(found.decrease, found.imbalance, found.layers) <= 1
    assert found.decrease > 0.2
    assert np.all(np.diff(found.loss) <= 1e-12 * found.loss[0])
    _, beyond = run(40 * bound.step_size)
    assert not max(beyond.decrease, beyond.imbalance, beyond.layers) <= 1


def test_rank_optima_are_eckart_young():
    x, y, _ = instance((4, 3), 5)
    values, vectors = np.linalg.eigh(x @ x.T)
    root = (vectors * np.sqrt(values)) @ vectors.T
    least = y @ x.T @ np.linalg.inv(x @ x.T)
    for rank in range(4):
        best = oracles.best_rank(least, root, rank)
        assert descent.rank_optimum(x, y, rank) == pytest.approx(np.sum((best @ x - y) ** 2) / 2, rel=1e-12)
    optima = descent.rank_optima(x, y)
    assert descent.reached_rank(optima[2] * (1 + 1e-6), optima) == 2
    assert descent.reached_rank((optima[1] + optima[2]) / 2, optima) == -1


def test_the_rank_stall_of_three_layers():
    """X = I, Y = diag(2, -1), W_j = I/2: the symmetric start tends to diag(2, 0), a saddle; noise escapes."""
    made = problem.whitened(jnp.diag(jnp.array([2.0, -1.0])))
    optima = descent.rank_optima(np.eye(2), np.diag([2.0, -1.0]))
    np.testing.assert_allclose(optima, [2.5, 0.5, 0.0], atol=1e-15)
    start = initial.identity((2, 2, 2, 2), 0.5)
    bound = descent.Bound(0.02, 1.0, 10.0, 0.5)
    run = jax.jit(lambda p: descent.certify(p, made, bound, 4000, 0.02))
    end, found = run(start)
    assert descent.reached_rank(float(found.loss[-1]), optima) == 1
    critical = descent.critical_point(end, made, tolerance=2e-3)
    assert (critical.kind, critical.rank) == ("minimum", 1)  # the escape is of third order: no strict saddle
    keys = jax.random.split(jax.random.key(0), 3)
    noisy = tuple(w + 1e-2 * jax.random.normal(k, w.shape) for w, k in zip(start, keys, strict=True))
    _, escaped = run(noisy)
    assert descent.reached_rank(float(escaped.loss[-1]), optima) == 2


def test_critical_points():
    made = problem.whitened(jnp.diag(jnp.array([2.0, 1.0])))
    zero = (jnp.zeros((2, 2)), jnp.zeros((2, 2)))
    assert descent.critical_point(zero, made)[0] == "saddle"
    assert descent.critical_point(zero, made).curvature == pytest.approx(-2)
    half = (jnp.diag(jnp.array([2.0**0.5, 0.0])), jnp.diag(jnp.array([2.0**0.5, 0.0])))
    assert descent.critical_point(half, made).kind == "saddle"
    best = tuple(jnp.diag(jnp.array([2.0**0.5, 1.0])) for _ in range(2))
    assert descent.critical_point(best, made).kind == "minimum"
    assert descent.critical_point((2 * best[0], best[1]), made).kind == "none"
