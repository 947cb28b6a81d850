"""The accounts of a run: what it computed, what failed, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass, field

from dlnjax.sweep.driver.metadata import Results
from dlnjax.sweep.driver.task import Report
from dlnjax.sweep.store import provenance


@dataclass
class Outcome:
    """What a run did.

    Attributes:
      shards, done: how many the folder is to hold, and holds now.
      ran: how many this run computed; cells: in them.
      failed: shard -> reason, for those that raised or whose process kept dying.
      seconds: wall clock; work_seconds: spent in the work function, over all processes.
      device_seconds: of those, spent waiting for the devices; compilations, compile_seconds: programs that XLA
        compiled, the small ones that prepare shards included, and its seconds; compile_waited: seconds of
        standing still for them, tracing included (the rest passed while an earlier shard ran). Over all processes.
      results: shard -> what its cells say of the whole sweep, of those that this run computed.
    """

    shards: int = 0
    done: int = 0
    ran: int = 0
    cells: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    work_seconds: float = 0.0
    device_seconds: float = 0.0
    compilations: int = 0
    compile_seconds: float = 0.0
    compile_waited: float = 0.0
    results: dict[str, Results] = field(default_factory=dict, repr=False)

    @property
    def complete(self) -> bool:
        return self.done == self.shards

    def add(self, report: Report) -> None:
        """Takes a finished shard into account."""
        self.ran += 1
        self.done += 1
        self.cells += report.cells
        self.work_seconds += report.seconds
        self.device_seconds += float(report.said.get("device_seconds", 0))
        self.compilations += int(report.said.get("compilations", 0))
        self.compile_seconds += float(report.said.get("compile_seconds", 0))
        self.compile_waited += float(report.said.get("compile_waited", 0))
        self.results[report.shard] = report.results

    def compiled(self) -> dict[str, str | int | float]:
        """What the manifest says of this run's compilation."""
        return {
            "date": provenance.today(),
            "programs": self.compilations,
            "seconds": round(self.compile_seconds, 3),
            "waited": round(self.compile_waited, 3),
        }
