"""Predictions where their assumptions end: all layers constrained, points that are no solution, raw features, ties."""

import itertools

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dlnjax import losses, network, problem
from dlnjax.theory import closed, guarantee, hessian, rates, spectrum


def quadratic(target, covariance=None, root=None):
    target = jnp.asarray(target)
    rest = [None if m is None else jnp.asarray(m) for m in (covariance, root)]
    return problem.Quadratic(target, target, jnp.asarray(0.0), *rest)


def orthonormal(rng, dims):
    return [oracles.random_orthonormal(rng, n, p) for p, n in itertools.pairwise(dims)]


def step_jacobian_rates(layers, target, covariance, step, free):
    """Eigenvalues of I - J, J by central differences of whole steps done by SVD."""
    steps = np.full(len(layers), step)
    jacobian = oracles.linearised_step(
        lambda w: oracles.quadratic_rgd_step(w, target, covariance, steps, free), layers, free
    )
    return 1 - np.real(np.linalg.eigvals(jacobian))


def test_every_layer_constrained_the_example():
    """Target O diag(3, 2, 1, .5), W = (O, I), step .1: eigenvalues .1 (s_a + s_b), so factor .85 and edge .4."""
    turn = oracles.random_orthonormal(np.random.default_rng(0), 4, 4)
    made = quadratic(turn @ np.diag([3.0, 2.0, 1.0, 0.5]))
    rate = rates.predict((turn, np.eye(4)), made, step_size=0.1, constrained=(True, True))
    assert rate.factor == pytest.approx(0.85, abs=1e-12)
    assert rate.step_max == pytest.approx(0.4, abs=1e-12)
    assert rate.num_zero == 6  # the gauge: one rotation of four dimensions
    assert rate.gradient < 1e-15


@pytest.mark.parametrize("dims", [(4, 4, 4), (3, 3, 3, 3), (2, 4, 4), (4, 4, 2)])
def test_every_layer_constrained_is_the_linearised_step(dims):
    rng = np.random.default_rng(len(dims))
    layers = orthonormal(rng, dims)
    product = oracles.chain_product(layers)
    spread = np.linspace(3, 0.5, min(product.shape))
    tall = product.shape[0] >= product.shape[1]
    target = product * spread if tall else spread[:, None] * product
    values = step_jacobian_rates(layers, target, np.eye(dims[0]), 0.05, [False] * len(layers))
    low, high, _ = oracles.extreme_rates(values, 1e-6)
    flags = (True,) * len(layers)
    rate = rates.predict(tuple(layers), quadratic(target), step_size=0.05, constrained=flags)
    assert rate.eigenvalue_min == pytest.approx(low, rel=1e-6)
    assert rate.eigenvalue_max == pytest.approx(high, rel=1e-6)


@pytest.mark.parametrize("predict", ["predict", "predict_reduced", "predict_hessian"])
def test_a_point_that_is_no_solution_is_refused_and_the_tolerance_is_the_callers(predict):
    rng = np.random.default_rng(1)
    layers = orthonormal(rng, (5, 3, 4))
    made = problem.whitened(jnp.asarray(oracles.chain_product(layers) + 0.1 * rng.standard_normal((4, 5))))
    calls = {
        "predict": lambda **kw: rates.predict(tuple(layers), made, step_size=0.1, **kw),
        "predict_reduced": lambda **kw: rates.predict_reduced(*layers, 2, made, 0.1, **kw),
        "predict_hessian": lambda **kw: hessian.predict_hessian(tuple(layers), made, step_size=0.1, **kw),
    }
    with pytest.raises(ValueError, match="no critical point"):
        calls[predict]()
    rate = calls[predict](tolerance=10.0)
    assert 0.01 < rate.gradient < 1


def test_the_distance_from_a_critical_point_is_reported_in_proportion():
    rng = np.random.default_rng(2)
    layers = orthonormal(rng, (5, 3, 4))
    made = problem.whitened(jnp.asarray(oracles.chain_product(layers)))
    found = []
    for noise in (0.0, 1e-8, 1e-7, 1e-6):
        moved = (layers[0] + noise * np.eye(3, 5), layers[1])
        found.append(rates.predict(moved, made, step_size=0.1).gradient)
    assert found[0] < 1e-15
    np.testing.assert_allclose(np.array(found[2:]) / found[1], [10, 100], rtol=1e-3)
    assert 0.2e-6 < found[3] < 2e-6


def test_layers_that_are_not_orthonormal_are_refused():
    layers = orthonormal(np.random.default_rng(3), (5, 3, 3, 4))
    layers = [layers[0] / 4, 2 * layers[1], 2 * layers[2]]
    made = problem.whitened(jnp.asarray(oracles.chain_product(layers)))
    found = guarantee.guarantee(tuple(layers), made, step_size=0.01, scales=(1.0, 16.0, 16.0))
    assert not found.applies
    assert "layer 2 is constrained but not orthonormal" in str(found.reason)
    for predict in (rates.predict, hessian.predict_hessian, rates.operator):
        with pytest.raises(ValueError, match="layer 2 is constrained but not orthonormal"):
            predict(tuple(layers), made, step_size=0.1)


def test_a_guarantee_needs_a_minimum_it_can_see():
    class Blind:
        def curvature(self):
            return 1.0, 1.0

    layers = orthonormal(np.random.default_rng(3), (5, 3, 4))
    found = guarantee.guarantee(tuple(layers), Blind(), step_size=0.01)  # type: ignore[arg-type]
    assert not found.applies
    assert "product_gradient" in str(found.reason)
    one = guarantee.guarantee((jnp.eye(3),), problem.whitened(jnp.eye(3)), step_size=0.01)
    assert not one.applies
    assert "one layer" in str(one.reason)


def exact_extremes(layers, x, step):
    """Squared singular values of the weighted Jacobian in 60 digits, first layer free: nothing is lost to rounding."""
    import mpmath

    with mpmath.workdps(60):
        free = [True] + [False] * (len(layers) - 1)
        jacobian = np.concatenate(oracles.product_jacobian(layers, free), axis=1)
        big = mpmath.matrix(x.tolist())
        square = big * big.T
        values, vectors = mpmath.eigsy(square)
        root = vectors * mpmath.diag([mpmath.sqrt(v) for v in values]) * vectors.T
        outputs = layers[-1].shape[0]
        whole = mpmath.zeros(jacobian.shape[0])
        for i in range(outputs):
            for a in range(len(x)):
                for b in range(len(x)):
                    whole[i * len(x) + a, i * len(x) + b] = root[a, b]
        inner = mpmath.matrix((jacobian @ jacobian.T).tolist())
        found = mpmath.eigsy(whole * inner * whole, eigvals_only=True)
        return [step * v for v in found]


@pytest.mark.parametrize("mean", [1e5, 1e6, 1e7])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("treatment", ["raw", "principal"])
def test_raw_features_of_a_large_mean_keep_their_slow_mode(mean, large, treatment, monkeypatch):
    """Years: the smallest eigenvalue is 1e-11 and less of the largest, and no zero. Wide last layer: no residual."""
    rng = np.random.default_rng(7)
    x = mean + rng.standard_normal((3, 20))
    y = rng.standard_normal((2, 3)) @ (x - mean)
    made, _ = problem.principal(jnp.asarray(x), jnp.asarray(y)) if treatment == "principal" else (None, None)
    made = made or problem.regression(jnp.asarray(x), jnp.asarray(y))
    frame = oracles.random_orthonormal(rng, 2, 2)
    first = frame.T @ np.asarray(made.target)
    step = 1 / np.linalg.norm(x, 2) ** 2
    if treatment == "principal":  # C is diagonal: the same numbers from its entries
        x = np.diag(np.asarray(made.root))
    if large:
        monkeypatch.setattr(rates, "DENSE", 0)
        monkeypatch.setattr("dlnjax.theory._reduced.DENSE", 0)
    expected = exact_extremes([first, frame], x, step)
    for rate in (
        rates.predict((first, frame), made, step_size=step),
        rates.predict_reduced(first, frame, 2, made, step),
    ):
        assert rate.num_zero == 0
        assert rate.eigenvalue_min == pytest.approx(float(min(expected)), rel=1e-3)
        assert rate.eigenvalue_max == pytest.approx(float(max(expected)), rel=1e-9)
        assert 0 < 1 - rate.factor < 1e-9 / (mean / 1e5) ** 2


def best_of_rank_one(mean):
    """Raw features of this mean, one hidden unit, two outputs: layers at the best product, problem and step."""
    rng = np.random.default_rng(8)
    x = mean + rng.standard_normal((3, 20))
    y = rng.standard_normal((2, 20))
    made = problem.with_optimum(problem.regression(jnp.asarray(x), jnp.asarray(y)), 1)
    left, values, right = np.linalg.svd(np.asarray(made.optimum), full_matrices=False)
    return [values[:1, None] * right[:1], left[:, :1]], made, 1 / np.linalg.norm(x, 2) ** 2


def test_raw_features_with_a_residual_are_right_or_refused():
    """With a residual the Hessian is formed, so thirteen decades are the limit, and it says so."""
    layers, made, step = best_of_rank_one(1e4)
    rate = rates.predict(tuple(layers), made, step_size=step)
    gaps = step_jacobian_rates(
        layers, np.asarray(made.target), np.asarray(made.covariance), step, [True, False]
    )
    assert rate.eigenvalue_max == pytest.approx(gaps.max(), rel=1e-4)
    assert 1e-10 < rate.eigenvalue_min < 1e-7
    layers, made, step = best_of_rank_one(1e8)
    with pytest.raises(ValueError, match="centre and scale the features"):
        rates.predict(tuple(layers), made, step_size=step)


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e5, 1e6])
def test_smallest_eigenvalue_of_hard_spectra_without_forming_the_operator(condition, monkeypatch):
    """Unequal widths: the bordered form, or where the last layer is free Lanczos and then the operator formed."""
    rng = np.random.default_rng(9)
    dims = (12, 2, 3, 5)
    layers = orthonormal(rng, dims)
    layers[0] = np.array([[1.0], [0.6]]) * layers[0]
    basis = oracles.random_orthonormal(rng, 12, 12)
    root = (basis * np.logspace(0, -np.log10(condition) / 2, 12)) @ basis.T
    made = quadratic(oracles.chain_product(layers), root @ root, root)
    operator = oracles.rate_operator(layers, np.full(3, 0.1), root, [True, False, False])
    low, high, zeros = oracles.extreme_rates(np.linalg.eigvalsh(operator), 1e-12)
    monkeypatch.setattr(rates, "DENSE", 0)
    rate = rates.predict(tuple(layers), made, step_size=0.1)
    assert rate.eigenvalue_min == pytest.approx(low, rel=1e-8)
    assert rate.eigenvalue_max == pytest.approx(high, rel=1e-11)
    assert rate.num_zero == zeros
    free_last = [w.T for w in reversed(layers)]
    turned = quadratic(oracles.chain_product(free_last))
    values = np.linalg.eigvalsh(
        oracles.rate_operator(free_last, np.full(3, 0.1), np.eye(5), [False, False, True])
    )
    low, high, _ = oracles.extreme_rates(values, 1e-12)
    rate = rates.predict(tuple(free_last), turned, step_size=0.1, constrained=(True, True, False))
    assert rate.eigenvalue_min == pytest.approx(low, rel=1e-8)
    assert rate.eigenvalue_max == pytest.approx(high, rel=1e-8)


def lanczos(condition):
    """Extremes of a dense matrix of 500 rows with equally spaced eigenvalues from 1 to 1/condition."""
    rng = np.random.default_rng(10)
    basis = np.linalg.qr(rng.standard_normal((500, 500)))[0]
    matrix = (basis * np.linspace(1, 1 / condition, 500)) @ basis.T
    return spectrum.lanczos_extremes(lambda v: matrix @ v, rng.standard_normal(500), lambda v: v)


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5])
def test_lanczos_is_right_to_its_tolerance(condition):
    found = lanczos(condition)
    assert found.smallest == pytest.approx(1 / condition, rel=2e-9)
    assert found.largest == pytest.approx(1, rel=2e-9)


def test_lanczos_says_where_its_shift_hides_the_smallest():
    with pytest.raises(ValueError, match="which the shift hides"):
        lanczos(1e9)


def test_lanczos_falls_back_to_the_formed_operator():
    """Residual, unequal widths, 12 x 60 = 720 rows and a covariance of condition 1e6: Lanczos gives up, the
    answer does not."""
    rng = np.random.default_rng(11)
    basis = oracles.random_orthonormal(rng, 60, 60)
    root = (basis * np.logspace(0, -3, 60)) @ basis.T
    target = rng.standard_normal((12, 60))
    best = oracles.best_rank(target, root, 2)
    layers = oracles.with_product(rng, (60, 2, 4, 12), best)
    made = quadratic(target, root @ root, root)
    large = rates.predict(tuple(layers), made, step_size=0.1)
    product = oracles.chain_product(layers)
    weighted = np.linalg.svd(product @ root)
    missed = np.linalg.svd((target - product) @ root, compute_uv=False)
    assert weighted[1][1] > missed[0]  # the best of its rank
    assert large.num_zero == rates.tangent_dimension_of(
        rates._host.chain(tuple(layers)), [60, 2, 4, 12]
    ) - 2 * (72 - 2)
    slope = np.asarray(hessian._derivatives(rates._host.chain(tuple(layers), 0.1), made)[1])
    values = np.linalg.eigvalsh(slope)
    assert large.eigenvalue_max == pytest.approx(values[-1], rel=1e-8)
    assert large.eigenvalue_min == pytest.approx(np.sort(np.abs(values))[-2 * 70], rel=1e-5)


@pytest.mark.parametrize(
    ("dims", "zeros"),
    [((4, 1, 1), 0), ((4, 1, 1, 1), 0), ((3, 1, 1, 2), 0), ((1, 1, 1), 0), ((1, 1, 3), 0), ((2, 3, 1), 0)],
)
@pytest.mark.parametrize("large", [False, True])
def test_tangent_spaces_without_dimension(dims, zeros, large, monkeypatch):
    """One hidden unit, one output, one input: against the Jacobian of the definition."""
    if large:
        monkeypatch.setattr(rates, "DENSE", 0)
        monkeypatch.setattr("dlnjax.theory._reduced.DENSE", 0)
    rng = np.random.default_rng(12)
    layers = orthonormal(rng, dims)
    layers[0] = 0.7 * layers[0]
    free = [True] + [False] * (len(dims) - 2)
    values = np.linalg.eigvalsh(
        oracles.rate_operator(layers, np.full(len(layers), 0.1), np.eye(dims[0]), free)
    )
    low, high, count = oracles.extreme_rates(values)
    made = quadratic(oracles.chain_product(layers))
    rate = rates.predict(tuple(layers), made, step_size=0.1)
    assert (rate.eigenvalue_min, rate.eigenvalue_max) == pytest.approx((low, high), rel=1e-12)
    assert rate.num_zero == count
    reduced = rates.predict_reduced(layers[0], oracles.chain_product(layers[1:]), len(layers), made, 0.1)
    if len(set(dims[1:-1])) == 1:
        np.testing.assert_allclose(reduced[:6], rate[:6], rtol=1e-12)


def test_tied_singular_values_count_as_zeros_of_the_set_of_optima():
    """sigma = (2, 1 | 1): along the tie the best products of rank 2 form a set; the rate to the set has one
    zero more."""
    target = np.diag([2.0, 1.0, 1.0])
    layers = [np.diag([2.0, 1.0, 1.0])[:2], np.eye(3)[:, :2]]
    made = quadratic(target)
    jacobian = step_jacobian_rates(layers, target, np.eye(3), 0.1, [True, False])
    low, high, zeros = oracles.extreme_rates(jacobian, 1e-6)
    rate = rates.predict(tuple(layers), made, step_size=0.1)
    assert (rate.eigenvalue_min, rate.eigenvalue_max) == pytest.approx((low, high), rel=1e-6)
    assert rate.num_zero == zeros
    with pytest.raises(ValueError, match="rank 2 is not unique"):
        problem.with_optimum(made, 2)


def test_an_ambiguous_spectrum_is_refused_unless_the_caller_decides():
    values = np.array([1.0, 0.5, 1e-11, 1e-16])
    with pytest.raises(ValueError, match="ambiguous: 1 eigenvalues"):
        spectrum.extremes(values)
    assert spectrum.extremes(values, zero=1e-10) == (0.5, 1.0, 2)
    assert spectrum.extremes(values, zeros=1) == (1e-11, 1.0, 3)
    with pytest.raises(ValueError, match="ill-conditioned"):
        spectrum.extremes(values, zeros=0)
    with pytest.raises(ValueError, match="not finite"):
        spectrum.extremes(np.array([1.0, np.nan]))


def test_outputs_that_are_not_fitted_are_refused():
    layers = orthonormal(np.random.default_rng(4), (4, 3, 2))
    x = np.random.default_rng(5).standard_normal((4, 6))
    y = oracles.chain_product(layers) @ x
    options = {"step_size": 0.01}
    rate = hessian.predict_network(tuple(layers), x, None, target=y, **options)
    assert rate.gradient < 1e-14
    assert np.isnan(hessian.predict_network(tuple(layers), x, None, **options).gradient)
    with pytest.raises(ValueError, match="miss their target by 0"):
        hessian.predict_network(tuple(layers), x, None, target=2 * y, **options)
    with pytest.raises(ValueError, match="miss their target by 0"):
        hessian.predict_outputs(
            tuple(layers), lambda p: network.forward(p, jnp.asarray(x)), target=2 * y, **options
        )
    loss = losses.WeightedSquare(jnp.asarray(oracles.chain_product(layers)) + 1, jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="no critical point"):
        hessian.predict_product(tuple(layers), loss, **options)


def test_principal_problems_have_eigenvalues():
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((3, 9)), rng.standard_normal((2, 9))
    raw, (turned, _) = (
        problem.regression(jnp.asarray(x), jnp.asarray(y)),
        problem.principal(jnp.asarray(x), jnp.asarray(y)),
    )
    assert guarantee.constants(turned) == pytest.approx(guarantee.constants(raw), rel=1e-12)
    frame = oracles.random_orthonormal(rng, 2, 2)
    found = [
        rates.predict((frame.T @ np.asarray(p.target), frame), p, step_size=0.01)[:6] for p in (raw, turned)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10)


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        ([1e200, 1e199], "rescale the target"),
        ([1e-200], "rescale"),
        ([1.0, 1e-14], "give 0"),
        ([np.nan], "finite"),
        ([], "list"),
    ],
)
def test_closed_form_at_the_ends_of_the_range(sigma, message):
    with pytest.raises(ValueError, match=message):
        closed.closed_form(sigma, dims=(8, 2, 2, 8), step_size=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": -0.1}, "finite and >= 0"),
        ({"step_size": 0.0}, "one positive"),
        ({"step_size": np.nan}, "finite"),
        ({"step_size": 0.1, "scales": (1.0, -1.0)}, "finite and >= 0"),
    ],
)
def test_steps_that_are_none_are_refused(options, message):
    layers = orthonormal(np.random.default_rng(4), (4, 3, 2))
    made = quadratic(oracles.chain_product(layers))
    for predict in (rates.predict, hessian.predict_hessian, rates.operator):
        with pytest.raises(ValueError, match=message):
            predict(tuple(layers), made, **options)
    with pytest.raises(ValueError, match="does not follow"):
        rates.predict((layers[0], np.eye(2)), made, step_size=0.1)
    with pytest.raises(ValueError, match="give layers of this problem"):
        rates.predict(tuple(layers), quadratic(np.ones((3, 4))), step_size=0.1)
    with pytest.raises(ValueError, match="not finite"):
        rates.predict((np.full((3, 4), np.nan), layers[1]), made, step_size=0.1)
