"""``dlnjax bench sweep``: time per step and network of our engines against other packages, in one run.

The contestants take turns (so that a busy machine hits all of them) and the best round of each counts: ratios carry
over between machines, absolute times do not. Limits stand beside them: the step's matrix products run alone in XLA,
in their own forms (``own_products``) and as many of the plainest form (``products``), and the same products at the
rate of the best batched product measured here (XLA, torch, numpy); ``limits`` are the ratios to the other packages
that a step of nothing but such products would have.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlnjax.bench._conclusion import Target, conclude, machine

_OTHERS = ("geoopt", "naive_jax", "pymanopt", "pymanopt_descent")
_ALL = ("layers", "products", "own_products", "reduced", *_OTHERS)
#: (N, d, cells) and who takes part.
CASES: tuple[tuple[tuple[int, int, int], tuple[str, ...]], ...] = (
    ((8, 16, 64), _ALL),
    ((8, 32, 64), _ALL),
    ((8, 64, 16), _ALL),
    ((32, 32, 16), ("layers", "products", "reduced", "geoopt")),
    ((512, 32, 16), ("reduced", "geoopt")),
)
STEP_SIZE = 0.01


def products_a_step(depth: int) -> int:
    """Products of the layers engine in a small step: three a middle layer, one less for the first, seven besides.

    The projections that take off rounding every so many steps (two products a layer) are not counted.
    """
    return 3 * (depth - 2) + 6


def instance(depth: int, width: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal layers ``(N, C, d, d)`` and orthonormal targets ``(C, d, d)``, float32."""
    rng = np.random.default_rng(0)
    drawn = np.linalg.qr(rng.standard_normal((depth + 1, cells, width, width)))[0].astype(np.float32)
    drawn[0] *= 0.5
    return drawn[:-1], drawn[-1]


def _contestants(names: Sequence[str], case: tuple[int, int, int]) -> dict[str, Callable]:
    from dlnjax.bench import _networks as networks

    depth, width, cells = case
    layers, target = instance(depth, width, cells)
    makers = {**networks.CONTESTANTS, "products": networks.products(products_a_step(depth))}
    present = [n for n in names if importlib.util.find_spec(networks.NEEDS.get(n, "jax"))]
    return {name: makers[name](layers, target, STEP_SIZE / depth) for name in present}


def time_case(
    case: tuple[int, int, int],
    names: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    builds: int = 1,
    least: int = 1,
) -> dict[str, float]:
    """Microseconds per step and network, the best of the rounds of all builds.

    Args:
      rounds, seconds: how many rounds of about what length, of ``least`` steps or more.
      builds: how often every contestant is made anew: where its arrays happen to lie in the caches moves a step by
        a tenth, for as long as they live.
    """
    found = [_time_build(case, names, rounds, seconds, least) for _ in range(builds)]
    return {name: min(times[name] for times in found) for name in found[0]}


def _time_build(
    case: tuple[int, int, int], names: Sequence[str], rounds: int, seconds: float, least: int
) -> dict[str, float]:
    from dlnjax.bench._networks import LEAST

    advances = _contestants(names, case)
    steps = {n: _enough(advance, seconds, max(least, LEAST.get(n, 1))) for n, advance in advances.items()}
    best = dict.fromkeys(advances, np.inf)
    for _ in range(rounds):
        for name, advance in advances.items():
            begin = time.perf_counter()
            advance(steps[name])
            best[name] = min(best[name], (time.perf_counter() - begin) / steps[name])
    return {name: 1e6 * value / case[2] for name, value in best.items()}


def _enough(advance: Callable[[int], object], seconds: float, least: int) -> int:
    """Steps that take about this long: found by doubling, for the first ones cost more than those that follow."""
    advance(1)
    steps = least
    while True:
        begin = time.perf_counter()
        advance(steps)
        if time.perf_counter() - begin > seconds / 2 or steps >= 5000:
            return steps
        steps *= 2


def best_blas(width: int, cells: int) -> dict[str, float]:
    """GFLOP/s of batched products of this size: numpy, and torch where it is installed, all threads."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((cells, width, width)).astype(np.float32) for _ in range(2))
    calls: dict[str, Callable[[], object]] = {"numpy": lambda: np.matmul(a, b)}
    if importlib.util.find_spec("torch"):
        import torch  # pyright: ignore[reportMissingImports]

        x, y = torch.from_numpy(a), torch.from_numpy(b)
        calls["torch"] = lambda: torch.bmm(x, y)
    found = {}
    for name, call in calls.items():
        best = np.inf
        for _ in range(20):
            begin = time.perf_counter()
            for _ in range(10):
                call()
            best = min(best, (time.perf_counter() - begin) / 10)
        found[name] = 2 * width**3 * cells / best / 1e9
    return found


def best_rate(
    case: tuple[int, int, int], times: dict[str, float], blas: dict[str, float]
) -> tuple[str, float]:
    """Whose batched product of this size is fastest here, and its GFLOP/s."""
    flops = 2 * case[1] ** 3 * products_a_step(case[0])
    rates = {**blas, **({"xla": flops / times["products"] / 1e3} if "products" in times else {})}
    fastest = max(rates, key=lambda name: rates[name])
    return fastest, rates[fastest]


def limits(case: tuple[int, int, int], times: dict[str, float], rate: float) -> dict[str, float]:
    """What the ratios to other packages of a step that is its products at the best rate measured and nothing else."""
    least = 2 * case[1] ** 3 * products_a_step(case[0]) / rate / 1e3
    return {name: times[name] / least for name in _OTHERS if name in times}


def _targets(times: dict[tuple[int, int, int], dict[str, float]]) -> list[Target]:
    """The figures this benchmark is held to, those whose contestants took part."""
    a, b, c = (8, 16, 64), (8, 32, 64), (8, 64, 16)
    deep, deeper = (32, 32, 16), (512, 32, 16)
    asked = [
        (a, "geoopt", a, "layers", 4.0), (b, "geoopt", b, "layers", 5.0), (c, "geoopt", c, "layers", 4.0),
        (a, "naive_jax", a, "layers", 10.0), (b, "naive_jax", b, "layers", 10.0),
        (c, "naive_jax", c, "layers", 10.0), (a, "pymanopt", a, "layers", 120.0),
        (b, "pymanopt", b, "layers", 120.0), (a, "pymanopt_descent", a, "layers", 120.0),
        (b, "pymanopt_descent", b, "layers", 120.0), (deep, "geoopt", deep, "reduced", 50.0),
        (deeper, "geoopt", deeper, "reduced", 500.0), (b, "products", b, "layers", 0.7),
        (c, "products", c, "layers", 0.7), (b, "own_products", b, "layers", 0.7),
        (c, "own_products", c, "layers", 0.7), (deep, "reduced", deeper, "reduced", 1 / 1.3),
    ]  # fmt: skip
    found = []
    for case, other, our_case, ours, target in asked:
        if other in times.get(case, {}) and ours in times.get(our_case, {}):
            value = times[case][other] / times[our_case][ours]
            name = f"{other} {_label(case)} / {ours} {_label(our_case)}"
            found.append({"name": name, "value": value, "target": target, "met": bool(value >= target)})
    return found


def _label(case: tuple[int, int, int]) -> str:
    return f"N={case[0]} d={case[1]} x{case[2]}"


def _print_case(case: tuple[int, int, int], times: dict[str, float], blas: dict[str, float]) -> None:
    fastest, rate = best_rate(case, times, blas)
    most = limits(case, times, rate) if "layers" in times else {}
    print(f"{_label(case)}, float32: microseconds per step and network")
    for name, value in sorted(times.items(), key=lambda item: item[1]):
        relative = f"{value / times['layers']:8.2f} x layers" if "layers" in times else ""
        at_most = f" (at most {most[name]:.3g})" if name in most else ""
        print(f"  {name:16}{value:12.2f} {relative}{at_most}")
    if "layers" in times:
        flops = 2 * case[1] ** 3 * products_a_step(case[0])
        share = flops / times["layers"] / 1e3 / rate
        print(f"  best batched product: {fastest} {rate:.0f} GFLOP/s; layers run at {share:.0%} of it")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 0 when every target is met, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="dlnjax bench sweep", description=__doc__)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", default=Path("results/bench/sweep.json"),
        help="where the numbers and the list of targets go, a figure of the same name beside (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=4, help="interleaved timing rounds a build (default 4)")
    parser.add_argument("--builds", type=int, default=3, help="programs built anew for them (default 3)")
    parser.add_argument(
        "--seconds", type=float, default=0.4, help="length of a round at most, about (default 0.4)"
    )
    parser.add_argument("--quick", action="store_true", help="programs built once, no figure: one minute")
    options = parser.parse_args(argv)
    if options.quick:
        options.builds = 1
    from dlnjax.sweep.compute import devices

    devices.prepare("float32")
    times, report = {}, []
    for case, names in CASES:
        times[case] = time_case(
            case, names, rounds=options.rounds, seconds=options.seconds, builds=options.builds
        )
        blas = best_blas(case[1], case[2])
        _print_case(case, times[case], blas)
        entry = {"case": list(case), "microseconds": times[case], "blas_gflops": blas}
        if "layers" in times[case]:
            entry["limits"] = limits(case, times[case], best_rate(case, times[case], blas)[1])
        report.append(entry)
    told: dict[str, Any] = {"targets": _targets(times), "cases": report, "machine": machine()}
    if not options.quick:
        from dlnjax.analysis import style
        from dlnjax.bench import _scaling

        short = {"rounds": options.rounds, "seconds": options.seconds / 3, "builds": options.builds}
        told["scaling"] = _scaling.measure(time_case, **short)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        style.save(_scaling.draw(told["scaling"]), options.json.with_suffix(""))
    return conclude(told, options.json)
