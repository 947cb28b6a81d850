"""The gauge distance is a minimum, to its stated tolerance, at any depth: against scipy's L-BFGS on the rotations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from dlnjax.theory import gauge


def network_near(dims, noise, seed):
    """A network, and another one near it of which the hidden layers are scrambled."""
    rng = np.random.default_rng(seed)
    target = [oracles.random_orthonormal(rng, n, p) for p, n in itertools.pairwise(dims)]
    target[0] = target[0] * np.linspace(1, 0.3, dims[1])[:, None]
    moved = [w + noise * rng.standard_normal(w.shape) for w in target]
    moved = [moved[0], *(oracles.polar(w) for w in moved[1:])]
    turns = [np.eye(dims[0]), *(oracles.random_orthonormal(rng, d, d) for d in dims[1:-1]), np.eye(dims[-1])]
    return [turns[i + 1] @ w @ turns[i].T for i, w in enumerate(moved)], target, turns[1:-1]


def minimum_by_lbfgs(layers, target, rotations):
    """dist^2 minimised over ``R_i = rotations_i expm(skew_i)`` for equal hidden widths, by scipy from here on.

    Shares nothing with the search: automatic derivatives of the definition, no block of a Hessian.
    """
    width, count = layers[0].shape[0], len(layers) - 1
    a, b = np.triu_indices(width, 1)
    weight = np.linalg.norm(target[0], 2) ** 2
    held = jnp.asarray(np.array(rotations))
    ends = [jnp.asarray(w) for w in (layers[0], target[0], layers[-1], target[-1])]
    middle = jnp.asarray(np.array(layers[1:-1])), jnp.asarray(np.array(target[1:-1]))

    def value(flat):
        skew = jnp.zeros((count, width, width)).at[:, a, b].set(flat.reshape(count, -1))
        turn = held @ jax.vmap(jax.scipy.linalg.expm)(skew - jnp.swapaxes(skew, 1, 2))
        between = middle[0] - jnp.swapaxes(turn[1:], 1, 2) @ middle[1] @ turn[:-1]
        first = ends[0] - turn[0].T @ ends[1]
        last = ends[2] - ends[3] @ turn[-1]
        return jnp.sum(first**2) + weight * (jnp.sum(between**2) + jnp.sum(last**2))

    function = jax.jit(jax.value_and_grad(value))
    start = np.zeros(count * a.size)
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-15, "gtol": 1e-11, "maxcor": 40}
    return scipy.optimize.minimize(
        lambda x: tuple(np.asarray(v, float) for v in function(x)),
        start,
        jac=True,
        method="L-BFGS-B",
        options=options,
    ).fun


@pytest.mark.parametrize(("depth", "noise"), [(8, 0.05), (128, 0.002)])
def test_distance_at_any_depth_is_what_lbfgs_finds(depth, noise):
    layers, target, turns = network_near((6, *[3] * (depth - 1), 5), noise, depth)
    # the scramble's own rotations are the minimiser but for the noise
    expected = minimum_by_lbfgs(layers, target, [t.T for t in turns])
    found = gauge.distance_squared(layers, target)
    assert found == pytest.approx(expected, rel=1e-6)
    assert found <= expected * (1 + 1e-12)
    at_scramble = sum(
        (np.linalg.norm(target[0], 2) ** 2 if i else 1.0) * np.sum((w - g) ** 2)
        for i, (w, g) in enumerate(zip(layers, gauge.transform(target, [t.T for t in turns]), strict=True))
    )
    assert found < at_scramble * 0.9  # the noise has a part along the gauge, which the minimum does not see


def test_a_search_that_has_not_converged_says_so():
    layers, target, _ = network_near((6, *[3] * 40, 5), 0.1, 1)
    with pytest.raises(ValueError, match="not converged in 1 sweeps"):
        gauge.distance_squared(layers, target, max_sweeps=1)
    wide, goal, _ = network_near((40, 40, 40, 40), 0.1, 1)
    with pytest.raises(ValueError, match="not converged in 1 sweeps"):
        gauge.distance_squared(wide, goal, max_sweeps=1)


def test_wide_layers_alternate_to_the_same_minimum(monkeypatch):
    layers, target, _ = network_near((6, 4, 4, 4, 5), 0.05, 3)
    newton = gauge.distance_squared(layers, target)
    monkeypatch.setattr("dlnjax.theory._procrustes.LARGEST", 0)
    assert gauge.distance_squared(layers, target) == pytest.approx(newton, rel=1e-11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "nowhere"}, "give 'chain'"),
        ({"weight": -1.0}, "weight=-1"),
        ({"params": [np.ones((2, 3)), np.eye(2)]}, "same widths"),
        ({"params": [np.full((2, 2), np.nan), np.eye(2)]}, "not finite"),
    ],
)
def test_mistakes_are_refused(change, message):
    given_ = {"params": [np.eye(2), np.eye(2)], "target": [np.eye(2), np.eye(2)], **change}
    with pytest.raises(ValueError, match=message):
        gauge.distance_squared(given_.pop("params"), given_.pop("target"), **given_)


def brute_signs(layers, target):
    """Width one: the least over all signs."""
    weight = np.linalg.norm(target[0], 2) ** 2
    best = np.inf
    for signs in itertools.product([1.0, -1.0], repeat=len(layers) - 1):
        ends = [1.0, *signs, 1.0]
        gaps = [
            np.sum((w - ends[i + 1] * g * ends[i]) ** 2)
            for i, (w, g) in enumerate(zip(layers, target, strict=True))
        ]
        best = min(best, gaps[0] + weight * sum(gaps[1:]))
    return best


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 4), min_size=3, max_size=5),
    st.sampled_from([0.0, 1e-8, 1e-3, 0.05]),
    st.integers(0, 10**6),
    st.sampled_from([1e-60, 1e-9, 1.0, 1e60]),
)
def test_no_rotation_near_or_far_is_better(dims, noise, seed, size):
    layers, target, turns = network_near(tuple(dims), noise, seed)
    layers, target = ([tree[0] * size, *tree[1:]] for tree in (layers, target))
    found = gauge.distance_squared(layers, target)
    rng = np.random.default_rng(seed)
    scale = np.sum(target[0] ** 2) * len(dims)
    here = gauge.align(layers, target)
    if not (dims[0] >= dims[1] and len(set(dims[1:-1])) == 1):  # ends that see only a part: a local minimum
        target, turns = here, [np.eye(d) for d in dims[1:-1]]
    for spread in (0.0, 1e-4, 1e-2):
        rotations = [oracles.polar(t.T + spread * rng.standard_normal(t.shape)) for t in turns]
        moved = gauge.transform(target, rotations)
        weight = np.linalg.norm(target[0], 2) ** 2
        gaps = [np.sum((w - g) ** 2) for w, g in zip(layers, moved, strict=True)]
        value = gaps[0] + weight * sum(gaps[1:])
        assert found <= value * (1 + 1e-9) + 1e-28 * scale
    if set(dims[1:-1]) == {1}:
        assert found == pytest.approx(brute_signs(layers, target), rel=1e-9, abs=1e-28 * scale)
