"""The commented config that ``dlnjax new`` writes: every option, what it means and what it may be.

All of it comes from the declarations of the options, but the order of the parts and two example grids.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping

from dlnjax.sweep.config import options, toml
from dlnjax.sweep.config.declaration import REQUIRED, Option

_HEAD = """# A sweep of deep linear networks with orthonormal layers.
#
#   dlnjax run {file}
#
# Every option of a grid takes a list; the cells are the product of all lists; a scalar is a list of one.
# Options that show "(default)" may be left out.
"""
_DATA = 'needs the extra: pip install "dlnjax[data]"'
#: What differs from the options' own examples, by kind of problem.
_EXAMPLES: Mapping[str, Mapping[str, object]] = {
    kind: {"width": (5,), "step": (0.1,)} for kind in ("digits", "mnist", "file")
} | {"teacher": {"step": (0.01,)}}
#: The example grids: what each shows, and its options.
_GRIDS: Mapping[str, Mapping[str, object]] = {
    "one fixed step size": {"step_rule": "fixed"},
    "the best step at every depth, as predicted": {"step_rule": "optimal", "step": (0.95,)},
}
_IN_GRIDS = ("step_rule", "step", "depth")
#: Where comments begin, and the longest line.
_COLUMN, _WIDTH = 40, 110


def text(kind: str, study: str, file: str) -> str:
    """A config for a problem of this kind; it loads as it stands (``file`` needs its data).

    Args:
      kind: ``teacher``, ``digits``, ``mnist`` or ``file``.
      study: the study's name, of ``a-z``, ``0-9`` and ``_``.
      file: the config's name, for the command in its header.
    """
    examples = {"study": study, "kind": kind, **_EXAMPLES[kind]}
    base = {name: one for name, one in options.GRID.items() if name not in _IN_GRIDS}
    if kind == "teacher":
        del base["data"]  # a teacher has none
    parts = [
        _HEAD.format(file=file),
        _section("", options.TOP, examples),
        _section("[problem]" + _aside(kind), {"kind": options.KIND, **options.PROBLEMS[kind]}, examples),
        _section("[start]", options.START, examples),
        _section("[record]", options.RECORD, examples),
        _section("[base]" + " " * 34 + "# options that all grids share", base, examples),
    ]
    several = {name: options.GRID[name] for name in _IN_GRIDS}
    for i, (what, values) in enumerate(_GRIDS.items()):
        title = "[[grid]]" + " " * 32 + f"# {what}"
        parts.append(_section(title, several, {**examples, **values}, comments=i == 0))
    return "\n".join(parts)


def _aside(kind: str) -> str:
    return f"{' ' * 31}# {_DATA}" if kind in ("digits", "mnist") else ""


def _section(
    title: str, section: Mapping[str, Option], examples: Mapping[str, object], comments: bool = True
) -> str:
    lines = [title] if title else []
    for name, one in section.items():
        value = examples.get(name, _example(one))
        if value is not None:
            lines += _lines(f"{name} = {toml.value(value)}", _comment(one, value) if comments else "")
    return "\n".join(lines) + "\n"


def _example(one: Option) -> object:
    """What stands in the template: an option's example or its default; None leaves the option out."""
    return one.default if one.example is None and one.default is not REQUIRED else one.example


def _comment(one: Option, value: object) -> str:
    """What an option is and may be, in plain text."""
    default = "" if one.default is REQUIRED else "(default)" if value == one.default else "(may be left out)"
    choices = " | ".join(choice for choice in one.choices if choice != "own")
    words = (choices, one.note) if choices else (one.note, one.check.expected)
    return f"{'; '.join(part for part in words if part)} {default}".rstrip()


def _lines(code: str, comment: str) -> Iterator[str]:
    """One option with its comment, wrapped."""
    if not comment:
        yield code
        return
    gap = " " * (_COLUMN - len(code))
    if not gap:  # no place beside it
        yield code
        code, gap = "", " " * _COLUMN
    for line in textwrap.wrap(comment, _WIDTH - _COLUMN - 2, break_long_words=False, break_on_hyphens=False):
        yield f"{code}{gap}# {line}"
        code, gap = "", " " * _COLUMN
