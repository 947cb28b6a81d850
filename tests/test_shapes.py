"""Shapes, dtypes and compilations of the public surface: what goes in comes out alike, and is traced once."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest

from dlnjax import initial, network, optim, problem, stiefel, train

SHAPES = [(4, 4), (2, 3, 5)]
RETRACTIONS = ["retract_polar", "retract_qr", "retract_cayley", "retract_cholesky_qr"]
OPTIMIZERS = {
    "rgd": lambda size: optim.rgd(size),
    "nesterov": lambda size: optim.nesterov(size, 0.9),
    "heavy_ball": lambda size: optim.heavy_ball(size, 0.9),
    "muon": lambda size: optim.muon(size, 0.9),
    "landing": lambda size: optim.landing(size),
}


def drawn(shape, dtype):
    keys = jax.random.split(jax.random.key(0))
    return stiefel.random(keys[0], shape, dtype), 0.1 * jax.random.normal(keys[1], shape, dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["project", "project_tangent", *RETRACTIONS])
def test_geometry_keeps_shape_and_dtype(name, shape, dtype):
    point, vector = drawn(shape, dtype)
    act = getattr(stiefel, name)
    result = act(point) if name == "project" else act(point, vector)
    chex.assert_equal_shape([point, result])
    chex.assert_type(result, dtype)
    chex.assert_tree_all_finite(result)
    chex.assert_shape(stiefel.orthonormality_error(point), shape[:-2])


@pytest.mark.parametrize(
    ("name", "dtype"), [("rgd", jnp.float32), *((name, jnp.float64) for name in OPTIMIZERS)]
)
def test_a_training_keeps_the_tree_and_is_traced_once(name, dtype):
    """Another step size, start or target is no other program."""
    dims = (5, 3, 3, 4)

    @jax.jit
    @partial(chex.assert_max_traces, n=1)
    def trained(size, key):
        keys = jax.random.split(key)
        square = problem.whitened(network.end_to_end(initial.teacher(keys[0], dims, [1.0, 0.5], dtype)))
        start = initial.haar(keys[1], dims, 0.5, dtype)
        ended, trace = train.train(start, square, OPTIMIZERS[name](size), num_steps=6, record_every=2)
        return start, ended, trace.distance

    chex.clear_trace_counter()
    sizes = jnp.asarray([0.01, 0.02], dtype)
    for seed, size in enumerate(sizes):
        start, ended, distance = trained(size, jax.random.key(seed))
        chex.assert_trees_all_equal_structs(start, ended)
        chex.assert_trees_all_equal_shapes_and_dtypes(start, ended)
        chex.assert_shape(distance, (4,))
        chex.assert_shape(network.end_to_end(ended), (dims[-1], dims[0]))
        chex.assert_trees_all_close(network.unstack(network.stack(ended)), ended, rtol=0)


def test_a_second_trace_is_seen():
    @jax.jit
    @partial(chex.assert_max_traces, n=1)
    def twice(x):
        return 2 * x

    chex.clear_trace_counter()
    twice(jnp.ones(2))
    with pytest.raises(AssertionError, match="is traced > 1 times"):
        twice(jnp.ones(3))
