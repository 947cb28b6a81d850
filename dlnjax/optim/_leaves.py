"""Leaves as matrices: which axes form the matrix, and errors that name the leaf.

A link sees a pytree; geometry sees ``(..., n, p)``. :class:`MatrixAxes` says, as optax's Muon does, which axes of
a leaf are rows, which are columns, and (the rest) which are batch, so that stacked layers, attention heads and
convolution kernels need no reshaping by the user.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

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


#: One spec for every leaf, a pytree of specs, or a function of the params that returns one; None = last two axes.
Axes = MatrixAxes | Callable[[Any], Any] | Any | None


def _as_spec(spec: Any) -> MatrixAxes:
    """Also optax's own ``MuonDimensionNumbers``."""
    if hasattr(spec, "reduction_axis") and hasattr(spec, "output_axis"):
        return MatrixAxes(spec.output_axis, spec.reduction_axis)
    return spec


def _is_spec(x: Any) -> bool:
    return x is None or isinstance(x, MatrixAxes) or hasattr(x, "reduction_axis")


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


def specs(axes: Axes, tree: Any) -> Any:
    """One spec per leaf of ``tree``, as a list in leaf order."""
    given_as_tree = jax.tree.structure(axes, is_leaf=_is_spec) == jax.tree.structure(tree)
    if callable(axes) and not _is_spec(axes) and not given_as_tree:
        axes = axes(tree)
    if _is_spec(axes):
        return [axes] * jax.tree.structure(tree).num_leaves
    try:  # a masked tree has empty nodes where axes has a spec, so axes is matched as a prefix
        parts = jax.tree.map(
            lambda spec, part: [spec] * jax.tree.structure(part).num_leaves, axes, tree, is_leaf=_is_spec
        )
    except (TypeError, ValueError) as error:
        structures = (
            f"{jax.tree.structure(axes, is_leaf=_is_spec)} but the leaves have {jax.tree.structure(tree)}"
        )
        raise ValueError(f"axes has structure {structures}; give one optim.MatrixAxes a leaf") from error
    return jax.tree.leaves(parts, is_leaf=lambda x: x is None or isinstance(x, MatrixAxes))


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """``(name, leaf)`` in leaf order; the name is the path as the user would index it."""
    with_paths = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path) or "(the only leaf)", x) for path, x in with_paths]


def need_params(params: Any, link: str) -> None:
    if params is None:
        raise ValueError(f"{link} needs the current point: call update(gradients, state, params)")


def need_loss(
    link: str, value: Any, value_fn: Callable[..., jax.Array] | None, extra: dict[str, Any]
) -> tuple[jax.Array, Callable[[Any], jax.Array]]:
    """The loss at hand, and the loss as a function of params alone, for links that search along it."""
    if value is None or value_fn is None:
        raise ValueError(f"{link} needs the loss: update(..., value=loss, value_fn=loss_fn)")
    unused = {name: given for name, given in extra.items() if name != "grad"}
    return jnp.asarray(value), lambda params: value_fn(params, **unused)


def map_matrices(function: Callable[..., jax.Array], axes: Axes, link: str, params: Any, *trees: Any) -> Any:
    """``function(point, *vectors)`` on every leaf seen as a matrix; errors name the link and the leaf."""
    need_params(params, link)
    structure = jax.tree.structure(params)
    for tree in trees:
        if jax.tree.structure(tree) != structure:
            given = jax.tree.structure(tree)
            raise ValueError(f"{link}: updates have structure {given} but params have {structure}")
    out = []
    rows = zip(named_leaves(params), specs(axes, params), *map(jax.tree.leaves, trees), strict=True)
    for (name, point), spec, *vectors in rows:
        check_leaf(link, name, point, *vectors)
        try:
            result = function(to_matrix(point, spec), *(to_matrix(v, spec) for v in vectors))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{link}: leaf {name}: {error}") from error
        out.append(from_matrix(result, point.shape, spec))
    return jax.tree.unflatten(structure, out)


def check_leaf(link: str, name: str, point: Any, *vectors: Any) -> None:
    """Refuse a leaf that cannot be a point, or an update of another shape or dtype."""
    if not hasattr(point, "dtype") or not jnp.issubdtype(point.dtype, jnp.floating):
        kind = getattr(point, "dtype", type(point).__name__)
        raise TypeError(
            f"{link}: leaf {name} is {kind}; a real floating array is needed, or mask this leaf out"
        )
    if point.ndim < 2:
        raise ValueError(f"{link}: leaf {name} has shape {point.shape}, no matrix; mask this leaf out")
    for vector in vectors:
        if getattr(vector, "shape", None) != point.shape:
            raise ValueError(
                f"{link}: leaf {name}: the update has shape {getattr(vector, 'shape', None)}, "
                f"the parameter {point.shape}; they must be equal"
            )
        if vector.dtype != point.dtype:
            raise TypeError(
                f"{link}: leaf {name}: the update is {vector.dtype}, the parameter {point.dtype}; cast one"
            )


def check_points(link: str, params: Any, axes: Axes = None) -> None:
    """Refuse concrete parameters that are not on the manifold; traced ones cannot be seen and pass."""
    for (name, leaf), spec in zip(named_leaves(params), specs(axes, params), strict=True):
        check_leaf(link, name, leaf)
        if isinstance(leaf, Tracer):
            continue
        with jax.ensure_compile_time_eval():
            matrix = np.asarray(to_matrix(leaf, spec))
        error = _error(matrix)
        allowed = 10 * float(jnp.finfo(leaf.dtype).eps) ** 0.5
        if not error <= allowed:
            raise ValueError(
                f"{link}: leaf {name} of shape {leaf.shape} is off the manifold: its orthonormality error is "
                f"{error:.1e}, at most {allowed:.0e} is allowed; start from stiefel.project(leaf), or mask it out"
            )


def _error(matrix: np.ndarray) -> float:
    m = matrix.astype(np.float64)
    m = m.swapaxes(-1, -2) if m.shape[-1] > m.shape[-2] else m
    residual = m.swapaxes(-1, -2) @ m - np.eye(m.shape[-1])
    return float(np.max(np.sqrt(np.sum(residual**2, axis=(-2, -1))), initial=0))
