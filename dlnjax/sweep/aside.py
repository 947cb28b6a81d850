"""Work in a thread beside the one that feeds the devices, which gets the interpreter back at once.

Whoever handles arrays gives the interpreter up with each of them. While another thread holds it, to have it back takes
Python's switch interval, 5 ms, every time: a third of a second for the arrays of a shard.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds after which a thread aside lets another go on.
AT_ONCE = 2e-4

_lock = threading.Lock()
_working = 0
_usual = 0.0


@contextmanager
def giving_way() -> Iterator[None]:
    """While any thread is inside, Python's switch interval is at most :data:`AT_ONCE`; afterwards what it was."""
    global _working, _usual
    with _lock:
        if not _working:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(min(_usual, AT_ONCE))
        _working += 1
    try:
        yield
    finally:
        with _lock:
            _working -= 1
            if not _working:
                sys.setswitchinterval(_usual)
