"""The guarantee: its constants against their definition, where it applies, and small campaigns."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dlnjax import losses, network, problem
from dlnjax.campaigns import checks
from dlnjax.campaigns.checks import draw
from dlnjax.theory import guarantee

SIGMA = (1.0, 0.8, 0.6, 0.4)


def coloured(rng):
    x = rng.standard_normal((4, 9))
    return problem.regression(jnp.asarray(x), jnp.asarray(rng.standard_normal((3, 9))))


def weighted(rng):
    return losses.WeightedSquare(
        jnp.asarray(rng.standard_normal((3, 4))), jnp.asarray(rng.uniform(0.2, 3, (3, 4)))
    )


def sensing(rng):
    return losses.MatrixSensing(
        jnp.asarray(rng.standard_normal((3, 4))), jnp.asarray(rng.standard_normal((20, 3, 4)))
    )


def logistic(rng):
    x = jnp.asarray(rng.standard_normal((4, 30)))
    return losses.ridge_logistic(x, jnp.asarray(rng.integers(0, 2, (3, 30)).astype(float)), 0.5)


ALL = [coloured, weighted, sensing, logistic]


@pytest.mark.parametrize("make", ALL)
def test_restricted_correlated_gradient_holds(make):
    """<dh(P) - dh(Q), P - Q> >= alpha ||P - Q||^2 + beta ||dh(P) - dh(Q)||^2 on random pairs."""
    rng = np.random.default_rng(0)
    made = make(rng)
    alpha, beta = guarantee.constants(made)
    assert alpha > 0
    assert alpha * beta <= 0.25 + 1e-15
    pairs = jnp.asarray(rng.standard_normal((300, 2, 3, 4)) * np.exp(rng.normal(size=(300, 1, 1, 1))))
    slopes = jax.jit(jax.vmap(jax.vmap(made.product_gradient)))(pairs)
    apart, turned = pairs[:, 0] - pairs[:, 1], slopes[:, 0] - slopes[:, 1]
    inner, near, far = (np.asarray(jnp.sum(v, (1, 2))) for v in (apart * turned, apart**2, turned**2))
    assert np.all(inner >= (alpha * near + beta * far) * (1 - 1e-12))
    # 10% larger constants are violated by the square losses' extreme directions
    if make is not logistic:
        flat = np.array(
            [np.asarray(made.product_gradient(made.optimum + e.reshape(3, 4))).ravel() for e in np.eye(12)]
        )
        values, vectors = np.linalg.eigh((flat + flat.T) / 2)
        worst = [v * 1.0 - 1.1 * (alpha + beta * v * v) for v in values]
        assert min(worst) < 0
        assert vectors.shape == (12, 12)


@pytest.mark.parametrize("make", ALL)
def test_losses_meet_the_protocol_and_their_optimum(make):
    rng = np.random.default_rng(1)
    made = make(rng)
    layers = tuple(jnp.asarray(rng.standard_normal(s)) for s in ((2, 4), (2, 2), (3, 2)))
    steps = made.gradients(layers, jnp.zeros((), jnp.int32))
    automatic = jax.grad(made.loss)(layers)
    for a, b in zip(steps, automatic, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)
    assert made.product_distance(made.optimum) == 0
    assert jnp.linalg.norm(made.product_gradient(made.optimum)) < 1e-9
    low = made.product_loss(made.optimum)
    for _ in range(20):
        assert made.product_loss(made.optimum + 0.1 * rng.standard_normal((3, 4))) > low
    batch = jax.vmap(lambda w: made.product_loss(w))(jnp.stack([made.optimum] * 3))
    np.testing.assert_allclose(batch, low)


def test_sensing_by_few_measurements_has_no_curvature_on_all_matrices():
    rng = np.random.default_rng(2)
    made = losses.MatrixSensing(jnp.zeros((6, 6)), jnp.asarray(rng.standard_normal((30, 6, 6)) / 30**0.5))
    assert made.curvature()[0] == 0
    low, high = made.restricted(2)
    assert 0 < low < 1 < high <= made.curvature()[1]
    with pytest.raises(ValueError, match="ridge=0"):
        losses.ridge_logistic(jnp.ones((2, 3)), jnp.ones((1, 3)), 0.0)


def test_the_reference_case():
    """sigma = (1, .8, .6, .4): dist <= .1/N, mu = .01 allowed up to N = 37."""
    dims = {n: (8, *[4] * (n - 1), 8) for n in (2, 16, 37, 38)}
    found = {n: guarantee.from_spectrum(SIGMA, dims=dims[n], step_size=0.01) for n in dims}
    assert found[2].applies
    assert found[2].radius == pytest.approx(0.05)
    assert found[16].radius == pytest.approx(0.1 / 16)
    assert found[2].factor == pytest.approx(np.sqrt(1 - 0.01 / 5 / 6.25 * 1.0))
    assert found[37].applies
    assert not found[38].applies
    assert found[38].radius is None
    assert "exceeds" in str(found[38].reason)


@pytest.mark.parametrize(
    ("sigma", "dims", "options", "reason"),
    [
        (SIGMA[:2], (8, 2, 3, 8), {}, "unequal"),
        (SIGMA, (8, 4, 4, 3), {}, "wide"),
        (SIGMA[:3], (8, 4, 4, 8), {}, "rank 3"),
        (SIGMA, (8, 4, 4, 8), {"alpha": 0.0}, "alpha = 0"),
        (SIGMA, (8, 4, 4, 8), {"scales": (1, 1, 2)}, "differ"),
        (SIGMA, (8, 4, 4, 8), {"scales": (1, 2, 2)}, "not mu/sigma_1"),
        (SIGMA, (8, 4, 4, 8), {"step_size": 0.3}, "exceeds"),
        (SIGMA, (8, 4, 4, 8), {"distance": 0.1}, "outside the basin"),
    ],
)
def test_it_says_where_it_does_not_apply(sigma, dims, options, reason):
    found = guarantee.from_spectrum(sigma, dims=dims, **{"step_size": 0.01, **options})
    assert not found.applies
    assert reason in str(found.reason)
    assert (found.radius, found.step_max, found.factor) == (None, None, None)


def test_for_layers_and_a_problem():
    rng = np.random.default_rng(0)
    layers = draw.solution(rng, (6, 3, 3, 5), np.array([2.0, 1.5, 1.0]))
    product = oracles.chain_product(layers)
    made = draw.quadratic(product, 0.25, rng)
    params = network.stack(tuple(jnp.asarray(w) for w in layers))
    scales = (1.0, jnp.array([0.25]), 0.25)
    found = guarantee.guarantee(params, made, step_size=0.1, scales=scales, distance=0.01)
    assert found.applies
    alpha, beta = 0.25 / 1.25, 1 / 1.25
    assert guarantee.constants(made) == pytest.approx((alpha, beta), rel=1e-9)
    assert found.radius == pytest.approx(np.sqrt(alpha * beta) / 6, rel=1e-9)
    assert found.factor == pytest.approx(np.sqrt(1 - 2 * alpha * 0.1 / (5 * 4)), rel=1e-12)
    off = problem.whitened(jnp.asarray(product + 0.1))
    assert "residual" in str(guarantee.guarantee(params, off, step_size=0.1, scales=scales).reason)
    flat = draw.weighted(product, 0.5, rng)
    assert guarantee.guarantee(params, flat, step_size=0.1, scales=scales).applies
    with pytest.raises(ValueError, match="low <= high"):
        guarantee.constants_from_curvature(2.0, 1.0)


SMALL = {
    "guarantee": {"num_steps": 10, "groups": [((5, 2, 2, 4), draw.sensing)]},
    "rates": {"shapes": [(5, 2, 3, 4)]},
    "tanh": {"instances": 2, "shapes": [(3, 2, 3)]},
    "rules": {"num_steps": 30, "shapes": [(2, 3, 3, 3, 3)]},
    "modes": {"depths": [3], "step": 4e-3},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_small_campaigns_find_no_violation(name):
    found = checks.PARTS[name](**{"instances": 8, **SMALL[name]})
    assert found.checks > 0
    assert found.violations == 0
    assert 0 < found.tightest <= 1
    assert "0 violations" in str(found)


def test_a_campaign_can_fail(monkeypatch):
    """A theorem with a basin and a factor that are not its own is caught."""
    real = guarantee.guarantee

    def boast(*args, **options):
        return real(*args, **options)._replace(factor=0.9)

    monkeypatch.setattr(guarantee, "guarantee", boast)
    assert checks.PARTS["guarantee"](instances=4, **SMALL["guarantee"]).violations > 0
