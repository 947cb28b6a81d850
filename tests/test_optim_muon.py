"""Muon on the manifold: its subproblem against a splitting in numpy, exact cases, and what a constant step does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import optim, stiefel

#: Shape, and by how much float32 may miss: the optimum of the last two can lose rank.
CASES = [((6, 2), 1e-6), ((5, 5), 1e-6), ((6, 4), 1e-6), ((5, 4), 2e-5), ((9, 7), 2e-5)]


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    """These programs run for milliseconds and compile for seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def case(shape, seed=0):
    rng = np.random.default_rng(seed)
    return oracles.polar_factor(rng.standard_normal(shape)), rng.standard_normal(shape)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    ("shape", "allowed"),
    [pytest.param(s, e, marks=[] if s == (6, 2) else [pytest.mark.slow], id=str(s)) for s, e in CASES],
)
def test_direction_is_feasible_and_optimal(shape, allowed, dtype):
    w, g = case((2, *shape))
    found = jax.jit(optim.spectral_direction)(jnp.asarray(w, dtype), jnp.asarray(g, dtype))
    assert found.dtype == dtype
    allowed = allowed if dtype == np.float32 else 2e-8
    for point, gradient, phi in zip(w, g, np.asarray(found, np.float64), strict=True):
        assert np.max(np.abs(point.T @ phi + phi.T @ point)) < (5e-7 if dtype == np.float32 else 1e-14)
        assert np.linalg.norm(phi, 2) < 1 + 5 * allowed
        best = oracles.spectral_value(point, gradient)
        assert np.sum(gradient * phi) == pytest.approx(best, rel=allowed)


@pytest.mark.slow
def test_square_wide_and_zero_gradients_have_the_answer_known():
    w, g = case((4, 4))
    run = jax.jit(optim.spectral_direction)
    inner = (w.T @ g - g.T @ w) / 2
    np.testing.assert_allclose(
        run(w, g), w @ oracles.polar(inner), atol=1e-10
    )  # the polar factor of the skew part
    assert np.all(run(jnp.asarray(w), 0 * jnp.asarray(g)) == 0)
    w, g = case((1, 4))  # a vector: the projected gradient, normalised
    xi = oracles.tangent(w, g)
    np.testing.assert_allclose(
        optim.spectral_direction(jnp.asarray(w), jnp.asarray(g)), xi / np.linalg.norm(xi), atol=1e-8
    )


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


def test_bad_length_is_told_the_choices():
    with pytest.raises(ValueError, match="length is 'long'; choose one of unit, dual"):
        optim.muon(0.1, length="long")
