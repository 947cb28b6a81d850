"""``dlnjax reproduce``: compute every committed result again and say which numbers moved.

Each study of the results folder is run from its config by the command itself, in a process of its own and into another
folder; then its tables are held against the committed ones (``analysis.compare``). Nothing committed is touched
unless ``--update`` asks for it. What each study took is printed at the end and kept in ``times.csv``.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

#: Cells that ``--fast`` computes: study -> what is set in its config. About a minute in all on two cores.
FAST: dict[str, tuple[str, ...]] = {
    "depth_rate": ("seed=[0]", "depth=[2,8]"),
    "widths": ("seed=[0]", "width=[4]", "depth=[8]"),
}
#: Lines shown of what moved in one study.
_MOST = 12
#: What is committed of a results folder.
_KEPT = ("config.toml", "manifest.json", "summary.csv", "edge.csv", "claims.csv", "figures")
_TIMES = "times.csv"


class Told(NamedTuple):
    """What one study came to: a line of ``times.csv``, but for what moved.

    Attributes:
      seconds: wall clock of the command, Python's own start included.
      programs, compile_seconds, waited: what XLA compiled, for how long, and how long nothing else was done for it;
        0 where the study does not tell (campaigns).
      moved: what moved, or why there is nothing to compare.
    """

    study: str
    rows: int
    seconds: float
    programs: int
    compile_seconds: float
    waited: float
    moved: list[str]


def reproduce(args: argparse.Namespace) -> int:
    """Run the studies, print a line each and what moved; 1 if anything did, or a run failed."""
    names = args.studies or _committed(args.results, args.configs)
    if args.fast:
        names = [name for name in names if name in FAST]
    _check(names, args)
    began, found = time.monotonic(), []
    pool = ThreadPoolExecutor(args.jobs)  # each study is a process of its own
    try:
        for done in as_completed([pool.submit(_study, name, args) for name in names]):
            found.append(done.result())
            print(*_lines(found[-1]), sep="\n", flush=True)
            _keep_times(found, args)
    finally:
        pool.shutdown(cancel_futures=True)
    seconds = time.monotonic() - began
    bad = [told.study for told in found if told.moved]
    verdict = f"moved: {', '.join(bad)}" if bad else "nothing moved beyond its tolerance"
    print(*_table(found), f"{len(names)} studies in {seconds:.0f} s; {verdict}", sep="\n")
    return int(bool(bad))


def _lines(told: Told) -> list[str]:
    """What is printed of a study as soon as it is known."""
    if not told.rows:
        return [f"{told.study}: the run failed after {told.seconds:.0f} s", *(f"  {m}" for m in told.moved)]
    count = f"{len(told.moved)} moved" if told.moved else "nothing moved"
    shown = told.moved[:_MOST]
    if len(told.moved) > _MOST:
        shown += [f"... and {len(told.moved) - _MOST} more"]
    return [f"{told.study}: {told.rows} rows in {told.seconds:.0f} s, {count}", *(f"  {m}" for m in shown)]


def _table(found: Sequence[Told]) -> list[str]:
    """Where the time went, the longest first."""
    ordered = sorted(found, key=lambda told: -told.seconds)
    width = max(len(told.study) for told in found)
    head = f"{'study':{width}}  seconds  programs  compiling  waited for it"
    return [head] + [
        f"{t.study:{width}}  {t.seconds:7.0f}  {t.programs:8}  {t.compile_seconds:9.0f}  {t.waited:13.0f}"
        for t in ordered
    ]


def _keep_times(found: Sequence[Told], args: argparse.Namespace) -> None:
    """``times.csv`` beside the new results; with ``--update`` beside the committed ones, other studies' lines kept."""
    rows = {told.study: [told.study, *_numbers(told), len(told.moved)] for told in found}
    _write(args.out / _TIMES, rows)
    if args.update and not args.fast:
        place = args.results / _TIMES
        before = {}
        if place.exists():
            with place.open(encoding="utf-8", newline="") as file:
                before = {row[0]: row for row in [*csv.reader(file)][1:]}
        _write(place, before | rows)


def _numbers(told: Told) -> list[str]:
    return [str(told.rows), f"{told.seconds:.1f}", str(told.programs),
            f"{told.compile_seconds:.1f}", f"{told.waited:.1f}"]  # fmt: skip


def _write(path: Path, rows: dict[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Told._fields)
        table.writerows(rows[name] for name in sorted(rows))


def _committed(results: Path, configs: Path) -> list[str]:
    """Studies with a config and a result, the quickest to find wrong first: in the order of their names."""
    return sorted(
        p.parent.name for p in results.glob("*/claims.csv") if (configs / f"{p.parent.name}.toml").exists()
    )


def _check(names: Sequence[str], args: argparse.Namespace) -> None:
    places = f"with a result in {args.results} and a config in {args.configs}"
    known = ", ".join(_committed(args.results, args.configs)) or "none"
    unknown = [name for name in names if name not in known.split(", ")]
    if unknown or not names:
        what = f"{unknown[0]}: is no study" if unknown else "reproduce: there is no study"
        raise ValueError(f"{what} {places}; there are: {known}; see --results, --configs")


def _study(name: str, args: argparse.Namespace) -> Told:
    """One study computed again and held against the committed one."""
    from dlnjax.analysis import compare

    out, committed = args.out / name, args.results / name
    if out.exists():
        shutil.rmtree(out)
    began = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "dlnjax",
        "run",
        str(args.configs / f"{name}.toml"),
        "--out",
        str(out),
        "--quiet",
    ]
    ended = subprocess.run(
        [*command, *(["--set", *FAST[name]] if args.fast else [])], capture_output=True, text=True
    )
    seconds = time.monotonic() - began
    if ended.returncode not in (0, 1) or not (out / "claims.csv").exists():
        why = ended.stderr.strip().splitlines()[-_MOST:] or [f"exit code {ended.returncode}"]
        return Told(name, 0, seconds, 0, 0.0, 0.0, why)
    moved = [str(one) for one in compare.compare(committed, out, subset=args.fast)]
    if not args.fast and _hash(out) != _hash(committed):
        moved.insert(0, "the config is not the one of the committed result")
    if args.update and not args.fast:
        _replace(out, committed)
    return Told(name, compare.count(out), seconds, *_compiled(out), moved)


def _compiled(out: Path) -> tuple[int, float, float]:
    """Programs, their seconds and the seconds waited, over all runs that the manifest tells of."""
    told = _manifest(out).get("compilations", [])
    return tuple(sum(one[name] for one in told) for name in ("programs", "seconds", "waited"))  # type: ignore


def _hash(folder: Path) -> str:
    """What the folder's config comes to."""
    return _manifest(folder)["config_hash"]


def _manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def _replace(new: Path, old: Path) -> None:
    """Put the committed part of a new result into the place of the old one."""
    for name in _KEPT:
        if (old / name).is_dir():
            shutil.rmtree(old / name)
        elif (old / name).exists():
            (old / name).unlink()
        if (new / name).is_dir():
            shutil.copytree(new / name, old / name)
        elif (new / name).exists():
            shutil.copy(new / name, old / name)
