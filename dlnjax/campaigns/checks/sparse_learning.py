"""Orthonormal dictionaries learnt by ``optim.rgd`` with codes by the network: the true ones on synthetic signals, and
features of digits, whose sparsity is set against the accuracy of a linear classifier.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlnjax import optim, sparse, stiefel
from dlnjax.campaigns.checks.finding import Finding, Row, row
from dlnjax.campaigns.checks.sparse_bounds import draw
from dlnjax.sweep.compute import datasets

#: An atom counts as recovered from this cosine on, up to sign.
_COSINE = 0.99
#: kind, rows, atoms, layers of the network, restarts of which the one of the lowest loss counts.
_SHAPES = [("orthonormal", 20, 16, 1, 1), ("tight", 16, 20, 15, 4)]
_SIGNALS, _NONZEROS = 1500, 2


class Schedule(NamedTuple):
    """Thresholds while learning, geometric from the first to the last, and the step size."""

    first: float
    last: float
    step_size: float
    num_steps: int


def learn(
    frame: jax.Array, signals: jax.Array, schedule: Schedule, *, layers: int, joint: bool,
    activation: str = "soft", assemble: Callable[[jax.Array], Any] = sparse.Dictionary,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """A frame with orthonormal columns (rows) that codes the signals, and the loss after the last step.

    The atoms are the frame's columns, times ``sqrt(atoms / rows)`` if there are more of them. Alternating: the codes are
    constants in the gradient of ``1/2 ||y - D x||^2``. Joint: the gradient of ``1/2 ||y - D x||^2 + lambda ||x||_1`` goes
    through the network too.
    """
    tightness = max(1.0, frame.shape[1] / frame.shape[0])
    optimizer = optim.rgd(schedule.step_size, constrained=True)

    def loss(frame, threshold):
        dictionary = assemble(jnp.sqrt(tightness) * frame)
        codes = sparse.encode(
            dictionary, signals, threshold, num_layers=layers, step_size=1 / tightness, activation=activation
        )
        codes = codes if joint else jax.lax.stop_gradient(codes)
        misfit = 0.5 * jnp.sum(jnp.square(signals - dictionary.synthesize(codes)))
        return (misfit + joint * threshold * jnp.sum(jnp.abs(codes))) / len(signals)

    def step(carry, share):
        frame, state = carry
        threshold = schedule.first * (schedule.last / schedule.first) ** share
        value, gradient = jax.value_and_grad(loss)(frame, threshold)
        updates, state = optimizer.update(gradient, state, frame)
        return (optax.apply_updates(frame, updates), state), value

    shares = jnp.linspace(0.0, 1.0, schedule.num_steps)
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


def _recovered(key: jax.Array, kind: str, shape: tuple[int, int], layers: int, restarts: int, joint: bool) -> float:
    true_key, signal_key, start_key = jax.random.split(key, 3)
    true = draw(true_key, *shape, kind)
    signals = sparse.sample(signal_key, [sparse.dense(true)], _NONZEROS, signals=_SIGNALS)[0]
    schedule = Schedule(0.05, 0.05, 5.0, 400) if kind == "orthonormal" else Schedule(0.1, 0.1, 10.0, 1000)
    made, losses = _learn_all(stiefel.random(start_key, (restarts, *shape)), signals, schedule, layers, joint)
    best = np.asarray(made[int(jnp.argmin(losses))])
    cosines = np.abs(np.asarray(true).T @ (best / np.linalg.norm(best, axis=0)))
    return float(np.mean(cosines.max(axis=1) > _COSINE))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _learn_all(frames: jax.Array, signals: jax.Array, schedule: Schedule, layers: int, joint: bool):
    run = functools.partial(learn, signals=signals, schedule=schedule, layers=layers, joint=joint)
    return jax.lax.map(run, frames)


#: Data set: side of an image, width of a patch (the stride too), thresholds of the features.
_IMAGES = {"digits": (8, 4), "mnist": (28, 7)}
_THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.4)
_HELD_OUT, _RIDGE, _STEPS = 0.2, 1e-3, 150
#: How the dictionary comes about: first threshold of its learning, in units of the last; None: random, not learnt.
_STRATEGIES = {"random": None, "constant l1": 1.0, "falling threshold": 10.0, "rising threshold": 0.1}


def features(seed: int = 0) -> Finding:
    """Digits and MNIST: codes of an orthonormal convolutional dictionary, their sparsity and a linear classifier's accuracy.

    Patches do not overlap, so that the dictionary has orthonormal columns; ReLU codes of both signs. The classifier
    is a ridge regression on one-hot labels; a fifth of the images is held out, the same for all. Nothing is promised:
    the checks are that accuracy and sparsity are there, finite and of a share.
    """
    rows: list[Row] = []
    for name, (side, width) in _IMAGES.items():
        images, labels, kept, held = _images(name, side)
        for strategy, first in _STRATEGIES.items():
            for threshold in _THRESHOLDS:
                frame = _filters(seed, images[kept], width, threshold, first)
                codes = np.asarray(_features(frame, images, threshold)).reshape(len(images), -1)
                accuracy = _classified(codes, labels, kept, held)
                density = float(np.mean(codes[held] != 0))
                sound = 0 <= accuracy <= 1 and 0 <= density <= 1
                rows.append(
                    row("features", len(rows), None, dataset=name, strategy=strategy, threshold=threshold,
                        nonzero_share=density, accuracy=accuracy, checks=1, violations=int(not sound), ratio=None)
                )  # fmt: skip
    return Finding("features", "sparse features of digits classify", rows, {})
