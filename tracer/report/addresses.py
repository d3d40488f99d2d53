"""A scale for addresses on which only what was mapped and held pages has any height. Pure: numpy only.

An address space of 128 TiB holds some GiB in a few places. So the height of a stretch of addresses is the most memory
that it ever held, and gaps have none. Small areas would vanish beside large ones: each gets a little more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.report.steps import Bookings

__all__ = ["Scale", "Shares", "shares"]

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_SMALL_SHARE = 0.2
"""How much of the height may go to making small areas visible."""


@dataclass(frozen=True, slots=True)
class Scale:
    """From addresses to rows, counted from 0 at the lowest address; piecewise linear. rows: how many there are."""

    addresses: Floats
    heights: Floats
    rows: int

    @classmethod
    def of(cls, start: Int64s, end: Int64s, peak: Int64s, rows: int) -> Scale:
        """peak: the most that each stretch of addresses held, in any unit; at least one, and none empty."""
        total = float(peak.sum())
        weight = peak + min(total / rows, _SMALL_SHARE * total / len(peak))
        density = weight / (end - start)
        points, place = np.unique(np.concatenate([start, end]), return_inverse=True)
        change = np.bincount(place.reshape(-1), np.concatenate([density, -density]), len(points))
        slope = np.cumsum(change)[:-1]
        heights = np.concatenate([[0.0], np.cumsum(np.maximum(slope, 0.0) * np.diff(points))])
        return cls(points.astype(np.float64), heights * (rows / heights[-1]), rows)

    def row(self, address: Int64s) -> Floats:
        """Where each address is, 0 to `rows`."""
        rows: Floats = np.interp(address.astype(np.float64), self.addresses, self.heights)
        return rows


@dataclass(frozen=True, slots=True)
class Shares:
    """What lies in each cell of a picture, float64[rows, columns] each, and int64 for `first`.

    total: KiB. first: column of the node that has most of it; share: how much of it, 0 to 1.
    """

    total: Floats
    first: Int64s
    share: Floats


def shares(bookings: Bookings, start: Int64s, end: Int64s, scale: Scale, columns: int) -> Shares:
    """Means over time of what `bookings` say. start, end: the addresses of each booking, int64[n].

    What an area holds is spread evenly over its addresses. Memory: some arrays of rows times columns.
    """
    low, high = scale.row(start), scale.row(end)
    keep = high - low > 1e-9
    bookings, low, high = bookings.of(keep), low[keep], high[keep]
    shape = (scale.rows, columns)
    total, most, first = np.zeros(shape), np.zeros(shape), np.full(shape, -1, np.int64)
    for node in range(bookings.change.shape[1]):
        # Within one column it may have come and gone.
        here = np.flatnonzero((bookings.change[:, node] != 0) | (bookings.within[:, node] != 0))
        if not len(here):
            continue
        change, within = bookings.change[here, node], bookings.within[here, node]
        lying = _spread(low[here], high[here], bookings.column[here], change, within, scale.rows, columns)
        total += lying
        more = lying > most
        first[more], most[more] = node, lying[more]
    # What is left of sums that came out as nothing.
    nothing = total <= 1e-9 * max(1.0, float(total.max(initial=0.0)))
    first[nothing], total[nothing] = -1, 0.0
    return Shares(total, first, np.divide(most, total, out=np.zeros(shape), where=total > 0))


def _spread(
    low: Floats, high: Floats, column: Int64s, change: Int64s, within: Floats, rows: int, columns: int
) -> Floats:
    """Changes from row `low` to `high` and from a column on, as sums of each cell.

    By differences: how much of [low, high) lies below row r differs from row to row only at its two ends, and a change
    differs from column to column only where it happens. So each change is some numbers, however large its area is.
    """
    height = high - low
    wide = columns + 2
    sums = np.zeros((rows + 2) * wide)
    for edge, sign in ((high, 1.0), (low, -1.0)):
        row = np.minimum(edge.astype(np.int64), rows)
        part = edge - row
        for at, weight in ((row, part - 1.0), (row + 1, -part)):
            for when, amount in ((column, within), (column + 1, change - within)):
                sums += np.bincount(at * wide + when, sign * weight * amount / height, len(sums))
    grid = sums.reshape(rows + 2, wide)
    spread: Floats = np.cumsum(np.cumsum(grid, axis=0), axis=1)[:rows, :columns]
    return np.maximum(spread, 0.0)
