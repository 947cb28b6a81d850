"""Products of tiny matrices: written out on a CPU, the plain product everywhere else, the same numbers in all cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlnjax._linalg import matmul, small_matmul, transpose

SIZES = st.integers(1, 10)


def pair(seed, shape, other, dtype):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(s).astype(dtype) for s in (shape, other))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=SIZES,
    k=SIZES,
    p=SIZES,
    batch=st.lists(st.integers(1, 3), max_size=2),
    dtype=st.sampled_from(["f4", "f8"]),
)
def test_equals_numpy_in_all_shapes_and_forms(n, k, p, batch, dtype):
    a, b = pair(n + 10 * k, (*batch, n, k), (*batch, k, p), dtype)
    expected = a.astype("f8") @ b.astype("f8")
    allowed = {"atol": 20 * np.finfo(dtype).eps, "rtol": 20 * np.finfo(dtype).eps}
    left, right = transpose(jnp.asarray(a)), transpose(jnp.asarray(b))
    for found in (
        small_matmul(jnp.asarray(a), jnp.asarray(b)),
        jax.jit(small_matmul)(a, b),
        jax.jit(lambda a, b: small_matmul(transpose(a), b))(left, b),
        jax.jit(lambda a, b: small_matmul(a, transpose(b)))(a, right),
    ):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, **allowed)


def test_vmap_of_one_or_both_factors_and_derivatives():
    a, b = pair(0, (5, 4, 6), (5, 6, 3), "f8")
    both = jax.jit(jax.vmap(small_matmul))(a, b)
    np.testing.assert_allclose(both, a @ b, atol=1e-14)
    one = jax.jit(jax.vmap(small_matmul, (0, None)))(a, b[0])
    np.testing.assert_allclose(one, a @ b[0], atol=1e-14)
    for f in (jax.grad, jax.jacfwd):
        ours = f(lambda a: jnp.sum(small_matmul(a, b[1]) ** 3))(a[0])
        np.testing.assert_allclose(ours, f(lambda a: jnp.sum(matmul(a, b[1]) ** 3))(a[0]), rtol=1e-12)


def test_not_a_number_stays_in_its_row_and_column():
    a, b = pair(1, (2, 4, 4), (2, 4, 4), "f4")
    a[0, 1, 2], b[1, 3, 0] = np.nan, np.inf
    found = np.asarray(jax.jit(small_matmul)(a, b))
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(a @ b))


def test_a_sum_of_no_terms_is_zero():
    np.testing.assert_array_equal(small_matmul(jnp.ones((2, 3, 0)), jnp.ones((2, 0, 4))), np.zeros((2, 3, 4)))


@pytest.mark.parametrize("shapes", [((2, 3), (4, 2)), ((3, 2, 3), (2, 3, 2))])
def test_shapes_that_do_not_fit_are_refused_as_by_the_plain_product(shapes):
    a, b = (jnp.ones(shape) for shape in shapes)
    with pytest.raises((TypeError, ValueError)) as plain:
        matmul(a, b)
    with pytest.raises(type(plain.value)):
        small_matmul(a, b)


def lowered(a, b, platform):
    return jax.jit(small_matmul).trace(a, b).lower(lowering_platforms=(platform,)).as_text()


def test_written_out_on_a_cpu_only_and_only_where_tiny():
    tiny, wide = jnp.ones((7, 8, 8)), jnp.ones((7, 9, 9))
    assert "dot_general" not in lowered(tiny, tiny, "cpu")
    assert "optimization_barrier" in lowered(tiny, tiny, "cpu")
    assert "dot_general" in lowered(wide, wide, "cpu")
    long = jnp.ones((7, 8, 65))
    assert "dot_general" in lowered(tiny, long, "cpu")
    for platform in ("cuda", "tpu"):
        text = lowered(tiny, tiny, platform)
        assert "dot_general" in text
        assert "precision = [HIGHEST, HIGHEST]" in text
        assert "optimization_barrier" not in text


def test_on_a_cpu_each_product_of_a_chain_is_computed_once():
    """Fused into the next product, its entries would be computed anew for every term: flops would multiply."""
    a, b = pair(2, (64, 8, 8), (64, 8, 8), "f4")

    def chain(a, b):
        for _ in range(4):
            b = small_matmul(a, b)
        return b

    text = jax.jit(chain).lower(a, b).compile().as_text()
    # counted where the instructions are, fusions included: 8 products of entries a term, 4 products of matrices
    assert text.count(" multiply(") <= 4 * 8
    assert text.count(" conditional(") == 4
