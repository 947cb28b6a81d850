"""Sources C and E: the flow's operator, its agreement with the layers' flow, exact modes."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dlnjax import initial, network, problem
from dlnjax.theory import flow, modes


def fractional(matrix, power):
    """A power of a positive semidefinite matrix, from its eigenvalues; power 0 is the identity."""
    if power == 0:
        return np.eye(len(matrix))
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.where(values > 1e-12, np.maximum(values, 1e-300), 0) ** power) @ vectors.T


def flow_operator(w, z, n):
    return sum(
        fractional(w @ w.T, (n - j) / n) @ z @ fractional(w.T @ w, (j - 1) / n) for j in range(1, n + 1)
    )


@pytest.mark.parametrize("num_layers", [1, 2, 3, 5])
@pytest.mark.parametrize(("rows", "columns", "rank"), [(3, 5, 3), (4, 4, 2), (5, 3, 3)])
def test_operator_is_the_sum_of_fractional_powers(num_layers, rows, columns, rank):
    rng = np.random.default_rng(rank)
    w = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    z = rng.standard_normal((rows, columns))
    found = flow.operator(jnp.asarray(w), jnp.asarray(z), num_layers)
    expected = flow_operator(w, z, num_layers)
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()
    basis = np.eye(rows * columns).reshape(-1, rows, columns)
    matrix = np.array([flow_operator(w, e, num_layers).ravel() for e in basis])
    np.testing.assert_allclose(
        flow.spectrum(w, num_layers), np.linalg.eigvalsh(matrix), atol=1e-10 * np.abs(matrix).max()
    )
    tangent = flow_operator(w, z, num_layers)
    inner = flow.metric(jnp.asarray(w), jnp.asarray(tangent), jnp.asarray(tangent), num_layers)
    assert inner == pytest.approx(np.sum(z * tangent), rel=1e-9)


def test_balanced_layers_move_by_the_operator():
    """Instantaneously: sum_i A_i A_i^T G B_i^T B_i = A_W(G) for balanced layers."""
    w = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)))
    layers = [np.asarray(x) for x in initial.spectral(w, (3, 3, 3, 4))]
    g = np.random.default_rng(1).standard_normal((4, 3))
    moved = np.zeros((4, 3))
    for i, layer in enumerate(layers):
        left = oracles.chain_product([np.eye(layer.shape[0]), *layers[i + 1 :]])
        right = oracles.chain_product([np.eye(3), *layers[:i]])
        moved += left @ left.T @ g @ right.T @ right
    np.testing.assert_allclose(flow.operator(w, jnp.asarray(g), 3), moved, atol=1e-12)


def test_both_flows_and_descent_agree():
    key = jax.random.key(1)
    params = initial.balanced(key, (3, 3, 3, 2), 0.5)
    made = problem.whitened(jnp.asarray(np.random.default_rng(2).standard_normal((2, 3))))
    times = jnp.linspace(0.0, 2.0, 5)
    layers = jax.jit(lambda p: flow.integrate_layers(p, made, times, tolerance=1e-10))(params)
    products = jax.vmap(network.end_to_end)(layers)
    alone = jax.jit(lambda w: flow.integrate_product(w, made, times, 3, tolerance=1e-10))(products[0])
    assert jnp.max(jnp.abs(products - alone)) < 1e-7
    assert jnp.max(jnp.abs(products[-1] - products[0])) > 0.1
    gap = jax.jit(
        lambda n: jnp.linalg.norm(network.end_to_end(flow.descent(params, made, 2.0 / n, n)) - products[-1])
    )
    gaps = [gap(n) for n in (100, 200, 400)]
    slope = np.log(gaps[2] / gaps[0]) / np.log(1 / 4)
    assert abs(slope - 1) < 0.05
    with pytest.raises(ValueError, match="one shape"):
        flow.operator(jnp.ones((2, 2)), jnp.ones((2, 3)), 2)


def integrated(times, start, s, n):
    """Runge-Kutta with many steps: shares nothing with the quadrature."""
    a, out, t = start, [], 0.0
    for target in times:
        count = max(int((target - t) * 4000), 1)
        h = (target - t) / count
        for _ in range(count):
            f = lambda v: n * v ** (2 - 2 / n) * (s - v)  # noqa: E731
            k1, k2 = f(a), f(a + h / 2 * f(a))
            k3 = f(a + h / 2 * k2)
            a = a + h / 6 * (k1 + 2 * k2 + 2 * k3 + f(a + h * k3))
        t = target
        out.append(a)
    return np.array(out)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 8])
@pytest.mark.parametrize("start", [0.05, 2.5])
def test_modes_are_the_ode(num_layers, start):
    times = np.array([0.1, 0.4, 1.0, 2.0])
    expected = integrated(times, start, 1.3, num_layers)
    np.testing.assert_allclose(modes.trajectory(times, start, 1.3, num_layers), expected, rtol=3e-10)


@pytest.mark.parametrize("num_layers", [2, 3, 6])
def test_times_to_learn(num_layers):
    start, s = 1e-3, 1.7
    when = modes.time_to_learn(start, s, num_layers, 0.5)
    assert modes.trajectory(np.array(when), start, s, num_layers) == pytest.approx(s / 2, rel=1e-11)
    if num_layers == 2:
        assert when == pytest.approx(np.log(s / start - 1) / (2 * s), rel=1e-13)
    tiny = modes.time_to_learn(1e-9, s, num_layers)
    if num_layers > 2:
        estimate = 1e-9 ** -(1 - 2 / num_layers) / ((num_layers - 2) * s)
        assert tiny == pytest.approx(estimate, rel=0.02)
    assert modes.trajectory(np.array([1e4]), start, s, num_layers)[0] == pytest.approx(s, rel=1e-12)
    with pytest.raises(ValueError, match="positive"):
        modes.trajectory(np.array([1.0]), 0.0, 1.0, 3)
    with pytest.raises(ValueError, match="fraction=2"):
        modes.time_to_learn(start, s, num_layers, 2.0)


def test_a_network_follows_its_modes():
    values = jnp.array([1.5, 0.7])
    made = problem.whitened(jnp.diag(values))
    params = initial.identity((2, 2, 2, 2), 0.4)
    times = jnp.linspace(0.0, 3.0, 7)
    layers = jax.jit(lambda p: flow.integrate_layers(p, made, times, tolerance=1e-10))(params)
    products = np.asarray(jax.vmap(network.end_to_end)(layers))
    for k in range(2):
        exact = modes.trajectory(times, 0.4**3, float(values[k]), 3)
        np.testing.assert_allclose(products[:, k, k], exact, atol=1e-7)
