"""Checks of single values: each turns a raw value into a clean one, or raises :class:`Complaint`.

A complaint is the rest of an error line: the value received, what is wrong with it, and what to give instead.
Types are exact: true is no integer and 4.0 is no depth, but an integer stands for a float. Numbers are finite.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Protocol

from dlnjax.sweep.config import user_functions
from dlnjax.sweep.config.toml import show


class Complaint(ValueError):
    """What is wrong with one value, without file and option."""


class Check(Protocol):
    """Reads one value.

    Attributes:
      type_name: its type, for the documentation. expected: completes "give ...". choices: the words it may be, where
        these are a fixed few.
    """

    type_name: ClassVar[str]

    @property
    def expected(self) -> str: ...

    @property
    def choices(self) -> tuple[str, ...]: ...

    def __call__(self, value: object) -> object: ...


class _Open:
    """A check without a fixed list of words."""

    @property
    def choices(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class Whole(_Open):
    """An integer from ``low`` to ``high``, both included; bool and float are refused."""

    type_name: ClassVar[str] = "integer"

    low: int
    high: int
    unit: str = "integers"

    @property
    def expected(self) -> str:
        return f"{self.unit} from {self.low} to {self.high}"

    def __call__(self, value: object) -> int:
        if type(value) is not int:
            raise Complaint(f"{show(value)} is not a whole number; give {self.expected}")
        if not self.low <= value <= self.high:
            side = "below" if value < self.low else "above"
            raise Complaint(
                f"{show(value)} is {side} {self.low if value < self.low else self.high}; give {self.expected}"
            )
        return value


@dataclass(frozen=True)
class Real(_Open):
    """A finite number above zero (``zero``: or zero) and below ``below``; integers are taken, bool is refused."""

    type_name: ClassVar[str] = "number"

    below: float = math.inf
    zero: bool = False

    @property
    def expected(self) -> str:
        if self.zero:
            return "0 or " + Real(self.below).expected
        return "a positive number" if self.below == math.inf else f"a number between 0 and {self.below:g}"

    def __call__(self, value: object) -> float:
        if type(value) is not int and type(value) is not float:
            raise Complaint(f"{show(value)} is not a number; give {self.expected}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise Complaint(f"{show(value)} is not finite; give {self.expected}")
        if not (0 < number < self.below or (self.zero and number == 0)):
            low = "is negative" if self.zero else "is not positive"
            reason = low if number <= 0 else f"is not below {self.below:g}"
            raise Complaint(f"{show(value)} {reason}; give {self.expected}")
        return number


@dataclass(frozen=True)
class Flag:
    """true or false; numbers and words are refused."""

    type_name: ClassVar[str] = "boolean"
    expected: str = "true or false"
    choices: tuple[str, ...] = ("true", "false")

    def __call__(self, value: object) -> bool:
        if type(value) is not bool:
            raise Complaint(f"{show(value)} is not a truth value; give {self.expected}")
        return value


@dataclass(frozen=True)
class Word:
    """One of a few strings; a near miss is named. ``user_function``: or the name of a user's function."""

    type_name: ClassVar[str] = "string"
    choices: tuple[str, ...]
    user_function: bool = False

    @property
    def expected(self) -> str:
        return " | ".join(f'"{choice}"' for choice in self.choices)

    def __call__(self, value: object) -> str:
        if type(value) is not str:
            raise Complaint(f"{show(value)} is not a string; give {self.expected}")
        if value not in self.choices and not (self.user_function and user_functions.is_name(value)):
            near = nearest(value, self.choices)
            hint = f'did you mean "{near}"? ' if near else ""
            raise Complaint(f"{show(value)} is not known; {hint}give {self.expected}")
        return value


@dataclass(frozen=True)
class Words:
    """A list of some of a few strings, each once; a single one may stand alone, an empty list is none of them."""

    type_name: ClassVar[str] = "list of strings"
    choices: tuple[str, ...]

    @property
    def expected(self) -> str:
        return f"a list of some of {', '.join(self.choices)}"

    def __call__(self, value: object) -> tuple[str, ...]:
        given = [value] if type(value) is str else value
        if type(given) is not list:
            raise Complaint(f"{show(value)} is not a list; give {self.expected}")
        return tuple(dict.fromkeys(Word(self.choices)(entry) for entry in given))


@dataclass(frozen=True)
class Text(_Open):
    """A string, matching ``pattern`` in full where one is given."""

    type_name: ClassVar[str] = "string"

    expected: str
    pattern: str = r"(?s).*"

    def __call__(self, value: object) -> str:
        if type(value) is not str:
            raise Complaint(f"{show(value)} is not a string; give {self.expected}")
        if not re.fullmatch(self.pattern, value):
            what = "is empty" if not value else "has characters or a length that are not allowed"
            raise Complaint(f"{show(value)} {what}; give {self.expected}")
        if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            raise Complaint(f"{show(value)} is not valid Unicode; give {self.expected}")
        return value


@dataclass(frozen=True)
class Spectrum(_Open):
    """Singular values: a nonempty list of positive numbers, none larger than the one before."""

    type_name: ClassVar[str] = "list of numbers"

    expected: str = "a list of positive numbers, the largest first, such as [1.0, 0.8, 0.6, 0.4]"

    def __call__(self, value: object) -> tuple[float, ...]:
        if type(value) is not list or not value:
            what = "is empty" if value == [] else "is not a list"
            raise Complaint(f"{show(value)} {what}; give {self.expected}")
        numbers = []
        for entry in value:
            try:
                numbers.append(Real()(entry))
            except Complaint as complaint:
                raise Complaint(f"{str(complaint).split(';')[0]}; give {self.expected}") from None
        if any(b > a for a, b in itertools.pairwise(numbers)):
            raise Complaint(f"{show(value)} increases; give {self.expected}")
        return tuple(numbers)


@dataclass(frozen=True)
class Functions(_Open):
    """Names of a user's functions, none twice."""

    type_name: ClassVar[str] = "list of functions"

    expected: str = "functions of yours, in Python: sweep.grid(..., metrics=[my_metric])"

    def __call__(self, value: object) -> tuple[str, ...]:
        names = value if type(value) is list else [value]
        known = [name for name in names if user_functions.is_name(name)]
        wrong = [name for name in names if not user_functions.is_name(name)]
        if wrong:
            raise Complaint(f"{show(wrong[0])} is not the name of a function; give {self.expected}")
        return tuple(dict.fromkeys(known))


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name nearest to a typo, or None if none is near."""
    plain = name.strip().lower().replace("-", "_")[:200]
    return next(iter(difflib.get_close_matches(plain, list(known), n=1, cutoff=0.6)), None)
