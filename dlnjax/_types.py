"""The words every other module speaks: array aliases, the problem protocol, and what functions return.

Kept on the lowest floor so that geometry, training, theory and sweeps agree on shapes and names
without importing one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

#: Any nesting of containers with arrays as leaves; jaxtyping's own name is unknown to type checkers.
PyTree: TypeAlias = Any
#: One layer ``(d_i, d_{i-1})`` or a run of k equal square layers ``(k, d, d)``.
Layer = Float[Array, "..."]
#: The layers of a network, ``W_1`` first.
Params = tuple[Layer, ...]
#: The same where a function only reads them: NumPy's arrays serve as well.
Layers = Sequence[Layer | Float[np.ndarray, "..."]]
#: One multiplier a layer, in the structure of the params; a run takes a scalar or an array ``(k,)``.
Scales = tuple[float | Float[Array, "..."], ...]
#: A point of ``St(n, p)`` and vectors at it: tall ``(..., n, p)``, ``W^T W = I``, or wide, ``W W^T = I``.
Matrix = Float[Array, "*batch n p"]
Scalar = Float[Array, ""]
#: A number fixed at trace time, or a traced scalar.
Number = float | Float[Array, ""]
#: A number, or an array of them, one a cell.
Values = float | np.ndarray
Counts = int | np.ndarray
Count = int | Int[Array, ""]
#: ``(point, tangent) -> point``: a map from the tangent bundle back to the manifold, exact to first order.
Retraction = Callable[[jax.Array, jax.Array], jax.Array]


@runtime_checkable
class Problem(Protocol):
    """What ``train.train`` asks of a problem: its loss and its layer gradients, nothing else.

    A problem may add ``distance(params)``, the error whose decay is the rate (for a product loss
    ``||(W - W*) C^{1/2}||_F``); without it the trace's distance is ``sqrt(2 |loss|)``.
    """

    def loss(self, params: Params) -> Scalar: ...

    def gradients(self, params: Params, step: Int[Array, ""]) -> Params: ...


class Status:
    """The state of a run, exactly one (design: a numerical failure is a status, never an exception).

    ``RUNNING`` at the last record means the run is out of steps; ``FAILED`` is given by the sweep
    when a cell could not be run at all. Codes are stored in traces, names in tables.
    """

    RUNNING = 0
    CONVERGED = 1
    DIVERGED = 2
    FAILED = 3
    NAMES = ("out_of_steps", "converged", "diverged", "failed")


class Trace(NamedTuple):
    """What a run reports, at the recorded steps (step 0 and the last among them); T records.

    Attributes:
      step: ``(T,)`` the steps recorded.
      loss: ``(T,)`` the problem's loss.
      distance: ``(T,)`` error of the product, ``||(W - W*) C^{1/2}||_F``.
      gradient_norm: ``(T,)`` Frobenius norm of the Riemannian gradient over all layers.
      orthonormality_error: ``(T,)`` largest ``||W_i^T W_i - I||_F`` over the constrained layers.
      status: ``(T,)`` the :class:`Status` code as of each record.
      first_bad_step: the first step with a number that is not finite, or the record at which the
        run was judged to diverge; -1 while there is none.
    """

    step: Int[Array, " T"]
    loss: Float[Array, " T"]
    distance: Float[Array, " T"]
    gradient_norm: Float[Array, " T"]
    orthonormality_error: Float[Array, " T"]
    status: Int[Array, " T"]
    first_bad_step: Int[Array, ""]


class Rate(NamedTuple):
    """Linear convergence predicted by the spectrum of the linearised step; theory.rates fills it.

    Attributes:
      factor: ``max |1 - lambda|`` over the nonzero spectrum: the error's factor per step.
      eigenvalue_min: smallest nonzero eigenvalue of ``K`` (contains the step size).
      eigenvalue_max: largest eigenvalue of ``K``.
      num_zero: how many eigenvalues counted as zero (at most ``1e-10 * eigenvalue_max``).
      step_max: the stability edge ``2 mu / eigenvalue_max``, in the units of the step size given.
      step_optimal: ``2 mu / (eigenvalue_min + eigenvalue_max)``.
      gradient: the relative size of the layers' gradient where the rate was predicted: 0 at a critical point, nan where
        it is not known.
    """

    factor: Values
    eigenvalue_min: Values
    eigenvalue_max: Values
    num_zero: Counts
    step_max: Values
    step_optimal: Values
    gradient: Values = math.nan
