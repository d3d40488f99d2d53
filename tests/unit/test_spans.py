"""The span table against a page-by-page model: whatever VMA lists and reads follow each other, its totals are right."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.model import spans as spans_module
from tracer.model.spans import (
    FILLED,
    RESTLESS,
    SHARING,
    Spans,
    SpanTable,
    VmaList,
    gather_ranges,
    regions_of,
    union_of_ranges,
)

PAGE = 4096
REGION = 1 << 21
PAGES = 6 * 512  # the world is six regions long
NODES = 3


@dataclass(frozen=True)
class Area:
    """A VMA of the model, in pages. identity stands for its file and anon_vma."""

    start: int
    end: int
    identity: int


def column(values: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array(values, np.int64)


def vma_list(areas: list[Area]) -> VmaList:
    zeros = [0] * len(areas)
    return VmaList(
        column([a.start * PAGE for a in areas]),
        column([a.end * PAGE for a in areas]),
        column(zeros),
        column(zeros),
        column([a.identity for a in areas]),
        column(zeros),
        column(zeros),
    )


@st.composite
def area_lists(draw: st.DrawFn) -> list[Area]:
    """Disjoint areas; boundaries near region ends are as likely as any others."""
    edge = st.one_of(st.integers(0, PAGES), st.sampled_from([k * 512 + d for k in range(6) for d in (0, 1, 511)]))
    bounds = sorted(draw(st.sets(edge, min_size=0, max_size=8)))
    return [Area(a, b, draw(st.integers(1, 2))) for a, b in itertools.pairwise(bounds) if draw(st.booleans())]


class World:
    """Pages of an address space: which node each is on, -1 for none. A page lives as long as its identity does."""

    def __init__(self) -> None:
        self.node = np.full(PAGES, -1)
        self.identity = np.zeros(PAGES, np.int64)
        self.areas: list[Area] = []

    def remap(self, areas: list[Area], seed: int) -> None:
        """A new list: pages under another identity are replaced by new ones, as mmap over a mapping does."""
        identity = np.zeros(PAGES, np.int64)
        for area in areas:
            identity[area.start : area.end] = area.identity
        changed = identity != self.identity
        fresh = np.random.default_rng(seed).integers(-1, NODES, PAGES)
        self.node = np.where(changed, np.where(identity > 0, fresh, -1), self.node)
        self.identity, self.areas = identity, areas

    def touch(self, regions: list[int], seed: int) -> None:
        random = np.random.default_rng(seed)
        for region in regions:
            part = slice(region * 512, (region + 1) * 512)
            mapped = self.identity[part] > 0
            self.node[part] = np.where(mapped, random.integers(-1, NODES, 512), -1)

    def counts(self, spans: Spans) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        rows = [
            np.bincount(self.node[s // PAGE : e // PAGE] + 1, minlength=NODES + 1)[1:]
            for s, e in zip(spans.start, spans.end, strict=True)
        ]
        return np.array(rows, np.int64).reshape(len(spans), NODES)

    def totals(self) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        rows = [np.bincount(self.node[a.start : a.end] + 1, minlength=NODES + 1)[1:] for a in self.areas]
        return np.array(rows, np.int64).reshape(len(self.areas), NODES)


def read(table: SpanTable, world: World, regions: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> int:
    spans = table.spans(regions)
    return table.replace(regions, spans, world.counts(spans))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(area_lists(), st.sets(st.integers(0, 5)), st.integers(0, 1000)), min_size=1, max_size=6))
def test_totals_equal_a_page_by_page_count(steps: list[tuple[list[Area], set[int], int]]) -> None:
    table, world = SpanTable(NODES), World()
    for areas, touched, seed in steps:
        world.remap(areas, seed)
        torn, starts, ends = table.remap(vma_list(areas))
        read(table, world, np.union1d(torn, regions_of(starts, ends)))
        assert np.array_equal(table.totals, world.totals())
        before = world.totals()
        world.touch(sorted(touched), seed + 1)
        changed = read(table, world, np.array(sorted(touched), np.int64))
        assert np.array_equal(table.totals, world.totals())
        assert changed >= np.abs(world.totals() - before).sum()
        assert (np.diff(table.address) > 0).all()


MANY = [Area(k * 40, k * 40 + 30, 1 + k % 2) for k in range(PAGES // 40)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(MANY)), st.integers(0, 5), st.integers(1, 2)), min_size=1, max_size=8))
def test_few_changes_among_many_vmas(edits: list[tuple[int, int, int]]) -> None:
    """Some VMAs go away, or come in the place of others; all others keep what was counted."""
    table, world = SpanTable(NODES), World()
    areas = MANY
    world.remap(areas, 1)
    table.remap(vma_list(areas))
    read(table, world, np.arange(6))
    for at, width, identity in edits:
        gap = areas[at : at + width]
        new = [Area(gap[0].start, gap[-1].end, identity)] if gap and width % 2 else []
        areas = areas[:at] + new + areas[at + width :]
        world.remap(areas, at)
        torn, starts, ends = table.remap(vma_list(areas))
        near = regions_of(column([a.start * PAGE for a in gap]), column([a.end * PAGE for a in gap]))
        assert np.isin(np.union1d(torn, regions_of(starts, ends)), near).all()
        read(table, world, np.union1d(torn, regions_of(starts, ends)))
        assert np.array_equal(table.totals, world.totals())
    untouched = table.vmas
    assert not any(len(answer) for answer in table.remap(vma_list(areas)))
    assert not any(len(answer) for answer in table.remap(table.vmas))
    assert np.array_equal(table.totals, world.totals())
    assert table.vmas is not untouched


@settings(deadline=None)
@given(area_lists())
def test_a_split_without_a_new_identity_reads_only_the_torn_region(areas: list[Area]) -> None:
    whole = [Area(0, PAGES, 1)]
    table, world = SpanTable(NODES), World()
    world.remap(whole, 1)
    table.remap(vma_list(whole))
    read(table, world, np.arange(6))
    cut = 700  # inside region 1
    halves = [Area(0, cut, 1), Area(cut, PAGES, 1)]
    world.remap(halves, 2)
    torn, starts, _ = table.remap(vma_list(halves))
    assert torn.tolist() == [1]
    assert not len(starts)
    read(table, world, torn)
    assert np.array_equal(table.totals, world.totals())


def test_an_anon_vma_that_appears_is_no_change_but_another_one_is() -> None:
    def one(anon: int) -> VmaList:
        return VmaList(*(np.array([v], np.int64) for v in (0, REGION, 0, 0, 0, 0, anon)))

    table = SpanTable(NODES)
    table.remap(one(0))
    assert not len(table.remap(one(7))[1])
    assert len(table.remap(one(8))[1]) == 1


def test_pages_that_were_moved_out_of_a_vma_that_stays_are_read_again() -> None:
    """mremap(MREMAP_DONTUNMAP) of a part: nothing changes in the list but that there is one VMA more."""

    def areas(*rows: tuple[int, int, int, int]) -> VmaList:
        """start, end, bias and anon_vma; regions and pages."""
        start, end, bias, anon = (np.array(it, np.int64) for it in zip(*rows, strict=True))
        zeros = np.zeros(len(rows), np.int64)
        return VmaList(start * REGION, end * REGION, zeros, zeros, zeros, bias, anon)

    table = SpanTable(NODES)
    source, neighbour = (10, 20, 0, 7), (20, 30, 0, 8)
    table.remap(areas(source, neighbour))
    everywhere = np.arange(10, 30)
    spans = table.spans(everywhere)
    table.replace(everywhere, spans, np.ones((len(spans), NODES), np.int64))
    torn, starts, ends = table.remap(areas(source, neighbour, (42, 45, -30 * 512, 7)))
    assert (starts.tolist(), ends.tolist()) == ([42 * REGION], [45 * REGION])
    assert torn.tolist() == [12, 13, 14]
    # Of a whole VMA that had no pages when it was listed: the list is as before, for its anon_vma went with the pages.
    without = areas(source, neighbour, (42, 45, -30 * 512, 7), (70, 74, 0, 0))
    table.remap(without)
    table.replace(np.array([71, 72]), table.spans(np.array([71, 72])), np.ones((2, NODES), np.int64))
    moved = areas(source, neighbour, (42, 45, -30 * 512, 7), (70, 74, 0, 0), (80, 84, -10 * 512, 5))
    assert table.remap(moved)[0].tolist() == [71, 72]
    table.remap(areas(source, neighbour, (42, 45, -30 * 512, 7)))
    # What lies at other offsets, or belongs to another anon_vma or to none, has nothing to do with it.
    others = areas(source, neighbour, (42, 45, -30 * 512, 7), (50, 52, -10 * 512, 7), (60, 62, -50 * 512, 9))
    assert not len(table.remap(others)[0])


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 1), st.integers(0, 3), st.integers(-8, 8)), min_size=1, max_size=12
    ),
    st.data(),
)
def test_all_that_share_pages_are_found(sizes: list[tuple[int, int, int, int]], data: st.DataObject) -> None:
    """Against a comparison of all pairs. sizes: of each VMA the length, file, anon_vma and bias, in pages."""
    start = np.cumsum([0, *(size for size, *_ in sizes[:-1])]) * PAGE + 100 * PAGE
    length, file, anon, bias = (column(list(it)) for it in zip(*sizes, strict=True))
    anon += 2 * (anon > 0)  # addresses of files and of anon_vmas are never equal
    zeros = np.zeros(len(sizes), np.int64)
    vmas = VmaList(start, start + length * PAGE, zeros, zeros, file, bias, anon)
    rows = sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1))))
    rows = [row for row in rows if file[row] or anon[row]]
    own = column(rows)
    here, there = spans_module._sharing(vmas, vmas.start[own], vmas.end[own], own)
    found = {(rows[a], b) for a, b in zip(here.tolist(), there.tolist(), strict=True)}

    def offsets(row: int) -> set[int]:
        return set(range(int(vmas.start[row] >> 12) + bias[row], int(vmas.end[row] >> 12) + bias[row]))

    for a in rows:
        for b in range(len(sizes)):
            alike = file[a] == file[b] and bool(file[a] or anon[a] == anon[b] != 0)
            if a != b and alike and offsets(a) & offsets(b):
                assert (a, b) in found
            if not alike or a == b:
                assert (a, b) not in found


def test_a_gigantic_page_is_one_span_wherever_it_is_touched() -> None:
    gib = 1 << 30
    table = SpanTable(NODES)
    table.remap(VmaList(*(np.array([v], np.int64) for v in (gib, 3 * gib, gib, 0, 5, 0, 0))))
    spans = table.spans(np.array([513, 700, 1024], np.int64))
    assert spans.start.tolist() == [gib, 2 * gib]
    table.replace(np.array([513, 700, 1024], np.int64), spans, np.array([[1, 0, 0], [0, 1, 0]], np.int64))
    assert table.totals.tolist() == [[1, 1, 0]]


def test_gather_ranges() -> None:
    found = gather_ranges(np.array([3, 9, 5]), np.array([5, 9, 8]))
    assert found.tolist() == [3, 4, 5, 6, 7]


def test_what_is_marked() -> None:
    marks = (0, FILLED, SHARING, RESTLESS)
    starts = [at * 4 * REGION + REGION // 2 for at in range(len(marks))]
    areas = VmaList(*(np.array(v, np.int64) for v in (starts, [at + REGION for at in starts], *[[0] * 4] * 5)))
    vmas = replace(areas, special=np.array(marks, np.int64))
    assert vmas.marked(FILLED | RESTLESS).tolist() == [False, True, False, True]
    # Each covers a part of two regions.
    told = [vmas.any_marked_in(np.array([region], np.int64), FILLED) for region in range(16)]
    assert [region for region, marked in enumerate(told) if marked] == [4, 5]
    assert not vmas.any_marked_in(np.empty(0, np.int64), FILLED)
    assert not VmaList.empty().any_marked_in(np.array([4], np.int64), FILLED)
    assert vmas.any_marked_in(np.array([0, 3, 5, 9], np.int64), FILLED)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10))))
def test_ranges_are_joined_to_disjoint_ones(ranges: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in ranges], np.int64)
    ends = np.array([start + length for start, length in ranges], np.int64)
    first, last = union_of_ranges(starts, ends)
    assert set(gather_ranges(first, last).tolist()) == {
        at for start, length in ranges for at in range(start, start + length)
    }
    assert (last > first).all()
    assert (first[1:] > last[:-1]).all(), "ascending, and apart"
