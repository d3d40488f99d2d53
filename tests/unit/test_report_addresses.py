"""The scale of addresses, and the cells of the map, held against plain sums."""

from __future__ import annotations

import numpy as np
import pytest

from tracer.report.addresses import Bands, Scale, cells
from tracer.report.steps import Bookings, Columns

GIB_KIB = 1 << 20


def numbers(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def test_heights_follow_memory_and_gaps_have_none() -> None:
    start, end = numbers(0x1000, 0x7F0000000000), numbers(0x2000, 0x7F4000000000)
    scale = Scale.of(start, end, numbers(30, 10), 400)
    low, high = scale.row(start), scale.row(end)
    assert low[0] == 0
    assert high[1] == pytest.approx(400)
    assert high[0] == pytest.approx(low[1])
    # Each of the two is given a little: the smaller of one row and a tenth of all.
    assert (high - low)[0] / (high - low)[1] == pytest.approx((30 + 0.1) / (10 + 0.1))


def test_small_areas_stay_visible_beside_a_large_one() -> None:
    start = numbers(*(index << 32 for index in range(50)))
    peak = numbers(1000 * GIB_KIB, *[4] * 49)
    scale = Scale.of(start, start + (1 << 31), peak, 300)
    heights = scale.row(start + (1 << 31)) - scale.row(start)
    assert (heights[1:] > 0.8).all()
    assert heights[0] > 0.8 * 250


def test_overlapping_areas_of_different_times_share_one_place() -> None:
    start, end = numbers(0, 1 << 20), numbers(2 << 20, 3 << 20)
    scale = Scale.of(start, end, numbers(100, 100), 30)
    rows = scale.row(numbers(0, 1 << 20, 2 << 20, 3 << 20))
    assert (np.diff(rows) > 0).all()
    assert rows[-1] == pytest.approx(30)


def test_columns_say_where_and_which_part_is_left() -> None:
    columns = Columns(1_000_000, 5_000_000, 4)
    column, part = columns.place(numbers(1_000_000, 1_250_000, 4_999_999, 5_000_000))
    assert column.tolist() == [0, 0, 3, 3]
    assert part.tolist() == pytest.approx([1.0, 0.75, 1e-6, 0.0])
    assert columns.edges().astype(np.int64).tolist() == [1_000_000, 2_000_000, 3_000_000, 4_000_000, 5_000_000]


def plain(low: float, high: float, rows: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Which part of [low, high) lies in each row."""
    edges = np.arange(rows + 1)
    inside = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None)
    parts: np.ndarray[tuple[int], np.dtype[np.float64]] = inside / (high - low)
    return parts


@pytest.mark.parametrize("seed", range(5))
def test_cells_are_the_plain_sums(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns, count = 12, 9, 40
    starts = np.sort(random.choice(1 << 16, count, replace=False)).astype(np.int64) << 12
    ends = starts + (random.integers(1, 400, count) << 12)
    scale = Scale.of(starts, ends, random.integers(1, 1000, count), rows)
    column, part = random.integers(0, columns, count), random.random(count)
    change = random.integers(0, 1000, (count, 3))
    bookings = Bookings(np.arange(count), ends, column, change, change * part[:, None])
    bands = Bands(np.zeros(rows), np.ones(rows, np.bool_))
    lying = cells(bookings, starts, ends, scale, bands, columns)
    expected = np.zeros((3, rows, columns))
    low, high = scale.row(starts), scale.row(ends)
    for index in range(count):
        share = plain(low[index], high[index], rows)
        for node in range(3):
            expected[node, :, column[index]] += share * change[index, node] * part[index]
            expected[node, :, column[index] + 1 :] += (share * change[index, node])[:, None]
    np.testing.assert_allclose(lying.total, expected.sum(axis=0), rtol=1e-5, atol=1e-2)
    full = expected.sum(axis=0) > 1
    assert (lying.node[full] == expected.argmax(axis=0)[full]).mean() > 0.98
    assert (lying.node[expected.sum(axis=0) == 0] == -1).all()


def whole(shares: tuple[int, ...], rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """The map of one area with these amounts from the first column on."""
    start, end = numbers(1 << 30), numbers(1 << 31)
    scale = Scale.of(start, end, numbers(sum(shares)), rows)
    change = np.array([shares], np.int64)
    bookings = Bookings(numbers(0), end, numbers(0), change, change.astype(np.float64))
    bands = Bands.of(scale.row(np.concatenate([start, end])), rows, len(shares))
    return cells(bookings, start, end, scale, bands, 4).node


@pytest.mark.parametrize("shares", [(1, 1), (3, 1), (1, 1, 1, 1), (0, 5, 5), (7, 0, 2, 1)])
def test_stripes_have_the_shares_of_the_nodes(shares: tuple[int, ...]) -> None:
    shown = whole(shares, 120)
    assert (shown == shown[:, :1]).all()
    for node, share in enumerate(shares):
        assert (shown[:, 0] == node).mean() == pytest.approx(share / sum(shares), abs=0.05)


def test_a_single_row_shows_the_majority() -> None:
    assert (whole((3, 5), 1) == 1).all()


def test_what_came_and_went_within_one_column_leaves_no_trace_after_it() -> None:
    start, end = numbers(1 << 30), numbers(1 << 31)
    scale = Scale.of(start, end, numbers(64), 8)
    # Half a column long: the sum of +64 and -64.
    bookings = Bookings(numbers(0), end, numbers(1), np.zeros((1, 2), np.int64), np.array([[32.0, 0.0]]))
    lying = cells(bookings, start, end, scale, Bands(np.zeros(8), np.ones(8, np.bool_)), 4)
    assert lying.total.sum(axis=0).tolist() == pytest.approx([0, 32, 0, 0])
    assert lying.node[0].tolist() == [-1, 0, -1, -1]
