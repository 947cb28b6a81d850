"""Random networks of any shape and scale, in both precisions, against plain numpy; ``DLNJAX_DRAWS`` sets how many."""

import itertools
import os

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import programs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlnjax import _monitor, layerwise, network, problem, reduced, stiefel, train
from dlnjax._types import Status

DRAWS = int(os.environ.get("DLNJAX_DRAWS", "40"))
often = settings(max_examples=DRAWS, deadline=None, derandomize=True, database=None)
ROUNDING = {np.float32: 1e-5, np.float64: 1e-13}


@st.composite
def networks(draw, square=False):
    """``(layers as numpy arrays, dtype)``: widths from 1, scales that stay within the dtype, rank-deficient, zero."""
    depth = draw(st.integers(1, 7))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    if square:
        inner = draw(st.integers(1, 4))
        widths = [draw(st.integers(1, 5)), *[inner] * (depth + 1), draw(st.integers(1, 5))]
    else:
        widths = draw(st.lists(st.integers(1, 5), min_size=depth + 1, max_size=depth + 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    reach = 30 if dtype is np.float32 else 290
    scale = 10.0 ** (draw(st.integers(-reach, reach)) / (len(widths) + 2))
    layers = [scale * rng.standard_normal((n, m)) for m, n in itertools.pairwise(widths)]
    kind = draw(st.sampled_from(["full", "full", "rank one", "zero"]))
    if kind == "rank one":
        layers = [np.outer(w[:, 0], w[0] / np.linalg.norm(w[0])) for w in layers]
    if kind == "zero":
        layers[draw(st.integers(0, len(layers) - 1))][:] = 0
    return [w.astype(dtype) for w in layers], dtype


def close(got, want, size, dtype):
    assert got.dtype == dtype
    assert (
        np.abs(np.asarray(got, float) - want).max(initial=0) <= ROUNDING[dtype] * size + np.finfo(dtype).tiny
    )


def sizes(layers):
    return float(np.prod([np.linalg.norm(w.astype(float)) for w in layers]))


@often
@given(networks(), st.integers(0, 2**31))
def test_products_and_gradients(case, number):
    """Product, layer gradients and forward pass, of layers and of runs alike."""
    layers, dtype = case
    exact = [w.astype(float) for w in layers]
    params = tuple(map(jnp.asarray, layers))
    gradient = (
        np.random.default_rng(number).standard_normal((layers[-1].shape[0], layers[0].shape[1])).astype(dtype)
    )
    product = oracles.product(exact)
    gradients = [
        oracles.product(exact[i + 1 :] or [np.eye(w.shape[0])]).T
        @ gradient.astype(float)
        @ oracles.product(exact[:i] or [np.eye(w.shape[1])]).T
        for i, w in enumerate(exact)
    ]
    for form in (params, network.stack(params)):
        close(network.end_to_end(form), product, sizes(layers), dtype)
        close(network.forward(form, jnp.eye(layers[0].shape[1], dtype=dtype)), product, sizes(layers), dtype)
        for i, got in enumerate(network.unstack(network.layer_gradients(form, jnp.asarray(gradient)))):
            others = sizes([*layers[:i], *layers[i + 1 :], gradient])
            close(got, gradients[i], others, dtype)


@often
@given(networks(square=True), st.integers(-3, 15), st.integers(0, 3))
def test_depths(case, depth, missing):
    """A depth takes its layers or is refused; padding changes nothing."""
    layers, dtype = case
    params = network.pad(tuple(map(jnp.asarray, layers)), len(layers) + missing)
    run = next(i for i, leaf in enumerate(params) if leaf.ndim == 3)
    close(
        network.end_to_end(params), oracles.product([w.astype(float) for w in layers]), sizes(layers), dtype
    )
    outside = network.num_layers(params) - params[run].shape[0]
    if not outside <= depth <= network.num_layers(params):
        with pytest.raises(ValueError, match=f"depth={depth}; these params hold {outside} to"):
            network.end_to_end(params, depth)
        return
    stored = [np.asarray(w, float) for w in network.unstack(params)]
    last = len(stored) - (run + params[run].shape[0])
    used = stored[: depth - last] + (stored[-last:] if last else [])
    close(network.end_to_end(params, depth), oracles.product(used), sizes(used), dtype)
    close(network.end_to_end(params, jnp.asarray(depth)), oracles.product(used), sizes(used), dtype)


@often
@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(0, 6), st.integers(0, 2**31),
    st.sampled_from([jnp.float32, jnp.float64]),
)  # fmt: skip
def test_reduction_and_back(rank, inputs, outputs, middle, number, dtype):
    """The two-layer form has the product, and its layers are the layers; a power of a rotation is what eigh says."""
    keys = jax.random.split(jax.random.key(number), 3)
    first = jax.random.normal(keys[0], (rank, inputs), dtype)
    run = (
        stiefel.random(keys[1], (middle, rank, rank), dtype) if middle else jnp.zeros((0, rank, rank), dtype)
    )
    params = (first, run, stiefel.random(keys[2], (outputs, rank), dtype))
    exact = oracles.product([np.asarray(w, float) for w in network.unstack(params)])
    short = reduced.reduce(params)
    close(reduced.end_to_end(short), exact, np.linalg.norm(first) * rank, np.dtype(dtype).type)
    back = network.unstack(reduced.layers(short))
    assert len(back) == middle + 2
    if outputs >= rank:  # a wide last layer is recovered on the span that the frame keeps
        for got, want in zip(back, network.unstack(params), strict=True):
            close(got, np.asarray(want, float), rank * (middle + 2), np.dtype(dtype).type)
    rotation = np.asarray(stiefel.random(keys[0], (rank, rank), jnp.float64))
    power = np.linalg.matrix_power(rotation, 37 + middle)
    np.testing.assert_allclose(reduced.power(jnp.asarray(rotation), 37 + middle), power, atol=1e-13)


@pytest.mark.mistakes
@often
@given(st.one_of(st.integers(-3, 40), st.floats(allow_nan=True)), st.one_of(st.integers(-3, 40), st.floats()))
def test_records(num_steps, every):
    """Intervals sum to the steps, none is 0, all but the last are ``record_every``; or a refusal."""
    good = all(isinstance(n, int) and n >= 1 for n in (num_steps, every))
    if not good:
        with pytest.raises(ValueError, match="give an integer of at least 1"):
            train.lengths(num_steps, every, None)
        return
    intervals = np.asarray(train.lengths(num_steps, every, None))
    assert intervals.sum() == num_steps
    assert (intervals[:-1] == every).all()
    assert 1 <= intervals[-1] <= every


def expected_status(distances, losses, gradients, tolerance):
    """The rule in plain numpy, from its words."""
    status = Status.RUNNING
    best, since = distances[0], 0
    for t in range(1, len(distances)):
        if not (np.isfinite(distances[t]) and np.isfinite(losses[t])):
            return Status.DIVERGED
        if t >= 100 and (distances[t - 99 : t + 1] > 10 * distances[0]).all():
            return Status.DIVERGED
        if distances[t] <= (1 - 1e-6) * best or gradients[t] <= 1e-2 * gradients[0]:
            best, since = (distances[t] if distances[t] <= (1 - 1e-6) * best else best), t
        moves = np.diff(losses[since : t + 1])
        if t - since >= 100 and (moves > 0).sum() >= 5 and (moves < 0).sum() >= 5:
            return Status.DIVERGED
        if distances[t] <= tolerance * distances[0]:
            status = Status.CONVERGED
    return status


@jax.jit
def _status(distances, losses, gradients):
    def record(step, distance, loss, gradient):
        return _monitor.Record(step, loss, distance, gradient, jnp.zeros(()))

    def more(monitor, values):
        return _monitor.observe(monitor, record(*values), jnp.asarray(-1, jnp.int32), 1e-8), None

    steps = jnp.arange(len(losses), dtype=jnp.int32)
    values = (steps, distances, losses, gradients)
    begun = _monitor.begin(record(*jax.tree.map(lambda a: a[0], values)))
    return jax.lax.scan(more, begun, jax.tree.map(lambda a: a[1:], values))[0].status


@often
@given(
    st.integers(0, 2**31), st.sampled_from(["fall", "slow", "orbit", "chaos", "high", "rise", "not finite"])
)
def test_statuses(number, kind):
    """Curves of every kind end with the status that the rule's words give them."""
    rng = np.random.default_rng(number)
    t = np.arange(260)
    curve = {
        "fall": np.exp(-t * 10 ** rng.uniform(-4, -0.5)),
        "slow": 1 - t * 10 ** rng.uniform(-13, -5),
        "orbit": 1 + rng.uniform(-0.5, 3) * (t % rng.integers(2, 5)) + t * rng.uniform(-1e-9, 1e-9),
        "chaos": np.exp(rng.standard_normal(260) * rng.uniform(0.01, 2)),
        "high": np.where(t > rng.integers(1, 200), rng.uniform(8, 12), 1.0),
        "rise": np.exp(t * 10 ** rng.uniform(-6, -1)),
        "not finite": np.where(t > rng.integers(1, 250), np.nan, 1.0),
    }[kind]
    gradients = 10 ** rng.uniform(-3, 1) * np.ones(260)
    gradients[0] = 1
    losses = curve**2 / 2
    got = int(_status(jnp.asarray(curve), jnp.asarray(losses), jnp.asarray(gradients)))
    assert got == expected_status(curve, losses, gradients, 1e-8)


@jax.jit
def one_step(params, target, step):
    """The products after one Riemannian step: by the reduction and by the pass through the layers."""
    square, run = problem.whitened(target), {"step_size": step, "num_steps": 1}
    short, _ = reduced.train(reduced.reduce(params), square, **run)
    long, _ = layerwise.train(params, square, **run)
    return reduced.end_to_end(short), network.end_to_end(long)


@often
@given(
    st.integers(1, 3), st.sampled_from([2, 3, 5]), st.integers(0, 2**31), st.integers(-6, 0),
    st.sampled_from([jnp.float32, jnp.float64]),
)  # fmt: skip
def test_one_step_of_the_three_engines(rank, depth, number, size, dtype):
    """One Riemannian step of random layers: the reduction and the pass by layers give numpy's product."""
    programs.forget_if_many()
    keys = jax.random.split(jax.random.key(number), 4)
    first = jax.random.normal(keys[0], (rank, 5), dtype)
    run = jnp.zeros((0, rank, rank), dtype)
    if depth > 2:
        run = stiefel.random(keys[1], (depth - 2, rank, rank), dtype)
    params = (first, run, stiefel.random(keys[2], (4, rank), dtype))
    target, step = jax.random.normal(keys[3], (4, 5), dtype), 10.0**size
    layers = [np.asarray(w, float) for w in network.unstack(params)]
    expected = oracles.riemannian_step(layers, lambda w: w - np.asarray(target, float), [step] * depth)
    for product in one_step(params, target, dtype(step)):
        close(product, oracles.product(expected), 20 * (1 + np.linalg.norm(first)) ** 2, np.dtype(dtype).type)
