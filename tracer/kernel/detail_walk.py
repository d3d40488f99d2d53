"""The fields of numa_maps that no counter can hold (`--full`), from raw page-table entries and kpageflags."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tracer.kernel.memory import WalkedMemory
from tracer.kernel.numa_maps import NumaLine
from tracer.kernel.pageflags import KPF_NOPAGE, KPF_RESERVED, details, has_flag, page_flags
from tracer.kernel.walk import ADDRESS_MASK
from tracer.model.snapshot import Details
from tracer.model.spans import Spans, SpanTable, gather_ranges

__all__ = ["details_of_lines", "read_details"]

PRESENT, LEAF, PROT_NONE, SPECIAL = (np.uint64(bit) for bit in (0x1, 0x80, 0x100, 0x200))
# _PAGE_DIRTY, and _PAGE_SAVED_DIRTY of read-only entries where shadow stacks exist (asm/pgtable_types.h)
DIRTY = np.uint64(1 << 6 | 1 << 58)

Uint64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]


def _upright(entries: Uint64s) -> Uint64s:
    """Addresses, with the inversion of non-present entries undone (asm/pgtable-invert.h)."""
    return np.where(entries & PRESENT, entries, ~entries) & np.uint64(ADDRESS_MASK)


class _Pages:
    """Counted entries, collected: raw entry, physical address of its page, VMA index, special flag, weight in pages."""

    def __init__(self) -> None:
        self._parts: list[tuple[Uint64s, Uint64s, Int64s, Int64s, Int64s]] = []

    def add(self, entries: Uint64s, address: Uint64s, vma: Int64s, special: Int64s, weight: Int64s) -> None:
        counted = ((entries & (PRESENT | PROT_NONE)) != 0) & ((entries & SPECIAL) == 0)
        self._parts.append(tuple(a[counted] for a in (entries, address, vma, special, weight)))

    def joined(self) -> tuple[Uint64s, Uint64s, Int64s, Int64s, Int64s]:
        return tuple(np.concatenate([part[i] for part in self._parts]) for i in range(5))  # type: ignore[return-value]


def read_details(memory: WalkedMemory, table: SpanTable, huge_zero: int | None) -> Details:
    """Details of every VMA of `table`. huge_zero: PFN of the huge zero page, None when there is none."""
    spans = table.spans(table.known_regions())
    count = len(table.vmas.start)
    pages = _Pages()
    # One read a region: spans of the same region come together.
    regions, first = np.unique(spans.region, return_index=True)
    bounds = np.append(first, len(spans))
    done = 0
    for part, found, tables in memory.tables.read(memory.pgd, 1, regions << 21):
        rows = np.arange(bounds[done], bounds[done + len(part)])
        own = np.repeat(np.arange(len(part)), np.diff(bounds[done : done + len(part) + 1]))
        _take(pages, table, spans, rows, own, found, tables)
        done += len(part)
    if not done:
        empty = np.zeros(count, np.int64)
        return Details(*(empty.copy() for _ in range(6)))
    entries, address, vma, special, weight = pages.joined()
    pfn = address >> np.uint64(12)
    keep = np.ones(len(pfn), bool)
    if huge_zero is not None:
        keep &= pfn != np.uint64(huge_zero)
    odd = np.flatnonzero(special)
    flags = page_flags(pfn[odd])
    keep[odd] &= ~(has_flag(flags, KPF_RESERVED) | has_flag(flags, KPF_NOPAGE))
    return details(pfn[keep], (entries[keep] & DIRTY) != 0, vma[keep], weight[keep], count)


def _take(
    pages: _Pages,
    table: SpanTable,
    spans: Spans,
    rows: Int64s,
    own: Int64s,
    found: npt.NDArray[np.void],
    tables: Uint64s,
) -> None:
    """Add the pages of some spans: `own` is the index of each span's region in `found` and `tables`."""
    vma = table.vmas.index_of(spans.start[rows])
    huge = spans.huge[rows]
    leaf = found["leaf"][own]
    is_leaf = (leaf & LEAF) != 0
    level_mask = np.where(
        found["level"][own] == 3,
        np.uint64(~((1 << 30) - 1) & (1 << 64) - 1),
        np.uint64(~((1 << 21) - 1) & (1 << 64) - 1),
    )
    weight = np.where(huge > 0, 1, (spans.end[rows] - spans.start[rows]) >> 12)
    big = np.flatnonzero(is_leaf)
    pages.add(
        leaf[big] | PRESENT, (_upright(leaf) & level_mask)[big], vma[big], np.zeros(len(big), np.int64), weight[big]
    )
    small = np.flatnonzero(~is_leaf & (found["whole"][own] != 0) & (huge == 0))
    low = (spans.start[rows][small] >> 12) & 511
    length = weight[small]
    flat = gather_ranges(own[small] * 512 + low, own[small] * 512 + low + length)
    entries = tables.reshape(-1)[flat]
    pages.add(
        entries,
        _upright(entries),
        np.repeat(vma[small], length),
        np.repeat(spans.special[rows][small], length),
        np.ones(len(flat), np.int64),
    )


def details_of_lines(lines: list[NumaLine]) -> Details:
    """Details from the kernel's own file, for the readers that know no page-table entries."""

    def column(name: str) -> Int64s:
        return np.array([line.fields.get(name, 0) for line in lines], np.int64)

    def pages() -> Int64s:
        return np.array([sum(line.nodes.values()) for line in lines], np.int64)

    # mapmax is printed when above 1, active when below all pages and not on hugetlb.
    total = pages()
    active = np.array([line.fields.get("active", int(n)) for line, n in zip(lines, total, strict=True)], np.int64)
    mapmax = np.where(total > 0, np.maximum(column("mapmax"), 1), 0)
    return Details(column("anon"), column("dirty"), mapmax, column("swapcache"), active, column("writeback"))
