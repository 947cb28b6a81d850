"""What a cell trains on: arrays drawn beforehand (:func:`draw`), and the problem that training sees (:func:`build`).

Linear networks under the square loss need statistics alone. Activations and mini-batches need the samples themselves: a
teacher's are drawn with ``X X^T = n I``, data are whitened to that. The losses of ``dlnjax.losses`` get what they are
made of from the cell's seed. Label noise has a standard deviation in units of the labels' root mean square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import network, problem, stiefel
from dlnjax._linalg import frobenius, matmul, transpose
from dlnjax._types import Count, Params, Problem, PyTree
from dlnjax.losses import MatrixSensing, RidgeLogistic, WeightedSquare
from dlnjax.problem import Quadratic, Samples
from dlnjax.sweep.compute import layers, two_layer
from dlnjax.sweep.config import datasets, registry, user_functions
from dlnjax.sweep.config.cell import Cell
from dlnjax.sweep.config.sweep import Problem as Spec
from dlnjax.sweep.config.sweep import Sweep

#: Ridge of the logistic loss, per sample.
RIDGE = 0.01
_LOSS = "a function (product, target) -> number, both of shape (d_N, d_0)"
_PROBLEM = "a function key -> problem, with methods loss(params) and gradients(params, step)"


class Drawn(NamedTuple):
    """The cells of a shard, B of them, before training.

    Attributes:
      shared, each: arrays by name that the problem is built from: of all cells, and with B in front.
      solved: the layers of a solution, ``(B, d_i, d_{i-1})`` in double precision; None where none is known.
      norm: ``(B,)`` spectral norm of the solution's free layer, 1 where none is known.
      unit: ``(B,)`` step sizes given as numbers are multiples of this: 1 over the loss's largest curvature.
      rank: of the target, or of the data.
      curvature: ``(B, 2)`` extreme curvatures of the loss on products, None where they are not known.
    """

    shared: dict[str, PyTree]
    each: dict[str, PyTree]
    solved: list[np.ndarray] | None
    norm: np.ndarray
    unit: np.ndarray
    rank: int | None
    curvature: np.ndarray | None


def needs_samples(cell: Cell) -> bool:
    """Whether the samples themselves take part in a step."""
    return cell.activation != "linear" or cell.batch_size > 0


def draw(
    sweep: Sweep, cell: Cell, form: layers.Shape, teacher: jax.Array, keys: jax.Array, noise: jax.Array
) -> Drawn:
    """Problem and solution of cells that differ in their seed alone.

    Args:
      cell: any of them. form: its layers.
      teacher, keys, noise: ``(B,)`` PRNG keys of the target, of a solution's layers, and of samples and noise.
    """
    batch = len(keys)
    if sweep.problem.kind == "own":
        return Drawn({}, {}, None, np.ones(batch), np.ones(batch), None, None)
    dtype = jnp.dtype(cell.precision)
    frames = layers.haar(keys, form.dims)

    def solve(target: jax.Array | np.ndarray) -> list[np.ndarray]:
        several = np.broadcast_to(np.asarray(target, np.float64), (batch, *target.shape[-2:]))
        return layers.solution(several, frames, form.free)

    if sweep.problem.kind == "teacher":
        square, _ = two_layer.teachers(sweep.problem, teacher, cell.width, dtype)
        rank = len(sweep.problem.singular_values)
        if cell.loss != "square":
            return _of_loss(sweep, cell, form, square.target, solve(square.target), noise, rank)
        if not needs_samples(cell) and not cell.label_noise:
            return _plain({}, {"square": square}, solve(square.target), form, 1.0, rank)
        x = _inputs(noise, square.target.shape[-1], sweep.problem.samples, dtype)
        solved = solve(square.target)
        clean = _outputs([jnp.asarray(w, dtype) for w in solved], x, activation(sweep, cell))
        return _sampled(cell, form, {}, {"x": x}, clean, noise, solve, solved, rank)
    if not needs_samples(cell) and not cell.label_noise:
        square, _, rank, unit = two_layer.from_data(
            sweep.problem, cell.data, min(form.dims[1:-1]), cell.precision
        )
        drawn = _plain({"square": square}, {}, solve(square.optimum), form, unit, rank)
        return drawn._replace(curvature=None) if cell.data == "raw" else drawn
    x, y, target = _white(sweep.problem, cell.precision)
    best = _best(np.asarray(target, np.float64)[None], min(form.dims))
    return _sampled(cell, form, {"x": x}, {}, y[None], noise, solve, solve(best), x.shape[0])


def _plain(shared: dict, each: dict, solved, form: layers.Shape, unit: float, rank: int) -> Drawn:
    norm = np.linalg.norm(solved[form.free], 2, axis=(1, 2))
    return Drawn(
        shared, each, solved, norm, np.full(len(norm), unit), rank, np.full((len(norm), 2), [1 / unit] * 2)
    )


def _inputs(keys: jax.Array, width: int, count: int, dtype) -> jax.Array:
    """``(B, d_0, n)`` with ``X X^T = n I``."""
    return jnp.asarray(count**0.5 * layers.polar(layers.normal(keys, [(width, count)])[0]), dtype)


@lru_cache(maxsize=4)
def _white(spec: Spec, precision: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Data with ``X X^T = n I``: inputs ``(rank, n)``, labels, and the least-squares product."""
    x, y = (jnp.asarray(array, precision) for array in datasets.parts(spec)[0])
    square, whitening = problem.whiten(x, y)
    root = x.shape[1] ** 0.5
    return root * matmul(whitening, x), y, square.target / root


@jax.jit
def _least_squares(x: jax.Array, y: jax.Array) -> jax.Array:
    return matmul(y, transpose(x)) / x.shape[-1]


def _outputs(params: Sequence[jax.Array], x: jax.Array, phi) -> jax.Array:
    return jax.jit(jax.vmap(lambda w, x: network.forward(w, x, phi)))(tuple(params), x)


def _noisy(cell: Cell, clean: jax.Array, keys: jax.Array) -> jax.Array:
    size = cell.label_noise * jnp.sqrt(jnp.mean(jnp.square(clean), axis=(1, 2), keepdims=True))
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    return clean + size * jnp.asarray(layers.normal(keys, [(clean.shape[1], clean.shape[2])])[0], clean.dtype)


def _best(target: np.ndarray, rank: int) -> np.ndarray:
    """The nearest products of this rank, B in front."""
    left, values, right = np.linalg.svd(target, full_matrices=False)
    return left[:, :, :rank] * values[:, None, :rank] @ right[:, :rank]


def _sampled(cell: Cell, form, shared, each, clean, keys, solve: Callable, solved, rank: int) -> Drawn:
    """From samples and clean outputs (one set for all cells where B is 1): noise, what it moves, and the problem."""
    y = _noisy(cell, clean, keys) if cell.label_noise else clean
    x = shared["x"] if shared else each["x"]
    count, dtype = x.shape[-1], x.dtype
    reference = y if cell.activation != "linear" and len(clean) == 1 else clean
    if cell.activation == "linear":
        least = _least_squares(x, y)
        best = _best(np.asarray(least, np.float64), min(form.dims))
        solved, optimum = solve(best), jnp.asarray(best, dtype)
        reference = matmul(optimum, x)
        if not needs_samples(cell):
            floor = jnp.sum(jnp.square(y - matmul(least, x)), axis=(1, 2)) / (2 * count)
            return _plain({}, {"square": Quadratic(least, optimum, floor)}, solved, form, 1.0, rank)
    own_arrays = {"y": y, "reference": reference}
    several = {k: v for k, v in own_arrays.items() if len(v) > 1 or len(keys) == 1}
    common = {k: v[0] for k, v in own_arrays.items() if k not in several}
    drawn = _plain({**shared, **common}, {**each, **several}, solved, form, 1 / count, rank)
    return drawn if cell.activation == "linear" else drawn._replace(curvature=None)


def _of_loss(sweep: Sweep, cell: Cell, form, target: jax.Array, solved, keys: jax.Array, rank: int) -> Drawn:
    """A loss of the product whose minimiser is the teacher's product."""
    norm = np.linalg.norm(solved[form.free], 2, axis=(1, 2))
    if user_functions.is_name(cell.loss):
        return Drawn({}, {"target": target}, solved, norm, np.ones(len(keys)), rank, None)
    make = partial(_LOSSES[cell.loss], samples=sweep.problem.samples, condition=sweep.problem.condition)
    losses = jax.vmap(make)(keys, target)
    bounds = [jax.tree.map(lambda a, i=i: a[i], losses).curvature() for i in range(len(keys))]
    curvature = np.array(bounds)
    return Drawn({}, {"loss": losses}, solved, norm, 1 / curvature[:, 1], rank, curvature)


def _weighted(key, target, samples, condition) -> WeightedSquare:
    """Weights from ``1/condition`` to 1, evenly in the logarithm, in random places."""
    exponents = jnp.linspace(-1, 0, target.size, dtype=target.dtype)
    return WeightedSquare(target, condition ** jax.random.permutation(key, exponents).reshape(target.shape))


def _sensing(key, target, samples, condition) -> MatrixSensing:
    """Twice as many Gaussian measurements as unknowns, of mean square ``||Z||^2``."""
    count = 2 * target.size
    drawn = jax.random.normal(key, (count, *target.shape), target.dtype)
    return MatrixSensing(target, drawn / count**0.5)


def _logistic(key, target, samples, condition) -> RidgeLogistic:
    """Labels that make the teacher's product the minimiser, the ridge included [derived].

    ``y = sigmoid(T x) + (ridge/n) T x`` with ``x x^T = n I``: ``(sigmoid(Wx) - y) x^T + ridge W`` is 0 at T.
    """
    x = samples**0.5 * stiefel.random(jax.random.fold_in(key, 0), (target.shape[1], samples), target.dtype)
    scores = matmul(target, x)
    ridge = jnp.asarray(RIDGE * samples, target.dtype)
    return RidgeLogistic(x, jax.nn.sigmoid(scores) + ridge / samples * scores, ridge, target)


_LOSSES: dict[str, Callable] = {"weighted": _weighted, "sensing": _sensing, "logistic": _logistic}


class Regression:
    """The square loss of a network on samples; errors are those of its outputs against ``reference``."""

    def __init__(self, samples: Samples, reference: jax.Array):
        self.samples: Samples = samples
        self.reference: jax.Array = reference

    def loss(self, params: Params) -> jax.Array:
        return self.samples.loss(params)

    def gradients(self, params: Params, step: Count) -> Params:
        return self.samples.gradients(params, step)

    def distance(self, params: Params) -> jax.Array:
        return frobenius(network.forward(params, self.samples.x, self.samples.activation) - self.reference)


class OwnLoss:
    """A user's loss of the product; its distance is from the target."""

    def __init__(self, part: user_functions.UserFunction, target: jax.Array):
        self.part: user_functions.UserFunction = part
        self.target: jax.Array = target

    def _of(self, product: jax.Array) -> jax.Array:
        return _number(
            "loss", self.part, user_functions.call("loss", self.part, _LOSS, product, self.target), _LOSS
        )

    def loss(self, params: Params) -> jax.Array:
        return self._of(network.end_to_end(params))

    def gradients(self, params: Params, step: Count) -> Params:
        product, pullback = network.vjp(params)
        return pullback(jax.grad(self._of)(product))

    def distance(self, params: Params) -> jax.Array:
        return frobenius(network.end_to_end(params) - self.target)


def build(
    sweep: Sweep, cell: Cell, arrays: dict[str, PyTree], key: jax.Array, params: Params
) -> tuple[Problem, Problem]:
    """The problem that training steps on, and the one it is measured by (all samples, where steps take some)."""
    if sweep.problem.kind == "own":
        problem = _own_problem(sweep.functions[sweep.problem.function or ""], key, params)
        return problem, problem
    if user_functions.is_name(cell.loss):
        problem = OwnLoss(sweep.functions[cell.loss], arrays["target"])
        return problem, problem
    if "loss" in arrays or "square" in arrays:
        problem = arrays["loss" if "loss" in arrays else "square"]
        return problem, problem
    phi = activation(sweep, cell)
    whole = Regression(Samples(arrays["x"], arrays["y"], None, phi), arrays["reference"])
    if not cell.batch_size:
        return whole, whole
    return Samples(arrays["x"], arrays["y"], jax.random.fold_in(key, 2), phi, cell.batch_size), whole


def activation(sweep: Sweep, cell: Cell) -> Callable | None:
    """The elementwise function; a user's own is checked wherever it is applied."""
    if not user_functions.is_name(cell.activation):
        return registry.ACTIVATIONS[cell.activation](jax)
    return _checked(sweep.functions[cell.activation])


@lru_cache(maxsize=64)
def _checked(part: user_functions.UserFunction) -> Callable:
    wanted = "an elementwise function array -> array"

    def phi(z: jax.Array) -> jax.Array:
        result = user_functions.call("activation", part, wanted, z)
        if getattr(result, "shape", None) != z.shape or result.dtype != z.dtype:
            raise user_functions.refuse(
                "activation", part, _seen(result), f"{wanted}, here {z.dtype} of shape {z.shape}"
            )
        return result

    return phi


def _own_problem(part: user_functions.UserFunction, key: jax.Array, params: Params) -> Problem:
    """A user's problem, called once to see what it gives."""
    problem = (
        part.value
        if user_functions.is_problem(part.value)
        else user_functions.call("problem", part, _PROBLEM, key)
    )
    if not user_functions.is_problem(problem):
        raise user_functions.refuse("problem", part, f"a {type(problem).__name__}", _PROBLEM)
    bound = user_functions.UserFunction(problem.loss, part.name)
    _number(
        "problem",
        part,
        user_functions.call("problem", bound, "a loss(params) -> number", params),
        "a loss that is a number",
    )
    slopes = user_functions.call(
        "problem",
        user_functions.UserFunction(problem.gradients, part.name),
        "gradients(params, step)",
        params,
        jnp.int32(0),
    )
    like("problem", part, slopes, params, "gradients")
    return problem


def like(role: str, part: user_functions.UserFunction, got: PyTree, params: Params, what: str) -> None:
    """Refuses a tree that has not the layers' structure, shapes and dtypes."""
    wanted = f"{what} like the layers: " + ", ".join(f"{w.dtype}{list(w.shape)}" for w in params)
    if jax.tree.structure(got) != jax.tree.structure(params):
        raise user_functions.refuse(
            role, part, f"{what} of another structure, {jax.tree.structure(got)}", wanted
        )
    for i, (a, w) in enumerate(zip(jax.tree.leaves(got), params, strict=True)):
        if getattr(a, "shape", None) != w.shape or a.dtype != w.dtype:
            raise user_functions.refuse(role, part, f"{what} with {_seen(a)} for leaf {i}", wanted)


def _number(role: str, part: user_functions.UserFunction, got: PyTree, wanted: str) -> jax.Array:
    if getattr(got, "shape", None) != () or not jnp.issubdtype(got.dtype, jnp.floating):
        raise user_functions.refuse(role, part, _seen(got), wanted)
    return got


def _seen(got: PyTree) -> str:
    """What a result is, in a few words."""
    return f"{got.dtype} of shape {tuple(got.shape)}" if hasattr(got, "dtype") else f"a {type(got).__name__}"
