"""What the rows of the campaign ``sparse_coding`` support, beyond that nothing was violated. Needs no JAX."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlnjax.analysis.claims import Claim
from dlnjax.analysis.tables import Row

#: Models within the bounds that a statement of no violations needs.
_MODELS = 1000
#: By how much the exponent of depth may differ from -2, and from which depth on it is read.
_EXPONENT, _DEEP = 0.1, 4
#: Threshold at which features are compared, and by how much a learnt dictionary's accuracy may then be lower.
_THRESHOLD, _LOSS = 0.1, 0.03


def _made(kind: str, claim: str, expected: str, measured: str, holds: bool, rows: Sequence[Row]) -> Claim:
    return Claim(kind, claim, expected, measured, "holds" if holds else "fails", len(rows))


def uniqueness(rows: list[Row]) -> list[Claim]:
    inside = [row for row in rows if row["inside"]]
    outside = [row for row in rows if not row["inside"]]
    found = sum(row["others"] > 0 for row in outside)
    sharp = [row for row in outside if row["depth"] == 1 and abs(row["sparsity"] - row["bound"]) < 1e-6]
    double = sum(row["others"] > 0 for row in sharp)
    return [
        _made("bounds", "models within the uniqueness bounds", f">= {_MODELS}", str(len(inside)),
              len(inside) >= _MODELS, inside),
        _made("bounds", "outside them some codes are not the only ones", "> 0", f"{found} of {len(outside)}",
              found > 0, outside),
        _made("bounds", "as many nonzeros as the bound of a tight frame of one column more: another code exists",
              "every model", f"{double} of {len(sharp)}", double == len(sharp) > 0, sharp),
    ]  # fmt: skip


def stability(rows: list[Row]) -> list[Claim]:
    inside = [row for row in rows if row["inside"]]
    outside = [row for row in rows if not row["inside"]]
    found = sum(row["false_atoms"] > 0 for row in outside)
    chains = [row for row in inside if row["depth"] > 1]
    worst = max((row["ratio"] for row in chains), default=float("nan"))
    return [
        _made("bounds", "models within the stability bounds", f">= {_MODELS}", str(len(inside)),
              len(inside) >= _MODELS, inside),
        _made("bounds", "through chains of two and three dictionaries: error over bound", "<= 1",
              f"at most {worst:.4g}", worst <= 1, chains),
        _made("bounds", "outside them some codes have false atoms", "> 0", f"{found} of {len(outside)}",
              found > 0, outside),
    ]  # fmt: skip


def factors(rows: list[Row]) -> list[Claim]:
    claims = []
    for name in dict.fromkeys(row["network"] for row in rows):
        here = [row for row in rows if row["network"] == name]
        settled = [row for row in here if row["difference"] is not None]
        worst = max((row["difference"] for row in settled), default=float("nan"))
        share = max(
            (row["difference"] / abs(1 - row["predicted_factor"]) for row in settled), default=float("nan")
        )
        shown = f"at most {worst:.1e}, {share:.1e} (1 - factor), {len(settled)} settled of {len(here)} runs"
        claims.append(_made("predicted", f"measured = predicted: {name}", "<= 1e-6, <= 1e-4 (1 - factor)", shown,
                            worst <= 1e-6 and share <= 1e-4, here))  # fmt: skip
    bounded = [row for row in rows if row["stands_bound"] is not None]
    late = sum(row["stands_at"] > row["stands_bound"] for row in bounded)
    middle = float(np.median([row["stands_bound"] / row["stands_at"] for row in bounded])) if bounded else 0.0
    claims.append(_made("bounds", "the support stands no later than its bound", "0 later",
                        f"{late} later; the bound is {middle:.3g} times too large in the median", late == 0,
                        bounded))  # fmt: skip
    return claims


def depth(rows: list[Row]) -> list[Claim]:
    plain = [row for row in rows if row["dictionary"] == "orthonormal"]
    slowest = max(row["layered_factor"] for row in plain)
    claims = [_made("depth", "orthonormal dictionaries, layer by layer: one layer reaches each code", "factor <= 1e-12",
                    f"at most {slowest:.1e}", slowest <= 1e-12, plain)]  # fmt: skip
    deep = [row for row in plain if row["depth"] >= _DEEP]
    if len({row["depth"] for row in deep}) > 1:
        logs = [np.log([2 * row["depth"] + 1, 1 - row["predicted_factor"]]) for row in deep]
        slope = float(np.polyfit([log[0] for log in logs], [log[1] for log in logs], 1)[0])
        claims.append(_made("slope", f"orthonormal, jointly: log-log slope of 1 - factor in 2 J + 1, J >= {_DEEP}",
                            f"-2 +- {_EXPONENT:g}", f"{slope:.3f}", abs(slope + 2) <= _EXPONENT, deep))  # fmt: skip
    faster = []
    for j in sorted({row["depth"] for row in rows}):
        speeds = {
            kind: np.median(
                [1 - r["predicted_factor"] for r in rows if r["depth"] == j and r["dictionary"] == kind]
            )
            for kind in ("orthonormal", "gaussian")
        }
        faster.append(float(speeds["orthonormal"] / max(speeds["gaussian"], 1e-300)))
    claims.append(_made("depth", "Gaussian chains are slower, jointly: ratio of 1 - factor, medians by depth", "> 1",
                        f"{min(faster):.3g} to {max(faster):.3g}", min(faster) > 1, rows))  # fmt: skip
    return claims


def recovery(rows: list[Row]) -> list[Claim]:
    claims = []
    for kind, strategy in dict.fromkeys((row["dictionary"], row["strategy"]) for row in rows):
        here = [row for row in rows if (row["dictionary"], row["strategy"]) == (kind, strategy)]
        least = min(row["recovered"] for row in here)
        name = f"{kind}, {strategy}: atoms recovered from random starts"
        claims.append(_made("learning", name, "all", f"at least {least:.3g}", least == 1, here))
    return claims


def features(rows: list[Row]) -> list[Claim]:
    claims = []
    for name in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == name]
        random = {row["threshold"]: row for row in here if row["strategy"] == "random"}
        learnt = [row for row in here if row["strategy"] != "random"]
        share = max(row["nonzero_share"] / random[row["threshold"]]["nonzero_share"] for row in learnt)
        claims.append(_made("learning", f"{name}: learnt codes over random ones, nonzeros at equal threshold", "< 1",
                            f"at most {share:.3g}", share < 1, learnt))  # fmt: skip
        at = [row for row in learnt if row["threshold"] == _THRESHOLD]
        lost = max((random[_THRESHOLD]["accuracy"] - row["accuracy"] for row in at), default=float("nan"))
        claims.append(_made("learning", f"{name}: accuracy lost to a random dictionary at threshold {_THRESHOLD:g}",
                            f"<= {_LOSS:g}", f"at most {lost:.3f}", lost <= _LOSS, at))  # fmt: skip
    return claims


#: By part, as in ``campaigns.claims``.
CLAIMS = {
    "uniqueness": uniqueness,
    "stability": stability,
    "factors": factors,
    "depth": depth,
    "recovery": recovery,
    "features": features,
}
