"""POGO: a tangent step, then one cubic step back; products only, and practically on the manifold at all times."""

from __future__ import annotations

import jax
import optax

from dlnjax import stiefel
from dlnjax._types import PyTree
from dlnjax.optim._landing import Metric, check_distance, land
from dlnjax.optim._leaves import Axes, LinkStart, OnStart, check_points, move_matrices
from dlnjax.optim._number import Number
from dlnjax.optim._retract import Last
from dlnjax.optim._select import Labels, chain, on
from dlnjax.optim._start import complete, inside
from dlnjax.optim._step import StepSize, scale_by_step


def leap(
    distance: Number = 0.2, *, axes: Axes = None, on_start: LinkStart = "raise"
) -> optax.GradientTransformation:
    r"""Turn the step v into ``M (3 I - M^T M) / 2 - W``, ``M = W + v``; the last link.

    The normal step with lambda = 1/2 towards the manifold [paper: Javaloy & Vergari 2026, arXiv 2602.14656]. It maps
    the error ``E = I - M^T M`` to ``(3 E^2 + E^3) / 4``, so v is first shortened until ``||E||_F <= e`` with
    ``(3 e^2 + e^3) / 4 = distance``: the bound then holds at any step size [derived].

    Args:
      distance: of every iterate from the manifold at most, in (0, 0.4]; at usual steps it is the square of the step's.
      axes: which axes form the matrix, see :class:`MatrixAxes`. on_start: see :func:`retract`.

    Example:
      >>> from dlnjax import optim
      >>> optimizer = optim.chain(optim.land(0.0), optim.scale_by_step(0.1), optim.leap())  # optim.pogo
    """
    before = _before(check_distance(distance))

    def init(params: PyTree) -> PyTree:
        check_points("leap", params, axes, on_start)
        return optax.EmptyState()

    def move(point: jax.Array, step: jax.Array) -> jax.Array:
        return stiefel.newton_schulz(point, stiefel.kept_near(point, step, before))

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **_: object) -> tuple[PyTree, PyTree]:
        return move_matrices(move, axes, "leap", params, updates), state

    return Last(init, update)


def _before(distance: Number) -> Number:
    """The error before the cubic step that leaves this one after it: Newton on ``(3 e^2 + e^3) / 4 = distance``."""
    e: Number = 1.0
    for _ in range(50):
        e = e - ((3 * e**2 + e**3) / 4 - distance) / ((6 * e + 3 * e**2) / 4)
    return e


def pogo(
    step_size: StepSize,
    *,
    distance: Number = 0.2,
    metric: Metric = "embedded",
    scales: PyTree = None,
    constrained: Labels = None,
    axes: Axes = None,
    on_start: OnStart = "raise",
) -> optax.GradientTransformation:
    r"""POGO: ``M_i = W_i - mu s_i A_i W_i``, ``W_i <- M_i (3 I - M_i^T M_i) / 2``; the free leaves as in :func:`rgd`.

    ``A W`` is the relative gradient. The paper's is half of that of the ``canonical`` metric
    [paper: Javaloy & Vergari 2026, arXiv 2602.14656, with lambda = 1/2]: ``pogo(mu / 2, metric="canonical")`` takes the
    steps of its authors' code at ``lr = mu``. ``embedded`` makes it agree with :func:`rgd` to second order
    in the step. The safe step is :func:`leap`'s; theirs has none.

    Args:
      step_size, scales, constrained, axes, on_start: as in :func:`rgd`.
      distance: see :func:`leap`. metric: see :func:`land`.

    Example:
      >>> import jax.numpy as jnp
      >>> from dlnjax import optim
      >>> optim.describe(optim.pogo(0.1, constrained=True), jnp.zeros((8, 4)))
      (the only leaf) (8, 4) float32: orthonormal columns, 8 x 4; land, leap
    """
    chained = chain(
        on(constrained, land(0.0, metric=metric, axes=axes)),
        scale_by_step(step_size, scales=scales),
        on(constrained, leap(distance, axes=axes, on_start=inside(on_start))),
    )
    return complete(chained, constrained, axes, on_start)
