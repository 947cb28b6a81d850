"""Overrides ``option=value`` from the command line, put into the raw tables before these are validated.

A bare option has one home among the sections; that of a grid goes to ``[base]``, and no ``[[grid]]`` sets it any more.
A dotted one (``record.records``, ``base.width``, ``grid.0.depth``) sets one place. The value is TOML; what is no TOML
is taken as a string, and the option's check says whether that will do.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable

from dlnjax.sweep.config import options, validators
from dlnjax.sweep.config.toml import one_line

#: A configuration as parsed, before any of it is checked.
Tables = dict[str, object]


def apply(raw: Tables, overrides: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Change ``raw`` in place.

    Returns:
      The origin of every option set (``path -> --set key=value``), and a line for every override that cannot be
      placed. Whether a placed value is right is for the reader of the configuration to say.
    """
    origins: dict[str, str] = {}
    lines = []
    for override in overrides:
        label = f"--set {one_line(override, 100)}"
        try:
            for path in _place(raw, override):
                origins[path] = label
        except validators.Complaint as complaint:
            lines.append(f"{label}: {complaint}")
    return origins, lines


def apply_flat(raw: Tables, overrides: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """As :func:`apply` for a configuration without sections: every option stands at its top."""
    origins: dict[str, str] = {}
    lines = []
    for override in overrides:
        label = f"--set {one_line(override, 100)}"
        name, sign, text = (part.strip() for part in override.partition("="))
        if not sign or not name or not text:
            lines.append(f"{label}: is not key=value; write for example --set instances=20")
        else:
            raw[name] = _parse(text)
            origins[name] = label
    return origins, lines


def _place(raw: Tables, override: str) -> list[str]:
    """Set one override; the paths it set."""
    name, sign, text = override.partition("=")
    name, text = name.strip(), text.strip()
    if not sign or not name or not text:
        raise validators.Complaint("is not key=value; write for example --set depth=[2,4]")
    value = _parse(text)
    if name in ("path", "problem.path") and type(value) is str:
        value = os.path.abspath(os.path.expanduser(value))  # a shell completes names in its own folder
    parts = name.split(".")
    if name in options.TOP:
        raw[name] = value
        return [name]
    if len(parts) == 1:
        return _bare(raw, name, value)
    return [_dotted(raw, parts, value)]


def _bare(raw: Tables, name: str, value: object) -> list[str]:
    section = options.home(name)
    if section is None:
        if name in (*options.SECTIONS, "grid"):
            raise validators.Complaint(f"{name} is a section; name one of its keys, as in {_example(name)}")
        near = validators.nearest(name, options.names())
        known = f"did you mean {near}?" if near else f"known are: {', '.join(options.names())}"
        raise validators.Complaint(f"{one_line(name)} is not a key; {known}")
    if section != "base":
        return [_set(raw, section, name, value)]
    tables = _grids(raw)
    for table in tables:  # one place is enough, and a mistake in it is reported once
        if isinstance(table, dict):
            table.pop(name, None)
    return [_set(raw, "base", name, value)]


def _dotted(raw: Tables, parts: list[str], value: object) -> str:
    if parts[0] == "grid":
        return _numbered(raw, parts, value)
    if parts[0] not in options.SECTIONS or len(parts) != 2:
        near = validators.nearest(parts[0], (*options.SECTIONS, "grid"))
        hint = (
            f"did you mean {near}?"
            if near and near != parts[0]
            else f"write for example {_example('record')}"
        )
        raise validators.Complaint(f"{one_line('.'.join(parts))} is not a key; {hint}")
    return _set(raw, parts[0], parts[1], value)


def _numbered(raw: Tables, parts: list[str], value: object) -> str:
    """``grid.0.depth``: one option of one ``[[grid]]``."""
    tables = _grids(raw)
    if len(parts) != 3 or not re.fullmatch(r"[0-9]{1,6}", parts[1]):
        raise validators.Complaint(
            f"{one_line('.'.join(parts))} is not a key; write for example {_example('grid')}"
        )
    index = int(parts[1])
    table = tables[index] if index < len(tables) else None
    if not isinstance(table, dict):
        raise validators.Complaint(
            f"grid.{parts[1]} does not exist; the config has {len(tables)}, counted from grid.0"
        )
    table[parts[2]] = value
    return f"grid.{index}.{parts[2]}"


def _grids(raw: Tables) -> list[object]:
    """What stands under ``[[grid]]``, if that is a list."""
    tables = raw.get("grid")
    return tables if isinstance(tables, list) else []


def _set(raw: Tables, section: str, name: str, value: object) -> str:
    table = raw.setdefault(section, {})
    if not isinstance(table, dict):
        raise validators.Complaint(f"{section} is not a table in the config; write [{section}] there")
    table[name] = value
    return f"{section}.{name}"


def _parse(text: str) -> object:
    """A TOML value, or the text itself."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return found["value"] if len(found) == 1 else text  # more keys: a newline in the text


def _example(section: str) -> str:
    return {
        "problem": "problem.output_dim=10",
        "start": "start.distance=0.1",
        "record": "record.records=512",
        "base": "base.width=[4]",
        "grid": "grid.0.depth=[2,4]",
    }[section]
