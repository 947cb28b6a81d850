"""A cell: one training run with all its coordinates resolved, and the name (hash) that it keeps."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, dataclass, fields
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One training run, all coordinates resolved: engine is ``layers`` or ``reduced``, never ``auto`` or ``both``.

    ``retraction`` is ``none`` for the optimizer ``gd``, which has none, so that a product over retractions
    does not repeat the same run under several names; ``momentum`` is 0 where none is read. ``width`` is the
    narrowest hidden width, ``profile`` says the others. ``content`` is the sha256 (hex) of ``Sweep.shared``: it
    makes the key hold everywhere, and is no coordinate. Coordinates with a default are told only where they
    differ from it, so that a key given before they existed stays the same.
    """

    study: str
    data: str
    depth: int
    width: int
    seed: int
    step_rule: str
    step: float
    engine: str
    start: str
    retraction: str
    optimizer: str
    precision: str
    content: str
    momentum: float = 0.0
    activation: str = "linear"
    free: str = "first"
    loss: str = "square"
    profile: str = "equal"
    batch_size: int = 0
    label_noise: float = 0.0

    def coordinates(self) -> dict[str, str | int | float]:
        """The columns a store keeps to tell cells apart, by name: all fields but ``content``."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "content"}

    def key(self) -> str:
        """Name of the cell for ever: sha256 (hex) of its coordinates and its content."""
        return self._key

    @cached_property
    def _key(self) -> str:
        head, tail = text_around_seed(ALL_BUT_SEED(self))
        return hashlib.sha256(b"%s%d%s" % (head, self.seed, tail)).hexdigest()


# Cells differ mostly in their seed: the text around it is made once, which makes a million keys cheap.
_SEED = "<seed>"
ALL_BUT_SEED = attrgetter(*(one.name for one in fields(Cell) if one.name != "seed"))


@lru_cache(maxsize=4096)
def text_around_seed(rest: tuple[Any, ...], content: bool = True) -> tuple[bytes, bytes]:
    """Canonical JSON of a cell's coordinates (and content), before and behind the seed's digits.

    Coordinates at their default are left out: names given before these existed stay the same.
    """
    names = [one.name for one in fields(Cell) if one.name != "seed"]
    said = without_defaults(Cell, dict(zip(names, rest, strict=True))) | {"seed": [_SEED]}
    if not content:
        del said["content"]
    head, tail = canonical_json(said).split(f'["{_SEED}"]')
    return head.encode(), tail.encode()


#: Parts at which a network is a plain linear one.
PLAIN = {
    one.name: one.default for one in fields(Cell) if one.default is not MISSING and one.name != "momentum"
}


def without_defaults(section: Any, values: dict[str, Any], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    """``values`` without the fields that stand at their default, those in ``keep`` excepted."""
    defaults = {one.name: one.default for one in fields(section)}
    return {name: value for name, value in values.items() if name in keep or value != defaults[name]}


def canonical_json(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
