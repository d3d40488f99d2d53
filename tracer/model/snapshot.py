"""An immutable copy of all counters of one target at one time: what every output renders."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from tracer.model.events import Faults, Flows
from tracer.model.policies import Policies
from tracer.model.policy import Spelling
from tracer.model.vma import Vma

__all__ = ["Details", "Refresh", "Regions", "Snapshot", "Trust"]


@dataclass(frozen=True, slots=True)
class Trust:
    """How far the counters can be believed. All zero (and a fresh `oldest_read_s`): they are exact.

    settling: regions that were being changed while they were read and are shown as last read; 1 more for the VMA list.
    unexplained: changes of the target's RSS that no event located and no audit has covered yet.
    lost: events that a full map or log dropped, of all targets together; each one leads to an audit of every target.
    drift: pages by which counters were found wrong though nothing was in doubt, since the session began.
    oldest_read_s: seconds since the stalest count was confirmed (read, or shown unchanged by the hooks).
    """

    settling: int = 0
    unexplained: int = 0
    lost: int = 0
    drift: int = 0
    oldest_read_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refresh:
    """What the refresh that made this snapshot did: regions read again, and CPU time in nanoseconds."""

    regions_read: int = 0
    cpu_ns: int = 0


@dataclass(frozen=True, slots=True)
class Details:
    """The fields of numa_maps that change without any map or unmap, read only when asked for (`--full`).

    Each is an int64 array of shape (number of VMAs,), in pages as numa_maps counts them (a hugetlb page is 1);
    `mapmax` is the highest mapcount of a counted page, 0 without pages. Source: fs/proc/task_mmu.c gather_stats().
    """

    anon: npt.NDArray[np.int64]
    dirty: npt.NDArray[np.int64]
    mapmax: npt.NDArray[np.int64]
    swapcache: npt.NDArray[np.int64]
    active: npt.NDArray[np.int64]
    writeback: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Regions:
    """Counts below the VMA, read only when asked for: where in a VMA its pages are.

    A row per populated span, which is the part of an aligned 2 MiB of addresses that one VMA covers (a hugetlb page is
    one span, whatever its size). address: int64 of shape (spans,), where each span begins, ascending; pages: int64 of
    shape (spans, len(node_ids)). Both are shared between snapshots as long as nothing changes: do not write to them.
    """

    address: npt.NDArray[np.int64]
    pages: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Placement of one target.

    time: aware datetime (UTC). pid: the target's thread group id.
    hooks, reader: the words of the docs (`tracepoint` or `none`; `walk`, `pagemap` or `numa_maps`).
    vmas: in address order. node_ids: ids of the nodes with memory, ascending, possibly with holes.
    pages: int64, shape (len(vmas), len(node_ids)): pages of VMA i on node node_ids[j]; hugetlb counts huge pages.
    spelling: how the kernel that was traced spells policies, so that text can equal its numa_maps.
    namespace_pid: the PID inside the process's own PID namespace (a container); `pid` where it is the same.
    flows, faults: what happened since the last snapshot of this target; None unless it was asked for.
    regions: None unless they were asked for, and where nobody counts by region (without hooks).
    policies: None unless they were asked for.
    """

    time: datetime
    pid: int
    comm: bytes
    hooks: str
    reader: str
    trust: Trust
    refresh: Refresh
    vmas: tuple[Vma, ...]
    node_ids: tuple[int, ...]
    pages: npt.NDArray[np.int64]
    details: Details | None = None
    spelling: Spelling = Spelling.NAMED
    namespace_pid: int = 0
    flows: Flows | None = None
    faults: Faults | None = None
    regions: Regions | None = None
    policies: Policies | None = None
