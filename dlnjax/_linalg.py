"""Products at full precision: the one place where the library says how matrices are multiplied.

JAX's default on GPU is TF32 and on TPU bfloat16, which would end a convergence study at 1e-3; every
product of the library goes through :func:`matmul`, so that no caller has to set a global option.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a @ b`` over the last two axes, leading axes broadcast, at the highest precision."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


#: Products over at most so many terms, of matrices no longer than that, are written out on a CPU.
_TERMS, _LONGEST = 8, 64


def small_matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """:func:`matmul`, on a CPU written out term by term where the matrices are tiny.

    Measured on one core in batches of 16 to 64, a product in ns, float32: widths 4 / 6 / 7 / 8: 6 / 35 / 55 / 45 to 75,
    by XLA's own product 450 / 460 / 520 / 90, and 500 and more for ``a^T b``; float64: 7 / 39 / 62 / 60, by XLA's own
    160 / 220 / 260 / 70. At width 10 it would take longer.

    The polar factor keeps the plain product: where directions are null, rounding decides its iterations.
    """
    alike = a.ndim == b.ndim >= 2 and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2]
    if not alike or not 0 < a.shape[-1] <= _TERMS or max(a.shape[-2], b.shape[-1]) > _LONGEST:
        return matmul(a, b)
    return _small(a, b)


@jax.jit  # traced once for all products of a shape
def _small(a: jax.Array, b: jax.Array) -> jax.Array:
    # apart: fused into what reads it, an entry would be computed anew for each term of the next product
    return apart(_written_out, matmul, a, b)


def _written_out(a: jax.Array, b: jax.Array) -> jax.Array:
    terms = (a[..., :, k : k + 1] * b[..., k : k + 1, :] for k in range(a.shape[-1]))
    return functools.reduce(jnp.add, terms)


def apart(
    on_cpu: Callable[..., jax.Array], elsewhere: Callable[..., jax.Array], *operands: jax.Array | int
) -> jax.Array:
    """``on_cpu(*operands)`` as an array of its own, which XLA fuses with nothing before or after it.

    On a CPU a branch that is always taken; on an accelerator plainly ``elsewhere(*operands)``.
    """
    shape = jax.eval_shape(on_cpu, *operands)

    def branch(*operands: jax.Array) -> jax.Array:
        always = jax.lax.optimization_barrier(jnp.array(True))
        return jax.lax.cond(always, on_cpu, lambda *_: jnp.zeros(shape.shape, shape.dtype), *operands)

    return jax.lax.platform_dependent(*operands, cpu=branch, default=elsewhere)


def transpose(a: jax.Array) -> jax.Array:
    """The last two axes swapped."""
    return jnp.swapaxes(a, -1, -2)


def adjoint(a: jax.Array) -> jax.Array:
    """``a^H``, the conjugate transpose; of a real matrix the transpose and nothing else."""
    swapped = transpose(a)
    return jnp.conj(swapped) if jnp.iscomplexobj(a) else swapped


def transposed(a: jax.Array) -> jax.Array:
    """``a^T`` written out, for the left factor of a product ``a^T b``.

    XLA on a CPU has no fast product of that form (measured on 2 cores in float32: 1.4 times the time of ``a b`` at
    width 64, 2 at 32, 3 to 6 at 16 and below) and makes one of a plain transposition. A sum it leaves alone.
    """
    return transpose(a) + 0 * a if a.shape[-1] == a.shape[-2] else transpose(a)


def sym(a: jax.Array) -> jax.Array:
    """``(a + a^H) / 2``, the symmetric or Hermitian part."""
    return (a + adjoint(a)) / 2


def skew(a: jax.Array) -> jax.Array:
    """``(a - a^H) / 2``, the skew or skew-Hermitian part."""
    return (a - adjoint(a)) / 2


def power_of_two(a: jax.Array, axis: int | tuple[int, ...] = (-2, -1)) -> jax.Array:
    """The k with ``2^(k-1) <= max |a| < 2^k`` along the axes, which are kept; 0 for zeros and what is not finite.

    Of a complex matrix the largest real or imaginary part.
    """
    largest = jax.lax.stop_gradient(jnp.max(_larger_part(a), axis=axis, keepdims=True))
    return jnp.where(jnp.isfinite(largest), jnp.frexp(largest)[1], 0)


def times_power_of_two(a: jax.Array, exponent: jax.Array) -> jax.Array:
    """``2^k a``, exact wherever the result is a normal number: by two factors, each of them a normal number.

    A quotient would not do: XLA divides a matrix by a scalar as a product with the reciprocal, which for the largest
    numbers is subnormal, hence zero.
    """
    half = exponent // 2
    one = jnp.ones(exponent.shape, jnp.finfo(a.dtype).dtype)
    return a * jnp.ldexp(one, half).astype(a.dtype) * jnp.ldexp(one, exponent - half).astype(a.dtype)


def _larger_part(a: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.abs(a.real), jnp.abs(a.imag)) if jnp.iscomplexobj(a) else jnp.abs(a)


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """``Re tr(a^H b)`` over the last two axes: the Euclidean product, in R^2 for each complex entry."""
    if jnp.iscomplexobj(a):
        return jnp.sum(a.real * b.real + a.imag * b.imag, axis=(-2, -1))
    return jnp.sum(a * b, axis=(-2, -1))


def frobenius(a: jax.Array) -> jax.Array:
    """Frobenius norm over the last two axes, real."""
    if jnp.iscomplexobj(a):
        return jnp.sqrt(inner(a, a))
    return jnp.sqrt(jnp.sum(jnp.square(a), axis=(-2, -1)))


def scaled(a: jax.Array, factor: jax.Array) -> jax.Array:
    """Every matrix times its own real number, ``factor`` of shape ``(...)``."""
    return a * factor.astype(a.dtype)[..., None, None]


#: Turns and columns of :func:`spectral_estimate`.
_POWER_TURNS, _POWER_COLUMNS = 6, 4


def spectral_estimate(square: jax.Array) -> jax.Array:
    """About the spectral norm of symmetric or Hermitian matrices, ``(...)``: at most it, seldom under 0.8 of it.

    The power method on a few fixed columns. It is for choosing between methods, each of which is right
    whatever is chosen.
    """
    i, j = (jax.lax.broadcasted_iota(jnp.int32, (square.shape[-1], _POWER_COLUMNS), axis) for axis in (0, 1))
    columns = jnp.cos((1 + i * i % 997 * (2 * j + 1)).astype(jnp.finfo(square.dtype).dtype)).astype(
        square.dtype
    )
    columns = jnp.broadcast_to(columns, (*square.shape[:-1], _POWER_COLUMNS))

    def turn(_, carry):
        columns, _ = carry
        unit = columns / _lengths(columns).astype(square.dtype)
        columns = matmul(square, unit)
        return columns, _lengths(columns)

    start = (columns, _lengths(columns))
    return jnp.max(jax.lax.fori_loop(0, _POWER_TURNS, turn, start)[1], axis=(-2, -1))


def _lengths(columns: jax.Array) -> jax.Array:
    squares = (
        jnp.square(columns.real) + jnp.square(columns.imag)
        if jnp.iscomplexobj(columns)
        else jnp.square(columns)
    )
    sizes = jnp.sqrt(jnp.sum(squares, axis=-2, keepdims=True))
    return jnp.where(sizes == 0, 1, sizes)
