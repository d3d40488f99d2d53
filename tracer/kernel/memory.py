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
from tracer.kernel.walk import PAGE, PageTables, Survey
from tracer.model.policy import DEFAULT, Mode, Policy
from tracer.model.spans import RESTLESS, SPECIAL, Spans, VmaList, gather_ranges
from tracer.model.vma import Kind, Vma

__all__ = ["Glance", "Layout", "ProcMemory", "WalkedMemory"]

# vm_flags, include/linux/mm.h
VM_PFNMAP, VM_IO, VM_HUGETLB, VM_MIXEDMAP, VM_MERGEABLE = 0x400, 0x4000, 0x400000, 0x10000000, 0x80000000
PRESENT, PROT_NONE = 0x1, 0x100  # bits of an entry, asm/pgtable_types.h
TRIES = 5  # looks at a VMA list that changes underneath, before it is left for the next refresh

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


@dataclass(frozen=True, slots=True)
class Layout:
    """A consistent VMA list: what outputs print, and what the counting needs. own_policy: False where the VMA has no
    policy of its own, so that the task's shows."""

    vmas: tuple[Vma, ...]
    spans: VmaList
    own_policy: npt.NDArray[np.bool_]


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
        self._has_seq = "MM_LOCK_SEQ" in tables.constants
        self._entries: list[MapsEntry] = []
        self._named: npt.NDArray[np.void] | None = None

    def glance(self) -> Glance:
        g = self.tables.look(self.mm)
        lists: tuple[int, ...] | None = None
        if self._has_seq:
            lists = (int(g["lock_seq"]), int(g["map_count"]))
        policy = self._policy(int(g["policy_mode"]), int(g["policy_flags"]), g["policy_nodes"])
        rss = int(g["rss"]) if "TASK_RSS" in self.tables.constants and g["owner"] else -1
        return Glance(lists, policy, int(g["hugetlb_pages"]) if "MM_HUGETLB" in self.tables.constants else -1, rss)

    def token(self) -> bytes:
        """What a glance shows, raw: equal means that the VMA list, the policy and the totals are as they were."""
        token: bytes = self.tables.look(self.mm).tobytes()
        return token

    @staticmethod
    def _policy(mode: int, flags: int, words: npt.NDArray[np.uint64]) -> Policy:
        if not mode:
            return DEFAULT
        if mode == Mode.LOCAL:  # its node mask means nothing, and mpol_to_str() leaves it out
            return Policy(mode, flags)
        nodes = tuple(64 * i + bit for i, word in enumerate(words) if word for bit in range(64) if int(word) >> bit & 1)
        return Policy(mode, flags, nodes)

    def raw_vmas(self) -> npt.NDArray[np.void] | None:
        """The VMA list as records, when the same list was seen twice around the reading."""
        before = self.tables.look(self.mm)
        seq, count = int(before["lock_seq"]), int(before["map_count"])
        records = self.tables.vmas(self.mm)
        after = self.tables.look(self.mm)
        if (
            records is None
            or len(records) != count
            or (seq, count) != (int(after["lock_seq"]), int(after["map_count"]))
        ):
            return None
        return records

    def layout(self) -> Layout | None:
        for _ in range(TRIES):
            records = self.raw_vmas()
            if records is None:
                continue
            if self._named is None or not _same_names(self._named, records):
                self._entries = procfs.read_maps(self.pagemap.pid)
                if not _same_bounds(self._entries, records):
                    self._named = None
                    continue
            self._named = records
            return self._layout_of(records)
        return None

    def renamed(self, layout: Layout) -> Layout:
        """The same list with the names that maps shows now: unlink and rename change them, and nothing tells."""
        entries = procfs.read_maps(self.pagemap.pid)
        if entries == self._entries or self._named is None or not _same_bounds(entries, self._named):
            return layout
        self._entries = entries
        vmas = tuple(
            _vma(e, v.policy, v.page_kb * 1024 if v.hugetlb else 0) for e, v in zip(entries, layout.vmas, strict=True)
        )
        return Layout(vmas, layout.spans, layout.own_policy)

    def _layout_of(self, records: npt.NDArray[np.void]) -> Layout:
        flags = records["flags"]
        huge = np.where(flags & np.uint64(VM_HUGETLB), records["block_size"], 0).astype(np.int64)
        odd = (flags & np.uint64(VM_PFNMAP | VM_IO | VM_MIXEDMAP)) != 0
        special = odd | np.array([procfs.may_hold_reserved(e) for e in self._entries], bool)
        start = records["start"].astype(np.int64)
        spans = VmaList(
            start,
            records["end"].astype(np.int64),
            huge,
            special * SPECIAL | ((flags & np.uint64(VM_MERGEABLE)) != 0) * RESTLESS,
            records["file"].view(np.int64),
            records["pgoff"].view(np.int64) - (start >> 12),
            records["anon_vma"].view(np.int64),
        )
        own = records["policy"] != 0
        policies = [
            self._policy(int(m), int(f), n) if o else DEFAULT
            for o, m, f, n in zip(own, records["policy_mode"], records["policy_flags"], records["nodes"], strict=True)
        ]
        vmas = tuple(_vma(e, p, int(h)) for e, p, h in zip(self._entries, policies, huge, strict=True))
        return Layout(vmas, spans, own)

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


def _same_bounds(entries: list[MapsEntry], records: npt.NDArray[np.void]) -> bool:
    return len(entries) == len(records) and all(
        e.start == s and e.end == t for e, s, t in zip(entries, records["start"], records["end"], strict=True)
    )


def _same_names(old: npt.NDArray[np.void], new: npt.NDArray[np.void]) -> bool:
    return len(old) == len(new) and all(
        np.array_equal(old[name], new[name]) for name in ("start", "end", "file", "flags", "pgoff")
    )


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
