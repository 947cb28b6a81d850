"""A study as one page to read: question, answer, claims, figures, what went wrong, and how to do it again.

``report.html`` needs no other file and no network; ``report.md`` says the same as text and names the figures'
files. Both are the same, byte for byte, whenever the results are.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from dlnjax import analysis
from dlnjax.analysis import claims, tables, text

#: Figure -> (title, caption). What a reader must know to read the figure without the text around it.
CAPTIONS = {
    "error_curves": (
        "Error curves",
        "Error of the product against steps, one line a depth N, lowest seed. Dashed: the slope predicted "
        "from the spectrum at the solution, drawn through the middle of the window in which the rate was "
        "fitted. Where a curve turns level it has reached the rounding floor.",
    ),
    "rate_against_depth": (
        "Rate against depth",
        "How far the factor per step is from 1, against depth: prediction (lines) and measurement (markers; "
        "discs trained layer by layer, squares by the exact reduction), with fitted intervals, usually "
        "smaller than a marker. Where there is a second panel, it shows how far measurement and prediction "
        "are apart (largest over seeds and engines) with the half width of the fitted interval.",
    ),
    "stability_edge": (
        "Stability edge",
        "Runs at fractions of the predicted largest stable step. Left: discs converge on every seed, crosses "
        "on none. Right: the error left at the end of the run (median over seeds), which jumps at the edge.",
    ),
    "rate_against_width": (
        "Rate against width",
        "How far the factor per step is from 1, against the hidden width: prediction (lines) and measurement "
        "(markers), with fitted intervals. Dashed: the output dimension, from which on the last layer is wide.",
    ),
    "phase_diagram": (
        "Step size and depth",
        "A mark for every step size and depth: its colour is the median number of iterations to the tolerance, a cross "
        "says that a seed did not converge. Dashed: the predicted stability edge.",
    ),
    "gauge_directions": (
        "Gauge directions",
        "Left: the smallest eigenvalue over the step at the solution, a mark a draw, lines through medians. Right: the "
        "error left at the end of the run, relative to its start.",
    ),
    "step_grid": (
        "The whole grid of steps",
        "Median steps to the tolerance, a line a method, a column a step size; below it how many seeds converged where "
        "some did not, a dash where none did. A frame marks the best step at which all did.",
    ),
    "steps_to_tolerance": (
        "Steps to tolerance",
        "Median steps at the best step size of the grid against depth, a line a start, a panel a width; a cross where "
        "no step size makes every seed converge.",
    ),
    "noise_floor": (
        "Where stochastic descent stops",
        "Root mean square error of the last quarter of a run against the step size: medians over seeds, bars to the "
        "quartiles. Dashed: slope 1/2.",
    ),
    "accuracy": (
        "Test accuracy beside depth",
        "Above: steps until the accuracy on held-out samples stays within .01 of where it ends. Below: that accuracy. "
        "Dashed: the accuracy of the best product of the width's rank.",
    ),
}
# Long lists of the manifest, of no use to a reader.
_HIDDEN = ("cells", "partition", "history", "manifest_version", "scales", "config_sha256")


class Report(NamedTuple):
    """The content, before it is set as HTML or Markdown.

    Attributes:
      title, question, answer: of the study, a line each.
      claims: the table of claims.
      tables: the tables of numbers.
      figures: ``(name, title, caption, svg)`` each.
      outside: cells that are not as expected, a line each, the count first.
      config: the config as TOML.
      facts: versions, device, precision, commit, ... as ``(name, value)``.
      commands: what reproduces the page.
      live: interactive curves as an HTML fragment; empty for none.
    """

    title: str
    question: str
    answer: str
    claims: text.Table
    tables: list[text.Table]
    figures: list[tuple[str, str, str, str]]
    outside: list[str]
    config: str
    facts: list[tuple[str, str]]
    commands: list[str]
    live: str = ""


def write(out: Path | str, format: str = "html", *, interactive: bool | None = None) -> Path:
    """Write ``report.html`` or ``report.md`` (and the figures it shows) into a sweep's folder.

    Args:
      out: the folder given to ``dlnjax run``.
      format: ``html`` or ``md``.
      interactive: add curves to point at and zoom into, with the script that draws them (about 5 MB, html only);
        None does so where plotly is installed.

    Returns:
      The page's path.

    Raises:
      ValueError: another format, or Markdown that is to be interactive.
      FileNotFoundError: there are no results in ``out``.
      ImportError: pyarrow or matplotlib is absent; install ``dlnjax[study]``. For ``interactive``: plotly is;
        install ``dlnjax[plotly]``.
    """
    if format not in ("html", "md"):
        raise ValueError(f"format {format!r}; choose html or md")
    if interactive is None:
        interactive = format == "html" and find_spec("plotly") is not None
    if interactive and format != "html":
        raise ValueError(f"format {format!r} cannot be interactive; choose html")
    from dlnjax.analysis.report import page
    from dlnjax.sweep.store import atomic

    path = Path(out) / f"report.{format}"
    render = {"html": page.html, "md": page.markdown}[format]
    atomic.replace(path, render(gather(out, interactive=interactive)))
    return path


def gather(out: Path | str, *, interactive: bool = False) -> Report:
    """Everything a report says, from the folder ``out``; also writes its tables and figures there."""
    out = Path(out)
    rows, sweep = analysis.study(out)
    analysis.write(out, rows, sweep)
    found, outside = claims.check(rows, sweep.claims if sweep else claims.GENERAL)
    study = sweep.study if sweep else str(rows[0]["study"])
    return Report(
        title=study.replace("_", " "),
        question=sweep.question if sweep else "",
        answer=text.answer(found).removeprefix("Answer: "),
        claims=text.claims_table(found),
        tables=text.measured_tables(rows),
        figures=_figures(out / "figures"),
        outside=text.outside_list(outside, rows).splitlines(),
        config=_text(out / "config.toml"),
        facts=[*_counts(rows), *_facts(out)],
        commands=[f"dlnjax run config.toml --out {study}", f"dlnjax report {study}"],
        live=_live(rows) if interactive else "",
    )


def _live(rows: list[tables.Row]) -> str:
    from dlnjax.analysis import interactive

    return interactive.error_curves(rows)


def _figures(folder: Path) -> list[tuple[str, str, str, str]]:
    paths = {name: folder / f"{name}.svg" for name in CAPTIONS}
    return [(name, *CAPTIONS[name], _text(path)) for name, path in paths.items() if path.exists()]


def _counts(rows: list[tables.Row]) -> list[tuple[str, str]]:
    """How many cells of each status."""
    names = sorted({row["status"] for row in rows})
    counted = ", ".join(f"{sum(row['status'] == name for row in rows)} {name}" for name in names)
    return [("cells", f"{len(rows)} ({counted})")]


def _facts(out: Path) -> list[tuple[str, str]]:
    """The manifest's short entries; nested ones with a dot."""
    from dlnjax.sweep.store import manifest

    flat: list[tuple[str, str]] = []
    for name, value in (manifest.load(out) or {}).items():
        if name not in _HIDDEN and value is not None:
            nested = isinstance(value, dict)
            flat += (
                [(f"{name}.{k}", _short(v)) for k, v in value.items()] if nested else [(name, _short(value))]
            )
    return flat


def _short(value: Any) -> str:
    words = isinstance(value, list) and all(isinstance(one, str) for one in value)
    shown = ", ".join(value) if words else value if isinstance(value, str) else json.dumps(value)
    return shown if len(shown) <= 120 else shown[:117] + "..."


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
