"""The benchmarks that are installed: the modules of ``dlnjax.bench``."""

from __future__ import annotations

import pkgutil
from importlib.util import find_spec


def names() -> list[str]:
    """The names that ``dlnjax bench`` knows."""
    package = find_spec("dlnjax.bench")
    folders = package.submodule_search_locations if package else None
    modules = pkgutil.iter_modules(folders) if folders else ()
    return sorted(module.name for module in modules if not module.name.startswith("_"))
