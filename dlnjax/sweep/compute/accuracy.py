"""Classification accuracy: the share of samples whose largest output is that of their label.

A problem that holds samples out is a :class:`Classified`: the statistics that training steps on, and beside them the
samples that the product is tried on at every record. No step sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlnjax import _monitor, train
from dlnjax._linalg import matmul
from dlnjax._types import Problem, PyTree
from dlnjax.problem import Quadratic


class Labelled(NamedTuple):
    """Samples in the problem's coordinates: inputs ``(d_0, n)``, and the labels ``(n,)``, rows of the output."""

    inputs: jax.Array
    labels: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Classified(Quadratic):
    """The square loss of one-hot labels, with the samples that accuracies are measured on."""

    seen: Labelled | None = None
    held_out: Labelled | None = None


def classified(square: Quadratic, seen: Labelled, held_out: Labelled) -> Classified:
    """The problem with the samples that accuracies are measured on."""
    return Classified(
        **{f.name: getattr(square, f.name) for f in fields(square)}, seen=seen, held_out=held_out
    )


def labelled(inputs: jax.Array, targets: jax.Array) -> Labelled:
    """Samples ``(d_0, n)`` with one-hot targets ``(d_N, n)``."""
    return Labelled(inputs, jnp.argmax(targets, axis=0).astype(jnp.int32))


def share(product: jax.Array, samples: Labelled) -> jax.Array:
    """The part, in [0, 1], of the samples at which the product's largest output is that of the label."""
    predicted = jnp.argmax(matmul(product, samples.inputs), axis=0).astype(jnp.int32)
    return jnp.mean((predicted == samples.labels).astype(product.dtype))


def accuracies(problem: Problem, product: Callable[[], jax.Array]) -> dict[str, jax.Array]:
    """The product's accuracies by column name, and the held-out one of ``W*``; nothing without held-out samples."""
    if not isinstance(problem, Classified) or problem.seen is None or problem.held_out is None:
        return {}
    here = product()
    return {
        "train_accuracy": share(here, problem.seen),
        "test_accuracy": share(here, problem.held_out),
        "optimum_accuracy": share(problem.optimum, problem.held_out),
    }


def reported(engine: train.Engine, problem: Problem, product: Callable[[PyTree], jax.Array]) -> train.Engine:
    """The engine with accuracies in its records; ``product`` is of the carry."""
    if not isinstance(problem, Classified):
        return engine

    def report(carry: PyTree, step: jax.Array) -> _monitor.Record:
        record = engine.report(carry, step)
        return record._replace(extra=accuracies(problem, lambda: product(carry)))

    return engine._replace(report=report)
