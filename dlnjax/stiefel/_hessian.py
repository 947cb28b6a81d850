"""The Riemannian Hessian: how the manifold's own curvature enters second derivatives."""

from __future__ import annotations

import jax

from dlnjax._linalg import adjoint, matmul, sym
from dlnjax.stiefel._shape import check_pair, is_wide, widened
from dlnjax.stiefel._tangent import project_tangent


@widened
def hessian(point: jax.Array, gradient: jax.Array, curvature: jax.Array, tangent: jax.Array) -> jax.Array:
    r"""The Riemannian Hessian along a tangent vector, embedded metric.

    ``P_W(H - xi sym(W^T G))`` for tall W, ``P_W(H - sym(G W^T) xi)`` for wide, with G the gradient and
    ``H = D G(W)[xi]`` the plain second derivative; on square points both are the same. Symmetric in the Frobenius
    product on the tangent space [paper: Absil, Mahony & Trumpf 2013, section 4; Weingarten map of St(n, p)].

    Args:
      point: ``(..., n, p)`` on the manifold.
      gradient: ``G``, same shape, not projected; of complex points see :func:`project_tangent`.
      curvature: ``H``, same shape.
      tangent: ``xi``, same shape, tangent at the point.

    Returns:
      ``(..., n, p)``, tangent at the point.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> a, x, xi = jnp.diag(jnp.array([1.0, 2.0, 3.0])), jnp.eye(3)[:, :1], jnp.eye(3)[:, 1:2]
      >>> turned = stiefel.hessian(x, a @ x, a @ xi, xi)  # of x^T A x / 2: the gap of the eigenvalues, 2 - 1
      >>> turned.ravel().tolist()
      [0.0, 1.0, 0.0]
    """
    for name, vector in (("gradient", gradient), ("curvature", curvature), ("tangent", tangent)):
        check_pair(point, vector, name)
    if is_wide(point):
        bent = matmul(sym(matmul(gradient, adjoint(point))), tangent)
    else:
        bent = matmul(tangent, sym(matmul(adjoint(point), gradient)))
    return project_tangent(point, curvature - bent)
