r"""QR retractions without LAPACK: triangular corrections, explicit Cholesky, Gram-Schmidt for the far away.

All return the Q of ``W + xi = Q R`` with R upper triangular of positive diagonal.

Near the manifold, with ``E = Y^H Y - I`` and ``up(E)`` its strict upper triangle plus half its diagonal,
``R^H R = I + E`` reads ``R = I + up(E) + O(E^2)``: the pass ``Y <- Y (I - up(E) + up(E)^2)`` multiplies Y from the
right by an upper triangular matrix of positive diagonal, so its limit is that very Q, and E is squared each
time [derived]. How near is measured by the spectral norm, which the Frobenius norm exceeds by up to ``sqrt(p)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dlnjax._linalg import adjoint, frobenius, matmul, power_of_two, spectral_estimate, times_power_of_two
from dlnjax.stiefel._blocks import BLOCK, gram_schmidt, inverse_cholesky, inverse_upper
from dlnjax.stiefel._polar import polished
from dlnjax.stiefel._shape import batch_as_axis, by_columns, gram, identity_like, once

#: Below this norm of E the triangular passes converge fast; of large matrices a Cholesky factor is cheaper than two.
NEAR = 0.3
PASSES = 12


class _Measured(NamedTuple):
    y: jax.Array
    e: jax.Array  # Y^H Y - I
    size: jax.Array  # of the largest E in the batch


def _measured(y: jax.Array) -> _Measured:
    """Small matrices by the Frobenius norm; of large ones the estimate of the spectral norm costs next to nothing."""
    g = gram(adjoint(y))
    e = g - identity_like(g)
    size = jnp.max(frobenius(e), initial=0)
    if e.shape[-1] > BLOCK:
        size = jnp.minimum(size, 1.25 * jnp.max(spectral_estimate(e), initial=0))
    return _Measured(y, e, size)


def _enough(dtype: jnp.dtype) -> float:
    """A size of E from which one pass ends at rounding."""
    return float(jnp.finfo(dtype).eps) ** 0.5 / 4


def _corrected(state: _Measured) -> jax.Array:
    up = jnp.triu(state.e, 1) + identity_like(state.e) * state.e / 2
    if up.shape[-1] <= BLOCK:
        return state.y + matmul(state.y, matmul(up, up) - up)
    matters = jnp.square(state.size) > float(jnp.finfo(up.dtype).eps) / 8
    return state.y + matmul(state.y, once(matters, lambda c: c + matmul(c, c), -up))


def _settled(state: _Measured) -> jax.Array:
    """Triangular passes, the last of which needs no measurement.

    Each squares the error. An input whose columns were dependent to rounding becomes a valid point first.
    """
    state = once(~(state.size <= NEAR), lambda s: _measured(polished(s.y)), state)
    enough = _enough(state.y.dtype)

    def body(carry):
        state, k = carry
        return _measured(_corrected(state)), k + 1

    state, _ = lax.while_loop(lambda c: (c[0].size > enough) & (c[1] < PASSES), body, (state, 0))
    return _corrected(state)


def _by_cholesky(state: _Measured) -> _Measured:
    q = _measured(matmul(state.y, inverse_cholesky(state.e + identity_like(state.e))))
    return once(~(q.size <= NEAR), lambda _: _measured(gram_schmidt(state.y)), q)


@batch_as_axis
def _qr(y: jax.Array) -> jax.Array:
    state = _measured(y)
    if y.shape[-1] <= BLOCK:
        far, from_afar = ~(state.size <= NEAR), lambda s: _measured(gram_schmidt(s.y))
    else:
        far, from_afar = ~(state.size <= _enough(y.dtype)), _by_cholesky
    return _settled(once(far, from_afar, state))


@batch_as_axis
def _cholesky_qr(y: jax.Array) -> jax.Array:
    return _settled(_by_cholesky(_measured(y)))


def _differentiable(factor: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """With ``dQ = Q (L - L^H + i Im D) + (I - Q Q^H) dY R^{-1}``; L is below, D on the diagonal of ``Q^H dY R^{-1}``.

    Products alone, so that both modes work. A column of dependent ones has no derivative: not a number.
    """
    function = jax.custom_jvp(factor)

    @function.defjvp
    def jvp(primals, tangents):  # pyright: ignore[reportUnusedFunction]
        (y,), (dy,) = primals, tangents
        q = function(y)
        exponent = power_of_two(y, axis=-2)  # Q does not change with the scale of a column
        y, dy = times_power_of_two(y, -exponent), times_power_of_two(dy, -exponent)
        moved = matmul(dy, inverse_upper(jnp.triu(matmul(adjoint(q), y))))
        inside = matmul(adjoint(q), moved)
        lower = jnp.tril(inside, -1)
        turned = lower - adjoint(lower)
        if jnp.iscomplexobj(y):
            diagonal = identity_like(inside) * inside
            turned = turned + (diagonal - adjoint(diagonal)) / 2
        return q, matmul(q, turned - inside) + moved

    return function


_smooth_qr, _smooth_cholesky_qr = _differentiable(_qr), _differentiable(_cholesky_qr)


@by_columns
def retract_qr(point: jax.Array, tangent: jax.Array) -> jax.Array:
    """The Q of ``W + xi`` with positive diagonal of R; second order accurate, not gauge equivariant.

    Differentiable in both modes where ``W + xi`` has full rank.

    Args:
      point: ``(..., n, p)`` on the manifold.
      tangent: same shape and dtype, tangent at point; a step of any size.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> turn = jnp.array([[0.0, -0.75], [0.75, 0.0]])
      >>> [[round(float(x), 4) for x in row] for row in stiefel.retract_qr(jnp.eye(2), turn)]
      [[0.8, -0.6], [0.6, 0.8]]
    """
    return _smooth_qr(point + tangent)


@by_columns
def retract_cholesky_qr(point: jax.Array, tangent: jax.Array) -> jax.Array:
    """:func:`retract_qr` through an explicit Cholesky factor of the Gram matrix.

    Args:
      point: ``(..., n, p)`` on the manifold.
      tangent: same shape and dtype, tangent at point; a step of any size.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> w, xi = jnp.eye(3, 2), jnp.array([[0.0, -1.0], [1.0, 0.0], [2.0, 3.0]])
      >>> bool(jnp.allclose(stiefel.retract_cholesky_qr(w, xi), stiefel.retract_qr(w, xi), atol=1e-5))
      True
    """
    return _smooth_cholesky_qr(point + tangent)
