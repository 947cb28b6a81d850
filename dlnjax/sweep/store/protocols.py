"""What the store and the driver know of a sweep and of its shards: this, and nothing about networks.

A cell is the sweep's own affair; here it is only handed on, and known by its key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from dlnjax.sweep.config.user_functions import WithFunctions

#: Opaque here.
Cell: TypeAlias = Any


class Sweep(WithFunctions, Protocol):
    """A grid of cells; must pickle where shards run in other processes."""

    @property
    def study(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def hash(self) -> str:
        """Of all that changes results (hexadecimal)."""
        ...

    def to_toml(self) -> str:
        """The config in full."""
        ...

    def cells(self) -> Sequence[Cell]:
        """All cells, in grid order."""
        ...

    def key(self, cell: Cell, /) -> str:
        """The cell's name, a sha256 (hexadecimal)."""
        ...


class Shard(Protocol):
    """Cells that run and are stored together, under a name of 16 hexadecimal digits."""

    @property
    def name(self) -> str: ...

    @property
    def cells(self) -> Sequence[Cell]: ...


#: (sweep, cells) -> the shards of these cells; ``dlnjax.sweep.plan.shards``
Planner: TypeAlias = Callable[[Any, Sequence[Cell]], Sequence[Shard]]
