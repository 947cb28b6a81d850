"""Matrices of more than 64 columns, which go by blocks and by estimates of the spectral norm, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax import stiefel
from dlnjax._linalg import spectral_estimate
from dlnjax.stiefel._blocks import gram_schmidt, inverse_cholesky, inverse_upper


def qr(y):
    q, r = np.linalg.qr(y)
    return q * np.sign(np.diag(r))


def with_spectrum(shape, values, seed=0):
    u, _, vt = np.linalg.svd(np.random.default_rng(seed).standard_normal(shape), full_matrices=False)
    return (u * values) @ vt, u @ vt


SPECTRA = {
    "a long step": lambda k: np.linspace(1, 1.4, k),
    "one large": lambda k: np.r_[100, np.ones(k - 1)],
    "one small": lambda k: np.r_[1e-3, np.ones(k - 1)],
    "graded": lambda k: np.geomspace(1, 1e-12, k),
    "rank deficient": lambda k: np.r_[np.zeros(5), np.ones(k - 5)],
    "huge": lambda k: np.linspace(1, 2, k) * 1e200,
    "tiny": lambda k: np.linspace(1, 2, k) * 1e-200,
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(100, 100), (130, 70)], ids=str)
def test_polar_of_every_spectrum(name, shape):
    values = SPECTRA[name](shape[1])
    x, expected = with_spectrum(shape, values)
    factor, status = stiefel.polar(jnp.asarray(x))
    assert stiefel.orthonormality_error(factor) < 2e-14
    unit = x / values.max()
    np.testing.assert_allclose(np.sum(factor * unit), np.sum(values / values.max()), rtol=1e-14)
    assert int(status) == (name == "rank deficient")
    if status == 0:
        np.testing.assert_allclose(factor, expected, atol=2e-15 * values.max() / values.min() + 1e-14)


@pytest.mark.parametrize("name", ["qr", "cholesky_qr", "cayley", "polar"])
@pytest.mark.parametrize("length", [1e-5, 0.1, 1.0, 30.0, 1e4])
def test_retractions_of_a_large_matrix(name, length):
    shape = (90, 70)
    _, w = with_spectrum(shape, np.ones(70))
    z = np.random.default_rng(1).standard_normal(shape)
    xi = z - w @ (w.T @ z + z.T @ w) / 2
    xi *= length / np.linalg.norm(xi, 2)
    if name == "cayley":
        omega = (w.T @ xi - xi.T @ w) / 2
        normal = xi - w @ omega
        a = normal @ w.T - w @ normal.T + w @ omega @ w.T
        expected = np.linalg.solve(np.eye(90) - a / 2, (np.eye(90) + a / 2) @ w)
    else:
        expected = qr(w + xi) if "qr" in name else np.linalg.svd(w + xi)[0][:, :70] @ np.linalg.svd(w + xi)[2]
    result = getattr(stiefel, f"retract_{name}")(jnp.asarray(w), jnp.asarray(xi))
    np.testing.assert_allclose(result, expected, atol=1e-12 * max(1, length))
    assert stiefel.orthonormality_error(result) < 2e-14


@pytest.mark.parametrize("p", [65, 128, 150])
def test_blocks_equal_lapack(p):
    rng = np.random.default_rng(0)
    y = rng.standard_normal((p + 40, p)) * np.geomspace(1, 1e-6, p)
    np.testing.assert_allclose(gram_schmidt(jnp.asarray(y)), qr(y), atol=1e-10)
    g = np.eye(p) + (a := rng.standard_normal((p, p)) / np.sqrt(p)).T @ a
    expected = np.linalg.inv(np.linalg.cholesky(g)).T
    np.testing.assert_allclose(inverse_cholesky(jnp.asarray(g)), expected, atol=1e-13)
    upper = np.triu(rng.standard_normal((p, p))) / np.sqrt(p) + np.eye(p) * 2
    np.testing.assert_allclose(inverse_upper(jnp.asarray(upper)), np.linalg.inv(upper), atol=1e-13)


@pytest.mark.parametrize("kind", ["random", "one large", "diagonal"])
def test_the_estimate_is_below_the_norm_and_near_it(kind):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((200, 200))
    a = {"random": a + a.T, "one large": np.outer(a[0], a[0]), "diagonal": np.diag(a[0])}[kind]
    ratio = float(spectral_estimate(jnp.asarray(a))) / np.linalg.norm(a, 2)
    assert 0.75 < ratio < 1 + 1e-12


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bits_are_computed_in_float32_and_rounded_once(dtype):
    w = stiefel.random(jax.random.key(0), (9, 4), dtype)
    xi = (0.3 * stiefel.project_tangent(w, jnp.ones((9, 4), dtype)).astype(jnp.float32)).astype(dtype)
    wide, along = w.astype(jnp.float32), xi.astype(jnp.float32)
    for name in ("retract_polar", "retract_qr", "retract_cholesky_qr", "retract_cayley", "exponential"):
        result = getattr(stiefel, name)(w, xi)
        assert result.dtype == dtype
        expected = getattr(stiefel, name)(wide, along).astype(dtype)
        np.testing.assert_array_equal(result.astype(jnp.float32), expected.astype(jnp.float32))
    for name in ("project", "partial_isometry", "orthonormality_error"):
        result, expected = getattr(stiefel, name)(w), getattr(stiefel, name)(wide)
        assert result.dtype == dtype
        np.testing.assert_array_equal(result.astype(jnp.float32), expected.astype(dtype).astype(jnp.float32))
