"""Processes at rest against numa_maps: what a session shows after one refresh, and after more where it has doubts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from unittest.mock import patch

from tests.kernel.compare import difference
from tests.kernel.target import Truth, read_truth
from tests.soak.workload import Soak
from tracer import session_settle
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.session import Session

__all__ = ["Figures", "Wrong", "judge"]

LOOKS = 200
"""Refreshes, at most, until doubts are cleared up: an audit may have to wait for its share of the CPU."""
PAUSE_S = 0.05
MOST_LINES = 10
"""Between them: what an audit may take has to be saved up."""


class Wrong(AssertionError):
    """What a session shows differs from the kernel's file, and no doubt is shown; or a doubt that does not go."""


@dataclass(slots=True)
class Figures:
    """Of a run.

    pages: those that the kernel has counted in all comparisons. off: pages that differed though no doubt was shown.
    doubted: comparisons in which a doubt was shown at the first refresh; late: those of them that differed then. stale:
    those in which nothing but a policy of shared memory was not shown yet. by_command: comparisons of what
    `numatrace maps` printed. running: refreshes while operations were under way, which nothing is compared with.
    lost: events, of all sessions. by_events: comparisons before which nothing was read but where events said so, since
    the comparison before.
    """

    rounds: int = 0
    operations: int = 0
    sessions: int = 0
    comparisons: int = 0
    vmas: int = 0
    pages: int = 0
    off: int = 0
    doubted: int = 0
    late: int = 0
    stale: int = 0
    refreshes: int = 0
    running: int = 0
    audits: int = 0
    lost: int = 0
    by_command: int = 0
    lost_by_session: int = 0
    by_events: int = 0
    audited: set[int] = field(default_factory=set)

    def note_lost(self, sample: Sample) -> int:
        """How many events the present session has lost."""
        now = max((snapshot.trust.lost for snapshot in sample.snapshots), default=self.lost_by_session)
        self.lost += now - self.lost_by_session
        self.lost_by_session = now
        return now

    def lines(self) -> Iterator[str]:
        """As a table."""
        rows = {
            "rounds": self.rounds,
            "operations": self.operations,
            "sessions": self.sessions,
            "comparisons of a process with its numa_maps": self.comparisons,
            "those by the command `numatrace maps`": self.by_command,
            "those without any audit since the one before": self.by_events,
            "VMAs compared": self.vmas,
            "pages compared": self.pages,
            "pages off": self.off,
            "comparisons with a doubt shown at the first refresh": self.doubted,
            "those not equal at once": self.late,
            "policies of shared memory that another process has set, shown at the next look": self.stale,
            "refreshes": self.refreshes,
            "those while operations were under way": self.running,
            "audits": self.audits,
            "events lost": self.lost,
        }
        width = max(map(len, rows))
        yield from (f"{name.ljust(width)}  {count:>13,}" for name, count in rows.items())


@dataclass(frozen=True, slots=True)
class _Look:
    """A snapshot against the truth. doubt: the snapshot says that it cannot vouch for its counts. stale: of memory that
    processes share, a policy that another one has set, which shows at the next look at names (docs/accuracy.md)."""

    pid: int
    pages: int
    lines: tuple[str, ...]
    doubt: str
    stale: bool = False

    @property
    def differs(self) -> bool:
        return bool(self.lines)


def _doubt(snapshot: Snapshot, lost: int) -> str:
    """In words; nothing when there is none. lost: events that had been lost when all was known to be right."""
    trust = snapshot.trust
    doubts = {"settling": trust.settling, "unexplained": trust.unexplained, "lost": trust.lost - lost}
    return ", ".join(f"{name} {count}" for name, count in doubts.items() if count)


def _looks(sample: Sample, truths: dict[int, Truth], lost: int) -> list[_Look]:
    shown = {snapshot.pid: snapshot for snapshot in sample.snapshots}
    found = []
    for pid, truth in truths.items():
        if pid not in shown:
            found.append(_Look(pid, 0, ("is not shown",), ""))
            continue
        off = difference(truth, shown[pid])
        stale = bool(off.lines) and all(_is_stale_policy(line, truth) for line in off.lines)
        found.append(_Look(pid, off.pages, off.lines, _doubt(shown[pid], lost), stale))
    found += [_Look(pid, 0, ("is shown and should not be",), "") for pid in shown.keys() - truths.keys()]
    return found


def _is_stale_policy(line: str, truth: Truth) -> bool:
    told = re.match(r"([0-9a-f]+)-[0-9a-f]+ policy '[^']*' is '[^']*' kernel (.*) ours (.*)", line)
    return (
        told is not None
        and told[2] == told[3]
        and any(area.start == int(told[1], 16) and area.line.name == "file" for area in truth.areas)
    )


def judge(session: Session, soak: Soak, figures: Figures) -> None:
    """Compare all processes, which are at rest. Raises `Wrong`."""
    truths = {pid: read_truth(pid) for pid in soak.pids}
    lost = figures.lost_by_session
    figures.comparisons += len(truths)
    figures.vmas += sum(len(truth.areas) for truth in truths.values())
    figures.pages += sum(sum(area.line.nodes.values()) for truth in truths.values() for area in truth.areas)
    stale = False
    for turn in range(LOOKS):
        # Names are looked at now, and not only after some seconds.
        with patch.object(session_settle, "NAMES_AGE_S", 0.0 if stale else session_settle.NAMES_AGE_S):
            sample = session.refresh()
        figures.refreshes += 1
        looks = _looks(sample, truths, lost)
        lost = figures.note_lost(sample)
        stale = any(look.stale for look in looks)
        if not turn:
            figures.stale += sum(look.stale for look in looks)
            figures.doubted += sum(bool(look.doubt) for look in looks)
            figures.late += sum(look.differs and not look.stale for look in looks)
        wrong = [look for look in looks if look.differs and not look.doubt and not (look.stale and not turn)]
        if wrong:
            figures.off += sum(look.pages for look in wrong)
            raise Wrong(_story(wrong, soak, sample, turn))
        if not any(look.differs or look.doubt for look in looks):
            return
        session.wait(PAUSE_S)
    raise Wrong("a doubt that does not go: " + _story(looks, soak, sample, LOOKS))


def _story(looks: list[_Look], soak: Soak, sample: Sample, turn: int) -> str:
    lines = [f"at refresh {turn + 1} after all were at rest; readers {sorted({s.reader for s in sample.snapshots})}"]
    for look in looks:
        lines.append(f"process {look.pid}: {look.pages} pages off; in doubt: {look.doubt or 'nothing'}")
        lines += look.lines[:MOST_LINES]
        lines += _operations(look, soak)
    return "\n".join(lines)


def _operations(look: _Look, soak: Soak) -> Iterator[str]:
    """Those of the last ones that concern a VMA which differs, by others as well, and of its own process those that
    concern no addresses."""
    told = [line.partition(" ")[0].partition("-") for line in look.lines[:MOST_LINES] if "-" in line]
    spans = [(int(start, 16), int(end, 16)) for start, _, end in told]
    for did in soak.last():
        mine = did.pid == look.pid
        near = any(did.start < end and start < did.start + did.length for start, end in spans)
        if ((mine or did.on_another) and near) or (mine and not did.start):
            yield f"  {did}"
