"""What numatrace tells of an example that is led through its phases under a session."""

from __future__ import annotations

from collections.abc import Iterable

from tests.policy.stage import Area, Play
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import Finding, findings
from tracer.session import Session

__all__ = ["causes_of", "finding_of", "findings_of", "lead", "snapshot_of", "verdict_of"]


def lead(play: Play, session: Session) -> list[Sample]:
    """Look before each phase and twice when it is ready: a second look changes nothing."""
    samples = [session.refresh() for _ in play.phases()]
    return [*samples, session.refresh(), session.refresh()]


def snapshot_of(sample: Sample, pid: int) -> Snapshot:
    """The snapshot of one process."""
    (snapshot,) = (snapshot for snapshot in sample.snapshots if snapshot.pid == pid)
    return snapshot


def findings_of(snapshot: Snapshot, areas: Iterable[Area]) -> list[Finding]:
    """For each memory the finding of the VMA that is just this memory."""
    found = {(it.vma.start, it.vma.end): it for it in findings(snapshot)}
    return [found[area.start, area.end] for area in areas]


def finding_of(snapshot: Snapshot, area: Area) -> Finding:
    """The same for one."""
    (finding,) = findings_of(snapshot, [area])
    return finding


def causes_of(finding: Finding) -> dict[str, int]:
    """Cause -> pages, in the words of stage.h."""
    causes: dict[str, int] = {}
    for count in finding.causes:
        causes[count.cause.word] = causes.get(count.cause.word, 0) + count.pages
    return causes


def verdict_of(finding: Finding) -> str:
    """The verdict in the words of stage.h."""
    return finding.verdict.value.replace(" ", "-")
