"""The configs of campaigns: their options, and how one is read.

Where a sweep trains the cells of a grid, a campaign (``campaign = "guarantee"`` at the top of its config)
draws random instances and counts violations. Its config is flat; complaints are worded as a sweep's. Nothing
here imports JAX.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dlnjax.sweep.config import options, overrides, toml, validators
from dlnjax.sweep.config.declaration import Option
from dlnjax.sweep.config.loading import Document, parse
from dlnjax.sweep.config.reader import Reader, SpecError, Values
from dlnjax.sweep.config.toml import key as show_key
from dlnjax.sweep.config.validators import Real, Whole, Word

_HEAD = ("study", "question", "precision", "campaign")
_SEED = Option(Whole(0, 2**31 - 1), 0)
#: The further keys of a campaign's config, all at its top, by campaign.
CAMPAIGNS: Mapping[str, Mapping[str, Option]] = {
    "guarantee": {
        "seed": _SEED,
        "instances": Option(Whole(1, 100_000), 200),
        "steps": Option(Whole(1, 10_000), 25),
        "rate_instances": Option(Whole(1, 100_000), 280),
        "tanh_instances": Option(Whole(1, 10_000), 40),
        "tolerance": Option(Real(below=1), 1e-6),
    },
    "gd_convergence": {
        "seed": _SEED,
        "instances": Option(Whole(1, 100_000), 200),
        "steps": Option(Whole(1, 100_000), 300),
        "starts": Option(Whole(1, 1_000_000), 1000),
        "deep_starts": Option(Whole(1, 1_000_000), 200),
        "descent_steps": Option(Whole(100, 10_000_000), 20_000),
    },
    "flow_limit": {
        "seed": _SEED,
        "instances": Option(Whole(1, 100_000), 200),
        "tolerance": Option(Real(below=1), 4e-8),
    },
    "modes": {
        "seed": _SEED,
        "instances": Option(Whole(1, 100_000), 200),
        "step": Option(Real(below=0.1), 1e-3),
        "tolerance": Option(Real(below=1), 1e-7),
        "kernel_instances": Option(Whole(1, 10_000), 20),
    },
    "gauge": {
        "seed": _SEED,
        "instances": Option(Whole(1, 100_000), 200),
        "restarts": Option(Whole(1, 10_000), 20),
        "step_instances": Option(Whole(1, 10_000), 60),
        "steps": Option(Whole(1, 10_000), 10),
    },
    "momentum": {
        "seed": _SEED,
        "instances": Option(Whole(1, 10_000), 10),
        "tolerance": Option(Real(below=1), 1e-6),
    },
    "sparse_coding": {
        "seed": _SEED,
        "instances": Option(Whole(1, 100_000), 1600),
        "noisy_instances": Option(Whole(1, 100_000), 1700),
        "rate_instances": Option(Whole(1, 10_000), 160),
        "chains": Option(Whole(1, 1000), 3),
        "dictionaries": Option(Whole(1, 1000), 3),
        "tolerance": Option(Real(below=1), 1e-6),
    },
}
#: Keys that every campaign's config has. Its tolerances are of double precision.
CAMPAIGN_TOP: Mapping[str, Option] = {
    "study": options.TOP["study"],
    "question": options.TOP["question"],
    "precision": Option(Word(("float64",)), "float64"),
    "campaign": Option(Word(tuple(CAMPAIGNS))),
}


@dataclass(frozen=True)
class Campaign:
    """A validated configuration; make one with :func:`load`, which checks it.

    Attributes:
      study, question, precision: as a sweep's.
      campaign: a name in ``CAMPAIGNS``.
      settings: the values of its keys, defaults included.
    """

    study: str
    question: str
    precision: str
    campaign: str
    settings: tuple[tuple[str, object], ...]

    def hash(self) -> str:
        """sha256 (hex) of all that changes results: not of the wording of ``question``."""
        content = {"precision": self.precision, "campaign": self.campaign, "settings": dict(self.settings)}
        return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()

    def to_toml(self) -> str:
        """The same campaign as TOML text; :func:`load` of it gives an equal one."""
        return toml.document({name: getattr(self, name) for name in _HEAD} | dict(self.settings), {}, {})


class CampaignReader(Reader):
    """Reads a campaign's config, which is flat; complaints as in a sweep's."""

    def campaign(self, raw: Mapping[str, object]) -> Values:
        """Read the config of a campaign, flat as it is: every key's value. Raises :class:`SpecError`."""
        kind = raw.get("campaign")
        further = CAMPAIGNS.get(kind, {}) if type(kind) is str else {}
        known = {**CAMPAIGN_TOP, **further}
        every = {*CAMPAIGN_TOP, *(name for table in CAMPAIGNS.values() for name in table)}
        for name in raw:
            if name not in known and (
                further or name not in every
            ):  # without a campaign names alone are checked
                near = validators.nearest(name, known)
                hint = f"did you mean {near}?" if near else f"known here: {', '.join(known)}"
                self._meant.update({near} if near else ())
                self.complain(show_key(name), f"is not a key of this campaign; {hint}")
        values = self._table("", {name: raw[name] for name in raw if name in known}, known)
        self._finish(raw)
        return values


def load(path: str | os.PathLike[str] | Document, changes: Iterable[str] = ()) -> Campaign:
    """Read a campaign's configuration.

    Args:
      path: the TOML file, or what ``loading.parse`` made of it.
      changes: ``key=value`` texts.

    Raises:
      SpecError: with one line for every mistake, each naming file, key, value and remedy.
    """
    document = path if isinstance(path, Document) else parse(path)
    source, raw = document.source, document.changeable()
    origins, lines = overrides.apply_flat(raw, changes)
    lines = [f"{source} with {line}" for line in lines]
    try:
        values = CampaignReader(source, origins).campaign(raw)
    except SpecError as error:
        raise SpecError([*lines, *error.lines]) from None
    if lines:
        raise SpecError(lines)
    settings = tuple((name, values[name]) for name in CAMPAIGNS[values["campaign"]])
    return Campaign(**{name: values[name] for name in _HEAD}, settings=settings)
