"""Flows: descent against its flow as the step falls (source C), exact modes (source E), tangent kernels."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import initial, network, problem
from dlnjax._types import Params
from dlnjax.campaigns.checks import draw
from dlnjax.campaigns.checks.finding import Finding, Row, row
from dlnjax.theory import flow, hessian, modes

FLOWING: list[tuple[int, ...]] = [(3, 3, 2), (2, 3, 3, 3), (3, 2, 4, 2, 3)]
#: Descent takes so many steps to time 2; the slope is read between the last two.
COUNTS = (100, 400, 1600, 6400)
TIME, SLOPE = 2.0, 0.05
MODE_DEPTHS = (2, 3, 5)


def flow_limit(
    instances: int = 200, seed: int = 0, tolerance: float = 4e-8, shapes: Sequence[tuple[int, ...]] = FLOWING
) -> Finding:
    """Source C: the layers' flow and the product's agree; descent's gap to it falls like its step.

    Ratio: the larger of (difference of the two integrations over ``tolerance`` times the target's norm) and
    (deviation of the slope from 1 over 0.05). The start is balanced, of scale 0.7.
    """
    times = jnp.linspace(0.0, TIME, 5)
    rows: list[Row] = []
    for place, (dims, count) in enumerate(draw.groups(instances, shapes)):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), place), count)
        params = jax.vmap(lambda k, d=dims: initial.balanced(k, d, 0.7))(keys)
        targets = jax.vmap(lambda k, d=dims: jax.random.normal(jax.random.fold_in(k, 9), (d[-1], d[0])))(keys)

        def compare(layers, target):
            made = problem.whitened(target)
            flowed = jax.vmap(network.end_to_end)(flow.integrate_layers(layers, made, times, tolerance=1e-10))
            alone = flow.integrate_product(flowed[0], made, times, len(layers), tolerance=1e-10)
            stepped = [network.end_to_end(flow.descent(layers, made, TIME / n, n)) for n in COUNTS]
            errors = jnp.stack([jnp.linalg.norm(w - flowed[-1]) for w in stepped])
            return jnp.max(jnp.abs(alone - flowed)) / jnp.linalg.norm(target), errors

        gaps, errors = jax.jit(lambda a: jax.lax.map(lambda b: compare(*b), a))((params, targets))
        for gap, error in zip(np.asarray(gaps), np.asarray(errors), strict=True):
            rows.append(_flowed(len(rows), dims, float(gap), error, tolerance))
    slopes = [r["slope"] for r in rows]
    details = {"slope of descent's gap in the step, least and largest": [min(slopes), max(slopes)]}
    return Finding("flow", "the flows agree, descent's gap is of first order in the step", rows, details)


def _flowed(instance: int, dims: tuple[int, ...], gap: float, errors: np.ndarray, tolerance: float) -> Row:
    slope = np.log(errors[-2] / errors[-1]) / np.log(COUNTS[-1] / COUNTS[-2])
    ratios = gap / tolerance, abs(slope - 1) / SLOPE
    seen = {f"gap_{n}_steps": error for n, error in zip(COUNTS, errors, strict=True)}
    bad = sum(not r <= 1 for r in ratios)
    return row(
        "flow",
        instance,
        dims,
        flows_differ=gap,
        **seen,
        slope=slope,
        checks=2,
        violations=bad,
        ratio=max(ratios),
    )


def modes_hold(
    instances: int = 200,
    seed: int = 0,
    step: float = 1e-3,
    tolerance: float = 1e-7,
    depths: Sequence[int] = MODE_DEPTHS,
) -> Finding:
    """Source E: a network's aligned modes follow the exact curves, under the flow and under descent.

    One instance is one mode: a target's singular value s in [0.5, 1.5] and a balanced start ``a_0`` in
    [0.002, 0.2] s, integrated in the layers (which know nothing of modes) to the time at which the exact mode
    has reached 0.9 s. Ratio: the flow's largest error over ``tolerance * s``; descent at ``step`` and half of
    it must halve its error, to a tenth.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for n, count in draw.groups(instances, depths):
        values = rng.uniform(0.5, 1.5, count)
        starts = values * np.exp(rng.uniform(np.log(0.002), np.log(0.2), count))
        ends = np.array([modes.time_to_learn(a, s, n, 0.9) for a, s in zip(starts, values, strict=True)])
        counts = np.ceil(ends / step).astype(int)
        flowed, stepped, half = _watched(n, values, starts, counts, step)
        for i in range(count):
            times = counts[i] * step * np.linspace(0, 1, flowed.shape[1])
            exact = modes.trajectory(times, starts[i], values[i], n)
            seen = flowed[i] - exact, stepped[i] - exact[-1], half[i]
            rows.append(_mode(len(rows), n, values[i], starts[i], seen, tolerance))
    return Finding("modes", "modes follow their exact curves", rows, {})


def _mode(instance: int, n: int, value: float, start: float, seen: tuple, tolerance: float) -> Row:
    flow_error = float(np.max(np.abs(seen[0]))) / value
    errors, half = np.abs(seen[1]) / value, seen[2]
    slope = float(np.log2(errors[0] / errors[1]))
    predicted = modes.time_to_learn(start, value, n)
    ratios = flow_error / tolerance, abs(slope - 1) / 0.1
    return row(
        "modes", instance, (2,) * (n + 1), singular_value=value, start=start, half_time=half,
        predicted_half_time=predicted, flow_error=flow_error, descent_error=errors[0],
        descent_error_half_step=errors[1], slope=slope, checks=2,
        violations=sum(not r <= 1 for r in ratios), ratio=max(ratios),
    )  # fmt: skip


def _watched(n: int, values: np.ndarray, starts: np.ndarray, counts: np.ndarray, step: float):
    """The flow's strength at nine times, descent's at the end for two steps, and descent's half time.

    Each mode is the second one of a two-mode network whose first has been learned, so that the layers are
    matrices and nothing is scalar but the answer.
    """

    def run(value, start, count):
        made = problem.whitened(jnp.diag(jnp.stack([2 * value, value])))
        layer = jnp.diag(jnp.stack([2 * value, start]) ** (1 / n))
        layers = tuple(layer for _ in range(n))
        times = count.astype(value.dtype) * step * jnp.linspace(0.0, 1.0, 9)
        flowed = jax.vmap(network.end_to_end)(flow.integrate_layers(layers, made, times, tolerance=1e-11))
        ends = [network.end_to_end(flow.descent(layers, made, step / k, k * count))[1, 1] for k in (1, 2)]
        return flowed[:, 1, 1], jnp.stack(ends), _half_time(layers, made, value, step / 2, 2 * count)

    arrays = (jnp.asarray(values), jnp.asarray(starts), jnp.asarray(counts))
    found = jax.jit(lambda a: jax.lax.map(lambda b: run(*b), a))(arrays)
    return tuple(np.asarray(v) for v in found)


def _half_time(
    layers: Params, made: problem.Quadratic, value: jax.Array, step: float, count: jax.Array
) -> jax.Array:
    """When descent's mode passes half its singular value, interpolated between steps."""

    def one(i, carry):
        layers, before, at = carry
        gradients = made.gradients(layers, jnp.zeros((), jnp.int32))
        moved = jax.tree.map(lambda w, g: w - step * g, layers, gradients)
        now = network.end_to_end(moved)[1, 1]
        crossed = (before < value / 2) & (now >= value / 2)
        part = (value / 2 - before) / jnp.where(now > before, now - before, 1)
        return moved, now, jnp.where(crossed, (i.astype(part.dtype) + part) * step, at)

    start = (layers, network.end_to_end(layers)[1, 1], jnp.asarray(0.0))
    return jax.lax.fori_loop(0, count, one, start)[2]


def kernels(instances: int = 20, seed: int = 0, width: int = 8, depths: Sequence[int] = (2, 4, 8)) -> Finding:
    """The tangent kernel at initialisation: N times the identity for orthogonal layers, ill for Gaussian ones.

    Ratio, orthogonal starts: the largest deviation of an eigenvalue from N over ``1e-12 N``. Gaussian layers
    (variance 1/width) are reported.
    """
    rows: list[Row] = []
    for place, (kind, make) in enumerate((("orthogonal", initial.haar), ("gaussian", initial.gaussian))):
        for depth, count in draw.groups(instances, depths):
            for i in range(count):
                key = jax.random.fold_in(jax.random.key(seed), 10000 * place + 100 * depth + i)
                params = make(key, (width,) * (depth + 1))
                values = np.linalg.eigvalsh(hessian.tangent_kernel(params))
                rows.append(_kernel(len(rows), (width,) * (depth + 1), kind, values))
    return Finding("kernel", "the tangent kernel of orthogonal layers is N times the identity", rows, {})


def _kernel(instance: int, dims: tuple[int, ...], kind: str, values: np.ndarray) -> Row:
    depth, counts = len(dims) - 1, kind == "orthogonal"
    ratio = float(np.max(np.abs(values - depth))) / (1e-12 * depth)
    return row(
        "kernel", instance, dims, init=kind, eigenvalue_min=values[0], eigenvalue_max=values[-1],
        condition=values[-1] / values[0], checks=int(counts), violations=int(counts and not ratio <= 1),
        ratio=ratio if counts else None,
    )  # fmt: skip
