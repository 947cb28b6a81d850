"""``dlnjax reproduce``: compute every committed result again and say which numbers moved.

Each study of the results folder is run from its config by the command itself, in a process of its own and into another
folder; then its tables are held against the committed ones (``analysis.compare``). Nothing committed is touched
unless ``--update`` asks for it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

#: Cells that ``--fast`` computes: study -> what is set in its config. About a minute in all on two cores.
FAST: dict[str, tuple[str, ...]] = {
    "depth_rate": ("seed=[0]", "depth=[2,8]"),
    "widths": ("seed=[0]", "width=[4]", "depth=[8]"),
}
#: Lines shown of what moved in one study.
_MOST = 12
#: What is committed of a results folder.
_KEPT = ("config.toml", "manifest.json", "summary.csv", "edge.csv", "claims.csv", "figures")


def reproduce(args: argparse.Namespace) -> int:
    """Run the studies, print a line each and what moved; 1 if anything did, or a run failed."""
    names = args.studies or _committed(args.results, args.configs)
    if args.fast:
        names = [name for name in names if name in FAST]
    _check(names, args)
    began, bad = time.monotonic(), []
    for name in names:
        told, moved = _study(name, args)
        print(f"{name}: {told}", *(f"  {line}" for line in moved), sep="\n", flush=True)
        bad += [name] if moved else []
    seconds = time.monotonic() - began
    verdict = f"moved: {', '.join(bad)}" if bad else "nothing moved beyond its tolerance"
    print(f"{len(names)} studies in {seconds:.0f} s; {verdict}")
    return int(bool(bad))


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
        raise ValueError(f"{what} {places}; there are: {known}")


def _study(name: str, args: argparse.Namespace) -> tuple[str, list[str]]:
    """``(what was done, what moved)``."""
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
        return f"the run failed after {seconds:.0f} s", ended.stderr.strip().splitlines()[-_MOST:]
    moved = [str(one) for one in compare.compare(committed, out, subset=args.fast)]
    if not args.fast and _hash(out) != _hash(committed):
        moved.insert(0, "the config is not the one of the committed result")
    if args.update and not args.fast:
        _replace(out, committed)
    shown = moved[:_MOST] + ([f"... and {len(moved) - _MOST} more"] if len(moved) > _MOST else [])
    rows = compare.count(out)
    return f"{rows} rows in {seconds:.0f} s, {f'{len(moved)} moved' if moved else 'nothing moved'}", shown


def _hash(folder: Path) -> str:
    """What the folder's config comes to."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["config_hash"]


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
