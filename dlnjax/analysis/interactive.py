"""The error curves to point at and zoom into, for a report's reader; needs the extra ``plotly``.

The script is part of the page (4 to 5 MB), so that it opens from disk without a network.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from matplotlib.colors import to_hex

from dlnjax.analysis import style, tables
from dlnjax.analysis.figures._common import relative_curve, title
from dlnjax.analysis.tables import Row

#: Points of a curve that are drawn; more cannot be told apart.
_POINTS = 300
#: Room between panels for a title and an axis, as a part of a panel.
_GAP = 0.25


def error_curves(rows: Sequence[Row]) -> str:
    """Every cell's relative error against steps as one HTML fragment, script included; empty without curves.

    A panel a step rule (and data, width, ...), a line a cell, coloured by depth; hovering names the cell. The same
    bytes for the same rows and version of plotly.

    Args:
      rows: of ``tables.measure``.

    Raises:
      ImportError: plotly is absent; install ``dlnjax[plotly]``.
    """
    shown = [row for row in rows if relative_curve(row) is not None]
    panels = list(tables.groups(shown, without=("depth", "seed", "engine")).values())
    if not panels:
        return ""
    made = _module("plotly.subplots").make_subplots(
        rows=len(panels),
        cols=1,
        vertical_spacing=_GAP / len(panels),
        subplot_titles=[_plain(title(group[0], rows)) for group in panels],
    )
    colours = style.depth_colours([row["depth"] for row in shown])
    for place, group in enumerate(panels, start=1):
        for row in group:
            red, green, blue = colours[row["depth"]][:3]
            made.add_trace(_line(row, to_hex((red, green, blue))), row=place, col=1)
    made.update_yaxes(
        type="log",
        exponentformat="power",
        dtick=4,
        title_text="relative error",
        automargin=True,
        tickfont_size=12,
    )
    made.update_xaxes(title_text="step", rangemode="tozero")
    made.update_layout(
        height=300 * len(panels), showlegend=False, template="plotly_white", hovermode="closest",
        margin={"l": 60, "r": 10, "t": 40, "b": 50}, font={"size": 13, "color": style.COLOURS["ink"]},
    )  # fmt: skip
    return made.to_html(
        full_html=False,
        include_plotlyjs=True,
        include_mathjax=False,
        div_id="interactive-error-curves",
        default_width="100%",
        config={"displayModeBar": False, "responsive": True},
    )


def _line(row: Row, colour: str) -> dict[str, object]:
    step, error = relative_curve(row) or (np.zeros(0), np.zeros(0))
    keep = np.unique(np.linspace(0, step.size - 1, _POINTS).round().astype(int))
    name = f"N = {row['depth']}, seed {row['seed']}, {row['engine']}"
    rate = "" if row["measured_factor"] is None else f"<br>measured factor {row['measured_factor']:.8f}"
    return {
        "type": "scatter",
        "mode": "lines",
        "x": step[keep].astype(int).tolist(),
        "y": [float(f"{value:.5g}") for value in error[keep]],
        "line": {"color": colour, "width": 2},
        "hovertemplate": f"{name}<br>step %{{x}}: %{{y:.2e}}{rate}<extra></extra>",
    }


def _plain(words: str) -> str:
    """A panel's title without matplotlib's mathematics."""
    return words.replace("\n", ", ").replace("$", "").replace("\\", "")


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError('plotly is not installed; pip install "dlnjax[plotly]"') from error
