"""Programs that this process keeps compiled, and how to be rid of them.

A compiled program takes ten to fifty of the 65,530 regions of memory that Linux lets a process map, and XLA ends the
process where there are no more. conftest.py forgets the programs after each module, and between tests where there are
many; a test that draws many shapes calls :func:`forget_if_many` in each of its examples.
"""

import sys
from pathlib import Path

import jax

#: Mapped regions from which on programs are forgotten; there are 2,000 in a process without any.
MOST_REGIONS = 40_000
#: Compilations between two looks at how many there are.
_EVERY = 100
_REGIONS = Path("/proc/self/maps")
_compiled = []


@jax.monitoring.register_event_duration_secs_listener
def _count(event, seconds, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled.append(seconds)


def forget():
    """JAX's caches and the sweeps' session are emptied."""
    jax.clear_caches()
    session = sys.modules.get("dlnjax.sweep.compute.session")
    if session is not None:
        session.shared.cache_clear()
    _compiled.clear()


def forget_if_many():
    """:func:`forget` where so many programs are kept that the next hundred might not find room."""
    if len(_compiled) < _EVERY or not _REGIONS.exists():
        return
    _compiled.clear()
    with _REGIONS.open("rb") as regions:
        if sum(1 for _ in regions) > MOST_REGIONS:
            forget()
