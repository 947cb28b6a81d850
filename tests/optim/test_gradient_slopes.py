"""Riemannian gradients of every loss: ``f(Retr_W(t xi)) - f(W) - t <grad f, xi>`` vanishes like t^2."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dlnjax import losses, network, optim, problem, stiefel

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((5, 9)), RNG.standard_normal((3, 9))
TARGET = RNG.standard_normal((3, 5))
PROBLEMS = {
    "whitened": problem.whitened(jnp.asarray(TARGET)),
    "regression": problem.regression(jnp.asarray(X), jnp.asarray(Y)),
    "principal": problem.principal(jnp.asarray(X), jnp.asarray(Y))[0],
    "linear samples": problem.nonlinear(jnp.asarray(X), jnp.asarray(Y), None),
    "tanh": problem.nonlinear(jnp.asarray(X), jnp.asarray(Y), jnp.tanh),
    "weighted": losses.WeightedSquare(jnp.asarray(TARGET), jnp.asarray(RNG.uniform(1, 2, (3, 5)))),
    "sensing": losses.MatrixSensing(jnp.asarray(TARGET), jnp.asarray(RNG.standard_normal((20, 3, 5)))),
    "logistic": losses.ridge_logistic(jnp.asarray(X), jnp.asarray((Y > 0).astype(float)), 0.1),
}
TALL, WIDE = (5, 2, 2, 2, 3), (5, 4, 4, 4, 3)
CASES = [(name, TALL) for name in PROBLEMS] + [("whitened", WIDE), ("tanh", WIDE)]
LABELS = (False, True, True)


def layers(dims, rng):
    """W_1 free, the others orthonormal; the square ones in one run."""
    drawn = [rng.standard_normal((after, before)) for before, after in itertools.pairwise(dims)]
    drawn[1:] = [oracles.polar_factor(w) for w in drawn[1:]]
    return network.stack(tuple(map(jnp.asarray, drawn)))


def direction(params, rng):
    """A random one, tangent where the layer is held by the oracle's projection."""
    free, run, last = (np.asarray(w) for w in params)
    first, middle, end = (rng.standard_normal(w.shape) for w in (free, run, last))
    middle = np.stack([oracles.tangent(w, z) for w, z in zip(run, middle, strict=True)])
    return tuple(map(jnp.asarray, (first, middle, oracles.tangent(last, end))))


def unit(xi):
    return jax.tree.map(lambda z: z / np.sqrt(sum(float(jnp.sum(z**2)) for z in xi)), xi)


@pytest.mark.parametrize(("name", "dims"), CASES, ids=str)
def test_the_first_order_term_is_the_riemannian_gradient(name, dims):
    task, rng = PROBLEMS[name], np.random.default_rng(1)
    params = layers(dims, rng)
    link = optim.on(LABELS, optim.project_to_tangent())
    gradient, _ = link.update(jax.jit(task.gradients)(params, 0), link.init(params), params)

    @jax.jit
    @jax.vmap
    def along(t, xi):
        held = [stiefel.retract_polar(w, t * z) for w, z in zip(params[1:], xi[1:], strict=True)]
        return task.loss((params[0] + t * xi[0], *held))

    times = jnp.asarray([0.0, *2.0 ** -np.arange(7, 13)])
    for xi in (unit(direction(params, rng)), unit(gradient)):
        first_order = sum(float(jnp.vdot(g, z)) for g, z in zip(gradient, xi, strict=True))
        assert abs(first_order) > 1e-2  # else any gradient would pass
        values = along(times, jax.tree.map(lambda z: jnp.stack([z] * len(times)), xi))
        gaps = np.abs(values[1:] - values[0] - times[1:] * first_order)
        assert np.polyfit(np.log(times[1:]), np.log(gaps), 1)[0] == pytest.approx(2, abs=0.05)
