r"""Muon on the manifold: the tangent step that gains most among those of spectral norm one.

Muon replaces a gradient by its polar factor, the steepest step under the spectral norm where nothing is constrained. On
the manifold the step must also be tangent,

    max <G, Phi>  over  ||Phi||_2 <= 1,  W^T Phi + Phi^T W = 0,

which has a closed form. Every tangent Phi is ``S W`` with S skew (n x n), and S can be chosen with ``||S||_2 =
||Phi||_2``: in a basis that begins with W its first columns are those of Phi, its first rows their negative transpose,
a completion of the rest without a greater norm exists (Parrott 1978), and its skew part is one too. So the problem is
``max <skew(G W^T), S>`` over skew S of norm one. The partial isometry of ``skew(G W^T)`` attains it, being skew itself:

    Phi = isometry(skew(G W^T)) W,    <G, Phi> = ||skew(G W^T)||_*.

In words: the steepest rotation. For square W it is the known ``W isometry(skew(W^T G))``.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from dlnjax import stiefel
from dlnjax._linalg import adjoint, matmul, skew, transpose
from dlnjax._types import PyTree
from dlnjax.optim._complex import times
from dlnjax.optim._fast_spectral import fast_direction
from dlnjax.optim._leaves import Axes, OnStart, map_matrices
from dlnjax.optim._momentum import transport_momentum
from dlnjax.optim._number import Number
from dlnjax.optim._retract import AnyRetraction, retract
from dlnjax.optim._select import Labels, chain, off, on
from dlnjax.optim._start import complete, inside
from dlnjax.optim._step import StepSize, scale_by_step
from dlnjax.optim._tangent import project_to_tangent

LENGTHS = ("unit", "dual")
Accuracy = Literal["exact", "fast"]
ACCURACIES = ("exact", "fast")


def spectral_direction(point: jax.Array, gradient: jax.Array, accuracy: Accuracy = "exact") -> jax.Array:
    r"""``argmax <G, Phi>`` over tangent Phi with ``||Phi||_2 <= 1``: ``Phi = isometry(skew(G W^T)) W`` [derived].

    Value, norm and tangency hold to rounding for every shape and rank; along directions that no gradient pulls, see
    :func:`dlnjax.stiefel.partial_isometry`. Zero for a zero gradient. Commutes with the gauge. Costs the partial
    isometry of a skew matrix of ``min(n, 2p)`` rows. The problem: Bernstein 2025 ("Stiefel manifold", Modula
    docs), who iterates on its dual.

    Args:
      point: ``(..., n, p)`` on the manifold.
      gradient: same shape, projected or not.
      accuracy: ``exact`` is to rounding, for studies; ``fast`` takes five passes of best polynomials at the hardware's
        own precision: singular values of ``S = skew(G W^T)`` above 0.003 times their bound ``(tr S^4)^{1/4}`` become 1
        within 0.005, smaller ones stay below that, and Phi is tangent to rounding of G.

    Raises:
      ValueError: another accuracy.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> step = optim.spectral_direction(jnp.eye(2), jnp.array([[0.0, 3.0], [0.0, 0.0]]))
      >>> bool(jnp.allclose(step, jnp.array([[0.0, 1.0], [-1.0, 0.0]]), atol=1e-6))
      True
    """
    if accuracy not in ACCURACIES:
        raise ValueError(f"accuracy is {accuracy!r}; choose one of {', '.join(ACCURACIES)}")
    n, p = point.shape[-2:]
    if p > n:
        return transpose(spectral_direction(transpose(point), transpose(gradient), accuracy))
    if accuracy == "fast":
        return fast_direction(point, gradient)
    if n <= 2 * p:
        return matmul(_rotation(matmul(gradient, adjoint(point))), point)
    inner = matmul(adjoint(point), gradient)
    across, aside = _basis_across(point, gradient - matmul(point, inner))
    blocks = jnp.concatenate([inner, aside], axis=-2)
    rotation = _rotation(jnp.concatenate([blocks, jnp.zeros_like(blocks)], axis=-1))
    return matmul(point, rotation[..., :p, :p]) + matmul(across, rotation[..., p:, :p])


def _rotation(weights: jax.Array) -> jax.Array:
    """The skew S of norm one with the greatest ``<weights, S>``."""
    return skew(stiefel.partial_isometry(skew(weights)))


def _basis_across(point: jax.Array, vector: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Q orthonormal where C has rank and orthogonal to W, and ``Q^T C``: only the span of [W Q] is rotated."""
    basis = stiefel.partial_isometry(vector)
    basis = basis - matmul(
        point, matmul(adjoint(point), basis)
    )  # of what is rounding in C much may lie along W
    return basis, matmul(adjoint(basis), vector)


def to_spectral(
    length: Literal["unit", "dual"] = "unit", *, accuracy: Accuracy = "exact", axes: Axes = None
) -> optax.GradientTransformation:
    """Replace each update by :func:`spectral_direction`; stateless.

    Args:
      length: ``unit`` leaves its spectral norm at 1; ``dual`` multiplies by ``<G, Phi>``, the gradient's dual norm:
        steepest descent in the proper sense, whose steps vanish with the gradient.
      accuracy: see :func:`spectral_direction`.
      axes: which axes form the matrix, see :class:`MatrixAxes`.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> link, point = optim.to_spectral(), jnp.eye(2)
      >>> updates, _ = link.update(jnp.array([[0.0, 3.0], [0.0, 0.0]]), link.init(point), point)
      >>> bool(jnp.allclose(updates, jnp.array([[0.0, 1.0], [-1.0, 0.0]]), atol=1e-6))  # the steepest rotation
      True
    """
    if length not in LENGTHS:
        raise ValueError(f"length is {length!r}; choose one of {', '.join(LENGTHS)}")
    if accuracy not in ACCURACIES:
        raise ValueError(f"accuracy is {accuracy!r}; choose one of {', '.join(ACCURACIES)}")

    def direction(point: jax.Array, g: jax.Array) -> jax.Array:
        found = spectral_direction(point, g, accuracy)
        if length == "unit":
            return found
        return found * jnp.sum(times(found, g), axis=(-2, -1), keepdims=True).astype(found.dtype)

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        return map_matrices(direction, axes, "to_spectral", params, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def muon(
    step_size: StepSize,
    decay: Number = 0.0,
    *,
    length: Literal["unit", "dual"] = "unit",
    accuracy: Accuracy = "exact",
    scales: PyTree = None,
    retraction: AnyRetraction = "polar",
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
) -> optax.GradientTransformation:
    r"""Steepest descent under the spectral norm: ``W_i <- Retr(W_i, -mu s_i Phi_i)``, Phi_i from the momentum.

    [paper: Jordan et al. 2024 for Muon; Bernstein 2025 for the problem on the manifold. Metric: momentum and transport
    in the embedded one, the step in the spectral norm.] With unit length a constant step ends in an oscillation of its
    own size, whatever the loss: let the step fall. With ``dual`` it converges linearly at a constant step. The free
    leaves take the gradient, as in :func:`rgd`.

    Args:
      step_size, scales, retraction, constrained, axes, on_start: as in :func:`rgd`.
      decay: of the momentum, in [0, 1), see :func:`transport_momentum`.
      length: see :func:`to_spectral`. accuracy: see :func:`spectral_direction`; the point is exact with either.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> optim.describe(optim.muon(0.02, 0.9, constrained=True), jnp.zeros((8, 4)))
      (the only leaf) (8, 4) float32: orthonormal columns, 8 x 4;
          project_to_tangent, transport_momentum, to_spectral, retract (retract_polar)
    """
    chained = chain(
        on(constrained, project_to_tangent(axes=axes)),
        on(constrained, transport_momentum(decay, axes=axes)),
        off(constrained, optax.trace(decay)),
        on(constrained, to_spectral(length, accuracy=accuracy, axes=axes)),
        scale_by_step(step_size, scales=scales),
        on(constrained, retract(retraction, axes=axes, on_start=inside(on_start))),
    )
    return complete(chained, constrained, axes, on_start)
