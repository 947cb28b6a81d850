"""Random shapes, scales, ranks and ties: every number is right by an independent oracle, or refused.

``DLNJAX_DRAWS=10000 pytest tests/theory/test_theory_properties.py`` draws more.
"""

import itertools
import os

import jax.numpy as jnp
import mpmath
import numpy as np
import oracles
import pytest
import scipy.special
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlnjax import losses, problem
from dlnjax.theory import closed, descent, flow, gauge, guarantee, modes, momentum, rates

DRAWS = int(os.environ.get("DLNJAX_DRAWS", "40"))
draws = settings(
    max_examples=DRAWS,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)
pytestmark = pytest.mark.slow

WIDTHS = st.lists(st.integers(1, 4), min_size=3, max_size=5)
SEEDS = st.integers(0, 2**31)
DECADES = st.integers(-60, 60)
REFUSED = (
    "rescale",
    "centre",
    "ill-conditioned",
    "not unique",
    "singular here",
    "every eigenvalue",
    "no critical point",
)


def answer(call):
    """What a function says: its value and None, or None and the words with which it refuses."""
    try:
        return call(), None
    except ValueError as error:
        return None, str(error)


def known(refusal):
    return any(word in refusal for word in REFUSED)


def quadratic(target, root=None):
    target = jnp.asarray(target)
    rest = () if root is None else (jnp.asarray(root @ root), jnp.asarray(root))
    return problem.Quadratic(target, target, jnp.asarray(0.0), *rest)


def network_of(rng, dims, values):
    """Layers orthonormal behind the first, of which the singular values are the first of ``values``."""
    layers = [oracles.random_orthonormal(rng, n, p) for p, n in itertools.pairwise(dims)]
    count = min(layers[0].shape)
    left, _, right = np.linalg.svd(layers[0], full_matrices=False)
    layers[0] = (left * np.asarray(values[:count])) @ right
    return layers


@draws
@given(
    WIDTHS,
    SEEDS,
    DECADES,
    st.lists(st.sampled_from([1.0, 0.5, 1e-2, 0.0]), min_size=4, max_size=4),
    st.integers(0, 4),
)
def test_predict_without_residual(dims, seed, decade, values, spread):
    """Eigenvalues of the definition's Kronecker products; repeated and zero singular values; C over eight decades."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** (decade / 4)
    layers = network_of(rng, dims, np.array(values))
    basis = oracles.random_orthonormal(rng, dims[0], dims[0])
    root = (basis * np.logspace(0, -spread, dims[0])) @ basis.T
    steps = np.concatenate([[0.1], np.full(len(layers) - 1, 0.1 / size**2)])
    scaled = [size * layers[0], *layers[1:]]
    blocks = oracles.product_jacobian(layers, [True] + [False] * (len(layers) - 1))
    whole = np.kron(np.eye(dims[-1]), root) @ np.concatenate(blocks, axis=1) * 0.1**0.5
    roots = np.linalg.svd(whole, compute_uv=False)  # of the operator's eigenvalues: twice the digits
    expected = np.concatenate([np.zeros(len(whole) - roots.size), np.sort(roots) ** 2])
    made = quadratic(oracles.chain_product(scaled), root)
    rate, refusal = answer(
        lambda: rates.predict(tuple(scaled), made, step_size=0.1, scales=list(steps / 0.1))
    )
    if rate is None:
        assert known(refusal), refusal
        assert not expected[-1] > 0 or not np.any(layers[0]), refusal
        return
    kept = expected[expected > 1e-20 * expected[-1]]
    assert rate.num_zero == expected.size - kept.size
    assert rate.eigenvalue_max == pytest.approx(kept[-1], rel=1e-10)
    assert rate.eigenvalue_min == pytest.approx(kept[0], rel=1e-6)
    assert rate.gradient < 1e-12


@draws
@given(
    st.integers(1, 3),
    st.integers(2, 5),
    st.integers(0, 3),
    st.integers(0, 3),
    SEEDS,
    st.sampled_from([0.0, 0.3, 0.9]),
)
def test_closed_form_and_reduction_agree_with_the_definition(r, depth, more_in, more_out, seed, missed):
    """With and without a residual: the closed form, the reduction and the linearised step."""
    rng = np.random.default_rng(seed)
    dims = (r + more_in, *[r] * (depth - 1), r + more_out)
    sigma = np.sort(rng.uniform(0.5, 2, r))[::-1]
    count = min(more_in, more_out)
    residual = missed * sigma[-1] * np.sort(rng.uniform(0.1, 1, count))[::-1]
    left = oracles.random_orthonormal(rng, dims[-1], r + count)
    right = oracles.random_orthonormal(rng, dims[0], r + count)
    target = (left * np.concatenate([sigma, residual])) @ right.T
    layers = oracles.with_product(rng, dims, (left[:, :r] * sigma) @ right[:, :r].T)
    made = quadratic(target)
    options = {"step_size": 0.03, "scales": (1.0, 0.4, 0.7)}
    found = closed.closed_form(sigma, dims=dims, residual=residual, **options)
    reduced = rates.predict_reduced(
        layers[0], oracles.chain_product(layers[1:]), depth, made, *options.values()
    )
    np.testing.assert_allclose(found[:6], reduced[:6], rtol=1e-9)
    each = 0.03 * np.array([1.0, *[0.4] * (depth - 2), 0.7])
    free = [True] + [False] * (depth - 1)
    jacobian = oracles.linearised_step(
        lambda w: oracles.quadratic_rgd_step(w, target, np.eye(dims[0]), each, free), layers, free
    )
    low, high, _ = oracles.extreme_rates(1 - np.linalg.eigvals(jacobian), 1e-6)
    assert found.eigenvalue_min == pytest.approx(low, rel=1e-5)
    assert found.eigenvalue_max == pytest.approx(high, rel=1e-5)


@draws
@given(WIDTHS, SEEDS, DECADES, st.sampled_from([0.0, 1e-9, 1e-4, 0.05]))
def test_gauge_distance(dims, seed, decade, noise):
    """No rotation close to the minimiser is better; the gauge is not seen; its square follows the scale."""
    rng = np.random.default_rng(seed)
    size = 10.0**decade
    target = network_of(rng, dims, np.linspace(1, 0.3, 4))
    moved = [w + noise * rng.standard_normal(w.shape) for w in target]
    moved = [moved[0], *(oracles.polar(w) for w in moved[1:])]
    turns = [oracles.random_orthonormal(rng, d, d) for d in dims[1:-1]]
    layers = gauge.transform(moved, turns)
    plain = gauge.distance_squared(layers, target)
    slack = 1e-26 + 1e-14 * plain**0.5  # the rounding of the layers, in gaps of this size
    layers, goal = ([tree[0] * size, *tree[1:]] for tree in (layers, target))
    scaled = gauge.distance_squared(layers, goal)
    seen = (
        set(dims[1:-1]) == {dims[1]} and dims[0] >= dims[1]
    )  # the ends see every rotation: one minimum nearby
    if seen:
        assert scaled == pytest.approx(plain * size**2, rel=1e-6, abs=slack * size**2)
    weight = np.linalg.norm(goal[0], 2) ** 2
    here = gauge.align(layers, goal)
    for spread in (0.0, 1e-5, 1e-2):
        near = gauge.transform(
            here, [oracles.polar(np.eye(d) + spread * rng.standard_normal((d, d))) for d in dims[1:-1]]
        )
        gaps = [np.sum((w - g) ** 2) for w, g in zip(layers, near, strict=True)]
        assert scaled <= (gaps[0] + weight * sum(gaps[1:])) * (1 + 1e-9) + slack * size**2
    if seen:
        bound = np.sum((moved[0] - target[0]) ** 2) + np.linalg.norm(target[0], 2) ** 2 * sum(
            np.sum((w - g) ** 2) for w, g in zip(moved[1:], target[1:], strict=True)
        )
        assert plain <= bound * (1 + 1e-9) + slack


@draws
@given(SEEDS, st.integers(1, 4), st.integers(1, 6), st.integers(-8, 3), st.integers(-10, 0), st.booleans())
def test_logistic_minimiser(seed, inputs, samples, decade, ridge_decade, single):
    """The gradient at the answer, in double precision by scipy, is rounding of the terms that cancel in it."""
    rng = np.random.default_rng(seed)
    dtype = np.float32 if single else np.float64
    x = (10.0**decade * rng.standard_normal((inputs, samples))).astype(dtype)
    y = rng.choice([0.0, 0.5, 1.0], (2, samples)).astype(dtype)
    ridge = 10.0 ** (ridge_decade + 2 * decade)
    if single and not 1e-30 < ridge < 1e30:
        return
    made, refusal = answer(lambda: losses.ridge_logistic(jnp.asarray(x), jnp.asarray(y), ridge))
    if made is None:
        assert "relative gradient" in refusal
        return
    w, x = np.asarray(made.optimum, np.float64), x.astype(np.float64)
    chance = scipy.special.expit(w @ x)
    above, below = (1 - y) * chance, y * scipy.special.expit(-w @ x)
    slope = (above - below) @ x.T + ridge * w
    spread = chance * scipy.special.expit(-w @ x)
    terms = (np.maximum(above, below) + spread * (np.abs(w) @ np.abs(x))) @ np.abs(x).T + ridge * np.abs(w)
    limit = 2000 * np.finfo(dtype).eps
    assert np.all(np.abs(slope).max(axis=1) <= limit * terms.max(axis=1))


@draws
@given(SEEDS, st.integers(1, 5), st.integers(1, 5), st.integers(1, 8), DECADES, st.booleans(), st.booleans())
def test_statistics_are_the_data(seed, inputs, outputs, samples, decade, deficient, single):
    """Loss and gradient of regression, whiten and principal against the data themselves, in long double."""
    rng = np.random.default_rng(seed)
    dtype = np.float32 if single else np.float64
    size = 10.0 ** (decade / (4 if single else 1))
    x = rng.standard_normal((inputs, samples))
    if deficient and inputs > 1:
        x[-1] = x[0]
    x, y = (size * x).astype(dtype), rng.standard_normal((outputs, samples)).astype(dtype)
    w = (rng.standard_normal((outputs, inputs)) / size).astype(dtype)
    wide = [a.astype(np.longdouble) for a in (w, x, y)]
    exact = float(np.sum((wide[0] @ wide[1] - wide[2]) ** 2) / 2)
    tolerance = 3e5 * float(np.finfo(dtype).eps)
    for name in ("regression", "whiten", "principal"):
        made, refusal = answer(lambda n=name: getattr(problem, n)(jnp.asarray(x), jnp.asarray(y)))
        if made is None:
            assert known(refusal), refusal
            continue
        product = jnp.asarray(w)
        if name != "regression":
            made, new = made
            product = jnp.asarray(w @ np.linalg.pinv(np.asarray(new, np.float64)), dtype)
        assert float(made.product_loss(product)) == pytest.approx(
            exact, rel=tolerance, abs=tolerance * float(np.sum(y**2))
        )


@draws
@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(-100, 100))
def test_rank_optima(seed, inputs, outputs, samples, decade):
    rng = np.random.default_rng(seed)
    size = 10.0**decade
    x, y = rng.standard_normal((inputs, samples)), rng.standard_normal((outputs, samples))
    found = descent.rank_optima(x / size, size * y)
    rows = np.linalg.qr(x.T)[0] if samples > inputs else np.eye(samples)
    inside = y @ rows
    for k, value in enumerate(found):
        left, s, right = np.linalg.svd(inside, full_matrices=False)
        best = (left[:, :k] * s[:k]) @ right[:k]
        exact = np.sum((y - best @ rows.T) ** 2) / 2 * size**2
        assert value == pytest.approx(exact, rel=1e-9, abs=1e-24 * size**2 * np.sum(y**2))


@draws
@given(st.integers(1, 60), st.floats(-12, 2), st.floats(-3, 3), st.floats(0.001, 0.999))
def test_times_and_strengths(num_layers, start_decade, decade, fraction):
    """Against a quadrature of mpmath, from below and from above the singular value."""
    s, start = 10.0**decade, 10.0 ** (decade + start_decade)
    end = start + fraction * (s - start)
    if end == start or abs(start / s - 1) < 1e-6:
        return
    found = float(modes.time_to_reach(end, start, s, num_layers))
    with mpmath.workdps(25):
        power, big = mpmath.mpf(2) / num_layers - 2, [mpmath.mpf(v) for v in (start, end, s)]
        cuts = [big[0] * (big[1] / big[0]) ** (mpmath.mpf(k) / 12) for k in range(13)]
        exact = float(mpmath.quad(lambda a: a**power / (num_layers * (big[2] - a)), cuts))
    assert found == pytest.approx(exact, rel=1e-9)
    back = float(modes.trajectory(found, start, s, num_layers))
    moved = abs(float(modes.speed(end, s, num_layers))) * found / end
    assert back == pytest.approx(end, rel=1e-9 * (1 + moved))


@draws
@given(st.floats(-0.5, 6), st.floats(0, 0.9999))
def test_momentum_factor(eigenvalue, beta):
    roots = np.roots([1, -(1 + beta - eigenvalue), beta])
    assert float(momentum.mode_factor(eigenvalue, beta)) == pytest.approx(np.abs(roots).max(), abs=1e-7)


@draws
@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.booleans())
def test_flow_operator_and_its_spectrum(seed, rows, columns, num_layers, deficient):
    rng = np.random.default_rng(seed)
    w, z = rng.standard_normal((2, rows, columns))
    if deficient:
        w = np.outer(w[:, 0], w[0])

    def power(matrix, exponent):
        values, vectors = np.linalg.eigh(matrix)
        values = np.where(values > 1e-17 + 1e-14 * values[-1], values, 0)
        raised = np.ones_like(values) if exponent == 0 else np.where(values > 0, values, 0) ** exponent
        return (vectors * raised) @ vectors.T

    exact = sum(
        power(w @ w.T, (num_layers - j) / num_layers) @ z @ power(w.T @ w, (j - 1) / num_layers)
        for j in range(1, num_layers + 1)
    )
    found = np.asarray(flow.operator(jnp.asarray(w), jnp.asarray(z), num_layers))
    assert np.abs(found - exact).max() <= 1e-9 * max(np.abs(exact).max(), np.abs(z).max())
    trace = sum(
        np.trace(power(w @ w.T, (num_layers - j) / num_layers))
        * np.trace(power(w.T @ w, (j - 1) / num_layers))
        for j in range(1, num_layers + 1)
    )
    assert np.sum(flow.spectrum(w, num_layers)) == pytest.approx(trace, rel=1e-8)


@draws
@given(SEEDS, st.integers(1, 3), st.integers(2, 4), st.floats(0, 1), st.floats(-3, 0.5))
def test_a_guarantee_holds_or_does_not_apply(seed, r, depth, share, decade):
    """Ten steps from inside the basin shrink the distance by at least the factor; otherwise there is no factor."""
    rng = np.random.default_rng(seed)
    sigma = np.sort(rng.uniform(0.3, 2, r))[::-1]
    dims = (r + 2, *[r] * (depth - 1), r + 1)
    layers = network_of(rng, dims, sigma)
    target = oracles.chain_product(layers)
    mu = 10.0**decade
    scales = [1.0, *[1 / sigma[0] ** 2] * (depth - 1)]
    found = guarantee.guarantee(tuple(layers), quadratic(target), step_size=mu, scales=scales)
    if not found.applies:
        assert found.reason
        assert found.factor is None
        assert mu > 3 / (8 * depth) * (1 - 1e-9)
        return
    moved = [w + 0.3 * rng.standard_normal(w.shape) for w in layers]
    direction = [a - b for a, b in zip(moved, layers, strict=True)]
    small = 0.5 * share * found.radius / np.sqrt(sum(np.sum(d**2) for d in direction)) / max(1, sigma[0])
    start = [w + small * d for w, d in zip(layers, direction, strict=True)]
    here = [start[0], *(oracles.polar(w) for w in start[1:])]
    before = gauge.distance_squared(here, layers)
    if before > found.radius**2 or before < 1e-20:
        return
    steps = mu * np.array(scales)
    for _ in range(10):
        here = oracles.riemannian_step(here, lambda w: w - target, steps)
        after = gauge.distance_squared(here, layers)
        assert after <= found.factor**2 * before * (1 + 1e-9) + 1e-28
        before = after
