"""Random starts, teachers and step multipliers of any shape, scale and precision, against plain numpy.

``DLNJAX_DRAWS=10000 pytest tests/test_starts_properties.py`` draws more.
"""

import itertools
import os
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import programs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlnjax import initial, network, scales

DRAWS = int(os.environ.get("DLNJAX_DRAWS", "20"))
often = settings(max_examples=DRAWS, deadline=None, derandomize=True, database=None)
dtypes = st.sampled_from([np.float32, np.float64])
numbers = st.integers(0, 2**31)
REACH = {np.float32: 36, np.float64: 306}  # decimal exponents on both sides of the normal range


def eps(dtype):
    return float(np.finfo(dtype).eps)


def widths(draw):
    return tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=6)))


def size(draw, dtype, most):
    """0, or a number of any magnitude, outside the dtype's range too."""
    if draw(st.integers(0, 9)) == 0:
        return 0.0
    return float(draw(st.floats(1, 9.9)) * 10.0 ** draw(st.integers(-most, most)))


def allowed(number, dtype):
    kind = np.finfo(dtype)
    return number == 0 or float(kind.tiny) / float(kind.eps) <= number <= float(kind.max) / 16


def as_floats(params, dtype):
    assert all(layer.dtype == dtype for layer in params)
    return [np.asarray(layer, float) for layer in params]


def assert_orthonormal(layer, dtype):
    small = layer if layer.shape[0] <= layer.shape[1] else layer.T
    assert np.abs(small @ small.T - np.eye(len(small))).max() <= 20 * eps(dtype)


def assert_balanced(layers, dtype):
    for first, second in itertools.pairwise(layers):
        inner, outer = first @ first.T, second.T @ second
        assert np.abs(inner - outer).max() <= 60 * eps(dtype) * max(np.abs(inner).max(), np.finfo(float).tiny)


@often
@given(st.data(), dtypes, numbers)
def test_haar_starts(data, dtype, number):
    """Orthonormal layers, the first of one singular value; a scale that the dtype cannot hold is refused."""
    programs.forget_if_many()
    dims, scale = widths(data.draw), size(data.draw, dtype, REACH[dtype] + 2)
    key = jax.random.key(number)
    if not allowed(scale, dtype):
        with pytest.raises(ValueError, match="first_scale="):
            initial.haar(key, dims, scale, dtype)
        return
    layers = as_floats(initial.haar(key, dims, scale, dtype), dtype)
    assert [w.shape for w in layers] == [(n, m) for m, n in itertools.pairwise(dims)]
    for layer in layers[1:]:
        assert_orthonormal(layer, dtype)
    if scale:
        assert_orthonormal(layers[0] / scale, dtype)
    else:
        assert not layers[0].any()


@often
@given(st.data(), dtypes, numbers)
def test_gaussian_starts(data, dtype, number):
    """Finite, and the gain multiplies what gain 1 draws."""
    programs.forget_if_many()
    dims, gain = widths(data.draw), size(data.draw, dtype, REACH[dtype] + 2)
    key = jax.random.key(number)
    if not allowed(gain, dtype):
        with pytest.raises(ValueError, match="gain="):
            initial.gaussian(key, dims, gain, dtype)
        return
    plain = as_floats(initial.gaussian(key, dims, 1.0, dtype), dtype)
    layers = as_floats(initial.gaussian(key, dims, gain, dtype), dtype)
    for layer, unit in zip(layers, plain, strict=True):
        assert np.isfinite(layer).all()
        np.testing.assert_allclose(layer, gain * unit, rtol=4 * eps(dtype), atol=float(np.finfo(dtype).tiny))


@often
@given(st.data(), dtypes, numbers)
def test_teachers(data, dtype, number):
    """The product has the singular values asked for, in every order of widths."""
    programs.forget_if_many()
    dims = widths(data.draw)
    rank = data.draw(st.integers(1, min(dims)))
    kind = data.draw(st.sampled_from(["equal", "graded", "random"]))
    rng = np.random.default_rng(number)
    spectrum = {
        "equal": np.ones(rank),
        "graded": np.geomspace(1, 1e-3 if dtype is np.float32 else 1e-10, rank),
        "random": np.sort(rng.uniform(0.1, 3, rank))[::-1],
    }[kind]
    spectrum = spectrum * 10.0 ** data.draw(st.integers(-REACH[dtype] // 2, REACH[dtype] // 2))
    layers = as_floats(initial.teacher(jax.random.key(number), dims, spectrum.tolist(), dtype), dtype)
    for layer in layers[1:]:
        assert_orthonormal(layer, dtype)
    got = np.linalg.svd(oracles.product(layers), compute_uv=False)
    chain = oracles.product(layers[1:]) if len(layers) > 1 else np.eye(dims[1])
    narrow = min(dims[1:])
    # what the pseudo-inverse multiplies roundings by
    loss = 1 / np.linalg.svd(chain, compute_uv=False)[narrow - 1]
    assert np.abs(got[:rank] - spectrum).max() <= 60 * eps(dtype) * loss * spectrum[0]
    assert np.abs(got[rank:]).max(initial=0) <= 60 * eps(dtype) * loss * spectrum[0]


@often
@given(st.data(), dtypes, numbers)
def test_perturbed_params(data, dtype, number):
    """Layers behind the first stay orthonormal and are the polar factors; runs and matrices alike."""
    programs.forget_if_many()
    inner = data.draw(st.integers(1, 4))
    params = initial.haar(jax.random.key(number), (3, *[inner] * data.draw(st.integers(1, 4)), 2), 1.0, dtype)
    noise = size(data.draw, dtype, REACH[dtype] + 2)
    form = network.stack(params) if data.draw(st.booleans()) else params
    if not allowed(noise, dtype):
        with pytest.raises(ValueError, match="noise="):
            initial.perturb(jax.random.key(number + 1), form, noise)
        return
    moved = initial.perturb(jax.random.key(number + 1), form, noise)
    for i, (before, after) in enumerate(zip(form, moved, strict=True)):
        drawn = jax.random.normal(jax.random.fold_in(jax.random.key(number + 1), i), before.shape, dtype)
        there = np.asarray(before, float) + noise * np.asarray(drawn, float)
        if i == 0:
            np.testing.assert_allclose(
                np.asarray(after, float), there, rtol=4 * eps(dtype), atol=4 * eps(dtype)
            )
            continue
        for layer, near in zip(
            np.asarray(after, float).reshape(-1, *after.shape[-2:]),
            there.reshape(-1, *after.shape[-2:]),
            strict=True,
        ):
            assert_orthonormal(layer, dtype)
            left, values, right = np.linalg.svd(near, full_matrices=False)
            unsure = (
                values[0] / values[-1] if values[-1] else np.inf
            )  # of a nearly singular matrix: any factor
            assert np.abs(layer - left @ right).max() <= min(2.5, 60 * eps(dtype) * unsure)


@often
@given(st.data(), dtypes, numbers)
def test_balanced_factorisations(data, dtype, number):
    """The product (or its best approximation of the narrowest width's rank), with balanced layers, at any scale."""
    programs.forget_if_many()
    dims = widths(data.draw)
    rng = np.random.default_rng(number)
    product = rng.standard_normal((dims[-1], dims[0]))
    if data.draw(st.booleans()):
        product = np.outer(product[:, 0], product[0])
    if data.draw(st.integers(0, 9)) == 0:
        product[:] = 0
    product = (product * 10.0 ** data.draw(st.integers(-REACH[dtype], REACH[dtype] - 2))).astype(dtype)
    exact = product.astype(float)
    layers = as_floats(initial.spectral(jnp.asarray(product), dims), dtype)
    left, values, right = np.linalg.svd(exact, full_matrices=False)
    rank = min(dims)
    best = (left[:, :rank] * values[:rank]) @ right[:rank]
    gap = values[rank - 1] - values[rank] if rank < len(values) else values[0]
    if gap > 1e-2 * values[0] or not values[0]:
        rounding = (200 + 20 * len(dims)) * eps(dtype)
        tiny = float(np.finfo(dtype).tiny)
        assert np.abs(oracles.product(layers) - best).max() <= rounding * values[0] + 64 * tiny
    assert_balanced(layers, dtype)


@often
@given(st.data(), dtypes, numbers)
def test_balanced_and_identity_starts(data, dtype, number):
    """Balanced layers of a random product; identities times a scale; sizes that the dtype cannot hold are refused."""
    programs.forget_if_many()
    dims, scale = widths(data.draw), size(data.draw, dtype, REACH[dtype] + 2)
    key = jax.random.key(number)
    if not allowed(scale, dtype):
        for start in (
            lambda: initial.balanced(key, dims, scale, dtype),
            lambda: initial.identity(dims, scale, dtype),
        ):
            with pytest.raises(ValueError, match="scale="):
                start()
        return
    for layer in as_floats(initial.identity(dims, scale, dtype), dtype):
        np.testing.assert_allclose(layer, scale * np.eye(*layer.shape), rtol=eps(dtype))
    layers = as_floats(initial.balanced(key, dims, scale, dtype), dtype)
    assert all(np.isfinite(layer).all() for layer in layers)
    assert_balanced(layers, dtype)


@often
@given(st.data(), dtypes, numbers)
def test_step_multipliers(data, dtype, number):
    """1/||W_1||_2^2 as numpy has it, shared among the middle layers; refused where the square leaves the dtype."""
    programs.forget_if_many()
    inner, depth = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    dims = (data.draw(st.integers(1, 4)), *[inner] * depth, data.draw(st.integers(1, 4)))
    first = np.random.default_rng(number).standard_normal((dims[1], dims[0]))
    first = (first * size(data.draw, dtype, REACH[dtype])).astype(dtype)
    rest = initial.haar(jax.random.key(number), dims, 1.0, dtype)[1:]
    params = (jnp.asarray(first), *rest)
    form = network.stack(params) if data.draw(st.booleans()) else params
    with np.errstate(over="ignore", divide="ignore"):
        inverse = np.float64(1.0) / np.linalg.norm(first.astype(np.longdouble).astype(float), 2) ** 2
    kind = np.finfo(dtype)
    if not 8 * float(kind.tiny) < inverse < float(kind.max) / 4:  # near the edges either answer is right
        for multipliers in (scales.discrepant, scales.middle):
            with suppress(ValueError):
                last = np.asarray(multipliers(form)[-1], float).ravel()[-1]
                np.testing.assert_allclose(last, inverse, rtol=1e-5)
        return
    equal, shared = scales.discrepant(form), scales.middle(form)
    each = [
        np.concatenate(
            [
                np.broadcast_to(np.asarray(s, float), (1 if leaf.ndim == 2 else leaf.shape[0],))
                for s, leaf in zip(tree, form, strict=True)
            ]
        )
        for tree in (equal, shared)
    ]
    layers = len(params)
    np.testing.assert_allclose(each[0], [1, *[inverse] * (layers - 1)], rtol=20 * eps(dtype))
    between = inverse / max(layers - 2, 1)
    np.testing.assert_allclose(
        each[1], [1, *[between] * (layers - 2), inverse][:layers], rtol=20 * eps(dtype)
    )
