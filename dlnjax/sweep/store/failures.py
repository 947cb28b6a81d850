"""Why a shard could not be computed: a note in the folder for ``dlnjax status``, gone once it could."""

from __future__ import annotations

import json
from pathlib import Path

from dlnjax.sweep.store import atomic

FOLDER = "failures"


def note(out: Path | str, shard: str, reason: str) -> None:
    """Keeps the reason of the last failure of ``shard``."""
    folder = Path(out) / FOLDER
    folder.mkdir(exist_ok=True)
    atomic.replace(folder / f"{shard}.json", json.dumps({"shard": shard, "reason": reason}))


def forget(out: Path | str, shard: str) -> None:
    """The shard is in the store."""
    (Path(out) / FOLDER / f"{shard}.json").unlink(missing_ok=True)


def read(out: Path | str) -> dict[str, str]:
    """shard -> reason."""
    reasons = {}
    for file in sorted((Path(out) / FOLDER).glob("*.json")):
        try:
            reasons[file.stem] = str(json.loads(file.read_text(encoding="utf-8"))["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return reasons
