"""A target's memory as one of the readers sees it: its VMAs with policies, and the pages of its spans.

`WalkedMemory` asks BPF programs (page tables and maple tree), and pagemap for what page tables alone cannot tell; it
reads single spans, so that one routine serves seed, settle, VMA change and audit. `ProcMemory` asks /proc alone, and
always for everything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.kernel import procfs
from tracer.kernel.numa_maps import NumaLine, read_numa_maps
from tracer.kernel.pageflags import KPF_NOPAGE, KPF_RESERVED, has_flag, page_flags
from tracer.kernel.pagemap import Pagemap, PagemapReader, Span
from tracer.kernel.procfs import MapsEntry
from tracer.kernel.selftest import differing_frames
from tracer.kernel.vma_list import Layout, VmaListReader, effective_policy, lists_of
from tracer.kernel.walk import PAGE, PageTables, Survey
from tracer.model.policy import Policy
from tracer.model.spans import Spans, VmaList, gather_ranges
from tracer.model.vma import Kind, Vma

__all__ = ["Glance", "Layout", "ProcMemory", "WalkedMemory"]

PRESENT, PROT_NONE = 0x1, 0x100  # bits of an entry, asm/pgtable_types.h
TRIES = 5  # reads of maps and numa_maps until they show the same list

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Glance:
    """What one cheap look tells. `lists`: equal values mean that the VMA list cannot have changed; None: no idea.

    policy: of the target's main thread. hugetlb_pages: hugetlb memory mapped, in 4 KiB pages, or -1 when not known.
    rss: exact RSS in pages, -1 when not known.
    """

    lists: tuple[int, ...] | None
    policy: Policy
    hugetlb_pages: int = -1
    rss: int = -1


def _kind_and_path(entry: MapsEntry) -> tuple[Kind, bytes]:
    kind = procfs.kind_of(entry)
    return kind, procfs.file_path(entry) if kind is Kind.FILE else entry.path


def _vma(entry: MapsEntry, policy: Policy, huge: int) -> Vma:
    kind, path = _kind_and_path(entry)
    return Vma(
        entry.start,
        entry.end,
        entry.perms,
        entry.offset,
        entry.device,
        entry.inode,
        path,
        kind,
        policy,
        bool(huge),
        (huge or PAGE) // 1024,
    )


def pagemap_counts(reader: PagemapReader, pagemap: Pagemap, spans: Spans) -> Int64s:
    """Counts of spans from pagemap. Neighbouring plain spans of one VMA could be one, but the rows are wanted apart."""
    wanted = [
        Span(int(s), int(s) + int(h) if h else int(e), int(h), bool(x))
        for s, e, h, x in zip(spans.start, spans.end, spans.huge, spans.special, strict=True)
    ]
    return reader.counts(pagemap, wanted)


class WalkedMemory:
    """VMAs from the maple tree; pages from page tables (`reader` "walk") or from pagemap (`reader` "pagemap").

    mm: kernel address of the target's mm_struct, which the open `pagemap` keeps from being freed.
    """

    def __init__(self, tables: PageTables, pagemap: Pagemap, frames: PagemapReader, mm: int, reader: str) -> None:
        self.tables, self.pagemap, self.mm, self.reader = tables, pagemap, mm, reader
        self.pgd = int(tables.look(mm)["pgd"])
        self._frames = frames
        self._nodes = tables.topology.nr_node_ids
        self._list = VmaListReader(tables, pagemap.pid, mm)

    def glance(self) -> Glance:
        g = self.tables.look(self.mm)
        lists = lists_of(g) if "MM_LOCK_SEQ" in self.tables.constants else None
        policy = effective_policy(int(g["policy_mode"]), int(g["policy_flags"]), g["policy_nodes"])
        hugetlb = int(g["hugetlb_pages"]) if "MM_HUGETLB" in self.tables.constants else -1
        return Glance(lists, policy, hugetlb, self._rss(g))

    def _rss(self, glance: np.void) -> int:
        if "TASK_RSS" in self.tables.constants:
            return int(glance["rss"]) if glance["owner"] else -1
        if (pages := self.tables.resident_pages(self.mm)) >= 0:
            return pages
        if not procfs.resident_pages_are_exact():
            return -1
        try:
            return procfs.resident_pages(self.pagemap.pid) or -1  # 0: its first thread has ended before the others
        except procfs.TargetGone:
            return -1

    def is_dying(self) -> bool:
        """Whether nobody uses the memory any more, so that it is being taken down."""
        return bool(self.tables.look(self.mm)["dying"])

    def token(self) -> bytes:
        """What a glance shows, raw: equal means that the VMA list, the policy and the totals are as they were."""
        token: bytes = self.tables.look(self.mm).tobytes()
        return token

    def layout(self) -> Layout | None:
        """The present VMA list, as far as it can be had; None when the kernel's tree made no sense, time and again."""
        return self._list.read()

    def renamed(self, layout: Layout) -> Layout:
        """The same list as it would be printed now; see `VmaListReader.renamed`."""
        return self._list.renamed(layout)

    def survey(self, starts: Int64s, ends: Int64s) -> Survey:
        """Regions with something mapped in the ranges (ascending, disjoint)."""
        return self.tables.survey(self.pgd, starts, ends)

    def counts(self, spans: Spans, leaves: npt.NDArray[np.uint64] | None = None) -> Int64s:
        """Pages per node id as numa_maps counts them, int64 of shape (len(spans), nodes).

        leaves: for each span the huge page entry that a survey has just found for its region, 0 where there is none.
        """
        if self.reader != "walk":
            return pagemap_counts(self._frames, self.pagemap, spans)
        pages = (spans.end - spans.start) >> 12
        if leaves is None or not leaves.any():
            found = self.tables.count(self.pgd, spans.start, pages, spans.huge > 0)
        else:
            known = leaves != 0
            found = np.empty((len(spans), self.tables.counted.dtype["bin"].shape[0]), np.int64)
            found[known] = self.tables.count_leaves(leaves[known], np.where(spans.huge > 0, 1, pages)[known])
            found[~known] = self.tables.count(self.pgd, spans.start[~known], pages[~known], spans.huge[~known] > 0)
        result = np.ascontiguousarray(found[:, : self._nodes])
        # Reserved pages look like any other in a page table, and a block with two nodes needs each page's own. What
        # the walk found empty is empty for pagemap as well.
        odd = (spans.special != 0) & found.any(axis=1)
        mixed = found[:, self._nodes + 1] != 0
        if (odd & ~mixed).any():
            at = np.flatnonzero(odd & ~mixed)
            result[at] = self._page_by_page(_part(spans, at))
        if mixed.any():
            at = np.flatnonzero(mixed)
            result[at] = pagemap_counts(self._frames, self.pagemap, _part(spans, at))
        return result

    def _page_by_page(self, spans: Spans) -> Int64s:
        """Counts of spans that may hold reserved pages or device memory, which numa_maps leaves out."""
        first = spans.start >> 12
        pages = gather_ranges(first, spans.end >> 12)
        row = np.repeat(np.arange(len(spans)), (spans.end >> 12) - first)
        leaves = self.tables.entries(self.pgd, pages << 12)
        mapped = (leaves & np.uint64(PRESENT | PROT_NONE)) != 0
        leaves, row = leaves[mapped], row[mapped]
        upright = np.where(leaves & np.uint64(PRESENT), leaves, ~leaves)
        flags = page_flags((upright & np.uint64(self.tables.paging.address)) >> np.uint64(12))
        keep = ~(has_flag(flags, KPF_RESERVED) | has_flag(flags, KPF_NOPAGE))
        bins = self.tables.count_leaves(leaves[keep], np.ones(int(keep.sum()), np.int64))
        result = np.zeros((len(spans), self._nodes), np.int64)
        np.add.at(result, row[keep], bins[:, : self._nodes])
        return result

    def differing_frames(self, addresses: Int64s) -> npt.NDArray[np.bool_]:
        """At which addresses the page tables and pagemap show different page frames."""
        told = np.concatenate([self.pagemap.read(a, a + PAGE) for a in addresses.tolist()])
        return differing_frames(self.tables, self.pgd, addresses, told)


def _part(spans: Spans, at: npt.NDArray[np.intp]) -> Spans:
    return Spans(spans.start[at], spans.end[at], spans.huge[at], spans.special[at], spans.region[at])


class ProcMemory:
    """VMAs from maps and numa_maps; pages from pagemap, or from numa_maps too (`reader` "numa_maps"), without BPF.

    Every look costs the kernel a walk of the whole target; nothing says what changed in between.
    """

    def __init__(self, pid: int, nodes: int, frames: PagemapReader | None) -> None:
        self.reader = "pagemap" if frames else "numa_maps"
        self._pid, self._nodes, self._frames = pid, nodes, frames
        self._spans: list[Span] = []
        self.lines: list[NumaLine] = []

    def layout(self) -> Layout | None:
        for _ in range(TRIES):
            entries, self.lines = procfs.read_maps(self._pid), read_numa_maps(self._pid)
            if [e.start for e in entries] == [line.start for line in self.lines]:
                break
        else:
            return None
        huge = [
            (line.page_kb or _page_kb_of(entry)) * 1024 if line.huge else 0
            for line, entry in zip(self.lines, entries, strict=True)
        ]
        vmas = tuple(
            _vma(e, Policy.parse(line.policy), h) for e, line, h in zip(entries, self.lines, huge, strict=True)
        )
        count = len(entries)
        self._spans = [Span(e.start, e.end, h, procfs.may_hold_reserved(e)) for e, h in zip(entries, huge, strict=True)]
        spans = VmaList(
            np.array([e.start for e in entries], np.int64),
            np.array([e.end for e in entries], np.int64),
            np.array(huge, np.int64),
            np.array([procfs.may_hold_reserved(e) for e in entries], np.int64),
            *(np.zeros(count, np.int64) for _ in range(3)),
        )
        return Layout(vmas, spans, np.ones(count, bool))

    def totals(self) -> Int64s:
        """Pages per VMA and node of the last layout; int64, shape (VMAs, nodes)."""
        if self._frames is not None:
            with Pagemap(self._pid) as pagemap:
                return self._frames.counts(pagemap, self._spans)
        result = np.zeros((len(self.lines), self._nodes), np.int64)
        for row, line in zip(result, self.lines, strict=True):
            for node, pages in line.nodes.items():
                row[node] = pages
        return result


def _page_kb_of(entry: MapsEntry) -> int:
    """A hugetlb VMA without pages has no kernelpagesize_kB in numa_maps; its size must be a multiple of it anyway."""
    return 2048 if (entry.end - entry.start) % (1 << 30) else 1 << 20
