"""Gauge: invariance, the distance's minimum, the canonical form, and that polar steps commute with it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from dlnjax import stiefel
from dlnjax.theory import gauge

DIMS = [(5, 3, 4), (6, 3, 3, 3, 5), (6, 2, 3, 5), (5, 4, 2, 3)]


def network_of(dims, seed):
    rng = np.random.default_rng(seed)
    layers = [oracles.random_orthonormal(rng, n, p) for p, n in itertools.pairwise(dims)]
    layers[0] = layers[0] * 0.7 + 0.1 * rng.standard_normal(layers[0].shape)
    return layers


def nearby(layers, noise, seed):
    rng = np.random.default_rng(seed)
    moved = [w + noise * rng.standard_normal(w.shape) for w in layers]
    return [moved[0], *(oracles.polar(w) for w in moved[1:])]


def value(layers, target, rotations):
    """dist^2 at given rotations, written out."""
    turned = [np.eye(layers[0].shape[1]), *rotations, np.eye(layers[-1].shape[0])]
    weight = np.linalg.norm(target[0], 2) ** 2
    total = 0.0
    for i, (w, t) in enumerate(zip(layers, target, strict=True)):
        gap = w - turned[i + 1].T @ t @ turned[i]
        total += (weight if i else 1.0) * np.sum(gap**2)
    return total


@pytest.mark.parametrize("dims", DIMS)
def test_transform_keeps_product_and_constraints(dims):
    layers = network_of(dims, 0)
    moved = gauge.transform(layers, gauge.random_rotations(3, dims))
    assert np.abs(oracles.chain_product(moved) - oracles.chain_product(layers)).max() < 1e-14
    assert max(np.abs(np.linalg.svd(w)[1] - 1).max() for w in moved[1:]) < 1e-14
    assert np.abs(moved[0] - layers[0]).max() > 0.1
    with pytest.raises(ValueError, match="give"):
        gauge.transform(layers, [])


@pytest.mark.parametrize("dims", DIMS)
def test_distance_does_not_see_the_gauge(dims):
    layers = network_of(dims, 1)
    scrambled = gauge.transform(layers, gauge.random_rotations(5, dims))
    assert gauge.distance_squared(scrambled, layers) < 1e-27
    close = nearby(layers, 0.02, 2)
    turned = gauge.transform(close, gauge.random_rotations(6, dims))
    assert gauge.distance_squared(turned, layers) == pytest.approx(
        gauge.distance_squared(close, layers), rel=1e-9
    )


@pytest.mark.parametrize("dims", DIMS)
def test_distance_is_a_minimum(dims):
    """Below the value at rotations far and near, and equal to it at its own aligned target."""
    layers = network_of(dims, 1)
    close = nearby(layers, 0.03, 4)
    found = gauge.distance_squared(close, layers, restarts=3)
    aligned = gauge.align(close, layers)
    assert value(close, list(aligned), [np.eye(d) for d in dims[1:-1]]) == pytest.approx(found, rel=1e-9)
    rng = np.random.default_rng(0)
    for scale in (0.0, 1e-3, 1e-2, 0.1, 1.0, 100.0):
        for _ in range(40):
            rotations = [oracles.polar(np.eye(d) + scale * rng.standard_normal((d, d))) for d in dims[1:-1]]
            assert value(close, layers, rotations) >= found * (1 - 1e-12)


def test_distance_over_a_batch_and_chain_start():
    """The chain start finds what 10 random starts find, near a solution, on 50 scrambled instances."""
    dims = (5, 3, 3, 3, 4)
    target = network_of(dims, 0)
    cases = [gauge.transform(nearby(target, 0.05, s), gauge.random_rotations(s, dims)) for s in range(60)]
    batch = [np.stack([case[i] for case in cases]) for i in range(len(target))]
    goal = [np.broadcast_to(t, b.shape) for t, b in zip(target, batch, strict=True)]
    chain = gauge.distance_squared(batch, goal)
    many = gauge.distance_squared(batch, goal, restarts=10)
    assert np.mean(chain <= many * (1 + 1e-6)) >= 0.98
    assert chain[7] == pytest.approx(gauge.distance_squared(cases[7], target), rel=1e-9)


def test_canonical_form_depends_on_the_product_alone():
    dims = (6, 3, 3, 3, 5)
    layers = network_of(dims, 8)
    first = gauge.canonical(layers)
    second = gauge.canonical(gauge.transform(layers, gauge.random_rotations(1, dims)))
    assert max(np.abs(a - b).max() for a, b in zip(first, second, strict=True)) < 1e-13
    assert np.abs(oracles.chain_product(first) - oracles.chain_product(layers)).max() < 1e-14
    assert gauge.distance_squared(first, layers) < 1e-26
    with pytest.raises(ValueError, match="equal hidden widths"):
        gauge.canonical(network_of((6, 2, 3, 5), 0))


@pytest.mark.parametrize("dims", DIMS[1:3])
def test_polar_steps_commute_with_the_gauge_and_qr_steps_do_not(dims):
    rng = np.random.default_rng(9)
    layers = network_of(dims, 3)
    rotations = gauge.random_rotations(2, dims)
    gradient = rng.standard_normal((dims[-1], dims[0]))
    turn = list(gauge.transform(layers, rotations))
    middle = len(layers) // 2

    def moved(chain, retract):
        left = oracles.chain_product([np.eye(chain[middle].shape[0]), *chain[middle + 1 :]])
        right = oracles.chain_product([np.eye(dims[0]), *chain[:middle]])
        w = jnp.asarray(chain[middle])
        tangent = stiefel.project_tangent(w, jnp.asarray(left.T @ gradient @ right.T))
        return np.asarray(jax.jit(retract)(w, -0.1 * tangent))

    def deviation(retract):
        plain = [*layers[:middle], moved(layers, retract), *layers[middle + 1 :]]
        after = gauge.transform(plain, rotations)[middle]
        return np.abs(after - moved(turn, retract)).max()

    assert deviation(stiefel.retract_polar) < 1e-13
    assert deviation(stiefel.retract_cayley) < 1e-13
    if min(layers[middle].shape) > 1:
        assert deviation(stiefel.retract_qr) > 1e-5
