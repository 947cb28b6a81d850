"""Landing and POGO: their fields and steps against numpy, the stated distance at any step, the rate of theory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import initial, network, optim, problem, stiefel, train
from dlnjax.theory import rates

SHAPES = [(6, 3), (5, 5), (3, 6), (2, 4, 1)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
MAKES = {"landing": optim.landing, "pogo": optim.pogo}
each_method = pytest.mark.parametrize("name", MAKES)


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    """These programs run for milliseconds and compile for seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def near(shape, off, seed=0):
    """A matrix at about this distance from the manifold, and a gradient."""
    rng = np.random.default_rng(seed)
    w = oracles.polar_factor(rng.standard_normal(shape))
    noise = rng.standard_normal(shape)
    w = w + off / 3 * noise / np.linalg.norm(noise, axis=(-2, -1), keepdims=True)
    return jnp.asarray(w), jnp.asarray(rng.standard_normal(shape))


def distance(w):
    w = np.asarray(w, np.float64)
    w = w.swapaxes(-1, -2) if w.shape[-1] > w.shape[-2] else w
    return np.linalg.norm(w.swapaxes(-1, -2) @ w - np.eye(w.shape[-1]), axis=(-2, -1))


@each_shape
@pytest.mark.parametrize("metric", ["embedded", "canonical"])
def test_relative_gradient_keeps_the_gram_matrix_and_is_the_gradient_on_the_manifold(shape, metric):
    w, g = near(shape, 0.3)
    r = stiefel.relative_gradient(w, g, metric)
    tall = (lambda x: jnp.swapaxes(x, -1, -2)) if shape[-1] > shape[-2] else (lambda x: x)
    inner = jnp.swapaxes(tall(w), -1, -2) @ tall(r)
    np.testing.assert_allclose(inner, -jnp.swapaxes(inner, -1, -2), atol=1e-13)
    assert np.all(jnp.sum(r * g, axis=(-2, -1)) >= -1e-14)
    on, r = near(shape, 0.0)[0], None
    r, x, y = (tall(z) for z in (stiefel.relative_gradient(on, g, metric), on, g))
    expected = (
        y - x @ jnp.swapaxes(y, -1, -2) @ x if metric == "canonical" else tall(stiefel.project_tangent(on, g))
    )
    np.testing.assert_allclose(r, expected, atol=1e-13)


@each_shape
@each_method
@pytest.mark.parametrize(
    "dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)], ids=lambda d: d.__name__
)
def test_any_step_stays_within_the_stated_distance(shape, name, dtype):
    """Steps up to 1e5, with gradients that change at random, in one run; and then it lands."""
    stated = 0.1
    optimizer = MAKES[name](1.0, distance=stated, constrained=True)
    w = near(shape, 0.0)[0].astype(dtype)
    steps = 10.0 ** np.linspace(-2, 5, 40)
    grads = np.random.default_rng(1).standard_normal((40, *shape)).astype(dtype)

    def one(carry, given):
        w, state = carry
        mu, g = given
        state = (state[0], state[1]._replace(step_size=mu), state[2])
        updates, state = optimizer.update(g, state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    run = jax.jit(
        lambda w: jax.lax.scan(one, (w, optimizer.init(w)), (jnp.asarray(steps), jnp.asarray(grads)))
    )
    (_, _), path = run(w)
    far = distance(path)
    assert np.all(far <= stated * (1 + 1e-5))
    if shape != (2, 4, 1) or name == "landing":
        assert np.max(far) > stated / 3  # the bound is used, not undercut


@each_shape
def test_short_steps_pass_untouched_and_long_ones_reach_the_bound(shape):
    w, g = near(shape, 0.0)
    short = 1e-3 * g
    np.testing.assert_array_equal(stiefel.kept_near(w, short, 0.2), short)
    long = stiefel.kept_near(w, 1e4 * stiefel.relative_gradient(w, g), 0.2)
    np.testing.assert_allclose(distance(w + long), 0.2, rtol=1e-6)
    off = w * 1.09
    full = distance(off)
    assert np.all(
        distance(off + stiefel.kept_near(off, 1e4 * g, float(full.max()))) <= full.max() * (1 + 1e-9)
    )


def numpy_field(w, g, metric):
    """By the skew matrix A itself, n x n."""
    if w.shape[0] < w.shape[1]:
        return numpy_field(w.T, g.T, metric).T
    s = g @ w.T - w @ g.T
    a = s if metric == "canonical" else s - w @ (w.T @ s @ w) @ w.T / 2
    return a @ w


def numpy_attraction(w):
    return w @ (w.T @ w - np.eye(w.shape[1])) if w.shape[0] >= w.shape[1] else numpy_attraction(w.T).T


@pytest.mark.parametrize("metric", ["embedded", "canonical"])
@each_method
def test_first_ten_iterates_equal_numpy(name, metric):
    rng = np.random.default_rng(0)
    layers = [
        rng.standard_normal((3, 4)),
        *map(oracles.polar, map(rng.standard_normal, [(3, 3), (5, 3), (2, 5)])),
    ]
    target, mu = rng.standard_normal((2, 4)), 0.05
    params, optimizer = tuple(map(jnp.asarray, layers)), MAKES[name](mu, metric=metric)
    state = optimizer.init(params)
    update = jax.jit(lambda p, s: optimizer.update(tuple(oracles.network_gradient(p, target)), s, p))
    for _ in range(10):
        updates, state = update(params, state)
        params = optax.apply_updates(params, updates)
        grads = oracles.network_gradient(layers, target)
        moved = [layers[0] - mu * grads[0]]
        for w, g in zip(layers[1:], grads[1:], strict=True):
            m = w - mu * numpy_field(w, g, metric)
            m = m - (mu * numpy_attraction(w) if name == "landing" else numpy_attraction(m) / 2)
            moved.append(m)
        layers = moved
        assert all(np.allclose(a, b, atol=1e-12) for a, b in zip(params, layers, strict=True))


def published_step(name, w, g, lr, strength=1.0):
    """As the authors of landing (2022, 2024) and POGO (2026, for rows) scale their steps; w tall."""
    if name == "landing":
        error = w.T @ w - np.eye(w.shape[1])
        return w - lr * ((g @ w.T @ w - w @ g.T @ w) / 2 + strength * w @ error)
    x, g = w.T, g.T
    m = x - lr * (x @ x.T @ g - x @ g.T @ x) / 2
    return (m + (m - m @ m.T @ m) / 2).T


@each_method
def test_published_scaling_of_step_and_attraction(name):
    """The same conventions were run beside the authors' own programs: ten iterates, 5e-16."""
    rng, lr = np.random.default_rng(3), 0.05
    w, target = (oracles.polar_factor(rng.standard_normal((5, 3))) for _ in range(2))
    make = {
        "landing": lambda: optim.landing(lr / 2, 2.0, metric="canonical", constrained=True),
        "pogo": lambda: optim.pogo(lr / 2, metric="canonical", constrained=True),
    }[name]
    optimizer, ours = make(), jnp.asarray(w)
    state = optimizer.init(ours)
    update = jax.jit(lambda w, s: optimizer.update(w - target, s, w))
    for _ in range(10):
        w = published_step(name, w, w - target, lr)
        step, state = update(ours, state)
        ours = ours + step
        np.testing.assert_allclose(ours, w, atol=1e-13)


@pytest.mark.mistakes
def test_safe_step_beside_the_published_one():
    """Capped at 1/(2 lambda) the published step is safe too and rarely longer; for a vector on the manifold equal."""
    rng, kept, ratios = np.random.default_rng(0), jax.jit(stiefel.kept_near), []
    for k in range(60):
        w, z, g = oracles.polar_factor(rng.standard_normal((5, 3))), *rng.standard_normal((2, 5, 3))
        w, g = w + rng.uniform(0, 0.1) * z / np.linalg.norm(z), 10 ** rng.uniform(-2, 2) * g
        error = w.T @ w - np.eye(3)
        field = (g @ w.T @ w - w @ g.T @ w) / 2 + w @ error
        d, a = np.linalg.norm(error), np.sum(field**2)
        published = min((d * (1 - d) + np.sqrt(d**2 * (1 - d) ** 2 + a * (0.25 - d))) / a, 0.5)
        assert distance(w - published * field) <= 0.25
        ratios.append(
            np.linalg.norm(kept(w, -(10.0 ** (k % 6)) * field, 0.25)) / (published * np.linalg.norm(field))
        )
    assert np.min(ratios) > 0.8
    assert np.median(ratios) >= 1
    w = oracles.polar_factor(rng.standard_normal((4, 1)))
    v = 1e3 * oracles.tangent(w, rng.standard_normal((4, 1)))
    np.testing.assert_allclose(stiefel.kept_near(jnp.asarray(w), v, 0.25), v * 0.5 / np.linalg.norm(v))


@pytest.mark.slow
@each_method
def test_rate_on_the_reference_case_is_that_of_riemannian_gradient_descent(name):
    dims, mu = (8, 4, 4, 4, 8), 0.1
    teacher = initial.teacher(jax.random.key(0), dims, [1.0, 0.8, 0.6, 0.4])
    task = problem.whitened(network.end_to_end(teacher))
    start = initial.perturb(jax.random.key(1), teacher, 0.01)
    run = jax.jit(lambda p: train.train(p, task, MAKES[name](mu), num_steps=900, record_every=300)[1])
    trace = run(start)
    measured = (trace.distance[3] / trace.distance[2]) ** (1 / 300)
    predicted = rates.predict(teacher, task, step_size=mu).factor
    assert measured == pytest.approx(predicted, abs=1e-5)
    assert trace.orthonormality_error[-1] < 1e-9


@pytest.mark.mistakes
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: optim.landing(0.1, distance=0.5), r"distance is 0.5; it must lie in \(0, 0.4\]"),
        (lambda: optim.pogo(0.1, distance=0.0), "distance is 0.0"),
        (lambda: optim.landing(0.1, attraction=-1.0), "attraction is -1.0"),
        (
            lambda: stiefel.relative_gradient(jnp.eye(2), jnp.eye(2), "flat"),
            "metric is 'flat'; choose one of",
        ),
        (lambda: optim.landing(0.1, constrained=True).init(2 * jnp.eye(2)), "off the manifold"),
    ],
)
def test_bad_input_is_told_what_to_do(call, match):
    with pytest.raises(ValueError, match=match):
        call()
