"""Geometry of the Stiefel manifold: matrices with orthonormal columns (tall) or rows (wide), in batches.

Every function takes any leading batch axes, works in float32, float64, complex64 and complex128, under jit, vmap, scan
and grad of whatever is documented as differentiable, and gives for a wide matrix exactly the transpose of what it gives
for the transposed one. Square counts as tall. Geometry is always ``(point, tangent)``. No function calls LAPACK.

Complex matrices are points when ``W^H W = I`` (wide: ``W W^H = I``): wherever a formula says transpose it means the
conjugate one, sym is the Hermitian and skew the skew-Hermitian part, and products of matrices are those of R^2.
What is given in bfloat16 or float16 is computed in float32 and rounded once.
"""

from dlnjax.stiefel._cayley import retract_cayley
from dlnjax.stiefel._exponential import exponential
from dlnjax.stiefel._hessian import hessian
from dlnjax.stiefel._infeasible import attraction, kept_near, newton_schulz, relative_gradient
from dlnjax.stiefel._isometry import partial_isometry
from dlnjax.stiefel._polar import Polar, polar, project
from dlnjax.stiefel._retract_polar import retract_polar
from dlnjax.stiefel._tangent import orthonormality_error, project_tangent, random, transport
from dlnjax.stiefel._triangular import retract_cholesky_qr, retract_qr

__all__ = [
    "Polar",
    "attraction",
    "exponential",
    "hessian",
    "kept_near",
    "newton_schulz",
    "orthonormality_error",
    "partial_isometry",
    "polar",
    "project",
    "project_tangent",
    "random",
    "relative_gradient",
    "retract_cayley",
    "retract_cholesky_qr",
    "retract_polar",
    "retract_qr",
    "transport",
]
