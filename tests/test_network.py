"""The product, its layer gradients, and how layers are stored, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from jax.experimental import checkify

from dlnjax import layerwise, network, problem, reduced, stiefel

WIDTHS = [(3, 4, 4, 4, 5), (6, 4, 4, 4, 2), (5, 3), (3, 3, 3), (2, 5, 4, 4, 3, 7), (7, 3, 3, 6)]


def random_layers(rng, widths):
    return [rng.standard_normal((widths[i + 1], widths[i])) for i in range(len(widths) - 1)]


@pytest.mark.parametrize("widths", WIDTHS)
def test_product_equals_the_plain_loop(widths):
    layers = random_layers(np.random.default_rng(0), widths)
    params = tuple(map(jnp.asarray, layers))
    expected = oracles.product(layers)
    np.testing.assert_allclose(network.end_to_end(params), expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(network.end_to_end(network.stack(params)), expected, rtol=1e-13, atol=1e-13)
    assert network.dims(network.stack(params)) == widths


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("stacked", [False, True])
def test_layer_gradients_equal_complex_step_differentiation(widths, stacked):
    rng = np.random.default_rng(1)
    layers = random_layers(rng, widths)
    x, y = rng.standard_normal((widths[0], 9)), rng.standard_normal((widths[-1], 9))
    expected = oracles.complex_step_gradients(oracles.complex_square_loss(x, y), layers)
    params = tuple(map(jnp.asarray, layers))
    params = network.stack(params) if stacked else params
    gradient = (oracles.product(layers) @ x - y) @ x.T
    found = network.unstack(network.layer_gradients(params, jnp.asarray(gradient)))
    for got, want in zip(found, expected, strict=True):
        assert np.linalg.norm(got - want) <= 1e-13 * np.linalg.norm(want)


@seed(0)
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=3, max_size=6), st.integers(0, 1000))
def test_neighbouring_gradients_balance(widths, number):
    """W_{i+1}^T g_{i+1} = g_i W_i^T, whatever the widths."""
    rng = np.random.default_rng(number)
    params = tuple(jnp.asarray(w) for w in random_layers(rng, widths))
    gradients = network.layer_gradients(params, jnp.asarray(rng.standard_normal((widths[-1], widths[0]))))
    for i in range(len(params) - 1):
        left, right = params[i + 1].T @ gradients[i + 1], gradients[i] @ params[i].T
        assert np.linalg.norm(left - right) <= 1e-14 * max(1.0, 10 * np.linalg.norm(left))


def test_stack_keeps_the_first_layer_apart_and_unstack_undoes_it():
    params = tuple(jnp.full((3, 3), float(i)) for i in range(4))
    stacked = network.stack(params)
    assert [leaf.shape for leaf in stacked] == [(3, 3), (3, 3, 3)]
    for got, want in zip(network.unstack(stacked), params, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("widths", [(5, 3, 6), (5, 3, 3, 3, 2), (4, 3, 3)])
def test_padding_and_traced_depth_leave_product_and_gradients_alone(widths):
    rng = np.random.default_rng(2)
    params = tuple(jnp.asarray(w) for w in random_layers(rng, widths))
    padded = network.pad(params, 7)
    assert network.num_layers(padded) == 7
    np.testing.assert_allclose(network.end_to_end(padded), network.end_to_end(params), rtol=1e-14)
    gradient = jnp.asarray(rng.standard_normal((widths[-1], widths[0])))

    # what the padding holds must not matter once the depth is given
    spoiled = tuple(
        leaf.at[leaf.shape[0] - 7 + len(params) :].set(7.0) if leaf.ndim == 3 else leaf for leaf in padded
    )
    depth = jnp.int32(len(params))
    product = jax.jit(network.end_to_end)(spoiled, depth)
    np.testing.assert_allclose(product, network.end_to_end(params), rtol=1e-14)
    found = jax.jit(network.layer_gradients)(spoiled, gradient, depth)
    expected = network.pad(network.layer_gradients(params, gradient), 7)
    for got, want in zip(found, expected, strict=True):
        if got.ndim == 3:
            active = got.shape[0] - 7 + len(params)
            np.testing.assert_array_equal(got[active:], 0.0)
            got, want = got[:active], want[:active]
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("widths", [(4, 3, 3, 3, 2), (4, 3, 3)])
@pytest.mark.parametrize("stacked", [False, True])
def test_forward_activates_every_layer_but_the_last(widths, stacked):
    rng = np.random.default_rng(3)
    layers = random_layers(rng, widths)
    x = rng.standard_normal((widths[0], 6))
    expected = x
    for layer in layers[:-1]:
        expected = np.tanh(layer @ expected)
    expected = layers[-1] @ expected
    params = tuple(map(jnp.asarray, layers))
    params = network.stack(params) if stacked else params
    np.testing.assert_allclose(network.forward(params, jnp.asarray(x), jnp.tanh), expected, rtol=1e-13)
    linear = network.forward(params, jnp.asarray(x))
    np.testing.assert_allclose(linear, oracles.product(layers) @ x, rtol=1e-12, atol=1e-13)


def test_product_is_differentiable_in_both_directions():
    rng = np.random.default_rng(4)
    params = network.stack(tuple(jnp.asarray(w) for w in random_layers(rng, (4, 3, 3, 3, 5))))
    gradient = jnp.asarray(rng.standard_normal((5, 4)))
    by_hand = network.layer_gradients(params, gradient)
    by_jax = jax.vjp(network.end_to_end, params)[1](gradient)[0]
    for got, want in zip(by_hand, by_jax, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)


def test_mistakes_say_which_layer_and_what_to_do():
    good = (jnp.ones((3, 4)), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"params\[1\] has shape \(2, 4\).*last axis must be 3"):
        network.dims((jnp.ones((3, 4)), jnp.ones((2, 4))))
    with pytest.raises(ValueError, match=r"params\[1\] has shape \(2, 3, 4\)"):
        network.dims((jnp.ones((3, 4)), jnp.ones((2, 3, 4))))
    with pytest.raises(ValueError, match="params is empty"):
        network.dims(())
    with pytest.raises(ValueError, match=r"gradient has shape \(4, 2\); the product has \(2, 4\)"):
        network.layer_gradients(good, jnp.ones((4, 2)))
    with pytest.raises(ValueError, match="depth=1 is below the 2 layers"):
        network.pad(good, 1)
    with pytest.raises(ValueError, match="exactly one run"):
        network.end_to_end(good, depth=2)


def seven_layers():
    """``(W_1, run of five, W_7)`` of random matrices, and its layers as numpy arrays."""
    rng = np.random.default_rng(5)
    shapes = [(3, 4), (5, 3, 3), (2, 3)]
    params = tuple(jnp.asarray(rng.standard_normal(shape)) for shape in shapes)
    return params, [np.asarray(w) for w in network.unstack(params)]


@pytest.mark.parametrize("depth", [2, 3, 6, 7])
def test_a_depth_takes_the_first_layers_of_the_run_and_those_outside(depth):
    params, layers = seven_layers()
    used = [*layers[: depth - 1], layers[-1]]
    expected = np.linalg.multi_dot(used[::-1])
    np.testing.assert_allclose(network.end_to_end(params, depth), expected, rtol=1e-12)
    np.testing.assert_allclose(network.end_to_end(params, jnp.asarray(depth)), expected, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(network.end_to_end)(params, depth), expected, rtol=1e-12)
    np.testing.assert_allclose(network.vjp(params, depth)[0], expected, rtol=1e-12)


@pytest.mark.mistakes
@pytest.mark.parametrize("depth", [9, 8, 1, 0, -1])
def test_a_depth_that_is_not_stored_is_refused(depth):
    params, _ = seven_layers()
    gradient = jnp.ones((2, 4))
    for call in (
        lambda d: network.end_to_end(params, d),
        lambda d: network.vjp(params, d),
        lambda d: network.layer_gradients(params, gradient, d),
        lambda d: reduced.frame(params, d),
    ):
        for value in (depth, np.int32(depth), jnp.asarray(depth)):
            with pytest.raises(ValueError, match=f"depth={depth}; these params hold 2 to 7 layers"):
                call(value)
    error, _ = checkify.checkify(jax.jit(network.end_to_end))(params, depth)
    assert f"depth={depth} is not between 2 and 7" in error.get()


@pytest.mark.mistakes
def test_a_depth_that_is_no_integer_is_refused():
    params, _ = seven_layers()
    with pytest.raises(ValueError, match=r"depth=3.0; give an integer from 2 to 7"):
        network.end_to_end(params, 3.0)
    with pytest.raises(ValueError, match=r"depth=3.5; pad needs an integer"):
        network.pad(params, 3.5)


@pytest.mark.mistakes
def test_layerwise_refuses_a_run_that_is_no_padding():
    params, _ = seven_layers()
    held = (params[0], stiefel.project(params[1]), stiefel.project(params[2]))
    square = problem.whitened(jnp.ones((2, 4)))
    for depth, words in ((4, "beyond are no identities"), (1, "2 to 7 layers"), (8, "2 to 7 layers")):
        with pytest.raises(ValueError, match=words):
            layerwise.train(held, square, step_size=0.1, num_steps=2, depth=depth)
    four = (held[0], held[1][:2], held[2])
    direct, _ = layerwise.train(four, square, step_size=0.1, num_steps=5)
    padded, _ = layerwise.train(network.pad(four, 7), square, step_size=0.1, num_steps=5, depth=4)
    np.testing.assert_allclose(network.end_to_end(padded), network.end_to_end(direct), rtol=1e-12)


def test_an_empty_run_is_no_layer():
    rng = np.random.default_rng(6)
    first, last = rng.standard_normal((3, 4)), rng.standard_normal((2, 3))
    for a, b in ((first, last), (last.T.copy(), first.T.copy())):  # the product is taken from either side
        pair = (jnp.asarray(a), jnp.asarray(b))
        padded = network.pad(pair, 2)
        assert padded[1].shape == (0, 3, 3)
        product = b @ a
        np.testing.assert_allclose(network.end_to_end(padded), product, rtol=1e-13)
        np.testing.assert_allclose(network.end_to_end(padded, 2), product, rtol=1e-13)
        gradient = rng.standard_normal(product.shape)
        one, none, two = network.layer_gradients(padded, jnp.asarray(gradient))
        np.testing.assert_allclose(one, b.T @ gradient, rtol=1e-13)
        np.testing.assert_allclose(two, gradient @ a.T, rtol=1e-13)
        assert none.shape == padded[1].shape
        x = rng.standard_normal((a.shape[1], 3))
        np.testing.assert_allclose(network.forward(padded, jnp.asarray(x)), product @ x, rtol=1e-13)


def test_one_layer():
    w = jnp.asarray(np.random.default_rng(7).standard_normal((2, 3)))
    padded = network.pad((w,), 3)
    assert [leaf.shape for leaf in padded] == [(2, 3), (2, 2, 2)]
    for params, depth in (((w,), None), (padded, None), (padded, 1), (padded, 2)):
        np.testing.assert_array_equal(network.end_to_end(params, depth), w)
        (gradient, *_) = network.layer_gradients(params, jnp.ones((2, 3)), depth)
        np.testing.assert_array_equal(gradient, np.ones((2, 3)))
    np.testing.assert_allclose(network.forward((w,), jnp.ones((3, 1)), jnp.tanh), w.sum(axis=1)[:, None])
    np.testing.assert_array_equal(reduced.frame((w,)), np.eye(2))


def test_a_run_does_not_stand_first():
    with pytest.raises(ValueError, match=r"params\[0\] has shape \(2, 3, 3\); W_1 is a matrix"):
        network.end_to_end((jnp.ones((2, 3, 3)),))


def test_numpy_layers_and_runs():
    """What was read from a file is used as it is: numpy layers and runs give what JAX's arrays do."""
    rng = np.random.default_rng(7)
    arrays = (rng.standard_normal((3, 4)), rng.standard_normal((5, 3, 3)), rng.standard_normal((2, 3)))
    params, gradient = tuple(map(jnp.asarray, arrays)), rng.standard_normal((2, 4))
    np.testing.assert_array_equal(network.end_to_end(arrays), network.end_to_end(params))
    np.testing.assert_array_equal(network.end_to_end(arrays, 4), network.end_to_end(params, 4))
    for got, want in zip(
        network.layer_gradients(arrays, gradient),
        network.layer_gradients(params, jnp.asarray(gradient)),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)
    x = rng.standard_normal((4, 2))
    np.testing.assert_array_equal(
        network.forward(arrays, x, jnp.tanh), network.forward(params, jnp.asarray(x), jnp.tanh)
    )
    for leaf in (*network.stack(network.unstack(arrays)), *network.pad(arrays, 9)):
        assert leaf.ndim in (2, 3)
