"""Every key a configuration may hold: its type, range, default and section. The one place to add a key.

A check turns a raw value into a clean one or raises :class:`Complaint` with the rest of the error line: the
value received, what is wrong with it, and what to give instead. Types are exact: true is no
integer and 4.0 is no depth, but an integer stands for a float. Numbers are finite.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dlnjax.sweep.parts import own, words
from dlnjax.sweep.toml import show

#: Marks a key without a default.
REQUIRED: Any = object()


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
        if value not in self.choices and not (self.own and own.is_own(value)):
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
        wrong = [name for name in names if not own.is_own(name)]
        if wrong:
            raise Complaint(f"{show(wrong[0])} is not the name of a function; give {self.expected}")
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class Key:
    """One key: how its value is checked, and its default (:data:`REQUIRED` if it has none)."""

    check: Check
    default: Any = REQUIRED


#: What a finished study is held against (``analysis.claims``), and the figures drawn of it; the first are the default.
GENERAL_CLAIMS = ("converged", "predicted", "guaranteed", "flat", "slope", "spectrum", "engines", "edge")
CLAIMS = (
    *GENERAL_CLAIMS,
    "switch",
    "retractions",
    "widths",
    "activations",
    "algorithms",
    "free_layer",
    "initialisation",
    "losses",
    "noise",
    "accuracy",
)
GENERAL_FIGURES = ("error_curves", "rate_against_depth", "stability_edge")
FIGURES = (
    *GENERAL_FIGURES,
    "rate_against_width",
    "phase_diagram",
    "gauge_directions",
    "step_grid",
    "steps_to_tolerance",
    "noise_floor",
    "accuracy",
)

TOP: Mapping[str, Key] = {
    "study": Key(Text("a name of a-z, 0-9 and _, at most 80 long", r"[a-z0-9_]{1,80}")),
    "question": Key(Text("the question in words"), ""),
    "precision": Key(Word(("float64", "float32")), "float64"),
    "claims": Key(Words(CLAIMS), GENERAL_CLAIMS),
    "figures": Key(Words(FIGURES), GENERAL_FIGURES),
}
KIND = Key(Word(("teacher", "digits", "mnist", "file", "own")))
#: Of data: the part of the samples that is only looked at.
_HELD_OUT = Key(Real(below=1, zero=True), 0.0)
#: The further keys of ``[problem]``, by kind.
PROBLEMS: Mapping[str, Mapping[str, Key]] = {
    "teacher": {
        "input_dim": Key(Whole(1, 100_000)),
        "output_dim": Key(Whole(1, 100_000)),
        "singular_values": Key(Spectrum()),
        "samples": Key(Whole(1, 1_000_000), 200),
        "condition": Key(Real(), 4.0),
    },
    "digits": {"held_out": _HELD_OUT},
    "mnist": {"held_out": _HELD_OUT},
    "file": {
        "path": Key(Text("the path of a .npz file with arrays x and y", r"(?s)[^\0]+")),
        "digest": Key(Text("the 64 hex digits of the data's sha256, or leave it out", r"[0-9a-f]{64}"), None),
        "held_out": _HELD_OUT,
    },
    "own": {
        "function": Key(
            Text("a function of yours, in Python: sweep.grid(problem=my_problem)", own.PATTERN.pattern)
        ),
        "input_dim": Key(Whole(1, 100_000)),
        "output_dim": Key(Whole(1, 100_000)),
    },
}
START: Mapping[str, Key] = {"distance": Key(Real(), 0.05), "first_scale": Key(Real(), 0.5)}
RECORD: Mapping[str, Key] = {
    "records": Key(Whole(128, 65_536), 256),
    "tolerance": Key(Real(below=1), 1e-8),
    "depth_of_fit": Key(Real(below=1), 1e-13),
    "max_steps": Key(Whole(1, 10**9), 100_000),
    "keep_params": Key(Flag(), False),
    "metrics": Key(Functions(), ()),
}
#: Grid keys take a list or a scalar; checks and defaults are for one entry.
GRID: Mapping[str, Key] = {
    "step_rule": Key(Word(("fixed", "optimal", "middle", "edge"))),
    "step": Key(Real()),
    "engine": Key(Word(("layers", "reduced", "auto", "both"))),
    "start": Key(Word(tuple(words.STARTS), own=True)),
    "retraction": Key(Word(("polar", "qr", "cayley", "cholesky_qr")), "polar"),
    "optimizer": Key(Word(tuple(words.OPTIMIZERS), own=True), "rgd"),
    "momentum": Key(Real(below=1, zero=True), 0.9),
    "activation": Key(Word(tuple(words.ACTIVATIONS), own=True), "linear"),
    "free": Key(Word(words.FREE), "first"),
    "loss": Key(Word(words.LOSSES, own=True), "square"),
    "profile": Key(Word(words.PROFILES), "equal"),
    "batch_size": Key(Whole(0, 10_000_000), 0),
    "label_noise": Key(Real(zero=True), 0.0),
    "data": Key(Word(("whitened", "raw")), "whitened"),
    "width": Key(Whole(1, 100_000)),
    "depth": Key(Whole(2, 1_000_000)),
    "seed": Key(Whole(0, 2**32 - 1)),
}
SECTIONS = ("problem", "start", "record", "base")

_SEED = Key(Whole(0, 2**31 - 1), 0)
#: The further keys of a campaign's config, all at its top, by campaign.
CAMPAIGNS: Mapping[str, Mapping[str, Key]] = {
    "guarantee": {
        "seed": _SEED,
        "instances": Key(Whole(1, 100_000), 200),
        "steps": Key(Whole(1, 10_000), 25),
        "rate_instances": Key(Whole(1, 100_000), 280),
        "tanh_instances": Key(Whole(1, 10_000), 40),
        "tolerance": Key(Real(below=1), 1e-6),
    },
    "gd_convergence": {
        "seed": _SEED,
        "instances": Key(Whole(1, 100_000), 200),
        "steps": Key(Whole(1, 100_000), 300),
        "starts": Key(Whole(1, 1_000_000), 1000),
        "deep_starts": Key(Whole(1, 1_000_000), 200),
        "descent_steps": Key(Whole(100, 10_000_000), 20_000),
    },
    "flow_limit": {
        "seed": _SEED,
        "instances": Key(Whole(1, 100_000), 200),
        "tolerance": Key(Real(below=1), 4e-8),
    },
    "modes": {
        "seed": _SEED,
        "instances": Key(Whole(1, 100_000), 200),
        "step": Key(Real(below=0.1), 1e-3),
        "tolerance": Key(Real(below=1), 1e-7),
        "kernel_instances": Key(Whole(1, 10_000), 20),
    },
    "gauge": {
        "seed": _SEED,
        "instances": Key(Whole(1, 100_000), 200),
        "restarts": Key(Whole(1, 10_000), 20),
        "step_instances": Key(Whole(1, 10_000), 60),
        "steps": Key(Whole(1, 10_000), 10),
    },
    "momentum": {
        "seed": _SEED,
        "instances": Key(Whole(1, 10_000), 10),
        "tolerance": Key(Real(below=1), 1e-6),
    },
}
#: Keys that every campaign's config has. Its tolerances are of double precision.
CAMPAIGN_TOP: Mapping[str, Key] = {
    "study": TOP["study"],
    "question": TOP["question"],
    "precision": Key(Word(("float64",)), "float64"),
    "campaign": Key(Word(tuple(CAMPAIGNS))),
}


def home(name: str) -> str | None:
    """The section a key belongs to (``base`` for grid keys), or None for a name no section has.

    Every key has one home, so a bare name is enough to find it.
    """
    if name in GRID:
        return "base"
    if name == "kind" or any(name in table for table in PROBLEMS.values()):
        return "problem"
    return next((section for section, keys in (("start", START), ("record", RECORD)) if name in keys), None)


def names() -> list[str]:
    """All keys of all sections."""
    problem = [name for table in PROBLEMS.values() for name in table]
    return list(dict.fromkeys([*TOP, "kind", *problem, *START, *RECORD, *GRID]))


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name nearest to a typo, or None if none is near."""
    found = difflib.get_close_matches(
        name.strip().lower().replace("-", "_")[:200], list(known), n=1, cutoff=0.6
    )
    return found[0] if found else None
