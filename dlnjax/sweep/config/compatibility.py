"""Options of a grid that are fine alone but not together: each mistake with the value, the reason and the remedy.

A grid is a product, so one wrong pair in it is a mistake of the grid. Every rule is a generator of
``(option, rest of the line)``; :func:`mistakes` runs them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dlnjax.sweep.config import options, registry, user_functions
from dlnjax.sweep.config.cell import PLAIN
from dlnjax.sweep.config.toml import show

Mistake = tuple[str, str]
#: Option -> its checked values.
Lists = Mapping[str, tuple[Any, ...]]
#: Option -> its checked value, of ``[problem]`` and ``metrics``.
Problem = Mapping[str, Any]

#: What the two-layer reduction is exact for.
_REDUCED = {
    "retraction": ("polar",),
    "optimizer": tuple(name for name, row in registry.OPTIMIZERS.items() if row.reduced),
    "start": ("near", "haar"),
    **{name: (plain,) for name, plain in PLAIN.items()},
}
#: Options that act on single samples.
_SAMPLES = [name for name, one in options.GRID.items() if one.samples]
_LAYERS = 'give engine "layers" or "auto"'
_NUMBER = 'give step_rule "fixed" or "middle"'


def mistakes(grid: Lists, problem: Problem) -> list[Mistake]:
    """All that does not agree.

    Args:
      grid: every option of a grid with its checked values, empty where these had mistakes of their own.
      problem: the options of ``[problem]`` that were fine, and ``metrics``.
    """
    rules = (_rank, _reduced, _lists, _starts, _losses, _samples, _rates, _raw, _held_out, _user)
    return [mistake for rule in rules for mistake in rule(grid, problem)]


def _rank(grid: Lists, problem: Problem) -> Iterator[Mistake]:
    rank = len(problem.get("singular_values", ()))
    for width in grid["width"]:
        narrow = min(width) if isinstance(width, tuple) else width
        if narrow < rank:
            text = f"{narrow} is below the rank {rank} of problem.singular_values"
            yield "width", f"{text}; give widths from {rank}"


def _reduced(grid: Lists, problem: Problem) -> Iterator[Mistake]:
    if "reduced" not in grid["engine"]:
        return
    for name, exact in _REDUCED.items():
        others = [value for value in grid[name] if value not in exact]
        if others:
            only = " and ".join(map(show, exact))
            yield "engine", f'"reduced" is exact for {name} {only} only, not for {show(others[0])}; {_LAYERS}'
    if any(isinstance(width, tuple) for width in grid["width"]):
        yield "engine", f'"reduced" is exact for equal hidden widths only; {_LAYERS}'
    if problem.get("kind") == "own" or problem.get("metrics"):
        what = "a problem of your own" if problem.get("kind") == "own" else "metrics of your own"
        yield "engine", f'"reduced" has no layers to show to {what}; {_LAYERS}'


def _lists(grid: Lists, problem: Problem) -> Iterator[Mistake]:
    """Hidden widths one by one fix the depth, and leave nothing to a profile."""
    for width in grid["width"]:
        if not isinstance(width, tuple):
            continue
        wrong = [depth for depth in grid["depth"] if depth != len(width) + 1]
        if wrong:
            text = f"{show(list(width))} are the hidden widths of {len(width) + 1} layers, not of {wrong[0]}"
            yield "width", f"{text}; give depth {len(width) + 1}, or this list a [[grid]] of its own"
        other = [profile for profile in grid["profile"] if profile != "equal"]
        if other:
            text = f"{show(list(width))} says all widths, profile {show(other[0])} too"
            yield "width", f"{text}; give one number, or leave profile out"


def _starts(grid: Lists, problem: Problem) -> Iterator[Mistake]:
    loose = [s for s in grid["start"] if not registry.STARTS.get(s, True)]
    known = [o for o in grid["optimizer"] if not user_functions.is_name(o)]
    kept = [o for o in known if registry.optimizer(o).constrained]
    if loose and kept and any(f != "all" for f in grid["free"]):
        text = f"{show(loose[0])} layers are not orthonormal, which optimizer {show(kept[0])} keeps them"
        yield "start", f'{text}; give optimizer "gd", free "all", or a [[grid]] of its own'
    bent = [a for a in grid["activation"] if a != "linear"]
    if "near" in grid["start"] and problem.get("kind") == "own":
        yield (
            "start",
            '"near" needs a known solution, a problem of your own has none; give "haar" or "identity"',
        )
    elif "near" in grid["start"] and bent and problem.get("kind") != "teacher":
        text = f'"near" needs a known solution, data with activation {show(bent[0])} have none'
        yield "start", f'{text}; give "haar" or "identity"'


def _losses(grid: Lists, problem: Problem) -> Iterator[Mistake]:
    others = [loss for loss in grid["loss"] if loss != "square"]
    if not others:
        return
    if problem.get("kind") not in ("teacher", None):
        yield "loss", f'{show(others[0])} is a loss of a teacher\'s product; give problem.kind "teacher"'
    for name, value in _changed(grid, _SAMPLES):
        text = f"{show(others[0])} is of linear networks on all data, not with {name} {show(value)}"
        yield "loss", f'{text}; give "square", or a [[grid]] of its own'


def _samples(grid: Lists, problem: Problem) -> Iterator[Mistake]:
    """What needs the samples themselves has them in whitened coordinates."""
    if "raw" in grid["data"]:
        for name, value in _changed(grid, _SAMPLES):
            yield "data", f'"raw" has no samples for {name} {show(value)}; give "whitened"'


def _rates(grid: Lists, problem: Problem) -> Iterator[Mistake]:
    """A step that is a fraction of a predicted one needs the prediction."""
    asked = [rule for rule in grid["step_rule"] if rule in ("optimal", "edge")]
    if not asked:
        return
    unknown = [f"free {show(f)}" for f in grid["free"] if f == "none"]
    unknown += [f"loss {show(x)}" for x in grid["loss"] if user_functions.is_name(x)]
    unknown += [f"activation {show(a)}" for a in grid["activation"] if user_functions.is_name(a)]
    if problem.get("kind") == "own":
        unknown.append("a problem of your own")
    elif problem.get("kind") not in ("teacher", None):
        unknown += [f"activation {show(a)} on data" for a in grid["activation"] if a != "linear"]
    if any(a != "linear" for a in grid["activation"]):
        unknown += [f"activation with label_noise {show(x)}" for x in grid["label_noise"] if x]
    if unknown:
        yield (
            "step_rule",
            f"{show(asked[0])} needs a predicted rate, theory has none for {unknown[0]}; {_NUMBER}",
        )


def _raw(grid: Lists, problem: Problem) -> Iterator[Mistake]:
    if "raw" in grid["data"] and problem.get("kind") in ("teacher", "own"):
        whose = "a teacher" if problem["kind"] == "teacher" else "a problem of your own"
        yield "data", f'"raw" needs data, {whose} has none; remove it or give "whitened"'


def _held_out(grid: Lists, problem: Problem) -> Iterator[Mistake]:
    """Accuracy is that of the product, a network without activations; steps on samples take all there are."""
    if not problem.get("held_out"):
        return
    for name, value in _changed(grid, _SAMPLES):
        yield name, f"{show(value)} does not go with problem.held_out; remove one of the two"


def _user(grid: Lists, problem: Problem) -> Iterator[Mistake]:
    """A user's problem contains its own loss, noise and network."""
    if problem.get("kind") != "own":
        return
    for name, value in _changed(grid, [name for name in PLAIN if name in _SAMPLES or name == "loss"]):
        yield name, f"{show(value)} has no place in a problem of your own; write it into its loss"


def _changed(grid: Lists, names: Iterable[str]) -> Iterator[tuple[str, object]]:
    """Those of the options that have another value than a plain network's, each with the first such value."""
    for name in names:
        others = [value for value in grid[name] if value != PLAIN[name]]
        if others:
            yield name, others[0]
