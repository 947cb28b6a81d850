"""All that ``dlnjax bench sweep`` sets side by side takes the same steps, so that its ratios are of the same work."""

import functools

import numpy as np
import pytest

from dlnjax.bench import _networks as networks
from dlnjax.bench import sweep

N, D, C = 4, 6, 4
STEP_SIZE = 0.05
STEPS = 6


def ends(name):
    """``W_1, ..., W_N``, each ``(C, d, d)``, where a contestant's steps lead."""
    pytest.importorskip(networks.NEEDS.get(name, "jax"))
    layers, target = sweep.instance(N, D, C)
    found = networks.CONTESTANTS[name](layers, target, STEP_SIZE)(STEPS)
    if name == "layers":
        first, run, last = map(np.asarray, found)
        return [first, *run.swapaxes(0, 1), last]
    if name == "geoopt":
        return [layer.detach().numpy() for layer in found]
    if name == "naive_jax":
        return list(np.asarray(found).swapaxes(0, 1))
    return [np.stack(cells) for cells in zip(*found, strict=True)]


def oracle(retract):
    """The same in float64 numpy, written from the definition: one network, one layer after the other."""
    layers, target = (a.astype(float) for a in sweep.instance(N, D, C))
    for cell in range(C):
        w = list(layers[:, cell])
        for _ in range(STEPS):
            error = product(w) - target[cell]
            gradients = [product(w[i + 1 :]).T @ error @ product(w[:i]).T for i in range(N)]
            for i, (x, g) in enumerate(zip(w, gradients, strict=True)):
                tangent = g if i == 0 else x @ (x.T @ g - g.T @ x) / 2
                moved = x - STEP_SIZE * tangent
                w[i] = moved if i == 0 else retract(moved)
        layers[:, cell] = w
    return list(layers)


def product(layers):
    """``W_k ... W_1``, the identity of none."""
    return functools.reduce(lambda p, w: w @ p, layers, np.eye(D))


def polar(x):
    u, _, vt = np.linalg.svd(x)
    return u @ vt


def qr(x):
    q, r = np.linalg.qr(x)
    return q * np.sign(np.diag(r))


RETRACTIONS = {"layers": polar, "naive_jax": polar, "geoopt": qr, "pymanopt": qr, "pymanopt_descent": qr}


@pytest.mark.parametrize("name", RETRACTIONS)
def test_contestants_take_the_steps_of_the_definition(name):
    for ours, theirs in zip(oracle(RETRACTIONS[name]), ends(name), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=5e-6)


def test_the_reduced_contestant_moves_the_first_layer_alike():
    layers, target = sweep.instance(N, D, C)
    found = networks.CONTESTANTS["reduced"](layers, target, STEP_SIZE)(STEPS)
    np.testing.assert_allclose(np.asarray(found), oracle(polar)[0], atol=5e-6)


def test_every_contestant_is_compared():
    named = set().union(*(names for _, names in sweep.CASES))
    assert set(networks.CONTESTANTS) <= named
    times = {case: dict.fromkeys(names, 1.0) for case, names in sweep.CASES}
    assert len(sweep._targets(times)) == 17
    assert {target["value"] for target in sweep._targets(times)} == {1.0}
