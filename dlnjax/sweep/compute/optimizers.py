"""The optax transformation of a cell: a row of the registry, or a user's own, checked on the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax

from dlnjax import optim, stiefel
from dlnjax._types import Number, Params, Retraction, Scales
from dlnjax.sweep.compute import problems
from dlnjax.sweep.compute.backend import Steps
from dlnjax.sweep.config import registry, user_functions
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.plan import Program

RETRACTIONS: Mapping[str, Retraction] = {
    "polar": stiefel.retract_polar,
    "qr": stiefel.retract_qr,
    "cayley": stiefel.retract_cayley,
    "cholesky_qr": stiefel.retract_cholesky_qr,
}
_OPTIMIZER = "a function (step_size, scales) -> optax transformation"


def recipe(
    said: Cell | Program, steps: Steps, scales: Scales, constrained: Sequence[bool] | None
) -> optax.GradientTransformation:
    """The transformation of the table ``registry.OPTIMIZERS``.

    Args:
      said: a cell or a program: its ``optimizer`` and ``retraction``.
      scales: one multiplier a layer, in the params' structure.
      constrained: which layers stay orthonormal; None as the recipes have it, all but the first.
    """
    given = SimpleNamespace(
        size=steps.size,
        scales=scales,
        momentum=steps.momentum,
        constrained=constrained,
        retraction=RETRACTIONS.get(said.retraction),
    )
    return registry.OPTIMIZERS[said.optimizer].make(optim, optax, given)


def checked(
    part: user_functions.UserFunction, params: Params, size: Number, scales: Scales
) -> optax.GradientTransformation:
    """A user's transformation, tried once on the layers."""
    transformation = user_functions.call("optimizer", part, _OPTIMIZER, size, scales)
    if not (
        callable(getattr(transformation, "init", None)) and callable(getattr(transformation, "update", None))
    ):
        raise user_functions.refuse("optimizer", part, f"a {type(transformation).__name__}", _OPTIMIZER)

    def once(w):
        more = {}
        if isinstance(transformation, optax.GradientTransformationExtraArgs):
            more = {"value": jnp.sum(w[0]), "value_fn": lambda w: jnp.sum(w[0])}
        return transformation.update(w, transformation.init(w), w, **more)[0]  # pyright: ignore[reportCallIssue]

    tried = user_functions.UserFunction(lambda w: jax.eval_shape(once, w), part.name)
    problems.like(
        "optimizer", part, user_functions.call("optimizer", tried, _OPTIMIZER, params), params, "updates"
    )
    return transformation
