"""``dlnjax bench optim``: time per optimizer step against other packages, and drift over 100 000 steps.

All contestants run in one process, in turns (so that a busy machine hits all of them), on the same problem; the best
round of each counts. Ratios carry over between machines, absolute times do not.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlnjax import optim, stiefel
from dlnjax._types import PyTree
from dlnjax.bench import _peers as peers
from dlnjax.bench._conclusion import Target, conclude, machine
from dlnjax.sweep.compute import devices

#: (batch, n, p) and whether the case has a target.
CASES = (((512, 32, 32), True), ((128, 64, 64), True), ((256, 64, 32), False))
#: Single large matrices ``(n, p)``.
LARGE = ((2048, 512), (4096, 1024))


class Large(NamedTuple):
    """A recipe timed on them, and how long its step may take, as a part of a peer's, at each of their shapes."""

    make: Callable[..., optax.GradientTransformation]
    peer: str
    at_most: tuple[float, float]


LARGE_RECIPES = {
    "rgd polar": Large(optim.rgd, "geoopt SGD with QR", (0.6, 0.6)),
    "rgd qr": Large(functools.partial(optim.rgd, retraction="qr"), "geoopt SGD with QR", (1.0, 1.0)),
    "rgd cholesky_qr": Large(
        functools.partial(optim.rgd, retraction="cholesky_qr"), "geoopt SGD with QR", (1.0, 1.0)
    ),
    "rgd cayley": Large(functools.partial(optim.rgd, retraction="cayley"), "geoopt SGD with QR", (1.3, 1.3)),
    "adam": Large(optim.adam, "geoopt Adam", (1.0, 0.35)),
    "muon fast": Large(functools.partial(optim.muon, decay=0.95, accuracy="fast"), "optax Muon", (1.0, 1.0)),
    "muon exact": Large(functools.partial(optim.muon, decay=0.95), "optax Muon", (2.5, 2.5)),
}
STEP_SIZE = 0.02
FASTER = 4.0
DRIFT = {"float32": 1e-6, "float64": 1e-12}

RECIPES: dict[str, Callable[[], optax.GradientTransformation]] = {
    "rgd": lambda: optim.rgd(STEP_SIZE, constrained=True),
    "rgd_qr": lambda: optim.rgd(STEP_SIZE, retraction=stiefel.retract_qr, constrained=True),
    "rgd_cholesky_qr": lambda: optim.rgd(STEP_SIZE, retraction=stiefel.retract_cholesky_qr, constrained=True),
    "rgd_cayley": lambda: optim.rgd(STEP_SIZE, retraction=stiefel.retract_cayley, constrained=True),
    "rgd_exponential": lambda: optim.rgd(STEP_SIZE, retraction=stiefel.exponential, constrained=True),
    "heavy_ball": lambda: optim.heavy_ball(STEP_SIZE, constrained=True),
    "nesterov": lambda: optim.nesterov(STEP_SIZE, constrained=True),
    "adam": lambda: optim.adam(STEP_SIZE, constrained=True),
    "adam_elementwise": lambda: optim.adam(STEP_SIZE, second="elementwise", constrained=True),
    "polyak": lambda: optim.polyak(constrained=True),
    "armijo": lambda: optim.armijo(constrained=True),
    "muon": lambda: optim.muon(STEP_SIZE, length="dual", constrained=True),
    "trust_region": lambda: optim.trust_region(constrained=True),
}

#: Timed beside ours: no retraction.
INFEASIBLE: dict[str, Callable[..., optax.GradientTransformation]] = {
    "landing": optim.landing,
    "pogo": optim.pogo,
}

Result = TypeVar("Result")


class Case(TypedDict):
    """Seconds per step of every contestant on matrices of one shape, and where each ended."""

    shape: list[int]
    seconds_per_step: dict[str, float]
    ratios: dict[str, float]
    best_peer: str
    share_of_products: float
    loss_after_20_steps: dict[str, float]
    left_out: dict[str, str]


def _problem(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A start and a target a moderate way off, both orthonormal, float32."""
    rng = np.random.default_rng(0)
    u, _, vt = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    target = u @ vt
    u, _, vt = np.linalg.svd(
        target + 0.3 / np.sqrt(shape[-1]) * rng.standard_normal(shape), full_matrices=False
    )
    return (u @ vt).astype(np.float32), target.astype(np.float32)


def _products_alone(start: np.ndarray, target: np.ndarray) -> peers.Advance:
    """The four products of a usual step, and nothing else: two ``A B^T``, two ``A B``; on every device."""
    shape = start.shape if start.shape[-1] >= start.shape[-2] else start.swapaxes(-1, -2).shape
    side, other = (jnp.asarray(a).reshape(shape) for a in (start, target))

    def step(w: jax.Array, other: jax.Array) -> jax.Array:
        s = jnp.matmul(other, jnp.swapaxes(w, -1, -2), precision=jax.lax.Precision.HIGHEST)
        y = jnp.matmul(s, w, precision=jax.lax.Precision.HIGHEST)
        g = jnp.matmul(y, jnp.swapaxes(y, -1, -2), precision=jax.lax.Precision.HIGHEST)
        return jnp.matmul(g, y, precision=jax.lax.Precision.HIGHEST)

    run = peers.spread(step)
    return lambda steps: jax.block_until_ready(run(side * 0.5, other, np.int32(steps)))


def _steps_for(advance: peers.Advance, seconds: float) -> int:
    """How many steps fill a round; the first call compiles."""
    advance(2)
    begin = time.perf_counter()
    advance(2)
    return int(np.clip(seconds / max((time.perf_counter() - begin) / 2, 1e-6), 2, 2000))


def time_case(shape: tuple[int, ...], *, rounds: int = 5, seconds: float = 0.3) -> Case:
    """Seconds per step of every contestant, best of ``rounds`` interleaved rounds, and where each ended."""
    start, target = _problem(shape)
    found, left_out = peers.available(shape)
    others = {f"our {name}": functools.partial(peers.dlnjax, make=make) for name, make in INFEASIBLE.items()}
    contestants = {peers.OURS: peers.dlnjax, peers.ALONE: peers.dlnjax_1_device, **others, **found}
    advances = {name: make(start, target, STEP_SIZE) for name, make in contestants.items()}
    losses = {
        name: float(np.sum((np.asarray(advance(20)) - target) ** 2) / 2) for name, advance in advances.items()
    }
    advances["products_alone"] = _products_alone(start, target)
    steps = {name: _steps_for(advance, seconds) for name, advance in advances.items()}
    best = dict.fromkeys(advances, np.inf)
    for _ in range(rounds):
        for name, advance in advances.items():
            begin = time.perf_counter()
            advance(steps[name])
            best[name] = min(best[name], (time.perf_counter() - begin) / steps[name])
    ours = best[peers.OURS]
    ratios = {name: best[name] / ours for name in found}
    return {
        "shape": list(shape),
        "seconds_per_step": best,
        "ratios": ratios,
        "best_peer": min(ratios, key=lambda name: ratios[name]),
        "share_of_products": best["products_alone"] / ours,
        "loss_after_20_steps": losses,
        "left_out": left_out,
    }


def time_large(shape: tuple[int, int], *, rounds: int = 3) -> dict[str, float]:
    """Seconds per step of the recipes and their peers on one large matrix, float32, best of interleaved rounds."""
    start, target = _problem((1, *shape))
    makes = {name: recipe.make for name, recipe in LARGE_RECIPES.items()} | {"optax Muon": peers.optax_muon}
    advances = {
        name: peers.dlnjax(start, target, STEP_SIZE, count=1, make=make) for name, make in makes.items()
    }
    if importlib.util.find_spec("geoopt") is not None:
        advances["geoopt SGD with QR"] = peers.geoopt(start, target, STEP_SIZE)
        advances["geoopt Adam"] = peers.geoopt(start, target, STEP_SIZE, optimizer="RiemannianAdam")
    best = dict.fromkeys(advances, np.inf)
    for turn in range(rounds + 1):
        for name, advance in advances.items():
            begin = time.perf_counter()
            advance(2)
            if turn:  # the first one compiles
                best[name] = min(best[name], (time.perf_counter() - begin) / 2)
    return best


def _aside(function: Callable[[], Result]) -> Result:
    """The result of a fresh process with one device: a device of several runs its products on one core."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function)


def drift(recipe: str, dtype: str, steps: int) -> float:
    """Largest ``||W^T W - I||_F`` of a few matrices that follow a moving target for ``steps`` steps."""
    with jax.enable_x64(dtype == "float64"):
        optimizer = optax.with_extra_args_support(RECIPES[recipe]())
        params = stiefel.random(jax.random.key(0), (4, 8, 6), dtype)
        goals = stiefel.random(jax.random.key(1), (16, 4, 8, 6), dtype)

        def step(count: jax.Array, carry: PyTree) -> PyTree:
            params, state = carry
            goal = goals[count // 200 % 16]

            def loss(w: jax.Array) -> jax.Array:
                return jnp.sum(jnp.square(w - goal)) / 2

            extra = {"value": loss(params), "value_fn": loss}  # what polyak and armijo ask for
            updates, state = optimizer.update(params - goal, state, params, **extra)
            return optax.apply_updates(params, updates), state

        run = jax.jit(lambda carry: jax.lax.fori_loop(0, steps, step, carry))
        end, _ = run((params, optimizer.init(params)))
        return float(jnp.max(stiefel.orthonormality_error(end)))


def _target(name: str, value: float, target: float, *, at_least: bool) -> Target:
    met = bool(value >= target) if at_least else bool(value <= target)
    return {"name": name, "value": value, "target": target, "met": met}


def run(*, rounds: int, seconds: float, steps: int) -> dict[str, Any]:
    """Everything the command reports, as plain data."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # of others: a quiet machine has 0
    cases, targets = [], []
    for shape, has_target in CASES:
        case = time_case(shape, rounds=rounds, seconds=seconds)
        cases.append(case)
        _print_case(case)
        if has_target:
            name = f"times faster than {case['best_peer']}, {shape[0]} of {shape[1]}x{shape[2]} float32"
            targets.append(_target(name, case["ratios"][case["best_peer"]], FASTER, at_least=True))
    large = {f"{n}x{p}": _aside(functools.partial(time_large, (n, p), rounds=rounds)) for n, p in LARGE}
    for name, seconds_per_step in large.items():
        _print_large(name, seconds_per_step)
        targets += _large_targets(name, seconds_per_step)
    for recipe in RECIPES:
        for dtype, allowed in DRIFT.items():
            name = f"orthonormality error of {recipe} after {steps} steps, {dtype}"
            targets.append(_target(name, drift(recipe, dtype, steps), allowed, at_least=False))
    more = {
        "python": platform.python_version(),
        "backend": jax.default_backend(),
        "devices": len(jax.devices()),
    }
    return {
        "targets": targets,
        "cases": cases,
        "large": large,
        "machine": machine() | more | {"load_before": load},
    }


def _large_targets(shape: str, seconds_per_step: dict[str, float]) -> list[Target]:
    """One target a recipe whose peer is there."""
    column = [f"{n}x{p}" for n, p in LARGE].index(shape)
    return [
        _target(
            f"time of {name} over {recipe.peer}, {shape} float32",
            seconds_per_step[name] / seconds_per_step[recipe.peer],
            recipe.at_most[column],
            at_least=False,
        )
        for name, recipe in LARGE_RECIPES.items()
        if recipe.peer in seconds_per_step
    ]


def _print_large(name: str, seconds_per_step: dict[str, float]) -> None:
    print(f"one matrix of {name}, float32")
    for contestant, seconds in sorted(seconds_per_step.items(), key=lambda item: item[1]):
        print(f"  {contestant:16}{seconds * 1e3:9.3f} ms a step")


def _print_case(case: Case) -> None:
    batch, n, p = case["shape"]
    print(f"{batch} matrices of {n}x{p}, float32; products alone: {case['share_of_products']:.0%} of a step")
    for name, seconds in sorted(case["seconds_per_step"].items(), key=lambda item: item[1]):
        ratio = f"{case['ratios'][name]:6.1f} times ours" if name in case["ratios"] else ""
        print(f"  {name:16}{seconds * 1e3:9.3f} ms a step {ratio}")
    for name, reason in case["left_out"].items():
        print(f"  {name}: {reason}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 0 when every target is met, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="dlnjax bench optim", description=__doc__)
    text = "write the numbers and the list of targets there"
    parser.add_argument("--json", type=Path, metavar="FILE", help=text)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved timing rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a round (default 0.3)")
    parser.add_argument("--steps", type=int, default=100_000, help="steps of the drift runs (default 100000)")
    options = parser.parse_args(argv)
    devices.prepare("float32")
    report = run(rounds=options.rounds, seconds=options.seconds, steps=options.steps)
    return conclude(report, options.json)
