"""The product, its layer gradients, and how layers are stored, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from dlnjax import network

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
