"""Where convergence ends: the steps on both sides of the predicted stability edge."""

from __future__ import annotations

from collections.abc import Sequence

from dlnjax.analysis.claims._claim import Claim, made, name, span
from dlnjax.analysis.tables import Row, groups


def edges(rows: Sequence[Row]) -> list[Claim]:
    """The steps next to the edge: the largest fraction below 1 converges, the smallest above does not."""
    rows = [row for row in rows if row["step_rule"] == "edge"]
    claims = []
    for key, group in groups(rows, without=("step", "depth", "seed")).items():
        steps = {row["step"] for row in group}
        for step, wanted in _nearest(steps):
            cells = [row for row in group if row["step"] == step]
            good = sum((row["status"] == "converged") == wanted for row in cells)
            where = name(key, rows, hide=("step_rule",), default="edge")
            verb = "converges" if wanted else "does not converge"
            what = f"`{where}`: {step:g} of the edge {verb}, N = {span({r['depth'] for r in cells})}"
            claims.append(
                made("edge", what, "every cell", f"{good} of {len(cells)}", good == len(cells), len(cells))
            )
    return claims


def _nearest(steps: set[float]) -> list[tuple[float, bool]]:
    below, above = [s for s in steps if s < 1], [s for s in steps if s > 1]
    return [(max(near), True) for near in [below] if near] + [(min(near), False) for near in [above] if near]


def switch(rows: Sequence[Row]) -> list[Claim]:
    """The whole grid of fractions: every cell below the edge converges, none above does."""
    rows = [row for row in rows if row["step_rule"] == "edge"]
    claims = []
    for key, group in groups(rows, without=("step", "depth", "seed")).items():
        where = name(key, rows, hide=("step_rule",), default="edge")
        for below in (True, False):
            cells = [row for row in group if row["step"] != 1 and (row["step"] < 1) is below]
            if cells:
                claims.append(_side(where, cells, below))
    return claims


def _side(where: str, cells: list[Row], below: bool) -> Claim:
    steps = sorted({row["step"] for row in cells})
    good = sum((row["status"] == "converged") is below for row in cells)
    verb = "converges" if below else "does not converge"
    fractions = f"{steps[0]:g}..{steps[-1]:g}" if len(steps) > 1 else f"{steps[0]:g}"
    what = f"`{where}`: {fractions} of the edge {verb}, N = {span({r['depth'] for r in cells})}"
    return made("edge", what, "every cell", f"{good} of {len(cells)}", good == len(cells), len(cells))
