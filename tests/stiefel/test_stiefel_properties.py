"""Every public function of the geometry on random matrices, real and complex, against numpy in double precision.

A draw of hypothesis is a batch of 50 matrices of one shape and dtype: spectra that are spread, graded down to 1e-12,
repeated or partly zero, scales over the range of the dtype, steps of length 0 to 1e4. The slow run has 200
batches, 10 000 matrices, a function. A result is right or it says that it is not (a status, not a number).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlnjax import stiefel

BATCH = 50
DTYPES = (np.float32, np.float64, np.complex64, np.complex128)
SHAPES = ((4, 4), (5, 1), (12, 2), (2, 5), (5, 4))
#: Binary exponents of the scales, by the precision.
RANGE = {np.dtype(np.float32): (-100, 120), np.dtype(np.float64): (-960, 1016)}

draws = given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(DTYPES), shape=st.sampled_from(SHAPES))


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def check(property_of_a_batch, examples):
    settings(max_examples=examples, deadline=None, derandomize=True, database=None)(
        draws(property_of_a_batch)
    )()


def adj(a):
    return np.conj(np.swapaxes(a, -1, -2))


def norm(a):
    """Frobenius norms that neither overflow nor vanish."""
    largest = np.max(np.abs(a), axis=(-2, -1))
    safe = np.where(largest > 0, largest, 1)
    return largest * np.linalg.norm(a / safe[..., None, None], axis=(-2, -1))


def eps(dtype):
    return float(np.finfo(dtype).eps)


def gaussian(rng, shape, dtype):
    z = rng.standard_normal(shape)
    return z + 1j * rng.standard_normal(shape) if np.issubdtype(dtype, np.complexfloating) else z


def orthonormal(rng, shape, dtype):
    u, _, vh = np.linalg.svd(gaussian(rng, shape, dtype), full_matrices=False)
    return u @ vh


def spectra(rng, k):
    """A row a matrix: spread, graded, repeated, with zeros, in turn."""
    rows = [
        rng.uniform(0.1, 1, (BATCH, k)),
        np.geomspace(1, 1e-12, k) ** rng.uniform(0, 1, (BATCH, 1)),
        np.ones((BATCH, k)),
        np.where(rng.uniform(size=(BATCH, k)) < 0.5, 0, rng.uniform(0.1, 1, (BATCH, k))),
    ]
    return np.stack([rows[i % 4][i] for i in range(BATCH)])


def matrices(seed, dtype, shape):
    """Matrices of this dtype over its range, and the exact powers of two that bring them to unit scale."""
    rng = np.random.default_rng(seed)
    k = min(shape)
    u, v = orthonormal(rng, (BATCH, shape[0], k), dtype), orthonormal(rng, (BATCH, shape[1], k), dtype)
    unit = ((u * spectra(rng, k)[:, None, :]) @ adj(v)).astype(dtype)
    precision = np.finfo(dtype).dtype
    least, most = RANGE[precision]
    scale = np.ldexp(np.ones(BATCH, precision), rng.integers(least, most, BATCH))[:, None, None]
    return unit.astype(np.result_type(dtype, np.float64)), jnp.asarray((unit * scale).astype(dtype))


def steps(seed, dtype, shape, most=1e4):
    """Points, and tangents of length 0 to ``most``, both as they are in the dtype; tall ones for wide shapes too."""
    rng = np.random.default_rng(seed)
    w = orthonormal(rng, (BATCH, *shape), dtype).astype(dtype)
    wide = np.result_type(dtype, np.float64)
    z = gaussian(rng, (BATCH, *shape), dtype) * np.geomspace(1, 1e-6, shape[1]) ** rng.integers(
        0, 2, (BATCH, 1, 1)
    )
    xi = tangent(w.astype(wide), z)
    length = 10 ** rng.uniform(-8, np.log10(most), BATCH) * (rng.uniform(size=BATCH) < 0.9)
    size = norm(xi)
    xi = (xi * (length / np.where(size > 0, size, 1))[:, None, None]).astype(dtype)
    return w.astype(wide), xi.astype(wide), jnp.asarray(w), jnp.asarray(xi)


def tangent(w, z):
    if w.shape[-1] > w.shape[-2]:
        return adj(tangent(adj(w), adj(z)))
    inner = adj(w) @ z
    return z - w @ (inner + adj(inner)) / 2


def off(q):
    q = np.asarray(q).astype(np.result_type(q.dtype, np.float64))
    q = adj(q) if q.shape[-1] > q.shape[-2] else q
    return norm(adj(q) @ q - np.eye(q.shape[-1]))


def by_columns(formula):
    """A formula for tall matrices carried over to wide ones."""

    def lifted(w, xi):
        return adj(formula(adj(w), adj(xi))) if w.shape[-1] > w.shape[-2] else formula(w, xi)

    return lifted


def svd_polar(y):
    u, _, vh = np.linalg.svd(y, full_matrices=False)
    return u @ vh


def of_skew(a, function):
    values, vectors = np.linalg.eigh(1j * a)
    result = (vectors * function(-1j * values)[..., None, :]) @ adj(vectors)
    return result if np.iscomplexobj(a) else result.real


def generator(w, xi, weight):
    omega = (adj(w) @ xi - adj(xi) @ w) / 2
    normal = xi - w @ omega
    return normal @ adj(w) - w @ adj(normal) + weight * w @ omega @ adj(w), omega


def cayley(w, xi):
    return of_skew(generator(w, xi, 1)[0], lambda z: (1 + z / 2) / (1 - z / 2)) @ w


def canonical(w, xi):
    return of_skew(generator(w, xi, 1)[0], np.exp) @ w


def embedded(w, xi):
    a, omega = generator(w, xi, 2)
    return of_skew(a, np.exp) @ w @ of_skew(-omega, np.exp)


def qr(w, xi):
    q, r = np.linalg.qr(w + xi)
    diagonal = np.einsum("...ii->...i", r)
    return q * (diagonal / np.abs(diagonal))[..., None, :]


def canonical_of(w, xi):
    return stiefel.exponential(w, xi, metric="canonical")


RETRACTIONS = {
    "polar": (stiefel.retract_polar, lambda w, xi: svd_polar(w + xi)),
    "cayley": (stiefel.retract_cayley, by_columns(cayley)),
    "embedded": (stiefel.exponential, by_columns(embedded)),
    "canonical": (canonical_of, by_columns(canonical)),
    "qr": (stiefel.retract_qr, by_columns(qr)),
    "cholesky_qr": (stiefel.retract_cholesky_qr, by_columns(qr)),
}


def a_retraction(name):
    retract, oracle = RETRACTIONS[name]

    def holds(seed, dtype, shape):
        w, xi, point, vector = steps(seed, dtype, shape)
        result = retract(point, vector)
        assert result.dtype == dtype
        assert np.max(off(result)) < 60 * eps(dtype)
        allowed = 100 * eps(dtype) * np.maximum(norm(xi), 1)
        if (
            "qr" in name
        ):  # the Q of a square I + K of odd size or complex is sensitive: its condition is that of the step
            allowed = allowed * np.linalg.cond(w + xi)
        assert np.all(norm(np.asarray(result) - oracle(w, xi)) <= allowed)

    return holds


def the_polar_factor(seed, dtype, shape):
    unit, x = matrices(seed, dtype, shape)
    factor, status = stiefel.polar(x)
    np.testing.assert_array_equal(factor, stiefel.project(x))
    assert np.max(off(factor)) < 60 * eps(dtype)
    s = np.linalg.svd(unit, compute_uv=False)
    attained = np.sum((np.conj(factor) * unit).real, axis=(-2, -1))  # the nuclear norm: a nearest point
    assert np.all(np.abs(attained - s.sum(-1)) <= 60 * eps(dtype) * np.maximum(s.sum(-1), 1e-30))
    unique = np.asarray(status) == 0
    expected = svd_polar(unit)
    gap = norm(np.asarray(factor) - expected)
    # where the status is "unique" the factor is that one, to the condition of the problem
    assert np.all((gap <= 60 * eps(dtype) / np.maximum(s[:, -1], 1e-300))[unique])
    assert not np.any(unique[s[:, -1] < eps(dtype) / 100])


def the_partial_isometry(seed, dtype, shape):
    unit, x = matrices(seed, dtype, shape)
    floor = 1e-3 if eps(dtype) > 1e-10 else 1e-8
    u, s, vh = np.linalg.svd(unit, full_matrices=False)
    result = np.asarray(stiefel.partial_isometry(x))
    assert np.max(np.linalg.norm(result, 2, axis=(-2, -1))) <= 1 + 30 * eps(dtype)
    kept = s > floor
    inside = np.einsum("...ii->...i", adj(u) @ result @ adj(vh))
    assert np.all((np.abs(inside - 1) <= 100 * eps(dtype) / floor)[kept])
    assert np.all(result[s[:, 0] == 0] == 0)


FORMULAS = {
    "project_tangent": (stiefel.project_tangent, tangent),
    "transport": (stiefel.transport, tangent),
    "newton_schulz": (
        lambda w, z: stiefel.newton_schulz(w, z),
        by_columns(lambda w, z: (w + z) @ (3 * np.eye(w.shape[-1]) - adj(w + z) @ (w + z)) / 2),
    ),
    "attraction": (
        lambda w, z: stiefel.attraction(w + z, z, 0.5),
        by_columns(lambda w, z: z + 0.5 * (w + z) @ (adj(w + z) @ (w + z) - np.eye(w.shape[-1]))),
    ),
    "relative_gradient": (
        lambda w, z: stiefel.relative_gradient(w, z, "canonical"),
        by_columns(lambda w, z: z @ adj(w) @ w - w @ adj(z) @ w),
    ),
    "relative_gradient embedded": (stiefel.relative_gradient, tangent),  # on the manifold
    "hessian": (
        lambda w, z: stiefel.hessian(w, z, z, stiefel.project_tangent(w, z)),
        by_columns(lambda w, z: tangent(w, z - tangent(w, z) @ (adj(w) @ z + adj(z) @ w) / 2)),
    ),
}
#: The degree of a formula in the vector.
DEGREE = {"newton_schulz": 3, "attraction": 3, "hessian": 2}


def a_formula(name):
    function, oracle = FORMULAS[name]

    def holds(seed, dtype, shape):
        w, xi, point, _ = steps(seed, dtype, shape)
        rng = np.random.default_rng(seed + 1)
        z = (norm(xi)[:, None, None] * gaussian(rng, xi.shape, dtype)).astype(dtype)
        result = np.asarray(function(point, jnp.asarray(z)))
        assert result.dtype == dtype
        wide = z.astype(w.dtype)
        degree = DEGREE.get(name, 1)
        scale = norm(wide) + norm(wide) ** degree if degree == 2 else norm(wide)
        scale = (1 + norm(wide)) ** 3 if degree == 3 else scale
        assert np.all(norm(result - oracle(w, wide)) <= 60 * eps(dtype) * scale)

    return holds


def the_safe_step(seed, dtype, shape):
    """On the manifold: within the distance, along the vector, and no shorter than a seventh of the way out."""
    w, xi, point, _ = steps(seed, dtype, shape)
    rng = np.random.default_rng(seed + 1)
    v = gaussian(rng, xi.shape, dtype)
    v = np.where(rng.uniform(size=(BATCH, 1, 1)) < 0.5, tangent(w, v), v).astype(dtype)
    least, most = RANGE[np.finfo(dtype).dtype]
    length = np.ldexp(np.ones(BATCH), rng.integers(least, most, BATCH)).astype(np.finfo(dtype).dtype)
    kept = np.asarray(stiefel.kept_near(point, jnp.asarray(v * length[:, None, None]), 0.25)).astype(w.dtype)
    assert np.max(off(w + kept)) <= 0.25 + 60 * eps(dtype)
    times = np.linspace(0.01, 5, 500)
    wide = v.astype(w.dtype)
    out = np.array([off(w + t * wide) > 0.25 for t in times])
    leaves = np.where(out.any(0), times[np.argmax(out, axis=0)], np.inf)
    least_norm = np.minimum(length * norm(wide), 0.15 * np.where(np.isinf(leaves), 0, leaves) * norm(wide))
    assert np.all(norm(kept) >= least_norm * (1 - 1e-4) - 0.01 * norm(wide) * (length > 1e-3))
    across = kept * norm(wide)[:, None, None] - wide * norm(kept)[:, None, None]
    assert np.all(norm(across) <= 1e-5 * norm(kept) * norm(wide) + np.finfo(np.float32).tiny)


def the_error(seed, dtype, shape):
    w, _, point, vector = steps(seed, dtype, shape, most=10)
    given = np.asarray(point + vector).astype(w.dtype)
    result = np.asarray(stiefel.orthonormality_error(point + vector))
    assert np.all(np.abs(result - off(given)) <= 60 * eps(dtype) * (1 + norm(given) ** 2))


def random_points(seed, dtype, shape):
    w = stiefel.random(jax.random.key(seed), (BATCH, *shape), dtype)
    assert w.dtype == dtype
    assert np.max(off(w)) < 60 * eps(dtype)
    assert len(np.unique(np.asarray(w)[:, 0, 0])) == BATCH or shape == (1, 1)


PROPERTIES = {
    **{name: a_retraction(name) for name in RETRACTIONS},
    **{name: a_formula(name) for name in FORMULAS},
    "polar factor": the_polar_factor,
    "partial_isometry": the_partial_isometry,
    "kept_near": the_safe_step,
    "orthonormality_error": the_error,
    "random": random_points,
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_property(name):
    check(PROPERTIES[name], 6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", PROPERTIES)
def test_property_over_ten_thousand_draws(name):
    check(PROPERTIES[name], 200)
