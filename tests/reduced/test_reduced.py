"""The exact two-layer reduction against a layer-by-layer numpy run that knows nothing of it."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dlnjax import network, problem, reduced
from dlnjax.reduced import engine
from dlnjax.stiefel._rotation import turns

# (widths, colour): tall and wide last layers, whitened and coloured data, two layers and many
CASES = [
    ((6, 3, 3, 5), False),
    ((6, 3, 5), False),
    ((5, 4, 4, 4, 4, 2), False),
    ((5, 3, 3, 3, 3, 6), True),
    ((4, 4, 4, 4, 4), True),
    ((7, *[3] * 11, 4), True),
    ((5, 4, 4), False),
]


def instance(widths, coloured, seed=0):
    """Layers, data and a gradient function, all numpy."""
    rng = np.random.default_rng(seed)
    layers = [rng.standard_normal((widths[1], widths[0])) * 0.4]
    layers += [oracles.random_orthonormal(rng, widths[i + 1], widths[i]) for i in range(1, len(widths) - 1)]
    target = rng.standard_normal((widths[-1], widths[0]))
    if not coloured:
        return layers, problem.whitened(jnp.asarray(target)), lambda w: w - target
    x = rng.standard_normal((widths[0], 20)) / 4
    y = target @ x + 0.3 * rng.standard_normal((widths[-1], 20))
    return layers, problem.regression(jnp.asarray(x), jnp.asarray(y)), lambda w: (w @ x - y) @ x.T


@pytest.mark.parametrize(("widths", "coloured"), CASES)
@pytest.mark.parametrize(("middle", "last"), [(0.03, 0.08), (0.02, 0.02)])
def test_reduction_equals_the_layers(widths, coloured, middle, last):
    layers, square, gradient = instance(widths, coloured)
    count, steps = len(layers), 300
    mu = 0.05
    params = tuple(map(jnp.asarray, layers))
    scales = reduced.LayerScales(1.0, middle / mu, last / mu)
    ended, _ = jax.jit(
        lambda p: reduced.train(
            reduced.reduce(p),
            square,
            step_size=mu,
            scales=scales,
            num_steps=steps,
            record_every=100,
            layers=True,
        )
    )(params)
    for _ in range(steps):
        layers = oracles.riemannian_step(layers, gradient, [mu, *[middle] * (count - 2), last])
    np.testing.assert_allclose(reduced.end_to_end(ended), oracles.product(layers), atol=1e-12)
    for got, want in zip(network.unstack(reduced.layers(ended)), layers, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 6, 7, 27, 30, 510, 4094, 999_998])
def test_power_equals_numpy(exponent):
    rotation = oracles.random_orthonormal(np.random.default_rng(0), 4, 4)
    expected = np.linalg.matrix_power(rotation, exponent)
    found = jax.jit(reduced.power)(jnp.asarray(rotation), jnp.int32(exponent))
    np.testing.assert_allclose(found, expected, atol=1e-13 * max(1, exponent / 1000))


TURNS = jax.jit(
    jax.vmap(lambda k, n: turns(k, n, lambda k, n: reduced.power(engine._rotation(k), n)), (0, None))
)


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("exponent", [0, 1, 30, 510, 40_000])
def test_power_of_a_polar_step_equals_its_eigenvalues_power(size, exponent):
    drawn = np.random.default_rng(0).standard_normal((3, 5, 5))
    skew = drawn - drawn.swapaxes(1, 2)
    skew *= size / np.linalg.norm(skew[0])  # cells of a batch differ in size
    values, vectors = np.linalg.eig(skew)
    turned = np.expm1(1j * exponent * np.arctan(values.imag))
    expected = ((vectors * turned[:, None]) @ np.linalg.inv(vectors)).real
    found = TURNS(jnp.asarray(skew), jnp.int32(exponent))  # without the identity
    squared = exponent * size**5 > 1e-16  # by squarings, which double their rounding
    np.testing.assert_allclose(found, expected, atol=1e-15 * (exponent if squared else 4) + 2e-15)
    if not squared:  # the identity's rounding is not in it: to be added to it, it is right to a part of that
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-14 * np.abs(expected).max() + 1e-16)


def test_traced_depth_needs_one_program_and_gives_the_same_numbers():
    square = problem.whitened(jnp.asarray(np.random.default_rng(1).standard_normal((5, 6))))

    @jax.jit
    def run(first, frame, depth):
        network_start = reduced.Reduced(first, frame, depth)
        return reduced.train(network_start, square, step_size=0.02, num_steps=40, record_every=10)

    for depth in (2, 3, 9):
        layers, _, _ = instance((6, *[3] * (depth - 1), 5), False, seed=depth)
        start = reduced.reduce(tuple(map(jnp.asarray, layers)))
        ended, trace = run(start.first, start.frame, depth)
        direct, _ = reduced.train(start, square, step_size=0.02, num_steps=40, record_every=10)
        np.testing.assert_allclose(reduced.end_to_end(ended), reduced.end_to_end(direct), atol=1e-14)
        assert list(trace.step) == [0, 10, 20, 30, 40]
    assert run._cache_size() == 1


def test_expand_and_reduce_are_inverse_and_give_orthonormal_layers():
    layers, _, _ = instance((6, 3, 5), False)
    start = reduced.Reduced(jnp.asarray(layers[0]), jnp.asarray(layers[1]), 6)
    params = reduced.expand(jax.random.key(0), start, max_layers=9)
    assert network.num_layers(params) == 9
    trimmed = (params[0], params[1][:4], params[2])
    back = reduced.reduce(trimmed)
    np.testing.assert_allclose(back.frame, start.frame, atol=1e-14)
    np.testing.assert_allclose(reduced.frame(params, 6), start.frame, atol=1e-14)
    np.testing.assert_array_equal(params[1][4:], np.broadcast_to(np.eye(3), (3, 3, 3)))
    for layer in network.unstack(trimmed)[1:]:
        np.testing.assert_allclose(layer.T @ layer, np.eye(3), atol=1e-13)


def test_scales_for_the_reduction():
    assert reduced.layer_scales((1.0, 0.5)) == (1.0, 0.5, 0.5)
    assert reduced.layer_scales((1.0, 0.2, 0.2, 0.5)) == (1.0, 0.2, 0.5)
    found = reduced.layer_scales((1.0, jnp.array([0.2, 0.2]), 0.5))
    np.testing.assert_allclose(np.array(found), [1.0, 0.2, 0.5])
    with pytest.raises(ValueError, match="different scales"):
        reduced.layer_scales((1.0, 0.2, 0.3, 0.5))


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="equal hidden widths"):
        reduced.reduce((jnp.ones((3, 4)), jnp.ones((2, 3)), jnp.ones((5, 2))))
    layers, square, _ = instance((6, 3, 5), False)
    start = reduced.reduce(tuple(map(jnp.asarray, layers)))
    with pytest.raises(ValueError, match="either num_steps"):
        reduced.train(start, square, step_size=0.1)
    ended, _ = reduced.train(start, square, step_size=0.1, num_steps=1)
    with pytest.raises(ValueError, match="layers=True"):
        reduced.layers(ended)


@pytest.mark.parametrize("last", [1.0, 0.7])
@pytest.mark.parametrize(("num_layers", "step"), [(8, 0.3), (512, 1.0), (4096, 30.0)])
def test_frame_stays_orthonormal_beside_broken_cells_and_at_large_steps(num_layers, step, last):
    """Square frames are moved by rotations; their powers are by squarings where steps are large or a cell is broken."""
    rng = np.random.default_rng(0)
    frame = jnp.asarray(oracles.random_orthonormal(rng, 8, 8), jnp.float32)
    target = jnp.asarray(oracles.random_orthonormal(rng, 8, 8), jnp.float32)
    first = 0.5 * jnp.eye(8, dtype=jnp.float32)

    def error(start):
        network = reduced.Reduced(start, frame, num_layers)
        scales = reduced.LayerScales(0.0, 1.0, last)
        options = {"step_size": step / num_layers, "scales": scales, "num_steps": 320, "record_every": 1}
        return reduced.train(network, problem.whitened(target), **options)[1].orthonormality_error

    found = jax.vmap(error)(jnp.stack([first, first * jnp.nan]))
    assert float(jnp.max(found[0])) < 5e-6
