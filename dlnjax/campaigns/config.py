"""A campaign from a config: statements held against many random instances, and the folder that keeps them.

Where a sweep trains the cells of a grid, a campaign (``campaign = "guarantee"`` at the top of its config)
draws random instances and counts violations. It takes minutes, so it is computed whole, and again when asked
again: ``DIR/config.toml``, ``DIR/manifest.json`` and ``DIR/summary.csv`` (one row an instance) are written when all
of it is there. Nothing here imports JAX before the campaign runs.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlnjax.sweep.config import options, overrides, toml, validators
from dlnjax.sweep.config.declaration import Option
from dlnjax.sweep.config.loading import Document, parse
from dlnjax.sweep.config.reader import Reader, SpecError
from dlnjax.sweep.config.toml import key as show_key
from dlnjax.sweep.config.validators import Real, Whole, Word
from dlnjax.sweep.store import atomic, manifest

if TYPE_CHECKING:
    from dlnjax.campaigns.checks import Finding

SUMMARY = "summary.csv"
#: What the numbers depend on, besides what every manifest names.
_PACKAGES = ("numpy", "optax", "diffrax")
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
    settings: tuple[tuple[str, Any], ...]

    def hash(self) -> str:
        """sha256 (hex) of all that changes results: not of the wording of ``question``."""
        content = {"precision": self.precision, "campaign": self.campaign, "settings": dict(self.settings)}
        return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()

    def to_toml(self) -> str:
        """The same campaign as TOML text; :func:`load` of it gives an equal one."""
        return toml.document({name: getattr(self, name) for name in _HEAD} | dict(self.settings), {}, {})


class CampaignReader(Reader):
    """Reads a campaign's config, which is flat; complaints as in a sweep's."""

    def campaign(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Read the config of a campaign, flat as it is: every key's value. Raises :class:`SpecError`."""
        kind = raw.get("campaign")
        own = CAMPAIGNS.get(kind, {}) if type(kind) is str else {}
        known = {**CAMPAIGN_TOP, **own}
        every = {*CAMPAIGN_TOP, *(name for table in CAMPAIGNS.values() for name in table)}
        for name in raw:
            if name not in known and (own or name not in every):  # without a campaign names alone are checked
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


def run(
    campaign: Campaign, out: Path | str, listen: Callable[[Finding], None] | None = None
) -> list[Finding]:
    """Compute a campaign and keep it in ``out``.

    Args:
      campaign: from :func:`load`.
      out: the folder of the results; made if absent.
      listen: called with every finding as soon as it is there.

    Returns:
      The findings; the campaign found no violation if none of them has any.

    Raises:
      manifest.ConfigChanged: the folder holds the results of another config.
      ValueError: the folder holds a sweep.
    """
    out = Path(out)
    _check_vacant(campaign, out)
    from dlnjax.campaigns.checks import findings

    found, seconds = [], []
    since = time.perf_counter()
    for finding in findings(campaign.campaign, dict(campaign.settings)):
        found.append(finding)
        seconds.append(round(time.perf_counter() - since - sum(seconds), 1))
        if listen is not None:
            listen(finding)
    out.mkdir(parents=True, exist_ok=True)
    atomic.replace(out / manifest.CONFIG, campaign.to_toml())
    atomic.replace(out / SUMMARY, _csv([row for finding in found for row in finding.rows]))
    atomic.replace(out / manifest.NAME, json.dumps(_manifest(campaign, found, seconds), indent=1) + "\n")
    return found


def _check_vacant(campaign: Campaign, out: Path) -> None:
    """Raise unless the folder is new, or holds this campaign."""
    try:
        old = json.loads((out / manifest.NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        old = {}
    if not isinstance(old, dict) or "campaign" not in old:
        raise ValueError(f"{out}: holds a sweep, or something else with a {manifest.NAME}; use another --out")
    if old.get("config_hash") != campaign.hash():
        before = out / manifest.CONFIG
        text = before.read_text(encoding="utf-8") if before.exists() else ""
        lines = manifest.difference(text, campaign.to_toml())
        raise manifest.ConfigChanged(f"{out} holds the results of another config; use another --out:", lines)


def _manifest(campaign: Campaign, found: Sequence[Finding], seconds: Sequence[float]) -> dict[str, Any]:
    import jax

    counts = ("statement", "instances", "checks", "violations", "tightest")
    return {
        "manifest_version": manifest.MANIFEST_VERSION,
        "study": campaign.study,
        "campaign": campaign.campaign,
        "config_hash": campaign.hash(),
        "precision": campaign.precision,
        "versions": manifest.versions() | {name: _version(name) for name in _PACKAGES},
        "machine": platform.machine(),
        "devices": [f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"],
        "git_commit": manifest.commit(),
        "date": manifest.today(),
        "parts": {
            f.part: {name: getattr(f, name) for name in counts} | {"seconds": s, "details": _plain(f.details)}
            for f, s in zip(found, seconds, strict=True)
        },
    }


def _plain(value: Any) -> Any:
    """Details as JSON takes them."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.item() if hasattr(value, "item") else value


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """One row an instance, the columns of all parts, an empty field where a column does not apply."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_field(row.get(name)) for name in columns] for row in rows])
    return text.getvalue()


def _field(value: Any) -> Any:
    """Twelve digits of a number: more than any statement needs, and half the file."""
    return "" if value is None else format(value, ".12g") if isinstance(value, float) else value


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
