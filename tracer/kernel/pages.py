"""Single pages of regions: on which node each lies, and what maps it.

What is given is what numa_maps counts, page by page. Page tables tell it, and so twenty times as fast as pagemap; which
is asked where they cannot: for mappings that may hold reserved pages or device memory, for blocks of memory that two
nodes share, and for whether a page of a private file mapping is the file's or a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tracer.kernel.memory import Layout, WalkedMemory
from tracer.kernel.pageflags import KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_KSM, KPF_THP, has_flag, page_flags
from tracer.kernel.pagemap import PM_FILE, PM_PFN_MASK, PM_PRESENT, PagemapReader, Span
from tracer.kernel.walk import PAGE, REGION, PageTables
from tracer.model.spans import Spans, SpanTable

__all__ = ["REGION_PAGES", "PageReader", "Pages"]

REGION_PAGES = REGION // PAGE
LEAF = np.uint64(0x80)  # _PAGE_PSE of an entry above the last level, asm/pgtable_types.h
ONE, PROT_NONE_SHIFT, SPECIAL_SHIFT = np.uint64(1), np.uint64(8), np.uint64(9)  # bits of an entry, bpf/entry.h
ABSENT, MIXED = -1, -2  # in place of a node: no page that counts; a block of memory that two nodes share
GAP = 64  # pages: so many that nobody asked for cost less than another read

Int16s = npt.NDArray[np.int16]
Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


class Pages(NamedTuple):
    """node: id of the node of every page that numa_maps counts, otherwise -1; int16, shape (regions, 512). file: bool,
    the same shape: a page of the page cache, shared anonymous memory and tmpfs among them, but not a private copy.
    huge: bool, shape (regions,): one entry maps the region, so its pages are a transparent huge page, or of hugetlb.
    A hugetlb page has its node at index 0 of the region in which it begins, and nowhere else."""

    node: Int16s
    file: Bools
    huge: Bools


@dataclass(frozen=True, slots=True)
class _Cells:
    """Spans of the regions that were asked for, and where their pages are in the result: row, and first and last column
    (excluded). vma: index of the VMA. A hugetlb page is one cell."""

    spans: Spans
    row: Int64s
    first: Int64s
    last: Int64s
    vma: Int64s

    @classmethod
    def of(cls, layout: Layout, regions: Int64s) -> _Cells:
        table = SpanTable(0)
        table.vmas = layout.spans
        found = table.spans(regions)
        at = np.searchsorted(regions, found.region)
        # A 1 GiB page may begin in a region that nobody asked for.
        mine = np.flatnonzero(regions[np.minimum(at, len(regions) - 1)] == found.region)
        spans = Spans(*(getattr(found, name)[mine] for name in Spans.__slots__))
        first = spans.start >> 12 & (REGION_PAGES - 1)
        pages = np.where(spans.huge > 0, 1, (spans.end - spans.start) >> 12)
        return cls(spans, at[mine], first, first + pages, layout.spans.index_of(spans.start))

    def slice(self, at: int) -> tuple[int, slice]:
        """Where the pages of a span are in the result."""
        return int(self.row[at]), slice(int(self.first[at]), int(self.last[at]))

    def span(self, at: int) -> Span:
        """A span for the pagemap reader, which wants a huge page's own end."""
        spans = self.spans
        start, huge = int(spans.start[at]), int(spans.huge[at])
        return Span(start, start + huge if huge else int(spans.end[at]), huge, bool(spans.special[at]))


class PageReader:
    """Reads pages of one target. Its methods raise TargetGone when pagemap is asked and the address space has ended."""

    def __init__(self, memory: WalkedMemory, frames: PagemapReader) -> None:
        self._memory, self._frames = memory, frames
        self._node_of_block = _node_of_block(memory.tables)
        self._block_shift = np.uint64(memory.tables.constants["BLOCK_SHIFT"])
        self._block_mask = np.uint64(len(self._node_of_block) - 1)
        self._scratch = np.empty((3, 0, REGION_PAGES), np.uint64)  # fresh memory would cost a page fault for each table
        self._some_mixed = bool((self._node_of_block == MIXED).any())

    def read(self, regions: Int64s, layout: Layout | None = None) -> Pages:
        """The pages of regions (numbers, ascending and unique). layout: the VMA list, None to ask the memory for it."""
        node = np.full((len(regions), REGION_PAGES), ABSENT, np.int16)
        pages = Pages(node, np.zeros(node.shape, np.bool_), np.zeros(len(regions), np.bool_))
        layout = layout or self._memory.layout()
        if layout is None or not len(regions):
            return pages
        cells = _Cells.of(layout, regions)
        self._walk(regions, pages)
        _clear_all_but(cells, node)
        asked = cells.spans.special != 0
        if self._memory.reader != "walk":
            asked[:] = True
        elif self._some_mixed:
            asked |= (node == MIXED).any(axis=1)[cells.row]
        self._ask(cells, np.flatnonzero(asked), pages)
        self._tell_files(layout, cells, np.flatnonzero(~asked & (layout.spans.file[cells.vma] != 0)), pages)
        pages.huge[:] &= (node >= 0).any(axis=1)
        return pages

    # --- page tables ---

    def _walk(self, regions: Int64s, pages: Pages) -> None:
        """Nodes of all pages that page tables show, and which regions one entry maps."""
        memory = self._memory
        done = 0
        for part, found, tables in memory.tables.read(memory.pgd, 1, regions << 21):
            to = slice(done, done + len(part))
            leaf = (found["whole"] == 0) & ((found["leaf"] & LEAF) != 0)
            pages.huge[to] = leaf
            self._nodes_of(tables, pages.node[to])
            pages.node[to][found["whole"] == 0] = ABSENT
            if leaf.any():
                pages.node[to][leaf] = self._nodes_of_leaves(found["leaf"][leaf])[:, None]
            done = to.stop

    def _nodes_of(self, entries: Uint64s, out: Int16s) -> None:
        """Of entries of the last level, shape (tables, 512): maps_page() and block_of() of bpf/entry.h and nodes.h."""
        if self._scratch.shape[1] < len(entries):
            self._scratch = np.empty((3, *entries.shape), np.uint64)
        present, other, block = self._scratch[:, : len(entries)]
        np.bitwise_and(entries, ONE, out=present)
        np.subtract(present, ONE, out=block)
        np.bitwise_xor(entries, block, out=block)
        np.right_shift(block, self._block_shift, out=block)
        np.bitwise_and(block, self._block_mask, out=block)
        self._node_of_block.take(block.view(np.int64), out=out, mode="clip")
        np.right_shift(entries, PROT_NONE_SHIFT, out=other)
        np.bitwise_or(present, other, out=present)
        np.right_shift(entries, SPECIAL_SHIFT, out=other)
        np.bitwise_or(other, ~ONE, out=other)
        np.invert(other, out=other)
        np.bitwise_and(present, other, out=present)
        np.copyto(out, np.int16(ABSENT), where=present == 0)

    def _nodes_of_leaves(self, leaves: Uint64s) -> Int16s:
        """Of entries of higher levels, of which the huge zero page does not count."""
        bins = self._memory.tables.count_leaves(leaves, np.ones(len(leaves), np.int64))
        nodes = np.append(np.arange(self._memory.tables.nowhere), [ABSENT, MIXED])[bins.argmax(axis=1)]
        found: Int16s = np.where(bins.any(axis=1), nodes, ABSENT).astype(np.int16)
        return found

    # --- pagemap ---

    def _ask(self, cells: _Cells, which: npt.NDArray[np.intp], pages: Pages) -> None:
        """Put what pagemap says of some spans in place of what the page tables do."""
        if not len(which):
            return
        for at in which.tolist():
            pages.node[cells.slice(at)] = ABSENT
        found = self._frames.counted_pages(self._memory.pagemap, [cells.span(at) for at in which.tolist()])
        row, column = cells.row[which][found.span], found.address >> 12 & (REGION_PAGES - 1)
        pages.node[row, column] = found.node
        pages.file[row, column] = ~found.anon

    def _tell_files(self, layout: Layout, cells: _Cells, which: npt.NDArray[np.intp], pages: Pages) -> None:
        """Of spans of file mappings: a page of a shared one is the file's, one of a private mapping may be a copy."""
        for at in which.tolist():
            place = cells.slice(at)
            there = pages.node[place] >= 0
            if there.any() and layout.vmas[int(cells.vma[at])].perms[3] != "s":
                start = int(cells.spans.start[at])
                entries = self._memory.pagemap.read(start, start + len(there) * PAGE)
                there &= (entries & np.uint64(PM_FILE)) != 0
            pages.file[place] = there

    # --- page frames ---

    def merged(self, addresses: Int64s) -> Bools:
        """Whether KSM holds the page at each address; False where no page is."""
        return self._flagged(addresses, KPF_KSM)

    def large(self, addresses: Int64s) -> Bools:
        """Whether the page at each address is part of a larger folio (a huge page, mapped by one entry or by many, or
        one of a size in between); False where no page is."""
        return self._flagged(addresses, KPF_COMPOUND_HEAD, KPF_COMPOUND_TAIL, KPF_THP)

    def _flagged(self, addresses: Int64s, *bits: int) -> Bools:
        """Whether the page frame at each address has one of the KPF flags."""
        entries = self._entries(addresses >> 12)
        present = np.flatnonzero(entries & np.uint64(PM_PRESENT))
        flags = page_flags(entries[present] & np.uint64(PM_PFN_MASK), self._memory.pagemap.proc_root)
        result = np.zeros(len(addresses), np.bool_)
        result[present] = np.logical_or.reduce([has_flag(flags, bit) for bit in bits])
        return result

    def _entries(self, pages: Int64s) -> Uint64s:
        """Raw pagemap entries of pages, given by their numbers in any order."""
        if not len(pages):
            return np.empty(0, np.uint64)
        wanted, back = np.unique(pages, return_inverse=True)
        entries = np.empty(len(wanted), np.uint64)
        for run in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(wanted) > GAP) + 1):
            first, last = int(wanted[run[0]]), int(wanted[run[-1]])
            entries[run] = self._memory.pagemap.read(first * PAGE, (last + 1) * PAGE)[wanted[run] - first]
        return entries[back.reshape(-1)]


def _node_of_block(tables: PageTables) -> Int16s:
    """Node id by block of physical memory, as the programs see it; ABSENT where nothing counts, or MIXED."""
    bins = np.asarray(tables.node_bins).astype(np.int16) // np.int16(tables.constants["BIN_STEP"])
    bins[bins == tables.nowhere] = ABSENT
    bins[bins == tables.nowhere + 1] = MIXED
    return bins


def _clear_all_but(cells: _Cells, node: Int16s) -> None:
    """Nothing counts in regions that hold no span, as those inside a 1 GiB page, nor behind the first page of a hugetlb
    page."""
    bare = np.ones(len(node), np.bool_)
    bare[cells.row] = False
    node[bare] = ABSENT
    node[cells.row[cells.spans.huge > 0], 1:] = ABSENT
