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
from typing import Any, Protocol

from dlnjax.sweep.config import user_functions
from dlnjax.sweep.config.toml import show


class Complaint(ValueError):
    """What is wrong with one value, without file and key."""


class Check(Protocol):
    """Reads one value; ``expected`` completes "give ..."."""

    @property
    def expected(self) -> str: ...

    def __call__(self, value: Any) -> Any: ...


@dataclass(frozen=True)
class Whole:
    """An integer from ``low`` to ``high``, both included; bool and float are refused."""

    low: int
    high: int
    unit: str = "integers"

    @property
    def expected(self) -> str:
        return f"{self.unit} from {self.low} to {self.high}"

    def __call__(self, value: Any) -> int:
        if type(value) is not int:
            raise Complaint(f"{show(value)} is not a whole number; give {self.expected}")
        if not self.low <= value <= self.high:
            side = "below" if value < self.low else "above"
            raise Complaint(
                f"{show(value)} is {side} {self.low if value < self.low else self.high}; give {self.expected}"
            )
        return value


@dataclass(frozen=True)
class Real:
    """A finite number above zero (``zero``: or zero) and below ``below``; integers are taken, bool is refused."""

    below: float = math.inf
    zero: bool = False

    @property
    def expected(self) -> str:
        if self.zero:
            return "0 or " + Real(self.below).expected
        return "a positive number" if self.below == math.inf else f"a number between 0 and {self.below:g}"

    def __call__(self, value: Any) -> float:
        if type(value) not in (int, float):
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

    expected: str = "true or false"

    def __call__(self, value: Any) -> bool:
        if type(value) is not bool:
            raise Complaint(f"{show(value)} is not a truth value; give {self.expected}")
        return value


@dataclass(frozen=True)
class Word:
    """One of a few strings; a near miss is named. ``own``: or the name of a user's function (``parts.own``)."""

    choices: tuple[str, ...]
    own: bool = False

    @property
    def expected(self) -> str:
        return " | ".join(f'"{choice}"' for choice in self.choices)

    def __call__(self, value: Any) -> str:
        if type(value) is not str:
            raise Complaint(f"{show(value)} is not a string; give {self.expected}")
        if value not in self.choices and not (self.own and user_functions.is_own(value)):
            near = nearest(value, self.choices)
            hint = f'did you mean "{near}"? ' if near else ""
            raise Complaint(f"{show(value)} is not known; {hint}give {self.expected}")
        return value


@dataclass(frozen=True)
class Words:
    """A list of some of a few strings, each once; a single one may stand alone, an empty list is none of them."""

    choices: tuple[str, ...]

    @property
    def expected(self) -> str:
        return f"a list of some of {', '.join(self.choices)}"

    def __call__(self, value: Any) -> tuple[str, ...]:
        given = [value] if type(value) is str else value
        if type(given) is not list:
            raise Complaint(f"{show(value)} is not a list; give {self.expected}")
        return tuple(dict.fromkeys(Word(self.choices)(entry) for entry in given))


@dataclass(frozen=True)
class Text:
    """A string, matching ``pattern`` in full where one is given."""

    expected: str
    pattern: str = r"(?s).*"

    def __call__(self, value: Any) -> str:
        if type(value) is not str:
            raise Complaint(f"{show(value)} is not a string; give {self.expected}")
        if not re.fullmatch(self.pattern, value):
            what = "is empty" if not value else "has characters or a length that are not allowed"
            raise Complaint(f"{show(value)} {what}; give {self.expected}")
        if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            raise Complaint(f"{show(value)} is not valid Unicode; give {self.expected}")
        return value


@dataclass(frozen=True)
class Spectrum:
    """Singular values: a nonempty list of positive numbers, none larger than the one before."""

    expected: str = "a list of positive numbers, the largest first, such as [1.0, 0.8, 0.6, 0.4]"

    def __call__(self, value: Any) -> tuple[float, ...]:
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
class Functions:
    """Names of a user's own functions, none twice."""

    expected: str = "functions of yours, in Python: sweep.grid(..., metrics=[my_metric])"

    def __call__(self, value: Any) -> tuple[str, ...]:
        names = value if type(value) is list else [value]
        wrong = [name for name in names if not user_functions.is_own(name)]
        if wrong:
            raise Complaint(f"{show(wrong[0])} is not the name of a function; give {self.expected}")
        return tuple(dict.fromkeys(names))


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name nearest to a typo, or None if none is near."""
    found = difflib.get_close_matches(
        name.strip().lower().replace("-", "_")[:200], list(known), n=1, cutoff=0.6
    )
    return found[0] if found else None
