"""Where numbers come from: versions of the packages they depend on, the checkout's commit, the date."""

from __future__ import annotations

import platform
import subprocess
import time
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: The folder that holds the package.
_ROOT = Path(__file__).resolve().parents[3]


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, read without importing any of it."""
    return {
        "python": platform.python_version(),
        **{name: installed(name) or "unknown" for name in ("dlnjax", "jax", "jaxlib")},
    }


@cache
def installed(package: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the checkout this package runs from, with ``+`` when it has changes; None outside one."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        return _git("rev-parse", "HEAD") + (
            "+" if _git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def today() -> str:
    """The date, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime())
