"""Comparing all counters of a session with the kernel's files, for the verb `verify`.

The kernel's file takes its time, and a target that is not at rest changes meanwhile. So it is read between two
refreshes. A memory area can be compared if both show the same and no event came between them; for the others there is
another look, and another, for as long as there is patience.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from tracer.errors import NumatraceError
from tracer.kernel.numa_maps import NumaLine, parse_numa_maps, read_numa_maps
from tracer.kernel.procfs import TargetGone, read_maps
from tracer.model.comparison import PAGE_SIZE, Area, Comparison, Mismatch, TargetComparison, Unstable, compare
from tracer.render import numa_maps

if TYPE_CHECKING:
    from tracer.model.sample import Sample
    from tracer.model.snapshot import Snapshot
    from tracer.session import Session
    from tracer.session_check import Unsettled

__all__ = ["Verifier", "kernel_areas", "our_areas"]

_TRIES = 5
"""Reads of maps and numa_maps until they show the same list."""
_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5


def kernel_areas(pid: int, full: bool) -> list[Area] | None:
    """The kernel's account: /proc/PID/numa_maps, with the ends of VMAs from maps. None where the list of VMAs changes
    faster than both can be read. Raises TargetGone."""
    for _ in range(_TRIES):
        entries, lines = read_maps(pid), read_numa_maps(pid)
        if [entry.start for entry in entries] == [line.start for line in lines]:
            return [_area(line, entry.end, entry.path, full) for entry, line in zip(entries, lines, strict=True)]
    return None


def our_areas(snapshot: Snapshot, full: bool) -> list[Area]:
    """Our account, as `numatrace maps` prints it."""
    lines = parse_numa_maps(b"\n".join(numa_maps.lines(snapshot, full)))
    return [_area(line, vma.end, vma.path, full) for line, vma in zip(lines, snapshot.vmas, strict=True)]


def _area(line: NumaLine, end: int, path: bytes, full: bool) -> Area:
    name = b"file=" + line.path if line.name == "file" else line.name.encode()
    fields = dict(line.fields) if full else {}
    if line.page_kb is not None:
        fields[PAGE_SIZE] = line.page_kb
    words = b" ".join(word for word in (name, b"huge" * line.huge) if word)
    return Area(line.start, end, line.policy, words, line.nodes, fields, path)


@dataclass(slots=True)
class _Target:
    """What is known of one target so far: VMAs in which both agreed, or did not, at any look; and the latest look's
    rest."""

    snapshot: Snapshot
    right: dict[tuple[int, int], Area] = field(default_factory=dict)
    wrong: dict[tuple[int, int], list[Mismatch]] = field(default_factory=dict)
    unstable: list[Unstable] = field(default_factory=list)
    unvouched: list[list[Mismatch]] = field(default_factory=list)

    @property
    def settled(self) -> bool:
        return not self.unstable and not self.unvouched

    def result(self) -> TargetComparison:
        wrong = [it for its in (*self.wrong.values(), *self.unvouched) for it in its]
        right = (area for key, area in self.right.items() if key not in self.wrong)
        return TargetComparison(self.snapshot, tuple(right), tuple(wrong), tuple(self.unstable))


class Verifier:
    """Compares. full: with the fields that `maps --full` has. patience_s: how long it may take to find every area at
    rest. given_up: whether somebody has asked for the end. kernel: reads the kernel's account of a process.
    """

    def __init__(
        self,
        full: bool,
        patience_s: float,
        given_up: Callable[[], bool],
        kernel: Callable[[int, bool], list[Area] | None] = kernel_areas,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._full, self._patience_s, self._given_up = full, patience_s, given_up
        self._kernel, self._clock = kernel, clock

    def compare(self, session: Session, first: Sample, frozen: bool = False) -> Comparison:
        """All targets of `first`, a sample that was just taken. Raises TargetGone once there is none left."""
        began = self._clock()
        targets = {snapshot.pid: _Target(snapshot) for snapshot in first.snapshots}
        pause, looks = _PAUSE_S, 0
        while True:
            first = self._look(session, first, targets)
            looks += 1
            done = all(target.settled for target in targets.values())
            if done or self._clock() - began >= self._patience_s or self._given_up():
                break
            # At rest, a second look is enough; otherwise it is left alone for a while.
            if looks > 1:
                if not session.wait(pause):
                    raise TargetGone("all processes ended before they could be compared")
                first = session.refresh()
                pause = min(2 * pause, _LONGEST_PAUSE_S)
        results = tuple(target.result() for target in targets.values())
        return Comparison(datetime.now(UTC), results, looks, self._clock() - began, frozen)

    def _look(self, session: Session, before: Sample, targets: dict[int, _Target]) -> Sample:
        """The kernel's files between two refreshes; the second one's sample. Who has ended is forgotten."""
        told: dict[int, list[Area] | None] = {}
        for snapshot in before.snapshots:
            if snapshot.pid in targets:
                try:
                    told[snapshot.pid] = self._kernel(snapshot.pid, self._full)
                except NumatraceError:
                    if snapshot.pid in {it.pid for it in session.refresh().snapshots}:
                        raise
        after = session.refresh()
        ours = {snapshot.pid: snapshot for snapshot in after.snapshots}
        for snapshot in before.snapshots:
            if snapshot.pid in told and snapshot.pid in ours:
                shown = ours[snapshot.pid]
                _take(targets[snapshot.pid], snapshot, told[snapshot.pid], shown, self._full, session)
        for pid in [pid for pid in targets if pid not in ours or pid not in told]:
            del targets[pid]
        return after


def _take(
    target: _Target, before: Snapshot, kernel: list[Area] | None, after: Snapshot, full: bool, session: Session
) -> None:
    """Add what one look at one target has shown."""
    target.snapshot = after
    second = our_areas(after, full)
    if kernel is None:
        target.unstable, target.unvouched = [Unstable(area, "the list of memory areas") for area in second], []
        return
    first = second if before.vmas is after.vmas and _same(before, after, full) else our_areas(before, full)
    unsettled = session.unsettled(after.pid)
    found = compare(first, kernel, second, partial(_changing, unsettled), unsettled.vmas)
    # What has gone since an earlier look is not to be counted.
    present = {area.key for area in second}
    target.right = {key: area for key, area in target.right.items() if key in present}
    target.right.update((area.key, area) for area in found.equal)
    target.wrong.update((its[0].area.key, its) for its in found.wrong)
    known = target.right.keys() | target.wrong.keys()
    target.unstable = [it for it in found.unstable if it.area.key not in known]
    target.unvouched = [its for its in found.unvouched if its[0].area.key not in known]


def _same(before: Snapshot, after: Snapshot, full: bool) -> bool:
    """Whether both have the same counts, so that they need not be printed twice."""
    return not full and bool((before.pages == after.pages).all())


def _changing(unsettled: Unsettled, area: Area) -> str:
    """What the session knows to have changed of a memory area."""
    if unsettled.everything:
        return unsettled.everything
    return "pages" if unsettled.touches(area.start, area.end) else ""
