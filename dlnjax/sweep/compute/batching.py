"""Cells in blocks that stay in the cache: ``vmap`` within a block, one block's whole run after the other.

Cells are independent, so a long loop over few cells does the same work as over many; but on a CPU the layers of
sixteen networks of width 32 fit a core's cache and those of a hundred do not. A block is also what is skipped once
all its cells are finished; :func:`packing` says how cells should change places so that few blocks hold all that
still run. The sizes are fixed powers of two, so that no other program is ever compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from dlnjax.sweep import plan

#: Least hidden width -> cells of a block, the widest first. Measured on 2 cores with 1 MiB of second cache each (128
#: cells, N = 8, both engines, float32): within 8% of the best of 4, 8, ... 64 at every width tried from 12 to 64.
CELLS = {48: 8, 24: 16, 12: 32, 0: 64}
# Name of the axis of cells within a block.
_BLOCK = "block"


def mesh(batch: int) -> Mesh:
    """The axis ``cells`` over as many local devices as divide a batch."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    return Mesh(np.array(devices[:count]), ("cells",), axis_types=(AxisType.Auto,))


def cells(width: int) -> int:
    """Cells of a block of networks of this hidden width, on the devices JAX uses by default."""
    if jax.default_backend() != "cpu":
        return plan.CAPACITY  # an accelerator works on all of a batch at once
    return next(size for least, size in CELLS.items() if width >= least)


def everyone(flag: jax.Array) -> jax.Array:
    """Whether a flag holds for all cells of this cell's block; one truth for the block, so that it can branch on it."""
    return jax.lax.pmin(flag.astype(jnp.int32), _BLOCK) == 1


def blocked(function: Callable, in_axes: Sequence[int | None], width: int) -> Callable:
    """``jax.vmap(function, in_axes)`` in blocks, for networks of this hidden width; axes are 0 or None."""
    size = cells(width)

    def call(*arguments):
        mapped = tuple(a for a, axis in zip(arguments, in_axes, strict=True) if axis == 0)
        count = jax.tree.leaves(mapped)[0].shape[0]

        def block(chosen):
            remaining = iter(chosen)
            whole = (next(remaining) if axis == 0 else a for a, axis in zip(arguments, in_axes, strict=True))
            return jax.vmap(function, in_axes=tuple(in_axes), axis_name=_BLOCK)(*whole)

        if count <= size:
            return block(mapped)
        full, rest = divmod(count, size)
        head = jax.tree.map(lambda a: a[: full * size].reshape(full, size, *a.shape[1:]), mapped)
        results = jax.tree.map(lambda a: a.reshape(full * size, *a.shape[2:]), jax.lax.map(block, head))
        if not rest:
            return results
        tail = block(jax.tree.map(lambda a: a[full * size :], mapped))
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), results, tail)

    return call


def packing(finished: np.ndarray, devices: int, width: int) -> np.ndarray | None:
    """An order of cells that leaves fewer blocks with work at the busiest device, None where there is none.

    Args:
      finished: ``(B,)``, the cells in their present places: an equal stretch of them a device.
      devices: how many share them.
      width: as in :func:`blocked`.
    """
    size, share = cells(width), len(finished) // devices
    running = ~finished.reshape(devices, share)
    blocks = [np.count_nonzero(np.add.reduceat(row, np.arange(0, share, size))) for row in running]
    active = np.flatnonzero(~finished)
    if not active.size or -(-active.size // (devices * size)) >= max(blocks):
        return None
    idle = iter(np.flatnonzero(finished))
    order = []
    for device in range(devices):
        here = active[device::devices]
        order += [*here, *(next(idle) for _ in range(share - len(here)))]
    return np.array(order)
