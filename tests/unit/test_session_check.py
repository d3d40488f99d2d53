"""The rolling comparison: what it takes for a difference to be called drift, without a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from tracer.kernel.memory import Glance
from tracer.kernel.walk import Survey
from tracer.model.policy import DEFAULT
from tracer.model.spans import RESTLESS, SPECIAL, SpanTable, VmaList
from tracer.session_check import Checker, Unsettled

REGION = 1 << 21
GIB = 1 << 30
NODES = 2
Int64s = npt.NDArray[np.int64]


def vma_list(*rows: tuple[int, int, int, int]) -> VmaList:
    """(first region, end region, bytes of a huge page, special) of each VMA."""
    columns = [np.array(column, np.int64) for column in zip(*rows, strict=True)]
    zero = np.zeros(len(rows), np.int64)
    return VmaList(columns[0] * REGION, columns[1] * REGION, columns[2], columns[3], zero, zero, zero)


@dataclass
class World:
    """A target: pages on each node by region. counted: by the counters; there: by pagemap."""

    vmas: VmaList
    counted: dict[int, tuple[int, int]]
    there: dict[int, tuple[int, int]]
    asked: list[int] = field(default_factory=list)
    glances: list[Glance] = field(default_factory=lambda: [Glance((1,), DEFAULT)])

    def table(self) -> SpanTable:
        table = SpanTable(NODES)
        table.remap(self.vmas)
        regions = np.array(sorted(self.counted), np.int64)
        spans = table.spans(regions)
        table.replace(regions, spans, np.array([self.counted[int(r)] for r in spans.region], np.int64))
        return table

    # what a checker needs of a memory

    def survey(self, starts: Int64s, ends: Int64s) -> Survey:
        regions = np.array(sorted(self.there), np.int64)
        return Survey(regions, np.zeros(len(regions), np.uint64))

    def glance(self) -> Glance:
        return self.glances.pop(0) if len(self.glances) > 1 else self.glances[0]

    # and of a pagemap reader

    def counts(self, pagemap: object, spans: Sequence[Any]) -> Int64s:
        self.asked += [span.start // REGION for span in spans]
        rows = [self.there.get(span.start // REGION, (0, 0)) for span in spans]
        return np.array(rows, np.int64).reshape(len(rows), NODES)


def checker(world: World, share: float = 1.0) -> Checker:
    return Checker(share, cast(Any, world), cast(Any, world), cast(Any, None))


def regions(*numbers: int) -> Int64s:
    return np.array(numbers, np.int64)


def world(**changes: Any) -> World:
    """Four regions of one VMA; pagemap shows two pages of the third one on the other node."""
    counted = {region: (10, region) for region in range(1, 5)}
    given: dict[str, Any] = {
        "vmas": vma_list((1, 9, 0, 0)),
        "counted": counted,
        "there": counted | {3: (8, 5)},
    } | changes
    return World(**given)


def always(glance: Glance) -> bool:
    return True


def test_what_nothing_touched_and_yet_differs_is_drift() -> None:
    it = world()
    table, check = it.table(), checker(it)
    check.take(table, regions(), always)
    assert check.suspects
    drift = check.judge(table, regions(), [])
    assert drift is not None
    assert drift.regions.tolist() == [3]
    assert drift.pages == 2, "two pages on another node, not four"
    assert check.judge(table, regions(), []) is None, "it is told once"


@pytest.mark.parametrize(
    ("there", "pages"), [((10, 0), 3), ((12, 3), 2), ((13, 0), 3), ((7, 6), 3), ((0, 0), 13), ((10, 4), 1)]
)
def test_how_many_pages_are_wrong(there: tuple[int, int], pages: int) -> None:
    it = world()
    it.there[3] = there
    table, check = it.table(), checker(it)
    check.take(table, regions(), always)
    drift = check.judge(table, regions(), [])
    assert drift is not None
    assert drift.pages == pages


@pytest.mark.parametrize(
    ("touched", "ranges"),
    [
        ([3], []),
        ([1, 2, 3, 4], []),
        ([], [(3 * REGION + 4096, 3 * REGION + 8192)]),
        ([], [(0, 100 * REGION)]),
        ([], [(4 * REGION - 4096, 5 * REGION)]),
    ],
)
def test_what_was_touched_meanwhile_is_left_out(touched: list[int], ranges: list[tuple[int, int]]) -> None:
    it = world()
    table, check = it.table(), checker(it)
    check.take(table, regions(), always)
    assert check.judge(table, regions(*touched), ranges) is None


def test_what_touched_others_does_not_excuse_it() -> None:
    it = world()
    table, check = it.table(), checker(it)
    check.take(table, regions(), always)
    assert check.judge(table, regions(2, 4), [(0, 3 * REGION), (4 * REGION, 9 * REGION)]) is not None


def test_what_is_in_doubt_is_not_even_read() -> None:
    it = world()
    check = checker(it)
    check.take(it.table(), regions(3), always)
    assert it.asked == [1, 2, 4]
    assert not check.suspects


def test_a_list_or_huge_pages_that_changed_say_nothing() -> None:
    it = world()
    check = checker(it)
    check.take(it.table(), regions(), lambda glance: False)
    assert not check.suspects
    assert check.regions_checked == 0


def test_counters_that_have_changed_since_are_left_out() -> None:
    """As after a VMA was moved away, which no event names."""
    it = world()
    table, check = it.table(), checker(it)
    check.take(table, regions(), always)
    table.replace(regions(3), table.spans(regions(3)), np.array([(9, 3)]))
    assert check.judge(table, regions(), []) is None


def test_what_ksm_may_replace_is_left_out() -> None:
    it = world(vmas=vma_list((1, 3, 0, 0), (3, 9, 0, RESTLESS | SPECIAL)))
    checker(it).take(it.table(), regions(), always)
    assert it.asked == [1, 2]


def test_regions_that_the_counters_do_not_know_are_found() -> None:
    it = world()
    it.there[7] = (5, 0)
    table, check = it.table(), checker(it)
    check.take(table, regions(), always)
    drift = check.judge(table, regions(), [])
    assert drift is not None
    assert (drift.regions.tolist(), drift.pages) == ([3, 7], 7)


def test_a_share_at_a_time_in_turn() -> None:
    it = world()
    table, check = it.table(), checker(it, 0.5)
    asked = []
    for _ in range(5):
        check.take(table, regions(), always)
        asked.append(it.asked[:])
        it.asked.clear()
    assert asked == [[1, 2], [3, 4], [1, 2], [3, 4], [1, 2]]


def test_the_smallest_share_is_one_region() -> None:
    it = world()
    table, check = it.table(), checker(it, 0.001)
    for _ in range(6):
        check.take(table, regions(), always)
    assert it.asked == [1, 2, 3, 4, 1, 2]


def test_a_large_huge_page_is_excused_by_an_event_anywhere_in_it() -> None:
    first = GIB // REGION
    there = {first: (1, 0)}
    for touched, expected in ((first + 100, True), (first - 1, False)):
        it = world(
            vmas=vma_list((1, 2, 0, 0), (first, 2 * first, GIB, 0)), counted={1: (1, 0)}, there={1: (1, 0)} | there
        )
        table, check = it.table(), checker(it)
        check.take(table, regions(), always)
        assert (check.judge(table, regions(touched), []) is None) == expected


def test_a_walk_that_says_the_same_again_is_wrong_itself() -> None:
    it = world()
    table, check = it.table(), checker(it)
    check.take(table, regions(), always)
    drift = check.judge(table, regions(), [])
    assert drift is not None
    assert Checker.walk_is_wrong(table, drift)
    table.replace(regions(3), table.spans(regions(3)), np.array([(8, 5)]))
    assert not Checker.walk_is_wrong(table, drift)


def test_a_process_without_pages() -> None:
    it = world(counted={}, there={})
    check = checker(it)
    check.take(SpanTable(NODES), regions(), always)
    assert check.judge(SpanTable(NODES), regions(), []) is None


@pytest.mark.parametrize(
    ("start", "end", "touched"),
    [(4, 5, True), (5, 6, False), (0, 4, False), (0, 5, True), (8, 100, True), (10, 100, False)],
)
def test_which_memory_areas_a_refresh_has_seen_touched(start: int, end: int, touched: bool) -> None:
    assert Unsettled(regions(4, 9)).touches(start * REGION, end * REGION) is touched


def test_part_of_a_region_is_enough() -> None:
    assert Unsettled(regions(4)).touches(4 * REGION + 4096, 4 * REGION + 8192)
