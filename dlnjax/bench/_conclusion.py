"""How a benchmark ends: its targets line by line, its figures in a file, its exit code."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict


class Target(TypedDict):
    """A figure that a benchmark has to reach, and whether it did."""

    name: str
    value: float
    target: float
    met: bool


def machine() -> dict[str, str | int | float | None]:
    """What the figures depend on besides the code."""
    return {"cores": os.cpu_count(), "processor": platform.machine(), "jax": version("jax")}


def conclude(told: Mapping[str, Any], file: Path | None, bound: str = "target") -> int:
    """Prints the targets and keeps everything.

    Args:
      told: JSON values; ``targets`` lists ``{name, value, target, met}``.
      file: where it is written, if anywhere; its folder is made.
      bound: what a target is called, as ``at most``.

    Returns:
      The exit code: 0 when every target is met, 1 otherwise.
    """
    for target in told["targets"]:
        verdict = "met" if target["met"] else "MISSED"
        print(f"{verdict:7}{target['name']}: {target['value']:.3g} ({bound} {target['target']:.3g})")
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return 0 if all(target["met"] for target in told["targets"]) else 1
