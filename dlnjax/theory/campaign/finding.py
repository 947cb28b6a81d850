"""What a campaign reports, and the run it looks at: every layer at every step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlnjax._types import Params, Problem


class Finding(NamedTuple):
    """What a campaign saw.

    Attributes:
      statement: what was tested.
      instances: how many networks.
      checks: how many comparisons over all of them.
      violations: how many failed.
      tightest: the largest ratio of measured to promised (at most 1 where nothing failed).
      details: further numbers, by name.
    """

    statement: str
    instances: int
    checks: int
    violations: int
    tightest: float
    details: dict[str, Any]

    def __str__(self) -> str:
        head = (
            f"{self.statement}\n  {self.instances} instances, {self.checks} checks, "
            f"{self.violations} violations, tightest ratio {self.tightest:.9g}"
        )
        return "\n".join([head, *(f"  {name}: {_short(value)}" for name, value in self.details.items())])


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple | np.ndarray):
        return "[" + ", ".join(_short(float(v) if np.ndim(v) == 0 else list(v)) for v in value) + "]"
    return str(value)


def history(
    params: Params, problem: Problem, optimizer: optax.GradientTransformation, num_steps: int
) -> Params:
    """The layers at step 0, 1, ..., num_steps: a leading axis on every leaf. Pure."""

    def step(carry, count):
        layers, state = carry
        updates, state = optimizer.update(problem.gradients(layers, count), state, layers)
        moved: Params = optax.apply_updates(layers, updates)  # type: ignore[assignment]
        return (moved, state), moved

    _, rest = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(num_steps))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), params, rest)
