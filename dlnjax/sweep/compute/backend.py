"""What a kind of program has to offer: how the cells of a shard are drawn, and how one of them is trained.

A backend is one row of ``backends.BACKENDS``: ``layers`` and ``reduced`` for plain linear networks, ``general`` for all
else. What follows from the cells as drawn (step sizes, lengths, columns) is the same for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dlnjax import train
from dlnjax._types import PyTree, Rate
from dlnjax.reduced import LayerScales
from dlnjax.sweep.compute.loop import Ended
from dlnjax.sweep.compute.session import Session
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Sweep
from dlnjax.sweep.plan import Shard


class Steps(NamedTuple):
    """The traced numbers of the cells: step size mu, the layers' multipliers of it, momentum beta."""

    size: Any
    scales: LayerScales
    momentum: Any


#: ``(problem, start, key, steps, depth)`` of one cell -> its engine
EngineMaker = Callable[..., train.Engine]


@dataclass(frozen=True, kw_only=True)
class Instances(ABC):
    """The cells of a shard as drawn. B is the batch, filled up with the last cell; n of them are the shard's own.

    Attributes:
      problem, start: what the program is called with: trees of arrays, B in front (``problem`` unless shared).
      keys: PRNG keys ``(B,)``.
      shared: whether ``problem`` is one for all cells.
      rank: numerical rank of the target or of the data, None where it is not known.
      unit: ``(n,)`` step sizes given as numbers are multiples of this.
      norms: ``(n,)`` spectral norm of the free layer at the solution, or at the start where no solution fixes it.
      num_middle: layers that share the step between the first and the last constrained one.
      curvature: ``(n, 2)`` extreme curvatures of the loss on products, or None.
      unique: whether the rate at the solution drawn holds at every solution a run may reach.
      common: whether that rate is one for all cells.
    """

    problem: PyTree
    start: PyTree
    keys: jax.Array
    shared: bool
    rank: int | None
    unit: np.ndarray
    norms: np.ndarray
    num_middle: int
    curvature: np.ndarray | None = None
    unique: bool = False
    common: bool = False

    @abstractmethod
    def unit_rate(self, i: int, scales: LayerScales, ended: PyTree = None) -> Rate | None:
        """The rate of Riemannian gradient descent at ``mu = 1`` that theory predicts for cell i, None without one.

        Args:
          i: place of the cell.
          scales: its multipliers, plain numbers.
          ended: ``Ended.result``: predict at what training reached; None: at the solution drawn.
        """

    def start_distance(self) -> np.ndarray | None:
        """``(n,)`` a bound of the gauge-invariant distance of start and solution, None where there is none."""
        return None


class Backend(Protocol):
    """One way to draw and to train cells."""

    def draw(self, session: Session, sweep: Sweep, cells: Sequence[Cell], shard: Shard) -> Instances:
        """The instances of some cells of a shard."""
        ...

    def engine(self, sweep: Sweep, shard: Shard) -> EngineMaker:
        """What trains one cell."""
        ...

    def shapes(self, session: Session, sweep: Sweep, shard: Shard) -> tuple[bool, tuple[PyTree, ...]] | None:
        """``shared`` and the shapes of problem, start and keys before any cell is drawn; None: not known before."""
        ...

    def drawing(self, session: Session, sweep: Sweep, shard: Shard) -> Callable[[], object] | None:
        """What makes the program that draws the cells, where there is one."""
        ...

    def trained(self, ended: Ended, depth: int) -> list[np.ndarray]:
        """The trained layers as they are stored, B in front."""
        ...
