"""Link: follow the step along the manifold instead of the straight line; always the last one."""

from __future__ import annotations

from typing import Literal

import optax

from dlnjax import stiefel
from dlnjax._types import PyTree, Retraction
from dlnjax.optim._leaves import Axes, LinkStart, check_points, move_matrices

#: Retractions by name: a word is no schedule, which ``optax.inject_hyperparams`` takes every function for.
RETRACTIONS: dict[str, Retraction] = {
    "polar": stiefel.retract_polar,
    "qr": stiefel.retract_qr,
    "cholesky_qr": stiefel.retract_cholesky_qr,
    "cayley": stiefel.retract_cayley,
    "exponential": stiefel.exponential,
}
RetractionName = Literal["polar", "qr", "cholesky_qr", "cayley", "exponential"]
#: A name, or ``(point, tangent) -> point``; None is "polar".
AnyRetraction = RetractionName | Retraction | None


class Last(optax.GradientTransformationExtraArgs):
    """A transformation whose output is a finished displacement: :func:`dlnjax.optim.chain` keeps it last."""


def retraction_of(given: AnyRetraction) -> Retraction:
    """The function behind a name.

    Raises:
      ValueError: another name. TypeError: neither a name nor a function.
    """
    if callable(given):
        return given
    known = RETRACTIONS.get("polar" if given is None else given) if isinstance(given, str | None) else None
    if known is None:
        kind = ValueError if isinstance(given, str) else TypeError
        raise kind(f"retraction is {given!r}; give a function or one of {', '.join(RETRACTIONS)}")
    return known


def retract(
    retraction: AnyRetraction = "polar", *, axes: Axes = None, on_start: LinkStart = "raise"
) -> optax.GradientTransformation:
    """Turn the step ``xi`` (already negative, as optax's sign has it) into ``Retr_W(xi) - W``.

    ``optax.apply_updates`` then lands on the manifold to rounding. Must be the last link: anything after it
    would scale or bend a chord of the manifold.

    Args:
      retraction: a name ("polar", "qr", "cholesky_qr", "cayley", "exponential") or ``(point, tangent) -> point``, one
        of :mod:`dlnjax.stiefel` or your own.
      axes: which axes form the matrix, see :class:`MatrixAxes`; the last two by default.
      on_start: ``raise`` refuses a start off the manifold: any concrete one, a traced one through
        ``jax.experimental.checkify``; ``ignore`` looks at shapes and dtypes alone. Recipes know ``project`` too.

    Raises:
      ValueError: at init, a point off the manifold; in update, missing params, shapes. TypeError: dtypes.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from dlnjax import optim
      >>> optimizer = optax.chain(
      ...     optim.project_to_tangent(), optax.clip_by_global_norm(1.0), optax.scale(-0.1), optim.retract("qr")
      ... )
      >>> params = jnp.eye(3, 2)
      >>> updates, _ = optimizer.update(jnp.ones((3, 2)), optimizer.init(params), params)
      >>> moved = optax.apply_updates(params, updates)
      >>> bool(jnp.allclose(moved.T @ moved, jnp.eye(2), atol=1e-6))
      True
    """
    if on_start not in ("raise", "ignore"):
        raise ValueError(f"on_start is {on_start!r}; a link takes raise or ignore, recipes take project too")
    move = retraction_of(retraction)

    def init(params: PyTree) -> PyTree:
        check_points("retract", params, axes, on_start)
        return optax.EmptyState()

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **_: object) -> tuple[PyTree, PyTree]:
        return move_matrices(move, axes, "retract", params, updates), state

    return Last(init, update)
