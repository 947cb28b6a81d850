"""Rates of losses other than the square, held against the Jacobian of the optimizer's own step."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax import initial, losses, network, optim, scales
from dlnjax.theory import hessian

DIMS = (5, 3, 3, 4)


def weighted(target):
    weights = np.random.default_rng(0).uniform(0.25, 1, target.shape)
    return losses.WeightedSquare(target, jnp.asarray(weights))


def sensing(target):
    drawn = np.random.default_rng(1).standard_normal((50, *target.shape)) / 50**0.5
    return losses.MatrixSensing(target, jnp.asarray(drawn))


def logistic(target):
    """Labels for which the target is the minimiser: the gradient ``(sigmoid(Tx) - y) x^T + ridge T`` vanishes."""
    rows = np.linalg.qr(np.random.default_rng(2).standard_normal((40, DIMS[0])))[0].T
    x = jnp.asarray(40**0.5 * rows)
    scores = target @ x
    return losses.RidgeLogistic(x, jax.nn.sigmoid(scores) + 0.05 * scores, jnp.asarray(2.0), target)


@pytest.mark.slow
@pytest.mark.parametrize("make", [weighted, sensing, logistic])
def test_predicted_factor_is_the_spectral_radius_of_the_step(make):
    teacher = initial.teacher(jax.random.key(3), DIMS, [1.0, 0.8, 0.5])
    loss = make(network.end_to_end(teacher))
    steps = {"step_size": 0.2 / loss.curvature()[1], "scales": scales.discrepant(teacher)}
    transformation = optim.rgd(steps["step_size"], scales=steps["scales"])
    flat, layers = jax.flatten_util.ravel_pytree(teacher)

    def step(flat):
        params = layers(flat)
        updates, _ = transformation.update(loss.gradients(params, 0), transformation.init(params), params)
        return jax.flatten_util.ravel_pytree(jax.tree.map(jnp.add, params, updates))[0]

    moduli = np.abs(np.linalg.eigvals(np.asarray(jax.jacfwd(step)(flat))))
    shrinking = moduli[moduli < 1 - 1e-9]  # the others move along the gauge, or off the manifold
    assert shrinking.max() == pytest.approx(hessian.predict_product(teacher, loss, **steps).factor, abs=1e-10)
