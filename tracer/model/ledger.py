"""What every page of some VMAs remembers: on which node it lies, and how it came there. Pure.

`PageLedger` is told which areas these are, what was found in regions, and what happened to their pages since they
were last looked at. It keeps five bytes a page, and sums by area that are brought up to date with the regions that
changed, so that a look costs what changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tracer.model.cause import Cause
from tracer.model.origin import ANYWHERE, Area, How, Origin, Standing, cause_of, same_policy
from tracer.model.rule import allows, interleave_index, rule_nodes
from tracer.model.spans import REGION_SHIFT

__all__ = ["Arrival", "Events", "Key", "PageLedger", "Sums"]

Int16s = npt.NDArray[np.int16]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PAGES = 512  # of 4 KiB in a region
HUGE_ORDER = 9
PORTION = 128  # regions dealt with at a time, so that the arrays stay in the cache
ABSENT = -1
AROUND = 16  # pages that a fault on a file maps around it: fault_around_bytes, mm/memory.c
FILE, HUGE, CAME_HUGE = 1, 2, 4
"""Flags of a page: of a file; a huge page maps it; it was allocated as part of one, and may have been split since."""
MOST_ORIGINS = 1 << 16

NONE = np.empty(0, np.int64)


class Key(NamedTuple):
    """Of misplaced pages: node where they lie, node where they should (ANYWHERE: several), cause, reason or -1."""

    node: int
    expected: int
    cause: int
    reason: int


class Arrival(NamedTuple):
    """Pages that faults of one thread put into a region. pages: bool, shape (512,). origins: one, or, where the policy
    changed meanwhile and nothing tells which was first, two: the one under the present policy, and the other. huge:
    they came as one huge page."""

    region: int
    pages: Bools
    origins: tuple[Origin, ...]
    huge: bool = False


@dataclass(frozen=True, slots=True)
class Events:
    """What happened since the last look. arrivals: in no order. moves: by (region, node left, node reached) the reasons
    with how many pages each, as far as flows were followed. found: the origin of pages of an area that were there
    without any event when a region was looked at for the first time; appeared: in one that was known. merged, large: of
    page addresses, whether KSM holds the page, and whether it is part of a large folio.
    """

    arrivals: Sequence[Arrival] = ()
    moves: Mapping[tuple[int, int, int], Counter[int]] = field(default_factory=dict)
    found: Callable[[Area], Origin] = lambda area: Origin(How.FOUND, area.policy, area.own)
    appeared: Callable[[Area], Origin] = lambda area: Origin(How.APPEARED, area.policy, area.own)
    merged: Callable[[Int64s], Bools] = lambda addresses: np.zeros(len(addresses), bool)
    large: Callable[[Int64s], Bools] = lambda addresses: np.zeros(len(addresses), bool)


@dataclass(slots=True)
class Sums:
    """Of one area. present, file: pages by node id, int64 of shape (node ids,), file: those of the page cache. rule:
    pages that the policy gives to each node. huge: pages that came as huge pages, squares: sum of the squares of the
    sizes in which pages came. misplaced: pages by `Key`."""

    present: Int64s
    file: Int64s
    rule: Int64s
    huge: int = 0
    squares: int = 0
    misplaced: Counter[Key] = field(default_factory=Counter)

    @classmethod
    def zero(cls, nodes: int) -> Sums:
        """Of nothing."""
        return cls(np.zeros(nodes, np.int64), np.zeros(nodes, np.int64), np.zeros(nodes, np.int64))

    def add(self, other: Sums, sign: int) -> None:
        """Add what a region holds of the area, or (sign -1) take it away."""
        self.present += sign * other.present
        self.file += sign * other.file
        self.rule += sign * other.rule
        self.huge += sign * other.huge
        self.squares += sign * other.squares
        for key, pages in other.misplaced.items():
            left = self.misplaced[key] + sign * pages
            if left:
                self.misplaced[key] = left
            else:
                del self.misplaced[key]


@dataclass(frozen=True, slots=True)
class _Part:
    """Some regions, page by page: arrays of shape (len(regions), 512). node, flags, origin: as kept. area: index, -1
    for none. expected: by the policy in force; wrong: misplaced; both are filled in by who judges."""

    regions: Int64s
    addresses: Int64s
    node: Int16s
    flags: npt.NDArray[np.uint8]
    origin: npt.NDArray[np.uint16]
    area: npt.NDArray[np.int32]
    present: Bools
    expected: Int16s
    wrong: Bools


class PageLedger:
    """nodes: number of node ids. weights: of weighted interleave now, by node id; to be set before each look."""

    def __init__(self, nodes: int) -> None:
        self.weights: dict[int, int] = {}
        self._nodes = nodes
        self._rows: dict[int, int] = {}
        self._node = np.empty((0, PAGES), np.int16)
        self._origin = np.empty((0, PAGES), np.uint16)
        self._flags = np.empty((0, PAGES), np.uint8)
        self._free: list[int] = []
        self._origins: list[Origin] = []
        self._numbers: dict[Origin, int] = {}
        self._areas: list[Area] = []
        self._starts = NONE
        self._ends = NONE
        self._pieces: dict[int, dict[int, Sums]] = {}
        self.sums: dict[int, Sums] = {}
        self._stale: set[int] = set()
        self._fresh: set[int] = set()
        self._judged: dict[int, int] = {}
        self._standing: Standing | None = None

    # --- areas ---

    def cover(self, areas: Sequence[Area]) -> None:
        """These are the areas now, in address order; the same object as before is one that has not changed. Regions in
        none of them are forgotten."""
        before, kept = self._areas, {id(area) for area in self._areas}
        present = {id(area) for area in areas}
        changed = [area for area in areas if id(area) not in kept] + [
            area for area in before if id(area) not in present
        ]
        if not changed:
            return
        self._areas = list(areas)
        self._starts = np.array([area.start for area in areas], np.int64)
        self._ends = np.array([area.end for area in areas], np.int64)
        for area in changed:
            self._stale |= self._known_in(area.start, area.end)
        for region in [region for region in self._stale if not self._covered(region)]:
            self._forget(region)
        starts = {area.start for area in self._areas}
        for start in {area.start for area in before} - starts:
            self.sums.pop(start, None)

    def _known_in(self, start: int, end: int) -> set[int]:
        first, last = start >> REGION_SHIFT, (end - 1) >> REGION_SHIFT
        if last - first > len(self._rows):
            return {region for region in self._rows if first <= region <= last}
        return {region for region in range(first, last + 1) if region in self._rows}

    def _covered(self, region: int) -> bool:
        at = int(np.searchsorted(self._ends, region << REGION_SHIFT, "right"))
        return at < len(self._starts) and int(self._starts[at]) < (region + 1) << REGION_SHIFT

    def _forget(self, region: int) -> None:
        self._take_away(region)
        self._stale.discard(region)
        row = self._rows.pop(region)
        self._node[row] = ABSENT
        self._free.append(row)

    def covered(self, regions: Int64s) -> Int64s:
        """Those of the regions (ascending) that lie in an area."""
        at = np.searchsorted(self._ends, regions << REGION_SHIFT, "right")
        starts = np.append(self._starts, np.iinfo(np.int64).max)
        return regions[starts[at] < (regions + 1) << REGION_SHIFT]

    def unknown(self, regions: Int64s) -> Int64s:
        """Those that were never looked at."""
        return np.array([region for region in regions.tolist() if region not in self._rows], np.int64)

    @property
    def regions(self) -> Int64s:
        """All that were looked at, ascending."""
        return np.array(sorted(self._rows), np.int64)

    # --- pages ---

    def take(self, regions: Int64s, nodes: Int16s, file: Bools, huge: Bools, events: Events) -> None:
        """What is there now in regions (ascending), as `tracer.kernel.pages` reads it: node id of each page or -1,
        int16 of shape (len(regions), 512); whether it is of a file, same shape; whether a huge page maps the region.
        """
        rows = np.array([self._row(region) for region in regions.tolist()], np.intp)
        arrivals: dict[int, list[Arrival]] = {}
        for arrival in events.arrivals:
            arrivals.setdefault(arrival.region, []).append(arrival)
        for at in range(0, len(regions), PORTION):
            part = slice(at, at + PORTION)
            flags = file[part] * np.uint8(FILE) | huge[part, None] * np.uint8(HUGE)
            self._take(regions[part], rows[part], nodes[part], flags, arrivals, events)
        self._stale |= set(regions.tolist())

    def _row(self, region: int) -> int:
        """Where a region is kept."""
        row = self._rows.get(region)
        if row is None:
            if not self._free:
                size = len(self._node)
                more = max(64, size // 2)
                self._node = np.concatenate((self._node, np.full((more, PAGES), ABSENT, np.int16)))
                self._origin = np.concatenate((self._origin, np.zeros((more, PAGES), np.uint16)))
                self._flags = np.concatenate((self._flags, np.zeros((more, PAGES), np.uint8)))
                self._free = list(range(size, size + more))
            row = self._rows[region] = self._free.pop()
            self._node[row] = ABSENT
            self._pieces[region] = {}
            self._fresh.add(region)
        return row

    def _number(self, origin: Origin) -> int:
        number = self._numbers.get(origin)
        if number is None:
            if len(self._origins) >= MOST_ORIGINS:
                return self._number(Origin(How.APPEARED))
            if len(self._origins) == MOST_ORIGINS - 64:
                self._number(Origin(How.APPEARED))
            number = self._numbers[origin] = len(self._origins)
            self._origins.append(origin)
        return number

    def _take(
        self,
        regions: Int64s,
        rows: npt.NDArray[np.intp],
        nodes: Int16s,
        flags: npt.NDArray[np.uint8],
        arrivals: Mapping[int, list[Arrival]],
        events: Events,
    ) -> None:
        old_node, origin = self._node[rows], self._origin[rows].astype(np.int64)
        area = self._area_of(regions)
        present = (nodes != ABSENT) & (area >= 0)
        fresh = np.array([region in self._fresh for region in regions.tolist()], bool)
        self._fresh.difference_update(regions.tolist())
        came = self._arrived(regions, nodes, flags, area, arrivals)
        kept = present & (old_node == nodes) & (came < 0)
        flags |= np.where(kept, self._flags[rows] & CAME_HUGE, 0).astype(np.uint8)
        around = self._around(regions, came, present & ~kept & (old_node == ABSENT), flags, events)
        came = np.where(came < 0, around, came)
        moved = present & ~kept & (came < 0) & (old_node != ABSENT)
        origin = np.where(came >= 0, came, origin)
        silent = present & (came < 0) & (old_node == ABSENT)
        for region in np.flatnonzero(silent.any(axis=1)).tolist():
            self._appeared(region, silent[region], area[region], bool(fresh[region]), origin, events)
        for region in np.flatnonzero(moved.any(axis=1)).tolist():
            self._moved(int(regions[region]), region, moved[region], old_node, nodes, flags, area, origin, events)
        was_small = (self._flags[rows] & HUGE == 0) & (old_node != ABSENT) | (came >= 0)
        collapsed = (flags & HUGE).any(axis=1) & ~(flags & CAME_HUGE).any(axis=1) & was_small.any(axis=1)
        for region in np.flatnonzero(collapsed).tolist():
            self._collapsed(present[region], area[region], origin[region])
        self._node[rows] = np.where(present, nodes, np.int16(ABSENT))
        self._origin[rows] = origin.astype(np.uint16)
        self._flags[rows] = flags

    def _area_of(self, regions: Int64s) -> npt.NDArray[np.int32]:
        """Index of the area of each page, -1 for none; shape (len(regions), 512)."""
        area = np.full((len(regions), PAGES), -1, np.int32)
        low = regions << REGION_SHIFT
        first = np.searchsorted(self._ends, low, "right")
        last = np.searchsorted(self._starts, low + (1 << REGION_SHIFT), "left")
        for row, (begin, stop) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
            for at in range(begin, stop):
                left = max(0, (int(self._starts[at]) - int(low[row])) >> 12)
                right = min(PAGES, (int(self._ends[at]) - int(low[row])) >> 12)
                area[row, left:right] = at
        return area

    def _arrived(
        self,
        regions: Int64s,
        nodes: Int16s,
        flags: npt.NDArray[np.uint8],
        area: npt.NDArray[np.int32],
        arrivals: Mapping[int, list[Arrival]],
    ) -> Int64s:
        """Origin number of each page that a fault put there, -1 for the others."""
        came = np.full(nodes.shape, -1, np.int64)
        for row, region in enumerate(regions.tolist()):
            for arrival in arrivals.get(region, ()):
                numbers = [self._number(origin) for origin in arrival.origins]
                pages = arrival.pages & (nodes[row] != ABSENT) & (area[row] >= 0)
                flags[row, pages] |= CAME_HUGE if arrival.huge else 0
                if len(numbers) == 1 or not pages.any():
                    came[row, pages] = numbers[-1]
                    continue
                at = np.flatnonzero(pages)
                of = self._areas[int(area[row, at[0]])]
                addresses = (region << REGION_SHIFT) + (at << 12)
                fits = self._rule(of, addresses, flags[row, at], self.weights) == nodes[row, at]
                came[row, at] = np.where(fits, numbers[0], numbers[1])
        return came

    def _around(
        self, regions: Int64s, came: Int64s, bare: Bools, flags: npt.NDArray[np.uint8], events: Events
    ) -> Int64s:
        """Origins of pages that came with one that faulted: mapped around it from a file, or in one large folio."""
        around = np.full(came.shape, -1, np.int64)
        rows = np.flatnonzero(bare.any(axis=1) & (came >= 0).any(axis=1))
        if not len(rows):
            return around
        wanted = bare[rows]
        addresses = (regions[rows, None] << REGION_SHIFT) + (np.arange(PAGES) << 12)
        anonymous = wanted & ((flags[rows] & FILE) == 0)
        wanted[anonymous] = events.large(addresses[anonymous])
        known = came[rows]
        for order in range(1, HUGE_ORDER + 1):
            width = 1 << order
            best = known.reshape(len(rows), PAGES // width, width).max(axis=2).repeat(width, axis=1)
            use = wanted & (known < 0) & (best >= 0)
            if width > AROUND:
                use &= (flags[rows] & FILE) == 0
            known = np.where(use, best, known)
        around[rows] = np.where(wanted, known, -1)
        return around

    def _appeared(
        self,
        row: int,
        silent: Bools,
        area: npt.NDArray[np.int32],
        fresh: bool,
        origin: Int64s,
        events: Events,
    ) -> None:
        """No event tells of these pages."""
        for at in np.unique(area[silent]).tolist():
            of = self._areas[at]
            what = events.found(of) if fresh else events.appeared(of)
            origin[row, silent & (area == at)] = self._number(what)

    def _collapsed(self, present: Bools, area: npt.NDArray[np.int32], origin: Int64s) -> None:
        """Small pages were there, or had come, and no fault brought the huge page: also those that lie where they did,
        and those that fill what was empty, are parts of a page that was allocated for the collapse."""
        for at in np.unique(area[present]).tolist():
            of = self._areas[at]
            if of.page_pages == 1:  # a page of hugetlb is one from the start
                origin[present & (area == at)] = self._number(Origin(How.COLLAPSED, of.policy, of.own))

    def _moved(
        self,
        region: int,
        row: int,
        moved: Bools,
        before: Int16s,
        nodes: Int16s,
        flags: npt.NDArray[np.uint8],
        area: npt.NDArray[np.int32],
        origin: Int64s,
        events: Events,
    ) -> None:
        """These lie on another node than they did, and no fault says why."""
        at = np.flatnonzero(moved)
        addresses = (region << REGION_SHIFT) + (at << 12)
        mergeable = np.array([self._areas[index].mergeable for index in area[row, at].tolist()], bool)
        merged = np.zeros(len(at), bool)
        if mergeable.any():
            merged[mergeable] = events.merged(addresses[mergeable])
        for place, page in enumerate(at.tolist()):
            of = self._areas[int(area[row, page])]
            how, reason = How.APPEARED, -1
            reasons = events.moves.get((region, int(before[row, page]), int(nodes[row, page])))
            if merged[place]:
                how = How.MERGED
            elif reasons:
                how, reason = How.MOVED, _take_one(reasons)
            origin[row, page] = self._number(Origin(how, of.policy, of.own, reason=reason))

    # --- judging ---

    def judge(self, standing: Standing) -> None:
        """Bring `sums` up to date: what changed since, or everything where the standing or the weights have changed."""
        if standing != self._standing or self.weights != self._judged:
            self._standing, self._judged = standing, dict(self.weights)
            self._stale |= set(self._rows)
        stale = np.array(sorted(region for region in self._stale if region in self._rows), np.int64)
        self._stale.clear()
        for at in range(0, len(stale), PORTION):
            part = stale[at : at + PORTION]
            for region in part.tolist():
                self._take_away(region)
            self._judge(part)

    def _take_away(self, region: int) -> None:
        for start, piece in self._pieces.get(region, {}).items():
            if start in self.sums:
                self.sums[start].add(piece, -1)
        self._pieces[region] = {}

    def _judge(self, regions: Int64s) -> None:
        part = self._part(regions)
        for index in np.unique(part.area[part.present]).tolist():
            of = self._areas[index]
            at = part.present & (part.area == index)
            # What reads a file decides on the nodes of its pages, by turn: only a VMA's policy is held against them.
            ruled = at & ((part.flags & FILE) == 0) if of.file and not of.own else at
            part.expected[ruled] = self._rule(of, part.addresses[ruled], part.flags[ruled], self.weights)
            allowed = np.array([allows(of.policy, node) for node in range(self._nodes)], bool)
            elsewhere = np.where(
                part.expected != ANYWHERE, part.expected != part.node, ~allowed[np.maximum(part.node, 0)]
            )
            part.wrong[at] = elsewhere[at]
        self._sum_up(part)
        self._blame(part)

    def _part(self, regions: Int64s) -> _Part:
        rows = np.array([self._rows[region] for region in regions.tolist()], np.intp)
        node, area = self._node[rows], self._area_of(regions)
        return _Part(
            regions,
            (regions[:, None] << REGION_SHIFT) + (np.arange(PAGES) << 12),
            node,
            self._flags[rows],
            self._origin[rows],
            area,
            (node != ABSENT) & (area >= 0),
            np.full(node.shape, ANYWHERE, np.int16),
            np.zeros(node.shape, bool),
        )

    @staticmethod
    def _rule(area: Area, addresses: Int64s, flags: npt.NDArray[np.uint8], weights: Mapping[int, int]) -> Int16s:
        """The node that the policy of an area gives each page."""
        order = area.page_pages.bit_length() - 1
        huge = (flags & (HUGE | CAME_HUGE)) != 0
        if area.file:  # huge pages of the page cache are made by readahead, and not for this mapping
            huge &= (flags & FILE) == 0
        orders = np.where(huge, HUGE_ORDER, 0) if order == 0 else np.full(len(addresses), order)
        return rule_nodes(area.policy, interleave_index(area.backing, addresses >> 12, orders), weights)

    def _sum_up(self, part: _Part) -> None:
        """Present pages, those of files, rule and sizes, by region and area."""
        for row, region in enumerate(part.regions.tolist()):
            for index in np.unique(part.area[row][part.present[row]]).tolist():
                of = self._areas[index]
                at = part.present[row] & (part.area[row] == index)
                piece = self._piece(region, of.start)
                piece.present += np.bincount(part.node[row, at], minlength=self._nodes)
                of_file = at & ((part.flags[row] & FILE) != 0)
                if of.file:
                    piece.file += np.bincount(part.node[row, of_file], minlength=self._nodes)
                given = part.expected[row, at]
                piece.rule += np.bincount(given[given >= 0], minlength=self._nodes)
                pages = int(at.sum())
                huge = pages if of.page_pages == 1 and bool(part.flags[row, 0] & HUGE) else 0
                piece.huge += huge
                piece.squares += huge * PAGES + pages - huge
                self._total(of.start).add(piece, 1)

    def _piece(self, region: int, start: int) -> Sums:
        return self._pieces[region].setdefault(start, Sums.zero(self._nodes))

    def _total(self, start: int) -> Sums:
        return self.sums.setdefault(start, Sums.zero(self._nodes))

    def _blame(self, part: _Part) -> None:
        """Give each misplaced page its cause."""
        at, page = np.nonzero(part.wrong)
        if not len(at):
            return
        fits = self._fits_old_weights(part)
        cached = part.flags & FILE
        columns: list[npt.NDArray[Any]] = [part.area, part.origin, part.node, part.expected, cached, fits]
        groups, counts = _groups((at, *(column[at, page] for column in columns)))
        for group, pages in zip(groups.tolist(), counts.tolist(), strict=True):
            row, index, number, where, should, of_file, fitting = group
            of = self._areas[index]
            key = self._key(of, self._origins[number], where, should, bool(of_file), bool(fitting))
            blamed = Sums.zero(self._nodes)
            blamed.misplaced[key] += pages
            self._piece(int(part.regions[row]), of.start).add(blamed, 1)
            self._total(of.start).add(blamed, 1)

    def _key(self, area: Area, origin: Origin, node: int, expected: int, cached: bool, fits: bool) -> Key:
        assert self._standing is not None
        if cached and area.file:
            return Key(node, expected, Cause.PAGE_CACHE, -1)
        cause = cause_of(origin, area, expected, fits, self._standing)
        return Key(node, expected, cause, origin.reason if cause is Cause.MOVED else -1)

    def _fits_old_weights(self, part: _Part) -> Bools:
        """Whether a misplaced page lies where the weights of the time of its allocation put it."""
        fits = np.zeros(part.wrong.shape, bool)
        for number in np.unique(part.origin[part.wrong]).tolist():
            it = self._origins[number]
            if not it.weights or dict(it.weights) == self.weights:
                continue
            mine = part.wrong & (part.origin == number)
            for index in np.unique(part.area[mine]).tolist():
                of = self._areas[index]
                if same_policy(it.policy, of.policy):
                    at = mine & (part.area == index)
                    rule = self._rule(of, part.addresses[at], part.flags[at], dict(it.weights))
                    fits[at] = rule == part.node[at]
        return fits


def _groups(columns: Sequence[npt.NDArray[Any]]) -> tuple[Int64s, Int64s]:
    """Different rows of the columns, and how often each is there. One number a row is sorted, which takes less than
    half as long as sorting rows (numpy.unique of an axis)."""
    key = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        different, place = np.unique(column, return_inverse=True)
        key = key * len(different) + place
    _, first, counts = np.unique(key, return_index=True, return_counts=True)
    return np.column_stack([column[first].astype(np.int64) for column in columns]), counts


def _take_one(reasons: Counter[int]) -> int:
    """One of the reasons, used up page by page; the last one for what is left over."""
    reason = next(iter(reasons))
    if reasons[reason] > 1:
        reasons[reason] -= 1
    elif len(reasons) > 1:
        del reasons[reason]
    return reason
