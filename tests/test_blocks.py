"""Blocks of cells give what one vmap over all of them gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax.sweep import blocks


@pytest.mark.parametrize("count", [3, 16, 32, 40])
@pytest.mark.parametrize("width", [4, 32])
def test_blocks_equal_one_vmap(count, width):
    def function(pair, factor, shared):
        return {"sum": pair["a"] @ pair["b"] * factor + shared, "factor": factor}

    rng = np.random.default_rng(0)
    pair = {name: jnp.asarray(rng.standard_normal((count, 5))) for name in "ab"}
    arguments = (pair, jnp.arange(count, dtype=float), jnp.float64(2.0))
    found = jax.jit(blocks.blocked(function, (0, 0, None), width))(*arguments)
    expected = jax.vmap(function, in_axes=(0, 0, None))(*arguments)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-14)
