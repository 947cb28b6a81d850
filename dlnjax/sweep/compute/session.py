"""What a process keeps from shard to shard: compiled programs, batch sizes that fit, and the compiling thread."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from functools import cache
from typing import NamedTuple

import jax
from jax.sharding import NamedSharding

from dlnjax.sweep.compute.compilation import Compiler
from dlnjax.sweep.compute.loop import State
from dlnjax.sweep.compute.memory import BatchSizes


class Compiled(NamedTuple):
    """A program ready to run, where its arguments and its state live, and what the state looks like."""

    call: jax.stages.Compiled
    places: tuple[NamedSharding, ...]
    sharding: NamedSharding
    blank: State


class Session:
    """Everything that outlives a shard in one process; sessions share nothing but JAX itself.

    Attributes:
      compiler: counts compilations, and makes the next programs while one runs.
      batches: cells per batch that memory has allowed each program.
      training: the compiled training programs.
      traced, drawing: what draws the cells of plain linear networks, traced and compiled.
      tracing: held while ``traced`` is filled: the compiling thread wants its shapes too.
    """

    def __init__(self) -> None:
        self.compiler: Compiler = Compiler()
        self.batches: BatchSizes = BatchSizes()
        self.training: dict[Hashable, Compiled] = {}
        self.traced: dict[Hashable, jax.stages.Traced] = {}
        self.drawing: dict[Hashable, jax.stages.Compiled] = {}
        self.tracing: threading.Lock = threading.Lock()


@cache
def shared() -> Session:
    """The session of this process: a second sweep finds the programs of the first."""
    return Session()
