"""Rows by address that change a few at a time: the VMAs of a target, or its counts by region."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Ledger", "common"]

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Ledger:
    """starts: addresses, uint64, ascending. counts: int64 of shape (rows, columns). things: an object for each row, or
    none at all. All of it is shared with snapshots that were given out, so a change makes new ones.
    """

    starts: Uint64s
    counts: Int64s
    things: tuple[Any, ...] = ()

    @staticmethod
    def empty(columns: int) -> Ledger:
        """Without rows."""
        return Ledger(np.empty(0, np.uint64), np.zeros((0, columns), np.int64))

    def rows(self, starts: Uint64s) -> Rows:
        """The row of each of these addresses, all of which are there."""
        return np.searchsorted(self.starts, starts)

    def updated(self, starts: Uint64s, counts: Int64s, things: Sequence[Any], gone: Uint64s) -> Ledger:
        """With these rows new or in place of old ones, and without `gone`. No address is given twice.

        The very same ledger when that changes nothing.
        """
        if not len(starts) and not len(gone):
            return self
        at = self.rows(starts)
        known = self._holds(at, starts)
        if known.all() and not self._holds(self.rows(gone), gone).any():
            return self._changed(at, counts, things)
        return self._merged(at, known, (starts, counts, things), gone)

    def _holds(self, at: Rows, starts: Uint64s) -> npt.NDArray[np.bool_]:
        inside = at < len(self.starts)
        inside[inside] = self.starts[at[inside]] == starts[inside]
        return inside

    def _changed(self, at: Rows, counts: Int64s, things: Sequence[Any]) -> Ledger:
        """The rows `at` have these values now."""
        new_counts, new_things = self.counts, self.things
        if not np.array_equal(self.counts[at], counts):
            new_counts = self.counts.copy()
            new_counts[at] = counts
        changed = [(row, it) for row, it in zip(at.tolist(), things, strict=False) if self.things[row] is not it]
        if changed:
            listed = list(self.things)
            for row, it in changed:
                listed[row] = it
            new_things = tuple(listed)
        if new_counts is self.counts and new_things is self.things:
            return self
        return Ledger(self.starts, new_counts, new_things)

    def _merged(
        self, at: Rows, known: npt.NDArray[np.bool_], new: tuple[Uint64s, Int64s, Sequence[Any]], gone: Uint64s
    ) -> Ledger:
        keep = np.ones(len(self.starts), np.bool_)
        keep[at[known]] = False
        missing = self.rows(gone)
        keep[missing[self._holds(missing, gone)]] = False
        starts = np.concatenate((self.starts[keep], new[0]))
        counts = np.concatenate((self.counts[keep], new[1]))
        order = np.argsort(starts, kind="stable")
        things: tuple[Any, ...] = ()
        if self.things or new[2]:
            every = [*(self.things[row] for row in np.flatnonzero(keep).tolist()), *new[2]]
            things = tuple([every[row] for row in order.tolist()])
        return Ledger(starts[order], counts[order], things)

    def like(self, other: Ledger) -> Ledger:
        """The same, made of the parts of `other` where they are equal."""
        starts = other.starts if np.array_equal(self.starts, other.starts) else self.starts
        counts = other.counts if np.array_equal(self.counts, other.counts) else self.counts
        same = len(self.things) == len(other.things) and all(map(operator.is_, self.things, other.things))
        things = other.things if same else self.things
        if starts is other.starts and counts is other.counts and things is other.things:
            return other
        return Ledger(starts, counts, things)


def common(these: npt.NDArray[Any], those: npt.NDArray[Any]) -> tuple[Rows, Rows]:
    """Rows of equal values in two ascending arrays."""
    if not len(those):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    at = np.minimum(np.searchsorted(those, these), len(those) - 1)
    same = those[at] == these
    return np.flatnonzero(same), at[same]
