"""What an optimizer does to each leaf, seen by letting it trace one step: any composition can be asked."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from dlnjax._types import PyTree
from dlnjax.optim._leaves import VISITS, Visit
from dlnjax.optim._paths import named_leaves

#: Links after which the leaf stays on the manifold, or at a stated distance from it.
FINISHING = ("retract", "stay_near", "leap", "control_drift")


class LeafDescription(NamedTuple):
    """Attributes:
    name: the leaf's path. shape, dtype: the leaf's own.
    matrix: the shape ``(batch..., n, p)`` it is kept orthonormal in; None if it is free.
    links: the links of this package that act on it, in order; the function in brackets is the retraction.
    kept: whether the last of them finishes the step.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DTypeLike
    matrix: tuple[int, ...] | None
    links: tuple[str, ...]
    kept: bool

    def __str__(self) -> str:
        head = f"{self.name} {self.shape} {self.dtype}: "
        if self.matrix is None:
            return head + "free"
        *batch, n, p = self.matrix
        side = "columns" if n >= p else "rows"
        several = f"{'x'.join(map(str, batch))} of " if batch else ""
        fate = "" if self.kept else "; NO RETRACTION follows, the leaf leaves the manifold"
        return f"{head}orthonormal {side}, {several}{n} x {p}; {', '.join(self.links)}{fate}"


class Description(tuple[LeafDescription, ...]):
    """One :class:`LeafDescription` a leaf; prints as one line each."""

    def __repr__(self) -> str:
        return "\n".join(map(str, self))

    __str__ = __repr__


def describe(optimizer: optax.GradientTransformation, params: PyTree) -> Description:
    """Which leaves an optimizer keeps orthonormal and how, leaf by leaf; nothing is computed.

    Sees through every wrapper: one step is traced on the params' shapes, and each link says which leaves it was
    given. It does not see what other links do to a finished step, see the table of wrappers in the documentation.

    Args:
      optimizer: a recipe, a chain, ``optax.partition`` of some, ...
      params: the params, or ``jax.ShapeDtypeStruct`` in their place.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> params = {"cell": jnp.zeros((2, 8, 4)), "bias": jnp.zeros(4)}
      >>> optim.describe(optim.rgd(0.1, constrained={"cell": True, "bias": False}), params)
      ['bias'] (4,) float32: free
      ['cell'] (2, 8, 4) float32: orthonormal columns, 2 of 8 x 4; project_to_tangent, retract (retract_polar)
    """
    visits: list[Visit] = []

    def step(params: PyTree) -> PyTree:
        def loss(params: PyTree, **_: object) -> jax.Array:
            return sum((jnp.sum(x).real.astype(jnp.float32) for x in jax.tree.leaves(params)), jnp.float32(0))

        update = optax.with_extra_args_support(optimizer).update
        return update(params, optimizer.init(params), params, value=loss(params), value_fn=loss)

    token = VISITS.set(visits)
    try:
        jax.eval_shape(step, params)
    finally:
        VISITS.reset(token)
    return Description(_leaf(name, leaf, visits) for name, leaf in named_leaves(params))


def _leaf(name: str, leaf: Any, visits: list[Visit]) -> LeafDescription:
    here = [visit for visit in visits if visit.leaf == name and visit.link != "on_start"]
    links = dict.fromkeys(f"{v.link} ({v.function})" if v.link == "retract" else v.link for v in here)
    matrix = here[0].matrix if here else None
    return LeafDescription(
        name, tuple(leaf.shape), leaf.dtype, matrix, tuple(links), any(v.link in FINISHING for v in here)
    )
