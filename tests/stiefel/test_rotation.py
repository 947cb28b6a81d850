"""The rotation of a polar step against numpy's SVD, from steps far below rounding to far above one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax.stiefel._rotation import turn


def skews(sizes, width=7):
    drawn = np.random.default_rng(0).standard_normal((len(sizes), width, width))
    skew = (drawn - drawn.swapaxes(-1, -2)) / np.linalg.norm(drawn, axis=(-2, -1), keepdims=True)
    return skew * np.asarray(sizes)[:, None, None]


def expected(skew):
    """``polar(I + K) - I`` by K's eigenvalues ``i k``: ``(1 + i k) / |1 + i k| - 1``, without cancellation."""
    found = []
    for k in skew:
        values, vectors = np.linalg.eigh(1j * k)  # i K is Hermitian: K = V diag(-i values) V^*
        angle = np.arctan(-values)
        found.append(((np.expm1(1j * angle)) * vectors @ vectors.conj().T).real)
    return np.array(found)


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float64, 1e-15), (np.float32, 5e-7)])
@pytest.mark.parametrize("size", [1e-12, 1e-5, 1e-3, 0.02, 0.1, 0.5, 3.0, 1e4])
def test_relative_to_the_step_itself(dtype, rounding, size):
    skew = skews([size, size / 2])
    found = jax.jit(turn)(jnp.asarray(skew, dtype))
    assert found.dtype == dtype
    bound = 10 * rounding * min(size, 2) if size < 1e-2 else 20 * rounding
    np.testing.assert_allclose(found, expected(skew), atol=bound, rtol=0)


def test_a_huge_or_broken_one_leaves_the_rest_of_a_batch():
    # of even width: in an odd one K leaves an axis, and what I + K does to it is lost to rounding
    skew = skews([1e-6, 1e25, 0.3, 1.0], 6)
    skew[3] = np.nan
    found = jax.vmap(turn)(jnp.asarray(skew, jnp.float32))
    np.testing.assert_allclose(found[:3], expected(skew[:3]), atol=1e-5)
    assert np.isnan(found[3]).all()
    rotation = np.asarray(found[1]) + np.eye(6)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(6), atol=1e-5)
