"""How fast do networks reach sparse codes? The factor per layer measured and predicted, and the layer from which the
support stands; then what depth, the number of dictionaries, does to the factor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from dlnjax import sparse
from dlnjax._types import PyTree
from dlnjax.campaigns.checks.finding import Finding, Row, row
from dlnjax.campaigns.checks.sparse_bounds import chain, draw

#: Layers of a run, and of every restart along what is left of its error, which shows the slowest mode alone.
_LAYERS, _AGAIN, _RESTARTS = 4000, 300, 16
#: The factor is read while the error of a restart falls by this; it is settled if its halves, and the reading half
#: the restarts before, agree to a share of the tolerance, and of 1 - factor.
_FALL, _SHARE, _NARROW = 1e-4, 0.2, 1e-4
#: Layers that a reading needs.
_FEWEST = 6
#: Relative size of a restart's error where the activation bends, so that its slope stands still; if signs stand only
#: nearer to the limit than this, rounding would be read.
_SMALL = 1e-5
#: Layers of FISTA, at most, between the two errors and the error predicted from them, and the least of that.
_FISTA_LAYERS, _FISTA_FLOOR = 40, 1e-7


class Network(NamedTuple):
    """A dictionary, what is coded, and how."""

    dictionary: PyTree
    signal: PyTree
    threshold: PyTree
    step_size: float
    momentum: PyTree = 0.0
    activation: str = "soft"
    weights: PyTree = None


@functools.partial(jax.jit, static_argnums=(6, 7))
def _codes(dictionary, signal, threshold, step, momentum, weights, activation, layers, start=None):
    return sparse.encode(
        dictionary, signal, threshold, num_layers=layers, step_size=step, momentum=momentum, activation=activation,
        weights=weights, start=start, history=True,
    )  # fmt: skip


def run(network: Network, layers: int, start: PyTree = None) -> np.ndarray:
    """Flat codes after every layer."""
    n = network
    codes = _codes(
        n.dictionary, n.signal, n.threshold, n.step_size, n.momentum, n.weights, n.activation, layers, start
    )
    return np.concatenate([np.asarray(c).reshape(layers, -1) for c in jax.tree.leaves(codes)], axis=1)


def slopes(network: Network, limit: np.ndarray) -> np.ndarray:
    """The activation's slope at every entry of the limit."""
    on = limit != 0
    return np.where(on, 1 - limit**2, 0.0) if network.activation == "tanh" else on.astype(float)


def measured(
    network: Network, limit: np.ndarray, last: np.ndarray, layers: int = _AGAIN
) -> tuple[float, float] | None:
    """The factor, and by how much readings of it differ; None where the signs do not stand.

    From the limit plus what is left of the error (``last``, then each restart's) the network runs again.
    """
    restore: Callable = ravel_pytree(network.dictionary.zeros())[1]
    reach = np.linalg.norm(limit) * _SMALL if network.activation == "tanh" else _reach(network, limit)
    support, error, readings = limit != 0, last, []
    if reach < _SMALL * np.linalg.norm(limit):
        return None
    for i in range(1, _RESTARTS + 1):
        error = np.where(support, error, 0)
        if not np.any(error):
            return None
        start = limit + 0.5 * reach * error / np.linalg.norm(error)
        codes = run(network, layers, restore(jnp.asarray(start)))
        history = codes - limit
        window = np.flatnonzero(np.linalg.norm(history, axis=1) > _FALL * reach / 2)
        if np.any((codes != 0) != support) or window.size < _FEWEST:
            return None
        history = history[: window[-1] + 1]
        error = history[-1]
        if i in (_RESTARTS // 2, _RESTARTS):
            middle = len(history) // 2
            parts = (history[2:], history[2 : middle + 2], history[middle - 2 :])
            readings += [_fit(part[:, support]) for part in parts]
    return readings[3], max(readings) - min(readings)


def _reach(network: Network, limit: np.ndarray) -> float:
    """Distance from the limit within which the signs stand."""
    atoms = np.asarray(sparse.matrix(network.dictionary))
    seen = atoms if network.weights is None else np.asarray(sparse.matrix(network.weights))
    signal = np.asarray(ravel_pytree(network.signal)[0])
    pull, on = seen.T @ (signal - atoms @ limit), limit != 0
    gap = np.min(network.threshold - np.abs(pull[~on]), initial=np.inf)
    return float(min(np.min(np.abs(limit[on])), network.step_size * max(gap, 0)))


def _fit(errors: np.ndarray) -> float:
    """The largest root of the recurrence ``e <- p e + q e_before`` that fits best, every layer weighing the same."""
    scale = np.linalg.norm(errors[1:-1], axis=1)[:, None]
    columns = np.stack([(errors[1:-1] / scale).ravel(), (errors[:-2] / scale).ravel()], axis=1)
    p, q = np.linalg.lstsq(columns, (errors[2:] / scale).ravel(), rcond=1e-7)[0]
    return float(np.max(np.abs(np.roots([1, -p, -q]))))


def first_standing(codes: np.ndarray) -> int:
    """The layer, from 1, from which on all signs are those of the last."""
    differs = np.flatnonzero(np.any(np.sign(codes) != np.sign(codes[-1]), axis=1))
    return int(differs[-1]) + 2 if differs.size else 1


def factors(instances: int = 200, seed: int = 0, tolerance: float = 1e-6) -> Finding:
    """ISTA, a constant momentum, FISTA, ReLU, tanh, analytic weights, convolutions and joint codes against prediction.

    Ratio: |measured - predicted| over the tolerance, or over 1e-4 of 1 - factor where that is less. The layer at which
    the support stands must not be above its bound. Runs whose readings differ are not settled, and counted.
    """
    rng = np.random.default_rng(seed)
    rows = [_row(rng, i, *_KINDS[i % len(_KINDS)], tolerance) for i in range(instances)]
    settled = {
        name: f"{sum(r['difference'] is not None for r in rows if r['network'] == name)} of "
        f"{sum(r['network'] == name for r in rows)}"
        for name, _ in _KINDS
    }
    return Finding("factors", "the factor per layer is the predicted one", rows, {"settled": settled})


def _row(rng: np.random.Generator, instance: int, name: str, make: Callable, tolerance: float) -> Row:
    network: Network = make(rng)
    codes = run(network, _LAYERS)
    limit, predicted = codes[-1], None
    atoms = network.dictionary
    given: Row = dict.fromkeys(("measured_factor", "difference", "ratio"))
    beta = network.momentum
    if name == "fista":
        gap, predicted, given["measured_factor"] = _fista(network, codes, limit)
        width = 0.0 if gap is not None else np.inf
    else:
        predicted = sparse.predict(atoms, slopes(network, limit), network.step_size, beta, network.weights)
        reading = measured(network, limit, codes[_early(codes)] - limit)
        gap, width = (None, np.inf) if reading is None else (abs(reading[0] - predicted), reading[1])
        given["measured_factor"] = reading and reading[0]
    allowed = min(tolerance, _NARROW * abs(1 - predicted))
    if gap is not None and width <= _SHARE * allowed:
        given |= {"difference": gap, "ratio": gap / allowed}
    stands, bound = first_standing(codes), None
    if name in ("ista", "fista", "convolution", "joint"):
        bound = _bound(network, limit, "fista" if name == "fista" else 0.0)
    late = bound is not None and stands > bound
    return row(
        "factors", instance, None, network=name, sparsity=int(np.sum(limit != 0)), step_size=network.step_size,
        predicted_factor=predicted, **given, stands_at=stands, stands_bound=bound,
        checks=int(given["ratio"] is not None) + int(bound is not None),
        violations=int(given["ratio"] is not None and given["ratio"] > 1) + int(late),
    )  # fmt: skip


def _early(codes: np.ndarray) -> int:
    """A layer with an error far above rounding."""
    size = np.linalg.norm(codes - codes[-1], axis=1)
    return int(np.flatnonzero(size > 1e-7 * np.linalg.norm(codes[-1]))[-1]) if size[0] else 0


def _bound(network: Network, limit: np.ndarray, momentum: PyTree) -> float | None:
    if np.ndim(network.threshold) or isinstance(network.threshold, tuple):
        return None
    step, lam = network.step_size, network.threshold
    bound = sparse.identification(network.dictionary, limit, network.signal, lam, step, momentum)
    return bound if np.isfinite(bound) else None


def _fista(
    network: Network, codes: np.ndarray, limit: np.ndarray
) -> tuple[float | None, float, float | None]:
    """The error after some layers from two before: its factor per layer, against the product of the modes' blocks.

    ``e <- (I - t G)(e + beta_k (e - before))``, in the eigenbasis of ``G = D_S^T D_S``, with the momentum of each
    layer.
    """
    on, begin = limit != 0, first_standing(codes) + 1
    errors = (codes - limit)[:, on]
    large = np.flatnonzero(np.linalg.norm(errors, axis=1) > _FISTA_FLOOR * np.linalg.norm(limit))
    end = min(begin + _FISTA_LAYERS, int(large[-1]))
    if end < begin + _FEWEST:
        return None, sparse.predict(network.dictionary, on, network.step_size, 1.0), None
    atoms = np.asarray(sparse.matrix(network.dictionary))[:, on]
    values, basis = np.linalg.eigh(atoms.T @ atoms)
    before, error = errors[begin - 1] @ basis, errors[begin] @ basis
    for k in range(begin + 1, end + 1):
        step = 1 - network.step_size * values
        before, error = error, step * (error + network.momentum[k] * (error - before))
    made, given = (
        float((np.linalg.norm(e) / np.linalg.norm(errors[begin])) ** (1 / (end - begin)))
        for e in (error, errors[end])
    )
    return abs(made - given), made, given


def _signal(
    rng: np.random.Generator, dictionaries: list, sparsity: int, nonnegative: bool = False
) -> jax.Array:
    key = jax.random.key(int(rng.integers(2**31)))
    signal = sparse.sample(key, dictionaries, sparsity, nonnegative=nonnegative)[0][0]
    return signal + 0.01 * jnp.asarray(rng.standard_normal(signal.shape))


def _plain(rng: np.random.Generator, kind: str | None = None, top: float = 1.9, **options: PyTree) -> Network:
    kind = kind or str(rng.choice(["gaussian", "tight", "orthonormal"]))
    shape = {"gaussian": (32, 48), "tight": (24, 36), "orthonormal": (32, 32)}[kind]
    (dictionary,) = chain(rng, [(kind, *shape, 1)])
    signal = _signal(rng, [dictionary], int(rng.integers(2, 6)), options.get("activation") == "relu")
    largest = float(sparse.lipschitz(dictionary))
    step = 1 / largest if top == 1 else float(rng.uniform(0.3, top)) / largest
    return Network(dictionary, signal, float(rng.uniform(0.05, 0.2)), step, **options)


def _heavy(rng: np.random.Generator) -> Network:
    return _plain(rng, top=1.0 - 1e-9, momentum=float(rng.uniform(0.1, 0.9)))


def _analytic(rng: np.random.Generator) -> Network:
    made = _plain(rng, "gaussian")
    weights = sparse.analytic_weights(made.dictionary)
    product = np.asarray(weights.kernel).T @ np.asarray(made.dictionary.kernel)
    return made._replace(weights=weights, step_size=float(rng.uniform(0.3, 1) / np.linalg.norm(product, 2)))


def _convolution(rng: np.random.Generator) -> Network:
    key = jax.random.key(int(rng.integers(2**31)))
    dictionary = sparse.convolution(draw(key, 18, 6, "gaussian").reshape(3, 3, 2, 6), 7, 2)
    step = float(rng.uniform(0.3, 1.9)) / float(sparse.lipschitz(dictionary))
    return Network(dictionary, _signal(rng, [dictionary], 4), float(rng.uniform(0.05, 0.2)), step)


def _joint(rng: np.random.Generator) -> Network:
    dictionaries = chain(rng, [("gaussian", 24, 32, 1), ("gaussian", 32, 16, 16)])
    both = sparse.join(dictionaries)
    step = float(rng.uniform(0.3, 1.9)) / float(sparse.lipschitz(both))
    signal = both.signal(_signal(rng, dictionaries, 3))
    return Network(both, signal, float(rng.uniform(0.02, 0.1)), step)


_KINDS: list[tuple[str, Callable[[np.random.Generator], Network]]] = [
    ("ista", _plain),
    ("momentum", _heavy),
    ("fista", functools.partial(_plain, kind="gaussian", top=1, momentum=sparse.fista_momentum(_LAYERS))),
    ("relu", functools.partial(_plain, activation="relu")),
    ("tanh", functools.partial(_plain, activation="tanh")),
    ("analytic weights", _analytic),
    ("convolution", _convolution),
    ("joint", _joint),
]


#: Dictionaries of a chain, and the shape of each: square, of 2 x 2 blocks, so that sparse codes stay sparse.
DEPTHS = (1, 2, 3, 4, 6, 8, 12, 16)
_SQUARE, _BLOCKS, _SPARSITY, _LAMBDA = 32, 16, 4, 1e-3
#: Layers to the limit of a joint code, which a random chain may not reach, and of a restart.
_DEEP_LAYERS, _DEEP_AGAIN, _REACHED = 20_000, 1500, 1e-12


def depth(instances: int = 4, seed: int = 0, tolerance: float = 1e-6) -> Finding:
    """What the number of dictionaries costs: orthonormal and Gaussian chains, layer by layer and all codes at once.

    Layer by layer a chain is as slow as its slowest dictionary. All at once, an orthonormal chain has the factor
    ``1 - lambda_1 / lambda_J`` with ``lambda_k = 2 - 2 cos((2 k - 1) pi / (2 J + 1))`` [derived]. Ratio: |measured -
    predicted| over the tolerance or 1e-4 of 1 - factor, and for orthonormal chains also |closed form - predicted|.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for kind in ("orthonormal", "gaussian"):
        for j in DEPTHS:
            rows += [_deep(rng, len(rows) + i, kind, j, tolerance) for i in range(instances)]
    return Finding("depth", "joint codes: the factor per layer is the predicted one at every depth", rows, {})


def _deep(rng: np.random.Generator, instance: int, kind: str, j: int, tolerance: float) -> Row:
    dictionaries = chain(rng, [(kind, _SQUARE, _SQUARE, _BLOCKS)] * j)
    signal, *codes = (x[0] for x in sparse.sample(jax.random.key(instance), dictionaries, _SPARSITY))
    single = [
        sparse.predict(d, np.asarray(x) != 0, 1 / float(sparse.lipschitz(d)))
        for d, x in zip(dictionaries, codes, strict=True)
    ]
    both = sparse.join(dictionaries)
    step = 1 / float(sparse.lipschitz(both))
    network = Network(both, both.signal(signal), _LAMBDA, step)
    late = run(network, _DEEP_LAYERS)[-_LAYERS:]
    limit = late[-1]
    predicted, closed = sparse.predict(both, limit != 0, step), None
    if kind == "orthonormal":
        low, high = (2 - 2 * np.cos((2 * k - 1) * np.pi / (2 * j + 1)) for k in (1, j))
        closed = float(1 - low / high)
    given: Row = dict.fromkeys(("measured_factor", "difference", "ratio"))
    allowed = min(tolerance, _NARROW * (1 - predicted)) if predicted < 1 else tolerance
    still = np.linalg.norm(late[-1] - late[-100]) <= _REACHED * np.linalg.norm(limit)
    reading = measured(network, limit, rng.standard_normal(limit.size), _DEEP_AGAIN) if still else None
    if reading is not None and reading[1] <= _SHARE * allowed:
        gaps = [abs(reading[0] - predicted), 0.0 if closed is None else abs(closed - predicted)]
        given = {"measured_factor": reading[0], "difference": gaps[0], "ratio": max(gaps) / allowed}
    settled = given["ratio"] is not None
    return row(
        "depth", instance, None, depth=j, dictionary=kind, sparsity=int(np.sum(limit != 0)), step_size=step,
        layered_factor=max(single), predicted_factor=predicted, closed_factor=closed, **given,
        checks=int(settled), violations=int(settled and given["ratio"] > 1),
    )  # fmt: skip
