"""From a sweep's folder to its answer: fitted rates, tables, claims, figures and the report.

Reads the store only and needs no JAX. ``write`` makes everything that a finished (or interrupted) run leaves
for its reader; the modules give the parts: ``rates`` the fit, ``tables`` rows and data frames, ``claims`` the
verdicts, ``figures`` the plots, ``report`` the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dlnjax.analysis.tables import Row
    from dlnjax.sweep.config.sweep import Problem, Sweep

__all__ = ["Written", "write"]


class Written(NamedTuple):
    """What ``write`` left.

    Attributes:
      paths: the files written, tables first.
      text: the answer to print, the file names included.
    """

    paths: list[Path]
    text: str


class Study(NamedTuple):
    """What an analysis starts from.

    Attributes:
      rows: of ``tables.measure``.
      sweep: what the folder's config says; None without one.
    """

    rows: list[Row]
    sweep: Sweep | None


def write(out: Path | str, rows: list[Row] | None = None, sweep: Sweep | None = None) -> Written:
    """Write summary.csv, edge.csv, claims.csv and figures/ into a sweep's folder; say what they show.

    Files are the same, byte for byte, whenever the results are. A file that has nothing to show is
    not written, and removed where an earlier run left one.

    Args:
      out: the folder given to ``dlnjax run``.
      rows, sweep: of ``study(out)``, where the caller has them already.

    Raises:
      FileNotFoundError: there are no results in ``out``.
      SpecError: its config.toml is not that of a sweep.
      ImportError: pyarrow or matplotlib is absent; install ``dlnjax[study]``.
    """
    from dlnjax.analysis import claims, tables, text

    out = Path(out)
    if rows is None:
        rows, sweep = study(out)
    sweep = sweep or config(out)
    checked, outside = claims.check(rows, sweep.claims if sweep else claims.GENERAL)
    plain, edge = tables.split(rows)
    files = {
        "summary.csv": tables.to_csv(plain) if plain else None,
        "edge.csv": tables.to_csv(edge) if edge else None,
        "claims.csv": tables.to_csv(claims.to_rows(checked), claims.Claim._fields) if checked else None,
    }
    paths = [path for name, content in files.items() if (path := _keep(out / name, content))]
    paths += _figures(out / "figures", rows, sweep.figures if sweep else None)
    listed = "\n".join(["Files", *(f"  {path}" for path in paths)])
    return Written(paths, "\n\n".join([text.compose(rows, checked, outside), listed]))


def measured(out: Path | str) -> list[Row]:
    """``tables.measure`` of a folder, with the tolerance and the output dimension of its config."""
    return study(out).rows


def study(out: Path | str) -> Study:
    """The rows of a folder, and its config.

    Raises:
      FileNotFoundError: there are no results in ``out``.
      SpecError: its config.toml is not that of a sweep.
      ImportError: pyarrow is absent; install ``dlnjax[study]``.
    """
    try:
        from dlnjax.sweep import store
    except ImportError as error:
        raise ImportError('pyarrow is not installed; pip install "dlnjax[study]"') from error
    from dlnjax.analysis import tables

    table = store.read(out)
    sweep = config(out)
    if sweep is None:
        return Study(tables.measure(table), None)
    return Study(tables.measure(table, sweep.record.tolerance, _outputs(sweep.problem)), sweep)


def config(out: Path | str) -> Sweep | None:
    """The sweep of the folder's config.toml (its data are not opened); None without that file.

    Raises:
      SpecError: the file is not a sweep's config.
      ValueError: it is not the config that the folder's manifest names: it was edited, or is of before an extension.
    """
    from dlnjax.sweep.config import loading
    from dlnjax.sweep.store import manifest, manifest_fields

    path = Path(out) / manifest.CONFIG
    if not path.exists():
        return None
    content = manifest.load(out)
    if content is not None and (why := manifest_fields.config_damage(path, content)):
        raise ValueError(why)
    return loading.load(path, check_data=False)


def _outputs(problem: Problem) -> int | None:
    """Outputs of the networks of a problem; of a data set its ten classes, of a user's own data unknown."""
    return 10 if problem.kind in ("digits", "mnist") else problem.output_dim


def _keep(path: Path, content: str | None) -> Path | None:
    """Write the file, or remove an old one where there is nothing to write."""
    if content is None:
        path.unlink(missing_ok=True)
        return None
    from dlnjax.sweep.store import atomic

    atomic.replace(path, content)
    return path


def _figures(folder: Path, rows: list[Row], names: Sequence[str] | None) -> list[Path]:
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
