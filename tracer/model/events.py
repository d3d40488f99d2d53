"""What happened to the pages of one target within one interval: flows between nodes, and who touched what first.

Rows carry the row of their VMA in the snapshot they belong to, so that an output can name it; -1 where no VMA of that
snapshot holds the address (it was unmapped since, or the process ended before anybody could look at it).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

__all__ = ["Faults", "Flows", "Kind"]

Int64s = npt.NDArray[np.int64]


class Kind(IntEnum):
    """What a page fault was about.

    NEW: a page where none was, 4 KiB. HUGE: the same with a transparent huge page (512 pages) or a hugetlb page.
    COW: a write to a shared page, which gave a page of its own. HINT: NUMA balancing had made the page inaccessible to
    see who uses it. MAJOR: the page had to be read from a disk. OTHER: everything else: a write permitted at last, a
    page back from swap without waiting, a fault that another thread had already satisfied, the zero page.
    """

    NEW = 0
    HUGE = 1
    COW = 2
    HINT = 3
    MAJOR = 4
    OTHER = 5


@dataclass(frozen=True, slots=True)
class Flows:
    """Pages that moved. Arrays are int64 of shape (rows,), one row per (VMA, source, destination, reason).

    vma: row of the snapshot's `vmas`, or -1. source, destination: node ids; equal where pages moved within a node, as
    compaction does. reason: index into `reasons`, the names of the running kernel's enum migrate_reason
    (include/linux/migrate_mode.h) without their prefix, then `promotion` (numa_misplaced to a faster memory tier).
    pages: how many arrived at `destination`, as numa_maps counts pages (a transparent huge page is 512, a hugetlb
    page 1). failed: how often a page was prepared to move and then put back; the kernel tries one up to ten times. Its
    destination is its source.
    """

    reasons: tuple[str, ...]
    vma: Int64s
    source: Int64s
    destination: Int64s
    reason: Int64s
    pages: Int64s
    failed: Int64s


@dataclass(frozen=True, slots=True)
class Faults:
    """Page faults. Arrays are int64 of shape (rows,), one row per (VMA, CPU's node, page's node, kind, thread).

    vma: row of the snapshot's `vmas`, or -1. cpu_node: id of the node of the CPU that faulted. page_node: id of the
    node of the page that the fault left behind, -1 where it left none that numa_maps would count (the zero page) or
    the page was gone again before it was looked at. kind: a `Kind`. thread: id of the thread that faulted, or 0 where
    threads are not told apart. count: faults, not pages.
    """

    vma: Int64s
    cpu_node: Int64s
    page_node: Int64s
    kind: Int64s
    thread: Int64s
    count: Int64s
