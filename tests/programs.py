"""How many programs this process has compiled, and how to be rid of them.

A compiled program takes ten to a hundred of the 65,530 regions of memory that Linux lets a process map, and XLA ends
the process where there are no more. conftest.py forgets the programs after each module, and between tests where there
are many; a test that draws many shapes calls :func:`forget_if_many` in each of its examples.
"""

import os
import sys

import jax

#: Programs that may stay compiled.
MOST = int(os.environ.get("DLNJAX_MOST_PROGRAMS", "400"))
_seconds = []


@jax.monitoring.register_event_duration_secs_listener
def _count(event, seconds, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        _seconds.append(seconds)


def forget():
    """JAX's caches and the sweeps' session are emptied."""
    jax.clear_caches()
    session = sys.modules.get("dlnjax.sweep.compute.session")
    if session is not None:
        session.shared.cache_clear()
    _seconds.clear()


def forget_if_many():
    """:func:`forget` once more than ``MOST`` programs have been compiled since the last time."""
    if len(_seconds) > MOST:
        forget()
