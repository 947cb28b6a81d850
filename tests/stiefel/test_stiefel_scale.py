"""Geometry over the whole range of a dtype: factors, derivatives, retractions and safe steps, in numpy's float64.

Scales are powers of two, so that a scaled input is exactly the input. Spectra are graded from 1 to 1e-12.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax import stiefel

#: Binary exponents from the smallest normal number over eps to the largest number over 16.
EXPONENTS = {
    np.float32: (-102, -66, -33, -1, 0, 33, 66, 124),
    np.float64: (-968, -512, -266, 0, 256, 512, 1020),
}
each_scale = pytest.mark.parametrize(
    ("dtype", "exponent"), [(dtype, k) for dtype, ks in EXPONENTS.items() for k in ks]
)
SHAPES = [(6, 3), (5, 5), (3, 6), (7, 1)]


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def eps(dtype):
    return float(np.finfo(dtype).eps)


def graded(shape, least, seed=0):
    """``U S V^T`` with singular values from 1 to ``least`` and its factors, in float64."""
    rng = np.random.default_rng(seed)
    u, _, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return (u * np.geomspace(1, least, min(shape))) @ vt


def polar_and_derivative(x, dx):
    """Q and ``dQ = U (K o (U^T dX V - (U^T dX V)^T)) V^T + (I - Q Q^T) dX H^{-1}``, K_ij = 1 / (s_i + s_j)."""
    if x.shape[0] < x.shape[1]:
        q, dq = polar_and_derivative(x.T, dx.T)
        return q.T, dq.T
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    m = u.T @ dx @ vt.T
    across = (dx @ vt.T - u @ m) / s
    return u @ vt, (u @ ((m - m.T) / (s[:, None] + s)) + across) @ vt


def off(q):
    q = np.asarray(q, np.float64)
    q = q.T if q.shape[1] > q.shape[0] else q
    return np.linalg.norm(q.T @ q - np.eye(q.shape[1]))


@each_scale
@pytest.mark.parametrize("least", [1.0, 1e-3, 1e-12])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_polar_factor_at_every_scale(dtype, exponent, least, shape):
    unit = graded(shape, least).astype(dtype)
    result = stiefel.polar(jnp.asarray(np.ldexp(unit, exponent)))
    assert off(result.factor) < 30 * eps(dtype)
    s = np.linalg.svd(unit.astype(np.float64), compute_uv=False)
    nuclear = np.sum(np.asarray(result.factor, np.float64) * unit.astype(np.float64))
    np.testing.assert_allclose(nuclear, s.sum(), rtol=30 * eps(dtype))
    if s[-1] > 1e3 * eps(dtype):
        assert result.status == 0
        expected, _ = polar_and_derivative(unit.astype(np.float64), np.zeros(shape))
        np.testing.assert_allclose(result.factor, expected, atol=30 * eps(dtype) / s[-1])
    elif s[-1] < eps(dtype) / 10 and min(shape) > 1:
        assert result.status == 1


@each_scale
@pytest.mark.parametrize("least", [1.0, 1e-2])
@pytest.mark.parametrize("shape", [(6, 3), (4, 4), (3, 6)], ids=str)
def test_polar_derivative_at_every_scale_in_both_modes(dtype, exponent, least, shape):
    rng = np.random.default_rng(1)
    unit = graded(shape, least).astype(dtype)
    along, back = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    _, expected = polar_and_derivative(unit.astype(np.float64), along.astype(np.float64))
    x, dx = (jnp.asarray(np.ldexp(a, exponent)) for a in (unit, along))
    _, dq = jax.jvp(stiefel.project, (x,), (dx,))
    tolerance = 100 * eps(dtype) / least**2
    np.testing.assert_allclose(dq, expected, atol=tolerance)
    (gradient,) = jax.vjp(stiefel.project, x)[1](jnp.asarray(back))
    # <gradient, dx> = <back, dq>, the gradient being of the inverse scale
    paired = np.sum(np.ldexp(np.asarray(gradient, np.float64), exponent) * along)
    if exponent < 120 * (1 if dtype is np.float32 else 8):  # above, the gradient itself is subnormal
        np.testing.assert_allclose(paired, np.sum(back * expected), atol=10 * tolerance)


def test_polar_of_the_largest_numbers_and_no_derivative_where_it_is_not_unique():
    result = stiefel.polar(jnp.asarray(np.diag([2, 1]) * 1e38, jnp.float32))
    np.testing.assert_allclose(result.factor, np.eye(2), atol=1e-6)
    assert result.status == 0
    x = jnp.asarray([[1.0, 0.0], [0.0, 0.0]])
    assert np.isnan(jax.jvp(stiefel.project, (x,), (jnp.ones((2, 2)),))[1]).all()


@each_scale
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_partial_isometry_at_every_scale(dtype, exponent, shape):
    for least in (1.0, max(1e3 * eps(dtype), 1e-11)):  # a float64 one of 1e-12 fades
        unit = graded(shape, least).astype(dtype)
        u, s, vt = np.linalg.svd(unit.astype(np.float64), full_matrices=False)
        result = stiefel.partial_isometry(jnp.asarray(np.ldexp(unit, exponent)))
        np.testing.assert_allclose(result, u @ vt, atol=30 * eps(dtype) / s[-1])


@each_scale
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("normal", [False, True])
def test_the_safe_step_neither_freezes_nor_leaves(dtype, exponent, shape, normal):
    """``kept_near`` promises the distance, and goes at least a third of the way to where it is passed."""
    rng = np.random.default_rng(2)
    u, _, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    point = jnp.asarray(u @ vt, dtype)
    direction = jnp.asarray(rng.standard_normal(shape), dtype)
    direction = direction if normal else stiefel.project_tangent(point, direction)
    kept = np.asarray(stiefel.kept_near(point, jnp.asarray(np.ldexp(direction, exponent)), 0.25))
    w, v = np.asarray(point, np.float64), np.asarray(direction, np.float64)
    assert off(w + kept) < 0.25 + 30 * eps(dtype)
    leaves = next(t for t in np.geomspace(1e-3, 100, 2000) if off(w + t * v) > 0.25)
    times = kept / np.where(v == 0, 1, v)  # the same number in every entry
    np.testing.assert_allclose(times, np.broadcast_to(times.flat[0], shape), rtol=1e-5)
    assert times.flat[0] >= min(np.ldexp(1.0, exponent), 0.3 * leaves) * (1 - 1e-5)


# --- retractions: exactly that of a step within a few eps ||xi|| of the given one


def normal_function(a, function):
    """f of a real skew matrix by its eigenvalues."""
    values, vectors = np.linalg.eigh(1j * a)
    return ((vectors * function(-1j * values)) @ vectors.conj().T).real


def generator(w, xi, weight):
    omega = (w.T @ xi - xi.T @ w) / 2
    normal = xi - w @ omega
    return normal @ w.T - w @ normal.T + weight * w @ omega @ w.T, omega


def qr(w, xi):
    q, r = np.linalg.qr(w + xi)
    return q * np.where(np.diag(r) < 0, -1, 1)


def canonical(w, xi):
    return normal_function(generator(w, xi, 1)[0], np.exp) @ w


def embedded(w, xi):
    a, omega = generator(w, xi, 2)
    return normal_function(a, np.exp) @ w @ normal_function(-omega, np.exp)


def cayley(w, xi):
    return normal_function(generator(w, xi, 1)[0], lambda z: (1 + z / 2) / (1 - z / 2)) @ w


LIPSCHITZ = {
    "cayley": (stiefel.retract_cayley, cayley),
    "embedded": (stiefel.exponential, embedded),
    "canonical": (lambda w, xi: stiefel.exponential(w, xi, metric="canonical"), canonical),
    "polar": (stiefel.retract_polar, lambda w, xi: polar_and_derivative(w + xi, xi)[0]),
}


def step(shape, dtype, size, least, seed=0):
    """A point and a tangent of this Frobenius norm, whose columns are graded, as they are in this dtype."""
    rng = np.random.default_rng(seed)
    u, _, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    w = (u @ vt).astype(dtype)
    z = rng.standard_normal(shape) * np.geomspace(1, least, shape[1])
    w64 = w.astype(np.float64)
    xi = z - w64 @ (w64.T @ z + z.T @ w64) / 2
    return w, (xi * (size / np.linalg.norm(xi))).astype(dtype)


@pytest.mark.parametrize("name", LIPSCHITZ)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9, 3), (5, 4), (4, 4), (4, 1)], ids=str)
@pytest.mark.parametrize("least", [1.0, 1e-6, 1e-12])
def test_long_steps_are_those_of_a_step_within_rounding(name, dtype, shape, least):
    """Up to 0.05 / eps: float32 1e3 and more, where entry-wise formulas had lost all digits."""
    retract, oracle = LIPSCHITZ[name]
    for size in (1e-6, 1e-2, 1.0, 5.0, 100.0, 1e3, 0.01 / eps(dtype)):
        w, xi = step(shape, dtype, size, least)
        expected = oracle(w.astype(np.float64), xi.astype(np.float64))
        result = np.asarray(retract(jnp.asarray(w), jnp.asarray(xi)), np.float64)
        assert np.linalg.norm(result - expected) < 60 * eps(dtype) * max(size, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exponent", [40, 80, 120])
@pytest.mark.parametrize("shape", [(9, 3), (5, 4), (4, 4)], ids=str)
def test_steps_of_any_length_are_valid_points_or_say_that_they_are_lost(dtype, exponent, shape):
    w, xi = step(shape, dtype, 1.0, 1e-12)
    w, xi = jnp.asarray(w), jnp.asarray(np.ldexp(xi, exponent * (1 if dtype is np.float32 else 8)))
    for retract in (
        stiefel.retract_polar,
        stiefel.retract_qr,
        stiefel.retract_cholesky_qr,
        stiefel.retract_cayley,
    ):
        assert off(retract(w, xi)) < 60 * eps(dtype)
    assert np.isnan(stiefel.exponential(w, xi)).all()
    assert np.isnan(stiefel.exponential(w, xi, metric="canonical")).all()


@each_scale
@pytest.mark.parametrize("shape", [(6, 3), (5, 4)], ids=str)
def test_qr_of_columns_at_every_scale(dtype, exponent, shape):
    """Q is that of every scaling of the columns, here over half of the range."""
    y = np.linalg.qr(np.random.default_rng(3).standard_normal(shape))[0] + 0.3
    y = y.astype(dtype)
    expected = qr(y.astype(np.float64), 0)
    columns = np.ldexp(y, np.linspace(exponent // 2, exponent, shape[1]).astype(int))
    for retract in (stiefel.retract_qr, stiefel.retract_cholesky_qr):
        result = retract(jnp.zeros(shape, dtype), jnp.asarray(columns))
        np.testing.assert_allclose(result, expected, atol=100 * eps(dtype))


@pytest.mark.parametrize("shape", [(9, 3), (4, 4)], ids=str)
def test_a_long_step_in_a_batch_does_not_spoil_a_short_one(shape):
    """The halvings of a matrix exponential are counted matrix by matrix."""
    w, short = step(shape, np.float32, 1.0, 1.0)
    long = short * np.float32(1e5)
    pair = jnp.asarray(np.stack([short, long, long * np.float32(1e20)]))
    result = stiefel.exponential(jnp.asarray(np.stack([w, w, w])), pair)
    np.testing.assert_allclose(result[0], embedded(*(a.astype(np.float64) for a in (w, short))), atol=2e-6)
    assert np.isnan(result[2]).all()
