"""Tangent space, distance from the manifold, random points: the rest of the embedded geometry."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from dlnjax._linalg import adjoint, frobenius, matmul, sym
from dlnjax.stiefel._polar import project
from dlnjax.stiefel._shape import by_rows, check_matrix, gram, identity_like, is_tall, widened


@by_rows
def project_tangent(point: jax.Array, vector: jax.Array) -> jax.Array:
    """Orthogonal projection on the tangent space (embedded metric).

    ``P_W(g) = g - W sym(W^T g)`` for tall W; wide: ``g - sym(g W^T) W``. Idempotent and self-adjoint [paper].
    For complex W the transpose is the conjugate one, and the product that of R^2, ``Re tr(a^H b)``.

    Args:
      point: ``(..., n, p)`` on the manifold.
      vector: same shape, any. To get the Riemannian gradient of a real loss give the Euclidean one: for complex W that
        is ``dL/dRe W + i dL/dIm W``, the conjugate of what ``jax.grad`` returns.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> g = jnp.array([[1.0, 2.0], [0.0, 1.0]])  # at the identity the skew part stays
      >>> stiefel.project_tangent(jnp.eye(2), g).tolist()
      [[0.0, 1.0], [-1.0, 0.0]]
    """
    return vector - matmul(sym(matmul(vector, adjoint(point))), point)


def transport(point: jax.Array, tangent: jax.Array) -> jax.Array:
    """Carry a tangent vector to ``point`` by projecting it on the tangent space there.

    Args:
      point: ``(..., n, p)`` where the vector arrives.
      tangent: same shape, tangent at a point nearby.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> w, xi = jnp.array([[0.6], [0.8]]), jnp.array([[0.0], [1.0]])  # xi was tangent at (1, 0)
      >>> [round(float(x), 4) for x in stiefel.transport(w, xi)[:, 0]]
      [-0.48, 0.36]
    """
    return project_tangent(point, tangent)


@widened
def orthonormality_error(point: jax.Array) -> jax.Array:
    """``||W^T W - I||_F`` (wide: ``||W W^T - I||_F``), one number a matrix, shape ``(...)``.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> round(float(stiefel.orthonormality_error(2 * jnp.eye(3, 2))), 4)  # sqrt(2) (4 - 1)
      4.2426
    """
    check_matrix("point", point)
    g = gram(adjoint(point) if is_tall(point) else point)
    return frobenius(g - identity_like(g))


def random(key: jax.Array, shape: Sequence[int], dtype: jax.typing.DTypeLike = float) -> jax.Array:
    """Uniform (Haar) points: the polar factor of a Gaussian matrix.

    Args:
      key: a JAX random key.
      shape: ``(..., n, p)``, tall or wide; leading axes are independent draws.
      dtype: real or complex (then uniform on the unitary Stiefel manifold); the default follows ``jax_enable_x64``.

    Example:
      >>> import jax
      >>> from dlnjax import stiefel
      >>> w = stiefel.random(jax.random.key(0), (5, 3, 2))
      >>> w.shape, bool((stiefel.orthonormality_error(w) < 1e-5).all())
      ((5, 3, 2), True)
    """
    if len(shape) < 2:
        raise ValueError(f"shape is {tuple(shape)}; a matrix (..., n, p) with two or more axes is needed")
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    drawn = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
    return project(jax.random.normal(key, tuple(shape), drawn)).astype(dtype)
