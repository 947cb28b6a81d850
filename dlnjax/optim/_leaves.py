"""Leaves as matrices: which axes form the matrix, and errors that name the leaf.

A link sees a pytree; geometry sees ``(..., n, p)``. :class:`MatrixAxes` says, as optax's Muon does, which axes of
a leaf are rows, which are columns, and (the rest) which are batch, so that stacked layers, attention heads and
convolution kernels need no reshaping by the user.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.experimental import checkify

from dlnjax import stiefel
from dlnjax._types import PyTree
from dlnjax.optim._explicit import explicit_axes
from dlnjax.optim._paths import check_alike, is_function, matched, named_leaves
from dlnjax.optim._precision import displacement, widen, widen_like

Axis = int | tuple[int, ...]


class MatrixAxes(NamedTuple):
    """Axes that form the matrix; all others are batch.

    Attributes:
      rows: one axis or several, taken together in this order.
      columns: likewise. A convolution kernel (height, width, in, out) with orthonormal filters is
        ``MatrixAxes(rows=(0, 1, 2), columns=3)``.
    """

    rows: Axis = -2
    columns: Axis = -1


#: One spec for every leaf, a pytree of specs (optax's own dimension numbers too), or a function of the params that
#: returns one of these; None = last two axes.
Axes = MatrixAxes | Callable[[PyTree], PyTree] | Any | None


def _as_spec(spec: PyTree) -> MatrixAxes:
    """Also optax's own ``MuonDimensionNumbers``."""
    if hasattr(spec, "reduction_axis") and hasattr(spec, "output_axis"):
        return MatrixAxes(spec.output_axis, spec.reduction_axis)
    return spec


def _is_spec(x: object) -> bool:
    return x is None or isinstance(x, MatrixAxes) or hasattr(x, "reduction_axis")


#: What to do about a start off the manifold.
OnStart = Literal["raise", "project", "ignore"]
LinkStart = Literal["raise", "ignore"]
STARTS = ("raise", "project", "ignore")


def _resolve(axes: Any, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    spec = MatrixAxes() if axes is None else _as_spec(axes)
    if not isinstance(spec, MatrixAxes):
        raise TypeError(f"axes is {spec!r}; give an optim.MatrixAxes")
    groups = [(a,) if isinstance(a, int) else tuple(a) for a in spec]
    out_of_range = [a for group in groups for a in group if not -ndim <= a < ndim]
    if out_of_range:
        raise ValueError(f"axes {spec} name axis {out_of_range[0]} of an array of {ndim} axes")
    rows, columns = (tuple(a % ndim for a in group) for group in groups)
    if not rows or not columns or len(set(rows + columns)) != len(rows + columns):
        raise ValueError(f"axes {spec} must name at least one axis for rows and for columns, each axis once")
    return rows, columns


def to_matrix(leaf: jax.Array, axes: Any = None) -> jax.Array:
    """``(batch..., n, p)`` view of a leaf."""
    if axes is None:
        return leaf
    rows, columns = _resolve(axes, leaf.ndim)
    batch = tuple(a for a in range(leaf.ndim) if a not in rows + columns)
    n, p = (math.prod(leaf.shape[a] for a in group) for group in (rows, columns))
    moved = jnp.transpose(leaf, batch + rows + columns)
    return jnp.reshape(moved, (*(leaf.shape[a] for a in batch), n, p))


def from_matrix(matrix: jax.Array, shape: tuple[int, ...], axes: Any = None) -> jax.Array:
    """Inverse of :func:`to_matrix` for a leaf of this shape."""
    if axes is None:
        return matrix
    rows, columns = _resolve(axes, len(shape))
    order = tuple(a for a in range(len(shape)) if a not in rows + columns) + rows + columns
    return jnp.transpose(
        jnp.reshape(matrix, tuple(shape[a] for a in order)), tuple(int(a) for a in np.argsort(order))
    )


def specs(axes: Axes, tree: PyTree) -> list[PyTree]:
    """One spec per leaf of ``tree``, in leaf order."""
    given: PyTree = axes
    given = given(tree) if is_function(given) else given
    wrong = [spec for spec in jax.tree.leaves(given, is_leaf=_is_spec) if not _is_spec(spec)]
    if wrong:
        raise TypeError(f"axes has the entry {wrong[0]!r}; give an optim.MatrixAxes")
    return matched("axes", given, tree, _is_spec)


def need_params(params: PyTree, link: str) -> None:
    if params is None:
        raise ValueError(f"{link} needs the current point: call update(gradients, state, params)")


def need_loss(
    link: str, value: object, value_fn: Callable[..., jax.Array] | None, extra: dict[str, Any]
) -> tuple[jax.Array, Callable[[PyTree], jax.Array]]:
    """The loss at hand, and the loss as a function of params alone, for links that search along it."""
    if value is None or value_fn is None:
        raise ValueError(f"{link} needs the loss: update(..., value=loss, value_fn=loss_fn)")
    unused = {name: given for name, given in extra.items() if name != "grad"}
    return widen(jnp.asarray(value)), lambda params: widen(value_fn(params, **unused))


class Visit(NamedTuple):
    """One link at one leaf: its name, the function it applied there, the leaf and the shape of its matrix."""

    link: str
    function: str
    leaf: str
    matrix: tuple[int, ...]


#: Where :func:`dlnjax.optim.describe` listens, else nowhere.
VISITS: ContextVar[list[Visit] | None] = ContextVar("VISITS", default=None)


def map_matrices(
    function: Callable[..., jax.Array], axes: Axes, link: str, params: PyTree, *trees: PyTree
) -> PyTree:
    """``function(point, *vectors)`` on every leaf seen as a matrix; errors name the link and the leaf.

    Leaves of half precision come in float32, and so does what is returned for them.
    """
    need_params(params, link)
    for tree in trees:
        check_alike(link, tree, params)
    out = []
    rows = zip(named_leaves(params), specs(axes, params), *map(jax.tree.leaves, trees), strict=True)
    for (name, point), spec, *vectors in rows:
        check_leaf(link, name, point, *vectors)
        wide = [widen(point), *(widen_like(v, point) for v in vectors)]
        try:
            matrices = [to_matrix(x, spec) for x in wide]
            result = function(*matrices)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{link}: leaf {name}: {error}") from error
        if (visits := VISITS.get()) is not None:
            visits.append(Visit(link, getattr(function, "__name__", "?"), name, matrices[0].shape))
        out.append(from_matrix(result, point.shape, spec))
    return jax.tree.unflatten(jax.tree.structure(params), out)


def move_matrices(
    move: Callable[..., jax.Array], axes: Axes, link: str, params: PyTree, *trees: PyTree
) -> PyTree:
    """Updates that take every leaf to ``move(point, *vectors)``, rounded once where the leaf is of half precision."""
    return jax.tree.map(displacement, params, map_matrices(move, axes, link, params, *trees))


def check_leaf(link: str, name: str, point: PyTree, *vectors: PyTree) -> None:
    """Refuse a leaf that cannot be a point, or an update of another shape or dtype."""
    if not hasattr(point, "dtype") or not jnp.issubdtype(point.dtype, jnp.inexact):
        kind = getattr(point, "dtype", type(point).__name__)
        raise TypeError(
            f"{link}: leaf {name} is {kind}; a floating or complex array is needed, or mask this leaf out"
        )
    if point.ndim < 2:
        raise ValueError(f"{link}: leaf {name} has shape {point.shape}, no matrix; mask this leaf out")
    for vector in vectors:
        if getattr(vector, "shape", None) != point.shape:
            raise ValueError(
                f"{link}: leaf {name}: the update has shape {getattr(vector, 'shape', None)}, "
                f"the parameter {point.shape}; they must be equal"
            )
        if widen_like(vector, point).dtype != widen(point).dtype:
            raise TypeError(
                f"{link}: leaf {name}: the update is {vector.dtype}, the parameter {point.dtype}; cast one"
            )


def check_start(on_start: object) -> None:
    """Refuse another word."""
    if on_start not in STARTS:
        raise ValueError(f"on_start is {on_start!r}; choose one of {', '.join(STARTS)}")


def check_points(link: str, params: PyTree, axes: Axes = None, on_start: OnStart = "raise") -> None:
    """Refuse parameters that are not on the manifold: traced ones through ``jax.experimental.checkify`` alone."""
    for (name, leaf), spec in zip(named_leaves(params), specs(axes, params), strict=True):
        check_leaf(link, name, leaf)
        if on_start == "ignore" or (isinstance(leaf, Tracer) and explicit_axes(leaf)):
            continue
        text = f"{link}: leaf {name} of shape {leaf.shape} is off the manifold: its orthonormality error is "
        remedy = "start from stiefel.project(leaf), give on_start='project', or mask it out"
        if isinstance(leaf, Tracer):
            matrix = to_matrix(widen(leaf), spec)
            error = jnp.max(stiefel.orthonormality_error(matrix), initial=0)
            checkify.debug_check(error <= _allowed(matrix), text + "{error}; " + remedy, error=error)
            continue
        with jax.ensure_compile_time_eval():
            matrix = to_matrix(widen(leaf), spec)
            error, allowed = _error(np.asarray(matrix)), float(_allowed(matrix))
        if not error <= allowed:
            raise ValueError(f"{text}{error:.1e}, at most {allowed:.0e} is allowed; {remedy}")


def _error(matrix: np.ndarray) -> float:
    m = matrix.astype(np.complex128 if np.iscomplexobj(matrix) else np.float64)
    m = m.swapaxes(-1, -2) if m.shape[-1] > m.shape[-2] else m
    residual = np.abs(m.swapaxes(-1, -2).conj() @ m - np.eye(m.shape[-1]))
    return float(np.max(np.sqrt(np.sum(residual**2, axis=(-2, -1))), initial=0))


def _allowed(matrix: jax.Array) -> jax.Array:
    """Loose where all digits are there; twice what rounding an exact point to half precision can do, otherwise.

    Entries rounded by a relative eps/2 move ``W^T W`` by at most ``eps sqrt(p)``. Half precision shows in the digits.
    """
    allowed = jnp.asarray(10 * float(jnp.finfo(matrix.dtype).eps) ** 0.5)
    if jnp.iscomplexobj(matrix):
        return allowed
    for half in map(jnp.finfo, (jnp.float16, jnp.bfloat16)):
        rounded = jnp.all(matrix == lax.reduce_precision(matrix, half.nexp, half.nmant))
        allowed = jnp.where(rounded, 2 * float(half.eps) * min(matrix.shape[-2:]) ** 0.5, allowed)
    return allowed
