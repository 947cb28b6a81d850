"""The rate of Riemannian gradient descent for a cell of the general path, at the layers of a solution.

Linear networks on statistics: ``theory.rates``; losses of the product, and activations: ``theory.hessian``. None where
theory has no answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypedDict

import jax
import numpy as np

from dlnjax._types import Number, PyTree, Rate
from dlnjax.problem import Quadratic
from dlnjax.reduced import LayerScales
from dlnjax.sweep.compute import layers
from dlnjax.sweep.config import registry
from dlnjax.sweep.config.cell import Cell
from dlnjax.theory import hessian, rates


class _Given(TypedDict):
    step_size: float
    scales: list[Number]
    constrained: tuple[bool, ...]


def unit_rate(
    cell: Cell,
    form: layers.Shape,
    solved: Sequence[np.ndarray],
    arrays: dict[str, PyTree],
    scales: LayerScales,
) -> Rate | None:
    """The rate of Riemannian gradient descent at ``mu = 1``, at the layers of a solution.

    Args:
      solved: N matrices. arrays: those of one cell that its problem is built from.
      scales: three plain numbers.
    """
    if cell.free == "none" or not ({"square", "loss", "x"} & arrays.keys()):
        return None
    given: _Given = {
        "step_size": 1.0,
        "scales": [scales[kind] for kind in form.pace],
        "constrained": tuple(kind != 0 for kind in form.pace),
    }
    params: Any = tuple(solved)
    try:
        if "loss" in arrays:
            return _finite(hessian.predict_product(params, arrays["loss"], **given))
        if cell.activation != "linear":
            phi = registry.ACTIVATIONS.get(cell.activation)
            return (
                _finite(hessian.predict_network(params, arrays["x"], phi(jax), zero=1e-10, **given))
                if phi
                else None
            )
        return _finite(rates.predict(params, _square(arrays), **given))
    except (ValueError, np.linalg.LinAlgError):  # singular there: no answer
        return None


def _finite(rate: Rate) -> Rate | None:
    return (
        rate
        if all(math.isfinite(x) for x in (rate.factor, rate.eigenvalue_min, rate.eigenvalue_max))
        else None
    )


def _square(arrays: dict[str, PyTree]) -> Quadratic:
    """The statistics on the host, the covariance a matrix."""
    if "square" in arrays:
        statistics = jax.tree.map(lambda a: np.asarray(a, np.float64), arrays["square"])
        if statistics.covariance is None or statistics.covariance.ndim == 2:
            return statistics
        return replace(statistics, covariance=np.diag(statistics.covariance), root=np.diag(statistics.root))
    x, y = np.asarray(arrays["x"], np.float64), np.asarray(arrays["y"], np.float64)
    count, target = x.shape[1], y @ x.T / x.shape[1]
    eye = np.eye(len(x))
    return Quadratic(target, target, np.zeros(()), count * eye, count**0.5 * eye)  # type: ignore[arg-type]
