"""Derivatives of the retractions in both modes: against differences, and each mode against the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax import stiefel


@pytest.fixture(autouse=True, scope="module")
def _compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


RETRACTIONS = {
    "polar": stiefel.retract_polar,
    "qr": stiefel.retract_qr,
    "cholesky_qr": stiefel.retract_cholesky_qr,
    "cayley": stiefel.retract_cayley,
    "embedded": stiefel.exponential,
    "canonical": lambda w, xi: stiefel.exponential(w, xi, metric="canonical"),
}
CASES = [((6, 2), np.float64), ((3, 4), np.float64), ((5, 3), np.complex128)]


def real_product(a, b):
    """JAX's pairing of a cotangent with a tangent."""
    return np.sum((np.asarray(a) * np.asarray(b)).real)


@pytest.mark.parametrize("name", RETRACTIONS)
@pytest.mark.parametrize(("shape", "dtype"), CASES, ids=str)
def test_both_modes_are_right_for_steps_of_every_length(name, shape, dtype):
    retract = jax.jit(RETRACTIONS[name])
    keys = jax.random.split(jax.random.key(0), 5)
    w = stiefel.random(keys[0], shape, dtype)
    z, dxi, back, dw = (jax.random.normal(k, shape, dtype) for k in keys[1:])
    unit, dw = stiefel.project_tangent(w, z), stiefel.project_tangent(w, dw)
    forward = jax.jit(lambda w, xi, dw, dxi: jax.jvp(RETRACTIONS[name], (w, xi), (dw, dxi))[1])
    reverse = jax.jit(lambda w, xi, back: jax.vjp(RETRACTIONS[name], w, xi)[1](back))
    for length in (0.0, 0.5, 12.0):
        xi = length * unit
        change = forward(w, xi, dw, dxi)
        gaps = []
        for h in (1e-2, 1e-3):  # the error of central differences falls with the square of h
            difference = (retract(w + h * dw, xi + h * dxi) - retract(w - h * dw, xi - h * dxi)) / (2 * h)
            gaps.append(np.linalg.norm(difference - change))
        assert gaps[1] < max(0.03 * gaps[0], 1e-11)
        gradients = reverse(w, xi, back)
        paired = sum(real_product(g, d) for g, d in zip(gradients, (dw, dxi), strict=True))
        assert paired == pytest.approx(real_product(back, change), rel=1e-10)


def test_reverse_mode_under_vmap_equals_one_at_a_time():
    w = stiefel.random(jax.random.key(0), (3, 5, 2))
    xi = stiefel.project_tangent(w, jnp.ones_like(w))
    for name in ("qr", "cayley", "embedded"):
        loss = lambda w, xi, name=name: jnp.sum(jnp.sin(RETRACTIONS[name](w, xi)))  # noqa: E731
        both = jax.vmap(jax.grad(loss, argnums=1))(w, xi)
        for i in range(3):
            np.testing.assert_allclose(both[i], jax.grad(loss, argnums=1)(w[i], xi[i]), atol=1e-13)


def test_a_lost_derivative_is_not_a_number():
    w, xi = jnp.eye(3, 2), jnp.array([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    along = jnp.ones((3, 2))
    for name, length in (("cayley", 1e16), ("embedded", 1e16)):
        assert np.isnan(jax.jvp(RETRACTIONS[name], (w, length * xi), (along, along))[1]).any()
    dependent = jnp.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert not np.isfinite(jax.jvp(RETRACTIONS["qr"], (dependent, 0 * xi), (along, along))[1]).all()
