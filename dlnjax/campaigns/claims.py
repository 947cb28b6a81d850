"""From a campaign's folder to its answer: claims with verdicts, figures, and the text to print.

Reads ``summary.csv`` and ``manifest.json`` only; needs no JAX.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlnjax.analysis import Written, tables, text
from dlnjax.analysis.claims import Claim, to_rows
from dlnjax.analysis.tables import Row
from dlnjax.campaigns import sparse_claims

#: Width from which descent's slope in the step may deviate from one.
_SLOPE = 0.05
#: The same for an exponent of depth.
_EXPONENT = 0.02


def write(out: Path | str) -> Written:
    """Write claims.csv and figures/ into a campaign's folder; say what they show.

    Args:
      out: the folder given to ``dlnjax run``.

    Raises:
      FileNotFoundError: there are no results in ``out``.
      ImportError: matplotlib is absent; install ``dlnjax[study]``.
    """
    from dlnjax.campaigns import figures
    from dlnjax.sweep.store import atomic

    out = Path(out)
    rows, manifest = read(out)
    claims = check(rows, manifest)
    path = out / "claims.csv"
    atomic.replace(path, tables.to_csv(to_rows(claims), Claim._fields))
    paths = [out / "summary.csv", path, *figures.write(out / "figures", manifest["campaign"], rows)]
    listed = "\n".join(["Files", *(f"  {p}" for p in paths)])
    return Written(paths, "\n\n".join([text.render(text.claims_table(claims)), _answer(claims), listed]))


def read(out: Path | str) -> tuple[list[Row], dict[str, Any]]:
    """``(rows of summary.csv, manifest)``; numbers are numbers, empty fields None."""
    out = Path(out)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    return tables.read_csv(out / "summary.csv"), manifest


def check(rows: Sequence[Row], manifest: Mapping[str, Any]) -> list[Claim]:
    """A claim for every part, that nothing was violated, and what else the rows of a campaign support."""
    claims = []
    for part, finding in manifest["parts"].items():
        here = [row for row in rows if row["part"] == part]
        claims.append(_violations(finding["statement"], here))
        claims += _MORE[part](here) if part in _MORE else []
    return claims


def _answer(claims: Sequence[Claim]) -> str:
    failed = sum(claim.verdict != "holds" for claim in claims)
    return (
        f"Answer: {failed} of {len(claims)} claims fail."
        if failed
        else f"Answer: all {len(claims)} claims hold."
    )


def _claim(kind: str, claim: str, expected: str, measured: str, holds: bool, cells: int) -> Claim:
    return Claim(kind, claim, expected, measured, "holds" if holds else "fails", cells)


def _violations(statement: str, rows: list[Row]) -> Claim:
    bad, checks = sum(row["violations"] for row in rows), sum(row["checks"] for row in rows)
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    tightest = f", tightest ratio {max(ratios):.6g}" if ratios else ""
    measured = f"{bad} in {checks} checks{tightest}"
    return _claim("violations", statement, "0 violations", measured, bad == 0 and bool(rows), len(rows))


def _guarantee(rows: list[Row]) -> list[Claim]:
    above = max(row["predicted_factor"] - row["guaranteed_factor"] for row in rows)
    share = min((1 - row["worst_factor"]) / (1 - row["guaranteed_factor"]) for row in rows)
    return [
        _claim("guarantee", "the guaranteed factor is never below the predicted one", "predicted <= guaranteed",
              f"predicted - guaranteed at most {above:.3e}", above <= 0, len(rows)),
        _claim("guarantee", "how far the guarantee is from the slowest step seen", ">= 1 times faster",
              f"at least {share:.4g} times", share >= 1, len(rows)),
    ]  # fmt: skip


def _rates(rows: list[Row]) -> list[Claim]:
    claims = []
    for name, wanted in (
        ("equal widths, realizable", lambda r: not r["residual"] and _equal(r)),
        ("equal widths, with a residual", lambda r: r["residual"] and _equal(r)),
        ("unequal widths, realizable", lambda r: not r["residual"] and not _equal(r)),
        ("unequal widths, with a residual", lambda r: r["residual"] and not _equal(r)),
    ):
        here = [row for row in rows if wanted(row)]
        claims += [_agreement(f"{here[0]['loss']} data, {name}", here)] if here else []
    return claims


def _equal(row: Row) -> bool:
    hidden = str(row["dims"]).split("-")[1:-1]
    return len(set(hidden)) == 1


def _agreement(name: str, rows: list[Row]) -> Claim:
    settled = [row for row in rows if row["difference"] is not None]
    worst = max((row["difference"] for row in settled), default=float("nan"))
    measured = f"at most {worst:.1e} over {len(settled)} settled of {len(rows)} runs"
    return _claim("predicted", f"measured = predicted: {name}", "<= 1e-6", measured, worst <= 1e-6, len(rows))


def _rules(rows: list[Row]) -> list[Claim]:
    claims = []
    for rule in ("derived", "published"):
        shares = sorted(row[f"{rule}_step"] / row["true_edge"] for row in rows)
        middle = shares[len(shares) // 2]
        measured = f"between {shares[0]:.2e} and {shares[-1]:.2e} of the edge, median {middle:.2e}"
        claims.append(
            _claim(
                "edge", f"the {rule} step is below the true edge", "< 1", measured, shares[-1] < 1, len(rows)
            )
        )
        worst = max(row[f"{rule}_imbalance"] for row in rows)
        claims.append(_claim("drift", f"the imbalance stays below delta under the {rule} rule", "<= 1",
                            f"at most {worst:.6f} delta", worst <= 1, len(rows)))  # fmt: skip
    wider = sorted(row["derived_step"] / row["published_step"] for row in rows)
    measured = f"{wider[0]:.3g} to {wider[-1]:.3g} times, median {wider[len(wider) // 2]:.3g}"
    claims.append(_claim("edge", "the derived rule allows a larger step than the published one", "> 1", measured,
                        wider[0] > 1, len(rows)))  # fmt: skip
    drift = max(row["drift_error"] for row in rows)
    claims.append(_claim("drift", "the drift of balancedness is its exact expression", "<= 1e-13", f"{drift:.1e}",
                        drift <= 1e-13, len(rows)))  # fmt: skip
    return claims


def _ranks(rows: list[Row]) -> list[Claim]:
    claims = []
    for depth in sorted({row["depth"] for row in rows}):
        here = [row["rank"] for row in rows if row["depth"] == depth]
        if depth == 2:
            claims.append(_claim("rank", "two layers reach the global minimum", "every start",
                                f"{here.count(3)} of {len(here)}", here.count(3) == len(here), len(here)))  # fmt: skip
        else:
            claims += [_reached(depth, [row for row in rows if row["depth"] == depth])]
    return claims


def _reached(depth: int, rows: list[Row]) -> Claim:
    """Where deep runs are, early and late; a saddle is left in time, so the mean rank must not fall."""
    shown, means = [], []
    for name, words in (("early_rank", "early"), ("rank", "late")):
        here = [row[name] for row in rows]
        counts = ", ".join(f"{here.count(k)} at rank {k}" for k in sorted(set(here) - {-1}))
        moving = f", {here.count(-1)} under way" if -1 in here else ""
        shown.append(f"{words}: {counts}{moving}")
        means.append(sum(k for k in here if k >= 0))
    off = sum(row["violations"] for row in rows)
    name = f"{depth} layers stand still only at the best product of some rank, and leave low ranks in time"
    return _claim(
        "rank", name, "none elsewhere", "; ".join(shown), off == 0 and means[1] >= means[0], len(rows)
    )


def _stall(rows: list[Row]) -> list[Claim]:
    quiet = [row for row in rows if row["noise"] == 0]
    worst = max(abs(row["final_loss"] - 0.5) for row in quiet)
    shown = f"|loss - 1/2| at most {worst:.1e}"
    return [
        _claim(
            "rank",
            "W_j(0) = I/2 towards diag(2, -1) tends to diag(2, 0)",
            "loss 1/2",
            shown,
            worst < 1e-3,
            len(quiet),
        )
    ]


def _flow(rows: list[Row]) -> list[Claim]:
    slopes = [row["slope"] for row in rows]
    measured = f"{min(slopes):.4f} to {max(slopes):.4f}"
    holds = max(abs(s - 1) for s in slopes) <= _SLOPE
    gap = max(row["flows_differ"] for row in rows)
    return [
        _claim(
            "slope", "descent's gap to the flow falls like its step", "slope 1", measured, holds, len(rows)
        ),
        _claim(
            "flow",
            "the layers' and the product's flow are one",
            "<= 4e-8",
            f"{gap:.1e}",
            gap <= 4e-8,
            len(rows),
        ),
    ]


def _modes(rows: list[Row]) -> list[Claim]:
    error = max(row["flow_error"] for row in rows)
    times = max(abs(row["half_time"] / row["predicted_half_time"] - 1) for row in rows)
    return [
        _claim("modes", "the layers' flow follows the exact mode", "<= 1e-7 s", f"{error:.1e} s",
              error <= 1e-7, len(rows)),
        _claim("modes", "descent learns a mode at the predicted time", "within 1%", f"{100 * times:.2f}%",
              times <= 0.01, len(rows)),
    ]  # fmt: skip


def _kernel(rows: list[Row]) -> list[Claim]:
    claims = []
    worst = max(row["condition"] - 1 for row in rows if row["init"] == "orthogonal")
    claims.append(_claim("kernel", "orthogonal layers: condition of the tangent kernel", "1", f"1 + {worst:.1e}",
                        worst < 1e-12, len(rows)))  # fmt: skip
    for depth in sorted({row["depth"] for row in rows}):
        values = [row["condition"] for row in rows if row["init"] == "gaussian" and row["depth"] == depth]
        if values:
            claims.append(_claim("kernel", f"Gaussian layers, N = {depth}: condition of the tangent kernel", "> 100",
                                f"{min(values):.1e} to {max(values):.1e}", min(values) > 100, len(values)))  # fmt: skip
    return claims


def _search(rows: list[Row]) -> list[Claim]:
    claims = []
    for noise in sorted({row["noise"] for row in rows}):
        here = [row for row in rows if row["noise"] == noise]
        missed = {k: sum(row[f"{k}_excess"] > 1e-6 for row in here) for k in ("chain", "identity")}
        measured = f"chain {missed['chain']}, identity {missed['identity']} of {len(here)}"
        name = f"noise {noise:g}: the chain start misses no more often than the identity"
        claims.append(
            _claim(
                "gauge", name, "chain <= identity", measured, missed["chain"] <= missed["identity"], len(here)
            )
        )
    return claims


def _commutes(rows: list[Row]) -> list[Claim]:
    deviations = [row["deviation"] for row in rows if row["retraction"] == "qr"]
    if not deviations:
        return []
    measured = f"deviates by {min(deviations):.1e} to {max(deviations):.1e}"
    return [
        _claim(
            "gauge",
            "QR steps do not commute with the gauge",
            "> 1e-6",
            measured,
            max(deviations) > 1e-6,
            len(deviations),
        )
    ]


def _momentum(rows: list[Row]) -> list[Claim]:
    """The exponents of depth, from depths at which the square root of the condition dwarfs one."""
    deep = [row for row in rows if row["depth"] >= 256 and row["measured_factor"] is not None]
    if len({row["depth"] for row in deep}) < 2:
        return []
    depths = np.log([row["depth"] for row in deep])
    claims = []
    for column, what, wanted in (
        ("measured_factor", "heavy ball, best momentum: log-log slope of 1 - factor (measured)", -0.5),
        ("best_plain_factor", "plain descent on the same spectra (predicted)", -1.0),
    ):
        slope = float(np.polyfit(depths, np.log([1 - row[column] for row in deep]), 1)[0])
        expected = f"{wanted:g} +- {_EXPONENT:g}"
        holds = abs(slope - wanted) <= _EXPONENT
        claims.append(_claim("slope", f"{what}, N = 256..{max(r['depth'] for r in deep)}", expected, f"{slope:.4f}",
                            holds, len(deep)))  # fmt: skip
    inside = sum(row["measured_low"] <= row["predicted_factor"] <= row["measured_high"] for row in deep)
    worst = max(row["difference"] / (1 - row["predicted_factor"]) for row in deep)
    shown = f"within {worst:.1e} (1 - factor); the interval holds the prediction in {inside}"
    claims.append(_claim("predicted", "measured = predicted, N = 256 and more", "within 1e-4 (1 - factor)", shown,
                        worst <= 1e-4, len(deep)))  # fmt: skip
    return claims


_MORE: dict[str, Callable[[list[Row]], list[Claim]]] = {
    "guarantee": _guarantee,
    "rates": _rates,
    "tanh": _rates,
    "rules": _rules,
    "ranks": _ranks,
    "stall": _stall,
    "flow": _flow,
    "modes": _modes,
    "kernel": _kernel,
    "search": _search,
    "commutes": _commutes,
    "momentum": _momentum,
    **sparse_claims.CLAIMS,
}
