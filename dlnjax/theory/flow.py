r"""Gradient flow of balanced networks is a Riemannian flow of the product (Bah, Rauhut, Terstiege and
Westdickenberg, 2022).

With balanced layers ``dW/dt = -A_W(dL/dW)``,

.. math:: A_W(Z) = \sum_{j=1}^N (W W^T)^{(N-j)/N}\, Z\, (W^T W)^{(j-1)/N} .

``A_W`` is the inverse of a metric on the products of fixed rank. Integration is diffrax's (extra ``flow``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

from dlnjax import network
from dlnjax._linalg import matmul, transpose
from dlnjax._types import Layers, Number, Params, PyTree
from dlnjax.problem import Quadratic

#: Singular values below this fraction of the largest count as zero; power 0 is the identity.
ZERO = 1e-9


def _powers(product: jax.Array, num_layers: int, direction: jax.Array):
    if product.shape != direction.shape or product.ndim != 2 or not product.size:
        raise ValueError(
            f"product {product.shape} and direction {direction.shape}; give two matrices of one shape, not empty"
        )
    _check_depth(num_layers)
    left, values, right = jnp.linalg.svd(product, full_matrices=True)
    kept = jnp.where(values > ZERO * jnp.max(values), values, 0)
    return left, kept, right, matmul(matmul(transpose(left), direction), transpose(right))


def _check_depth(num_layers: int) -> None:
    if num_layers != int(num_layers) or num_layers < 1:
        raise ValueError(f"num_layers={num_layers}; give a whole number of at least 1")


def _coefficients(values: jax.Array, shape: tuple[int, ...], num_layers: int) -> jax.Array:
    """``sum_j s_a^{2(N-j)/N} s_b^{2(j-1)/N}`` with ``0^0 = 1``, over the full singular bases: ``shape``."""
    left = jnp.zeros(shape[0], values.dtype).at[: values.size].set(values)
    right = jnp.zeros(shape[1], values.dtype).at[: values.size].set(values)

    def power(x: jax.Array, exponent: float) -> jax.Array:
        if exponent == 0:
            return jnp.ones_like(x)
        return jnp.where(x > 0, jnp.where(x > 0, x, 1) ** exponent, 0)

    terms = [
        power(left, 2 * (num_layers - j) / num_layers)[:, None] * power(right, 2 * (j - 1) / num_layers)[None]
        for j in range(1, num_layers + 1)
    ]
    return jnp.sum(jnp.stack(terms), axis=0)


def operator(product: jax.Array, direction: jax.Array, num_layers: int) -> jax.Array:
    """``A_W(Z)`` [paper].

    Args:
      product: ``W (d_N, d_0)``.
      direction: ``Z``, of the same shape.
      num_layers: N >= 1.

    Raises:
      ValueError: shapes that differ, or no layer.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax.theory import flow
      >>> moved = flow.operator(jnp.eye(2), jnp.ones((2, 2)), 3)  # N Z at the identity
      >>> bool(jnp.allclose(moved, 3.0, atol=1e-5))
      True
    """
    left, values, right, inner = _powers(product, num_layers, direction)
    scaled = _coefficients(values, product.shape, num_layers) * inner
    return matmul(matmul(left, scaled), right)


def spectrum(product: ArrayLike, num_layers: int) -> np.ndarray:
    """Eigenvalues of ``A_W``: ``sum_j s_a^{2(N-j)/N} s_b^{2(j-1)/N}``, ascending, ``d_N d_0`` of them.

    Raises:
      ValueError: not a matrix, or no layer.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax.theory import flow
      >>> flow.spectrum(jnp.diag(jnp.array([4.0, 1.0])), 2).round(4).tolist()  # N = 2: s_a + s_b
      [2.0, 5.0, 5.0, 8.0]
    """
    product = jnp.asarray(product)
    if product.ndim != 2 or not product.size:
        raise ValueError(f"product has shape {product.shape}; give a matrix that is not empty")
    _check_depth(num_layers)
    values = jnp.linalg.svd(product, compute_uv=False)
    values = jnp.where(values > ZERO * jnp.max(values), values, 0)
    return np.sort(np.asarray(_coefficients(values, product.shape, num_layers)).ravel())


def metric(product: jax.Array, first: jax.Array, second: jax.Array, num_layers: int) -> jax.Array:
    """The Riemannian metric ``<A_W^{-1}(Z_1), Z_2>`` on directions tangent to the products of W's rank.

    Parts of a direction outside the range of ``A_W`` are left out: they leave the products of W's rank, and
    have no length.

    Raises:
      ValueError: shapes that differ, or no layer.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax.theory import flow
      >>> z = jnp.array([[1.0, 2.0], [3.0, 4.0]])
      >>> round(float(flow.metric(jnp.eye(2), z, z, 3)), 4)  # ||Z||^2 / N at the identity
      10.0
    """
    if second.shape != product.shape:
        raise ValueError(f"product {product.shape} and second {second.shape}; give matrices of one shape")
    left, values, right, inner = _powers(product, num_layers, first)
    other = matmul(matmul(transpose(left), second), transpose(right))
    weights = _coefficients(values, product.shape, num_layers)
    inverse = jnp.where(weights > 0, 1 / jnp.where(weights > 0, weights, 1), 0)
    return jnp.sum(inner * inverse * other)


def velocity(product: jax.Array, problem: Quadratic, num_layers: int) -> jax.Array:
    """``-A_W(dL/dW)``.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import problem
      >>> from dlnjax.theory import flow
      >>> v = flow.velocity(jnp.eye(2), problem.whitened(3 * jnp.eye(2)), 2)  # N (3 - 1) at the identity
      >>> bool(jnp.allclose(v, 4 * jnp.eye(2), atol=1e-5))
      True
    """
    return -operator(product, problem.product_gradient(product), num_layers)


def integrate_layers(
    params: Layers, problem: Quadratic, times: jax.Array, *, tolerance: float = 1e-9
) -> Params:
    """Gradient flow ``dW_i/dt = -g_i`` of all layers, at the given times.

    Args:
      params: the start; balanced where it is to agree with :func:`integrate_product`.
      problem: a square loss of the product.
      times: ``(T,)`` increasing, the first is the start's time.
      tolerance: relative and absolute, of the adaptive integrator.

    Returns:
      Params with a leading axis of length T on every leaf.

    Raises:
      ImportError: without the extra ``flow``.
      ValueError: times that do not increase, a tolerance that is not positive.
      RuntimeError: (of diffrax) an integrator that does not reach the last time in 65536 steps.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import problem
      >>> from dlnjax.theory import flow
      >>> start, times = (0.1**0.5 * jnp.eye(1),) * 2, jnp.array([0.0, 1.0])
      >>> first, last = flow.integrate_layers(start, problem.whitened(jnp.eye(1)), times, tolerance=1e-5)
      >>> round((first * last)[-1].item(), 3)  # modes.trajectory(1.0, 0.1, 1.0, 2)
      0.451
    """

    def field(t, layers, _):
        gradients = problem.gradients(layers, jnp.zeros((), jnp.int32))
        return jax.tree.map(jnp.negative, gradients)

    return _integrate(field, params, times, tolerance)


def integrate_product(
    product: jax.Array, problem: Quadratic, times: jax.Array, num_layers: int, *, tolerance: float = 1e-9
) -> jax.Array:
    """The flow of the product alone, ``dW/dt = -A_W(dL/dW)``, ``(T, d_N, d_0)``; arguments as above.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import problem
      >>> from dlnjax.theory import flow
      >>> times, target = jnp.array([0.0, 1.0]), problem.whitened(jnp.eye(1))
      >>> product = flow.integrate_product(0.1 * jnp.eye(1), target, times, 2, tolerance=1e-5)
      >>> round(product[-1].item(), 3)  # modes.trajectory(1.0, 0.1, 1.0, 2)
      0.451
    """
    return _integrate(lambda t, w, _: velocity(w, problem, num_layers), product, times, tolerance)


def _integrate(field: Callable[..., PyTree], start: PyTree, times: jax.Array, tolerance: float) -> Any:
    try:
        import diffrax
    except ImportError as missing:
        raise ImportError(
            'a flow needs diffrax, which is not installed; pip install "dlnjax[flow]"'
        ) from missing
    if (
        jnp.ndim(times) != 1
        or len(times) < 2
        or not (isinstance(times, Tracer) or np.all(np.diff(times) > 0))
    ):
        raise ValueError(f"times={times}; give at least two, increasing")
    if not tolerance > 0:
        raise ValueError(f"tolerance={tolerance}; give a positive number")
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri8(),
        t0=times[0],
        t1=times[-1],
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=16**4,
    )
    return solution.ys


def descent(params: Layers, problem: Quadratic, step_size: Number, num_steps: int) -> Params:
    """Plain gradient descent on all layers: the flow's explicit Euler scheme.

    Raises:
      ValueError: a negative step or number of steps (unless traced).

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import problem
      >>> from dlnjax.theory import flow
      >>> params = flow.descent((jnp.eye(1), jnp.eye(1)), problem.whitened(2 * jnp.eye(1)), 0.1, 1)
      >>> [round(w.item(), 6) for w in params]  # 1 + 0.1 (2 - 1)
      [1.1, 1.1]
    """
    if not isinstance(step_size, Tracer) and not (np.isfinite(step_size) and step_size >= 0):
        raise ValueError(f"step_size={step_size}; give a finite number >= 0")
    if not isinstance(num_steps, Tracer) and (num_steps != int(num_steps) or num_steps < 0):
        raise ValueError(f"num_steps={num_steps}; give a whole number >= 0")

    def step(_, layers: Params) -> Params:
        gradients = problem.gradients(layers, jnp.zeros((), jnp.int32))
        return jax.tree.map(lambda w, g: w - step_size * g, layers, gradients)

    begun: Params = tuple(map(jnp.asarray, params))
    return jax.lax.fori_loop(0, num_steps, step, begun)


def descent_gap(
    params: Layers, problem: Quadratic, time: float, num_steps: int, *, tolerance: float = 1e-10
) -> jax.Array:
    """``||W_gd - W_flow||_F`` of the product at one time: falls like the step, ``time / num_steps``.

    Raises:
      ValueError: a time or number of steps that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import problem
      >>> from dlnjax.theory import flow
      >>> params, target = (jnp.eye(1), jnp.eye(1)), problem.whitened(2 * jnp.eye(1))
      >>> bool(flow.descent_gap(params, target, 1.0, 1000, tolerance=1e-5) < 1e-3)
      True
    """
    if not (time > 0 and num_steps >= 1):
        raise ValueError(f"time={time}, num_steps={num_steps}; both must be positive")
    flowed = integrate_layers(params, problem, jnp.array([0.0, time]), tolerance=tolerance)
    end = network.end_to_end(jax.tree.map(lambda leaf: leaf[-1], flowed))
    stepped = network.end_to_end(descent(params, problem, time / num_steps, num_steps))
    return jnp.linalg.norm(stepped - end)
