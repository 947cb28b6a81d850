"""Link: project updates on the tangent space of the params."""

from __future__ import annotations

import optax

from dlnjax import stiefel
from dlnjax._types import PyTree
from dlnjax.optim._leaves import Axes, map_matrices


def project_to_tangent(*, axes: Axes = None) -> optax.GradientTransformation:
    """Replace each update g by its Riemannian part ``g - W sym(W^T g)`` (embedded metric); stateless.

    Acts on every leaf given; select leaves with ``optax.masked`` or ``optax.partition``.

    Args:
      axes: which axes form the matrix, see :class:`MatrixAxes`; the last two by default.

    Raises (in update):
      ValueError: missing params, unequal structures or shapes, a leaf that is no matrix. TypeError: dtypes.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> link, point = optim.project_to_tangent(), jnp.eye(2)
      >>> updates, _ = link.update(jnp.array([[5.0, 1.0], [0.0, 7.0]]), link.init(point), point)
      >>> print(updates)  # at the identity the skew part
      [[ 0.   0.5]
       [-0.5  0. ]]
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return map_matrices(stiefel.project_tangent, axes, "project_to_tangent", params, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
