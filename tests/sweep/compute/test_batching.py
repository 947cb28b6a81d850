"""Blocks of cells give what one vmap over all of them gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlnjax.sweep import plan
from dlnjax.sweep.compute import batching


@pytest.mark.parametrize("count", [3, 16, 32, 40])
@pytest.mark.parametrize("width", [4, 32])
def test_blocks_equal_one_vmap(count, width):
    def function(pair, factor, shared):
        return {"sum": pair["a"] @ pair["b"] * factor + shared, "factor": factor}

    rng = np.random.default_rng(0)
    pair = {name: jnp.asarray(rng.standard_normal((count, 5))) for name in "ab"}
    arguments = (pair, jnp.arange(count, dtype=float), jnp.float64(2.0))
    found = jax.jit(batching.blocked(function, (0, 0, None), width))(*arguments)
    expected = jax.vmap(function, in_axes=(0, 0, None))(*arguments)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-14)


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("running", [0.05, 0.3, 0.8, 1.0])
def test_packing_leaves_as_few_blocks_as_hold_the_work(devices, running):
    rng = np.random.default_rng(3)
    finished = rng.random(96 * devices) > running

    def busiest(flags):
        return (~flags.reshape(devices, -1, batching.cells(32))).any(axis=2).sum(axis=1).max()

    order = batching.packing(finished, devices, 32)
    fewest = -(-np.count_nonzero(~finished) // (devices * batching.cells(32)))
    if order is None:
        assert busiest(finished) == fewest
    else:
        assert sorted(order) == list(range(len(finished)))
        assert busiest(finished[order]) == fewest < busiest(finished)
    assert batching.packing(np.ones(8, bool), 1, 32) is None


def test_a_block_branches_on_what_all_its_cells_say():
    def function(x):
        return jax.lax.cond(batching.everyone(x > 0), lambda: 1, lambda: 0)

    x = jnp.ones(40).at[17].set(-1.0)
    found = jax.jit(batching.blocked(function, (0,), 32))(x)
    assert found.tolist() == [1] * 16 + [0] * 16 + [1] * 8


def test_wider_networks_come_in_smaller_blocks(monkeypatch):
    sizes = [batching.cells(width) for width in (1, 11, 12, 23, 24, 47, 48, 500)]
    assert sizes == [64, 64, 32, 32, 16, 16, 8, 8]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert batching.cells(32) == plan.CAPACITY
