"""What a report tells of: a recording, or a part of it, in arrays whose size does not grow with its length.

All amounts of memory are KiB, so that huge pages of hugetlbfs and ordinary ones add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from tracer.model.events import Kind
from tracer.model.policy import Policy
from tracer.model.snapshot import Snapshot
from tracer.record.schema import Info
from tracer.report.steps import Bookings, Columns, Steps

__all__ = ["Area", "Doubts", "FlowSum", "History", "PolicyChange", "Rulings", "Target"]

Int64s = npt.NDArray[np.int64]


@dataclass(slots=True)
class Target:
    """A process, as last seen. Its words are as foreign as ever: whoever shows them escapes them.

    ended_at: the ordinal of the row that told of its end, -1 while it lives (or lives again, after exec).
    """

    pid: int
    ns_pid: int = 0
    comm: str = ""
    hooks: str = ""
    reader: str = ""
    drift: int = 0
    ended_at: int = -1


@dataclass(frozen=True, slots=True)
class Area:
    """What a VMA is, beside its counts, as last seen. name: foreign text. policy_text: as the kernel printed it."""

    name: str
    kind: str
    perms: str
    policy: Policy
    policy_text: str
    page_kb: int


@dataclass(frozen=True, slots=True)
class FlowSum:
    """source, destination: node ids, -1 unknown. pages, failed: as numa_maps counts them; kib: those that moved."""

    source: int
    destination: int
    reason: str
    pages: int
    failed: int
    kib: int


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """As in `tracer.model.policies`, but with the target that it was in, and policies as the kernel prints them, empty
    where there was none. All words are foreign."""

    time: datetime
    exact: bool
    pid: int
    comm: str
    thread: int
    start: int
    end: int
    old: str
    new: str
    call: str


@dataclass(frozen=True, slots=True)
class Rulings:
    """What policies there are. shots: the largest targets as last seen, with their policies. targets: how many there
    are in all. changes: the last ones, in order of time; count: how many there were."""

    shots: list[Snapshot]
    targets: int
    changes: list[PolicyChange]
    count: int


@dataclass(slots=True)
class Doubts:
    """How far the recording can be believed, and what it cost.

    lost, drift, untraced: at the end. settling, unexplained: the most that one sample had, and in how many there were
    any. oldest_read_s: the highest. refresh_ns: CPU time of each sample, int64[samples].
    """

    refresh_ns: Int64s
    lost: int = 0
    drift: int = 0
    untraced: int = 0
    settling: int = 0
    settling_samples: int = 0
    unexplained: int = 0
    unexplained_samples: int = 0
    oldest_read_s: float = 0.0


@dataclass(slots=True)
class History:
    """One recording from its first to its last sample that was asked for.

    sums: KiB per node of all targets, int64[samples, nodes]. columns: the stretches of time that bookings are in.
    steps: the VMAs; areas: what each is, by key. spans: the counts of regions, None where they were not recorded.
    flows, machine: by (source, destination, reason), and of the whole machine by reason: pages moved and failed.
    touch: KiB that faults placed, by (node of the CPU, node of the page). faults: how many, by kind.
    rulings: None where policies were not recorded.
    first_rows: how many rows the first sample had. moved: KiB by (VMA, source, destination). touched: faults by VMA.
    """

    info: Info
    node_ids: tuple[int, ...]
    times: npt.NDArray[np.datetime64]
    columns: Columns
    sums: Int64s
    doubts: Doubts
    steps: Steps
    spans: Steps | None = None
    targets: list[Target] = field(default_factory=list)
    areas: list[Area] = field(default_factory=list)
    flows: list[FlowSum] = field(default_factory=list)
    machine: dict[str, tuple[int, int]] = field(default_factory=dict)
    touch: dict[tuple[int, int], int] = field(default_factory=dict)
    faults: dict[Kind, int] = field(default_factory=dict)
    moved: dict[tuple[int, int, int], int] = field(default_factory=dict)
    touched: dict[int, int] = field(default_factory=dict)
    rulings: Rulings | None = None
    first_rows: int = 0
    _bookings: Bookings | None = None

    @property
    def started(self) -> datetime:
        """Of the first sample, aware, in UTC."""
        started: datetime = self.times[0].item()
        return started.replace(tzinfo=UTC)

    @property
    def ended(self) -> datetime:
        """Of the last sample."""
        ended: datetime = self.times[-1].item()
        return ended.replace(tzinfo=UTC)

    @property
    def seconds(self) -> float:
        """From the first sample to the last."""
        return float((self.times[-1] - self.times[0]).astype(np.int64)) / 1e6

    @property
    def final(self) -> int:
        """Index of the last sample; where all processes came to their ends, of the last one with memory."""
        there = np.flatnonzero(self.sums.any(axis=1))
        if len(there) and all(target.ended_at >= 0 for target in self.targets):
            return int(there[-1])
        return len(self.times) - 1

    def bookings(self) -> Bookings:
        """Those of the VMAs."""
        if self._bookings is None:
            self._bookings = self.steps.bookings()
        return self._bookings

    def ranked_targets(self) -> list[int]:
        """Indices of the targets that ever had a page, the largest first."""
        count = len(self.steps)
        largest = np.bincount(self.steps.process[:count], self.steps.peak[:count], len(self.targets))
        order = np.argsort(-largest, kind="stable")
        return [int(index) for index in order if largest[index] > 0]

    def in_force(self) -> Iterator[int]:
        """Keys of the VMAs that are there at the end, or were when their process came to its end."""
        steps = self.steps
        ends = [target.ended_at for target in self.targets]
        for key in range(len(self.areas)):
            process = int(steps.process[key])
            if steps.went[key] < 0 or (ends[process] >= 0 and steps.went[key] == ends[process]):
                yield key
