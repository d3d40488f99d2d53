"""The walk: what a target's page tables say, read by BPF programs on demand, without any lock and without /proc.

`PageTables` builds the programs of bpf/count.c, tables.c, vmas.c, probe.c, resident.c and threads.c for the running
kernel and learns where the direct map is. Whether the result can be believed is not taken for granted:
`tracer.kernel.selftest` compares it with pagemap at every start. x86-64 only.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError
from tracer.kernel.btf import Btf
from tracer.kernel.layout import layout
from tracer.kernel.procfs import TargetGone, counts_each_page
from tracer.kernel.programs import BpfRefused, Compilation, Programs
from tracer.kernel.topology import Topology
from tracer.model.spans import gather_ranges

__all__ = ["GIB", "PAGE", "REGION", "PageTables", "Paging", "Prepared", "Survey", "WalkUnfit"]

PAGE = 4096
REGION = 1 << 21
GIB = 1 << 30
ADDRESS_MASK = 0x000FFFFFFFFFF000  # PTE_PFN_MASK, arch/x86/include/asm/pgtable_types.h
LEAF, SPECIAL = 0x80, 0x200  # bits of an entry, asm/pgtable_types.h
PFN_BITS = (1 << 55) - 1  # Documentation/admin-guide/mm/pagemap.rst
LARGEST_DIRECT_MAP = 64 << 40
SYS_BPF, BPF_PROG_TEST_RUN = 321, 10
STEPS = 4  # of bpf/calibrate.c
SPANS_A_RUN = 4
EVERYWHERE = np.zeros(1, np.uint64), np.full(1, (1 << 64) - 1, np.uint64)  # addresses from and up to
SOURCES = (
    "common.h",
    "entry.h",
    "nodes.h",
    "count.c",
    "tables.c",
    "calibrate.c",
    "find.c",
    "probe.c",
    "resident.c",
    "threads.c",
    "maple.h",
    "vmas.c",
)


class WalkUnfit(NumatraceError):
    """The walk cannot be used on this kernel; pagemap can."""

    def __init__(self, message: str, hint: str = "use `--reader pagemap`") -> None:
        super().__init__(message, hint)


class Survey(NamedTuple):
    """Populated regions: their numbers (address >> 21), int64, ascending; and for each the huge page's entry, uint64,
    where the region is one PMD-mapped huge page, or 0 where a page table (or a 1 GiB page) has to be looked at."""

    regions: npt.NDArray[np.int64]
    leaves: npt.NDArray[np.uint64]


class Paging:
    """How physical addresses in entries become pointers: base of the direct map, address bits, five levels or four.

    registers: byte offset of the user's struct pt_regs in a task's kernel stack, 0 when it was not found.
    """

    def __init__(self, direct_map: int, address: int, five: int, registers: int) -> None:
        self.direct_map, self.address, self.five, self.registers = direct_map, address, five, registers


class OwnPage:
    """One present 4 KiB page of our own whose physical address pagemap tells (root only)."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        self._memory[0] = 1
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def physical(self) -> int:
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(self.address // PAGE * 8)
            entry = int.from_bytes(file.read(8), "little")
        return (entry & PFN_BITS) * PAGE


class Prepared:
    """Programs on their way: compiled in another process while the caller does something else.

    block_shift: log2 of the bytes of a block of the table from physical address to node. blocks: length of that table.
    """

    def __init__(self, btf: Btf, topology: Topology) -> None:
        if platform.machine() != "x86_64":
            raise WalkUnfit(f"the page-table walk knows x86-64 only, this is {platform.machine()}")
        shift, self.table = topology.node_table()
        self.topology = topology
        self.block_shift = shift + 12
        self.blocks = 1 << max(1, (len(self.table) - 1).bit_length())
        self.constants = layout(btf, topology)
        self.constants |= {"SPANS_A_RUN": SPANS_A_RUN, "BLOCK_SHIFT": self.block_shift, "BLOCKS": self.blocks}
        self.compilation = Compilation(SOURCES, self.constants)


class PageTables:
    """Programs that read page tables and VMAs. Raises WalkUnfit, BpfRefused or another NumatraceError without them."""

    def __init__(self, prepared: Prepared) -> None:
        self.constants = prepared.constants
        self.topology = prepared.topology
        self._programs = Programs(prepared.compilation)
        try:
            self.paging = self._calibrate()
            self.fill_nodes(prepared.table)
            self._load()
        except BaseException:
            self._programs.close()
            raise

    @property
    def node_bins(self) -> npt.NDArray[np.uint8]:
        """The table from block to bin, as the programs use it."""
        bins: npt.NDArray[np.uint8] = self._programs.array("node_table")[0]["bin"]
        return bins

    def _load(self) -> None:
        programs = self._programs
        self._count, self._tables = programs.load("count_spans"), programs.load("read_tables")
        self._list, self._look = programs.load("list_vmas"), programs.load("look")
        for function, chain in (
            ("count_spans", "count_again"),
            ("read_tables", "tables_again"),
            ("list_vmas", "vmas_again"),
        ):
            programs.chain(function, chain)
        self.spans, self.counted = programs.array("spans"), programs.array("counted")
        self.request = programs.array("count_request")
        self._set_paging(self.request[0]["paging"])
        self.request[0]["huge_zero"] = (1 << 64) - 1
        self.request[0]["contiguous"] = self._contiguous
        self._table_request = programs.array("table_request")
        self._set_paging(self._table_request[0]["paging"])
        self._wanted, self._found = programs.array("tables_wanted"), programs.array("tables_found")
        self._raw = programs.array("raw_tables")
        self._vma_request, self._vma_ranges = programs.array("vma_request"), programs.array("vma_ranges")
        self._vmas, self._leaves = programs.array("vmas_found"), programs.array("vma_leaves")
        self._glance = programs.array("glance")
        self._resident = self._load_resident()
        self._threads: int | None = None

    def _load_resident(self) -> int | None:
        """The program that adds up RSS; None where the kernel counts it otherwise, or takes it not."""
        if "MM_RSS_COUNTERS" not in self.constants:
            return None
        programs = self._programs
        try:
            programs.run(programs.load("learn_bases"))
            program = programs.load("add_up_rss")
        except BpfRefused:  # so many CPUs may be too long a loop for a kernel
            return None
        learnt = int(programs.array("resident")[0]["bases"]) == self.constants["POSSIBLE_CPUS"]
        return program if learnt and counts_each_page(lambda: self._added_up(program, self.own_mm())) else None

    def _added_up(self, program: int, mm: int) -> int:
        record = self._programs.array("resident")[0]
        record["mm"] = mm
        self._programs.run(program)
        return int(record["pages"].astype(np.int64))

    def _set_paging(self, field: np.void) -> None:
        field["direct_map"], field["address"], field["five"] = (
            self.paging.direct_map,
            self.paging.address,
            self.paging.five,
        )

    @property
    def nowhere(self) -> int:
        """The bin of pages that are not counted; the next one is for blocks that hold two nodes."""
        return self.topology.nr_node_ids

    def fill_nodes(self, table: npt.NDArray[np.uint8]) -> None:
        """Give the programs the node of every block (`Topology.node_table`)."""
        bins = table.astype(np.int64)
        bins[table == 255] = self.nowhere
        bins[table == 254] = self.nowhere + 1
        if not self.topology.has_zone_device:
            # Without device memory a page that counts is never in a hole, so holes may belong to the node below:
            # that makes nodes contiguous, which the fast path of count.c wants.
            filled = np.maximum.accumulate(np.where(bins == self.nowhere, -1, np.arange(len(bins))))
            bins = np.where(filled >= 0, bins[np.maximum(filled, 0)], bins[bins != self.nowhere][0])
        step = self.constants["BIN_STEP"]
        target = self._programs.array("node_table")[0]["bin"]
        target[:] = (self.nowhere if self.topology.has_zone_device else int(bins[-1])) * step
        target[: len(bins)] = bins * step
        used = np.asarray(target)
        changes = np.flatnonzero(np.diff(used)) + 1
        runs = used[np.concatenate(([0], changes))]
        self._contiguous = int(len(np.unique(runs)) == len(runs) and (self.nowhere + 1) * step not in runs)

    def _calibrate(self) -> Paging:
        own = OwnPage()
        programs = self._programs
        fd = programs.load("calibrate")
        c = programs.array("calibration")[0]
        c["address"], c["physical"] = own.address, own.physical()
        if not c["physical"]:
            raise WalkUnfit("pagemap hides physical addresses from us", "run as root (CAP_SYS_ADMIN)")
        c["system_call"], c["command"] = SYS_BPF, BPF_PROG_TEST_RUN
        c["mask"] = ADDRESS_MASK
        programs.run(fd)
        near = int(c["pgd"]) // GIB * GIB
        for five in (0, 1):
            for mask in [ADDRESS_MASK, *(ADDRESS_MASK & ~(1 << bit) for bit in range(51, 43, -1))]:
                c["five"], c["mask"] = five, mask
                for first in self._guesses(near, quick=mask != ADDRESS_MASK):
                    c["from"] = first
                    programs.run(fd)
                    if c["found"]:
                        return Paging(int(c["found"]), mask, five, int(c["registers"]))
        raise WalkUnfit("cannot find the kernel's direct map of memory")

    def _guesses(self, near: int, quick: bool) -> Iterator[int]:
        """Where to look for the direct map, 4 GiB a look, downwards from a page table of ours."""
        most = max(len(self.topology.node_table()[1]) << self.constants["BLOCK_SHIFT"], GIB)
        steps = min(most, LARGEST_DIRECT_MAP) // (STEPS * GIB) + 1
        return (near - i * STEPS * GIB for i in range(1 if quick else steps))

    # --- targets ---

    def find_mm(self, pagemap: int, address: int) -> int:
        """The mm (kernel address) behind an open /proc/PID/pagemap. `address` is one that the target maps.

        Raises WalkUnfit when the event that shows it is missing or silent, and TargetGone when that mm has come to its
        end, as by an exec.
        """
        programs = self._programs
        finding = programs.array("finding")[0]
        finding["mm"], finding["thread"] = 0, threading.get_native_id()
        programs.attach("mmap_lock_acquire_returned", "find_mm")
        try:
            lives = bool(os.pread(pagemap, 8, address // PAGE * 8))
        finally:
            finding["thread"] = 0
            programs.detach("mmap_lock_acquire_returned")
        if not lives:
            raise TargetGone("the process has left its memory meanwhile")
        if not finding["mm"]:
            raise WalkUnfit("the target's mm does not show in mmap_lock events")
        return int(finding["mm"])

    def own_mm(self) -> int:
        """Our own mm."""
        return int(self._programs.array("calibration")[0]["mm"])

    def look(self, mm: int) -> np.void:
        """A glance at an mm: `struct glance` of bpf/probe.c. The record is overwritten by the next call."""
        glance: np.void = self._glance[0]
        glance["mm"] = mm
        self._programs.run(self._look)
        return glance

    def resident_pages(self, mm: int) -> int:
        """RSS without hugetlb in pages, exact while nothing changes (bpf/resident.c); -1 where it cannot be had so."""
        return -1 if self._resident is None else self._added_up(self._resident, mm)

    def threads(self, mm: int) -> npt.NDArray[np.void] | None:
        """The threads of the process that owns an mm, as `struct thread_found` records (bpf/threads.c), in the order in
        which they were made; None where they cannot be told: the kernel does not keep the owner, or the list was lost
        because threads ended meanwhile.
        """
        if "MM_OWNER" not in self.constants:
            return None
        programs = self._programs
        if self._threads is None:
            self._threads = programs.load("list_threads")
            programs.chain("list_threads", "threads_again")
        request, results = programs.array("thread_request")[0], programs.array("threads_found")
        for field in request.dtype.names or ():
            request[field] = mm if field == "mm" else 0
        parts: list[npt.NDArray[np.void]] = []
        while not request["done"]:
            programs.run(self._threads)
            if request["broken"]:
                return None
            parts.append(_joined([results[: request["count"]]]))
            request["count"] = 0
        return _joined(parts)

    # --- counts ---

    def count(
        self, pgd: int, starts: npt.NDArray[np.int64], pages: npt.NDArray[np.int64], hugetlb: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.int64]:
        """Pages per bin of spans, int64 of shape (len(starts), BINS); no span crosses a 2 MiB boundary.

        A hugetlb span stands for one huge page of any size and counts 1.
        """
        result = np.empty((len(starts), self.counted.dtype["bin"].shape[0]), np.int64)
        limit = len(self.spans)
        request = self.request[0]
        request["pgd"] = pgd
        for at in range(0, len(starts), limit):
            part = slice(at, min(at + limit, len(starts)))
            size = part.stop - part.start
            self.spans["start"][:size] = starts[part]
            self.spans["pages"][:size] = pages[part]
            self.spans["hugetlb"][:size] = hugetlb[part]
            request["next"], request["count"] = 0, size
            while request["next"] < size:
                self._programs.run(self._count)
            result[part] = self.counted["bin"][:size]
        return result

    # --- tables ---

    def read(
        self, pgd: int, level: int, addresses: npt.NDArray[np.int64]
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.void], npt.NDArray[np.uint64]]]:
        """Raw tables of a level (1: PTE, 2: PMD, 3: PUD; 0: leaf entries alone) that cover the addresses.

        Yields (addresses, `struct table_found` records, entries of shape (n, 512)) for up to 64 at a time; the arrays
        are overwritten by the next step.
        """
        limit = len(self._wanted)
        request = self._table_request[0]
        request["pgd"] = pgd
        for at in range(0, len(addresses), limit):
            part = addresses[at : at + limit]
            self._wanted["address"][: len(part)] = part
            self._wanted["level"][: len(part)] = level
            request["next"], request["count"] = 0, len(part)
            while request["next"] < len(part):
                self._programs.run(self._tables)
            yield part, self._found[: len(part)], self._raw["entry"][: len(part)]

    def entries(self, pgd: int, addresses: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """The leaf entry (of any level) at each address, 0 when there is none."""
        parts = [found["leaf"].copy() for _, found, _ in self.read(pgd, 0, addresses)]
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)

    def survey(self, pgd: int, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Survey:
        """What is populated in ranges that are ascending and disjoint.

        Only upper tables are read: one per 512 GiB of the ranges, then one per GiB that exists. A 1 GiB page gives its
        first region only.
        """
        tops = _covering(starts, ends, 39)
        gibs: list[npt.NDArray[np.int64]] = []
        regions: list[npt.NDArray[np.int64]] = []
        leaves: list[npt.NDArray[np.uint64]] = []
        for part, found, tables in self.read(pgd, 3, tops << 39):
            for i in np.flatnonzero(found["whole"]):
                slots = np.flatnonzero(tables[i])
                number = (part[i] >> 30) + slots
                leaf = (tables[i][slots] & np.uint64(LEAF)) != 0
                gibs.append(number[~leaf])
                regions.append(number[leaf] << 9)
                leaves.append(np.zeros(len(regions[-1]), np.uint64))
        wanted = _covering(starts, ends, 30)
        present = np.intersect1d(np.concatenate(gibs), wanted) if gibs else np.empty(0, np.int64)
        for part, found, tables in self.read(pgd, 2, present << 30):
            for i in np.flatnonzero(found["whole"]):
                slots = np.flatnonzero(tables[i])
                entries = tables[i][slots]
                regions.append((part[i] >> 21) + slots)
                leaves.append(np.where(entries & np.uint64(LEAF), entries, np.uint64(0)))
        if not regions:
            return Survey(np.empty(0, np.int64), np.empty(0, np.uint64))
        every, entries = np.concatenate(regions), np.concatenate(leaves)
        if (every[1:] < every[:-1]).any():
            order = np.argsort(every)
            every, entries = every[order], entries[order]
        inside = _inside(every, starts >> 21, (ends + REGION - 1) >> 21)
        return Survey(every[inside], entries[inside])

    def count_leaves(self, leaves: npt.NDArray[np.uint64], pages: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Pages per bin of huge page entries that are at hand already; `pages` is what each of them counts for."""
        upright = np.where(leaves & np.uint64(1), leaves, ~leaves)
        block = (upright >> np.uint64(self.constants["BLOCK_SHIFT"])) & np.uint64(len(self.node_bins) - 1)
        bins = self.node_bins[block]
        frame = upright & np.uint64(self.paging.address & ~(REGION - 1))
        counts = np.where((frame == self.request[0]["huge_zero"]) | (leaves & np.uint64(SPECIAL) != 0), 0, pages)
        result = np.zeros((len(leaves), self.counted.dtype["bin"].shape[0]), np.int64)
        result[np.arange(len(leaves)), bins // self.constants["BIN_STEP"]] = counts
        return result

    def set_huge_zero(self, pfn: int | None) -> None:
        """The huge zero page, which counts nowhere; None when there is none."""
        self.request[0]["huge_zero"] = (1 << 64) - 1 if pfn is None else pfn << 12

    # --- VMAs ---

    def vmas(
        self, mm: int, starts: npt.NDArray[np.uint64] = EVERYWHERE[0], ends: npt.NDArray[np.uint64] = EVERYWHERE[1]
    ) -> npt.NDArray[np.void] | None:
        """All VMAs of an mm that begin in the ranges, as `struct vma_found` records (bpf/vmas.c); None when the tree
        changed underneath. The ranges are ascending and disjoint."""
        parts = [self._vmas[:0]]
        for at in range(0, len(starts), len(self._vma_ranges)):
            part = slice(at, at + len(self._vma_ranges))
            found = self._listed(mm, starts[part], ends[part], self._vmas)
            if found is None:
                return None
            parts.append(found)
        return _joined(parts)

    def vma_leaves(self, mm: int) -> npt.NDArray[np.void] | None:
        """The leaves of the tree of VMAs, with digests, as `struct vma_leaf` records; None as `vmas` does."""
        return self._listed(mm, *EVERYWHERE, self._leaves)

    def _listed(
        self,
        mm: int,
        starts: npt.NDArray[np.uint64],
        ends: npt.NDArray[np.uint64],
        results: npt.NDArray[np.void],
    ) -> npt.NDArray[np.void] | None:
        """What the program puts into `results`, window after window."""
        request, complete = self._vma_request[0], (1 << 64) - 1
        self._vma_ranges["from"][: len(starts)] = starts
        self._vma_ranges["until"][: len(starts)] = ends
        for field, value in (("mm", mm), ("summing", int(results is self._leaves)), ("from", complete), ("next", 0)):
            request[field] = value
        request["ranges"], request["count"], request["broken"] = len(starts), 0, 0
        parts: list[npt.NDArray[np.void]] = []
        while request["from"] != complete or request["next"] < len(starts):
            before = int(request["from"]), int(request["count"])
            self._programs.run(self._list)
            if request["broken"]:
                return None
            if request["count"] == len(results):
                parts.append(_joined([results]))
                request["count"] = 0
            elif (int(request["from"]), int(request["count"])) == before:
                return None
        parts.append(results[: request["count"]])
        return _joined(parts)

    def close(self) -> None:
        """Unload the programs."""
        for name in (
            "spans",
            "counted",
            "request",
            "_table_request",
            "_wanted",
            "_found",
            "_raw",
            "_vma_request",
            "_vma_ranges",
            "_vmas",
            "_leaves",
            "_glance",
        ):
            self.__dict__.pop(name, None)
        self._programs.close()


def _joined(parts: list[npt.NDArray[np.void]]) -> npt.NDArray[np.void]:
    """A copy of all parts. As plain bytes, because numpy copies records field by field."""
    kind = parts[0].dtype
    joined: npt.NDArray[np.void] = np.concatenate([part.view(f"V{kind.itemsize}") for part in parts]).view(kind)
    return joined


def _covering(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], shift: int) -> npt.NDArray[np.int64]:
    """Numbers of the aligned blocks of 1 << shift bytes that the ranges touch, ascending and unique."""
    return np.unique(gather_ranges(starts >> shift, ((ends - 1) >> shift) + 1))


def _inside(
    values: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Which values lie in one of the ranges, given as ascending arrays that may touch or overlap by one."""
    at = np.searchsorted(starts, values, "right") - 1
    reach = np.maximum.accumulate(ends) if len(ends) else ends
    return (at >= 0) & (values < reach[np.maximum(at, 0)]) if len(starts) else np.zeros(len(values), bool)
