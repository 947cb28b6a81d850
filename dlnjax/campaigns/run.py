"""A campaign computed and kept: the folder with its config, its manifest and one row an instance.

It takes minutes, so it is computed whole, and again when asked again: ``DIR/config.toml``, ``DIR/manifest.json`` and
``DIR/summary.csv`` are written when all of it is there. Nothing here imports JAX before the campaign runs.
"""

from __future__ import annotations

import csv
import io
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlnjax.campaigns.config import Campaign
from dlnjax.sweep.store import atomic, manifest, provenance

if TYPE_CHECKING:
    from dlnjax.campaigns.checks import Finding

SUMMARY = "summary.csv"
#: What the numbers depend on, besides what every manifest names.
_PACKAGES = ("numpy", "optax", "diffrax")


def run(
    campaign: Campaign, out: Path | str, listen: Callable[[Finding], None] | None = None
) -> list[Finding]:
    """Compute a campaign and keep it in ``out``.

    Args:
      campaign: from ``config.load``.
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

    computed, seconds = [], []
    since = time.perf_counter()
    for finding in findings(campaign.campaign, dict(campaign.settings)):
        computed.append(finding)
        seconds.append(round(time.perf_counter() - since - sum(seconds), 1))
        if listen is not None:
            listen(finding)
    out.mkdir(parents=True, exist_ok=True)
    atomic.replace(out / manifest.CONFIG, campaign.to_toml())
    atomic.replace(out / SUMMARY, _csv([row for finding in computed for row in finding.rows]))
    atomic.replace(out / manifest.NAME, json.dumps(_manifest(campaign, computed, seconds), indent=1) + "\n")
    return computed


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


def _manifest(campaign: Campaign, computed: Sequence[Finding], seconds: Sequence[float]) -> manifest.Manifest:
    import jax

    counts = ("statement", "instances", "checks", "violations", "tightest")
    return {
        "manifest_version": manifest.MANIFEST_VERSION,
        "study": campaign.study,
        "campaign": campaign.campaign,
        "config_hash": campaign.hash(),
        "precision": campaign.precision,
        "versions": provenance.versions()
        | {name: provenance.installed(name) or "absent" for name in _PACKAGES},
        "machine": platform.machine(),
        "devices": [f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"],
        "git_commit": provenance.commit(),
        "date": provenance.today(),
        "parts": {
            f.part: {name: getattr(f, name) for name in counts} | {"seconds": s, "details": _plain(f.details)}
            for f, s in zip(computed, seconds, strict=True)
        },
    }


def _plain(value: Any) -> object:
    """Details as JSON takes them."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value.item() if hasattr(value, "item") else value


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    """One row an instance, the columns of all parts, an empty field where a column does not apply."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_field(row.get(name)) for name in columns] for row in rows])
    return text.getvalue()


def _field(value: object) -> object:
    """Twelve digits of a number: more than any statement needs, and half the file."""
    return "" if value is None else format(value, ".12g") if isinstance(value, float) else value
