"""The walk by itself: page tables of 4 KiB pages counted by BPF, beside pagemap and numa_maps of the same pages."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from benchmarks.kernel_file import read_numa_maps
from benchmarks.table import Section
from benchmarks.workload import Hold
from tracer.errors import NumatraceError
from tracer.kernel.btf import Btf
from tracer.kernel.pagemap import Pagemap
from tracer.kernel.procfs import read_maps
from tracer.kernel.topology import read_topology
from tracer.kernel.walk import PAGE, REGION, PageTables, Prepared

__all__ = ["ROUNDS", "measure"]

ROUNDS = 15
GIBS = 4
MILLISECOND = 1e6

METHOD = (
    f"All pages of a target of {GIBS} GiB counted per node, CPU time divided by {GIBS}. A table whose 512 pages are "
    "on one node is recognised as such; the third row has that turned off and tells every page apart, as a table with "
    "pages of several nodes needs. The first row follows a read of numa_maps, which leaves no page table in the CPU's "
    "caches; the second one follows the first."
)


def _cpu_ms(work: Callable[[], object]) -> float:
    """CPU milliseconds of this thread for a GiB of the target."""
    begin = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - begin) / MILLISECOND / GIBS


class _Walk:
    """The walk over the target's large VMA, ready to run."""

    def __init__(self, tables: PageTables, pagemap: Pagemap, start: int) -> None:
        self._tables = tables
        self._pgd = int(tables.look(tables.find_mm(pagemap.fileno(), start))["pgd"])
        self._starts: npt.NDArray[np.int64] = start + np.arange(GIBS * 512, dtype=np.int64) * REGION
        self._pages = np.full(len(self._starts), REGION // PAGE, np.int64)
        self._hugetlb = np.zeros(len(self._starts), bool)

    def count(self) -> None:
        counts = self._tables.count(self._pgd, self._starts, self._pages, self._hugetlb)
        if counts.sum() != self._pages.sum():
            raise NumatraceError(f"the walk counted {counts.sum()} pages of {self._pages.sum()}")

    def count_page_by_page(self) -> None:
        """Without the short cut for tables whose pages are all on one node."""
        request = self._tables.request[0]
        short_cut = int(request["contiguous"])
        request["contiguous"] = 0
        try:
            self.count()
        finally:
            request["contiguous"] = short_cut


def _large_vma(pid: int) -> int:
    """Start of the target's area."""
    return next(entry.start for entry in read_maps(pid) if entry.end - entry.start == GIBS << 30)


def measure(rounds: int, progress: Callable[[int], None]) -> list[Section]:
    """One section, figures per GiB."""
    series: defaultdict[str, list[float]] = defaultdict(list)
    with Hold(GIBS << 10) as target, Pagemap(target.pid) as pagemap:
        start = _large_vma(target.pid)
        end = start + (GIBS << 30)
        tables = PageTables(Prepared(Btf(), read_topology()))
        try:
            walk = _Walk(tables, pagemap, start)
            for round_ in range(rounds):
                progress(round_)
                series["walk"].append(_cpu_ms(walk.count))
                series["warm"].append(_cpu_ms(walk.count))
                series["pages"].append(_cpu_ms(walk.count_page_by_page))
                series["pagemap"].append(_cpu_ms(lambda: pagemap.read(start, end)))
                series["kernel"].append(read_numa_maps(target.pid).cpu / MILLISECOND / GIBS)
        finally:
            tables.close()
    section = Section("The walk, per GiB of 4 KiB pages", METHOD)
    section.add("walk", series["walk"], "ms", 0.35)
    section.add("walk, once more at once", series["warm"], "ms", 0.35)
    section.add("walk, page by page", series["pages"], "ms")
    section.add("reading pagemap, not counting", series["pagemap"], "ms")
    section.add("reading numa_maps", series["kernel"], "ms")
    ratios = zip(series["walk"], series["kernel"], strict=True)
    section.add("walk against numa_maps", (a / b for a, b in ratios), "×")
    return [section]
