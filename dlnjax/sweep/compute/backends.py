"""The backends by name: what ``plan.Program.engine`` of a shard selects."""

from __future__ import annotations

from collections.abc import Mapping

from dlnjax.sweep.compute.backend import Backend
from dlnjax.sweep.compute.general import General
from dlnjax.sweep.compute.plain import Layers, Reduced

BACKENDS: Mapping[str, Backend] = {"layers": Layers(), "reduced": Reduced(), "general": General()}
