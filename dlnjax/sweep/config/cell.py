"""A cell: one training run with all its coordinates resolved, and the name (hash) that it keeps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import attrgetter

from dlnjax.sweep.config import options
from dlnjax.sweep.config.declaration import Option, without_blanks

Value = str | int | float


@dataclass(frozen=True, kw_only=True)
class Cell(options.Coordinates):
    """One training run: the options of a grid with one value each, and what all cells of a sweep share.

    ``engine`` is ``layers`` or ``reduced``, never ``auto`` or ``both``. ``retraction`` is ``none`` for an optimizer
    that has none, so that a product over retractions does not repeat the same run under several names; ``momentum``
    is 0 where none is read. ``width`` is the narrowest hidden width, ``profile`` says the others. ``content`` is the
    sha256 (hex) of ``Sweep.shared``: it makes the key unique across configurations, and is no coordinate.
    """

    study: str
    precision: str
    content: str

    def coordinates(self) -> dict[str, Value]:
        """The columns a store keeps to tell cells apart, by name: all fields but ``content``."""
        return {name: getattr(self, name) for name in COORDINATES}

    def key(self) -> str:
        """The cell's permanent name: sha256 (hex) of its coordinates and its content."""
        return self._key

    @cached_property
    def _key(self) -> str:
        head, tail = text_around_seed(ALL_BUT_SEED(self))
        return hashlib.sha256(b"%s%d%s" % (head, self.seed, tail)).hexdigest()


# The coordinates of the first version in the order of its files; later ones follow in the grid's order.
_FIRST = (
    "study", "data", "depth", "width", "seed", "step_rule", "step", "engine", "start", "retraction", "optimizer",
    "precision",
)  # fmt: skip
#: What tells cells apart: columns of every store, in their order.
COORDINATES: Mapping[str, Option] = {
    name: {**options.TOP, **options.GRID}[name] for name in (*_FIRST, *options.LATER)
}
#: Values at which a network is a plain linear one; any other takes the general path.
PLAIN = {name: one.blank for name, one in options.LATER.items() if one.path != "fast"}

# Cells differ mostly in their seed: the text around it is made once, which makes a million keys cheap.
_SEED = "<seed>"
_NAMES = tuple(name for name in (*COORDINATES, "content") if name != "seed")
ALL_BUT_SEED = attrgetter(*_NAMES)


@lru_cache(maxsize=4096)
def text_around_seed(rest: tuple[Value, ...], content: bool = True) -> tuple[bytes, bytes]:
    """Canonical JSON of a cell's coordinates (and content), before and behind the seed's digits.

    Args:
      rest: ``ALL_BUT_SEED`` of the cell. Options at their ``blank`` are left out: names given before these existed
        stay the same.
    """
    values: dict[str, object] = dict(zip(_NAMES, rest, strict=True))
    shared = {"content": values.pop("content")}
    named = without_blanks(COORDINATES, values) | {"seed": [_SEED]} | (shared if content else {})
    head, tail = canonical_json(named).split(f'["{_SEED}"]')
    return head.encode(), tail.encode()


def canonical_json(content: dict[str, object]) -> str:
    """JSON with sorted names and nothing that could be written in another way."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
