"""Why a shard could not be computed: a note in the folder for ``dlnjax status``, gone once it could."""

from __future__ import annotations

import json
from pathlib import Path

from dlnjax.sweep.store import atomic, seal

FOLDER = "failures"


def note(out: Path | str, shard: str, reason: str) -> None:
    """Keeps the reason of the last failure of ``shard``."""
    folder = Path(out) / FOLDER
    folder.mkdir(exist_ok=True)
    content = json.dumps({"shard": shard, "reason": reason, seal.KEY: seal.BLANK})
    atomic.replace(folder / f"{shard}.json", seal.sealed(content.encode()))


def forget(out: Path | str, shard: str) -> None:
    """The shard is in the store."""
    (Path(out) / FOLDER / f"{shard}.json").unlink(missing_ok=True)


def read(out: Path | str) -> dict[str, str]:
    """shard -> reason; of a damaged note, that it is damaged."""
    files = sorted((Path(out) / FOLDER).glob("*.json"))
    return {file.stem: _reason(file) or f"the note of why, {file}, is damaged" for file in files}


def damaged(file: Path) -> bool:
    """Whether a note is not what was written."""
    return _reason(file) is None


def _reason(file: Path) -> str | None:
    try:
        content = file.read_bytes()
        return None if seal.is_right(content) is False else str(json.loads(content)["reason"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
