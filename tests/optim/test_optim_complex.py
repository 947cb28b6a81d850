"""Complex leaves: every recipe on unitary matrices, against numpy, against the real case, and JAX's gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlnjax import optim, stiefel

LABELS = {"tall": True, "wide": True, "free": False, "real": False}
RECIPES = {
    "rgd": (lambda **k: optim.rgd(0.2, **k), 200),
    "rgd_qr": (lambda **k: optim.rgd(0.2, retraction="qr", **k), 200),
    "rgd_cholesky_qr": (lambda **k: optim.rgd(0.2, retraction="cholesky_qr", **k), 200),
    "rgd_cayley": (lambda **k: optim.rgd(0.2, retraction="cayley", **k), 200),
    "rgd_exponential": (lambda **k: optim.rgd(0.2, retraction="exponential", **k), 200),
    "heavy_ball": (lambda **k: optim.heavy_ball(0.1, 0.7, **k), 200),
    "nesterov": (lambda **k: optim.nesterov(0.1, 0.7, **k), 200),
    "adam": (lambda **k: optim.adam(0.02, **k), 400),
    "adam_elementwise": (lambda **k: optim.adam(0.02, second="elementwise", **k), 400),
    "landing": (lambda **k: optim.landing(0.2, **k), 200),
    "pogo": (lambda **k: optim.pogo(0.2, **k), 200),
    "muon": (lambda **k: optim.muon(0.1, length="dual", **k), 300),
    "muon_fast": (lambda **k: optim.muon(0.1, length="dual", accuracy="fast", **k), 300),
    "polyak": (lambda **k: optim.polyak(**k), 200),
    "armijo": (lambda **k: optim.armijo(decrease=0.3, **k), 200),
    "conjugate_gradient": (lambda **k: optim.conjugate_gradient(**k), 40),
    "lbfgs": (lambda **k: optim.lbfgs(**k), 40),
    "trust_region": (lambda **k: optim.trust_region(**k), 12),
}
FLOOR = {"adam": 1e-5, "adam_elementwise": 1e-5}


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """optax's own Adam and L-BFGS promote."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def nearest(matrix):
    u, _, vh = np.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def tangent(w, g):
    """The projection for tall W: what is left after the Hermitian part along W."""
    inner = np.conj(w.T) @ g
    return g - w @ (inner + np.conj(inner.T)) / 2


def normal(rng, shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


@functools.cache
def problem(dtype=np.complex128):
    rng = np.random.default_rng(0)
    shapes = {"tall": (6, 3), "wide": (2, 3, 5), "free": (3,)}
    goal = {k: normal(rng, s) for k, s in shapes.items()} | {"real": rng.standard_normal(2)}
    goal = {k: nearest(v) if LABELS[k] else v for k, v in goal.items()}
    start = {k: v + 0.3 * (normal(rng, v.shape) if k != "real" else 1.0) for k, v in goal.items()}
    start = {k: nearest(v) if LABELS[k] else v for k, v in start.items()}
    real = np.finfo(dtype).dtype
    goal, start = (
        {k: jnp.asarray(v, dtype if np.iscomplexobj(v) else real) for k, v in t.items()}
        for t in (goal, start)
    )

    def loss(params):
        return sum(jnp.sum(jnp.abs(params[k] - goal[k]) ** 2) for k in goal) / 2

    return start, loss


def run(optimizer, params, loss, steps):
    update = optax.with_extra_args_support(optimizer).update

    def step(_, carry):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = update(grads, state, params, value=value, value_fn=loss)
        return optax.apply_updates(params, updates), state

    return jax.jit(lambda p: jax.lax.fori_loop(0, steps, step, (p, optimizer.init(p))))(params)[0]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    "dtype", [np.complex128, pytest.param(np.complex64, marks=pytest.mark.slow)], ids=lambda d: d.__name__
)
def test_a_real_loss_falls_to_its_minimum_on_the_unitary_manifold(name, dtype):
    make, steps = RECIPES[name]
    start, loss = problem(dtype)
    end = run(make(constrained=LABELS), start, loss, steps)
    rounding = 1e-5 if dtype == np.complex64 else 1e-12
    assert loss(end) < (rounding**2 * 10 + FLOOR.get(name, 0)) * loss(start) + rounding**2
    for key in ("tall", "wide"):
        w = np.asarray(end[key], np.complex128)
        w = np.conj(np.swapaxes(w, -1, -2)) if key == "wide" else w
        gram = np.conj(np.swapaxes(w, -1, -2)) @ w
        assert np.max(np.abs(gram - np.eye(3))) < rounding
    assert {k: v.dtype for k, v in end.items()} == {k: v.dtype for k, v in start.items()}


def test_rgd_and_momentum_are_those_of_numpy():
    rng = np.random.default_rng(1)
    w, m, target = nearest(normal(rng, (5, 3))), np.zeros((5, 3)), normal(rng, (5, 3))
    optimizer = optim.heavy_ball(0.1, 0.8, constrained=True)
    end = run(optimizer, jnp.asarray(w), lambda w: jnp.sum(jnp.abs(w - target) ** 2) / 2, 4)
    for _ in range(4):
        m = 0.8 * tangent(w, m) + tangent(w, w - target)
        w = nearest(w - 0.1 * m)
    np.testing.assert_allclose(end, w, atol=1e-12)


def test_adam_takes_squares_of_moduli():
    rng = np.random.default_rng(2)
    w, g = nearest(normal(rng, (5, 3))), normal(rng, (5, 3))
    xi = tangent(w, g)
    for second, root in (("scalar", np.sqrt(np.mean(np.abs(xi) ** 2))), ("elementwise", np.abs(xi))):
        optimizer = optim.adam(0.1, second=second, eps=1e-3, constrained=True)
        state = optimizer.init(jnp.asarray(w))
        updates, state = optimizer.update(jnp.conj(g), state, jnp.asarray(w))  # as JAX hands it over
        np.testing.assert_allclose(w + updates, nearest(w - 0.1 * tangent(w, xi / (root + 1e-3))), atol=1e-12)
        assert not any(
            jnp.iscomplexobj(x)
            for x in jax.tree.leaves(jax.tree.map(lambda s: s, state[1][0].inner_state.second))
        )


@pytest.mark.parametrize("name", ["rgd", "adam", "muon", "lbfgs", "trust_region"])
def test_real_numbers_in_complex_arrays_take_the_real_steps(name):
    make, _ = RECIPES[name]
    rng = np.random.default_rng(3)
    w, target = nearest(rng.standard_normal((5, 3))), nearest(rng.standard_normal((5, 3)))

    def end(dtype):
        return run(
            make(constrained=True),
            jnp.asarray(w, dtype),
            lambda w: jnp.sum(jnp.abs(w - jnp.asarray(target, dtype)) ** 2) / 2,
            3,
        )

    np.testing.assert_allclose(end(np.complex128), end(np.float64), atol=1e-10)


@pytest.mark.parametrize("shape", [(9, 2), (6, 4), (4, 4), (3, 7)], ids=str)
def test_the_steepest_rotation_attains_the_nuclear_norm(shape):
    rng = np.random.default_rng(4)
    w, g = nearest(normal(rng, shape)), normal(rng, shape)
    for accuracy, tolerance in (("exact", 1e-12), ("fast", 6e-3)):
        phi = np.asarray(optim.spectral_direction(jnp.asarray(w), jnp.asarray(g), accuracy))
        a, b, c = (w, g, phi) if shape[0] >= shape[1] else (w.T, g.T, phi.T)
        skew = (b @ np.conj(a.T) - a @ np.conj(b.T)) / 2
        best = np.sum(np.linalg.svd(skew, compute_uv=False))
        assert np.max(np.abs(np.conj(a.T) @ c + np.conj(c.T) @ a)) < 1e-11
        assert np.linalg.norm(c, 2) < 1 + tolerance
        assert np.sum(np.conj(b) * c).real == pytest.approx(best, rel=2 * tolerance)


def test_the_hessian_is_the_second_derivative_along_a_geodesic():
    rng = np.random.default_rng(5)
    w, m = nearest(normal(rng, (5, 3))), normal(rng, (5, 5))

    def loss(w):
        return jnp.real(jnp.sum(jnp.conj(w) * (jnp.asarray(m) @ w))) + jnp.sum(jnp.real(w) ** 3)

    xi = tangent(w, normal(rng, (5, 3)))
    product = optim.hessian_vector(loss, jnp.asarray(w), jnp.asarray(xi), constrained=True)
    along = lambda t: loss(stiefel.exponential(jnp.asarray(w), t * jnp.asarray(xi)))  # noqa: E731
    h = 1e-4
    second = (along(h) - 2 * along(0.0) + along(-h)) / h**2
    assert np.sum(np.conj(xi) * np.asarray(product)).real == pytest.approx(float(second), rel=1e-5)


def test_links_of_ones_own_begin_with_the_conjugate():
    start, loss = problem()
    w, f = start["tall"], lambda w: loss(start | {"tall": w})
    links = optim.project_to_tangent(), optim.scale_by_step(0.2), optim.retract()
    own = optax.chain(optim.from_jax_gradient(), *links)
    recipe = optim.rgd(0.2, constrained=True)
    moved = [o.update(jax.grad(f)(w), o.init(w), w)[0] for o in (own, recipe)]
    np.testing.assert_array_equal(*moved)
    wrong = optax.chain(*links)
    updates, _ = wrong.update(jax.grad(f)(w), wrong.init(w), w)
    assert f(w + moved[0]) < f(w)
    assert f(w + updates) > f(w + moved[0])


def test_a_start_off_the_manifold_is_seen():
    w = problem()[0]["tall"]
    with pytest.raises(ValueError, match="off the manifold"):
        optim.rgd(0.1, constrained=True).init(1.1 * w)
    optimizer = optim.rgd(0.1, constrained=True, on_start="project")
    updates, _ = optimizer.update(w, optimizer.init(1.1 * w), 1.1 * w)
    assert stiefel.orthonormality_error(1.1 * w + updates) < 1e-13
