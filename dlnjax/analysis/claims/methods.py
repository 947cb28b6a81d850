"""Algorithms and starts side by side: steps to tolerance, each tuned over one grid of steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlnjax.analysis.claims._claim import Claim, made
from dlnjax.analysis.claims.parts import floor
from dlnjax.analysis.tables import Row, groups

_ALIKE = 0.25
#: Without a retraction a small step is the same step but for its square.
_SAME = 0.1


def method(row: Row) -> str:
    """What a reader calls a cell's algorithm, its start included where that is not the usual one."""
    name = row["optimizer"]
    if row["free"] == "none":
        name += ", all orthonormal"
    elif row["free"] != "first":
        name += f", free {row['free']}"
    return name if row["start"] == "haar" else f"{name}, {row['start']}"


def steps(rows: Sequence[Row]) -> float | None:
    """Median steps to tolerance; None unless every cell converges."""
    if not rows or any(row["iterations"] is None or row["status"] == "diverged" for row in rows):
        return None
    return float(np.median([row["iterations"] for row in rows]))


def tuned(rows: Sequence[Row]) -> tuple[float, float] | None:
    """``(steps, step size)`` of the step at which every seed converges and the median is smallest."""
    found = [(steps(group), key[0][1]) for key, group in groups(rows, by=("step",)).items()]
    return min(((count, step) for count, step in found if count is not None), default=None)


def algorithms(rows: Sequence[Row]) -> list[Claim]:
    """What theory says of the methods, and the tuned steps of each."""
    fixed = [row for row in rows if row["step_rule"] == "fixed"]
    named = {
        key[0][1]: group
        for key, group in groups([{**r, "method": method(r)} for r in fixed], by=("method",)).items()
    }
    claims = _same_step(named) + _unretracted(named)
    claims += _large_step([row for row in rows if row["step_rule"] == "optimal"])
    deep = [r for r in named.get("gd, gaussian", []) if r["depth"] >= 16]
    if deep:
        good = sum(row["status"] == "converged" for row in deep)
        claims.append(made("start", "GD from Gaussian layers fails at N = 16 at every step", "0 converge",
                           f"{good} of {len(deep)} converge", good == 0, len(deep)))  # fmt: skip
    claims += floor(fixed)
    return claims + _momentum(named) + [_told(name, group) for name, group in named.items()]


def _same_step(named: dict[str, list[Row]]) -> list[Claim]:
    what = "RGD and GD from one orthonormal start need about the same steps at mu = 0.1"
    return _beside(named, "gd", what, _ALIKE)


def _unretracted(named: dict[str, list[Row]]) -> list[Claim]:
    """Methods without a retraction, at a step at which the manifold looks flat."""
    return [
        claim
        for name in ("landing", "pogo")
        for claim in _beside(named, name, f"RGD and {name} need the same steps at mu = 0.1", _SAME)
    ]


def _beside(named: dict[str, list[Row]], other: str, what: str, within: float) -> list[Claim]:
    """Median steps of RGD and of another method at one small step, at every depth at which both converge."""
    pairs, count = [], 0
    for depth in sorted({row["depth"] for row in named.get("rgd", [])}):
        here = [
            [r for r in named.get(n, []) if (r["depth"], r["step"]) == (depth, 0.1)] for n in ("rgd", other)
        ]
        both = [steps(rows) for rows in here]
        if None not in both:
            pairs.append((depth, *both))
            count += sum(map(len, here))
    if not pairs:
        return []
    worst = max(abs(a / b - 1) for _, a, b in pairs)
    shown = "; ".join(f"N = {n}: {a:.0f} and {b:.0f}" for n, a, b in pairs)
    return [made("same step", what, f"within {within:.0%}", shown, worst <= within, count)]


def _large_step(rows: Sequence[Row]) -> list[Claim]:
    claims = []
    for name, depths, wanted in (("rgd", (2, 8, 16), True), ("gd", (8, 16), False)):
        here = [row for row in rows if row["optimizer"] == name and row["depth"] in depths]
        if here:
            good = sum((row["status"] == "converged") is wanted for row in here)
            verb = "converges" if wanted else "does not converge"
            claims.append(made("large step", f"{name} at {here[0]['step']:g} of RGD's best step {verb}", "every cell",
                               f"{good} of {len(here)}", good == len(here), len(here)))  # fmt: skip
    return claims


def _momentum(named: dict[str, list[Row]]) -> list[Claim]:
    def at(name: str) -> tuple[float, float] | None:
        return tuned([row for row in named.get(name, []) if row["depth"] == 16])

    plain = at("rgd")
    claims = []
    for name in ("heavy_ball", "nesterov"):
        found = at(name)
        if plain and name in named:
            shown = f"{found[0]:.0f} against {plain[0]:.0f}" if found else f"none against {plain[0]:.0f}"
            claims.append(made("momentum", f"{name}, tuned, needs fewer steps than RGD at N = 16", "fewer", shown,
                               found is not None and found[0] < plain[0], 100))  # fmt: skip
    return claims


def _told(name: str, rows: list[Row]) -> Claim:
    """No expectation: the best of the grid at every depth."""
    shown = []
    for depth in sorted({row["depth"] for row in rows}):
        best = tuned([row for row in rows if row["depth"] == depth])
        shown.append(f"N = {depth}: " + (f"{best[0]:.0f} at {best[1]:g}" if best else "none"))
    return made(
        "tuned",
        f"{name}: fewest steps (median), and the step size",
        "reported",
        "; ".join(shown),
        True,
        len(rows),
    )


def initialisation(rows: Sequence[Row]) -> list[Claim]:
    """Which starts converge at the best step of the grid, and where Gaussian ones do not."""
    claims = []
    for start in ("haar", "balanced", "identity", "gaussian"):
        cases = {
            key: tuned(group)
            for key, group in groups([r for r in rows if r["start"] == start], by=("width", "depth")).items()
        }
        if not cases:
            continue
        good = sum(found is not None for found in cases.values())
        count = sum(row["start"] == start for row in rows)
        lost = ", ".join(
            f"({dict(k)['width']}, {dict(k)['depth']})" for k, found in cases.items() if found is None
        )
        shown = f"{good} of {len(cases)} pairs" + (f"; not (width, depth) {lost}" if lost else "")
        if start == "gaussian":
            narrow = [found for key, found in cases.items() if dict(key) == {"width": 4, "depth": 16}]
            holds = bool(narrow) and narrow[0] is None
            claims.append(
                made("start", "gaussian: width 4 fails at N = 16 at every step", "fails", shown, holds, count)
            )
        else:
            claims.append(made("start", f"{start}: converges at every depth and width at its best step", "every pair",
                               shown, good == len(cases), count))  # fmt: skip
    return claims
