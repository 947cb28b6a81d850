"""What a manifest must look like to be believed: types, ranges, and that its parts agree with one another."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

_CELL = re.compile(r"[0-9a-f]{16}")
_HASH = re.compile(r"[0-9a-f]{1,64}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 53


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and bool(_HASH.fullmatch(value))


def _is_generation(value: object) -> bool:
    return (
        isinstance(value, dict)
        and _is_hash(value.get("config_hash"))
        and _is_count(value.get("cells"))
        and isinstance(value.get("date"), str)
        and bool(_DATE.fullmatch(value["date"]))
    )


def _is_places(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))


#: key -> (what it must be, in words; whether it is so)
_FIELDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "manifest_version": ("a whole number from 1 on", lambda v: _is_count(v) and v >= 1),
    "study": ("a name", _is_text),
    "config_hash": ("a hash", _is_hash),
    "precision": ("float32 or float64", lambda v: v in ("float32", "float64")),
    "versions": (
        "versions by package, dlnjax among them",
        lambda v: isinstance(v, dict) and "dlnjax" in v and all(map(_is_text, v.values())),
    ),
    "machine": ("a name", _is_text),
    "num_cells": ("a number of cells", _is_count),
    "num_shards": ("a number of shards", _is_count),
    "history": (
        "the first run and the extensions",
        lambda v: isinstance(v, list) and bool(v) and all(map(_is_generation, v)),
    ),
    "cells": (
        "a list of keys of 16 hexadecimal digits",
        lambda v: isinstance(v, list) and all(isinstance(key, str) and _CELL.fullmatch(key) for key in v),
    ),
    "partition": (
        "places of cells by shard",
        lambda v: isinstance(v, dict) and all(map(_CELL.fullmatch, v)) and all(map(_is_places, v.values())),
    ),
}
#: As above; added when shards are done, or by versions from some one on.
_LATER: dict[str, tuple[str, Callable[[object], bool]]] = {
    "config_sha256": ("a hash", _is_hash),
    "git_commit": ("a commit or null", lambda v: v is None or _is_text(v)),
    "devices": ("a list of devices", lambda v: isinstance(v, list) and all(map(_is_text, v))),
    "compilations": (
        "a list of tables",
        lambda v: isinstance(v, list) and all(isinstance(one, dict) for one in v),
    ),
    "scales": ("a list", lambda v: isinstance(v, list)),
}


def wrong(content: Mapping[str, Any]) -> str | None:
    """The first thing about a manifest that cannot be, in words; None if there is none."""
    return next(_wrong(content), None)


def _wrong(content: Mapping[str, Any]) -> Iterator[str]:
    for key, (words, holds) in {**_FIELDS, **_LATER}.items():
        if key not in content and key in _FIELDS:
            yield f"{key}: missing"
        elif key in content and not holds(content[key]):
            yield f"{key}: {str(content[key])[:60]!r}, but it is {words}"
    cells, partition, history = content["cells"], content["partition"], content["history"]
    if len(set(cells)) != len(cells):
        yield "cells: a cell is named twice"
    if sorted(place for places in partition.values() for place in places) != list(range(len(cells))):
        yield "partition: not every cell is in exactly one shard"
    if (content["num_cells"], content["num_shards"]) != (len(cells), len(partition)):
        yield "num_cells, num_shards: not those of cells and partition"
    ends = [generation["cells"] for generation in history]
    if ends[-1] != len(cells) or any(first > second for first, second in pairwise(ends)):
        yield f"history: {ends} cells, of {len(cells)}"
    if history[-1]["config_hash"] != content["config_hash"]:
        yield "config_hash: not the last of history"


def config_digest(text: str | bytes) -> str:
    """Hash of a config's text, whichever line ends it was checked out with."""
    raw = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(raw.replace(b"\r\n", b"\n")).hexdigest()


def config_damage(file: Path, content: Mapping[str, Any]) -> str | None:
    """What is wrong with the folder's config, in a line that begins with its name; None if it is the manifest's."""
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return f"{file}: missing; the next run of the same command writes it"
    except OSError as error:
        return f"{file}: cannot be read ({error.strerror})"
    if config_digest(text) == content.get("config_sha256") or (
        "config_sha256" not in content and _hash(file) == content["config_hash"]
    ):
        return None
    return (
        f"{file}: not the config of {file.parent / 'manifest.json'} (edited, damaged, or of before an extension); "
        "the next run of the same command writes it"
    )


def _hash(file: Path) -> str:
    """That of the sweep a config describes, for manifests of versions that kept no hash of its text."""
    from dlnjax.sweep.config import loading

    try:
        return loading.load(file, check_data=False).hash()
    except (ValueError, OSError, ImportError):
        return ""
