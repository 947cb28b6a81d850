"""Every key a configuration may hold: its type, range, default and section. The one place to add a key.

A check turns a raw value into a clean one or raises :class:`Complaint` with the rest of the error line: the
value received, what is wrong with it, and what to give instead. Types are exact: true is no
integer and 4.0 is no depth, but an integer stands for a float. Numbers are finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlnjax.sweep.config import registry, user_functions
from dlnjax.sweep.config.validators import Check, Flag, Functions, Real, Spectrum, Text, Whole, Word, Words

#: Marks a key without a default.
REQUIRED: Any = object()


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
            Text(
                "a function of yours, in Python: sweep.grid(problem=my_problem)",
                user_functions.PATTERN.pattern,
            )
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
    "start": Key(Word(tuple(registry.STARTS), own=True)),
    "retraction": Key(Word(("polar", "qr", "cayley", "cholesky_qr")), "polar"),
    "optimizer": Key(Word(tuple(registry.OPTIMIZERS), own=True), "rgd"),
    "momentum": Key(Real(below=1, zero=True), 0.9),
    "activation": Key(Word(tuple(registry.ACTIVATIONS), own=True), "linear"),
    "free": Key(Word(registry.FREE), "first"),
    "loss": Key(Word(registry.LOSSES, own=True), "square"),
    "profile": Key(Word(registry.PROFILES), "equal"),
    "batch_size": Key(Whole(0, 10_000_000), 0),
    "label_noise": Key(Real(zero=True), 0.0),
    "data": Key(Word(("whitened", "raw")), "whitened"),
    "width": Key(Whole(1, 100_000)),
    "depth": Key(Whole(2, 1_000_000)),
    "seed": Key(Whole(0, 2**32 - 1)),
}
SECTIONS = ("problem", "start", "record", "base")


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
