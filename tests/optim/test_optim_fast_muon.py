"""Muon's fast direction: the stated band of singular values, against numpy's SVD of the skew map."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import optim, stiefel
from dlnjax.optim._fast_spectral import BAND, LEAST, coefficients

SHAPES = [(9, 2), (40, 8), (16, 8), (20, 12), (12, 12), (8, 40)]
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}


def direction(w, g):
    return np.asarray(jax.jit(lambda w, g: optim.spectral_direction(w, g, "fast"))(w, g), np.float64)


def case(shape, seed=0):
    rng = np.random.default_rng(seed)
    return oracles.polar_factor(rng.standard_normal(shape)), rng.standard_normal(shape)


def test_passes_map_the_interval_into_the_band_and_grow_what_is_below():
    x = np.concatenate([np.logspace(-12, np.log10(LEAST), 200), np.linspace(LEAST, 1, 4000)])
    y = x.copy()
    for a, b, c in coefficients():
        y = a * y + b * y**3 + c * y**5
    assert np.max(np.abs(y[x >= LEAST] - 1)) < BAND
    assert np.max(y) < 1 + BAND
    assert np.min(y / x) > 0.9


def test_each_pass_is_the_best_of_its_kind():
    """Its error alternates at four points, which proves it the best (Chebyshev)."""
    low, high = LEAST, 1.0
    for a, b, c in coefficients():
        x = np.linspace(low, high, 200001)
        error = 1 - (a * x + b * x**3 + c * x**5)
        turns = [
            error[0],
            *error[1:-1][(error[1:-1] - error[:-2]) * (error[2:] - error[1:-1]) < 0],
            error[-1],
        ]
        assert len(turns) == 4
        np.testing.assert_allclose(np.abs(turns), abs(turns[0]), rtol=1e-4)
        low, high = 1 - abs(turns[0]), 1 + abs(turns[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
def test_singular_values_lie_in_the_stated_band(shape, dtype):
    for seed, factor in ((0, 1.0), (1, 1e-20), (2, 1e20)):
        w, g = (x.astype(dtype) for x in case(shape, seed))
        phi = direction(w, dtype(factor) * g)
        w, g = np.float64(w), np.float64(g)
        if shape[0] < shape[1]:
            w, g, phi = w.T, g.T, phi.T
        s = (g @ w.T - w @ g.T) / 2
        left, sigma, right = np.linalg.svd(s)
        bound = np.sum(sigma**4) ** 0.25
        assert np.max(np.abs(w.T @ phi + phi.T @ w)) < TOLERANCE[dtype]
        rotated = left.T @ phi  # f(S) = U f(sigma) V^T, so U^T phi = f(sigma) V^T W
        target = right @ w
        for k, value in enumerate(sigma):
            grown = rotated[k] @ target[k] / (target[k] @ target[k])
            if value > LEAST * bound:
                assert abs(grown - 1) < BAND + TOLERANCE[dtype] / np.linalg.norm(target[k])
        assert np.linalg.norm(phi, 2) < 1 + BAND + TOLERANCE[dtype]


@pytest.mark.parametrize("shape", [(9, 2), (12, 9)], ids=str)
def test_zero_gives_zero_and_rank_one_is_a_rotation(shape):
    w, g = case(shape)
    assert np.all(direction(w, 0 * g) == 0)
    g = oracles.tangent(w, np.outer(g[:, 0], g[0]))
    phi = direction(w, g)
    s = (g @ w.T - w @ g.T) / 2
    assert np.sum(g * phi) == pytest.approx(np.sum(np.linalg.svd(s, compute_uv=False)), rel=2 * BAND)


def test_the_recipe_stays_on_the_manifold_and_goes_where_the_exact_one_goes():
    w, target = (jnp.asarray(oracles.polar_factor(x)) for x in case((10, 4), 3))

    def end(accuracy):
        optimizer = optim.muon(0.3, length="dual", accuracy=accuracy, constrained=True)

        def step(_, carry):
            w, state = carry
            updates, state = optimizer.update(w - target, state, w)
            return optax.apply_updates(w, updates), state

        return jax.jit(lambda w: jax.lax.fori_loop(0, 20, step, (w, optimizer.init(w))))(w)[0]

    fast, exact = end("fast"), end("exact")
    assert stiefel.orthonormality_error(fast) < 1e-13
    assert np.linalg.norm(fast - exact) < 4 * BAND * np.linalg.norm(exact - w)


@pytest.mark.mistakes
def test_another_accuracy_is_refused():
    for call in (
        lambda: optim.muon(0.1, accuracy="rough"),
        lambda: optim.spectral_direction(*case((4, 2)), "rough"),
    ):
        with pytest.raises(ValueError, match="accuracy is 'rough'; choose one of exact, fast"):
            call()
