"""How many cells a device holds at once: predicted from their sizes, checked against the compiled program's own
account and the device's memory, halved when memory runs out all the same, and remembered.

A cell takes room for its arguments and, while the host keeps or moves it, twice for its state; the cells of the block
at work take their temporary arrays besides. Shards stay what they are: a smaller batch runs a shard in parts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import jax
import numpy as np

from dlnjax._types import PyTree

if TYPE_CHECKING:
    from dlnjax.sweep.compute.loop import State

#: Part of a device's memory that a batch may take; the rest is for tables, other programs and other processes.
SHARE = 0.5
# Temporary arrays of a block at work, in units of its cells' arguments and params: prefixes, gradients, moved layers.
_TEMPORARY = 4
_CGROUP = Path("/sys/fs/cgroup/memory.max")


class Device(Protocol):
    """What is asked of a device."""

    @property
    def platform(self) -> str: ...

    def memory_stats(self) -> dict[str, int] | None: ...


class TooLarge(MemoryError):
    """A batch that the device's memory does not hold; ``fits`` is the largest power of two that it does."""

    def __init__(self, needed: int, given: int, fits: int):
        super().__init__(
            f"{needed / 1e6:.1f} MB for a batch, {given / 1e6:.1f} MB of a device to be used for it"
        )
        self.fits = fits


class Share(NamedTuple):
    """A batch over devices: all its cells, the devices, and the cells of a block."""

    batch: int
    devices: int
    block: int


class BatchSizes:
    """How many cells of a program run at once: all of a shard's, or as many as memory has allowed before."""

    def __init__(self) -> None:
        self._sizes: dict[Hashable, int] = {}

    def of(self, program: Hashable, most: int) -> int:
        """Cells of ``program`` that run at once, at most ``most``."""
        return min(most, self._sizes.get(program, most))

    def shrink(self, program: Hashable, size: int, error: BaseException) -> bool:
        """Remembers a smaller batch after an error for want of memory; False for another error, or one cell alone."""
        if not exhausted(error) or size == 1:
            return False
        self._sizes[program] = min(error.fits, size // 2) if isinstance(error, TooLarge) else size // 2
        return True


def exhausted(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a device."""
    ran_out = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return ran_out or isinstance(error, MemoryError)


def predicted(share: Share, arguments: PyTree, state: State) -> int:
    """Bytes a device needs, from the shapes of the batched arguments and of the state (``loop.State``)."""
    cell = (_bytes(arguments) + 2 * _bytes(state)) / share.batch
    block = (_bytes(arguments) + _bytes(state.run)) / share.batch
    here = math.ceil(share.batch / share.devices)
    return math.ceil(here * cell + min(here, share.block) * block * _TEMPORARY)


def accounted(compiled: jax.stages.Compiled) -> int:
    """Bytes a device needs, as XLA's account of a compiled program has it; 0 where there is none."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(held + analysis.temp_size_in_bytes)


def check_sizes(share: Share, arguments: PyTree, state: State, device: Device) -> None:
    """Raises :class:`TooLarge` where the prediction passes the device's :func:`limit`."""
    given = limit(device)
    needed = predicted(share, arguments, state)
    if needed > given and share.batch > 1:
        fits = share.batch
        while fits > 1 and needed * fits > given * share.batch:
            fits //= 2
        raise TooLarge(needed, given, fits)


def check_program(share: Share, compiled: jax.stages.Compiled, device: Device) -> None:
    """Raises :class:`TooLarge` where the program's own account passes the device's :func:`limit`."""
    given, needed = limit(device), accounted(compiled)
    if needed > given and share.batch > 1:
        raise TooLarge(needed, given, share.batch // 2)


def limit(device: Device) -> int:
    """Bytes of a device that a batch may take: of its own memory, or of a core's part of the machine's."""
    if device.platform != "cpu":
        said = device.memory_stats() or {}
        return int(SHARE * said.get("bytes_limit", 8 << 30))
    return int(SHARE * _machine() / (os.cpu_count() or 1))


def _machine() -> int:
    """Bytes of main memory that this process may use: a container's limit, or all there is."""
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        there = 8 << 30
    try:
        return min(there, int(_CGROUP.read_text()))
    except (OSError, ValueError):  # no limit is the word "max"
        return there


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) * _width(leaf.dtype) for leaf in jax.tree.leaves(tree))


def _width(dtype: np.dtype) -> int:
    return dtype.itemsize
