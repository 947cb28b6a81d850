r"""The polar factor from matrix products alone: no SVD, no LAPACK, any finite input.

Written for rows: ``Y = H Q`` with ``Q Q^T = I`` and ``H = (Y Y^T)^{1/2}``; Q is the nearest point of the manifold.
With ``E = I - Y Y^T`` one has ``Q = (I - E)^{-1/2} Y``. Where E is small the binomial series

    (I - E)^{-1/2} = I + E/2 + 3/8 E^2 + 5/16 E^3 + ...

is cut where its next term passes below rounding, in training after one or two terms: two or three products
in all. Where E is larger, passes ``Y <- (I + E/2 + 3/8 E^2) Y`` come first (each leaves an error of about
``.31 ||E||^3``); they map every singular value of (0, sqrt(7/3)) monotonically towards 1 and multiply a small
one by 15/8. A larger input is scaled first. Singular values that are zero to rounding never arrive; their
directions are filled by a fixed full-rank matrix restricted to the two null spaces, so that the result is
still a (non-unique) nearest point. All that is rare sits in bounded loops that the usual step never enters.

Sources: Kovarik 1970 and Bjorck & Bowie 1971 for the iteration; Nakatsukasa & Higham 2012 for the stability
of monotone maps; the completion and the choice of terms are [derived].
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from dlnjax._linalg import (
    adjoint,
    frobenius,
    matmul,
    power_of_two,
    scaled,
    spectral_estimate,
    sym,
    times_power_of_two,
)
from dlnjax.stiefel._shape import batch_as_axis, check_matrix, gram, identity_like, is_tall, once, widened

#: Coefficients of (1 - e)^{-1/2}; a sum through e^k errs by about the next one times e^{k+1}.
SERIES = (1.0, 1 / 2, 3 / 8, 5 / 16, 35 / 128)
#: Above this Frobenius norm of E the input is scaled: below it all singular values lie in (.3, 1.4).
CLOSE = 0.9
#: Larger matrices are judged by an estimate of the spectral norm, which the Frobenius norm exceeds by up to sqrt(p).
LARGE = 64
#: Passes a small but nonzero singular value has to settle at 1 before the rest is taken for zero.
SETTLING = 8

UNIQUE, NOT_UNIQUE, NOT_FINITE = 0, 1, 2


class Polar(NamedTuple):
    """A polar factor and what is known of it.

    Attributes:
      factor: ``(..., n, p)`` the factor Q.
      status: ``(...)`` 0 = the nearest point; 1 = the input is rank deficient to rounding: Q is a valid point
        and a nearest one, but not the only one; 2 = the input is not finite and so is Q.
    """

    factor: Float[Array, "*batch n p"]
    status: Int[Array, "*batch"]


class _State(NamedTuple):
    y: jax.Array
    e: jax.Array  # I - Y Y^T
    size: jax.Array  # (...) its Frobenius norm; not a number where Y is not
    passes: jax.Array  # (...) turns of the loop this matrix needed
    turn: jax.Array  # turns of the loop so far


def _tolerance(dtype: jnp.dtype) -> float:
    return float(jnp.finfo(dtype).eps) / 2


def reach(terms: int, dtype: jnp.dtype) -> float:
    """The largest ``||E||`` for which the series through ``E^terms`` is exact to rounding."""
    return (_tolerance(dtype) / SERIES[terms + 1]) ** (1 / (terms + 1))


def _zero_passes(p: int, dtype: jnp.dtype) -> int:
    """Turns after which a singular value still on its way was zero to rounding (the first two may scale)."""
    eps = float(jnp.finfo(dtype).eps)
    return 2 + math.ceil(math.log(1 / min(0.1, p * eps)) / math.log(15 / 8))


def _error(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    g = gram(y)
    e = identity_like(g) - g
    size = frobenius(e)
    if e.shape[-1] > LARGE:
        size = jnp.minimum(size, 1.25 * spectral_estimate(e))
    return e, size


def _centred(y: jax.Array, e: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One pass for the estimated spectrum of ``Y Y^T``, ``[l, h]``: scaled by ``c^2 = 2 / (l + h)`` it lies about 1.

    The series of ``(1 - e)^{-1/2}`` is cut after ``e^2`` with the next two terms folded back by Chebyshev polynomials
    on ``|e| <= d = (h - l) / (h + l)``, which leaves a quarter of their error. Estimates err, but the turns that
    follow start from any input. For large matrices only.
    """
    identity = identity_like(e)
    high = 1.05 * spectral_estimate(identity - e)
    low = jnp.maximum(high - 1.05 * spectral_estimate(scaled(identity, high) - (identity - e)), 0)
    sum_ = jnp.where(high > 0, high + low, 1)
    square, width = 2 / sum_, (high - low) / sum_
    centred = identity - scaled(identity - e, square)
    folded = jnp.square(jnp.where(width < 0.5, width, 0))
    factor = scaled(identity, -35 / 1024 * jnp.square(folded)) + scaled(centred, 1 / 2 + 15 / 64 * folded)
    factor = factor + scaled(matmul(centred, centred), 3 / 8 + 35 / 128 * folded)
    moved = scaled(y + matmul(factor, y), jnp.sqrt(square))
    helps = (size > reach(3, e.dtype)) & jnp.isfinite(size) & (high > 1e-3)
    y = jnp.where(helps[..., None, None], moved, y)
    return y, *_error(y)


def _scaled(state: _State) -> tuple[jax.Array, jax.Array]:
    """Y with spectral norm at most 1 for matrices far from the manifold, and which those are.

    The bound is ``||Y Y^T||_F``; where that overflows or vanishes the first turn takes the largest entry to (1/2, 1)
    and the second one follows up.
    """
    norm = frobenius(identity_like(state.e) - state.e)
    ordinary = (norm > jnp.finfo(norm.dtype).tiny) & (norm < jnp.finfo(norm.dtype).max)
    by_norm = scaled(state.y, jnp.where(ordinary, lax.rsqrt(norm), 1))
    by_largest = times_power_of_two(state.y, -power_of_two(state.y))
    far = ~(state.size <= CLOSE) & ((state.turn == 0) | ((state.turn == 1) & (norm > 1.01)))
    return jnp.where(ordinary[..., None, None], by_norm, by_largest), far[..., None, None]


def _completed(y: jax.Array, e: jax.Array, size: jax.Array) -> jax.Array:
    """Fill null directions: ``Y + (I - Y Y^T) F (I - Y^T Y)`` with F a fixed matrix of full rank.

    Filled to a norm of one half: a direction that was late but on its way stays within the reach of the passes.
    """
    i, j = (lax.broadcasted_iota(size.dtype, y.shape[-2:], axis) for axis in (0, 1))
    fixed = jnp.sin(1 + 2.39996 * i * i + 1.61803 * j * j + 3.88322 * i * j).astype(y.dtype)
    fixed = jnp.broadcast_to(fixed, y.shape)
    fill = matmul(e, fixed)
    fill = fill - matmul(matmul(fill, adjoint(y)), y)
    norm = jnp.maximum(frobenius(fill), jnp.finfo(y.dtype).tiny)
    return jnp.where((size > 0.5)[..., None, None], y + scaled(fill, 1 / (2 * norm)), y)


def _turned(state: _State) -> _State:
    """One turn from afar: scale, or pass ``(I + E/2 + 3/8 E^2) Y``; complete when the time for passes is over."""
    y, e, size, passes, turn = state
    shrunk, far = _scaled(state)
    y = jnp.where(far, shrunk, y + matmul(e / 2 + 3 / 8 * matmul(e, e), y))
    over = turn == _zero_passes(e.shape[-1], e.dtype) + SETTLING
    y, _, _ = once(over, lambda s: (_completed(*s), *s[1:]), (y, e, size))
    late = (size > reach(3, e.dtype)).astype(jnp.int32)
    return _State(y, *_error(y), passes + late, turn + 1)


def _more(state: _State) -> jax.Array:
    """Whether some matrix is on its way; before the scaling is done a not-a-number may be an overflow."""
    close = reach(3, state.e.dtype)
    limit = 2 * (_zero_passes(state.e.shape[-1], state.e.dtype) + SETTLING)
    on_its_way = jnp.where(state.turn < 2, ~(state.size <= close), state.size > close)
    return jnp.any(on_its_way) & (state.turn < limit)


def correction(e: jax.Array, size: jax.Array) -> jax.Array:
    """``C = E + 3/4 E (E + 5/6 E E)`` of ``(I - E)^{-1/2} = I + C/2``, with as many terms as the largest E needs.

    The usual one term leaves ``C = E`` as it is: a pass over memory less than with E/2.

    Args:
      e: ``(..., p, p)``.
      size: ``(...)``, its Frobenius norm, at most ``reach(3, dtype)``.
    """
    size = jnp.max(jnp.where(jnp.isnan(size), 0, size), initial=0)
    ratios = jnp.asarray([after / before for before, after in itertools.pairwise(SERIES)], e.dtype)
    terms = 1 + sum((size > reach(k, e.dtype)).astype(jnp.int32) for k in (1, 2))

    def horner(carry):
        k, c = carry
        return k - 1, e + ratios[k] * matmul(e, c)

    return lax.while_loop(lambda carry: carry[0] >= 1, horner, (terms - 1, e))[1]


def _finished(state: _State) -> jax.Array:
    """``Y + C Y/2``."""
    return state.y + matmul(correction(state.e, state.size), state.y) / 2


@batch_as_axis
def _core(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    e, size = _error(y)
    if e.shape[-1] > LARGE:
        y, e, size = once(jnp.any(size > reach(3, e.dtype)), lambda s: _centred(*s), (y, e, size))
    start = _State(y, e, size, jnp.zeros_like(size, jnp.int32), jnp.zeros((), jnp.int32))
    state = lax.while_loop(_more, _turned, start)
    deficient = state.passes >= _zero_passes(y.shape[-2], y.dtype)
    status = jnp.where(deficient, NOT_UNIQUE, UNIQUE)
    return _finished(state), jnp.where(jnp.isnan(state.size), NOT_FINITE, status)


@jax.custom_jvp
def row_polar(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Factor and status of wide or square matrices; differentiable in both modes."""
    return _core(y)


@row_polar.defjvp  # pyright: ignore[reportArgumentType]
def _row_polar_jvp(primals, tangents):
    r"""``dQ = P(A^{-1} P'(dY))`` with ``A(T) = H T + T Q^T H Q`` symmetric positive definite.

    ``P'(Z) = Z - Q Z^T Q`` and ``P(Z) = Z - sym(Z Q^T) Q``, which the transposed map meets in turn. No
    eigenvalue gap is divided by: at an orthonormal point H = I and A is 2 along ``Omega Q``, 1 across. Q does not
    change with the scale s of Y, so that ``dQ(Y)[dY] = dQ(Y/s)[dY] / s``, half of the division before and half
    after, where no number between is farther out than dY or dQ. Where Q is not unique dQ is not a number.
    """
    (y,), (dy,) = primals, tangents
    q, status = row_polar(y)
    exponent = power_of_two(y)
    y, dy = times_power_of_two(y, -exponent), times_power_of_two(dy, -(exponent // 2))
    h = sym(matmul(y, adjoint(q)))

    def operator(t: jax.Array) -> jax.Array:
        return matmul(h, t) + matmul(matmul(matmul(t, adjoint(q)), h), q)

    def solve(_, b: jax.Array) -> jax.Array:
        return _derivative(lax.stop_gradient(y), b - matmul(matmul(b, adjoint(q)), q) / 2)

    def solve_transposed(_, b: jax.Array) -> jax.Array:
        return jnp.conj(solve(_, jnp.conj(b)))  # A is Hermitian, so that A^T is the conjugate of A

    right = dy - matmul(q, matmul(adjoint(dy), q))
    solution = lax.custom_linear_solve(operator, right, solve=solve, transpose_solve=solve_transposed)
    dq = solution - matmul(sym(matmul(solution, adjoint(q))), q)
    dq = times_power_of_two(dq, exponent // 2 - exponent)
    dq = scaled(dq, jnp.where(status == UNIQUE, 1, jnp.nan))
    return (q, status), (dq, jax.custom_derivatives.zero_from_primal(status))


def _derivative(y: jax.Array, dy: jax.Array) -> jax.Array:
    """The polar factor's derivative at y along dy: each pass and its own derivative, in step."""
    g = gram(y)
    bound = frobenius(g)
    scale = jnp.where(bound > 0, lax.rsqrt(bound), 1)
    enough = _tolerance(y.dtype)
    limit = _zero_passes(y.shape[-2], y.dtype) + SETTLING

    def one_pass(carry):
        y, dy, _, k = carry
        g = gram(y)
        e = identity_like(g) - g
        de = -2 * sym(matmul(dy, adjoint(y)))
        s = e / 2 + 3 / 8 * matmul(e, e)
        ds = de / 2 + 3 / 4 * sym(matmul(e, de))
        size = jnp.max(jnp.where(jnp.isnan(e), 0, jnp.abs(e)), initial=0)
        return y + matmul(s, y), dy + matmul(s, dy) + matmul(ds, y), size, k + 1

    def more(carry):
        _, _, size, k = carry
        return (size**2 > enough) & (k < limit)

    start = (scaled(y, scale), scaled(dy, scale), jnp.full_like(jnp.max(bound, initial=0), jnp.inf), 0)
    return lax.while_loop(more, one_pass, start)[1]


@widened
def polar(matrix: jax.Array) -> Polar:
    r"""Polar factor with a status, by products only.

    ``Y = Q H``, ``Q^T Q = I`` (wide: ``Y = H Q``, ``Q Q^T = I``), to rounding for every finite input: any
    scale, any conditioning, rank deficient or zero. Differentiable in both modes at every scale, finite at orthonormal
    points; where Q is not unique (status 1) it has no derivative, which is then not a number.

    Args:
      matrix: ``(..., n, p)``, real or complex (then ``Q^H Q = I``).

    Returns:
      :class:`Polar`: the factor and, per matrix, whether it is the nearest point, one of many, or not finite.

    Raises:
      ValueError: fewer than two axes or an empty matrix. TypeError: neither a floating nor a complex dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> result = stiefel.polar(jnp.stack([3 * jnp.eye(2), jnp.zeros((2, 2))]))
      >>> jnp.round(result.factor[0], 5).tolist(), result.status.tolist()  # 1: zero has no unique factor
      ([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    """
    check_matrix("matrix", matrix)
    if is_tall(matrix):
        factor, status = row_polar(adjoint(matrix))
        return Polar(adjoint(factor), status)
    return Polar(*row_polar(matrix))


def project(matrix: jax.Array) -> jax.Array:
    """The nearest point of the manifold in the Frobenius norm: :func:`polar`'s factor.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import stiefel
      >>> [round(float(x), 4) for x in stiefel.project(jnp.array([[3.0], [4.0]]))[:, 0]]
      [0.6, 0.8]
    """
    return polar(matrix).factor


def polished(tall_matrix: jax.Array) -> jax.Array:
    """A nearly orthonormal tall result freed of its last rounding: two products."""
    return project(tall_matrix)
