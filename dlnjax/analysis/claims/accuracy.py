"""Accuracy beside the rate: what a run ends at, whether depth matters to it, and how long it takes to get there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dlnjax.analysis.claims._claim import Claim, made, name, span
from dlnjax.analysis.tables import Row, groups

#: Accuracies are compared to this: a few of some hundred samples.
_SAME = 0.02
#: Exponent of the steps in the depth that each step rule should have, and how near it has to come.
_EXPONENTS, _WITHIN = {"fixed": 0.0, "middle": 0.0, "optimal": 1.0}, 0.25


def accuracy(rows: Sequence[Row]) -> list[Claim]:
    """Converged runs are as good as the best product of their rank; depth costs steps only through the step."""
    rows = [row for row in rows if row.get("test_accuracy") is not None and row["step_rule"] != "edge"]
    claims = _of_optimum([row for row in rows if row["status"] == "converged"])
    for key, group in groups(rows, without=("seed", "depth", "engine")).items():
        if len({row["depth"] for row in group}) > 1:
            what = name(key, rows)
            claims += [_same_at_all_depths(what, group), *_steps(what, group)]
    return claims + _unfinished(rows)


def _of_optimum(rows: list[Row]) -> list[Claim]:
    if not rows:
        return []
    good = sum(row["test_accuracy"] == row["optimum_accuracy"] for row in rows)
    return [made("accuracy", "converged: the test accuracy is that of the best product of the rank", "every cell",
                 f"{good} of {len(rows)}", good == len(rows), len(rows))]  # fmt: skip


def _medians(rows: Sequence[Row], column: str) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for row in rows:
        if row[column] is not None:
            found.setdefault(row["depth"], []).append(row[column])
    return {depth: float(np.median(found[depth])) for depth in sorted(found)}


def _same_at_all_depths(what: str, rows: list[Row]) -> Claim:
    ends = _medians(rows, "test_accuracy")
    spread = max(ends.values()) - min(ends.values())
    shown = ", ".join(f"{value:.3f}" for value in ends.values())
    where = f"N = {span(set(ends))}"
    return made("accuracy", f"`{what}`: the final test accuracy (median) is the same at all depths, {where}",
                f"within {_SAME:g}", shown, spread <= _SAME, len(rows))  # fmt: skip


def _steps(what: str, rows: list[Row]) -> list[Claim]:
    """How the steps to the final accuracy grow with depth: the mean exponent over the seeds, with its error."""
    wanted = _EXPONENTS.get(rows[0]["step_rule"])
    seeds: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        if row["accuracy_steps"]:
            seeds.setdefault(row["seed"], []).append(
                (math.log(row["depth"]), math.log(row["accuracy_steps"]))
            )
    points = [np.array(found).T for found in seeds.values() if len(found) > 1]
    if wanted is None or not points:
        return []
    slopes = [float(np.polyfit(x, y, 1)[0]) for x, y in points]
    mean, error = float(np.mean(slopes)), float(np.std(slopes) / math.sqrt(len(slopes)))
    middle = ", ".join(f"{value:.0f}" for value in _medians(rows, "accuracy_steps").values())
    return [made("steps", f"`{what}`: exponent in N of the steps to within .01 of the final test accuracy",
                 f"{wanted:g} +- {_WITHIN:g}", f"{mean:.2f} +- {2 * error:.2f} (medians {middle})",
                 abs(mean - wanted) <= _WITHIN, len(rows))]  # fmt: skip


def _unfinished(rows: Sequence[Row]) -> list[Claim]:
    """Raw data: what is stopped early is told labels no worse than the best product of the rank."""
    claims = []
    for (_, width), here in _by_width([row for row in rows if row["data"] == "raw"]).items():
        ends, best = float(np.median([r["test_accuracy"] for r in here])), here[0]["optimum_accuracy"]
        claims.append(made("accuracy", f"raw, width {width}: runs out of steps are no worse than the best product",
                           f"at least {best:.3f}", f"median {ends:.3f}", ends >= best, len(here)))  # fmt: skip
    return claims


def _by_width(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    return {key[0]: group for key, group in groups(rows, by=("width",)).items()}
