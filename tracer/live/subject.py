"""The one VMA that a screen is about, from sample to sample: found again, moved, or gone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection
from dataclasses import dataclass, replace

from tracer.live.history import History
from tracer.model.accumulate import FaultRow, FlowRow, FlowSums
from tracer.model.events import Flows
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Vma

__all__ = ["Found", "Subject"]


@dataclass(frozen=True, slots=True)
class Found:
    """A VMA in the snapshot that it stands in. row: of the snapshot's VMAs."""

    snapshot: Snapshot
    row: int

    @property
    def vma(self) -> Vma:
        """The VMA."""
        return self.snapshot.vmas[self.row]

    @property
    def pages(self) -> list[int]:
        """Pages on each of the snapshot's nodes."""
        pages: list[int] = self.snapshot.pages[self.row].tolist()
        return pages


class Subject:
    """A VMA, known by the target's PID and by where it begins.

    found: as last seen; None if it was never seen. gone: why it is not in the sample that is shown; empty if it is.
    """

    def __init__(self, pid: int, start: int) -> None:
        self.pid = pid
        self.start = start
        self.found: Found | None = None
        self.gone = ""
        self._starts = {start}
        self._fresh: Found | None = None

    def look(self, sample: Sample, exited: Collection[int] = ()) -> None:
        """Find it in this sample. exited: PIDs of targets that are in it though they are no more.

        A VMA that grew downwards, as a stack does, or was merged into the one before it begins elsewhere now, and is
        followed; one that was split is followed in the part that kept the start.
        """
        found, ended = self._in(sample.snapshots), self._in(sample.ended)
        executed = any(shot.pid == self.pid for shot in sample.ended)
        if found is not None and executed and self._differs(found):
            found = None
        self._fresh = found or ended
        if self._fresh is not None:
            self._hold(self._fresh)
        if self.pid in exited or not any(shot.pid == self.pid for shot in sample.snapshots):
            self.gone = "the target has ended"
        elif found is not None:
            self.gone = ""
        elif executed:
            self.gone = "the target has executed another program"
        elif not self.gone:
            self.gone = "no longer mapped" if self.found else "nothing is mapped there"

    def _hold(self, found: Found) -> None:
        self.found = found
        self.start = found.vma.start
        self._starts.add(self.start)

    def _differs(self, found: Found) -> bool:
        """Whether, after an exec, what lies at the same address is something else than what is shown."""
        last = self.found
        return last is not None and (found.vma.path, found.vma.start) != (last.vma.path, last.vma.start)

    def _in(self, shots: tuple[Snapshot, ...]) -> Found | None:
        for shot in shots:
            if shot.pid == self.pid:
                row = bisect_right(shot.vmas, self.start, key=lambda vma: vma.start) - 1
                if row >= 0 and self.start < shot.vmas[row].end:
                    return Found(shot, row)
        return None

    def flows_now(self) -> list[FlowRow]:
        """What moved in it since the sample before; nothing if it is not in the sample that was looked at last."""
        found = self._fresh
        if found is None or found.snapshot.flows is None:
            return []
        flows = found.snapshot.flows
        mine = flows.vma == found.row
        columns = (getattr(flows, name)[mine] for name in ("vma", "source", "destination", "reason", "pages", "failed"))
        sums = FlowSums()
        sums.add(replace(found.snapshot, flows=Flows(flows.reasons, *columns)))
        return sums.rows()

    def flows(self, history: History) -> list[FlowRow]:
        """What moved in it since the view began."""
        sums = history.flows
        return [row for start in self._starts for row in sums.rows((self.pid, start))]

    def faults(self, history: History) -> list[FaultRow]:
        """Page faults in it since the view began."""
        sums = history.faults
        return [row for start in self._starts for row in sums.rows((self.pid, start))]
