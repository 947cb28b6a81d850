"""From a sweep's folder to its answer: fitted rates, tables, claims, figures and the report.

Reads the store only and needs no JAX. ``write`` makes everything that a finished (or interrupted) run leaves
for its reader; the modules give the parts: ``rates`` the fit, ``tables`` rows and data frames, ``claims`` the
verdicts, ``figures`` the plots, ``report`` the page.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Written", "write"]


#: Classes, and so outputs, of the problems that are data sets.
_CLASSES = {"digits": 10, "mnist": 10}


class Written(NamedTuple):
    """What ``write`` left.

    Attributes:
      paths: the files written, tables first.
      text: the answer to print, the file names included.
    """

    paths: list[Path]
    text: str


def write(out: Path | str, rows: list[dict[str, Any]] | None = None) -> Written:
    """Write summary.csv, edge.csv, claims.csv and figures/ into a sweep's folder; say what they show.

    Files are the same, byte for byte, whenever the results are. A file that has nothing to show is
    not written, and removed where an earlier run left one.

    Args:
      out: the folder given to ``dlnjax run``.
      rows: of ``measured(out)``, where the caller has them already.

    Raises:
      FileNotFoundError: there are no results in ``out``.
      ImportError: pyarrow or matplotlib is absent; install ``dlnjax[study]``.
    """
    from dlnjax.analysis import claims, tables, text

    out = Path(out)
    rows = measured(out) if rows is None else rows
    chosen = config(out)
    found, outside = claims.check(rows, chosen.get("claims", claims.GENERAL))
    plain, edge = tables.split(rows)
    files = {
        "summary.csv": tables.to_csv(plain) if plain else None,
        "edge.csv": tables.to_csv(edge) if edge else None,
        "claims.csv": tables.to_csv(claims.to_rows(found), claims.Claim._fields) if found else None,
    }
    paths = [path for name, content in files.items() if (path := _keep(out / name, content))]
    paths += _figures(out / "figures", rows, chosen.get("figures"))
    listed = "\n".join(["Files", *(f"  {path}" for path in paths)])
    return Written(paths, "\n\n".join([text.compose(rows, found, outside), listed]))


def measured(out: Path | str) -> list[dict[str, Any]]:
    """``tables.measure`` of a folder, with the tolerance and the output dimension of its config."""
    try:
        from dlnjax.sweep import store
    except ImportError as error:
        raise ImportError('pyarrow is not installed; pip install "dlnjax[study]"') from error
    from dlnjax.analysis import tables

    settings = config(out)
    tolerance = settings.get("record", {}).get("tolerance", 1e-8)
    problem = settings.get("problem", {})
    outputs = problem.get("output_dim", _CLASSES.get(problem.get("kind")))
    return tables.measure(store.read(out), tolerance, outputs)


def config(out: Path | str) -> dict[str, Any]:
    """The folder's config.toml as a dictionary; empty if it has none."""
    path = Path(out) / "config.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _keep(path: Path, content: str | None) -> Path | None:
    """Write the file, or remove an old one where there is nothing to write."""
    if content is None:
        path.unlink(missing_ok=True)
        return None
    path.write_text(content, encoding="utf-8", newline="\n")
    return path


def _figures(folder: Path, rows: list[dict[str, Any]], names: Sequence[str] | None) -> list[Path]:
    """The figures that a study names, or the general ones; one with nothing to show is left out."""
    try:
        from dlnjax.analysis import figures
    except ImportError as error:
        raise ImportError('matplotlib is not installed; pip install "dlnjax[study]"') from error
    paths = []
    chosen = figures.GENERAL if names is None else names
    for name, draw in figures.STUDY.items():
        figure = draw(rows) if name in chosen else None
        if figure is not None:
            paths += figures.save(figure, folder / name)
        else:
            for suffix in (".png", ".svg"):
                (folder / name).with_suffix(suffix).unlink(missing_ok=True)
    return paths
