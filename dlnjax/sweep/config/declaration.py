"""How an option is declared: as a field of a section's class, with everything that the package derives from it.

The class of a section is at once a frozen dataclass (what a validated configuration holds) and the table of its
options (:func:`options_of`), so that the name and the Python type of an option stand in one place only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from dlnjax.sweep.config.validators import Check


class _Required:
    """The type of :data:`REQUIRED`."""

    def __repr__(self) -> str:
        return "REQUIRED"


#: Stands for the default of an option that has none.
REQUIRED: Final = _Required()
_SAME: Final = object()  # ``blank`` is ``default``


@dataclass(frozen=True)
class Option:
    """One option of a configuration; :func:`option` makes one.

    Attributes:
      check: reads a raw value or raises ``Complaint``. For an option of a grid it reads one entry of the list.
      default: the value of a configuration without the option; :data:`REQUIRED` if it must be given.
      blank: the value of a cell that has no such thing. It is what a file holds that is older than the option, and
        at it the option is left out of the names (hashes) of cells, so that these stay what they were.
      always: stands in every name, also at ``blank``; for options of the first version only.
      note: one line of plain text, for ``dlnjax new`` and ``dlnjax run --help``.
      meaning: for the reference of the documentation: Markdown, formulas between dollar signs.
      example: what ``dlnjax new`` writes, where that is not the default.
      kinds: of ``[problem]``: the kinds of problem that have it; empty for all.
      samples: of a grid: it acts on the single samples, so it needs a problem that has some.
      path: of a grid: how cells with another value than ``blank`` are trained: by the ``fast`` engines, or on the
        general path, where one program serves all depths (``padded``) or one only (``general``).
      unit: of a grid: unit or meaning of the store's column.
      heading: the column's caption in tables; empty for its name.
      words: a value within a sentence, as a format.
    """

    check: Check
    default: object = REQUIRED
    blank: object = REQUIRED
    always: bool = False
    note: str = ""
    meaning: str = ""
    example: object = None
    kinds: tuple[str, ...] = ()
    samples: bool = False
    path: Literal["fast", "padded", "general"] = "general"
    unit: str = ""
    heading: str = ""
    words: str = "{}"

    @property
    def later(self) -> bool:
        """Whether the option came after the first version: cells and files without it have ``blank``."""
        return not self.always and self.blank is not REQUIRED

    @property
    def takes_functions(self) -> bool:
        """Whether a user's own function may stand for a word."""
        return getattr(self.check, "user_function", False)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words it may be, where these are a fixed few."""
        return self.check.choices


def option(
    check: Check,
    default: object = REQUIRED,
    *,
    blank: object = _SAME,
    always: bool = False,
    **words: Any,
) -> Any:
    """Declares an option as a field of its section's class; arguments as the attributes of :class:`Option`.

    ``blank`` is the default where it is not given. A field that stands in every name has no default in Python.
    """
    given = default if blank is _SAME else blank
    one = Option(check, default, given, always, **words)
    if given is REQUIRED or (always and blank is _SAME):
        return dataclasses.field(metadata={"option": one})
    return dataclasses.field(default=given, metadata={"option": one})


def options_of(section: type) -> Mapping[str, Option]:
    """The options declared in a section's class, in its order."""
    declared = {one.name: one.metadata.get("option") for one in dataclasses.fields(section)}
    return {name: one for name, one in declared.items() if one is not None}


def without_blanks(options: Mapping[str, Option], values: Mapping[str, object]) -> dict[str, object]:
    """``values`` without those that are ``blank``, the options that always stand excepted."""
    return {
        name: value for name, value in values.items() if options[name].always or value != options[name].blank
    }
