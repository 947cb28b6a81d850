"""``dlnjax bench methods``: every kind of optimizer on the reference case, to the last digit, over depth.

The reference case of the documentation (whitened, widths 8, 4, ..., 4, 8, singular values 1, .8, .6, .4, float64)
from one Haar start a depth. Counted are updates and evaluations until the product's error is 1e-8 of its start, an
evaluation being one loss with its gradient; a Hessian-vector product and a trial of a search count two. Writes
``methods.csv``, ``curves.csv`` and the figure of the page on choosing an optimizer.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from dlnjax import initial, network, optim, problem, scales
from dlnjax._types import Params, PyTree, Scales
from dlnjax.analysis import style
from dlnjax.theory import closed, rates

DEPTHS = (2, 8, 32)
SHOWN = 8
TOLERANCE = 1e-8
SIGMA = (1.0, 0.8, 0.6, 0.4)
#: Those drawn; muon at a constant step gets nowhere near.
COLOURS = {
    "rgd": style.COLOURS["blue"],
    "rgd, middle scales": style.COLOURS["green"],
    "landing": style.COLOURS["sky"],
    "pogo": style.COLOURS["grey"],
    "heavy ball": style.COLOURS["pink"],
    "muon, dual length": style.COLOURS["amber"],
    "muon, middle scales": "#8F7A00",
    "conjugate gradients": style.COLOURS["orange"],
    "L-BFGS": "#882255",
    "trust region": style.COLOURS["ink"],
}

#: A line of a table, as the file has it.
Line = dict[str, str | int | float]
Lines = list[Line]


class Course(TypedDict):
    """What a run came to: errors and evaluations so far after every update, seconds an update."""

    errors: np.ndarray
    work: np.ndarray
    seconds: float


class Case(NamedTuple):
    """Attributes:
    start: the layers. task: the problem. best: the best constant step of gradient descent. middle: scales.
    edge: of steepest descent under the spectral norm, with scales 1 and with middle ones.
    """

    start: Params
    task: Any
    best: float
    middle: Scales
    edge: tuple[float, ...]


class Method(NamedTuple):
    """Attributes:
    make: the optimizer for a case. updates: bound on their number. evaluations: of one update, from its state.
    most: the greatest depth it is run at.
    """

    make: Callable[[Case], optax.GradientTransformation]
    updates: int
    evaluations: Callable[[Any], jax.Array | int] = lambda state: 1
    most: int = 1_000_000


def falling(step: float, factor: float) -> optax.GradientTransformation:
    """Unit length, the step times ``factor`` an update, on the orthonormal layers; the first takes a constant step."""
    schedule = optax.exponential_decay(step, 1, factor)
    held = optim.muon(schedule, constrained=lambda params: jax.tree.map(lambda _: True, params))
    rules: dict[Hashable, optax.GradientTransformation] = {"free": optim.gd(0.5), "held": held}
    return optax.partition(rules, lambda params: ("free", *["held"] * (len(params) - 1)))


METHODS = {
    "rgd": Method(lambda c: optim.rgd(0.95 * c.best), 3000),
    "rgd, middle scales": Method(lambda c: optim.rgd(0.4, scales=c.middle), 3000),
    "landing": Method(lambda c: optim.landing(0.95 * c.best), 3000),
    "pogo": Method(lambda c: optim.pogo(0.95 * c.best), 3000),
    "heavy ball": Method(lambda c: optim.heavy_ball(0.5 * c.best, 0.8), 3000),
    "muon, constant step": Method(lambda c: optim.muon(0.02), 1000),
    "muon, falling step": Method(lambda c: falling(0.2, 0.97), 1000),
    "muon, dual length": Method(lambda c: optim.muon(0.9 * c.edge[0], length="dual"), 4000),
    "muon, middle scales": Method(
        lambda c: optim.muon(0.9 * c.edge[1], length="dual", scales=c.middle), 1000
    ),
    "conjugate gradients": Method(
        lambda c: optim.conjugate_gradient(c.best), 300, lambda state: 1 + 2 * state[-1].trials
    ),
    "L-BFGS": Method(lambda c: optim.lbfgs(), 300, lambda state: 1 + 2 * state[-1].trials),
    "trust region": Method(lambda c: optim.trust_region(), 40, lambda state: 2 + 2 * state.inner_steps),
}


def case(depth: int) -> Case:
    """The reference case with this many layers."""
    dims = (8, *[4] * (depth - 1), 8)
    teacher = initial.teacher(jax.random.key(100), dims, list(SIGMA))
    task = problem.whitened(network.end_to_end(teacher))
    start = initial.haar(jax.random.key(0), dims, first_scale=0.5)
    best = rates.predict(teacher, task, step_size=1.0, scales=scales.discrepant(teacher)).step_optimal
    middle = scales.middle(network.stack(teacher))
    per_layer = np.concatenate([np.ravel(s) for s in middle])
    edge = tuple(closed.spectral_step_max(SIGMA, dims=dims, scales=s) for s in (None, per_layer))
    return Case(network.stack(start), task, float(best), middle, edge)


def run(case: Case, method: Method) -> Course:
    """Error after every update, evaluations so far, seconds an update."""
    optimizer = optax.with_extra_args_support(method.make(case))

    def step(carry: PyTree, _: None) -> PyTree:
        params, state = carry
        value, grads = jax.value_and_grad(case.task.loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value, value_fn=case.task.loss)
        params = optax.apply_updates(params, updates)
        return (params, state), (case.task.distance(params), jnp.asarray(method.evaluations(state)))

    compiled = jax.jit(lambda carry: jax.lax.scan(step, carry, None, method.updates)[1])
    carry = (case.start, optimizer.init(case.start))
    jax.block_until_ready(compiled(carry))
    begin = time.perf_counter()
    errors, evaluations = jax.device_get(jax.block_until_ready(compiled(carry)))
    seconds = (time.perf_counter() - begin) / method.updates
    errors = np.concatenate([[float(case.task.distance(case.start))], errors])
    return {"errors": errors / errors[0], "work": np.cumsum([0, *evaluations]), "seconds": seconds}


def row(name: str, depth: int, found: Course) -> Line:
    """One line of the table; empty where the bound on updates came first."""
    below = np.flatnonzero(found["errors"] <= TOLERANCE)
    first = int(below[0]) if below.size else None
    return {
        "method": name,
        "depth": depth,
        "updates": "" if first is None else first,
        "evaluations": "" if first is None else int(found["work"][first]),
        "microseconds_an_update": f"{found['seconds'] * 1e6:.0f}",
        "smallest_error": f"{np.nanmin(found['errors']):.1e}",
    }


@style.styled
def draw(rows: Lines, curves: Lines) -> Figure:
    """Error against evaluations at one depth, evaluations needed against depth."""
    figure, ((left, right),) = style.grid(1, 2, width=style.PAGE, height=2.9)
    ends = []
    for name, colour in COLOURS.items():
        mine = [c for c in curves if c["method"] == name]
        done = [r for r in rows if r["method"] == name and r["evaluations"] != ""]
        x, y = [int(r["depth"]) for r in done], [int(r["evaluations"]) for r in done]
        look = {
            "color": colour,
            "linewidth": 3.5 if name == "rgd" else 1.0,
        }  # under those that coincide with it
        left.plot([int(c["evaluations"]) for c in mine], [float(c["error"]) for c in mine], **look)
        (line,) = right.plot(x, y, "o-", markersize=3, **look)
        if x and x[-1] == max(DEPTHS):
            ends.append((y[-1], name, colour))
        elif x:
            line.set_label(name)
    left.set(xlabel="evaluations", ylabel="relative error", title=f"$N$ = {SHOWN}")
    left.set(yscale="log", ylim=(1e-15, 3), xlim=(0, 900))
    right.set(yscale="log", ylabel="evaluations until 1e-8", title="Over depth")
    style.depth_axis(right, DEPTHS)
    style.label_ends(right, ends)
    if right.get_legend_handles_labels()[0]:
        right.legend(loc="lower right")
    return figure


def _write(path: Path, rows: Lines) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _read(path: Path) -> Lines:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measure(depths: Sequence[int], names: Sequence[str]) -> tuple[Lines, Lines]:
    """The table, and the curves at depth ``SHOWN`` (every update of the short ones, every tenth of the long)."""
    rows, curves = [], []
    with jax.enable_x64(True):
        for depth in depths:
            given = case(depth)
            for name in [n for n in names if depth <= METHODS[n].most]:
                found = run(given, METHODS[name])
                rows.append(row(name, depth, found))
                print(*rows[-1].values(), sep="  ", flush=True)
                kept = [
                    k for k in range(len(found["errors"])) if k % max(1, METHODS[name].updates // 300) == 0
                ]
                curves += [
                    {
                        "method": name,
                        "evaluations": int(found["work"][k]),
                        "error": f"{found['errors'][k]:.3g}",
                    }
                    for k in kept
                    if depth == SHOWN and found["work"][k] <= 1000
                ]
    return rows, curves


def main(argv: Sequence[str] | None = None) -> int:
    """The command; needs matplotlib for the figure."""
    parser = argparse.ArgumentParser(prog="dlnjax bench methods", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("results/methods"), help="folder (default results/methods)"
    )
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS, help=f"depths (default {DEPTHS})")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=METHODS,
        metavar="METHOD",
        default=list(METHODS),
        help=f"of {'; '.join(METHODS)} (default all)",
    )
    parser.add_argument("--draw", action="store_true", help="only the figure, from the tables in the folder")
    options = parser.parse_args(argv)
    if options.draw:
        rows, curves = (_read(options.out / name) for name in ("methods.csv", "curves.csv"))
    else:
        options.out.mkdir(parents=True, exist_ok=True)
        rows, curves = measure(options.depths, options.only)
        _write(options.out / "methods.csv", rows)
        if curves:
            _write(options.out / "curves.csv", curves)
    if curves:
        style.save(draw(rows, curves), options.out / "methods")
    return 0
