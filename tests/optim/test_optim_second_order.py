"""Hessian, trust region, conjugate gradients and L-BFGS against slopes, dense matrices, numpy and pymanopt."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from dlnjax import initial, network, optim, problem, stiefel
from dlnjax.theory import hessian as theory_hessian

DIMS = (4, 3, 3, 5, 2)  # free wide, then square, tall, wide
LABELS = (False, True, True, True)


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    """These programs run for milliseconds and compile for seconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def layers(dims=DIMS, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal((n, p)) for p, n in itertools.pairwise(dims)]
    return [drawn[0], *map(oracles.polar, drawn[1:])], rng.standard_normal((dims[-1], dims[0])) / 2


def loss_for(target):
    def loss(params):
        return jnp.sum((network.end_to_end(params) - target) ** 2) / 2

    return loss


def reference(num_layers, seed=0):
    """The reference case of the documentation, from a start far away."""
    dims = (8, *[4] * (num_layers - 1), 8)
    teacher = initial.teacher(jax.random.key(100 + seed), dims, [1.0, 0.8, 0.6, 0.4])
    start = network.stack(initial.haar(jax.random.key(seed), dims, first_scale=0.5))
    return start, problem.whitened(network.end_to_end(teacher)).loss


def path(optimizer, params, loss, count):
    """Params after each of ``count`` updates, and the state at the end."""
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value, value_fn=loss)
        return optax.apply_updates(params, updates), state

    points = []
    for _ in range(count):
        params, state = step(params, state)
        points.append(params)
    return points, state


def gradient_norm(loss, params):
    grads = jax.jit(jax.grad(loss))(params)
    parts = [grads[0], *(stiefel.project_tangent(w, g) for w, g in zip(params[1:], grads[1:], strict=True))]
    return float(jnp.sqrt(sum(jnp.sum(g**2) for g in parts)))


def random_tangent(point, seed):
    rng = np.random.default_rng(seed)
    return oracles.tangents(point, [rng.standard_normal(w.shape) for w in point])


@pytest.mark.mistakes
def test_hessian_vectors_equal_the_derivative_of_the_gradient_field_and_are_symmetric_and_tangent():
    point, target = layers()
    a, b = random_tangent(point, 1), random_tangent(point, 2)
    product = jax.jit(lambda v: optim.hessian_vector(loss_for(target), tuple(point), v))
    ha, hb = (list(product(tuple(v))) for v in (a, b))
    for ours, theirs in zip(ha, oracles.network_hessian(point, target, a), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert abs(oracles.dot(ha, b) - oracles.dot(hb, a)) < 1e-12
    assert all(np.allclose(h, t, atol=1e-13) for h, t in zip(ha, oracles.tangents(point, ha), strict=True))
    crooked = product(tuple(np.asarray(v) + w for v, w in zip(a, [0, *point[1:]], strict=True)))
    assert all(np.allclose(x, y, atol=1e-12) for x, y in zip(crooked, ha, strict=True))


def test_hessian_has_slope_three_along_a_second_order_retraction():
    point, target = layers()
    xi = random_tangent(point, 3)
    xi = [x / np.sqrt(oracles.dot(xi, xi)) for x in xi]
    first = oracles.dot(oracles.network_gradient(point, target), xi)
    curved = optim.hessian_vector(
        loss_for(target), tuple(map(jnp.asarray, point)), tuple(map(jnp.asarray, xi))
    )
    second = oracles.dot(list(curved), xi)
    sizes = np.logspace(-2.5, -1, 6)
    values = [oracles.network_loss(oracles.polar_move(point, [t * x for x in xi]), target) for t in sizes]
    errors = np.array(values) - values_model(oracles.network_loss(point, target), first, second, sizes)
    slope = np.polyfit(np.log(sizes), np.log(np.abs(errors)), 1)[0]
    assert slope == pytest.approx(3, abs=0.05)


def values_model(value, first, second, sizes):
    return value + first * sizes + second * sizes**2 / 2


def test_hessian_vectors_are_the_columns_of_the_dense_hessian():
    point, target = layers()
    params, task = tuple(map(jnp.asarray, point)), problem.whitened(jnp.asarray(target))
    dense = theory_hessian.matrix(params, task)
    xi = random_tangent(point, 4)
    ours = optim.hessian_vector(task.loss, params, tuple(map(jnp.asarray, xi)))
    flat = np.concatenate([np.ravel(h) for h in ours])
    np.testing.assert_allclose(flat, dense @ np.concatenate([x.ravel() for x in xi]), atol=1e-10)


def test_axes_reach_the_hessian():
    point, _ = layers((4, 3))
    w = jnp.asarray(oracles.polar(point[0]))
    v = jnp.asarray(np.random.default_rng(5).standard_normal(w.shape))
    f = lambda w: jnp.sum(jnp.sin(w) * jnp.arange(12.0).reshape(3, 4))  # noqa: E731
    plain = optim.hessian_vector(f, w, v, constrained=True)
    turned = optim.hessian_vector(
        lambda w: f(w.T), w.T, v.T, constrained=True, axes=optim.MatrixAxes(rows=1, columns=0)
    )
    np.testing.assert_allclose(turned.T, plain, atol=1e-13)


@pytest.mark.parametrize(
    "num_layers", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 8, 16, 32))]
)
def test_trust_region_reaches_machine_precision_on_the_reference_case(num_layers):
    start, loss = reference(num_layers)
    points, _ = path(optim.trust_region(), start, loss, 20)
    norms = [gradient_norm(loss, p) for p in points]
    assert min(norms) <= 1e-12
    assert max(float(jnp.max(stiefel.orthonormality_error(w))) for w in points[-1][1:]) < 1e-13
    tail = [n for n in norms if 1e-12 < n < 1e-2]
    assert all(b <= 3 * a**1.5 for a, b in itertools.pairwise(tail))  # superlinear, quadratic but for kappa


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "oracle"),
    [
        (
            lambda: optim.conjugate_gradient(0.1, decrease=1e-11, curvature=1e-10, max_trials=60),
            oracles.conjugate_gradient_path,
        ),
        (
            lambda: optim.lbfgs(4, decrease=1e-11, curvature=1e-10, max_trials=60),
            lambda *args: oracles.bfgs_path(*args, memory=4),
        ),
    ],
    ids=["conjugate_gradient", "lbfgs"],
)
def test_first_ten_iterates_equal_numpy_with_exact_steps(make, oracle):
    start, target = layers()
    start[0] *= 0.5
    points, _ = path(make(), tuple(map(jnp.asarray, start)), loss_for(target), 10)
    for ours, theirs in zip(points, oracle(start, target, 10), strict=True):
        assert all(np.allclose(a, b, atol=1e-8) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_first_ten_iterates_equal_pymanopts_trust_region():
    pymanopt = pytest.importorskip("pymanopt")
    start, target = layers((4, 3, 3, 5))
    shapes = [w.shape for w in start]
    tall = [pymanopt.manifolds.Stiefel(*s, retraction="polar") for s in shapes[1:]]
    manifold = pymanopt.manifolds.Product([pymanopt.manifolds.Euclidean(*shapes[0]), *tall])

    @pymanopt.function.numpy(manifold)
    def cost(*point):
        return oracles.network_loss(point, target)

    @pymanopt.function.numpy(manifold)
    def gradient(*point):
        return oracles.network_gradient(list(point), target)

    @pymanopt.function.numpy(manifold)
    def curvature(*args):
        point, along = args[:3], args[3:]
        moved = [w + 1e-30j * d for w, d in zip(point, along, strict=True)]
        return [np.imag(g) / 1e-30 for g in oracles.network_gradient(moved, target)]

    task = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient, euclidean_hessian=curvature)
    points, _ = path(optim.trust_region(0.5), tuple(map(jnp.asarray, start)), loss_for(target), 10)
    for k in (1, 2, 3, 5, 10):
        solver = pymanopt.optimizers.TrustRegions(max_iterations=k, verbosity=0, min_gradient_norm=0)
        size = sum(w.size for w in start)
        theirs = solver.run(task, initial_point=start, Delta_bar=8.0, Delta0=0.5, maxinner=size).point
        assert all(np.allclose(a, b, atol=1e-8) for a, b in zip(points[k - 1], theirs, strict=True)), k


def one_matrix():
    """A point, a loss with its minimum elsewhere on the manifold, its value and gradient: small programs."""
    rng = np.random.default_rng(6)
    w, goal = (jnp.asarray(oracles.polar(rng.standard_normal((5, 2)))) for _ in range(2))
    loss = lambda w: jnp.sum(jnp.asarray([1.0, 3.0])[None] * (w - goal) ** 2) / 2  # noqa: E731
    return w, loss, *jax.value_and_grad(loss)(w)


def test_trust_region_rejects_a_step_that_the_loss_does_not_bear_out():
    w, loss, value, grad = one_matrix()
    optimizer = optim.trust_region(constrained=True)
    state: Any = optimizer.init(w)
    run: Any = jax.jit(lambda value: optimizer.update(grad, state, w, value=value, value_fn=loss))
    updates, new = run(value - 10)
    assert np.all(updates == 0)
    assert not new.accepted
    assert new.radius == state.radius / 4
    updates, new = run(value)
    assert new.accepted
    assert loss(w + updates) < value


@pytest.mark.parametrize(
    ("size", "curvature"), [pytest.param(1e-3, 0.9, marks=pytest.mark.slow), (50.0, 0.1)]
)
def test_wolfe_steps_meet_both_conditions(size, curvature):
    w, loss, value, grad = one_matrix()
    u = stiefel.project_tangent(w, grad)
    link = optim.wolfe_search(optim.Product(True), step_size=size, curvature=curvature)
    run: Any = jax.jit(lambda u: link.update(u, link.init(w), w, value=value, value_fn=loss))
    updates, state = run(u)
    t, slope = float(state.step_size), -float(jnp.sum(u**2))
    phi = lambda t: float(loss(oracles.polar(np.asarray(w - t * u))))  # noqa: E731
    assert phi(t) <= value + 1e-4 * t * slope
    assert abs(phi(t + 1e-6) - phi(t - 1e-6)) / 2e-6 <= curvature * abs(slope) + 1e-8
    assert state.slope == pytest.approx(slope)
    np.testing.assert_allclose(w + updates, oracles.polar(np.asarray(w - t * u)), atol=1e-13)
    assert np.all(run(-u)[0] == 0)  # not a descent direction: the params stay


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: optim.trust_region(0.0), "radius is 0.0"),
        (lambda: optim.trust_region(accept=0.3), "accept is 0.3"),
        (lambda: optim.conjugate_gradient(rule="newton"), "rule is 'newton'; choose one of polak_ribiere"),
        (lambda: optim.conjugate_gradient(curvature=1.0), "curvature 1.0; need 0 < decrease"),
        (lambda: optim.conjugate_gradient(0.0), "step_size is 0.0"),
        (lambda: update(optim.trust_region()), "trust_region needs the loss"),
        (lambda: update(optim.conjugate_gradient()), "wolfe_search needs the loss"),
    ],
)
def test_bad_input_is_told_what_to_do(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def update(optimizer):
    point = tuple(map(jnp.asarray, layers((4, 3, 3))[0]))
    return optimizer.update(point, optimizer.init(point), point)
