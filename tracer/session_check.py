"""Is it true? What a session offers to whoever compares its counters, and its own rolling comparison (`--check`).

The rolling comparison reads a few regions from pagemap, which knows nothing of hooks and walks. It is judged one
refresh later, when it is known whether anything touched them meanwhile: what did not change and yet differs is drift.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.kernel.memory import Glance, WalkedMemory, pagemap_counts
from tracer.kernel.pagemap import Pagemap, PagemapReader
from tracer.model.spans import FILLED, RESTLESS, SHARING, Spans, SpanTable

__all__ = ["Checker", "Drift", "Unsettled"]

Int64s = npt.NDArray[np.int64]
NONE = np.empty(0, np.int64)
REGION_SHIFT = 21


@dataclass(frozen=True, slots=True)
class Unsettled:
    """What of a target changed between the epoch before its last refresh and that refresh, so that two snapshots and
    anything read between them may differ.

    regions: numbers of 2 MiB regions, ascending. vmas: the list of VMAs was taken anew. everything: why nothing can be
    said of any region, or nothing.
    """

    regions: Int64s
    vmas: bool = False
    everything: str = ""

    def touches(self, start: int, end: int) -> bool:
        """Whether any of the regions lies in these addresses."""
        first = np.searchsorted(self.regions, start >> REGION_SHIFT)
        return bool(first < len(self.regions) and self.regions[first] << REGION_SHIFT < end)


@dataclass(frozen=True, slots=True)
class Drift:
    """Counters that were found wrong. regions: where, ascending. pages: by how many; a page on another node than
    counted is one. spans, counts: all of it as counted, for `Checker.walk_is_wrong`."""

    regions: Int64s
    pages: int
    spans: Spans
    counts: Int64s


@dataclass(frozen=True, slots=True)
class _Suspects:
    """Spans whose counters and pagemap differed. counted, told: rows of pages per node id, by each of the two."""

    spans: Spans
    counted: Int64s
    told: Int64s


class Checker:
    """Compares the counters of a share of a target's populated regions with pagemap, in turn, refresh after refresh.

    share: of all regions, at each refresh, as a fraction. pagemap: of the target. regions_checked: how many so far.
    """

    def __init__(self, share: float, memory: WalkedMemory, frames: PagemapReader, pagemap: Pagemap) -> None:
        self._share, self._memory, self._frames, self._pagemap = share, memory, frames, pagemap
        self._round = NONE
        self._at = 0
        self._suspects: _Suspects | None = None
        self.regions_checked = 0

    @property
    def suspects(self) -> bool:
        """Whether the last sample has shown anything, so that there is something to judge."""
        return self._suspects is not None

    # --- a sample ---

    def take(self, table: SpanTable, doubtful: Int64s, holds: Callable[[Glance], bool]) -> None:
        """Compare the regions whose turn it is, at the end of a refresh.

        doubtful: regions of which the counters claim nothing now. holds: whether a glance at the target shows nothing
        changed that no event need belong to (its list of VMAs, hugetlb pages). Raises TargetGone.
        """
        self._suspects = None
        spans = self._settled_spans(table, self._next(table), doubtful)
        if not len(spans):
            return
        counted = rows_of(table, spans)
        told = pagemap_counts(self._frames, self._pagemap, spans)
        if not holds(self._memory.glance()):
            return
        self.regions_checked += len(np.unique(spans.region))
        off = np.flatnonzero((counted != told).any(axis=1))
        if len(off):
            self._suspects = _Suspects(_part(spans, off), counted[off], told[off])

    def _next(self, table: SpanTable) -> Int64s:
        """The regions whose turn it is, ascending. A round has all that are known, and all that a survey finds."""
        if self._at >= len(self._round):
            v = table.vmas
            found = self._memory.survey(v.start, v.end).regions if len(v.start) else NONE
            self._round, self._at = np.union1d(table.known_regions(), found), 0
        count = math.ceil(len(self._round) * self._share)
        part = self._round[self._at : self._at + count]
        self._at += count
        return part

    @staticmethod
    def _settled_spans(table: SpanTable, regions: Int64s, doubtful: Int64s) -> Spans:
        """Those of the regions, without what is in doubt and what KSM may replace at any time."""
        spans = table.spans(np.setdiff1d(regions, doubtful))
        if not len(spans):
            return spans
        restless = table.vmas.marked(RESTLESS | FILLED | SHARING)[table.vmas.index_of(spans.start)]
        return _part(spans, np.flatnonzero(~restless & ~np.isin(spans.region, doubtful)))

    # --- the judgement ---

    def judge(self, table: SpanTable, touched: Int64s, ranges: Iterable[tuple[int, int]]) -> Drift | None:
        """At the next refresh, before anything is read: what of the last sample was wrong.

        touched: regions that any event has named since, or that are in doubt now. ranges: [start, end) that system
        calls have changed since.
        """
        suspects, self._suspects = self._suspects, None
        if suspects is None:
            return None
        spans = suspects.spans
        # The region of a 1 GiB page is its first one, and its events name any.
        touched = np.union1d(touched, table.spans(touched).region)
        off = (rows_of(table, spans) == suspects.counted).all(axis=1) & ~np.isin(spans.region, touched)
        for start, end in ranges:
            off &= (spans.end <= start) | (spans.start >= end)
        if not off.any():
            return None
        at = np.flatnonzero(off)
        difference = suspects.told[at] - suspects.counted[at]
        pages = int((np.abs(difference).sum(axis=1) + np.abs(difference.sum(axis=1))).sum()) // 2
        spans = _part(spans, at)
        return Drift(np.unique(spans.region), pages, spans, suspects.counted[at])

    def forget(self) -> None:
        """Say nothing about the last sample: what happened since is not known."""
        self._suspects = None

    @staticmethod
    def walk_is_wrong(table: SpanTable, drift: Drift) -> bool:
        """After those regions were walked again: whether that gave what was counted before, against pagemap."""
        return bool((rows_of(table, drift.spans) == drift.counts).all(axis=1).any())


def rows_of(table: SpanTable, spans: Spans) -> Int64s:
    """What is counted in each span, zero where nothing is; int64 of shape (len(spans), nodes)."""
    counts = np.zeros((len(spans), table.counts.shape[1]), np.int64)
    if len(table.address):
        at = np.minimum(np.searchsorted(table.address, spans.start), len(table.address) - 1)
        known = table.address[at] == spans.start
        counts[known] = table.counts[at[known]]
    return counts


def _part(spans: Spans, at: npt.NDArray[np.intp]) -> Spans:
    return Spans(spans.start[at], spans.end[at], spans.huge[at], spans.special[at], spans.region[at])
