"""What the figures share: rows from whatever is given, panels and their titles, curves fit for an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlnjax.analysis import style, tables
from dlnjax.analysis.tables import Row, Table

INK, GREY = style.COLOURS["ink"], style.COLOURS["grey"]
DASHES = (0, (4, 2.5))
ERROR = r"relative error $\Vert W_t-W_\ast\Vert\,/\,\Vert W_0-W_\ast\Vert$"


def as_rows(table: Table) -> Sequence[Row]:
    return table if isinstance(table, (list, tuple)) else tables.measure(table)


def make_panels(count: int, columns: int, *, height: float) -> tuple[Figure, list[Axes]]:
    across = min(columns, count)
    down = math.ceil(count / across)
    width = style.PAGE if across > 1 else style.COLUMN * 1.3
    figure, matrix = style.grid(down, across, width=width, height=height * down)
    flat = list(matrix.flat)
    for axes in flat[count:]:
        axes.set_axis_off()
    return figure, flat


def title(row: Row, rows: Sequence[Row], hide: Sequence[str] = ()) -> str:
    """The panel's coordinates that vary between panels, a step rule with its number."""
    names = [n for n in tables.varying(rows) if n not in ("step", "depth", "seed", "engine", *hide)]
    words = [rule_name(row) if name == "step_rule" else tables.describe(row, [name]) for name in names]
    if not words:
        return "" if "step_rule" in hide else rule_name(row)
    if "step_rule" in names and len(words) > 1:
        return f"{words[0]}\n{', '.join(words[1:])}"  # side by side, long titles would run into each other
    return ", ".join(words)


def rule_name(row: Row) -> str:
    """``fixed step 0.01``: the step rule in words."""
    step = f"{row['step']:g}"
    return {
        "fixed": f"fixed step {step}",
        "optimal": rf"{step} of the optimal step",
        "middle": f"middle scaling, step {step}",
        "edge": f"{step} of the stability edge",
    }.get(row["step_rule"], f"{row['step_rule']} {step}")


def relative_curve(row: Row) -> tuple[np.ndarray, np.ndarray] | None:
    """``(steps, error relative to the first)`` where finite and positive; None without two such records."""
    step, distance = row.get("curve_step"), row.get("curve_distance")
    if step is None or distance is None or not np.isfinite(distance[0]) or distance[0] <= 0:
        return None
    good = np.isfinite(distance) & (distance > 0)
    return (step[good], distance[good] / distance[0]) if good.sum() > 1 else None
