"""Counts that stay as they are until they change, summed over equal stretches of time. Pure: numpy only.

A recording says what changed and when. A day of it has a million changes and a picture some hundred columns, so every
change is booked at once in the column where it happened: what is kept is bounded by what changes, not by how long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["ENDED", "UNMAPPED", "Bookings", "Columns", "Moment", "StepRows", "Steps"]

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

UNMAPPED, ENDED = 1, 2
"""Why there is nothing from a row on: its addresses were unmapped, or its whole process is no more."""

_PAGE_BITS = 12
_PROCESS_SHIFT = 44
"""User addresses have at most 56 bits, so pages 44; above them is the index of the process."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Equal stretches of time, from `start_us` on. Times are int64 microseconds since 1970."""

    start_us: int
    end_us: int
    count: int

    @property
    def width_us(self) -> float:
        """Of one of them."""
        return (self.end_us - self.start_us) / self.count

    def edges(self) -> npt.NDArray[np.datetime64]:
        """datetime64[us], shape (count + 1,)."""
        edges = np.linspace(self.start_us, self.end_us, self.count + 1)
        return edges.astype(np.int64).astype("datetime64[us]")

    def place(self, times_us: Int64s) -> tuple[Int64s, Floats]:
        """The column of each time, and which part of that column comes after it (0 to 1)."""
        position = (times_us - self.start_us) / self.width_us
        column = np.clip(position.astype(np.int64), 0, self.count - 1)
        return column, np.clip(column + 1 - position, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Bookings:
    """Changes, added up where what, where and when are the same. n rows.

    key: what, int64[n]. end: up to which address it reached then, int64[n]. column: when, int64[n].
    change: int64[n, nodes]. within: the change times the part of its column that it was in force, float64[n, nodes].
    """

    key: Int64s
    end: Int64s
    column: Int64s
    change: Int64s
    within: Floats

    @classmethod
    def empty(cls, nodes: int) -> Bookings:
        none = np.zeros(0, np.int64)
        return cls(none, none, none, np.zeros((0, nodes), np.int64), np.zeros((0, nodes)))

    def __len__(self) -> int:
        return len(self.key)

    def of(self, mask: npt.NDArray[np.bool_]) -> Bookings:
        """Those that the mask says."""
        return Bookings(self.key[mask], self.end[mask], self.column[mask], self.change[mask], self.within[mask])

    def added_up(self) -> Bookings:
        """One row for each key, end and column."""
        if not len(self):
            return self
        order = np.lexsort((self.column, self.end, self.key))
        key, end, column = self.key[order], self.end[order], self.column[order]
        new = np.ones(len(order), np.bool_)
        new[1:] = (key[1:] != key[:-1]) | (end[1:] != end[:-1]) | (column[1:] != column[:-1])
        first = np.flatnonzero(new)
        change = np.add.reduceat(self.change[order], first, axis=0)
        within = np.add.reduceat(self.within[order], first, axis=0)
        return Bookings(key[first], end[first], column[first], change, within)

    def means(self, group: Int64s, groups: int, columns: int) -> Floats:
        """Mean over each column of the sum of each group, float64[groups, columns, nodes].

        group: of each row, int64[n].
        """
        nodes = self.change.shape[1]
        sums = np.zeros((groups * (columns + 1), nodes))
        place = group * (columns + 1) + self.column
        for node in range(nodes):
            change, within = self.change[:, node].astype(np.float64), self.within[:, node]
            sums[:, node] = np.bincount(place, within, len(sums))
            sums[:, node] += np.bincount(place + 1, change - within, len(sums))
        grid = sums.reshape(groups, columns + 1, nodes)[:, :columns]
        return np.cumsum(grid, axis=1)


def joined(parts: Sequence[Bookings], nodes: int) -> Bookings:
    """All of them, added up."""
    parts = [Bookings.empty(nodes), *parts]
    columns = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("key", "end", "column", "change", "within")
    )
    return Bookings(*columns).added_up()


_MOST_PARTS = 64


class Steps:
    """The last counts of everything that has a process and an address, and the bookings of how they changed.

    Arrays that grow: `start`, `end` (the highest it had), `process`: int64[keys]; `first`, `last` (as last seen, before
    it went), `least`, `most`: int64[keys, nodes]; `peak`: int64[keys], the most that it had on all nodes together;
    `came`, `went`: int64[keys], ordinals of its first row and of that which took it away, or -1; `why`: int64[keys],
    `UNMAPPED` or `ENDED`, 0 where it is there; `holes`: int64[keys], 1 where it was ever unmapped. Only the first
    `len(self)` of them mean anything. Keys count from 0 in the order in which they were met.
    """

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._key_of: dict[int, int] = {}
        self._parts: list[Bookings] = []
        self._room = 0
        self._now = self._end_now = np.zeros(0, np.int64)
        self.start = self.end = self.process = np.zeros(0, np.int64)
        self.went = self.why = self.holes = self.peak = self.came = np.zeros(0, np.int64)
        self.first = self.last = self.least = self.most = np.zeros((0, nodes), np.int64)
        self._grow(1024)

    def __len__(self) -> int:
        return len(self._key_of)

    def _grow(self, room: int) -> None:
        more = room - self._room
        for name in ("start", "end", "process", "went", "why", "holes", "peak", "came", "_end_now"):
            old = getattr(self, name)
            setattr(self, name, np.concatenate([old, np.full(more, -1 if name == "went" else 0, np.int64)]))
        for name in ("first", "last", "least", "most", "_now"):
            old = getattr(self, name).reshape(-1, self._nodes)
            setattr(self, name, np.concatenate([old, np.zeros((more, self._nodes), np.int64)]))
        self._room = room

    def keys(self, process: Int64s, start: Int64s, ordinal: Int64s) -> Int64s:
        """The key of each row; those that are new begin with this row. process: index, from 0 on."""
        slots = (process << _PROCESS_SHIFT) | (start >> _PAGE_BITS)
        unique, where, inverse = np.unique(slots, return_index=True, return_inverse=True)
        known = np.empty(len(unique), np.int64)
        for place, slot in enumerate(unique.tolist()):
            key = self._key_of.get(slot)
            if key is None:
                key = self._new(slot, int(start[where[place]]), int(process[where[place]]), int(ordinal[where[place]]))
            known[place] = key
        keys: Int64s = known[inverse.reshape(-1)]
        return keys

    def _new(self, slot: int, start: int, process: int, ordinal: int) -> int:
        key = self._key_of[slot] = len(self._key_of)
        if key == self._room:
            self._grow(2 * self._room)
        self.start[key], self.process[key], self.came[key] = start, process, ordinal
        return key

    def present(self, process: int | None = None) -> Int64s:
        """Keys of what is there now, in one process or in all of them."""
        there = self.went[: len(self)] < 0
        if process is not None:
            there &= self.process[: len(self)] == process
        keys: Int64s = np.flatnonzero(there)
        return keys

    def close(self, keys: Int64s, moment: Moment, why: int, sums: Int64s | None = None) -> None:
        """These are no more, since then. why: `UNMAPPED` or `ENDED`."""
        count = len(keys)
        times = (moment.ordinal, moment.sample, moment.column, why)
        ordinal, sample, column, gone = (np.full(count, value, np.int64) for value in times)
        part, none = np.full(count, moment.part), np.zeros((count, self._nodes), np.int64)
        self.take(StepRows(keys, ordinal, sample, self._end_now[keys], column, part, none, gone), sums)

    def take(self, rows: StepRows, sums: Int64s | None = None) -> None:
        """Rows of the recording, in any order; of one key they are taken by ordinal.

        sums: int64[samples, nodes]: what changed is added in the sample when it did.
        """
        if not len(rows.key):
            return
        order = np.lexsort((rows.ordinal, rows.key))
        rows = rows.ordered(order)
        new = np.ones(len(order), np.bool_)
        new[1:] = rows.key[1:] != rows.key[:-1]
        begin = np.flatnonzero(new)
        keys = rows.key[begin]
        self._book(rows, begin, keys, sums)
        self._remember(rows, begin, keys)

    def _book(self, rows: StepRows, begin: Int64s, keys: Int64s, sums: Int64s | None) -> None:
        before, end_before = np.empty_like(rows.pages), np.empty_like(rows.end)
        before[1:], end_before[1:] = rows.pages[:-1], rows.end[:-1]
        before[begin], end_before[begin] = self._now[keys], self._end_now[keys]
        moved = rows.end != end_before
        changed = (rows.pages != before).any(axis=1)
        if sums is not None:
            np.add.at(sums, rows.sample[changed], (rows.pages - before)[changed])
        # Where the end moved, everything goes from the old stretch of addresses and comes into the new one.
        stay, go = changed & ~moved, moved & before.any(axis=1)
        come = moved & rows.pages.any(axis=1)
        pieces = ((stay, rows.end, rows.pages - before), (go, end_before, -before), (come, rows.end, rows.pages))
        for mask, end, change in pieces:
            if mask.any():
                part = change[mask] * rows.part[mask, None]
                booked = Bookings(rows.key[mask], end[mask], rows.column[mask], change[mask], part)
                self._parts.append(booked.added_up())
        if len(self._parts) > _MOST_PARTS:
            self._parts = [joined(self._parts, self._nodes)]

    def _remember(self, rows: StepRows, begin: Int64s, keys: Int64s) -> None:
        final = np.append(begin[1:], len(rows.key)) - 1
        self._now[keys], self._end_now[keys] = rows.pages[final], rows.end[final]
        self.why[keys] = rows.gone[final]
        self.went[keys] = np.where(rows.gone[final] > 0, rows.ordinal[final], -1)
        self.end[keys] = np.maximum(self.end[keys], np.maximum.reduceat(rows.end, begin))
        self.peak[keys] = np.maximum(self.peak[keys], np.maximum.reduceat(rows.pages.sum(axis=1), begin))
        self.holes[rows.key[rows.gone == UNMAPPED]] = 1
        seen = rows.ordered(np.flatnonzero(rows.gone == 0))
        if not len(seen.key):
            return
        new = np.ones(len(seen.key), np.bool_)
        new[1:] = seen.key[1:] != seen.key[:-1]
        begin = np.flatnonzero(new)
        keys, final = seen.key[begin], np.append(begin[1:], len(seen.key)) - 1
        least, most = np.minimum.reduceat(seen.pages, begin), np.maximum.reduceat(seen.pages, begin)
        fresh = self.came[keys] == seen.ordinal[begin]
        self.first[keys[fresh]] = seen.pages[begin[fresh]]
        self.least[keys] = np.where(fresh[:, None], least, np.minimum(least, self.least[keys]))
        self.most[keys] = np.where(fresh[:, None], most, np.maximum(most, self.most[keys]))
        self.last[keys] = seen.pages[final]

    def bookings(self) -> Bookings:
        """All changes so far."""
        return joined(self._parts, self._nodes)


@dataclass(frozen=True, slots=True)
class Moment:
    """Of one row of the recording, as in `StepRows`."""

    ordinal: int
    sample: int
    column: int
    part: float


@dataclass(frozen=True, slots=True)
class StepRows:
    """Rows for `Steps.take`. int64[n] each, but for pages: int64[n, nodes] and part: float64[n].

    ordinal: their order in the recording. sample: index. column, part: as `Columns.place` says. gone: `UNMAPPED` or
    `ENDED` where there is nothing from here on, else 0.
    """

    key: Int64s
    ordinal: Int64s
    sample: Int64s
    end: Int64s
    column: Int64s
    part: Floats
    pages: Int64s
    gone: Int64s

    def ordered(self, order: Int64s) -> StepRows:
        """Those rows, in that order."""
        first = (self.key[order], self.ordinal[order], self.sample[order], self.end[order])
        return StepRows(*first, self.column[order], self.part[order], self.pages[order], self.gone[order])
