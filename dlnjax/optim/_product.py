"""The product manifold of a tree: orthonormal leaves and free ones, under the embedded metric, as one space.

Methods that look at all leaves at once (a search along a curve, conjugate directions, a trust region) need one
inner product, one projection and one retraction for the whole tree. This is where they find them; a free
leaf is a flat factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import stiefel
from dlnjax._types import PyTree
from dlnjax.optim._complex import conjugated, times
from dlnjax.optim._leaves import Axes, OnStart, check_leaf, from_matrix, specs, to_matrix
from dlnjax.optim._paths import named_leaves
from dlnjax.optim._retract import AnyRetraction, retract
from dlnjax.optim._select import Labels, labels, on
from dlnjax.optim._tangent import project_to_tangent


class Product(NamedTuple):
    """Attributes:
    constrained: which leaves are orthonormal, see :func:`dlnjax.optim.labels`.
    retraction: a name or ``(point, tangent) -> point``, on those leaves.
    axes: which axes form the matrix.
    """

    constrained: Labels = None
    retraction: AnyRetraction = "polar"
    axes: Axes = None

    def check(self, params: PyTree, on_start: OnStart = "raise") -> None:
        """Refuse leaves that cannot be points, and points off the manifold."""
        start = "ignore" if on_start == "ignore" else "raise"
        on(self.constrained, retract(self.retraction, axes=self.axes, on_start=start)).init(params)

    def project(self, params: PyTree, tree: PyTree) -> PyTree:
        """The orthogonal projection of a tree on the tangent space."""
        link = on(self.constrained, project_to_tangent(axes=self.axes))
        return link.update(tree, link.init(params), params)[0]

    def move(self, params: PyTree, tangent: PyTree) -> PyTree:
        """``Retr(tangent) - params``, in the form of an update."""
        link = on(self.constrained, retract(self.retraction, axes=self.axes, on_start="ignore"))
        return link.update(tangent, link.init(params), params)[0]

    def hessian(self, params: PyTree, gradient: PyTree, curvature: PyTree, tangent: PyTree) -> PyTree:
        """The Riemannian Hessian from the plain one, see :func:`dlnjax.stiefel.hessian`."""
        flags = jax.tree.leaves(labels(self.constrained, params))
        columns = zip(*map(jax.tree.leaves, (gradient, curvature, tangent)), strict=True)
        out = []
        rows = zip(named_leaves(params), flags, specs(self.axes, params), columns, strict=True)
        for (name, point), held, spec, vectors in rows:
            if not held:
                out.append(vectors[1])
                continue
            check_leaf("hessian", name, point, *vectors)
            bent = stiefel.hessian(to_matrix(point, spec), *(to_matrix(v, spec) for v in vectors))
            out.append(from_matrix(bent, point.shape, spec))
        return jax.tree.unflatten(jax.tree.structure(params), out)


def inner(a: PyTree, b: PyTree) -> jax.Array:
    """The embedded inner product over all leaves, ``Re tr(a^H b)``, in their common real dtype."""
    parts = [jnp.sum(times(x, y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
    dtype = np.result_type(*(part.dtype for part in parts))  # jax's own refuses a mixture where it is strict
    return sum((part.astype(dtype) for part in parts), jnp.zeros((), dtype))


def norm(a: PyTree) -> jax.Array:
    """The length of a tangent vector of the product."""
    return jnp.sqrt(inner(a, a))


def add(a: PyTree, b: PyTree, factor: jax.Array | float = 1.0) -> PyTree:
    """``a + factor b``."""
    return jax.tree.map(lambda x, y: x + jnp.asarray(factor).astype(x.dtype) * y, a, b)


def scale(factor: jax.Array | float, a: PyTree) -> PyTree:
    """``factor a``."""
    return jax.tree.map(lambda x: jnp.asarray(factor).astype(x.dtype) * x, a)


def choose(condition: jax.Array, a: PyTree, b: PyTree) -> PyTree:
    """``a`` where a scalar condition holds, else ``b``."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def hessian_vector(
    value_fn: Callable[..., jax.Array],
    params: PyTree,
    vector: PyTree,
    *,
    constrained: Labels = None,
    axes: Axes = None,
) -> PyTree:
    r"""The Riemannian Hessian of any loss along a tangent vector, over orthonormal and free leaves together.

    ``P_i(D g_i[xi] - xi_i sym(W_i^T g_i))`` on the constrained leaves, ``D g_i[xi]`` on the free ones: one product
    costs about two gradients and forms no matrix. The vector is projected first, so the map is symmetric on all of
    the tree [paper: Absil, Mahony & Trumpf 2013, embedded metric].

    Args:
      value_fn: ``params -> loss``, twice differentiable.
      params: a point.
      vector: a tree like params.
      constrained: which leaves are orthonormal, see :func:`labels`.
      axes: which axes form the matrix, see :class:`MatrixAxes`.

    Returns:
      A tangent vector at params.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> point, turn = jnp.eye(2), jnp.array([[0.0, -1.0], [1.0, 0.0]])
      >>> loss = lambda w: -jnp.trace(w)  # cos t along the turn by t, up to a factor of -2
      >>> bool(jnp.allclose(optim.hessian_vector(loss, point, turn, constrained=True), turn))
      True
    """
    space = Product(constrained, axes=axes)
    tangent = space.project(params, vector)
    gradient, curvature = map(conjugated, jax.jvp(jax.grad(value_fn), (params,), (tangent,)))
    return space.hessian(params, gradient, curvature, tangent)
