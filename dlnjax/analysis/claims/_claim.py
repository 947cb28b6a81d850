"""What a claim is, and what all of them are made with: tolerances, groups in words, cells apart from the edge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dlnjax.analysis.tables import COORDINATES, Key, Row, describe, varying

#: Largest ``|measured - predicted|``, and the same relative to ``1 - factor``; flatness uses the first.
TOLERANCE = {"float64": (1e-6, 1e-4), "float32": (1e-3, 1e-1)}


class Claim(NamedTuple):
    """One line of the verdict.

    Attributes:
      kind: what sort of statement it is: ``predicted``, ``slope``, ``edge``, ...
      claim: what is claimed, in words.
      expected: what theory says.
      measured: what the cells say.
      verdict: ``holds`` or ``fails``.
      cells: how many cells the claim rests on.
    """

    kind: str
    claim: str
    expected: str
    measured: str
    verdict: str
    cells: int


class Outside(NamedTuple):
    """A cell that does not do what is expected of it, and why."""

    row: Row
    why: str


def made(kind: str, claim: str, expected: str, measured: str, holds: bool, cells: int) -> Claim:
    """A claim with its verdict in words."""
    return Claim(kind, claim, expected, measured, "holds" if holds else "fails", cells)


def plain(rows: Sequence[Row]) -> list[Row]:
    """The cells that are meant to converge: all but those around the stability edge."""
    return [row for row in rows if row["step_rule"] != "edge"]


def deviation(row: Row) -> tuple[float, float] | None:
    """``|measured - predicted|`` and the same relative to ``1 - predicted``; None where either is missing."""
    measured, predicted = row["measured_factor"], row.get("predicted_factor")
    if measured is None or predicted is None:
        return None
    gap = abs(measured - predicted)
    return gap, gap / abs(1 - predicted) if predicted != 1 else math.inf


def agrees(row: Row) -> bool:
    """Whether a row's measured factor is the predicted one within both tolerances."""
    gap = deviation(row)
    limits = TOLERANCE[row["precision"]]
    return gap is not None and gap[0] <= limits[0] and gap[1] <= limits[1]


def to_rows(claims: Iterable[Claim]) -> list[Row]:
    """For ``tables.to_csv`` with the columns ``Claim._fields``."""
    return [claim._asdict() for claim in claims]


def name(key: Key, rows: Sequence[Row], hide: Sequence[str] = (), default: str = "") -> str:
    """A group's name: its step rule and whatever else tells it from the other groups."""
    values = dict(key)
    varied = varying(rows)
    names = [n for n in COORDINATES if n in values and n not in hide and (n == "step_rule" or n in varied)]
    return describe(values, names) or default


def span(depths: set[int]) -> str:
    low, high = min(depths), max(depths)
    return str(low) if low == high else f"{low}..{high}"
