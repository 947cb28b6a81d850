"""TOML as text: writing what ``tomllib`` reads, and showing any value or key on one short line.

Only what configurations hold is written: tables, and lists or scalars of bool, int, float and str.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST = 60


def document(
    head: Mapping[str, object],
    sections: Mapping[str, Mapping[str, object]],
    tables: Mapping[str, Sequence[Mapping[str, object]]],
) -> str:
    """TOML text of a head, of ``[name]`` sections and of ``[[name]]`` tables, one key per line."""
    blocks = [_block("", head)]
    blocks += [_block(f"[{name}]", table) for name, table in sections.items()]
    blocks += [_block(f"[[{name}]]", table) for name, rows in tables.items() for table in rows]
    return "\n".join(blocks)


def value(item: object) -> str:
    """One value as TOML; tuples are lists. Raises TypeError for what a configuration cannot hold."""
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, int | float):
        return repr(item)
    if isinstance(item, str):
        return _quoted(item)
    if isinstance(item, list | tuple):
        return "[" + ", ".join(map(value, item)) + "]"
    raise TypeError(f"a configuration holds numbers, strings and lists, not {type(item).__name__}")


def show(item: object) -> str:
    """Any value as it would stand in a configuration, on one line of bounded length; never raises."""
    try:
        text = value(item)
    except TypeError:
        text = _other(item)
    except ValueError:  # Python refuses to print integers of thousands of digits
        text = "a number of thousands of digits"
    return one_line(text)


def key(name: str) -> str:
    """A key as written in TOML: bare where possible, else quoted; one line of bounded length."""
    return one_line(name if _BARE.fullmatch(name) else _quoted(name))


def one_line(text: str, longest: int = _LONGEST) -> str:
    """``text`` with unprintable characters escaped and its middle cut out where it is long."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(text) <= longest:
        return text
    return f"{text[: longest - 20]}...{text[-17:]}"


def _block(title: str, table: Mapping[str, object]) -> str:
    lines = [title] if title else []
    return "\n".join([*lines, *(f"{key(name)} = {value(item)}" for name, item in table.items())]) + "\n"


def _quoted(text: str) -> str:
    """A basic string; only printable characters stand for themselves."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(escapes.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'


def _other(item: object) -> str:
    if isinstance(item, Mapping):
        return "a table"
    if isinstance(item, list | tuple):
        return "a list with tables or dates in it"
    try:
        return str(item)
    except Exception:
        return f"a {type(item).__name__}"
