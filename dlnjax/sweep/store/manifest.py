"""What a sweep's folder is to hold: the config, its cells, and their partition into shards, fixed once.

``DIR/manifest.json`` is made by the first run and read by every later one: the partition in it, not what the
planner would do today, says which cells a shard has. Later runs may only add to it: cells with ``--extend``,
metadata (the device, scales) when a shard reports them. ``DIR/config.toml`` is the config in full. The manifest
carries a seal and the config's hash, so that neither is believed once a byte of it has changed.
"""

from __future__ import annotations

import json
import platform
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from dlnjax.sweep.store import atomic, leases, manifest_fields, provenance, seal
from dlnjax.sweep.store.protocols import Cell, Planner, Shard, Sweep

#: Version of this file's layout.
MANIFEST_VERSION = 1
#: Digits of a cell's key that the partition keeps.
DIGITS = 16
NAME, CONFIG = "manifest.json", "config.toml"

#: The content of a manifest: JSON values by key.
Manifest: TypeAlias = dict[str, Any]
#: shard -> first digits of its cells' keys, in order
Partition = dict[str, list[str]]


class Damaged(ValueError):
    """The manifest's file is not one that dlnjax wrote so."""


class ConfigChanged(ValueError):
    """The folder belongs to another config; ``lines`` say what differs, one line a key."""

    def __init__(self, message: str, lines: Sequence[str]):
        super().__init__("\n".join([message, *lines]))
        self.lines: tuple[str, ...] = tuple(lines)


class Settled(NamedTuple):
    """The manifest that counts for a folder, and the shards that were planned for it on the way, by name."""

    manifest: Manifest
    planned: dict[str, Shard]


def load(out: Path | str) -> Manifest | None:
    """The folder's manifest, None if it has none.

    Raises:
      Damaged: it is not a manifest, or a byte or a field of it is wrong.
      ValueError: the folder holds a campaign, or a sweep of a newer version.
    """
    file = Path(out) / NAME
    try:
        raw = file.read_bytes().replace(b"\r\n", b"\n")
        content = json.loads(raw)
        newer = content["manifest_version"] > MANIFEST_VERSION
    except FileNotFoundError:
        if file.is_symlink():
            raise Damaged(f"{file}: a link to a file that is not there") from None
        return None
    except (ValueError, KeyError, TypeError, RecursionError, IsADirectoryError) as error:
        raise Damaged(f"{file}: not a manifest of dlnjax ({type(error).__name__}: {error})") from None
    if seal.is_right(raw) is False:
        raise Damaged(f"{file}: damaged or edited (its seal is broken); put back the one that a run wrote")
    if "campaign" in content:
        what = "its results are summary.csv, claims.csv and figures; a sweep needs another folder"
        raise ValueError(f"{file}: the folder holds the campaign {content['campaign']!r}: {what}")
    if newer:
        raise ValueError(
            f"{file}: version {content['manifest_version']}; this dlnjax reads up to {MANIFEST_VERSION}"
        )
    if why := manifest_fields.wrong(content):
        raise Damaged(f"{file}: not a manifest of dlnjax ({why})")
    content.pop(seal.KEY, None)
    return content


def existing(out: Path | str) -> Manifest:
    """:func:`load` of a folder that must have one; raises FileNotFoundError."""
    content = load(out)
    if content is None:
        raise FileNotFoundError(f"{out}: no sweep there (no {NAME}); dlnjax run makes one")
    return content


def partition(manifest: Manifest) -> Partition:
    """The partition that a loaded manifest fixes."""
    keys = manifest["cells"]
    return {name: [keys[place] for place in places] for name, places in manifest["partition"].items()}


def generations(manifest: Manifest) -> list[range]:
    """Places of the cells of the first run and of each extension: planned together, they give their shards again."""
    ends = [entry["cells"] for entry in manifest["history"]]
    return [range(start, end) for start, end in pairwise([0, *ends])]


def keyed_cells(sweep: Sweep) -> dict[str, Cell]:
    """First digits of the key -> cell, in grid order."""
    return {sweep.key(cell)[:DIGITS]: cell for cell in sweep.cells()}


def settle(
    out: Path | str,
    sweep: Sweep,
    planner: Planner,
    *,
    extend: bool = False,
    vacant: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Settled:
    """Makes the folder's manifest, or compares this config with it.

    Args:
      out: the sweep's folder; made if absent.
      sweep: the config to run.
      planner: asked where cells are new to the folder.
      extend: let a config with more cells add them.
      vacant: the folder holds no shard and nobody works on it, so that an old manifest (one kept under
        version control, say) binds nobody: it is replaced.
      metadata: what else to write at the top level of a new manifest (JSON values).

    Returns:
      The manifest that counts, and the shards that were planned for it.

    Raises:
      ConfigChanged: another config, and ``extend`` is off or the config drops cells of the folder.
      OSError: the folder cannot be written.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    planned: Sequence[Shard] = ()
    current = load(out)
    if current is None or vacant:
        planned = planner(sweep, list(sweep.cells()))
        content = _dump(_new(sweep, planned, metadata or {}))
        if current is None:
            atomic.create(out / NAME, content)
        else:
            _replace_unless_changed(out, current, content)
        current = _present(out)  # another runner may have been first: its word counts
    if current["config_hash"] != sweep.hash():
        current, planned = _changed(out, sweep, planner, extend)
    current = _keep_config(out, sweep, current)
    return Settled(current, {shard.name: shard for shard in planned})


def unfinished(settled: Settled, sweep: Sweep, planner: Planner, done: set[str]) -> dict[str, Shard]:
    """The shards that are not ``done``, as the manifest fixed them, whatever the planner would do today.

    Raises:
      ValueError: the planner no longer makes them.
    """
    manifest, planned = settled.manifest, dict(settled.planned)
    missing = [name for name in manifest["partition"] if name not in done]
    unplanned = {
        manifest["partition"][name][0] for name in missing if name not in planned
    }  # their first cells
    cells = keyed_cells(sweep) if unplanned else {}
    for places in generations(manifest):
        if not unplanned.isdisjoint(places):
            shards = planner(sweep, [cells[manifest["cells"][place]] for place in places])
            planned |= {shard.name: shard for shard in shards}
    unknown = [name for name in missing if name not in planned]
    if unknown:
        raise ValueError(
            f"{len(unknown)} shards of the manifest ({unknown[0]}, ...) are planned differently by this "
            f"version; finish the sweep with dlnjax {manifest['versions']['dlnjax']}, or use another --out"
        )
    return {name: planned[name] for name in missing}


def annotate(out: Path | str, metadata: Mapping[str, Any]) -> None:
    """Adds metadata to the manifest; a value that is there stays, a list or table gains what it lacks."""
    out = Path(out)
    if not (out / NAME).exists():
        return
    with leases.lock(out) as lock:
        content = load(out)
        if content is None:
            return
        for key, value in metadata.items():
            if isinstance(value, list):
                old = content.get(key, [])
                content[key] = old + [item for item in value if item not in old]
            elif isinstance(value, dict) and isinstance(content.get(key, {}), dict):
                content[key] = {**value, **content.get(key, {})}
            else:
                content.setdefault(key, value)
        _write(out, content, lock)


def difference(old: str, new: str) -> list[str]:
    """What differs between two configs (TOML), one line a key: ``grid.0.depth: [2, 4] -> [2, 4, 8]``."""
    before, after = (dict(_flat(tomllib.loads(text))) for text in (old, new))
    absent = "(absent)"
    keys = [key for key in {**before, **after} if before.get(key, absent) != after.get(key, absent)]
    return [f"  {key}: {before.get(key, absent)} -> {after.get(key, absent)}" for key in keys]


def _present(out: Path) -> Manifest:
    content = load(out)
    if content is None:
        raise FileNotFoundError(f"{out / NAME} is gone; was the folder removed during the run?")
    return content


def _changed(out: Path, sweep: Sweep, planner: Planner, extend: bool) -> tuple[Manifest, Sequence[Shard]]:
    """Refuses another config, or adds its new cells in shards of their own; old shards stay as they are."""
    lines = _lines(out, sweep)
    if not extend:
        raise _other(out, lines)
    with leases.lock(out) as lock:
        content = _present(out)
        known = set(content["cells"])
        keyed = keyed_cells(sweep)
        lost = len(known - keyed.keys())
        if lost:
            raise ConfigChanged(
                f"{out}: --extend only adds cells, and this config drops or changes {lost} of the "
                f"{len(known)} in the folder; use another --out:",
                lines,
            )
        shards = planner(sweep, [cell for key, cell in keyed.items() if key not in known])
        _add(content, sweep, shards)
        _write(out, content, lock)
    return content, shards


def refuse_other(out: Path | str, sweep: Sweep) -> None:
    """A look at a folder before anything is written there.

    Raises:
      ConfigChanged: it holds another config. ValueError: or a campaign, or a manifest that is damaged.
    """
    out, content = Path(out), load(out)
    if content is not None and content["config_hash"] != sweep.hash():
        raise _other(out, _lines(out, sweep))


def _other(out: Path, lines: Sequence[str]) -> ConfigChanged:
    return ConfigChanged(
        f"{out} holds the results of another config; use another --out, or --extend to add cells:", lines
    )


def _lines(out: Path, sweep: Sweep) -> list[str]:
    """What differs between the folder's config and this one, as far as the folder's can be read."""
    try:
        return difference((out / CONFIG).read_text(encoding="utf-8"), sweep.to_toml())
    except (OSError, ValueError):
        return [f"  {out / CONFIG}: missing or damaged, so that what differs cannot be said"]


def _write(out: Path, content: Manifest, lock: leases.Runner) -> None:
    """Replaces the manifest, if its lock is still ours."""
    text = _dump(content)
    leases.keeps(lock)
    atomic.replace(out / NAME, text)


def _replace_unless_changed(out: Path, before: Manifest, text: str) -> None:
    """Replaces a manifest that binds nobody, unless another runner has settled or extended it meanwhile."""
    with leases.lock(out) as lock:
        if load(out) == before:
            leases.keeps(lock)
            atomic.replace(out / NAME, text)


def _add(content: Manifest, sweep: Sweep, shards: Sequence[Shard]) -> None:
    """Appends the cells of ``shards`` and the shards, and makes ``sweep`` the folder's config."""
    members = {shard.name: [sweep.key(cell)[:DIGITS] for cell in shard.cells] for shard in shards}
    added = [key for keys in members.values() for key in keys]
    fresh = set(added)
    if len(fresh) != len(added):
        raise ValueError("the planner put a cell into two shards; every cell belongs to one")
    content["cells"] += [key for key in keyed_cells(sweep) if key in fresh]
    place = {key: i for i, key in enumerate(content["cells"])}
    content["partition"].update({name: [place[key] for key in keys] for name, keys in members.items()})
    content["config_hash"] = sweep.hash()
    content["config_sha256"] = manifest_fields.config_digest(sweep.to_toml())
    content["num_cells"], content["num_shards"] = len(content["cells"]), len(content["partition"])
    content["history"].append(
        {"config_hash": sweep.hash(), "cells": len(content["cells"]), "date": provenance.today()}
    )


def _new(sweep: Sweep, shards: Sequence[Shard], metadata: Mapping[str, Any]) -> Manifest:
    content = {
        "manifest_version": MANIFEST_VERSION,
        "study": sweep.study,
        "config_hash": "",
        "config_sha256": "",
        "precision": sweep.precision,
        "versions": provenance.versions(),
        "machine": platform.machine(),
        "git_commit": provenance.commit(),
        **metadata,
        "num_cells": 0,
        "num_shards": 0,
        "history": [],
        "cells": [],
        "partition": {},
    }
    _add(content, sweep, shards)
    return content


def _keep_config(out: Path, sweep: Sweep, current: Manifest) -> Manifest:
    """Writes the config that the manifest names, where a killed runner did not get to it or its wording changed.

    A runner that was slow to start leaves the config of an extension, made meanwhile, as it is.
    """
    text, file = sweep.to_toml(), out / CONFIG
    named = {"config_sha256": manifest_fields.config_digest(text)}
    if named.items() <= current.items() and manifest_fields.config_damage(file, named) is None:
        return current
    with leases.lock(out) as lock:
        content = _present(out)
        if content["config_hash"] != sweep.hash():
            return current
        if not named.items() <= content.items():
            content |= named
            _write(out, content, lock)
        leases.keeps(lock)
        atomic.replace(file, text)
    return content


def _dump(content: Manifest) -> str:
    """JSON with a line a key and a line a shard, so that a difference between two manifests can be read."""
    lines = [
        f"  {json.dumps(key)}: {json.dumps(value)},"
        for key, value in content.items()
        if key not in ("partition", seal.KEY)
    ]
    shards = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(at)}" for name, at in content["partition"].items()
    )
    mark = f'  "{seal.KEY}": "{seal.BLANK}"'
    text = "\n".join(["{", *lines, '  "partition": {', shards, "  },", mark, "}", ""])
    return seal.sealed(text.encode()).decode()


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
