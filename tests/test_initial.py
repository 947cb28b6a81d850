"""Starts and teachers: what each promises of its layers and product, in both precisions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax import initial, network, scales

KEY = jax.random.key(0)
# equal widths tall and wide, growing, rising and falling
WIDTHS = [(8, 4, 4, 8), (6, 4, 4, 3), (6, 3, 4, 8), (6, 4, 8, 3)]


def orthonormality(layer):
    n, p = layer.shape
    gram = layer.T @ layer if n >= p else layer @ layer.T
    return np.linalg.norm(np.asarray(gram) - np.eye(min(n, p)))


@pytest.mark.parametrize(
    ("widths", "dtype", "tolerance"),
    [*((widths, jnp.float64, 1e-13) for widths in WIDTHS), (WIDTHS[0], jnp.float32, 2e-6)],
)
def test_teacher_has_the_spectrum_asked_for(widths, dtype, tolerance):
    values = [1.0, 0.6, 0.25]
    params = initial.teacher(KEY, widths, values, dtype)
    assert network.dims(params) == widths
    assert all(layer.dtype == dtype for layer in params)
    assert max(orthonormality(layer) for layer in params[1:]) < tolerance * 10
    found = np.linalg.svd(np.asarray(network.end_to_end(params), np.float64), compute_uv=False)
    np.testing.assert_allclose(found[:3], values, atol=10 * tolerance)
    np.testing.assert_allclose(found[3:], 0, atol=10 * tolerance)


@pytest.mark.parametrize("widths", WIDTHS)
def test_haar_layers_are_orthonormal_and_the_first_is_scaled(widths):
    params = initial.haar(KEY, widths, 0.5)
    assert max(orthonormality(layer) for layer in params[1:]) < 1e-12
    assert orthonormality(params[0] / 0.5) < 1e-12


def test_haar_is_uniform_to_second_and_fourth_moments():
    draws = np.asarray(jax.vmap(lambda k: initial.haar(k, (3, 3, 3))[1])(jax.random.split(KEY, 20000)))
    np.testing.assert_allclose(np.mean(draws, axis=0), 0, atol=0.02)
    np.testing.assert_allclose(np.mean(draws**2, axis=0), 1 / 3, atol=0.01)
    np.testing.assert_allclose(np.mean(draws**4, axis=0), 3 / 15, atol=0.01)  # E q^4 = 3 / (n (n + 2))
    assert abs(np.mean(np.linalg.det(draws))) < 0.03  # both components of O(3)


def test_a_layer_does_not_depend_on_how_many_follow():
    short, long = initial.haar(KEY, (8, 4, 4, 8)), initial.haar(KEY, (8, 4, 4, 4, 4))
    # a batch of another size is summed in another order
    np.testing.assert_allclose(short[0], long[0], atol=1e-14)
    np.testing.assert_allclose(short[1], long[1], atol=1e-14)


@pytest.mark.parametrize("widths", WIDTHS)
def test_spectral_and_balanced_starts_are_balanced(widths):
    rank = min(widths)
    rng = np.random.default_rng(0)
    product = rng.standard_normal((widths[-1], rank)) @ rng.standard_normal((rank, widths[0]))
    params = initial.spectral(jnp.asarray(product), widths)
    np.testing.assert_allclose(network.end_to_end(params), product, atol=1e-12)
    for group in (params, initial.balanced(KEY, widths, 0.3)):
        for below, above in itertools.pairwise(group):
            np.testing.assert_allclose(above.T @ above, below @ below.T, atol=1e-12)


def test_gaussian_and_identity():
    params = initial.gaussian(KEY, (200, 100, 300), gain=2.0)
    np.testing.assert_allclose([np.std(p) for p in params], [2 / 200**0.5, 2 / 100**0.5], rtol=0.02)
    assert abs(np.mean(params[1])) < 0.005
    for layer, shape in zip(initial.identity((4, 3, 3, 5), 0.5), [(3, 4), (3, 3), (5, 3)], strict=True):
        np.testing.assert_array_equal(layer, 0.5 * np.eye(*shape))


def test_perturb_moves_by_the_noise_and_keeps_the_constraint():
    params = network.stack(initial.teacher(KEY, (8, 4, 4, 4, 8), [1.0, 0.5]))
    moved = initial.perturb(jax.random.key(1), params, 1e-3)
    np.testing.assert_allclose(np.std(moved[0] - params[0]), 1e-3, rtol=0.3)
    for before, after in zip(network.unstack(params)[1:], network.unstack(moved)[1:], strict=True):
        assert orthonormality(after) < 1e-13
        # the tangent space has fewer directions than the noise, so a little less survives
        assert 0.3e-3 < np.std(after - before) < 1.2e-3
    assert not np.allclose(moved[1][0] - params[1][0], moved[1][1] - params[1][1])


def test_scales_follow_their_definitions():
    params = initial.teacher(KEY, (8, 4, 4, 4, 4, 8), [2.0, 0.5])
    assert scales.discrepant(params) == pytest.approx((1, 0.25, 0.25, 0.25, 0.25), rel=1e-13)
    assert scales.middle(params) == pytest.approx((1, 0.25 / 3, 0.25 / 3, 0.25 / 3, 0.25), rel=1e-13)
    stacked = network.stack(params)
    first, run, last = scales.middle(stacked)
    assert (float(first), float(last)) == pytest.approx((1, 0.25), rel=1e-13)
    np.testing.assert_allclose(run, 0.25 / 3, rtol=1e-13)
    square = network.stack(initial.teacher(KEY, (8, 4, 4, 4), [2.0, 0.5]))
    np.testing.assert_allclose(scales.middle(square)[1], [0.25, 0.25], rtol=1e-13)
    two = initial.teacher(KEY, (8, 4, 8), [2.0, 0.5])
    assert scales.middle(two) == pytest.approx((1, 0.25), rel=1e-13)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="rank 3 exceeds the narrowest width 2"):
        initial.teacher(KEY, (8, 2, 8), [1.0, 0.5, 0.2])
    for values in ([0.5, 1.0], [1.0, 0.0], []):
        with pytest.raises(ValueError, match="positive, nonincreasing"):
            initial.teacher(KEY, (8, 4, 8), values)
    with pytest.raises(ValueError, match=r"dims=\(8,\)"):
        initial.haar(KEY, (8,))
    with pytest.raises(ValueError, match="positive integers"):
        initial.identity((8, 0, 8))
    with pytest.raises(ValueError, match=r"product has shape \(3, 4\)"):
        initial.spectral(jnp.ones((3, 4)), (3, 2, 4))
