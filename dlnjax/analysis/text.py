"""The printed answer: measured beside predicted, claims with verdicts, every cell outside of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from dlnjax.analysis.claims import Claim, Outside, deviation
from dlnjax.analysis.tables import COORDINATES, Row, caption, describe, groups, varying

_HEAD = ("cells", "iterations", "measured", "+-", "predicted", "|m - p|", "/ (1 - p)", "guaranteed")
_SENTENCES = {
    "fixed": "at a fixed step the factor is the same at every depth",
    "optimal": "at the best step for each depth 1 - factor falls like N^{:.3f}",
    "middle": "with middle scaling the factor is the same at every depth",
}
_NO_RATE = ("cells", "smallest eigenvalue", "largest", "loss", "error", "steps", "status")


class Table(NamedTuple):
    """A table ready to be set: title, column names, lines; ``words`` if it holds prose, not numbers."""

    title: str
    head: tuple[str, ...]
    lines: list[list[str]]
    words: bool = False


def compose(rows: Sequence[Row], claims: Sequence[Claim], outside: Sequence[Outside]) -> str:
    """Everything that a run prints about its results, but the file names.

    Args:
      rows: of ``tables.measure``.
      claims, outside: of ``claims.check``.
    """
    if not rows:
        return "No cells."
    parts = [render(table) for table in [*measured_tables(rows), claims_table(claims)]]
    parts += [outside_list(outside, rows), answer(claims)]
    return "\n\n".join(part for part in parts if part)


def answer(claims: Sequence[Claim]) -> str:
    """The study's answer in one line: what depth does under each step rule, and whether theory said so."""
    if not claims:
        return "Nothing can be claimed from these cells."
    parts = []
    for rule, sentence in _SENTENCES.items():
        here = [
            c
            for c in claims
            if c.claim.startswith((f"`{rule}`", f"`{rule},")) and c.kind in ("flat", "slope")
        ]
        if here and all(claim.verdict == "holds" for claim in here):
            slope = float(here[-1].measured) if here[-1].kind == "slope" else 0.0
            parts.append(sentence.format(slope))
    failed = [claim for claim in claims if claim.verdict != "holds"]
    total = f"{len(failed)} of {len(claims)} claims fail" if failed else f"all {len(claims)} claims hold"
    return f"Answer: {'; '.join([*parts, total])}."


def measured_tables(rows: Sequence[Row]) -> list[Table]:
    """The tables of numbers that have something to show: rates, spectra where there is no rate, the edge."""
    plain = [row for row in rows if row["step_rule"] != "edge"]
    return [table for table in (rate_table(plain), no_rate_table(plain), edge_table(rows)) if table.lines]


def rate_table(rows: Sequence[Row]) -> Table:
    """A line a step rule, engine and depth (and what else varies but the seed), where a rate was fitted."""
    names = _names(rows)
    lines = []
    for group in groups(rows, without=("seed",)).values():
        fitted = [row for row in group if row["measured_factor"] is not None]
        if fitted:
            lines.append([*_labels(group[0], names), *_rates(group, fitted)])
    return _table(
        "Measured beside predicted (medians over seeds, largest deviations)", (*names, *_HEAD), lines
    )


def no_rate_table(rows: Sequence[Row]) -> Table:
    """The spectrum and the loss reached of groups in which no cell has a rate."""
    names = _names(rows)
    lines = []
    for group in groups(rows, without=("seed",)).values():
        if all(row["measured_factor"] is None for row in group):
            values = [
                _median(group, c)
                for c in ("eigenvalue_min", "eigenvalue_max", "final_loss", "final_distance")
            ]
            statuses = ", ".join(sorted({row["status"] for row in group}))
            numbers = [f"{v:.3e}" if v is not None else "-" for v in values]
            steps = _median(group, "num_steps")
            lines.append([*_labels(group[0], names), str(len(group)), *numbers, _whole(steps), statuses])
    return _table("No rate fitted: the spectrum and the loss reached (medians)", (*names, *_NO_RATE), lines)


def edge_table(rows: Sequence[Row]) -> Table:
    """Converged cells out of all, by fraction of the predicted edge (across) and depth (down)."""
    rows = [row for row in rows if row["step_rule"] == "edge"]
    steps = sorted({row["step"] for row in rows})
    names = [n for n in _names(rows) if n not in ("step", "step_rule")]
    lines = []
    for group in groups(rows, without=("seed", "step")).values():
        at = [[row["status"] == "converged" for row in group if row["step"] == step] for step in steps]
        lines.append([*_labels(group[0], names), *(f"{sum(a)}/{len(a)}" if a else "-" for a in at)])
    head = (*names, *(f"{step:g}" for step in steps))
    return _table("Converged cells at a fraction of the predicted stability edge", head, lines)


def claims_table(claims: Iterable[Claim]) -> Table:
    """One claim a line, the verdict first."""
    lines = [[c.verdict, c.claim, c.expected, c.measured] for c in claims]
    return _table("Claims", ("verdict", "claim", "expected", "measured"), lines, words=True)


def outside_list(outside: Sequence[Outside], rows: Sequence[Row]) -> str:
    """Every cell outside, out of ``rows``; those on one line that differ in depth and seed only."""
    if not outside:
        return f"Outside: none of {len(rows)} cells."
    varied = varying(rows)
    names = [
        n
        for n in COORDINATES
        if n == "step_rule" or (n in (*varied, "engine") and n not in ("depth", "seed"))
    ]
    seeds: dict[tuple[str, int, str], list[int]] = {}
    for row, why in outside:
        seeds.setdefault((describe(row, names), row["depth"], why), []).append(row["seed"])
    depths: dict[tuple[str, str, str], list[int]] = {}
    for (where, depth, why), found in seeds.items():
        depths.setdefault((where, _listed(found), why), []).append(depth)
    lines = [f"  {where}, N = {_listed(at)}, seed {seed}: {why}" for (where, seed, why), at in depths.items()]
    return "\n".join([f"Outside: {len(outside)} of {len(rows)} cells.", *lines])


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))


def _rates(group: list[Row], fitted: list[Row]) -> list[str]:
    half = max((row["measured_high"] - row["measured_low"]) / 2 for row in fitted)
    gaps = [gap for gap in map(deviation, fitted) if gap is not None]
    predicted, guaranteed = _median(fitted, "predicted_factor"), _median(fitted, "guaranteed_factor")
    count = len(group)
    return [
        f"{count}" if len(fitted) == count else f"{len(fitted)}/{count}",
        _whole(_median(group, "iterations")),
        f"{np.median([row['measured_factor'] for row in fitted]):.10f}",
        f"{half:.0e}",
        f"{predicted:.10f}" if predicted is not None else "-",
        f"{max(g[0] for g in gaps):.1e}" if gaps else "-",
        f"{max(g[1] for g in gaps):.1e}" if gaps else "-",
        f"{guaranteed:.8f}" if guaranteed is not None else "-",
    ]


def _names(rows: Sequence[Row]) -> list[str]:
    """Columns that tell lines apart: rule, engine and depth always, other coordinates where they vary."""
    varied = varying(rows)
    return [n for n in COORDINATES if n != "seed" and n in ("step_rule", "step", "engine", "depth", *varied)]


def _labels(row: Row, names: Sequence[str]) -> list[str]:
    return [f"{row[name]:g}" if isinstance(row[name], float) else str(row[name]) for name in names]


def _median(rows: Iterable[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.median(values)) if values else None


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _table(title: str, head: Sequence[str], lines: list[list[str]], *, words: bool = False) -> Table:
    return Table(title, tuple(map(caption, head)), lines, words)


def render(table: Table) -> str:
    """A table as aligned text under its title; empty without lines."""
    if not table.lines:
        return ""
    whole = [list(table.head), *table.lines]
    widths = [max(len(line[i]) for line in whole) for i in range(len(table.head))]
    form = str.ljust if table.words else str.rjust
    shown = [
        "  " + "  ".join(form(c, w) for c, w in zip(line, widths, strict=True)).rstrip() for line in whole
    ]
    return "\n".join([table.title, *shown])
