"""Orthonormal dictionaries learnt by ``optim.rgd`` with codes by the network: the true ones on synthetic signals, and
features of digits, whose sparsity is set against the accuracy of a linear classifier.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlnjax import optim, sparse, stiefel
from dlnjax.campaigns.checks.finding import Finding, Row, row
from dlnjax.campaigns.checks.sparse_bounds import draw
from dlnjax.sweep.config import datasets
from dlnjax.sweep.config.sweep import Problem

#: An atom counts as recovered from this cosine on, up to sign.
_COSINE = 0.99
#: kind, rows, atoms, layers of the network, restarts of which the one of the lowest loss counts.
_SHAPES = [("orthonormal", 20, 16, 1, 1), ("tight", 24, 28, 12, 1)]
_SIGNALS, _NONZEROS = 1500, 2
#: Threshold, step size and steps of learning.
_SPARSE, _LARGE, _LONG = 0.1, 10.0, 600


def learn(
    frame: jax.Array, signals: jax.Array, thresholds: tuple[float, float], step_size: float, *,
    num_steps: int, layers: int, joint: bool,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """A dictionary from a frame with orthonormal columns (rows), and the loss after the last step.

    The threshold goes geometrically from the first to the second.
    The atoms are the frame's columns, times ``sqrt(atoms / rows)`` if there are more of them. Alternating: the codes
    are constants in the gradient of ``1/2 ||y - D x||^2``. Joint: the gradient of ``1/2 ||y - D x||^2 + lambda
    ||x||_1`` goes through the network too.
    """
    tightness = max(1.0, frame.shape[1] / frame.shape[0])
    optimizer = optim.rgd(step_size, constrained=True)

    def loss(frame, threshold):
        dictionary = sparse.Dictionary(jnp.sqrt(tightness) * frame)
        codes = sparse.encode(dictionary, signals, threshold, num_layers=layers, step_size=1 / tightness)
        codes = codes if joint else jax.lax.stop_gradient(codes)
        misfit = 0.5 * jnp.sum(jnp.square(signals - dictionary.synthesize(codes)))
        penalty = threshold * jnp.sum(jnp.abs(codes)) if joint else 0.0
        return (misfit + penalty) / len(signals)

    def step(carry, share):
        frame, state = carry
        threshold = thresholds[0] * (thresholds[1] / thresholds[0]) ** share
        value, gradient = jax.value_and_grad(loss)(frame, threshold)
        updates, state = optimizer.update(gradient, state, frame)
        moved: jax.Array = optax.apply_updates(frame, updates)  # type: ignore[assignment]
        return (moved, state), value

    shares = jnp.linspace(0.0, 1.0, num_steps)
    (frame, _), values = jax.lax.scan(step, (frame, optimizer.init(frame)), shares)
    return jnp.sqrt(tightness) * frame, values[-1]


def recovery(instances: int = 5, seed: int = 0) -> Finding:
    """Random starts on signals of two nonzeros: are all atoms found, up to order and sign? Ratio: the share missed."""
    rows: list[Row] = []
    for kind, atoms_in, atoms, layers, restarts in _SHAPES:
        for name in ("alternating", "joint"):
            for i in range(instances):
                key = jax.random.fold_in(jax.random.key(seed), i)
                share = _recovered(key, kind, (atoms_in, atoms), layers, restarts, name == "joint")
                rows.append(
                    row("recovery", len(rows), None, dictionary=kind, strategy=name, recovered=share, checks=1,
                        violations=int(share < 1), ratio=1 - share)
                )  # fmt: skip
    return Finding("recovery", "the true dictionary is found up to order and sign", rows, {})


def _recovered(
    key: jax.Array, kind: str, shape: tuple[int, int], layers: int, restarts: int, joint: bool
) -> float:
    true_key, signal_key, start_key = jax.random.split(key, 3)
    true = draw(true_key, *shape, kind)
    signals = sparse.sample(signal_key, [sparse.dense(true)], _NONZEROS, signals=_SIGNALS)[0]
    frames = stiefel.random(start_key, (restarts, *shape))
    thresholds, options = (_SPARSE, _SPARSE), {"num_steps": _LONG, "layers": layers, "joint": joint}
    made, losses = _learn_all(frames, signals, thresholds, _LARGE, **options)
    best = np.asarray(made[int(jnp.argmin(losses))])
    cosines = np.abs(np.asarray(true).T @ (best / np.linalg.norm(best, axis=0)))
    return float(np.mean(cosines.max(axis=1) > _COSINE))


@functools.partial(jax.jit, static_argnames=("num_steps", "layers", "joint"))
def _learn_all(frames, signals, thresholds, step_size, *, num_steps: int, layers: int, joint: bool):
    """:func:`learn` from each of the frames."""
    run = functools.partial(
        learn,
        signals=signals,
        thresholds=thresholds,
        step_size=step_size,
        num_steps=num_steps,
        layers=layers,
        joint=joint,
    )
    return jax.lax.map(run, frames)


#: Data set: side of an image, and width of its square patches, which do not overlap: as a convolution of this stride
#: the dictionary has orthonormal columns. It is learnt on the patches of so many images.
_IMAGES = {"digits": (8, 4), "mnist": (28, 7)}
_THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4)
_HELD_OUT, _RIDGE, _LEARNT_ON, _STEPS, _STEP_SIZE = 0.2, 1e-2, 1000, 150, 1.0
#: How the dictionary comes about: the threshold at the start of its learning over that at the end; None: not learnt.
_STRATEGIES = {"random": None, "constant l1": 1.0, "falling threshold": 10.0, "rising threshold": 0.1}


class Images(NamedTuple):
    """Patches ``(samples, patches, pixels)``, the largest pixel 1, and one-hot labels."""

    patches: np.ndarray
    labels: np.ndarray


def features(seed: int = 0) -> Finding:
    """Sparsity of the codes of digits and MNIST of patches by an orthonormal dictionary against a classifier's
    accuracy.

    The classifier is a ridge regression on the positive and negative parts of the codes; a fifth of the images is
    held out. Ratio: the objective ``1/2 ||y - D x||^2 + lambda ||x||_1`` on them over that of the random dictionary
    at this threshold.
    """
    rows: list[Row] = []
    for name, (side, width) in _IMAGES.items():
        kept, held = _images(name, side, width)
        for threshold in _THRESHOLDS:
            random = None
            for strategy, first in _STRATEGIES.items():
                dictionary = _atoms(seed, kept.patches, threshold, first)
                codes, objective = _coded(dictionary, held.patches, threshold)
                random = objective if random is None else random
                accuracy = _accuracy(
                    _coded(dictionary, kept.patches, threshold)[0], kept.labels, codes, held.labels
                )
                learnt = first is not None
                rows.append(
                    row("features", len(rows), None, dataset=name, strategy=strategy, threshold=threshold,
                        nonzero_share=float(np.mean(codes != 0)), accuracy=accuracy, checks=int(learnt),
                        violations=int(objective > random), ratio=objective / random if learnt else None)
                )  # fmt: skip
    return Finding("features", "a learnt dictionary codes images unseen better than a random one", rows, {})


def _images(name: str, side: int, width: int) -> tuple[Images, Images]:
    kept, held = datasets.parts(Problem(kind=name, held_out=_HELD_OUT))
    assert held is not None
    count, top = side // width, kept[0].max()
    cut = [(x / top).T.reshape(-1, count, width, count, width).swapaxes(2, 3) for x, _ in (kept, held)]
    patches = [x.reshape(len(x), count**2, width**2) for x in cut]
    return Images(patches[0], kept[1].T), Images(patches[1], held[1].T)


def _atoms(seed: int, patches: np.ndarray, threshold: float, first: float | None) -> sparse.Dictionary:
    frame = stiefel.random(jax.random.key(seed), (patches.shape[-1], patches.shape[-1]))
    if first is not None:
        signals = jnp.asarray(patches[:_LEARNT_ON].reshape(-1, patches.shape[-1]))
        (frame,), _ = _learn_all(
            frame[None],
            signals,
            (first * threshold, threshold),
            _STEP_SIZE,
            num_steps=_STEPS,
            layers=1,
            joint=False,
        )
    return sparse.dense(frame)


def _coded(dictionary: sparse.Dictionary, patches: np.ndarray, threshold: float) -> tuple[np.ndarray, float]:
    """Codes ``(samples, entries)``, and the objective per image."""
    codes = sparse.encode(dictionary, jnp.asarray(patches), threshold, num_layers=1, step_size=1.0)
    misfit = 0.5 * np.sum(np.square(patches - np.asarray(dictionary.synthesize(codes))))
    flat = np.asarray(codes).reshape(len(patches), -1)
    return flat, float((misfit + threshold * np.sum(np.abs(flat))) / len(patches))


def _accuracy(codes: np.ndarray, labels: np.ndarray, unseen: np.ndarray, truth: np.ndarray) -> float:
    """Of a ridge regression fitted to the first pair, on the second."""
    parts = [np.hstack([np.maximum(x, 0), np.maximum(-x, 0), np.ones((len(x), 1))]) for x in (codes, unseen)]
    gram = parts[0].T @ parts[0]
    ridge = _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram + ridge, parts[0].T @ labels)
    return float(np.mean(np.argmax(parts[1] @ weights, axis=1) == np.argmax(truth, axis=1)))
