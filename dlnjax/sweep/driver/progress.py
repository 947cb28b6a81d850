"""News of a run while it runs: bars on a terminal, plain lines in a log, JSON events, or nothing.

A driver calls a :class:`Progress` with its events; which one is chosen by :func:`choose`. Numbers shown are
counted from events, never measured again.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO, TypeAlias

if TYPE_CHECKING:
    from tqdm import tqdm

#: What an event says of one of its keys.
Value: TypeAlias = str | float


class Progress(Protocol):
    """Listens to a run. ``name`` is one of start, shard, failed, retry, damaged, waiting, end."""

    def __call__(self, name: str, **values: Value) -> None: ...


def unheard(name: str, **values: Value) -> None:
    """Listens to nothing."""


def choose(mode: str = "auto", stream: TextIO | None = None) -> Progress:
    """The listener for ``mode``.

    Args:
      mode: ``bars``, ``lines``, ``json``, ``quiet``, or ``auto``: bars on a terminal, lines elsewhere.
      stream: where to write; standard error if None, so that results can be piped.

    Raises:
      ValueError: another mode.
    """
    sink: TextIO = sys.stderr if stream is None else stream
    if mode == "auto":
        mode = "bars" if sink.isatty() else "lines"
    makers = {"bars": Bars, "lines": Lines, "json": Events, "quiet": Quiet}
    if mode not in makers:
        raise ValueError(f"progress {mode!r}; choose auto, {', '.join(makers)}")
    return makers[mode](sink)


class Quiet:
    """Says nothing, except what went wrong."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __call__(self, name: str, **values: Value) -> None:
        if name in _ALARMS:
            print(_ALARMS[name].format(**values), file=self.stream, flush=True)


class Events:
    """One JSON object a line: ``{"event": ..., "time": seconds since the epoch, ...}``."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __call__(self, name: str, **values: Value) -> None:
        print(
            json.dumps({"event": name, "time": round(time.time(), 3), **values}), file=self.stream, flush=True
        )


class Lines:
    """A line every ``every`` seconds, one at the start and one at the end: fit for a log."""

    def __init__(self, stream: TextIO, every: float = 10.0):
        self.stream: TextIO = stream
        self.every: float = every
        self.meter: Meter = Meter()
        self._last = float("-inf")

    def __call__(self, name: str, **values: Value) -> None:
        self.meter(name, **values)
        if name in _ALARMS:
            print(_ALARMS[name].format(**values), file=self.stream, flush=True)
        now = time.monotonic()
        if name == "end" or (name in {"start", "shard"} and now - self._last >= self.every):
            self._last = now
            print(self.meter.line(), file=self.stream, flush=True)


class Bars:
    """A tqdm bar over shards, with cells per second and compile seconds beside it."""

    def __init__(self, stream: TextIO):
        self.stream: TextIO = stream
        self.meter: Meter = Meter()
        self._bar: tqdm | None = None

    def __call__(self, name: str, **values: Value) -> None:
        from tqdm import tqdm

        self.meter(name, **values)
        if name == "start":
            self._bar = tqdm(
                total=int(values["shards"]),
                initial=int(values["done"]),
                unit="shard",
                file=self.stream,
                dynamic_ncols=True,
            )
        if name in _ALARMS:
            tqdm.write(_ALARMS[name].format(**values), file=self.stream)
        if self._bar is None:
            return
        self._bar.set_postfix_str(self.meter.pace(), refresh=False)
        self._bar.update(max(0, self.meter.done - self._bar.n))
        if name == "end":
            self._bar.close()


class Meter:
    """Counts events into shards done, cells per second, compile seconds and the time left."""

    def __init__(self) -> None:
        self.shards: int = 0
        self.done: int = 0
        self.cells: int = 0
        self.ran: int = 0
        self.compile_seconds: float = 0.0
        self._begin = time.monotonic()

    def __call__(self, name: str, **values: Value) -> None:
        if name == "start":
            self.shards, self.done = int(values["shards"]), int(values["done"])
            self._begin = time.monotonic()
        if name == "shard":
            self.done = int(values["done"])
            self.cells += int(values["cells"])
            self.ran += 1
            self.compile_seconds += float(values.get("compile_seconds") or 0.0)

    def pace(self) -> str:
        """``"12.3 cells/s, compiled 4.5 s"``."""
        elapsed = max(time.monotonic() - self._begin, 1e-9)
        return f"{self.cells / elapsed:.1f} cells/s, compiled {self.compile_seconds:.1f} s"

    def line(self) -> str:
        """Everything on one line, with the time left once a shard is through."""
        elapsed = time.monotonic() - self._begin
        left = f", about {elapsed / self.ran * (self.shards - self.done):.0f} s left" if self.ran else ""
        over = "" if self.done < self.shards else f", {elapsed:.1f} s"
        return f"{self.done}/{self.shards} shards, {self.pace()}{over or left}"


_ALARMS = {
    "failed": "shard {shard} failed: {reason}",
    "retry": "shard {shard} again ({reason})",
    "damaged": "{file} was damaged; set aside and computed again",
}
