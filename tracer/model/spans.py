"""Counts per span: what is known of a target's pages, and what has to be read again when its VMA list changes.

A region is an aligned 2 MiB of addresses, a span the part of a region that one VMA covers. `SpanTable` keeps a row of
counts per populated span in address order, and a total per VMA. Nothing here reads anything: callers bring counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "FILLED",
    "REGION_SHIFT",
    "RESTLESS",
    "SHARING",
    "SPECIAL",
    "SpanTable",
    "Spans",
    "VmaList",
    "gather_ranges",
    "regions_of",
    "union_of_ranges",
]

REGION_SHIFT = 21
REGION = 1 << REGION_SHIFT

SPECIAL, RESTLESS, FILLED, SHARING = 1, 2, 4, 8

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class VmaList:
    """What the counting needs of the VMAs, as int64 arrays of equal length in address order.

    start, end: addresses. huge: bytes of a hugetlb page, 0 for others. special: SPECIAL where pages may be mapped that
    numa_maps does not count and that only kpageflags can tell ([vdso], PFN maps, driver mappings); RESTLESS where
    pages are replaced without any event (mergeable by KSM); FILLED where userfaultfd puts pages, perhaps pages that
    were elsewhere in the process (UFFDIO_MOVE, which is no event either); SHARING where the page tables may be
    another process's as well, so that pages come and go that this one never touched (hugetlb).
    file: identity of the mapped file, 0 for none. bias: page offset minus page number, so that it is the same on
    both sides of a split. anon: identity of the anon_vma, 0 while there is none. A reader that does not know one of
    the last three fills it with something that stays the same as long as the VMA does.
    """

    start: Int64s
    end: Int64s
    huge: Int64s
    special: Int64s
    file: Int64s
    bias: Int64s
    anon: Int64s

    @staticmethod
    def empty() -> VmaList:
        """No VMA at all."""
        return VmaList(*(np.empty(0, np.int64) for _ in range(7)))

    def part(self, at: npt.NDArray[np.intp]) -> VmaList:
        """Some of them, ascending."""
        return VmaList(*(getattr(self, column)[at] for column in self.__slots__))

    def marked(self, marks: int) -> npt.NDArray[np.bool_]:
        """Which of them have any of these marks in `special`."""
        found: npt.NDArray[np.bool_] = (self.special & marks) != 0
        return found

    def any_marked_in(self, regions: Int64s, marks: int) -> bool:
        """Whether any of these regions holds a part of a VMA with any of these marks."""
        at = self.marked(marks)
        first, last = self.start[at] >> REGION_SHIFT, (self.end[at] - 1) >> REGION_SHIFT
        return bool((np.searchsorted(regions, last, "right") > np.searchsorted(regions, first)).any())

    def index_of(self, addresses: Int64s) -> Int64s:
        """Index of the VMA that holds each address, -1 where there is none."""
        at = np.searchsorted(self.start, addresses, "right") - 1
        inside = (at >= 0) & (addresses < self.end[np.maximum(at, 0)]) if len(self.start) else np.zeros(len(at), bool)
        found: Int64s = np.where(inside, at, -1)
        return found


@dataclass(frozen=True, slots=True)
class Spans:
    """Spans to be read: start and end addresses, hugetlb page size (0: none), special flag, region number.

    A hugetlb span starts where its huge page does, and stands for that one page.
    """

    start: Int64s
    end: Int64s
    huge: Int64s
    special: Int64s
    region: Int64s

    def __len__(self) -> int:
        return len(self.start)


def gather_ranges(first: Int64s, last: Int64s) -> Int64s:
    """All whole numbers from first[i] to last[i] (excluded), in order of i."""
    lengths = np.maximum(last - first, 0)
    offsets = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    numbers: Int64s = np.repeat(first, lengths) + offsets
    return numbers


def regions_of(starts: Int64s, ends: Int64s) -> Int64s:
    """Numbers of all regions that the ranges touch, ascending and unique. For ranges known to be small."""
    return np.unique(gather_ranges(starts >> REGION_SHIFT, (ends + REGION - 1) >> REGION_SHIFT))


def union_of_ranges(starts: Int64s, ends: Int64s) -> tuple[Int64s, Int64s]:
    """Starts and ends of the disjoint ranges that cover just what these do, ascending. No range may be empty."""
    order = np.argsort(starts)
    starts, ends = starts[order], ends[order]
    if not len(starts):
        return starts, ends
    reach = np.maximum.accumulate(ends)
    first = np.flatnonzero(np.concatenate(([True], starts[1:] > reach[:-1])))
    return starts[first], reach[np.concatenate((first[1:] - 1, [len(starts) - 1]))]


class SpanTable:
    """Rows of counts in address order. nodes: how many columns a row of counts has (node ids from 0)."""

    def __init__(self, nodes: int) -> None:
        self.vmas = VmaList.empty()
        self.address = np.empty(0, np.int64)
        self.counts = np.empty((0, nodes), np.int64)
        self.totals = np.zeros((0, nodes), np.int64)
        self._nodes = nodes

    # --- what to read ---

    def spans(self, regions: Int64s) -> Spans:
        """The spans of the given regions (ascending, unique) under the present VMA list."""
        v = self.vmas
        low = regions << REGION_SHIFT
        first = np.searchsorted(v.end, low, "right")
        last = np.searchsorted(v.start, low + REGION, "left")
        vma = gather_ranges(first, last)
        region = np.repeat(regions, np.maximum(last - first, 0))
        start = np.maximum(v.start[vma], region << REGION_SHIFT)
        end = np.minimum(v.end[vma], (region + 1) << REGION_SHIFT)
        huge, special = v.huge[vma], v.special[vma] & SPECIAL
        large = huge > REGION
        if large.any():
            start = np.where(large, start & -np.maximum(huge, 1), start)
            end = np.where(large, start + REGION, end)
            region = start >> REGION_SHIFT
            order = np.unique(start, return_index=True)[1]
            return Spans(start[order], end[order], huge[order], special[order], region[order])
        return Spans(start, end, huge, special, region)

    def known_regions(self, start: int | None = None, end: int | None = None) -> Int64s:
        """Regions that have a row, all or those that touch [start, end)."""
        rows = self.address
        if start is not None and end is not None:
            low, high = start & -REGION, (end + REGION - 1) & -REGION
            rows = rows[np.searchsorted(rows, low) : np.searchsorted(rows, high)]
        regions = rows >> REGION_SHIFT
        return regions[np.concatenate(([True], regions[1:] != regions[:-1]))] if len(regions) else regions

    # --- what was read ---

    def replace(self, regions: Int64s, spans: Spans, counts: Int64s) -> int:
        """Put the counts of `spans` (int64, shape (len(spans), nodes)) in place of all rows of `regions`.

        Gives the sum of absolute differences in pages. `spans` must be those of `self.spans(regions)`.
        """
        keep = counts.any(axis=1)
        if not len(self.address):
            self.address, self.counts = spans.start[keep], counts[keep]
            self._add(self.address, self.counts)
            return int(self.counts.sum())
        regions = np.union1d(regions, spans.region) if len(spans) else regions
        low, high = regions << REGION_SHIFT, (regions + 1) << REGION_SHIFT
        old = gather_ranges(np.searchsorted(self.address, low), np.searchsorted(self.address, high))
        if len(old) == len(spans) and np.array_equal(self.address[old], spans.start):
            difference = counts - self.counts[old]
            self.counts[old] = counts
            self._add(spans.start, difference)
            return int(np.abs(difference).sum())
        taken, put, rows = self.address[old], spans.start[keep], counts[keep]
        changed = _distance(taken, self.counts[old], put, rows)
        self._add(taken, -self.counts[old])
        self._add(put, rows)
        address = np.delete(self.address, old) if len(old) else self.address
        kept = np.delete(self.counts, old, axis=0) if len(old) else self.counts
        at = np.searchsorted(address, put)
        self.address = np.insert(address, at, put)
        self.counts = np.insert(kept, at, rows, axis=0)
        return changed

    def _add(self, addresses: Int64s, difference: Int64s) -> None:
        """Add rows to the totals of their VMAs. Addresses are ascending, so the rows of a VMA are neighbours."""
        vma = self.vmas.index_of(addresses)
        inside = vma >= 0
        if not inside.all():
            vma, difference = vma[inside], difference[inside]
        if not len(vma):
            return
        first = np.flatnonzero(np.concatenate(([True], vma[1:] != vma[:-1])))
        self.totals[vma[first]] += np.add.reduceat(difference, first, axis=0)

    # --- a changed VMA list ---

    def remap(self, vmas: VmaList) -> tuple[Int64s, Int64s, Int64s]:
        """Take a new VMA list. Rows stay where the same pages are still mapped by the same kind of VMA.

        Gives (regions to read again, because a boundary moved inside them or their pages may be in a new range now;
        starts and ends of ranges whose content is new and has to be searched for populated regions). Costs what
        changed, but for comparing the two lists.
        """
        old = self.vmas
        if vmas is old:
            return (np.empty(0, np.int64),) * 3
        match = _matches(old, vmas)
        before, after = old.part(match.gone), vmas.part(match.new)
        bounds = np.unique(np.concatenate((before.start, before.end, after.start, after.end)))
        starts, ends = bounds[:-1], bounds[1:]
        was, now = before.index_of(starts), after.index_of(starts)
        changed = ~_same(before, was, after, now)
        moved = np.setxor1d(np.concatenate((before.start, before.end)), np.concatenate((after.start, after.end)))
        torn = np.unique(moved[moved & (REGION - 1) != 0] >> REGION_SHIFT)
        gone = np.flatnonzero(changed)
        fresh = gone[now[gone] >= 0]
        self._drop(starts[gone], ends[gone], torn)
        totals = np.zeros((len(vmas.start), self._nodes), np.int64)
        totals[: match.head] = self.totals[: match.head]
        totals[len(totals) - match.tail :] = self.totals[len(self.totals) - match.tail :]
        totals[match.now] = self.totals[match.was]
        self.vmas, self.totals = vmas, totals
        rows = gather_ranges(np.searchsorted(self.address, after.start), np.searchsorted(self.address, after.end))
        self._add(self.address[rows], self.counts[rows])
        return np.union1d(torn, self._taken_from(starts[fresh], ends[fresh])), starts[fresh], ends[fresh]

    def _taken_from(self, starts: Int64s, ends: Int64s) -> Int64s:
        """Regions with rows whose pages may be in these new ranges now.

        mremap(MREMAP_DONTUNMAP) of a part of a VMA leaves that VMA as it was, and what it makes has the same anon_vma
        or file, at the same page offsets. Of a whole VMA, it leaves one without any anon_vma, as it was in the old list
        if pages have come since, and so without pages.
        """
        v, own = self.vmas, self.vmas.index_of(starts)
        known = (v.file[own] != 0) | (v.anon[own] != 0)
        starts, ends, own = starts[known], ends[known], own[known]
        if not len(self.address) or not len(starts):
            return np.empty(0, np.int64)
        here, there = _sharing(v, starts, ends, own)
        shift = (v.bias[own][here] - v.bias[there]) << 12
        # A row begins where its region does, or its VMA.
        low = np.maximum(starts[here] + shift & -REGION, v.start[there])
        high = np.minimum(ends[here] + shift, v.end[there])
        bare = _bare_before(v, starts, ends, own)
        first = np.searchsorted(self.address, np.concatenate((low, v.start[bare])))
        last = np.searchsorted(self.address, np.concatenate((high, v.end[bare])))
        return np.unique(self.address[gather_ranges(first, last)] >> REGION_SHIFT)

    def _drop(self, starts: Int64s, ends: Int64s, torn: Int64s) -> None:
        """Forget rows that begin in one of the ranges, or that lie in a region with a moved boundary."""
        rows = gather_ranges(np.searchsorted(self.address, starts), np.searchsorted(self.address, ends))
        low, high = torn << REGION_SHIFT, (torn + 1) << REGION_SHIFT
        also = gather_ranges(np.searchsorted(self.address, low), np.searchsorted(self.address, high))
        dead = np.union1d(rows, also)
        if len(dead):
            self._add(self.address[dead], -self.counts[dead])
            self.address = np.delete(self.address, dead)
            self.counts = np.delete(self.counts, dead, axis=0)


class _Match(NamedTuple):
    """VMAs that two lists share: the first `head`, the last `tail`, and between them those at `was` in the old list
    and `now` in the new one. gone, new: the others of the old list and of the new one. All are ascending indices."""

    head: int
    tail: int
    was: Int64s
    now: Int64s
    gone: Int64s
    new: Int64s


def _matches(old: VmaList, new: VmaList) -> _Match:
    # Mostly few places differ: what is equal from either end needs no search.
    sizes = len(old.start), len(new.start)
    short = min(sizes)
    head = _leading(_equal_rows(old, slice(short), new, slice(short)))
    ends = (slice(size - short + head, None) for size in sizes)
    tail = _leading(_equal_rows(old, next(ends), new, next(ends))[::-1])
    middle, others = (np.arange(head, size - tail) for size in sizes)
    at = np.searchsorted(old.start[middle], new.start[others])
    here = np.flatnonzero(at < len(middle))
    equal = _equal_rows(old, middle[at[here]], new, others[here])
    was, now = at[here[equal]], here[equal]
    return _Match(head, tail, middle[was], others[now], np.delete(middle, was), np.delete(others, now))


def _sharing(vmas: VmaList, starts: Int64s, ends: Int64s, own: Int64s) -> tuple[Int64s, Int64s]:
    """Pairs of a range (an index), which is a part of VMA own[i], and another VMA that may show the same pages of an
    anon_vma or a file. All such pairs, and perhaps some that share nothing. Each range must have one of the two."""
    shared = np.where(vmas.file != 0, vmas.file, vmas.anon)
    members = np.flatnonzero(np.isin(shared, shared[own]))
    v, identity = vmas.part(members), np.unique(shared[members], return_inverse=True)[1].reshape(-1)
    base = identity[np.searchsorted(members, own)]
    first, last = (v.start >> 12) + v.bias, (v.end >> 12) + v.bias
    begin, end = (starts >> 12) + vmas.bias[own], (ends >> 12) + vmas.bias[own]
    # Keys in the order of identity and page offset, small enough to be one number.
    offsets = np.unique(np.concatenate((first, last, begin, end)))
    identity, base = identity * (len(offsets) + 1), base * (len(offsets) + 1)
    order = np.argsort(identity + np.searchsorted(offsets, first), kind="stable")
    begins = (identity + np.searchsorted(offsets, first))[order]
    reach = np.maximum.accumulate((identity + np.searchsorted(offsets, last))[order])
    low = np.searchsorted(reach, base + np.searchsorted(offsets, begin), "right")
    high = np.searchsorted(begins, base + np.searchsorted(offsets, end), "left")
    here = np.repeat(np.arange(len(starts)), np.maximum(high - low, 0))
    there = members[order[gather_ranges(low, high)]]
    other = there != own[here]
    return here[other], there[other]


def _bare_before(vmas: VmaList, starts: Int64s, ends: Int64s, own: Int64s) -> Int64s:
    """VMAs without anon_vma, which might be what pages of these ranges were taken out of: at the addresses that their
    page offsets stand for, or such as have been moved themselves."""
    bare = (vmas.file == 0) & (vmas.anon == 0) & (vmas.special == 0)
    back = vmas.bias[own] << 12
    there = gather_ranges(
        np.searchsorted(vmas.end, starts + back, "right"), np.searchsorted(vmas.start, ends + back, "left")
    )
    found: Int64s = np.union1d(there[bare[there]], np.flatnonzero(bare & (vmas.bias != 0)))
    return found


Rows = Int64s | slice


def _equal_rows(old: VmaList, these: Rows, new: VmaList, those: Rows) -> npt.NDArray[np.bool_]:
    equal = old.start[these] == new.start[those]
    for name in ("end", "huge", "special", "file", "bias", "anon"):
        equal &= getattr(old, name)[these] == getattr(new, name)[those]
    found: npt.NDArray[np.bool_] = equal
    return found


def _leading(equal: npt.NDArray[np.bool_]) -> int:
    """How many are true from the beginning on."""
    return int(np.argmin(equal)) if not equal.all() else len(equal)


def _same(old: VmaList, was: Int64s, new: VmaList, now: Int64s) -> npt.NDArray[np.bool_]:
    """Whether an interval shows the same pages through VMA was[i] of the old list and now[i] of the new one."""
    both = (was >= 0) & (now >= 0)
    neither = (was < 0) & (now < 0)
    if not both.any():
        return neither
    a, b = np.maximum(was, 0), np.maximum(now, 0)
    anon = (old.anon[a] == new.anon[b]) | (old.anon[a] == 0)
    alike = (old.file[a] == new.file[b]) & (old.bias[a] == new.bias[b]) & anon
    alike &= (old.huge[a] == new.huge[b]) & (old.special[a] == new.special[b])
    same: npt.NDArray[np.bool_] = neither | (both & alike)
    return same


def _distance(addresses: Int64s, counts: Int64s, others: Int64s, other_counts: Int64s) -> int:
    """Sum of absolute differences between two sets of rows; a row that one side lacks is zero there."""
    if not len(addresses) or not len(others):
        return int(counts.sum() + other_counts.sum())
    order = np.argsort(np.concatenate((addresses, others)), kind="stable")
    address = np.concatenate((addresses, others))[order]
    signed = np.concatenate((-counts, other_counts))[order]
    first = np.flatnonzero(np.concatenate(([True], address[1:] != address[:-1])))
    return int(np.abs(np.add.reduceat(signed, first, axis=0)).sum())
