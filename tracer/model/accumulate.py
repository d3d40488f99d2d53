"""Sums of what happened to the pages of all targets over several samples: flows, faults, and how far to trust them.

A VMA is known only by the snapshot it stands in, and may be gone in the next one. So what happened is kept under the
process and the VMA's start, together with the VMA's end and name as last seen. Pure: the caller says which samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from tracer.model.events import Faults, Flows, Kind
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot, Trust
from tracer.model.vma import Vma

__all__ = ["HUGE_PAGES", "PLACING", "FaultRow", "FaultSums", "FlowRow", "FlowSums", "Period", "Place", "Seen"]

HUGE_PAGES = 512
"""Pages of 4 KiB in a transparent huge page, as numa_maps counts them."""
_PAGE_KB = 4

PLACING = frozenset({Kind.NEW, Kind.HUGE, Kind.COW, Kind.MAJOR})
"""Kinds of faults after which there is a page where none was before: they decide its node. The others find it there."""

_Key = tuple[int, int]
"""PID and the VMA's start; -1 where no VMA is known."""


@dataclass(frozen=True, slots=True)
class Place:
    """A VMA of a target, as last seen. vma: None where no snapshot held the address when it was looked up."""

    pid: int
    namespace_pid: int
    comm: bytes
    vma: Vma | None


@dataclass(frozen=True, slots=True)
class FlowRow:
    """source, destination: node ids. reason: the kernel's word. pages: as numa_maps counts them; kib: the same in KiB.
    failed: pages that were to move and stayed."""

    place: Place
    source: int
    destination: int
    reason: str
    pages: int
    failed: int
    kib: int


@dataclass(frozen=True, slots=True)
class FaultRow:
    """cpu_node, page_node: node ids, page_node -1 where no page was left. thread: 0 where threads are not told apart.

    count: faults. pages: those that they were about, as numa_maps counts them: 512 for each of kind HUGE outside of
    hugetlbfs, otherwise 1; kib: the same in KiB.
    """

    place: Place
    cpu_node: int
    page_node: int
    kind: Kind
    thread: int
    count: int
    pages: int
    kib: int

    @property
    def placing(self) -> bool:
        """Whether these faults decided on which node the pages lie."""
        return self.kind in PLACING and self.page_node >= 0


class _Places:
    """The VMAs that something happened in, as last seen."""

    def __init__(self) -> None:
        self._places: dict[_Key, Place] = {}

    def __getitem__(self, key: _Key) -> Place:
        return self._places[key]

    def remember(self, snapshot: Snapshot, row: int) -> _Key:
        """row: of the snapshot's VMAs, or -1."""
        vma = snapshot.vmas[row] if row >= 0 else None
        key = (snapshot.pid, vma.start if vma else -1)
        self._places[key] = Place(snapshot.pid, snapshot.namespace_pid or snapshot.pid, snapshot.comm, vma)
        return key


class FlowSums:
    """Flows by VMA, node, node and reason."""

    def __init__(self) -> None:
        self._places = _Places()
        self._sums: dict[tuple[_Key, int, int, str], list[int]] = {}

    def add(self, snapshot: Snapshot) -> None:
        """What happened since the last snapshot of the same target; nothing where it was not asked for."""
        flows = snapshot.flows
        if flows is None:
            return
        for row, source, destination, reason, pages, failed in _rows_of_flows(flows):
            key = self._places.remember(snapshot, row)
            kib = pages * _page_kb(snapshot, row)
            _add(
                self._sums.setdefault((key, source, destination, flows.reasons[reason]), [0, 0, 0]), pages, failed, kib
            )

    def rows(self, only: tuple[int, int] | None = None) -> list[FlowRow]:
        """In no order. only: PID and start of a VMA; None for all of them."""
        return [
            FlowRow(self._places[key], source, destination, reason, *sums)
            for (key, source, destination, reason), sums in self._sums.items()
            if only is None or key == only
        ]


class FaultSums:
    """Faults by VMA, node of the CPU, node of the page, kind and thread."""

    def __init__(self) -> None:
        self._places = _Places()
        self._sums: dict[tuple[_Key, int, int, int, int], list[int]] = {}

    def add(self, snapshot: Snapshot) -> None:
        """What happened since the last snapshot of the same target; nothing where it was not asked for."""
        faults = snapshot.faults
        if faults is None:
            return
        for row, cpu_node, page_node, kind, thread, count in _rows_of_faults(faults):
            key = self._places.remember(snapshot, row)
            pages = count * (HUGE_PAGES if kind == Kind.HUGE and not _is_hugetlb(snapshot, row) else 1)
            kib = pages * _page_kb(snapshot, row)
            _add(self._sums.setdefault((key, cpu_node, page_node, kind, thread), [0, 0, 0]), count, pages, kib)

    def rows(self, only: tuple[int, int] | None = None) -> list[FaultRow]:
        """In no order. only: PID and start of a VMA; None for all of them."""
        return [
            FaultRow(self._places[key], cpu_node, page_node, Kind(kind), thread, *sums)
            for (key, cpu_node, page_node, kind, thread), sums in self._sums.items()
            if only is None or key == only
        ]


def _rows_of_flows(flows: Flows) -> Iterator[tuple[int, int, int, int, int, int]]:
    # Lists, because taking single elements out of a numpy array is slow.
    columns = (flows.vma, flows.source, flows.destination, flows.reason, flows.pages, flows.failed)
    return zip(*(column.tolist() for column in columns), strict=True)


def _rows_of_faults(faults: Faults) -> Iterator[tuple[int, int, int, int, int, int]]:
    columns = (faults.vma, faults.cpu_node, faults.page_node, faults.kind, faults.thread, faults.count)
    return zip(*(column.tolist() for column in columns), strict=True)


def _page_kb(snapshot: Snapshot, row: int) -> int:
    """Of the VMA; where that is not known, of an ordinary page."""
    return snapshot.vmas[row].page_kb if row >= 0 else _PAGE_KB


def _is_hugetlb(snapshot: Snapshot, row: int) -> bool:
    return row >= 0 and snapshot.vmas[row].hugetlb


def _add(sums: list[int], *more: int) -> None:
    for index, value in enumerate(more):
        sums[index] += value


class _Machine:
    """Pages that the whole machine migrated or failed to migrate, by reason."""

    def __init__(self) -> None:
        self.counts: dict[str, tuple[int, int]] | None = None

    def add(self, sample: Sample) -> None:
        """What was counted since the last sample."""
        if sample.migrated is None or sample.failed is None:
            return
        counts = self.counts or {}
        columns = sample.reasons, sample.migrated.tolist(), sample.failed.tolist()
        for reason, migrated, failed in zip(*columns, strict=True):
            before = counts.get(reason, (0, 0))
            counts[reason] = (before[0] + migrated, before[1] + failed)
        self.counts = counts


@dataclass(frozen=True, slots=True)
class Seen:
    """A target as last seen: a snapshot without what is large. ended: its address space is no more."""

    pid: int
    namespace_pid: int
    comm: bytes
    hooks: str
    reader: str
    trust: Trust
    ended: bool


Sums = TypeVar("Sums", FlowSums, FaultSums)


class Period(Generic[Sums]):
    """What happened between two times, and to whom.

    sums: empty, and filled by `add`. seconds: how long it was. untraced: as in the last sample: processes, since the
    session began.
    """

    def __init__(self, sums: Sums) -> None:
        self.sums: Sums = sums
        self.seconds = 0.0
        self.untraced = 0
        self._ended: datetime | None = None
        self._nodes: set[int] = set()
        self._seen: dict[int, Seen] = {}
        self._machine = _Machine()

    def add(self, sample: Sample, seconds: float) -> None:
        """The events of these seconds, those of targets that ended included."""
        self.seconds += seconds
        self._ended = sample.time
        self.untraced = sample.untraced
        self._nodes.update(sample.node_ids)
        self._machine.add(sample)
        # The ended ones first: a process that called exec goes on under the same PID.
        for snapshots, ended in ((sample.ended, True), (sample.snapshots, False)):
            for shot in snapshots:
                self.sums.add(shot)
                namespace_pid = shot.namespace_pid or shot.pid
                self._seen[shot.pid] = Seen(
                    shot.pid, namespace_pid, shot.comm, shot.hooks, shot.reader, shot.trust, ended
                )

    @property
    def ended(self) -> datetime:
        """Time of the last sample. ValueError where none was added."""
        if self._ended is None:
            raise ValueError("nothing was added")
        return self._ended

    @property
    def nodes(self) -> list[int]:
        """Ids of the nodes with memory, ascending."""
        return sorted(self._nodes)

    @property
    def targets(self) -> list[Seen]:
        """By PID."""
        return [self._seen[pid] for pid in sorted(self._seen)]

    @property
    def machine(self) -> dict[str, tuple[int, int]] | None:
        """By reason, pages that the whole machine migrated and failed to migrate; None where no sample knew."""
        return self._machine.counts
