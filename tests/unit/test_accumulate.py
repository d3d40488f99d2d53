"""Sums over samples: deltas add up, VMAs are those last seen, pages are counted as numa_maps does."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.snapshots import TIME, faults, flows, sample, snapshot, vma
from tracer.model.accumulate import FaultSums, FlowSums, Period
from tracer.model.events import Kind
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot, Trust

VMAS = [vma(0x1000), vma(0x400000, hugetlb=True, page_kb=2048)]
PAGES = [(0, 0)] * len(VMAS)

numbers = st.integers(0, 2**40)
places = st.tuples(st.integers(-1, 1), st.integers(0, 3), st.integers(0, 3))
flow_rows = st.lists(st.tuples(places, st.integers(0, 2), numbers, numbers).map(lambda row: (*row[0], *row[1:])))
fault_rows = st.lists(
    st.tuples(
        st.integers(-1, 1),
        st.integers(0, 3),
        st.integers(-1, 3),
        st.integers(0, 5),
        st.integers(0, 9),
        numbers,
    )
)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Up to three targets, of which some have ended, with flows and faults."""

    def target(pid: int) -> Snapshot:
        return snapshot(VMAS, PAGES, pid=pid, flows=flows(draw(flow_rows)), faults=faults(draw(fault_rows)))

    pids = draw(st.lists(st.integers(1, 4), max_size=3, unique=True))
    ended = draw(st.lists(st.integers(1, 4), max_size=2, unique=True))
    counts = [np.array([draw(numbers) for _ in range(3)]) for _ in range(2)]
    return sample(
        *map(target, pids),
        ended=tuple(map(target, ended)),
        reasons=("compaction", "syscall", "numa_misplaced"),
        migrated=counts[0],
        failed=counts[1],
    )


def flow_counts(period: Period[FlowSums]) -> Counter[tuple[object, ...]]:
    counts: Counter[tuple[object, ...]] = Counter()
    for row in period.sums.rows():
        key = (row.place.pid, row.place.vma and row.place.vma.start, row.source, row.destination, row.reason)
        for unit in ("pages", "failed", "kib"):
            counts[*key, unit] += getattr(row, unit)
    return counts


def fault_counts(period: Period[FaultSums]) -> Counter[tuple[object, ...]]:
    counts: Counter[tuple[object, ...]] = Counter()
    for row in period.sums.rows():
        key = (row.place.pid, row.place.vma and row.place.vma.start, row.cpu_node, row.page_node, row.kind, row.thread)
        for unit in ("count", "pages", "kib"):
            counts[*key, unit] += getattr(row, unit)
    return counts


def of(series: list[Sample]) -> tuple[Period[FlowSums], Period[FaultSums]]:
    both = Period(FlowSums()), Period(FaultSums())
    for one in series:
        for period in both:
            period.add(one, 1.25)
    return both


@given(st.lists(samples(), max_size=4))
def test_the_sum_of_the_intervals_is_the_total(series: list[Sample]) -> None:
    flow_total, fault_total = of(series)
    intervals = [of([one]) for one in series]
    assert +flow_counts(flow_total) == sum((+flow_counts(one) for one, _ in intervals), Counter())
    assert +fault_counts(fault_total) == sum((+fault_counts(one) for _, one in intervals), Counter())


@given(st.lists(samples(), min_size=1, max_size=4))
def test_nothing_is_lost_or_counted_twice(series: list[Sample]) -> None:
    flow_total, fault_total = of(series)
    shots = [shot for one in series for shot in (*one.snapshots, *one.ended)]
    moved = [shot.flows for shot in shots if shot.flows is not None]
    touched = [shot.faults for shot in shots if shot.faults is not None]
    assert sum(row.pages for row in flow_total.sums.rows()) == sum(int(one.pages.sum()) for one in moved)
    assert sum(row.failed for row in flow_total.sums.rows()) == sum(int(one.failed.sum()) for one in moved)
    assert sum(row.count for row in fault_total.sums.rows()) == sum(int(one.count.sum()) for one in touched)
    assert flow_total.machine == {
        reason: (
            sum(int(one.migrated[index]) for one in series if one.migrated is not None),
            sum(int(one.failed[index]) for one in series if one.failed is not None),
        )
        for index, reason in enumerate(series[0].reasons)
    }
    assert {target.pid for target in flow_total.targets} == {shot.pid for shot in shots}


@pytest.mark.parametrize(
    ("row", "kind", "pages", "kib"),
    [
        (0, Kind.NEW, 3, 12),
        (0, Kind.HUGE, 3 * 512, 3 * 2048),
        (1, Kind.HUGE, 3, 3 * 2048),
        (-1, Kind.HUGE, 3 * 512, 3 * 2048),
        (0, Kind.HINT, 3, 12),
    ],
)
def test_a_huge_page_is_512_pages_but_1_in_hugetlbfs(row: int, kind: Kind, pages: int, kib: int) -> None:
    sums = FaultSums()
    sums.add(snapshot(VMAS, PAGES, faults=faults([(row, 0, 1, kind, 0, 3)])))
    (found,) = sums.rows()
    assert (found.count, found.pages, found.kib) == (3, pages, kib)


@pytest.mark.parametrize(
    ("kind", "node", "placing"),
    [(Kind.NEW, 0, True), (Kind.COW, 1, True), (Kind.MAJOR, 0, True), (Kind.NEW, -1, False), (Kind.HINT, 0, False)],
)
def test_which_faults_decide_where_a_page_is(kind: Kind, node: int, placing: bool) -> None:
    sums = FaultSums()
    sums.add(snapshot(VMAS, PAGES, faults=faults([(0, 0, node, kind, 0, 1)])))
    assert [row.placing for row in sums.rows()] == [placing]


def test_kib_follow_the_size_of_the_page() -> None:
    sums = FlowSums()
    sums.add(snapshot(VMAS, PAGES, flows=flows([(0, 0, 1, 1, 512, 0), (1, 0, 1, 1, 2, 7), (-1, 0, 1, 1, 1, 0)])))
    assert sorted((row.pages, row.kib, row.failed) for row in sums.rows()) == [(1, 4, 0), (2, 4096, 7), (512, 2048, 0)]


def test_a_vma_is_the_one_last_seen() -> None:
    sums = FlowSums()
    sums.add(snapshot([vma(0x1000, pages=4, path=b"/old")], [(0, 0)], comm=b"old", flows=flows([(0, 0, 1, 1, 5, 0)])))
    sums.add(snapshot([vma(0x1000, pages=9, path=b"/new")], [(0, 0)], comm=b"new", flows=flows([(0, 0, 1, 1, 6, 0)])))
    (row,) = sums.rows()
    assert row.place.vma == vma(0x1000, pages=9, path=b"/new")
    assert (row.place.comm, row.place.namespace_pid, row.pages) == (b"new", 42, 11)


def test_what_was_not_asked_for_adds_nothing() -> None:
    period = Period(FlowSums())
    period.add(sample(snapshot(VMAS, PAGES)), 1.0)
    assert (period.sums.rows(), period.machine) == ([], None)


def test_who_was_there_and_how_long() -> None:
    first = sample(snapshot(pid=1), snapshot(pid=2, trust=Trust(lost=3)), untraced=1)
    gone = (snapshot(pid=1, comm=b"before exec"), snapshot(pid=2, namespace_pid=5))
    later = sample(snapshot(pid=1), time=TIME + timedelta(seconds=2.5), ended=gone, untraced=4)
    period = Period(FaultSums())
    for one in (first, later):
        period.add(one, 1.25)
    assert [(seen.pid, seen.namespace_pid, seen.ended, seen.comm) for seen in period.targets] == [
        (1, 1, False, b"target"),
        (2, 5, True, b"target"),
    ]
    assert (period.seconds, period.ended, period.untraced, period.nodes) == (2.5, later.time, 4, [0, 1])


def test_a_period_without_samples_has_no_end() -> None:
    with pytest.raises(ValueError, match="nothing"):
        _ = Period(FlowSums()).ended


@given(samples())
def test_the_rows_of_one_vma_are_those_of_all_that_are_its(shown: Sample) -> None:
    for period in (Period(FlowSums()), Period(FaultSums())):
        period.add(shown, 1.0)
        for start in (VMAS[0].start, VMAS[1].start, -1):
            mine = [
                row
                for row in period.sums.rows()
                if row.place.pid == 2 and (row.place.vma.start if row.place.vma else -1) == start
            ]
            assert period.sums.rows((2, start)) == mine
