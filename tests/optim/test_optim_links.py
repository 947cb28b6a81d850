"""Links on their own: axes, momentum, drift control, steps from the loss, and what bad input is told."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import optim, stiefel


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    """These programs run for milliseconds and compile for seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def point(shape=(5, 3), seed=0, dtype=np.float64):
    return jnp.asarray(oracles.polar_factor(np.random.default_rng(seed).standard_normal(shape)), dtype)


def normal(shape=(5, 3), seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def test_axes_say_what_is_matrix_and_what_is_batch():
    heads = point((4, 5, 3))
    kernel = jnp.transpose(heads, (2, 0, 1))  # columns, batch, rows
    g = normal((4, 5, 3))
    spec = optim.MatrixAxes(rows=2, columns=0)
    for given in (spec, {"w": spec}, lambda tree: jax.tree.map(lambda _: spec, tree)):
        optimizer = optim.rgd(0.1, constrained={"w": True}, axes=given)
        updates, _ = optimizer.update(
            {"w": jnp.transpose(g, (2, 0, 1))}, optimizer.init({"w": kernel}), {"w": kernel}
        )
        plain = optim.rgd(0.1, constrained=True)
        expected, _ = plain.update(g, plain.init(heads), heads)
        np.testing.assert_allclose(jnp.transpose(updates["w"], (1, 2, 0)), expected, atol=1e-15)


def test_several_axes_make_one_side_and_optax_specs_are_read():
    flat = point((12, 4))
    kernel, g = flat.reshape(2, 2, 3, 4), normal((12, 4))
    muon = optax.contrib.MuonDimensionNumbers(reduction_axis=(3,), output_axis=(0, 1, 2))
    plain = optim.project_to_tangent().update(g, optax.EmptyState(), flat)[0]
    for spec in (optim.MatrixAxes((0, 1, 2), 3), optim.MatrixAxes((-4, -3, -2), -1), muon):
        link = optim.project_to_tangent(axes=spec)
        updates, _ = link.update(g.reshape(kernel.shape), link.init(kernel), kernel)
        np.testing.assert_allclose(updates.reshape(flat.shape), plain, atol=1e-15)


@pytest.mark.parametrize("make", [optim.heavy_ball, optim.adam], ids=["heavy_ball", "adam"])
def test_axes_reach_every_link_under_a_mask(make):
    params = {"free": normal((2,)), "w": jnp.swapaxes(point((2, 5, 3)), 0, 2)}
    axes = {"free": None, "w": optim.MatrixAxes(rows=1, columns=0)}
    optimizer = make(0.1, constrained={"free": False, "w": True}, axes=axes)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    moved = jnp.transpose((params["w"] + updates["w"]), (2, 1, 0))
    assert np.max(stiefel.orthonormality_error(moved)) < 1e-14


def test_momentum_follows_the_formula():
    w, link = point(), optim.transport_momentum(0.8)
    grads = [normal(seed=s) for s in range(4)]
    state, m = link.init(w), np.zeros((5, 3))
    p = lambda w, g: g - w @ (w.T @ g + g.T @ w) / 2  # noqa: E731
    for g in grads:
        u, state = link.update(stiefel.project_tangent(w, g), state, w)
        m = 0.8 * p(np.asarray(w), m) + p(np.asarray(w), np.asarray(g))
        np.testing.assert_allclose(u, m, atol=1e-14)
        w = stiefel.retract_polar(w, -0.1 * u)


def test_adam_follows_the_formula():
    w, link = point(), optim.scale_by_tangent_adam(0.7, 0.9, 1e-3)
    state, m, v = link.init(w), np.zeros((5, 3)), 0.0
    p = lambda w, g: g - w @ (w.T @ g + g.T @ w) / 2  # noqa: E731
    for t in range(1, 4):
        xi = stiefel.project_tangent(w, normal(seed=t))
        u, state = link.update(xi, state, w)
        m = 0.7 * p(np.asarray(w), m) + 0.3 * np.asarray(xi)
        v = 0.9 * v + 0.1 * np.mean(np.asarray(xi) ** 2)
        np.testing.assert_allclose(u, m / (1 - 0.7**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3), atol=1e-13)
        w = stiefel.retract_polar(w, -0.1 * u)


def test_drift_control_acts_every_k_steps():
    w = point()
    sloppy = lambda w, xi: w + xi  # noqa: E731
    optimizer = optim.chain(
        optim.project_to_tangent(), optim.scale_by_step(0.05), optim.retract(sloppy), optim.control_drift(3)
    )
    state, errors = optimizer.init(w), []
    for k in range(6):
        updates, state = optimizer.update(normal(seed=k + 1), state, w)
        w = w + updates
        errors.append(float(stiefel.orthonormality_error(w)))
    assert max(errors[2], errors[5]) < 1e-14
    assert min(errors[k] for k in (0, 1, 3, 4)) > 1e-4


def quadratic(target):
    return lambda w: jnp.sum((w - target) ** 2) / 2


def test_polyak_takes_its_step():
    w, target = point(), point(seed=7)
    f = quadratic(target)
    link = optim.scale_by_polyak(0.1, max_step_size=10.0)
    xi = stiefel.project_tangent(w, jax.grad(f)(w))
    updates, state = link.update(xi, link.init(w), w, value=f(w))
    step = (f(w) - 0.1) / jnp.sum(xi**2)
    np.testing.assert_allclose(updates, -step * xi, rtol=1e-14)
    assert state.step_size == pytest.approx(float(step))
    assert np.all(link.update(0 * xi, link.init(w), w, value=f(w))[0] == 0)


def test_armijo_accepts_only_sufficient_decrease_and_grows_back():
    w, target = point(), point(seed=7)
    f = lambda w: 20 * quadratic(target)(w)  # noqa: E731
    optimizer = optim.armijo(8.0, constrained=True, decrease=0.3)
    xi = stiefel.project_tangent(w, jax.grad(f)(w))
    updates, state = optimizer.update(jax.grad(f)(w), optimizer.init(w), w, value=f(w), value_fn=f)
    t = float(state[-1].step_size)
    assert f(w + updates) <= f(w) - 0.3 * t * jnp.sum(xi**2)
    assert f(stiefel.retract_polar(w, -2 * t * xi)) > f(w) - 0.3 * 2 * t * jnp.sum(xi**2)
    assert t == 8.0 / 2 ** (int(state[-1].trials) - 1)
    stuck, _ = optim.armijo(constrained=True, max_trials=1, step_size=100.0).update(
        jax.grad(f)(w), optimizer.init(w), w, value=f(w), value_fn=lambda w: f(w) + 1e6
    )
    assert np.max(np.abs(stuck)) < 1e-15


LAYERS = (jnp.ones((3, 4)), point((3, 3)), point((5, 3)))
INTEGERS = {"w": jnp.ones((3, 2), jnp.int32)}
OFF = {"a": {"w": 2 * point()}}


def update(link, updates, params):
    return link.update(updates, link.init(params), params)


@pytest.mark.mistakes
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda: optim.retract().init(OFF),
            ValueError,
            r"leaf \['a'\]\['w'\].*off the manifold.*stiefel.project",
        ),
        (
            lambda: optim.rgd(0.1).init((point(), 2 * point((5, 5)))),
            ValueError,
            r"leaf \[1\].*off the manifold",
        ),
        (lambda: optim.retract().init(INTEGERS), TypeError, r"leaf \['w'\] is int32; a floating"),
        (
            lambda: optim.retract().init(jnp.ones(3)),
            ValueError,
            r"\(the only leaf\) has shape \(3,\), no matrix",
        ),
        (lambda: update(optim.project_to_tangent(), normal(), None), ValueError, "needs the current point"),
        (
            lambda: optim.retract().update(normal((3, 5)), optax.EmptyState(), point()),
            ValueError,
            r"update has shape \(3, 5\), the parameter \(5, 3\)",
        ),
        (
            lambda: optim.retract().update(normal().astype(np.float32), optax.EmptyState(), point()),
            TypeError,
            "update is float32, the parameter float64; cast one",
        ),
        (
            lambda: update(optim.project_to_tangent(), {"v": 1}, {"w": point()}),
            ValueError,
            r"updates have no leaf \['w'\]",
        ),
        (
            lambda: optim.rgd(0.1, constrained=(True,)).init(LAYERS),
            ValueError,
            r"constrained has no entry for the leaf \[1\]",
        ),
        (
            lambda: optim.rgd(0.1, constrained=(0, 1, 1)).init(LAYERS),
            TypeError,
            "every label is True or False",
        ),
        (lambda: optim.rgd(0.1).init({"w": point()}), TypeError, "params is a dict, not a tuple of layers"),
        (lambda: optim.chain(optim.retract(), optax.scale(2.0)), ValueError, "link 0 of 2 is a retraction"),
        (
            lambda: optim.chain(optim.on(True, optim.retract()), optax.scale(2.0)),
            ValueError,
            "must be last; move what follows",
        ),
        (lambda: optim.rgd(-0.1), ValueError, "step_size is -0.1"),
        (lambda: optim.rgd("fast"), TypeError, "step_size is 'fast'"),
        (
            lambda: optim.rgd(0.1, scales=(1.0, 2.0)).init(LAYERS),
            ValueError,
            r"scales has no entry for the leaf \[2\]",
        ),
        (
            lambda: optim.rgd(0.1, scales=(1.0, np.ones(2), 1.0)).init(LAYERS),
            ValueError,
            r"scales: leaf \[1\] has shape \(2,\)",
        ),
        (lambda: optim.heavy_ball(0.1, 1.5), ValueError, r"decay is 1.5; it must lie in \[0, 1\)"),
        (lambda: optim.adam(0.1, second="vector"), ValueError, "'vector'; choose one of scalar, elementwise"),
        (lambda: optim.control_drift(0), ValueError, "every is 0"),
        (lambda: optim.armijo(shrink=2.0), ValueError, "shrink is 2.0"),
        (lambda: update(optim.armijo(constrained=True), normal(), point()), ValueError, "value_fn=loss_fn"),
        (lambda: update(optim.polyak(constrained=True), normal(), point()), ValueError, "value=loss"),
        (
            lambda: update(optim.project_to_tangent(axes=optim.MatrixAxes(0, 5)), normal(), point()),
            ValueError,
            "axis 5 of an array of 2 axes",
        ),
        (
            lambda: update(optim.project_to_tangent(axes=optim.MatrixAxes(0, 0)), normal(), point()),
            ValueError,
            "each axis once",
        ),
        (
            lambda: optim.retract(axes={"v": optim.MatrixAxes()}).init({"w": point()}),
            ValueError,
            r"axes has no entry for the leaf \['w'\]",
        ),
    ],
)
def test_bad_input_names_the_leaf_and_the_remedy(call, error, match):
    with pytest.raises(error, match=match):
        call()
