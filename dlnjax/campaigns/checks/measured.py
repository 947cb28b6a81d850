"""Measured factors against the operator's: linear networks of any widths, and tanh ones of two layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from dlnjax import network, optim, problem, stiefel
from dlnjax._linalg import matmul
from dlnjax._types import Params, PyTree, Rate
from dlnjax.campaigns.checks import draw
from dlnjax.campaigns.checks.finding import Details, Finding, Row, history, row
from dlnjax.theory import hessian, rates

#: How often a run is restarted along what is left of its error, to see the slowest mode alone.
PURIFY = 20
#: Runs whose two decades differ by more than this are not settled: no rate is read from them.
SETTLED = 1e-7
Dims = tuple[int, ...]
MEASURED: list[Dims] = [(5, 2, 5), (5, 2, 2, 2, 4), (5, 2, 3, 4), (4, 3, 3, 3)]
CURVED: list[Dims] = [(4, 2, 4), (3, 2, 3)]
#: tanh networks slower than this are left out: their runs would take tens of thousands of steps.
SLOWEST = 0.997


def rates_hold(
    instances: int = 280, seed: int = 0, tolerance: float = 1e-6, shapes: Sequence[Dims] = MEASURED
) -> Finding:
    """Measured factor against the operator's: equal and growing widths, coloured data, half with a residual.

    Runs of ``optim.rgd`` at half the optimal step. To see the slowest mode alone a run is continued from
    ``W_end + c (W_t - W_end)``, t late, twenty times; the factor is read while the error falls from
    1e-7 to 1e-9 and compared with the prediction at the solution that the run found. Ratio: the difference
    over the tolerance. A run whose two decades differ by more than 1e-7 has not settled: no rate is read.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for dims, count in draw.groups(instances, shapes):
        cases = [_linear_case(rng, dims, residual=i % 2 == 1) for i in range(count)]
        rows += _compared("rates", len(rows), dims, cases, tolerance, _weighed_product, rates.predict)
    return Finding("rates", "measured = predicted, coloured data", rows, _settled_details(rows))


def tanh_rates_hold(
    instances: int = 40, seed: int = 0, tolerance: float = 1e-6, shapes: Sequence[Dims] = CURVED
) -> Finding:
    """Two layers with tanh between them, against ``J diag(mu) P J^T`` at the solution found [derived].

    Teacher and student on inputs with ``X X^T = n I``. Ratio and method as :func:`rates_hold`; draws whose
    predicted factor exceeds 0.997 are passed over (nonlinearity lifts the gauge directions to tiny
    eigenvalues, and such runs do not settle in a reasonable time).
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for dims, count in draw.groups(instances, shapes):
        cases = [_tanh_case(rng, dims) for _ in range(count)]

        def predict(layers, whole, *, step_size):
            return hessian.predict_outputs(layers, lambda p: _outputs(p, whole), step_size=step_size)

        rows += _compared("tanh", len(rows), dims, cases, tolerance, _outputs, predict)
    return Finding("tanh", "measured = predicted, tanh, two layers", rows, _settled_details(rows))


def _settled_details(rows: list[Row]) -> Details:
    settled = sum(r["checks"] for r in rows)
    return {"settled runs": settled, "not settled, no rate read": len(rows) - settled}


def _compared(
    part: str,
    first: int,
    dims: Dims,
    cases: list[dict],
    tolerance: float,
    outputs: Callable,
    predict: Callable,
) -> list[Row]:
    length = int(max(np.log(1e-13) / np.log(c["factor"]) for c in cases)) + 50
    starts, problems = (draw.stack([c[name] for c in cases]) for name in ("start", "whole"))
    steps = jnp.asarray([c["step"] for c in cases])
    end, curves = _settled_runs(starts, problems, steps, length, outputs)
    rows = []
    for i, (case, curve) in enumerate(zip(cases, curves, strict=True)):
        found = predict(tuple(w[i] for w in end), case["whole"], step_size=case["step"])
        late, early = _decade(curve, 1e-8, 1e-9), _decade(curve, 1e-7, 1e-8)
        settled = late is not None and early is not None and abs(late - early) <= SETTLED
        measured = _decade(curve, 1e-7, 1e-9) if settled else None
        gap = None if measured is None else abs(measured - found.factor)
        rows.append(
            row(
                part, first + i, dims, loss=case["loss"], residual=case["residual"], step_size=case["step"],
                predicted_factor=found.factor, measured_factor=measured, difference=gap,
                checks=int(settled), violations=int(gap is not None and not gap <= tolerance),
                ratio=None if gap is None else gap / tolerance,
            )
        )  # fmt: skip
    return rows


def _settled_runs(
    params: Params, problems: PyTree, steps: jax.Array, length: int, outputs: Callable
) -> tuple[Params, np.ndarray]:
    """The solutions that a batch of runs found, and the errors to them of runs along their slowest modes."""

    def run(layers, whole, mu):
        seen = history(layers, whole, optim.rgd(mu), length)
        made = jax.vmap(lambda p: outputs(p, whole))(seen)
        errors = jnp.linalg.norm(made - made[-1:], axis=(-2, -1))
        place = jnp.argmax(errors < 1e-8)
        end, late = tuple(w[-1] for w in seen), tuple(w[place] for w in seen)
        moved = tuple(e + 1e-6 / errors[place] * (w - e) for e, w in zip(end, late, strict=True))
        again = (moved[0], *(stiefel.project(w) for w in moved[1:]))
        return end, again, errors

    batch = jax.jit(jax.vmap(run))
    end, again, errors = batch(params, problems, steps)
    for _ in range(PURIFY):
        end, again, errors = batch(again, problems, steps)
    return end, np.asarray(errors)


def _decade(curve: np.ndarray, high: float, low: float) -> float | None:
    """The mean factor while the error falls from ``high`` to ``low``; None if it is never below both."""
    below = [np.flatnonzero(curve <= level) for level in (high, low)]
    if not below[1].size:
        return None
    i, j = int(below[0][0]), int(below[1][0])
    return float((curve[j] / curve[i]) ** (1 / (j - i))) if j > i else None


def _weighed_product(layers: Params, whole: problem.Quadratic) -> jax.Array:
    """``W C^{1/2}``: the coordinates in which the operator is symmetric."""
    product = network.end_to_end(layers)
    return product if whole.root is None else matmul(product, whole.root)


def _outputs(layers: Params, whole: problem.Samples) -> jax.Array:
    return network.forward(layers, whole.x, jnp.tanh)


def _linear_case(rng: np.random.Generator, dims: Dims, residual: bool) -> dict:
    """A start near a solution, its problem, a step of half the optimum, and the predicted factor."""
    rank = min(dims)
    sigma = np.sort(rng.uniform(0.6, 1, rank))[::-1]
    solution = draw.solution(rng, dims, sigma)
    product = np.linalg.multi_dot(solution[::-1])
    whole = draw.quadratic(product, 0.5, rng)
    residual = residual and rank < min(dims[0], dims[-1])
    if residual:
        root = np.asarray(whole.root)
        left, _, right = np.linalg.svd(product @ root)
        extra = 0.2 * np.outer(left[:, rank], right[rank]) @ np.linalg.inv(root)
        whole = whole.__class__(
            whole.target + extra, whole.optimum, whole.floor, whole.covariance, whole.root
        )
    rate = rates.predict(tuple(jnp.asarray(w) for w in solution), whole, step_size=1.0)
    return _start(rng, solution, rate, 1e-2) | {"whole": whole, "loss": "coloured", "residual": residual}


def _tanh_case(rng: np.random.Generator, dims: Dims, samples: int = 40) -> dict:
    """Teacher and student of two layers with tanh; drawn again while the predicted factor is too slow."""
    while True:
        x = np.sqrt(samples) * draw.haar(rng, samples, dims[0]).T
        solution = draw.solution(rng, dims, np.sort(rng.uniform(1.0, 2.0, dims[1]))[::-1])
        y = solution[1] @ np.tanh(solution[0] @ x)
        whole = problem.nonlinear(jnp.asarray(x), jnp.asarray(y), jnp.tanh)
        layers = tuple(jnp.asarray(w) for w in solution)
        rate = hessian.predict_outputs(layers, lambda p, q=whole: _outputs(p, q), step_size=1.0)
        case = _start(rng, solution, rate, 1e-3)
        if case["factor"] <= SLOWEST:
            return case | {"whole": whole, "loss": "tanh", "residual": False}


def _start(rng: np.random.Generator, solution: list[np.ndarray], rate: Rate, noise: float) -> dict:
    """A perturbed solution, half the optimal step, and the factor predicted for it."""
    moved = [w + noise * rng.standard_normal(w.shape) for w in solution]
    low, high = (rate.step_optimal / 2 * v for v in (rate.eigenvalue_min, rate.eigenvalue_max))
    factor = max(abs(1 - low), abs(1 - high))
    return {
        "start": (moved[0], *(draw.polar(w) for w in moved[1:])),
        "step": rate.step_optimal / 2,
        "factor": factor,
    }
