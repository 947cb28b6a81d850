"""What a sweep's folder is to hold: the config, its cells, and their partition into shards, fixed once.

``DIR/manifest.json`` is made by the first run and read by every later one: the partition in it, not the
planner's mood, says which cells a shard has. Later runs may only add to it: cells with ``--extend``, facts
(the device, scales) when a shard reports them. ``DIR/config.toml`` is the config in full.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

from dlnjax.sweep.store import atomic

#: Version of this file's layout.
MANIFEST_VERSION = 1
#: Digits of a cell's key that the partition keeps.
DIGITS = 16
NAME, CONFIG = "manifest.json", "config.toml"
# A lock file older than this on the waiting process's own clock belongs to a dead process.
_LOCK_SECONDS = 10.0

#: shard -> first digits of its cells' keys, in order
Partition = dict[str, list[str]]
#: (sweep, cells) -> the shards of these cells; ``dlnjax.sweep.plan.shards``
Planner = Callable[[Any, Sequence[Any]], Sequence[Any]]


class ConfigChanged(ValueError):
    """The folder belongs to another config; ``lines`` say what differs, one line a key."""

    def __init__(self, message: str, lines: Sequence[str]):
        super().__init__("\n".join([message, *lines]))
        self.lines: tuple[str, ...] = tuple(lines)


def load(out: Path | str) -> dict[str, Any] | None:
    """The folder's manifest, None if it has none.

    Raises:
      ValueError: it is not a manifest, or one of a newer version.
    """
    file = Path(out) / NAME
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        newer = found["manifest_version"] > MANIFEST_VERSION
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: not a manifest of dlnjax ({type(error).__name__}: {error})") from None
    if "campaign" in found:
        what = "its results are summary.csv, claims.csv and figures; a sweep needs another folder"
        raise ValueError(f"{file}: the folder holds the campaign {found['campaign']!r}: {what}")
    if newer:
        raise ValueError(
            f"{file}: version {found['manifest_version']}; this dlnjax reads up to {MANIFEST_VERSION}"
        )
    return found


def cells(out: Path | str) -> list[str]:
    """First :data:`DIGITS` of the keys of all cells the folder is to hold, in grid order, additions last."""
    return (load(out) or {"cells": []})["cells"]


def partition(found: Mapping[str, Any]) -> Partition:
    """The partition that a loaded manifest fixes."""
    keys = found["cells"]
    return {name: [keys[place] for place in places] for name, places in found["partition"].items()}


def generations(found: Mapping[str, Any]) -> list[list[str]]:
    """The cells of the first run and of each extension: planned together, they give the same shards again."""
    ends = [entry["cells"] for entry in found["history"]]
    return [found["cells"][start:end] for start, end in pairwise([0, *ends])]


def keyed_cells(sweep: Any) -> dict[str, Any]:
    """First digits of the key -> cell, in grid order."""
    return {sweep.key(cell)[:DIGITS]: cell for cell in sweep.cells()}


def settle(
    out: Path | str,
    sweep: Any,
    shards: Planner,
    *,
    extend: bool = False,
    vacant: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Makes the folder's manifest, or holds this config against it; returns the manifest that counts.

    Args:
      out: the sweep's folder; made if absent.
      sweep: has ``hash()``, ``to_toml()``, ``cells()`` and ``key(cell)``.
      shards: the planner; shards have ``name`` and ``cells``.
      extend: let a config with more cells add them.
      vacant: the folder holds no shard and nobody works on it, so that an old manifest (one kept under
        version control, say) binds nobody: it is replaced.
      facts: what else to write at the top level of a new manifest (JSON values).

    Raises:
      ConfigChanged: another config, and ``extend`` is off or the config drops cells of the folder.
      OSError: the folder cannot be written.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    found = load(out)
    if found is None or vacant:
        content = _dump(_new(sweep, shards, facts or {}))
        if found is None:
            atomic.create(out / NAME, content)
        else:
            atomic.replace(out / NAME, content)
        found = _present(out)  # another runner may have been first: its word counts
    if found["config_hash"] != sweep.hash():
        found = _changed(out, sweep, shards, extend)
    _keep_config(out, sweep)
    return found


def annotate(out: Path | str, facts: Mapping[str, Any]) -> None:
    """Adds facts to the manifest; a key that is there keeps its value, a list gains what it lacks."""
    with _locked(Path(out)):
        found = load(out)
        if found is None:
            return
        for key, value in facts.items():
            if isinstance(value, list):
                old = found.get(key, [])
                found[key] = old + [item for item in value if item not in old]
            else:
                found.setdefault(key, value)
        atomic.replace(Path(out) / NAME, _dump(found))


def difference(old: str, new: str) -> list[str]:
    """What differs between two configs (TOML), one line a key: ``grid.0.depth: [2, 4] -> [2, 4, 8]``."""
    before, after = (dict(_flat(tomllib.loads(text))) for text in (old, new))
    absent = "(absent)"
    keys = [key for key in {**before, **after} if before.get(key, absent) != after.get(key, absent)]
    return [f"  {key}: {before.get(key, absent)} -> {after.get(key, absent)}" for key in keys]


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, read without importing any of it."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in ("dlnjax", "jax", "jaxlib")},
    }


def _present(out: Path) -> dict[str, Any]:
    found = load(out)
    if found is None:
        raise FileNotFoundError(f"{out / NAME} is gone; was the folder removed during the run?")
    return found


def _changed(out: Path, sweep: Any, shards: Planner, extend: bool) -> dict[str, Any]:
    """Refuses another config, or adds its new cells in shards of their own; old shards stay as they are."""
    before = (out / CONFIG).read_text(encoding="utf-8") if (out / CONFIG).exists() else ""
    lines = difference(before, sweep.to_toml())
    if not extend:
        raise ConfigChanged(
            f"{out} holds the results of another config; use another --out, or --extend to add cells:", lines
        )
    with _locked(out):
        found = _present(out)
        known = set(found["cells"])
        keyed = keyed_cells(sweep)
        lost = len(known - keyed.keys())
        if lost:
            raise ConfigChanged(
                f"{out}: --extend only adds cells, and this config drops or changes {lost} of the "
                f"{len(known)} in the folder; use another --out:",
                lines,
            )
        _add(found, sweep, shards(sweep, [cell for key, cell in keyed.items() if key not in known]))
        atomic.replace(out / NAME, _dump(found))
    return found


def _add(found: dict[str, Any], sweep: Any, shards: Sequence[Any]) -> None:
    """Appends the cells of ``shards`` and the shards, and makes ``sweep`` the folder's config."""
    members = {shard.name: [sweep.key(cell)[:DIGITS] for cell in shard.cells] for shard in shards}
    added = [key for keys in members.values() for key in keys]
    if len(set(added)) != len(added):
        raise ValueError("the planner put a cell into two shards; every cell belongs to one")
    fresh = set(added)
    found["cells"] += [key for key in keyed_cells(sweep) if key in fresh]
    place = {key: i for i, key in enumerate(found["cells"])}
    found["partition"].update({name: [place[key] for key in keys] for name, keys in members.items()})
    found["config_hash"] = sweep.hash()
    found["num_cells"], found["num_shards"] = len(found["cells"]), len(found["partition"])
    found["history"].append({"config_hash": sweep.hash(), "cells": len(found["cells"]), "date": today()})


def _new(sweep: Any, shards: Planner, facts: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        "manifest_version": MANIFEST_VERSION,
        "study": getattr(sweep, "study", ""),
        "config_hash": "",
        "precision": getattr(sweep, "precision", ""),
        "versions": versions(),
        "machine": platform.machine(),
        "git_commit": commit(),
        **facts,
        "num_cells": 0,
        "num_shards": 0,
        "history": [],
        "cells": [],
        "partition": {},
    }
    _add(found, sweep, shards(sweep, list(sweep.cells())))
    return found


def _keep_config(out: Path, sweep: Any) -> None:
    """Writes the config that the manifest names, where a killed runner did not get to it."""
    text = sweep.to_toml()
    file = out / CONFIG
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        atomic.replace(file, text)


def _dump(found: dict[str, Any]) -> str:
    """JSON with a line a key and a line a shard, so that a difference between two manifests can be read."""
    lines = [
        f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in found.items() if key != "partition"
    ]
    shards = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(at)}" for name, at in found["partition"].items()
    )
    return "\n".join(["{", *lines, '  "partition": {', shards, "  }", "}", ""])


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys of nested tables and lists of tables, with dots."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}.{i}")
    else:
        yield prefix, value


def commit() -> str | None:
    """The commit of the checkout this package runs from, with ``+`` when it has changes; None outside one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def today() -> str:
    """The date, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime())


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """One changer of the manifest at a time; a dead one's lock is broken after :data:`_LOCK_SECONDS`."""
    lock = out / f".{NAME}.lock"
    mine = f"{platform.node()} {os.getpid()} {time.monotonic_ns()}"
    since, holder = time.monotonic(), ""
    while not atomic.create(lock, mine, flush=False):
        try:
            now = lock.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        if now != holder:
            since, holder = time.monotonic(), now
        elif time.monotonic() - since > _LOCK_SECONDS:
            lock.unlink(missing_ok=True)
        time.sleep(0.02)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
