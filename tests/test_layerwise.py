"""The one-pass engine equals the composed optax transformation, which equals the plain loop (test_train)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax import initial, layerwise, network, optim, problem, train

# tall, wide and square last layers, padded and not, two layers and many
CASES = [((8, 4, 8), 3), ((8, *[4] * 7, 8), 12), ((6, *[5] * 4, 3), 6), ((7, *[6] * 5), 5)]


@pytest.mark.parametrize(("widths", "stored"), CASES)
@pytest.mark.parametrize("coloured", [False, True])
def test_one_pass_equals_the_composed_transformation(widths, stored, coloured):
    rng = np.random.default_rng(0)
    start = network.pad(initial.haar(jax.random.key(0), widths, 0.5), stored)
    start = start if len(start) == 3 else (start[0], start[1][:-1], start[1][-1])
    target = jnp.asarray(rng.standard_normal((widths[-1], widths[0])) / 4)  # within the stability edge
    task = problem.whitened(target)
    if coloured:
        x = jnp.asarray(rng.standard_normal((widths[0], 30)) / 5)
        task = problem.regression(x, target @ x)
    depth, scales = len(widths) - 1, (1.0, 0.6, 0.9)
    options = {"num_steps": 200, "record_every": 50}

    @jax.jit
    def both(start, depth, size):
        composed = train.train(start, task, optim.rgd(size, scales=scales), depth=depth, **options)
        return composed, layerwise.train(start, task, step_size=size, scales=scales, depth=depth, **options)

    (expected, slow), (found, fast) = both(start, depth, 0.05)
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)
    for name in ("step", "loss", "distance", "gradient_norm", "status"):
        np.testing.assert_allclose(getattr(fast, name), getattr(slow, name), rtol=1e-10, atol=1e-12)
    assert float(fast.orthonormality_error[-1]) < 1e-13
    np.testing.assert_array_equal(found[1][depth - 2 :], start[1][depth - 2 :])


def test_float32_stays_on_the_manifold():
    first, middle, last = initial.haar(jax.random.key(0), (16,) * 4, 0.5, jnp.float32)
    start = (first, middle[None], last)
    task = problem.whitened(jnp.eye(16, dtype=jnp.float32))
    _, trace = layerwise.train(start, task, step_size=jnp.float32(0.1), num_steps=1600, record_every=400)
    assert trace.distance.dtype == jnp.float32
    assert float(jnp.max(trace.orthonormality_error)) < 1e-6  # 4e-6 without the projections


def test_other_forms_of_params_are_refused():
    task = problem.whitened(jnp.eye(4))
    with pytest.raises(ValueError, match=r"see network\.pad"):
        layerwise.train((jnp.eye(4), jnp.eye(4)), task, step_size=0.1, num_steps=1)
