"""Losses and gradients from sufficient statistics, against the data themselves."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dlnjax import network, problem


def data(rng, inputs=5, outputs=3, samples=12, deficient=False):
    x, y = rng.standard_normal((inputs, samples)), rng.standard_normal((outputs, samples))
    if deficient:
        x[-1] = x[0] + x[1]
    return x, y


@pytest.mark.parametrize("deficient", [False, True])
def test_regression_equals_the_data(deficient):
    rng = np.random.default_rng(0)
    x, y = data(rng, deficient=deficient)
    square = problem.regression(jnp.asarray(x), jnp.asarray(y))
    w = rng.standard_normal((3, 5))
    np.testing.assert_allclose(
        problem.loss(square, jnp.asarray(w)), 0.5 * np.sum((w @ x - y) ** 2), rtol=1e-13
    )
    np.testing.assert_allclose(
        problem.gradient(square, jnp.asarray(w)), (w @ x - y) @ x.T, rtol=1e-11, atol=1e-12
    )
    best = y @ np.linalg.pinv(x, rcond=1e-10)
    np.testing.assert_allclose(square.target, best, atol=1e-12)
    np.testing.assert_allclose(
        square.product_distance(jnp.asarray(w)), np.linalg.norm((w - best) @ x), rtol=1e-12
    )


def test_loss_does_not_cancel_at_a_solution():
    """The expanded trace would leave rounding of the size of ||Y||^2 and can be negative."""
    rng = np.random.default_rng(1)
    x = 1e3 * rng.standard_normal((4, 30))
    teacher = rng.standard_normal((2, 4))
    square = problem.regression(jnp.asarray(x), jnp.asarray(teacher @ x))
    away = square.target + 1e-9 * jnp.ones((2, 4))
    found = float(problem.loss(square, away) - square.floor)
    np.testing.assert_allclose(found, 0.5 * np.sum((1e-9 * np.ones((2, 4)) @ x) ** 2), rtol=1e-5)
    assert float(square.floor) < 1e-18 * np.sum((teacher @ x) ** 2)


@pytest.mark.parametrize("coloured", [False, True])
def test_optimum_of_a_rank_beats_every_other_product_of_that_rank(coloured):
    rng = np.random.default_rng(2)
    x, y = data(rng, inputs=5, outputs=4)
    square = (
        problem.regression(jnp.asarray(x), jnp.asarray(y))
        if coloured
        else problem.whitened(jnp.asarray(y @ x.T))
    )
    best = problem.with_optimum(square, 2)
    assert np.linalg.matrix_rank(np.asarray(best.optimum), tol=1e-9) == 2
    value = float(problem.loss(best, best.optimum))
    if coloured:  # source B: 1/2 (||Y||^2 - sum of the largest s_i^2), s of Y X^T (X X^T)^{-1/2}
        values, vectors = np.linalg.eigh(x @ x.T)
        s = np.linalg.svd(y @ x.T @ (vectors / np.sqrt(values)) @ vectors.T, compute_uv=False)
        np.testing.assert_allclose(value, 0.5 * (np.sum(y**2) - np.sum(s[:2] ** 2)), rtol=1e-12)
    left, values, right = np.linalg.svd(np.asarray(best.optimum), full_matrices=False)
    for _ in range(200):
        nearby = (left[:, :2] + 0.1 * rng.standard_normal((4, 2))) @ (
            values[:2, None] * right[:2] + 0.1 * rng.standard_normal((2, 5))
        )
        assert float(problem.loss(best, jnp.asarray(nearby))) > value


def test_whitening_gives_the_same_loss_in_coordinates_of_identity_covariance():
    rng = np.random.default_rng(3)
    x, y = data(rng, inputs=6, deficient=True)
    square, map_ = problem.whiten(jnp.asarray(x), jnp.asarray(y))
    assert square.target.shape == (3, 5)
    white = np.asarray(map_) @ x
    np.testing.assert_allclose(white @ white.T, np.eye(5), atol=1e-12)
    w = rng.standard_normal((3, 5))
    np.testing.assert_allclose(
        problem.loss(square, jnp.asarray(w)), 0.5 * np.sum((w @ white - y) ** 2), rtol=1e-12
    )


def test_principal_axes_only_rotate_the_inputs():
    rng = np.random.default_rng(8)
    x, y = data(rng, inputs=6, deficient=True)
    square, map_ = problem.principal(jnp.asarray(x), jnp.asarray(y))
    assert square.target.shape == (3, 5)
    rotated = np.asarray(map_) @ x
    np.testing.assert_allclose(rotated @ rotated.T, np.diag(np.asarray(square.covariance)), atol=1e-11)
    np.testing.assert_allclose(np.asarray(map_) @ np.asarray(map_).T, np.eye(5), atol=1e-12)
    w = rng.standard_normal((3, 5))
    np.testing.assert_allclose(
        problem.loss(square, jnp.asarray(w)), 0.5 * np.sum((w @ rotated - y) ** 2), rtol=1e-12
    )
    np.testing.assert_allclose(
        problem.gradient(square, jnp.asarray(w)), (w @ rotated - y) @ rotated.T, rtol=1e-11, atol=1e-11
    )
    best = problem.with_optimum(square, 2)
    direct = problem.with_optimum(problem.regression(jnp.asarray(x), jnp.asarray(y), rank_tolerance=1e-10), 2)
    np.testing.assert_allclose(
        problem.loss(best, best.optimum), problem.loss(direct, direct.optimum), rtol=1e-12
    )


def test_quadratic_gradients_are_those_of_its_loss():
    rng = np.random.default_rng(4)
    x, y = data(rng)
    square = problem.regression(jnp.asarray(x), jnp.asarray(y))
    layers = [rng.standard_normal((4, 5)), rng.standard_normal((4, 4)), rng.standard_normal((3, 4))]
    params = tuple(map(jnp.asarray, layers))
    expected = oracles.complex_step_gradients(oracles.complex_square_loss(x, y), layers)
    for got, want in zip(square.gradients(params, 0), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(square.loss(params), oracles.square_loss(layers, x, y), rtol=1e-12)


def test_nonlinear_gradients_equal_complex_step():
    rng = np.random.default_rng(5)
    x, y = data(rng)
    layers = [rng.standard_normal((4, 5)), rng.standard_normal((4, 4)), rng.standard_normal((3, 4))]

    def loss(moved):
        residual = moved[2] @ np.tanh(moved[1] @ np.tanh(moved[0] @ x)) - y
        return 0.5 * np.sum(residual * residual)

    network_problem = problem.nonlinear(jnp.asarray(x), jnp.asarray(y), jnp.tanh)
    params = tuple(map(jnp.asarray, layers))
    expected = oracles.complex_step_gradients(loss, layers)
    for got, want in zip(network_problem.gradients(params, 0), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(network_problem.loss(params), loss(layers), rtol=1e-13)


def test_minibatch_gradients_are_unbiased_and_new_at_each_step():
    rng = np.random.default_rng(6)
    x, y = data(rng, samples=8)
    params = tuple(map(jnp.asarray, (rng.standard_normal((4, 5)), rng.standard_normal((3, 4)))))
    batches = problem.minibatch(jnp.asarray(x), jnp.asarray(y), 2, jax.random.key(0))
    draws = jax.vmap(partial(batches.gradients, params))(jnp.arange(20000))
    full = problem.regression(jnp.asarray(x), jnp.asarray(y)).gradients(params, 0)
    for got, want in zip(draws, full, strict=True):
        spread = np.std(np.asarray(got), axis=0) / np.sqrt(len(got))
        assert np.all(np.abs(np.mean(np.asarray(got), axis=0) - want) < 5 * spread)
        assert len(np.unique(np.asarray(got[:10]), axis=0)) > 1


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\) and y \(2, 4\)"):
        problem.regression(jnp.ones((5, 3)), jnp.ones((2, 4)))
    with pytest.raises(ValueError, match=r"target has shape \(3,\)"):
        problem.whitened(jnp.ones(3))
    with pytest.raises(ValueError, match="batch_size=0"):
        problem.minibatch(jnp.ones((5, 3)), jnp.ones((2, 3)), 0, jax.random.key(0))


def test_problems_are_pytrees_that_vmap():
    targets = jnp.asarray(np.random.default_rng(7).standard_normal((3, 4, 5)))
    batched = jax.vmap(problem.whitened)(targets)
    products = jnp.zeros((3, 4, 5))
    found = jax.vmap(problem.loss)(batched, products)
    np.testing.assert_allclose(found, 0.5 * np.sum(np.asarray(targets) ** 2, axis=(1, 2)), rtol=1e-14)
    params = tuple(map(jnp.asarray, (np.ones((2, 5)), np.ones((4, 2)))))
    assert network.dims(params) == (5, 2, 4)
