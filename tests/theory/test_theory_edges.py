"""Arguments at the ends of what is defined: ranks, times, strengths, widths of one, empty and huge data."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import oracles
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special

from dlnjax import initial, losses, problem, scales
from dlnjax.theory import closed, descent, flow, guarantee, modes, momentum, orthogonal, scaling
from dlnjax.theory.rates import Rate

X, Y = np.random.default_rng(0).standard_normal((2, 3, 7))
RATE = closed.closed_form([1.0, 0.5], dims=(4, 2, 4), step_size=0.1)
SADDLE = RATE._replace(eigenvalue_min=-0.1)


@pytest.mark.parametrize("rank", [-1, 4, 1.5])
def test_ranks_that_no_product_has(rank):
    with pytest.raises(ValueError, match="whole number from 0 to 3"):
        descent.rank_optimum(X, Y, rank)


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_rank_optima_at_any_scale(scale):
    weighted = Y @ np.linalg.svd(X, full_matrices=False)[2].T
    values = np.linalg.svd(weighted, compute_uv=False)
    expected = [(np.sum(Y**2) - np.sum(values[:k] ** 2)) / 2 * scale**2 for k in range(4)]
    np.testing.assert_allclose(descent.rank_optima(X / scale, Y * scale), expected, rtol=1e-10)


def test_data_that_are_none():
    for x, y, message in (
        (X, Y[:, :3], "give x"),
        (X[:, :0], Y[:, :0], "empty"),
        (X * np.nan, Y, "not finite"),
        (X, Y * 1e200, "rescale the outputs"),
    ):
        with pytest.raises(ValueError, match=message):
            descent.rank_optima(x, y)
    with pytest.raises(ValueError, match="finite numbers"):
        descent.reached_rank(np.nan, [1.0, 0.0])
    with pytest.raises(ValueError, match="give x \\(d_0, n\\)"):
        descent.step_bound((jnp.eye(2),), X, Y)
    assert descent.numerical_rank(np.zeros((2, 2))) == 0
    assert descent.numerical_rank(1e-200 * np.diag([1.0, 0.5])) == 2
    assert descent.imbalance((jnp.eye(2),)) == 0


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_critical_points_at_any_scale(size):
    """Of a small target nothing is critical merely because all is small."""
    made = problem.whitened(size * jnp.diag(jnp.array([2.0, 1.0])))
    root = size**0.5
    nowhere = (root * jnp.eye(2) * 0.5, root * jnp.eye(2))
    assert descent.critical_point(nowhere, made).kind == "none"
    there = (root * jnp.diag(jnp.array([2.0, 1.0])), root * jnp.eye(2))
    assert descent.critical_point(there, made).kind == "minimum"
    missing = (root * jnp.diag(jnp.array([0.0, 1.0])), root * jnp.diag(jnp.array([0.0, 1.0])))
    assert descent.critical_point(missing, made).kind == "saddle"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: modes.trajectory([-1.0], 0.1, 1.0, 3), "times >= 0"),
        (lambda: modes.trajectory([np.inf], 0.1, 1.0, 3), "finite times"),
        (lambda: modes.time_to_reach(1.0, 0.1, 1.0, 2), "never reached"),
        (lambda: modes.time_to_reach(1.5, 0.1, 1.0, 2), "never reached"),
        (lambda: modes.time_to_reach(0.05, 0.1, 1.0, 2), "never reached"),
        (lambda: modes.time_to_reach(0.5, 2.0, 1.0, 2), "never reached"),
        (lambda: modes.time_to_reach(np.nan, 0.1, 1.0, 2), "never reached"),
        (lambda: modes.time_to_reach(0.5, 0.1, 1.0, 0), "at least 1"),
        (lambda: modes.time_to_learn(0.1, 1.0, 2, 1.0), "fraction=1"),
        (lambda: modes.time_to_learn(-0.1, 1.0, 2), "positive"),
        (lambda: modes.speed(-0.1, 1.0, 3), "a >= 0"),
        (lambda: momentum.best(SADDLE, 0.1), "saddle"),
        (lambda: momentum.best(RATE, -0.1), "step_size=-0.1"),
        (lambda: momentum.step_max(RATE, 0.1, 1.0), "in \\[0, 1\\)"),
        (lambda: momentum.mode_factor(0.1, -0.1), "in \\[0, 1\\)"),
        (lambda: scaling.condition(SADDLE), "saddle"),
        (lambda: scaling.middle([0.0], (4, 2, 4)), "largest in"),
        (lambda: scaling.best([1.0, 0.5], (4, 2)), "num_layers=1"),
        (
            lambda: scaling.optimise(lambda x: scaling.Scaling((1, 1, 1), 1, -x[0]), [0.0], sweeps=3),
            "no optimum",
        ),
        (lambda: closed.closed_form([1.0], dims=(4, 1), step_size=0.1), "at least 2"),
        (lambda: closed.closed_form([1.0], dims=(4, 0, 4), step_size=0.1), "positive whole"),
        (
            lambda: closed.closed_form([1.0], dims=(4, 1, 4), step_size=0.1, residual=(-0.1,)),
            "finite singular",
        ),
        (lambda: closed.spectral_step_max([1e200], dims=(4, 1, 4)), "rescale"),
        (
            lambda: guarantee.from_spectrum([1.0], dims=(4, 1, 4), step_size=0.1, alpha=2.0),
            "alpha beta <= 1/4",
        ),
        (lambda: guarantee.from_spectrum([1.0], dims=(4, 1, 4), step_size=0.1, distance=-1.0), "distance=-1"),
        (lambda: guarantee.from_spectrum([np.nan], dims=(4, 1, 4), step_size=0.1), "finite numbers"),
        (lambda: guarantee.constants_from_curvature(1.0, np.inf), "low <= high"),
        (lambda: flow.operator(jnp.eye(2), jnp.eye(2), 0), "at least 1"),
        (lambda: flow.spectrum(np.eye(2), 0), "at least 1"),
        (lambda: flow.metric(jnp.eye(2), jnp.eye(2), jnp.ones((2, 1)), 2), "of one shape"),
        (lambda: flow.descent((jnp.eye(2),), problem.whitened(jnp.eye(2)), -0.1, 3), "step_size=-0.1"),
        (lambda: flow.descent((jnp.eye(2),), problem.whitened(jnp.eye(2)), 0.1, -3), "num_steps=-3"),
        (lambda: flow.descent_gap((jnp.eye(2),), problem.whitened(jnp.eye(2)), -1.0, 3), "must be positive"),
        (lambda: descent.drift((jnp.eye(2), jnp.eye(2)), -0.1), "step_size=-0.1"),
        (lambda: orthogonal.step(2 * jnp.eye(2), jnp.eye(2), 0.1, 3), "from orthogonal"),
        (lambda: orthogonal.step(jnp.eye(2), jnp.eye(2), -0.1, 3), "step_size=-0.1"),
        (lambda: scales.discrepant((jnp.zeros((2, 2)), jnp.eye(2))), "first layer that is not zero"),
        (lambda: scales.middle((1e200 * jnp.eye(2), jnp.eye(2))), "rescale the target"),
        (lambda: initial.haar(jax.random.key(0), (3, 2), -1.0), "first_scale=-1"),
        (lambda: initial.perturb(jax.random.key(0), (jnp.eye(2),), -1.0), "noise=-1"),
        (lambda: initial.teacher(jax.random.key(0), (3, 2), [np.nan]), "positive"),
        (lambda: initial.teacher(jax.random.key(0), (3, 2), [1e-60], jnp.float32), "range of float32"),
        (lambda: initial.spectral(jnp.full((2, 2), jnp.nan), (2, 2)), "not finite"),
    ],
)
def test_what_has_no_answer_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("num_layers", [1, 2, 3, 7, 40])
@pytest.mark.parametrize(("start", "s"), [(1e-12, 1.0), (0.3, 2.0), (5.0, 2.0), (1.999, 2.0), (1e-3, 1e3)])
def test_times_against_quadrature_in_thirty_digits(num_layers, start, s):
    end = 0.5 * (start + s)
    power = mpmath.mpf(2) / num_layers - 2
    with mpmath.workdps(30):
        cuts = np.geomspace(start, end, 40).tolist()
        exact = mpmath.quad(lambda a: a**power / (num_layers * (s - a)), cuts)
    found = float(modes.time_to_reach(end, start, s, num_layers))
    assert found == pytest.approx(float(exact), rel=1e-11)
    moved = float(modes.speed(end, s, num_layers)) * found / end  # what a relative error of the time becomes
    assert float(modes.trajectory(found, start, s, num_layers)) == pytest.approx(
        end, rel=1e-11 * (1 + abs(moved))
    )
    assert float(modes.trajectory(0.0, start, s, num_layers)) == pytest.approx(start, rel=1e-12)
    assert float(modes.trajectory(1e14, start, s, num_layers)) == pytest.approx(s, rel=1e-9)


def test_momentum_at_a_saddle():
    assert momentum.predict(SADDLE, 0.5) > 1
    assert momentum.step_max(SADDLE, 0.1, 0.5) == 0
    assert isinstance(RATE, Rate)
    assert RATE.gradient == 0


def exact_logistic(x, y, ridge):
    """The minimiser by scipy's Newton-CG and a root finder on the gradient, in double precision, output by output."""
    found = []
    for labels in y:

        def gradient(w, t=labels):
            return x @ (scipy.special.expit(w @ x) - t) + ridge * w

        def hessian(w):
            p = scipy.special.expit(w @ x)
            return (x * (p * (1 - p))) @ x.T + ridge * np.eye(len(x))

        def value(w, t=labels):
            f = w @ x
            return np.sum(np.logaddexp(f, 0) - t * f) + ridge / 2 * w @ w

        w = scipy.optimize.minimize(
            value,
            np.zeros(len(x)),
            jac=gradient,
            hess=hessian,
            method="trust-exact",
            options={"gtol": 1e-300, "maxiter": 2000},
        ).x
        found.append(scipy.optimize.root(gradient, w, jac=hessian, tol=1e-15).x)
    return np.array(found)


@pytest.mark.parametrize(
    ("size", "mean", "ridge"),
    [(1.0, 0.0, 0.5), (1e-3, 0.0, 1e-9), (1e-6, 0.0, 1e-14), (30.0, 0.0, 1e-2), (1.0, 100.0, 0.1)],
)
def test_the_logistic_minimiser_is_found(size, mean, ridge):
    rng = np.random.default_rng(3)
    x = size * (mean + rng.standard_normal((4, 30)))
    y = rng.integers(0, 2, (3, 30)).astype(float)
    made = losses.ridge_logistic(jnp.asarray(x), jnp.asarray(y), ridge)
    scale = np.linalg.norm(x @ (0.5 - y.T), axis=0).max()
    expected = exact_logistic(x, y, ridge)
    slope = x @ (scipy.special.expit(np.asarray(made.optimum) @ x) - y).T + ridge * np.asarray(made.optimum).T
    assert np.linalg.norm(slope) < 1e-9 * scale
    if not mean:
        np.testing.assert_allclose(made.optimum, expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


def test_a_minimiser_that_is_not_found_is_an_error():
    x, y = jnp.asarray(X), jnp.asarray((Y > 0).astype(float))
    with pytest.raises(ValueError, match="relative gradient of up to"):
        losses.ridge_logistic(x, y, 1e-3, num_steps=2)
    traced = jax.jit(lambda x: losses.ridge_logistic(x, y, 1e-3, num_steps=2).optimum)(x)
    assert bool(jnp.all(jnp.isnan(traced)))
    with pytest.raises(ValueError, match="outside \\[0, 1\\]"):
        losses.ridge_logistic(x, 2 * y + 1, 1.0)
    with pytest.raises(ValueError, match="not empty"):
        losses.ridge_logistic(x[:, :0], y[:, :0], 1.0)


def test_losses_whose_curvature_is_none():
    eye = jnp.eye(2)
    for made, message in (
        (losses.WeightedSquare(eye, -eye), "positive"),
        (losses.WeightedSquare(eye, jnp.ones((3, 2))), "one an entry"),
        (losses.MatrixSensing(eye, jnp.zeros((3, 2, 2))), "all zero"),
        (losses.MatrixSensing(eye, jnp.ones((3, 2))), "m >= 1"),
        (losses.RidgeLogistic(eye, eye, jnp.asarray(-1.0), eye), "ridge=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            made.curvature()
    with pytest.raises(ValueError, match="rank=3"):
        losses.MatrixSensing(eye, jnp.ones((3, 2, 2))).restricted(3)
    repeated = losses.MatrixSensing(eye, jnp.ones((6, 2, 2)))
    assert repeated.curvature()[0] == 0  # they see one direction: rounding is no curvature


@pytest.mark.parametrize("make", [problem.regression, problem.whiten, problem.principal])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:, :0], Y[:, :0], "not empty"),
        (X[:0], Y, "not empty"),
        (np.zeros((3, 7)), Y, "x is zero"),
        (X * np.nan, Y, "x holds"),
        (X, Y * np.inf, "y holds"),
        (np.concatenate([X, X + 1e-14 * Y]), Y, "centre the features"),
    ],
)
def test_features_that_are_none(make, x, y, message):
    with pytest.raises(ValueError, match=message):
        make(jnp.asarray(x), jnp.asarray(y))


@pytest.mark.parametrize("make", [problem.regression, problem.principal])
@pytest.mark.parametrize(
    ("dtype", "size"), [("float64", 1e-160), ("float64", 1e160), ("float32", 1e-22), ("float32", 1e22)]
)
def test_features_whose_squares_are_out_of_range(make, dtype, size):
    with pytest.raises(ValueError, match=f"range of {dtype}; rescale the features"):
        make(jnp.asarray(X * size, dtype), jnp.asarray(Y, dtype))


def test_a_mean_that_single_precision_cannot_carry():
    x = 1e5 + np.random.default_rng(1).standard_normal((2, 400))
    with pytest.raises(ValueError, match="centre the features"):
        problem.regression(jnp.asarray(x, "float32"), jnp.asarray(x[:1], "float32"))
    made = problem.regression(jnp.asarray(x), jnp.asarray(x[:1]))
    np.testing.assert_allclose(made.target, [[1.0, 0.0]], atol=1e-9)


def test_one_sample_and_one_class():
    made, new = problem.whiten(jnp.asarray(X[:, :1]), jnp.asarray(Y[:1, :1]))
    assert made.target.shape == (1, 1)
    np.testing.assert_allclose(new @ X[:, :1], [[1.0]], rtol=1e-12)
    np.testing.assert_allclose(made.target, Y[:1, :1] / 1.0, rtol=1e-12)
    found = closed.closed_form([abs(float(Y[0, 0]))], dims=(1, 1, 1, 1), step_size=0.1)
    assert (found.eigenvalue_min, found.eigenvalue_max) == (0.1, 0.1)


@pytest.mark.parametrize("target", [jnp.zeros((0, 3)), jnp.asarray(1.0), jnp.ones(3)])
def test_targets_that_are_no_matrix(target):
    with pytest.raises(ValueError, match="give the matrix T"):
        problem.whitened(target)


@pytest.mark.mistakes
@pytest.mark.parametrize("rank", [0, -1, 1.5])
def test_optima_of_no_rank(rank):
    with pytest.raises(ValueError, match=f"rank={rank}"):
        problem.with_optimum(problem.whitened(jnp.eye(3)), rank)


@pytest.mark.mistakes
def test_samples_that_are_none():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"batch_size=1\.5"):
        problem.minibatch(jnp.asarray(X), jnp.asarray(Y), 1.5, key)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not empty"):
        problem.nonlinear(jnp.asarray(X[:, :0]), jnp.asarray(Y[:, :0]), None)
    keyless = problem.Samples(jnp.asarray(X), jnp.asarray(Y), batch_size=2)
    with pytest.raises(ValueError, match="without a key"):
        keyless.gradients((jnp.ones((3, 3)),), jnp.zeros((), jnp.int32))


def test_one_layer_flows_are_the_gradient():
    z = jnp.asarray(Y[:, :3])
    np.testing.assert_allclose(flow.operator(jnp.asarray(X[:, :3]), z, 1), z, rtol=1e-13)
    assert oracles.chain_product([np.eye(2)]).shape == (2, 2)
