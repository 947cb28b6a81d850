r"""Step rules with memory on the reduction: heavy ball, and Adam with one second moment a layer [derived].

All middle layers carry one relative momentum M of size r, because they share one relative gradient
``Omega``; their gradients have one norm, so they share one second moment too. With ``R`` the rotation that a
step turns each of them by,

.. math:: M \leftarrow \beta\, \mathrm{skew}(M) + \Omega, \quad M \leftarrow R^T M, \quad
          m_U \leftarrow m_U R^{N-2} .
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlnjax import stiefel
from dlnjax._linalg import matmul, skew, transpose
from dlnjax._types import Number


class Rule(NamedTuple):
    """Decays of momentum and second moments; None where the rule has none."""

    momentum: Number | None
    second_moment: Number | None
    epsilon: Number


class Triple(NamedTuple):
    """Of W_1 ``(r, d_0)``, of all middle layers ``(r, r)`` and the last ``(d_N, r)``; or one number for these two."""

    first: jax.Array
    middle: jax.Array
    last: jax.Array


class Memory(NamedTuple):
    """What is carried from step to step.

    Attributes:
      momenta: of the three, at the point of the step before.
      squares: second moments, one an entry of W_1 and one number for the others; None for heavy ball.
      steps: how many were taken.
    """

    momenta: Triple
    squares: Triple | None
    steps: jax.Array


def at_rest(first: jax.Array, frame: jax.Array, rule: Rule) -> Memory | None:
    """Zero moments; None for a rule without memory."""
    if rule.momentum is None and rule.second_moment is None:
        return None
    like, rank = jnp.zeros_like(first), first.shape[0]
    momenta = Triple(like, jnp.zeros((rank, rank), like.dtype), jnp.zeros_like(frame))
    number = jnp.zeros((), like.dtype)
    squares = None if rule.second_moment is None else Triple(like, number, number)
    return Memory(momenta, squares, number)


def advance(memory: Memory, gradients: Triple, frame: jax.Array, rule: Rule) -> tuple[Memory, Triple]:
    """The memory with these gradients in it, and the directions to step in.

    Momenta come from the point before: they are projected on the tangent spaces here.
    """
    old = Triple(
        memory.momenta.first,
        skew(memory.momenta.middle),
        stiefel.project_tangent(frame, memory.momenta.last),
    )
    if memory.squares is None or rule.second_moment is None:
        beta = 0.0 if rule.momentum is None else rule.momentum
        momenta = Triple(*(beta * m + g for m, g in zip(old, gradients, strict=True)))
        return memory._replace(momenta=momenta), momenta
    return _adam(old, memory.squares, memory.steps + 1, gradients, rule, rule.second_moment)


def _adam(old: Triple, squares: Triple, steps: jax.Array, gradients: Triple, rule: Rule, b2: Number):
    """``m / (sqrt(v) + eps)``, bias corrected, v the mean square entry of a constrained layer's gradient."""
    b1 = 0.0 if rule.momentum is None else rule.momentum
    momenta = Triple(*(b1 * m + (1 - b1) * g for m, g in zip(old, gradients, strict=True)))
    means = (jnp.square(gradients.first), *(jnp.mean(jnp.square(g)) for g in gradients[1:]))
    squares = Triple(*(b2 * v + (1 - b2) * mean for v, mean in zip(squares, means, strict=True)))
    roots = [jnp.sqrt(v / (1 - b2**steps)) + rule.epsilon for v in squares]
    directions = Triple(*(m / (1 - b1**steps) / root for m, root in zip(momenta, roots, strict=True)))
    return Memory(momenta, squares, steps), directions


def turn(memory: Memory, rotation: jax.Array, turned: jax.Array) -> Memory:
    """Momenta carried along by a step: the middle layers' by ``R^T``, the last one's by ``R^(N-2)``.

    Args:
      rotation, turned: R and ``R^(N-2) - I``.
    """
    first, middle, last = memory.momenta
    middle, last = matmul(transpose(rotation), middle), last + matmul(last, turned)
    return memory._replace(momenta=Triple(first, middle, last))
