"""Codes of many signals by a convolutional network, against its bare convolutions and against coders of other packages.

``python -m dlnjax.bench.sparse [--signals N] [--json FILE]``. All times are of one run, in turns; ratios are medians
over the rounds. Accuracy is the objective's relative excess over the least that any coder reached, in the mean over
signals; a coder that iterates gets the fewest iterations of a list that reach the network's.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import sparse

#: Length of a signal, width and stride of the atoms, and how many there are.
_LENGTH, _WIDTH, _STRIDE, _ATOMS = 64, 16, 8, 256
#: Layers of the network, signals that go through it together, rounds.
_LAYERS, _TOGETHER, _ROUNDS = 100, 250, 3
#: Threshold, of signals of norm 1, and how many of the signals the other coders get.
_LAMBDA, _FEW = 0.1, 40
#: Iterations that other coders may have.
_ITERATIONS = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200)


def batches(signals: jax.Array) -> jax.Array:
    """In groups that fit the caches."""
    return signals.reshape(-1, min(_TOGETHER, len(signals)), *signals.shape[1:])


@functools.partial(jax.jit, static_argnums=3)
def network(dictionary: sparse.Dictionary, signals: jax.Array, step: float, momentum: Any) -> jax.Array:
    code = functools.partial(
        sparse.encode, dictionary, threshold=_LAMBDA, num_layers=_LAYERS, step_size=step, momentum=momentum
    )
    return jax.lax.map(lambda y: code(signal=y), batches(signals))


@jax.jit
def convolutions(dictionary: sparse.Dictionary, signals: jax.Array, step: float) -> jax.Array:
    """As many convolutions and transposed ones with nothing between them, scaled so that nothing overflows."""

    def both(code, _):
        return dictionary.analyze(step * dictionary.synthesize(code)), None

    return jax.lax.map(
        lambda y: jax.lax.scan(both, dictionary.analyze(y), None, length=_LAYERS)[0], batches(signals)
    )


def others(atoms: np.ndarray, signals: np.ndarray) -> dict[str, Callable[[int], np.ndarray]]:
    """Coders of the packages that are there, by iterations; signals ``(samples, length)``."""
    made: dict[str, Callable[[int], np.ndarray]] = {}
    if importlib.util.find_spec("sklearn"):
        from sklearn.decomposition import sparse_encode

        def sklearn(algorithm: str, iterations: int) -> np.ndarray:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that few iterations do not converge is meant here
                return sparse_encode(
                    signals, atoms.T, alpha=_LAMBDA, algorithm=algorithm, max_iter=iterations
                )

        made["scikit-learn, coordinate descent"] = functools.partial(sklearn, "lasso_cd")
        made["scikit-learn, least angle"] = lambda _: sklearn("lasso_lars", 1000)
    if importlib.util.find_spec("sporco"):
        from sporco.admm import bpdn  # pyright: ignore[reportMissingImports]

        def sporco(iterations: int) -> np.ndarray:
            options = {"MaxMainIter": iterations, "RelStopTol": 0.0, "AutoRho": {"Enabled": True}}
            return bpdn.BPDN(atoms, signals.T, _LAMBDA, bpdn.BPDN.Options(options)).solve().T

        made["sporco, ADMM"] = sporco
    return made


def fewest(coder: Callable[[int], np.ndarray], cost: Callable[[np.ndarray], float], wanted: float) -> int:
    """The fewest iterations that reach a cost, or the most of the list."""
    for iterations in _ITERATIONS:
        if cost(coder(iterations)) <= wanted:
            return iterations
    return _ITERATIONS[-1]


def measure(signals: int) -> dict[str, Any]:
    """Seconds, ratios and accuracies."""
    keys = jax.random.split(jax.random.key(0), 2)
    filters = sparse.random(keys[0], _WIDTH, _ATOMS, dtype=jnp.float32).reshape(_WIDTH, 1, _ATOMS)
    dictionary = sparse.convolution(filters, _LENGTH, _STRIDE)
    drawn = sparse.sample(keys[1], [dictionary], 8, signals=signals)[0]
    drawn = drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)
    step = 1 / float(sparse.lipschitz(dictionary))
    few, atoms = np.asarray(drawn[:_FEW, :, 0], np.float64), np.asarray(sparse.matrix(dictionary), np.float64)

    def cost(codes: np.ndarray) -> float:
        return float(np.mean(np.sum((few - codes @ atoms.T) ** 2, 1) / 2 + _LAMBDA * np.abs(codes).sum(1)))

    programs: dict[str, Callable[[], Any]] = {
        "FISTA": functools.partial(network, dictionary, drawn, step, "fista"),
        "ISTA": functools.partial(network, dictionary, drawn, step, 0.0),
        "convolutions": functools.partial(convolutions, dictionary, drawn, step),
    }
    ours = list(programs)
    costs = {n: cost(np.asarray(programs[n](), np.float64).reshape(signals, -1)[:_FEW]) for n in ours[:2]}
    used = {}
    for name, coder in others(atoms, few).items():
        used[name] = fewest(coder, cost, costs["FISTA"])
        programs[name] = functools.partial(coder, used[name])
        costs[name] = cost(programs[name]())
    least = min([*costs.values(), *(cost(c(1)) for n, c in others(atoms, few).items() if "least angle" in n)])
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    jax.block_until_ready(programs["convolutions"]())
    for _ in range(_ROUNDS):
        for name, program in programs.items():
            since = time.perf_counter()
            jax.block_until_ready(program())
            seconds[name].append((time.perf_counter() - since) / (signals if name in ours else _FEW))
    over = {n: float(np.median(np.divide(s, seconds["FISTA"]))) for n, s in seconds.items()}
    bare = {n: float(np.median(np.divide(seconds[n], seconds["convolutions"]))) for n in ours[:2]}
    return {
        "signals": signals,
        "layers": _LAYERS,
        "microseconds_per_signal": {n: 1e6 * float(np.median(s)) for n, s in seconds.items()},
        "network_over_convolutions": bare,
        "others_over_fista": {n: r for n, r in over.items() if n not in ours},
        "iterations": used,
        "relative_excess": {n: c / least - 1 for n, c in costs.items()},
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m dlnjax.bench.sparse", description=__doc__)
    parser.add_argument("--signals", type=int, default=10_000, help=f"a multiple of {_TOGETHER}")
    parser.add_argument("--json", default="", help="write the numbers to this file")
    chosen = parser.parse_args(argv)
    text = json.dumps(measure(chosen.signals), indent=1)
    if chosen.json:
        with open(chosen.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
