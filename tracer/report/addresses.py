"""A scale for addresses on which only what was mapped and held pages has any height. Pure: numpy only.

An address space of 128 TiB holds some GiB in a few places. So the height of a stretch of addresses is the most memory
that it ever held, and gaps have none. Small areas would vanish beside large ones: each gets a little more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.report.steps import Bookings

__all__ = ["Bands", "Cells", "Scale", "cells"]

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_SMALL_SHARE = 0.2
"""How much of the height may go to making small areas visible."""
_STRIPE = 3
"""Rows that a stripe has."""


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
class Cells:
    """A picture of `rows` and `columns`. total: KiB in each cell, float64. node: the column of the node that it shows,
    int64, -1 where nothing is."""

    total: Floats
    node: Int64s


def cells(bookings: Bookings, start: Int64s, end: Int64s, scale: Scale, bands: Bands, columns: int) -> Cells:
    """Means over time of what `bookings` say. start, end: the addresses of each booking, int64[n].

    What an area holds is spread evenly over its addresses. Where several nodes have a share in it, its rows take
    turns, so that each node has as much of the picture as it has of the area; a row that is alone shows the majority.
    """
    low, high = scale.row(start), scale.row(end)
    keep = high - low > 1e-9
    bookings, low, high = bookings.of(keep), low[keep], high[keep]
    shape = (scale.rows, columns)
    lying: dict[int, npt.NDArray[np.float32]] = {}
    for node in range(bookings.change.shape[1]):
        # Within one column it may have come and gone.
        here = np.flatnonzero((bookings.change[:, node] != 0) | (bookings.within[:, node] != 0))
        if len(here):
            change, within = bookings.change[here, node], bookings.within[here, node]
            kib = _spread(low[here], high[here], bookings.column[here], change, within, scale.rows, columns)
            lying[node] = kib.astype(np.float32)
    total = np.zeros(shape)
    for kib32 in lying.values():
        total += kib32
    # What is left of sums that came out as nothing.
    total[total <= 1e-7 * max(1.0, float(total.max(initial=0.0)))] = 0.0
    shown = _chosen(lying, total, bands)
    shown[total == 0] = -1
    return Cells(total, shown)


def _chosen(lying: dict[int, npt.NDArray[np.float32]], total: Floats, bands: Bands) -> Int64s:
    """The node whose part of the cell's memory, all laid in a row by node, is at the place of the cell's turn."""
    turn, most = bands.turn[:, None] * total, np.zeros(total.shape)
    below, by_turn, majority = np.zeros(total.shape), *np.full((2, *total.shape), -1, np.int64)
    for node, kib in lying.items():
        by_turn[(below <= turn) & (turn < below + kib)] = node
        more = kib > most
        majority[more], most[more] = node, kib[more]
        below += kib
    chosen: Int64s = np.where((bands.alone[:, None]) | (by_turn < 0), majority, by_turn)
    return chosen


@dataclass(frozen=True, slots=True)
class Bands:
    """How the rows of one area take turns. turn: of each row, 0 to 1. alone: whether it has none to share with."""

    turn: Floats
    alone: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, borders: Floats, rows: int, nodes: int) -> Bands:
        """borders: where areas begin and end, in rows. nodes: how many may have a share."""
        turn, alone = np.zeros(rows), np.ones(rows, np.bool_)
        edges = np.unique(np.clip(np.concatenate([borders, [0.0, rows]]), 0, rows))
        for low, high in zip(np.ceil(edges[:-1] - 1e-6), np.floor(edges[1:] + 1e-6), strict=True):
            count = int(high - low)
            if count < 2:
                continue
            # Stripes of some rows are seen better than single ones, if there are enough for all nodes.
            thick = max(1, min(_STRIPE, count // (2 * max(nodes, 2))))
            stripes = -(-count // thick)
            turns = (np.argsort(np.argsort(_reversed_bits(stripes))) + 0.5) / stripes
            turn[int(low) : int(high)] = np.repeat(turns, thick)[:count]
            alone[int(low) : int(high)] = False
        return cls(turn, alone)


def _reversed_bits(count: int) -> Int64s:
    """0 to `count` - 1 with their bits reversed: what follows one another is far apart."""
    numbers, reverse = np.arange(count, dtype=np.int64), np.zeros(count, np.int64)
    for _ in range(max(1, (count - 1).bit_length())):
        reverse = (reverse << 1) | (numbers & 1)
        numbers >>= 1
    return reverse


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
