"""Geometry of the Stiefel manifold against SVD, QR and integrated geodesics in numpy."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dlnjax import stiefel

RETRACTIONS = {
    "polar": stiefel.retract_polar,
    "qr": stiefel.retract_qr,
    "cholesky_qr": stiefel.retract_cholesky_qr,
    "cayley": stiefel.retract_cayley,
    "exponential": stiefel.exponential,
}
SHAPES = [(6, 3), (5, 5), (3, 6), (2, 4, 1)]
each_retraction = pytest.mark.parametrize("retract", RETRACTIONS.values(), ids=RETRACTIONS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    """These programs run for milliseconds and compile for seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def pair(shape, size=1.0, seed=0, dtype=np.float64):
    """A point and a tangent of this Frobenius norm (per matrix), made with numpy."""
    rng = np.random.default_rng(seed)
    w = oracles.polar_factor(rng.standard_normal(shape))
    z = rng.standard_normal(shape)
    t = lambda a: a.swapaxes(-1, -2)  # noqa: E731
    if shape[-1] > shape[-2]:  # noqa: SIM108
        xi = z - (z @ t(w) + w @ t(z)) / 2 @ w
    else:
        xi = z - w @ (t(w) @ z + t(z) @ w) / 2
    xi = size * xi / np.maximum(np.linalg.norm(xi, axis=(-2, -1), keepdims=True), 1e-300)
    return jnp.asarray(w, dtype), jnp.asarray(xi, dtype)


def off_manifold(w):
    w = np.asarray(w, np.float64)
    w = w.swapaxes(-1, -2) if w.shape[-1] > w.shape[-2] else w
    return np.max(np.linalg.norm(w.swapaxes(-1, -2) @ w - np.eye(w.shape[-1]), axis=(-2, -1)))


@each_shape
def test_tangent_projection_is_the_orthogonal_one(shape):
    w, _ = pair(shape)
    rng = np.random.default_rng(1)
    a, b = (jnp.asarray(rng.standard_normal(shape)) for _ in range(2))
    pa, pb = stiefel.project_tangent(w, a), stiefel.project_tangent(w, b)
    rows = w @ jnp.swapaxes(pa, -1, -2) if shape[-1] > shape[-2] else jnp.swapaxes(w, -1, -2) @ pa
    np.testing.assert_allclose(rows, -jnp.swapaxes(rows, -1, -2), atol=1e-14)
    np.testing.assert_allclose(stiefel.project_tangent(w, pa), pa, atol=1e-14)
    np.testing.assert_allclose(jnp.sum(pa * b), jnp.sum(a * pb), rtol=1e-13)
    k = min(shape[-2:])
    s = rng.standard_normal((*shape[:-2], k, k))
    s = jnp.asarray(s + s.swapaxes(-1, -2))
    normal = s @ w if shape[-1] > shape[-2] else w @ s
    np.testing.assert_allclose(stiefel.project_tangent(w, normal), jnp.zeros(shape), atol=1e-13)


@each_shape
def test_transport_lands_in_the_tangent_space(shape):
    w, xi = pair(shape, 0.3)
    there = stiefel.retract_polar(w, xi)
    moved = stiefel.transport(there, xi)
    np.testing.assert_allclose(stiefel.project_tangent(there, moved), moved, atol=1e-14)


@each_shape
def test_gram_of_a_step(shape):
    w, xi = pair(shape)
    y = np.asarray(w + xi)
    if shape[-1] > shape[-2]:
        y, xi = y.swapaxes(-1, -2), jnp.swapaxes(xi, -1, -2)
    gram = jnp.swapaxes(xi, -1, -2) @ xi
    np.testing.assert_allclose(y.swapaxes(-1, -2) @ y - np.eye(y.shape[-1]), gram, atol=1e-13)


@each_shape
@pytest.mark.parametrize("size", [1e-6, 1e-2, 0.5, 3.0, 1e4])
def test_retractions_equal_their_oracles(shape, size):
    w, xi = pair(shape, size)
    np.testing.assert_allclose(stiefel.retract_polar(w, xi), oracles.polar_factor(w + xi), atol=1e-12)
    for name in ("qr", "cholesky_qr"):
        if shape != (5, 5) or size < 100:  # a large skew step of odd size is nearly singular: Q is sensitive
            np.testing.assert_allclose(RETRACTIONS[name](w, xi), oracles.qr_factor(w + xi), atol=1e-11)


@each_shape
def test_cayley_is_the_cayley_transform(shape):
    w, xi = (np.asarray(a) for a in pair(shape, 0.7))
    if shape[-1] > shape[-2]:
        w, xi = w.swapaxes(-1, -2), xi.swapaxes(-1, -2)
    wt = w.swapaxes(-1, -2)
    p = np.eye(w.shape[-2]) - w @ wt / 2
    a = p @ xi @ wt - w @ xi.swapaxes(-1, -2) @ p
    expected = np.linalg.solve(np.eye(w.shape[-2]) - a / 2, w + a @ w / 2)
    np.testing.assert_allclose(stiefel.retract_cayley(jnp.asarray(w), jnp.asarray(xi)), expected, atol=1e-13)


@pytest.mark.parametrize("shape", [(6, 3), (5, 5), (4, 1)], ids=str)
@pytest.mark.parametrize("metric", ["embedded", "canonical"])
def test_exponential_is_the_geodesic(shape, metric):
    w, xi = pair(shape, 2.0)
    expected = oracles.stiefel_geodesic(w, xi, metric)
    np.testing.assert_allclose(stiefel.exponential(w, xi, metric=metric), expected, atol=2e-9)


def slope(retract, w, xi, metric):
    times = 2.0 ** -np.arange(3, 8)
    gaps = [
        np.linalg.norm(retract(w, t * xi) - oracles.stiefel_geodesic(w, t * np.asarray(xi), metric, 60))
        for t in times
    ]
    return np.polyfit(np.log(times), np.log(gaps), 1)[0]


@pytest.mark.parametrize(
    ("name", "shape", "metric", "order"),
    [
        ("polar", (6, 3), "embedded", 3),
        ("polar", (5, 5), "embedded", 3),
        ("qr", (6, 3), "embedded", 2),
        ("cholesky_qr", (6, 3), "embedded", 2),
        ("cayley", (6, 3), "embedded", 2),
        ("cayley", (5, 5), "embedded", 3),
        ("cayley", (6, 3), "canonical", 3),
        ("polar", (4, 1), "embedded", 3),
        ("qr", (4, 1), "embedded", 3),
        ("cayley", (4, 1), "embedded", 3),
    ],
)
def test_order_of_retraction(name, shape, metric, order):
    assert slope(RETRACTIONS[name], *pair(shape), metric) == pytest.approx(order, abs=0.05)


@each_retraction
@pytest.mark.parametrize("shape", [(6, 3), (5, 5)], ids=str)
def test_wide_is_transposed_tall_exactly(retract, shape):
    w, xi = pair(shape, 0.4)
    wide = retract(jnp.swapaxes(w, -1, -2), jnp.swapaxes(xi, -1, -2))
    if shape[-2] != shape[-1]:
        np.testing.assert_array_equal(wide, jnp.swapaxes(retract(w, xi), -1, -2))
    tangent = stiefel.project_tangent(jnp.swapaxes(w, -1, -2), jnp.swapaxes(xi, -1, -2))
    np.testing.assert_allclose(tangent, jnp.swapaxes(stiefel.project_tangent(w, xi), -1, -2), atol=1e-16)


@each_retraction
def test_batched_equals_loop_equals_vmap_equals_jit(retract):
    w, xi = pair((4, 6, 3), 0.3)
    looped = np.stack([retract(w[i], xi[i]) for i in range(4)])
    np.testing.assert_allclose(retract(w, xi), looped, atol=1e-14)
    np.testing.assert_allclose(jax.jit(jax.vmap(retract))(w, xi), looped, atol=1e-14)
    shared = jax.jit(jax.vmap(retract, in_axes=(None, 0)))(w[0], xi)
    np.testing.assert_allclose(shared[0], looped[0], atol=1e-14)


@each_retraction
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 3e-15)])
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 1e3, 1e9, 1e30])
def test_a_step_of_any_size_lands_on_the_manifold(retract, dtype, tolerance, size):
    if retract is stiefel.exponential and size > 1e3:
        return  # the direction of a geodesic of that length is lost to rounding; not promised
    for shape in [(6, 3), (5, 5)] if dtype == np.float32 else [(6, 3)]:
        y = retract(*pair(shape, size, dtype=dtype))
        assert y.dtype == dtype
        assert off_manifold(y) < tolerance


@pytest.mark.parametrize("retract", [stiefel.retract_polar, stiefel.retract_cayley, stiefel.retract_qr])
@pytest.mark.parametrize("sign", [1, -1])
def test_square_points_keep_their_determinant(retract, sign):
    w, xi = pair((5, 5), 0.5)
    w, xi = (a.at[:, 0].multiply(sign * np.sign(np.linalg.det(w))) for a in (w, xi))
    assert np.linalg.det(retract(w, stiefel.project_tangent(w, xi))) == pytest.approx(sign)


def test_polar_and_cayley_commute_with_the_gauge_and_qr_does_not():
    w, xi = pair((6, 3), 0.4)
    left, right = (stiefel.random(jax.random.key(i), (d, d)) for i, d in ((1, 6), (2, 3)))
    for name, commutes in [("polar", True), ("cayley", True), ("exponential", True), ("qr", False)]:
        f = RETRACTIONS[name]
        gap = np.max(np.abs(f(left @ w @ right, left @ xi @ right) - left @ f(w, xi) @ right))
        assert (gap < 1e-13) if commutes else (gap > 1e-4)


def test_polar_retraction_is_non_expansive():
    w, xi = pair((200, 5, 3), 1.5)
    s = stiefel.random(jax.random.key(3), w.shape)
    gap = np.linalg.norm(stiefel.retract_polar(w, xi) - s, axis=(1, 2)) - np.linalg.norm(
        w + xi - s, axis=(1, 2)
    )
    assert np.max(gap) <= 1e-14


# --- the polar factor on its own


@pytest.mark.parametrize("shape", [(6, 3), (20, 20)], ids=str)
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6, 1e10])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_polar_of_any_conditioning_and_scale(shape, condition, scale):
    rng = np.random.default_rng(0)
    u, _, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    values = np.geomspace(1, 1 / condition, min(shape))
    found = stiefel.polar(jnp.asarray((u * values) @ vt * scale))
    assert found.status == 0
    assert off_manifold(found.factor) < 2e-15 * min(shape)
    np.testing.assert_allclose(found.factor, u @ vt, atol=1e-15 * condition * 10 + 1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5, 5), (6, 3), (3, 6), (1, 1)], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_polar_of_rank_deficient_input_is_a_nearest_point_and_says_so(dtype, shape, rank):
    if rank >= min(shape):
        pytest.skip("full rank")
    rng = np.random.default_rng(rank)
    x = rng.standard_normal((shape[0], rank)) @ rng.standard_normal((rank, shape[1]))
    found = stiefel.polar(jnp.asarray(x, dtype))
    assert found.status == 1
    eps = np.finfo(dtype).eps
    assert off_manifold(found.factor) < 30 * eps
    nuclear = np.linalg.svd(x, compute_uv=False).sum()
    np.testing.assert_allclose(np.sum(np.asarray(found.factor) * x), nuclear, rtol=100 * eps, atol=eps)


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 38), (np.float64, 300)])
def test_polar_where_a_direction_arrives_just_as_the_null_ones_are_filled(dtype, most):
    """``I + K`` of odd width and huge K: one singular value is rounding, and anywhere on its way at that pass."""
    drawn = np.random.default_rng(0).standard_normal((100, 5, 5))
    skew = drawn - drawn.swapaxes(-1, -2)
    scale = 10 ** np.linspace(0, most, 100) / np.linalg.norm(skew, axis=(-2, -1))
    found = stiefel.polar(jnp.asarray(np.eye(5) + skew * scale[:, None, None], dtype))
    assert np.max(off_manifold(found.factor)) < 30 * np.finfo(dtype).eps
    assert np.all(found.status < 2)


def test_polar_reports_what_is_not_finite_and_spares_its_neighbours():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5, 3))
    x[1, 0, 0], x[2, 1, 1] = np.nan, np.inf
    found = stiefel.polar(jnp.asarray(x))
    np.testing.assert_array_equal(found.status, [0, 2, 2, 0])
    assert np.isnan(found.factor[1]).any()
    np.testing.assert_allclose(found.factor[::3], oracles.polar_factor(x[::3]), atol=1e-14)


def svd_polar(x):
    u, _, vt = jnp.linalg.svd(x, full_matrices=False)
    return u @ vt


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)], ids=str)
def test_partial_isometry_of_known_factors(dtype, tolerance, shape):
    """Of every rank, and at scales whose square is not a float32."""
    rng = np.random.default_rng(4)
    u, v = (oracles.polar_factor(rng.standard_normal((k, k))) for k in shape)
    ranks = range(min(shape) + 1)
    scales = [1.0, 1e-30, 1e30, 1.0, 1.0]
    given = [scales[r] * (u[:, :r] * np.linspace(1, 0.2, r)) @ v[:, :r].T for r in ranks]
    found = jax.jit(stiefel.partial_isometry)(jnp.asarray(given, dtype))
    assert found.dtype == dtype
    assert np.all(np.linalg.norm(found, 2, axis=(-2, -1)) <= 1 + tolerance)
    for r, one in zip(ranks, found, strict=True):
        left, right = u[:, :r], v[:, :r]
        np.testing.assert_allclose(left.T @ np.asarray(one) @ right, np.eye(r), atol=tolerance)
    assert np.all(found[0] == 0)


def test_partial_isometry_keeps_skew_skew_spans_many_scales_and_differentiates():
    rng = np.random.default_rng(5)
    run = jax.jit(stiefel.partial_isometry)
    given = rng.standard_normal((2, 4, 4))
    found = run(given - given.swapaxes(-1, -2))
    np.testing.assert_allclose(found, -jnp.swapaxes(found, -1, -2), atol=1e-14)
    for dtype, span in [(np.float32, 5), (np.float64, 10)]:
        wide = given[0] @ np.diag(np.logspace(0, -span, 4)) @ given[1]
        s = np.linalg.svd(run(jnp.asarray(wide, dtype)), compute_uv=False)
        np.testing.assert_allclose(s, 1, atol=10 * np.finfo(dtype).eps)
    x, along, h = given[0], given[1], 1e-5
    difference = (oracles.polar_factor(x + h * along) - oracles.polar_factor(x - h * along)) / (2 * h)
    derivative = jax.jvp(jax.jit(stiefel.partial_isometry), (x,), (along,))[1]
    np.testing.assert_allclose(derivative, difference, atol=1e-7)


@pytest.mark.parametrize("shape", [(6, 3), (5, 5), (3, 6)], ids=str)
def test_polar_derivative_against_differences_and_the_svd(shape):
    rng = np.random.default_rng(0)
    x, dx, ct = (jnp.asarray(rng.standard_normal(shape)) for _ in range(3))
    _, dq = jax.jvp(stiefel.project, (x,), (dx,))
    h = 1e-5
    differences = (oracles.polar_factor(x + h * dx) - oracles.polar_factor(x - h * dx)) / (2 * h)
    np.testing.assert_allclose(dq, differences, atol=1e-8)
    if shape[0] >= shape[1]:
        np.testing.assert_allclose(dq, jax.jvp(svd_polar, (x,), (dx,))[1], atol=1e-12)
    (back,) = jax.vjp(stiefel.project, x)[1](ct)
    np.testing.assert_allclose(jnp.sum(back * dx), jnp.sum(ct * dq), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6, 3), (5, 5), (3, 6)], ids=str)
def test_polar_second_derivative_against_differences(shape):
    rng = np.random.default_rng(0)
    x, a, b = (jnp.asarray(rng.standard_normal(shape)) for _ in range(3))
    first = jax.jit(lambda x: jax.jvp(stiefel.project, (x,), (a,))[1])
    h = 1e-5
    differences = (first(x + h * b) - first(x - h * b)) / (2 * h)
    np.testing.assert_allclose(jax.jvp(first, (x,), (b,))[1], differences, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 3), (5, 5), (3, 6)], ids=str)
def test_polar_derivative_at_orthonormal_points_is_the_tangent_projection(shape):
    w, _ = pair(shape)
    z = jnp.asarray(np.random.default_rng(5).standard_normal(shape))
    expected = stiefel.project_tangent(w, z)
    np.testing.assert_allclose(jax.jvp(stiefel.project, (w,), (z,))[1], expected, atol=1e-14)
    np.testing.assert_allclose(jax.vjp(stiefel.project, w)[1](z)[0], expected, atol=1e-14)
    assert np.isnan(jax.jvp(svd_polar, (jnp.eye(3),), (jnp.ones((3, 3)),))[1]).any()  # why it is our own


def test_polar_gradient_under_vmap_jit_and_of_the_retraction():
    w, xi = pair((3, 6, 3), 0.3)
    target = jnp.asarray(np.random.default_rng(1).standard_normal((6, 3)))
    f = lambda x, z: jnp.sum(stiefel.retract_polar(x, z) * target)  # noqa: E731
    grads = jax.jit(jax.vmap(jax.grad(f, argnums=1)))(w, xi)
    for i in range(3):
        np.testing.assert_allclose(grads[i], jax.grad(f, argnums=1)(w[i], xi[i]), atol=1e-14)
    both = jax.grad(lambda z: jnp.sum(jax.vmap(f)(w, z)))(xi)
    np.testing.assert_allclose(both, grads, atol=1e-14)


# --- random points, errors, the deadlock


@each_shape
def test_random_points(shape):
    w = stiefel.random(jax.random.key(0), shape)
    assert w.shape == shape
    assert w.dtype == np.float64
    assert off_manifold(w) < 1e-14
    assert np.max(stiefel.orthonormality_error(w)) == pytest.approx(off_manifold(w), abs=1e-15)
    assert stiefel.random(jax.random.key(0), shape, jnp.float32).dtype == np.float32


def test_random_points_are_uniform():
    w = np.asarray(stiefel.random(jax.random.key(1), (4000, 3, 3)))
    assert abs(np.mean(np.linalg.det(w) > 0) - 0.5) < 0.03
    np.testing.assert_allclose(w.mean(0), np.zeros((3, 3)), atol=0.04)
    np.testing.assert_allclose((w**2).mean(0), np.full((3, 3), 1 / 3), atol=0.02)
    np.testing.assert_allclose((w**4).mean(0), np.full((3, 3), 3 / 15), atol=0.02)  # E x^4 = 3/(n(n+2))


@pytest.mark.mistakes
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: stiefel.project(jnp.ones(3)), ValueError, r"shape \(3,\); a matrix"),
        (lambda: stiefel.project(jnp.ones((3, 2), int)), TypeError, "int64; orthonormal matrices need"),
        (lambda: stiefel.project([[1.0]]), TypeError, "must be an array"),
        (lambda: stiefel.project(jnp.ones((3, 0))), ValueError, "at least one row and one column"),
        (lambda: stiefel.retract_polar(jnp.ones((3, 2)), jnp.ones((2, 3))), ValueError, "must be equal"),
        (
            lambda: stiefel.retract_qr(jnp.ones((3, 2)), jnp.ones((3, 2), jnp.float32)),
            TypeError,
            "float32; cast one",
        ),
        (lambda: stiefel.random(jax.random.key(0), (3,)), ValueError, "two or more axes"),
        (
            lambda: stiefel.exponential(*pair((3, 2)), metric="hyperbolic"),
            ValueError,
            "'hyperbolic'; choose one of embedded, canonical",
        ),
    ],
)
def test_static_mistakes_say_what_to_do(call, error, match):
    with pytest.raises(error, match=match):
        call()


EIGHT_LEAVES = """
import jax, jax.numpy as jnp
jax.config.update("jax_disable_most_optimizations", True)  # compiles in half the time
from dlnjax import stiefel
shapes = [(12 + i, 12) if i % 2 else (12, 12 - i) for i in range(8)]

def step(keys):
    points = [stiefel.random(k, s) for k, s in zip(keys, shapes)]
    steps = [stiefel.project_tangent(w, jnp.ones_like(w)) for w in points]
    retractions = (stiefel.retract_qr, stiefel.retract_cayley)
    moved = [r(w, s) for r in retractions for w, s in zip(points, steps)]
    return jnp.stack([stiefel.orthonormality_error(w) for w in moved])

errors = jax.jit(jax.vmap(step))(jax.random.split(jax.random.key(0), (64, 8)))
assert errors.max() < 1e-5, errors.max()
print("finished")
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_eight_shapes_under_vmap_finish():
    """Independent batched LAPACK calls in one program can wait for each other for ever on two threads."""
    done = subprocess.run(
        [sys.executable, "-c", EIGHT_LEAVES], capture_output=True, text=True, timeout=200, check=False
    )
    assert "finished" in done.stdout, done.stderr
