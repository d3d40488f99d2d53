"""Sums of what samples tell of flows and faults, in the shape in which a test can say what it expects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tracer.model.events import Kind
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot

__all__ = ["failures", "faults_of", "flows_of", "kinds_of", "machine_wide", "reasons_of"]


def _snapshots(samples: Iterable[Sample], pid: int) -> Iterable[Snapshot]:
    for sample in samples:
        yield from (snapshot for snapshot in (*sample.ended, *sample.snapshots) if snapshot.pid == pid)


def _inside(snapshot: Snapshot, row: int, start: int, end: int) -> bool:
    return row >= 0 and start <= snapshot.vmas[row].start and snapshot.vmas[row].end <= end


def flows_of(samples: Iterable[Sample], pid: int, start: int = 0, end: int = 1 << 62) -> Counter[tuple[int, int, str]]:
    """(from, to, reason) -> pages, in the VMAs of a process that lie in a range."""
    total: Counter[tuple[int, int, str]] = Counter()
    for snapshot in _snapshots(samples, pid):
        assert snapshot.flows is not None
        f = snapshot.flows
        for row, source, to, reason, pages in zip(f.vma, f.source, f.destination, f.reason, f.pages, strict=True):
            if pages and _inside(snapshot, int(row), start, end):
                total[int(source), int(to), f.reasons[int(reason)]] += int(pages)
    return total


def reasons_of(samples: Iterable[Sample], pid: int) -> Counter[str]:
    """Reason -> pages that moved, wherever in the process."""
    total: Counter[str] = Counter()
    for snapshot in _snapshots(samples, pid):
        assert snapshot.flows is not None
        for reason, pages in zip(snapshot.flows.reason, snapshot.flows.pages, strict=True):
            total[snapshot.flows.reasons[int(reason)]] += int(pages)
    return +total


def failures(samples: Iterable[Sample], pid: int) -> int:
    """Pages of a process that were put back."""
    flows = [snapshot.flows for snapshot in _snapshots(samples, pid)]
    return sum(int(f.failed.sum()) for f in flows if f is not None)


def machine_wide(samples: Iterable[Sample]) -> Counter[str]:
    """Reason -> pages that the machine has migrated."""
    total: Counter[str] = Counter()
    for sample in samples:
        assert sample.migrated is not None
        total.update(dict(zip(sample.reasons, sample.migrated.tolist(), strict=True)))
    return +total


def kinds_of(samples: Iterable[Sample], pid: int) -> Counter[Kind]:
    """Kind -> faults, wherever in the process."""
    total: Counter[Kind] = Counter()
    for snapshot in _snapshots(samples, pid):
        assert snapshot.faults is not None
        for kind, count in zip(snapshot.faults.kind, snapshot.faults.count, strict=True):
            total[Kind(int(kind))] += int(count)
    return total


def faults_of(
    samples: Iterable[Sample], pid: int, start: int = 0, end: int = 1 << 62
) -> Counter[tuple[int, int, Kind, int]]:
    """(node of the CPU, node of the page, kind, thread) -> faults, in the VMAs of a process that lie in a range."""
    total: Counter[tuple[int, int, Kind, int]] = Counter()
    for snapshot in _snapshots(samples, pid):
        assert snapshot.faults is not None
        f = snapshot.faults
        columns = (f.vma, f.cpu_node, f.page_node, f.kind, f.thread, f.count)
        for row, cpu_node, node, kind, thread, count in zip(*columns, strict=True):
            if _inside(snapshot, int(row), start, end):
                total[int(cpu_node), int(node), Kind(int(kind)), int(thread)] += int(count)
    return total
