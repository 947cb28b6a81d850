"""What a campaign reports, and the run it looks at: every layer at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlnjax._types import Params, Problem

#: One instance: scalars by name, among them ``checks``, ``violations`` and ``ratio``.
Row = dict[str, Any]

#: What a finding says besides, by its name: numbers, words, lists of them.
Details = Mapping[str, object]


class Finding(NamedTuple):
    """What a campaign saw; the counts are sums over the rows, so that nothing can be counted elsewhere.

    Attributes:
      part: a short name of the statement, also in every row.
      statement: what was tested.
      rows: one an instance; ``checks`` comparisons were made in it, ``violations`` of them failed and
        ``ratio`` is the largest of measured to promised (at most 1 where nothing failed).
      details: further numbers, by name.
    """

    part: str
    statement: str
    rows: list[Row]
    details: Details

    @property
    def instances(self) -> int:
        return len(self.rows)

    @property
    def checks(self) -> int:
        return sum(row["checks"] for row in self.rows)

    @property
    def violations(self) -> int:
        return sum(row["violations"] for row in self.rows)

    @property
    def tightest(self) -> float:
        """The largest ratio of measured to promised."""
        return max((row["ratio"] for row in self.rows if row["ratio"] is not None), default=0.0)

    def __str__(self) -> str:
        head = (
            f"{self.part}: {self.statement}\n  {self.instances} instances, {self.checks} checks, "
            f"{self.violations} violations, tightest ratio {self.tightest:.9g}"
        )
        return "\n".join([head, *(f"  {name}: {_short(value)}" for name, value in self.details.items())])


def row(part: str, instance: int, dims: tuple[int, ...] | None, **values: object) -> Row:
    """A row with the columns that all parts share, in their order; numpy scalars become Python's."""
    head: Row = {"part": part, "instance": instance}
    if dims is not None:
        head |= {"dims": "-".join(map(str, dims)), "depth": len(dims) - 1}
    return {name: v.item() if isinstance(v, np.generic) else v for name, v in (head | values).items()}


def _short(value: object) -> str:
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
