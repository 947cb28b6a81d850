"""What the width does to the rate: nothing, but for its order with the output dimension d_N."""

from __future__ import annotations

from collections.abc import Sequence

from dlnjax.analysis.claims._claim import TOLERANCE, Claim, made, name, plain, span
from dlnjax.analysis.tables import Row, groups


def widths(rows: Sequence[Row]) -> list[Claim]:
    """One factor below d_N; ``1 - mu`` from d_N on, where the last layer hides nothing of the first."""
    rows = [r for r in plain(rows) if r["step_rule"] != "optimal" and r["measured_factor"] is not None]
    rows = [row for row in rows if row["output_dim"]]
    claims = []
    for key, group in groups(rows, without=("width", "depth", "seed", "engine")).items():
        narrow = [row for row in group if row["width"] < row["output_dim"]]
        if len({row["width"] for row in narrow}) > 1:
            claims.append(_flat(name(key, rows), narrow))
        wide = [row for row in group if row["width"] >= row["output_dim"]]
        if wide:
            claims.append(_free(name(key, rows), wide))
    return claims


def _flat(where: str, rows: list[Row]) -> Claim:
    factors = [row["measured_factor"] for row in rows]
    spread, limit = max(factors) - min(factors), TOLERANCE[rows[0]["precision"]][0]
    what = f"`{where}`: one factor at all widths {_widths(rows)} below d_N = {rows[0]['output_dim']}"
    measured = f"spread {spread:.1e} at {sorted(factors)[len(factors) // 2]:.8f}"
    return made("width", what, f"spread <= {limit:.0e}", measured, spread <= limit, len(rows))


def _free(where: str, rows: list[Row]) -> Claim:
    gap = max(abs(row["measured_factor"] - (1 - row["step_size"])) for row in rows)
    limit = TOLERANCE[rows[0]["precision"]][0]
    what = f"`{where}`: factor 1 - mu at all widths {_widths(rows)} from d_N = {rows[0]['output_dim']} on"
    return made("width", what, f"within {limit:.0e}", f"within {gap:.1e}", gap <= limit, len(rows))


def _widths(rows: list[Row]) -> str:
    return span({row["width"] for row in rows})
