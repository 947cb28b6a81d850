r"""Every layer square and orthogonal. The whole network is one matrix, depth a power [derived; the setting is
Ablin's, 2020].

With ``psi = skew((dL/dW) W^T)`` every layer's step is the same rotation up to conjugation by the layers
behind it, so for a map phi that commutes with conjugation by orthogonal matrices

.. math:: W^+ = \phi(-\eta \psi)^N W .

For the exponential this is exactly one layer at the step ``N eta``; polar and Cayley differ from that by
``O(eta^3)``. QR does not commute with conjugation: its layers have no such form, and differ by ``O(eta^2)``.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from dlnjax import reduced, stiefel
from dlnjax._linalg import matmul, skew, transpose
from dlnjax._types import Count, Number


def _cayley(field: jax.Array) -> jax.Array:
    half = field / 2
    identity = jnp.eye(field.shape[0], dtype=field.dtype)
    return jnp.linalg.solve(identity - half, identity + half)


def _polar(field: jax.Array) -> jax.Array:
    return stiefel.retract_polar(jnp.eye(field.shape[0], dtype=field.dtype), field)


#: Maps of a skew matrix to a rotation that commute with conjugation.
MAPS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "exp": jax.scipy.linalg.expm,
    "cayley": _cayley,
    "polar": _polar,
}


def step(
    product: jax.Array, gradient: jax.Array, step_size: Number, num_layers: Count, retraction: str = "polar"
) -> jax.Array:
    r"""A step of N orthogonal layers, on their product alone: ``phi(-eta psi)^N W`` [derived].

    Args:
      product: ``W (d, d)``, orthogonal.
      gradient: ``dL/dW`` there, of the same shape.
      step_size: ``eta`` of every layer.
      num_layers: N >= 1, may be traced.
      retraction: phi, ``"exp"``, ``"cayley"`` or ``"polar"``.

    Returns:
      The product of the layers ``phi(-eta skew(g_i W_i^T)) W_i``.

    Raises:
      ValueError: a matrix that is not square or not orthogonal, a negative step, no layer, or a map that does
        not commute
        with conjugation. Traced values are not checked.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax.theory import orthogonal
      >>> turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
      >>> product = orthogonal.step(jnp.eye(2), turn, 0.1, 3, "exp")  # turned by N eta
      >>> round(float(product[0, 1]), 4)  # sin(0.3)
      0.2955
    """
    if retraction not in MAPS:
        raise ValueError(f"{retraction!r} does not commute with conjugation; give one of {', '.join(MAPS)}")
    turn = MAPS[retraction](-step_size * _field(product, gradient, step_size, num_layers))
    return matmul(reduced.power(turn, num_layers), product)


def single_layer_step(
    product: jax.Array, gradient: jax.Array, step_size: Number, num_layers: Count
) -> jax.Array:
    """One orthogonal layer along its geodesic at the step ``N eta``: what N layers do under ``"exp"`` [derived].

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax.theory import orthogonal
      >>> turn = jnp.array([[0.0, -1.0], [1.0, 0.0]])
      >>> round(float(orthogonal.single_layer_step(jnp.eye(2), turn, 0.1, 3)[0, 1]), 4)  # sin(0.3)
      0.2955
    """
    field = _field(product, gradient, step_size, num_layers)
    return matmul(jax.scipy.linalg.expm(-num_layers * step_size * field), product)


def _field(product: jax.Array, gradient: jax.Array, step_size: Number, num_layers: Count) -> jax.Array:
    """``psi = skew((dL/dW) W^T)``."""
    if product.ndim != 2 or product.shape[0] != product.shape[1] or product.shape != gradient.shape:
        raise ValueError(
            f"product {product.shape}, gradient {gradient.shape}; give two square matrices of one shape"
        )
    if not isinstance(num_layers, Tracer) and (int(num_layers) != num_layers or num_layers < 1):
        raise ValueError(f"num_layers={num_layers}; give a whole number of at least 1")
    if not isinstance(step_size, Tracer) and not 0 <= float(step_size) < float("inf"):
        raise ValueError(f"step_size={step_size}; give a finite number >= 0")
    if not isinstance(product, Tracer):
        here = np.asarray(product, np.float64)
        error = float(np.max(np.abs(here.T @ here - np.eye(len(here)))))
        if not error <= 1e-3:
            raise ValueError(f"product is {error:.2g} from orthogonal; every layer must be orthogonal here")
    return skew(matmul(gradient, transpose(product)))
