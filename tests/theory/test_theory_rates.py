"""Rates: operators against Kronecker products and measured steps, closed forms, the reduction, momentum."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dlnjax import network, problem
from dlnjax.theory import _reduced, closed, hessian, momentum, rates, scaling, spectrum

SIGMA = (1.0, 0.8, 0.6, 0.4)
WIDTHS = [(6, 3, 5), (6, 3, 3, 3, 5), (6, 2, 3, 5), (7, 3, 2, 4, 5), (5, 3, 2, 4)]
WIDE = [(5, 6, 6, 4), (7, 6, 4), (6, 3, 3, 3, 3), (4, 1, 1, 3)]


def params_of(layers):
    return tuple(jnp.asarray(w) for w in layers)


def samples(rng, d0, dn, coloured, count=30):
    x = np.linalg.qr(rng.standard_normal((count, d0)))[0].T
    if coloured:
        x = np.logspace(0, -0.7, d0)[:, None] * rng.standard_normal((d0, count))
    return x, rng.standard_normal((dn, count))


def setting(dims, coloured, residual, seed=0):
    """Layers at a solution, the problem, and its numpy statistics."""
    rng = np.random.default_rng(seed)
    x, y = samples(rng, dims[0], dims[-1], coloured)
    covariance = x @ x.T
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values)) @ vectors.T
    target = y @ x.T @ np.linalg.inv(covariance)
    best = oracles.best_rank(target, root, min(dims))
    if not residual:
        target, y = best, best @ x
    layers = oracles.with_product(rng, dims, best)
    frame = oracles.chain_product(layers[1:])  # where it is wide, W_1 is free outside its row space
    unseen = np.eye(dims[1]) - np.linalg.pinv(frame) @ frame
    layers[0] = layers[0] + 0.5 * unseen @ rng.standard_normal(layers[0].shape) * (dims[1] > min(dims[1:]))
    whole = (jnp.asarray(covariance), jnp.asarray(root)) if coloured else ()
    made = problem.Quadratic(jnp.asarray(target), jnp.asarray(best), jnp.asarray(0.0), *whole)
    return layers, made, target, covariance, root


def coloured(target, x):
    """The square loss with this minimiser on these inputs, no JAX program compiled."""
    target, covariance = jnp.asarray(target), jnp.asarray(x @ x.T)
    return problem.Quadratic(target, target, jnp.asarray(0.0), covariance, covariance)


def steps_of(dims):
    return 0.02 * np.linspace(1, 1.5, len(dims) - 1)


def free_first(dims):
    return [True] + [False] * (len(dims) - 2)


def assert_close(rate, low, high, zeros=None, tolerance=1e-11):
    assert rate.eigenvalue_min == pytest.approx(low, rel=tolerance)
    assert rate.eigenvalue_max == pytest.approx(high, rel=tolerance)
    assert zeros is None or rate.num_zero == zeros


@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("dims", WIDTHS + WIDE)
def test_operator_is_the_jacobian_weighted_by_the_steps(dims, coloured):
    layers, made, _, _, root = setting(dims, coloured, residual=False)
    steps = steps_of(dims)
    expected = oracles.rate_operator(layers, steps, root, free_first(dims))
    found = rates.operator(params_of(layers), made, step_size=1.0, scales=tuple(steps))
    assert np.abs(found - expected).max() < 1e-13 * np.abs(expected).max()
    rate = rates.predict(params_of(layers), made, step_size=1.0, scales=tuple(steps))
    assert_close(rate, *oracles.extreme_rates(np.linalg.eigvalsh(expected)))
    assert rate.factor == pytest.approx(max(1 - rate.eigenvalue_min, abs(1 - rate.eigenvalue_max)), rel=1e-14)
    assert rate.step_max == pytest.approx(2 / rate.eigenvalue_max)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("dims", WIDTHS)
def test_prediction_is_the_linearised_step(dims, coloured, residual):
    """Against central differences of a whole step done by SVD: shares no formula with the prediction."""
    layers, made, target, covariance, _ = setting(dims, coloured, residual)
    steps, free = steps_of(dims), free_first(dims)
    moved = oracles.quadratic_rgd_step(layers, target, covariance, steps, free)
    assert max(np.abs(a - b).max() for a, b in zip(moved, layers, strict=True)) < 1e-13
    jacobian = oracles.linearised_step(
        lambda w: oracles.quadratic_rgd_step(w, target, covariance, steps, free), layers, free
    )
    low, high, zeros = oracles.extreme_rates(1 - np.linalg.eigvals(jacobian), 1e-7)
    rate = rates.predict(params_of(layers), made, step_size=1.0, scales=tuple(steps))
    assert_close(rate, low, high, zeros if residual else None, tolerance=1e-7)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("dims", [d for d in WIDTHS + WIDE if len(set(d[1:-1])) == 1])
def test_reduction_predicts_the_same(dims, coloured, residual):
    layers, made, *_ = setting(dims, coloured, residual)
    steps = steps_of(dims)
    full = rates.predict(params_of(layers), made, step_size=0.5, scales=tuple(steps))
    frame = oracles.chain_product(layers[1:])
    reduced = rates.predict_reduced(layers[0], frame, len(dims) - 1, made, 0.5, tuple(steps))
    np.testing.assert_allclose(reduced[:6], full[:6], rtol=1e-11)
    assert max(reduced.gradient, full.gradient) < 1e-13


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dims", WIDTHS + WIDE)
def test_large_problems_take_other_ways_to_the_same_numbers(dims, residual, monkeypatch):
    layers, made, *_ = setting(dims, True, residual)
    dense = rates.predict(params_of(layers), made, step_size=0.02)
    monkeypatch.setattr(rates, "DENSE", 0)
    monkeypatch.setattr("dlnjax.theory._reduced.DENSE", 0)
    large = rates.predict(params_of(layers), made, step_size=0.02)
    assert_close(large, dense.eigenvalue_min, dense.eigenvalue_max, tolerance=1e-10)
    assert large.num_zero in (dense.num_zero, -1)


def test_lanczos_where_the_operator_would_not_fit():
    """9 x 80, unequal widths: matrix-free against the dense operator, 720 rows."""
    rng = np.random.default_rng(3)
    dims = (80, 3, 5, 7, 9)
    layers = oracles.with_product(rng, dims, rng.standard_normal((9, 3)) @ rng.standard_normal((3, 80)) / 10)
    x = np.sqrt(np.linspace(1, 3, 80))[:, None] * np.linalg.qr(rng.standard_normal((120, 80)))[0].T
    made = coloured(oracles.chain_product(layers), x)
    rate = rates.predict(params_of(layers), made, step_size=0.1)
    values = np.linalg.eigvalsh(rates.operator(params_of(layers), made, step_size=0.1))
    low, high, _ = oracles.extreme_rates(values)
    assert_close(rate, low, high, tolerance=1e-10)


def test_bordered_bisection_at_bad_conditioning(monkeypatch):
    """Spectrum of C over eight decades: the count stays exact where Lanczos would not converge."""
    rng = np.random.default_rng(4)
    x = np.logspace(0, -4, 30)[:, None] * np.linalg.qr(rng.standard_normal((60, 30)))[0].T
    first, frame = rng.standard_normal((3, 30)), oracles.random_orthonormal(rng, 6, 3)
    made = coloured(frame @ first, x)
    small = rates.predict_reduced(first, frame, 9, made, 0.1)
    monkeypatch.setattr(_reduced, "DENSE", 0)
    large = rates.predict_reduced(first, frame, 9, made, 0.1)
    assert_close(large, small.eigenvalue_min, small.eigenvalue_max, small.num_zero, tolerance=1e-7)


@pytest.mark.parametrize("num_layers", [2, 3, 8, 40])
@pytest.mark.parametrize("rank", [4, 2])
def test_closed_form_for_equal_widths(num_layers, rank):
    rng = np.random.default_rng(num_layers)
    dims = (9, *[4] * (num_layers - 1), 7)
    left, right = (oracles.random_orthonormal(rng, d, rank) for d in (7, 9))
    wanted = (left * SIGMA[:rank]) @ right.T
    layers = oracles.with_product(rng, dims, wanted)
    scales = (1.0, 0.3, 1.7)
    each = [scales[0], *[scales[1]] * (num_layers - 2), scales[2]]
    found = rates.closed_form(SIGMA[:rank], dims=dims, step_size=0.1, scales=scales)
    free = free_first(dims)
    operator = oracles.rate_operator(layers, 0.1 * np.array(each), np.eye(9), free)
    assert_close(found, *oracles.extreme_rates(np.linalg.eigvalsh(operator)), tolerance=1e-12)
    made = problem.whitened(jnp.asarray(wanted))
    full = rates.predict(params_of(layers), made, step_size=0.1, scales=tuple(each))
    np.testing.assert_allclose(found[:6], full[:6], rtol=1e-12)


@pytest.mark.parametrize("dims", [(6, 2, 3, 5), (6, 2, 2, 4, 4, 5), (8, 1, 2, 3), (6, 3, 3, 5, 5)])
def test_closed_form_for_growing_widths(dims):
    rng = np.random.default_rng(7)
    sigma = SIGMA[: dims[1]]
    left, right = (oracles.random_orthonormal(rng, d, dims[1]) for d in (dims[-1], dims[0]))
    layers = oracles.with_product(rng, dims, (left * sigma) @ right.T)
    steps = np.array([0.1, *[0.07] * (len(dims) - 2)])
    operator = oracles.rate_operator(layers, steps, np.eye(dims[0]), free_first(dims))
    found = rates.closed_form(sigma, dims=dims, step_size=0.1, scales=steps / 0.1)
    assert_close(found, *oracles.extreme_rates(np.linalg.eigvalsh(operator)), tolerance=1e-12)


@pytest.mark.parametrize("num_layers", [2, 3, 6])
def test_closed_form_with_a_residual(num_layers):
    dims = (7, *[3] * (num_layers - 1), 6)
    layers, made, target, *_ = setting(dims, coloured=False, residual=True, seed=5)
    values = np.linalg.svd(target, compute_uv=False)
    options = {"dims": dims, "step_size": 0.05, "scales": (1, 0.4, 0.6)}
    found = rates.closed_form(values[:3], residual=values[3:], **options)
    each = (1.0, *[0.4] * (num_layers - 2), 0.6)
    full = rates.predict(params_of(layers), made, step_size=0.05, scales=each)
    np.testing.assert_allclose(found[:6], full[:6], rtol=1e-11)


def test_what_depth_does():
    """Theory 3, items 1 to 4, on the reference case."""
    depths = [2, 3, 4, 8, 32, 128]
    dims = {n: (8, *[4] * (n - 1), 8) for n in depths}
    fixed = [rates.closed_form(SIGMA, dims=dims[n], step_size=0.01) for n in depths]
    assert all(abs(r.factor - (1 - 0.01 / 6.25)) < 1e-15 for r in fixed)
    edges = np.array([r.step_max for r in fixed])
    np.testing.assert_allclose(edges, [2 / (1 + (n - 1) * 0.82) for n in depths], rtol=1e-13)
    conditions = [r.eigenvalue_max / r.eigenvalue_min for r in fixed]
    best = [(c - 1) / (c + 1) for c in conditions]
    slope = np.log((1 - best[-1]) / (1 - best[-2])) / np.log(4)
    assert abs(slope + 1) < 0.02
    flat = [scaling.middle(SIGMA, dims[n]) for n in depths[1:]]
    assert np.ptp([s.factor for s in flat]) < 1e-14
    at_04 = rates.closed_form(SIGMA, dims=dims[3], step_size=0.4, scales=flat[0].scales)
    assert at_04.factor == pytest.approx(1 - 0.4 / 6.25, abs=1e-14)
    deep = [rates.closed_form(SIGMA, dims=(8, *[4] * (n - 1), 8), step_size=0.01) for n in (1024, 4096)]
    ball = [momentum.best(r, 0.01).factor for r in deep]
    assert abs(np.log((1 - ball[1]) / (1 - ball[0])) / np.log(4) + 0.5) < 0.01


@pytest.mark.parametrize(
    ("sigma", "dims", "options", "message"),
    [
        (SIGMA, (8, 3, 3, 8), {}, "rank at most 3"),
        (SIGMA, (3, 4, 4, 8), {}, "d_0=3"),
        (SIGMA, (8, 5, 4, 8), {}, "shrink"),
        ((1.0, 0.5), (8, 2, 3, 4), {"scales": (1, 1, 2)}, "equal steps"),
        ((1.0, 0.5), (8, 2, 3, 4), {"residual": (0.1,)}, "unequal hidden widths"),
        ((1.0, 0.5), (8, 2, 2, 4), {"residual": (0.7,)}, "not the best rank 2"),
        ((1.0, 0.5), (8, 2, 2, 3), {"residual": (0.1, 0.1)}, "at most"),
        ((1.0, 0.5), (8, 2, 2, 4), {"scales": (1, 2)}, "2 scales for 3 layers"),
        ((1.0,), (8, 2, 2, 4), {"step_size": -1.0}, "positive"),
        ((1.0, -1.0), (8, 2, 2, 4), {}, "finite numbers"),
    ],
)
def test_closed_form_refuses_what_it_does_not_cover(sigma, dims, options, message):
    with pytest.raises(ValueError, match=message):
        rates.closed_form(sigma, dims=dims, **{"step_size": 0.1, **options})


def test_runs_of_layers_and_float32_data():
    layers, made, *_ = setting((6, 3, 3, 3, 5), True, residual=False)
    params = params_of(layers)
    stacked = network.stack(params)
    scales = (1.0, jnp.array([0.5, 0.25]), 0.125)
    plain = rates.predict(params, made, step_size=0.1, scales=(1.0, 0.5, 0.25, 0.125))
    np.testing.assert_allclose(rates.predict(stacked, made, step_size=0.1, scales=scales), plain, rtol=1e-13)
    with pytest.raises(ValueError, match="one a leaf"):
        rates.predict(params, made, step_size=0.1, scales=(1.0, 1.0))
    with pytest.raises(ValueError, match="is a float"):
        rates.predict(params, 1.0, step_size=0.1)  # type: ignore[arg-type]


def test_a_saddle_is_reported_as_unstable():
    """A rank-one product that misses the stronger direction: negative curvature, no stable step."""
    target = jnp.diag(jnp.array([2.0, 1.0]))
    params = (jnp.array([[0.0, 1.0]]), jnp.array([[0.0], [1.0]]))
    rate = rates.predict(params, problem.whitened(target), step_size=0.1)
    assert rate.eigenvalue_min < 0
    assert rate.factor > 1
    assert rate.step_max == 0


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9])
def test_momentum_factor_is_the_companion_matrix(beta):
    found = momentum.mode_factor(np.linspace(0.01, 3.0, 40), beta)
    for value, factor in zip(np.linspace(0.01, 3.0, 40), found, strict=True):
        companion = np.array([[1 - value, -value * beta], [1.0, beta]])
        assert np.abs(np.linalg.eigvals(companion)).max() == pytest.approx(factor, abs=2e-8)


def test_best_momentum_beats_its_neighbours():
    rate = rates.closed_form(SIGMA, dims=(8, 4, 4, 4, 8), step_size=0.1)
    best = momentum.best(rate, 0.1)
    at = rates.closed_form(SIGMA, dims=(8, 4, 4, 4, 8), step_size=best.step_size)
    assert momentum.predict(at, best.momentum) == pytest.approx(best.factor, abs=1e-8)
    for d_beta, d_step in ((0.03, 1), (-0.03, 1), (0, 1.1), (0, 0.9)):
        other = rates.closed_form(SIGMA, dims=(8, 4, 4, 4, 8), step_size=best.step_size * d_step)
        assert momentum.predict(other, best.momentum + d_beta) > best.factor + 1e-3
    edge = momentum.step_max(rate, 0.1, 0.5)
    at_edge = rates.closed_form(SIGMA, dims=(8, 4, 4, 4, 8), step_size=edge)
    assert momentum.predict(at_edge, 0.5) == pytest.approx(1, abs=1e-12)
    with pytest.raises(ValueError, match="momentum=1"):
        momentum.predict(rate, 1.0)


@pytest.mark.parametrize("num_layers", [2, 4, 32])
def test_optimised_scales_are_in_order(num_layers):
    dims = (8, *[4] * (num_layers - 1), 8)
    ways = [scaling.discrepant, scaling.best_ratio, scaling.best]
    plain, ratio, free = (way(SIGMA, dims).factor for way in ways)
    assert free <= scaling.middle(SIGMA, dims).factor + 1e-12
    assert free <= ratio + 1e-9
    assert ratio <= plain + 1e-12
    found = scaling.best_ratio(SIGMA, dims)
    grid = np.exp(np.linspace(-6, 3, 400))
    brute = min(scaling._closed(SIGMA, dims)((1.0, c, c)).factor for c in grid)
    assert found.factor <= brute + 1e-12


@pytest.mark.parametrize(("dims", "residual"), [((6, 2, 3, 5), True), ((4, 5, 3), False)])
def test_automatic_differentiation_agrees(dims, residual):
    layers, made, *_ = setting(dims, True, residual)
    steps = tuple(steps_of(dims))
    rate = rates.predict(params_of(layers), made, step_size=1.0, scales=steps)
    other = hessian.predict_hessian(params_of(layers), made, step_size=1.0, scales=steps)
    assert_close(other, rate.eigenvalue_min, rate.eigenvalue_max, tolerance=1e-9)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((dims[0], 12)))
    outputs = hessian.predict_outputs(
        params_of(layers), lambda p: network.forward(p, x), step_size=1.0, scales=steps
    )
    product = jnp.asarray(oracles.chain_product(layers))
    linear = rates.predict(params_of(layers), problem.regression(x, product @ x), step_size=1.0, scales=steps)
    assert_close(outputs, linear.eigenvalue_min, linear.eigenvalue_max, tolerance=1e-9)


def test_hessian_is_riemannian_away_from_critical_points_too():
    """Second differences of the loss along polar curves, tall, wide and square layers."""
    rng = np.random.default_rng(6)
    layers = [
        rng.standard_normal((3, 4)),
        *(oracles.random_orthonormal(rng, n, p) for n, p in ((5, 3), (2, 5))),
    ]
    target = rng.standard_normal((2, 4))
    found = hessian.matrix(params_of(layers), problem.whitened(jnp.asarray(target)))
    noise = [rng.standard_normal(w.shape) for w in layers]
    xi = [noise[0], *(oracles.tangent(w, z) for w, z in zip(layers[1:], noise[1:], strict=True))]

    def loss(t):
        moved = [
            layers[0] + t * xi[0],
            *(oracles.polar(w + t * x) for w, x in zip(layers[1:], xi[1:], strict=True)),
        ]
        return np.sum((oracles.chain_product(moved) - target) ** 2) / 2

    flat = np.concatenate([z.ravel() for z in noise])
    second = (loss(1e-4) - 2 * loss(0) + loss(-1e-4)) / 1e-8
    assert flat @ found @ flat == pytest.approx(second, rel=1e-5)


def test_tanh_prediction_is_the_linearised_step():
    rng = np.random.default_rng(2)
    x = rng.standard_normal((4, 9))
    layers = [0.7 * oracles.random_orthonormal(rng, 3, 4), oracles.random_orthonormal(rng, 4, 3)]
    y = layers[1] @ np.tanh(layers[0] @ x)

    def step(w):
        hidden = np.tanh(w[0] @ x)
        error = w[1] @ hidden - y
        first = ((w[1].T @ error) * (1 - hidden**2)) @ x.T
        second = error @ hidden.T
        second = second - w[1] @ (w[1].T @ second + second.T @ w[1]) / 2
        return [w[0] - 0.01 * first, oracles.polar(w[1] - 0.01 * second)]

    jacobian = oracles.linearised_step(step, layers, [True, False])
    low, high, _ = oracles.extreme_rates(1 - np.linalg.eigvals(jacobian), 1e-7)
    found = hessian.predict_outputs(
        params_of(layers), lambda p: network.forward(p, jnp.asarray(x), jnp.tanh), step_size=0.01
    )
    assert_close(found, low, high, tolerance=1e-5)


def test_tangent_kernel_of_orthogonal_layers_is_n_times_the_identity():
    rng = np.random.default_rng(1)
    square = params_of([oracles.random_orthonormal(rng, 5, 5) for _ in range(7)])
    assert np.abs(hessian.tangent_kernel(square) - 7 * np.eye(25)).max() < 1e-13
    assert hessian.kernel_condition(square) == pytest.approx(1, abs=1e-12)
    layers = [rng.standard_normal((3, 4)), rng.standard_normal((5, 3)), rng.standard_normal((2, 5))]
    jacobian = np.concatenate(oracles.product_jacobian(layers, [True] * 3), axis=1)
    assert np.abs(hessian.tangent_kernel(params_of(layers)) - jacobian @ jacobian.T).max() < 1e-12
    deep = [params_of(rng.standard_normal((n, 8, 8)) / 8**0.5) for n in (2, 4, 8)]
    gaussian = [hessian.kernel_condition(p) for p in deep]
    assert gaussian[0] < gaussian[1] < gaussian[2]


def test_an_operator_with_no_spectrum_is_an_error():
    with pytest.raises(ValueError, match="every eigenvalue is zero"):
        spectrum.extremes(np.zeros(3))
    assert closed.tangent_dimension((5, 3, 3, 4)) == 15 + 3 + 6


def test_lanczos_says_when_it_does_not_converge():
    values = np.logspace(0, -14, 400)
    with pytest.raises(ValueError, match="did not converge"):
        spectrum.lanczos_largest(lambda v: (2 - values[::-1]) * v, np.ones(400), max_iterations=5)
