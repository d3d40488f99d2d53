"""Single pages as `PageReader` gives them, against numa_maps, pagemap, move_pages(2) and kpageflags."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernel import machine
from tests.kernel.frames import placed
from tests.kernel.target import Area, Target, read_truth
from tests.kernel.world import ANON, HUGE, PAGE, RW, SHARED, World
from tracer.kernel.machinery import Machinery, Options
from tracer.kernel.memory import WalkedMemory
from tracer.kernel.pagemap import Pagemap
from tracer.kernel.pages import PageReader, Pages
from tracer.kernel.topology import read_topology
from tracer.model.policy import Mode

NO_HUGE_PAGE, MERGEABLE = 15, 12  # madvise(2)
SHARED_ANON = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
HUGE_SHIFT, GIGANTIC_SHIFT = 21, 30
REGION_PAGES = 512
FILE_BIT = np.uint64(1 << 61)  # Documentation/admin-guide/mm/pagemap.rst
SMALL = 64 * PAGE


@pytest.fixture(scope="module")
def loaded(quiet_machine: None) -> Iterator[Machinery]:
    it = Machinery(Options(hooks="tracepoint", reader="walk"), [])
    yield it
    it.close()


@pytest.fixture
def world(quiet_machine: None, nodes: list[int], files: Path) -> Iterator[World]:
    with Target() as target:
        it = World(target, nodes, files)
        yield it
        it.clear()


@contextlib.contextmanager
def reader_of(loaded: Machinery, world: World, way: str = "walk") -> Iterator[PageReader]:
    assert loaded.tables is not None
    with Pagemap(world.pid) as pagemap:
        mm = loaded.tables.find_mm(pagemap.fileno(), world.address(0))
        yield PageReader(WalkedMemory(loaded.tables, pagemap, loaded.frames, mm, way), loaded.frames)


def regions_of(area: Area) -> npt.NDArray[np.int64]:
    return np.arange(area.start >> 21, (area.end - 1 >> 21) + 1)


def every_kind(world: World) -> None:
    """Memory of all kinds, parts of it never touched, on all nodes."""
    world.policy(Mode.INTERLEAVE, world.mask)
    world.map(0, 3 * HUGE)
    world.advise(0, 3 * HUGE, NO_HUGE_PAGE)
    world.write(0, 3 * HUGE, 3 * PAGE)
    world.protect(HUGE, 10 * PAGE, 0)  # PROT_NONE
    world.read(2 * HUGE, HUGE)  # the zero page
    world.map(4 * HUGE, 4 * HUGE)
    world.advise(4 * HUGE, 4 * HUGE, mmap.MADV_HUGEPAGE)
    world.write(4 * HUGE, 2 * HUGE, HUGE)
    world.read(6 * HUGE, HUGE, HUGE)  # the huge zero page
    world.unmap(5 * HUGE + 7 * PAGE, 3 * PAGE)
    world.map(8 * HUGE, SMALL, SHARED_ANON)
    world.write(8 * HUGE, SMALL, 2 * PAGE)
    world.open(SMALL)
    world.map(9 * HUGE, SMALL, mmap.MAP_PRIVATE, file=True)
    world.read(9 * HUGE, SMALL)
    world.write(9 * HUGE, SMALL // 2)
    world.map(9 * HUGE + SMALL, SMALL, SHARED, file=True)
    world.read(9 * HUGE + SMALL, SMALL)
    world.map_hugetlb(10 * HUGE, 3 * HUGE, HUGE_SHIFT)
    world.write(11 * HUGE, 2 * HUGE, HUGE)
    world.map_hugetlb(14 * HUGE, HUGE, HUGE_SHIFT, SHARED_ANON)
    world.write(14 * HUGE, HUGE, HUGE)


def by_node(nodes: npt.NDArray[np.int16]) -> dict[int, int]:
    values, counts = np.unique(nodes[nodes >= 0], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def part(pages: Pages, area: Area) -> npt.NDArray[np.int16]:
    """The pages of a VMA alone: its first and last region may hold others."""
    low = area.start // PAGE & (REGION_PAGES - 1)
    return pages.node.reshape(-1)[low : low + (area.end - area.start) // PAGE]


@pytest.mark.parametrize("way", ["walk", "pagemap"])
def test_sums_are_those_of_numa_maps_for_every_area(loaded: Machinery, world: World, way: str) -> None:
    every_kind(world)
    with reader_of(loaded, world, way) as reader:
        for area in read_truth(world.pid).areas:
            assert by_node(part(reader.read(regions_of(area)), area)) == area.line.nodes, area


def test_all_regions_at_once_are_each_as_alone(loaded: Machinery, world: World) -> None:
    """More than are read by one run, and neighbours of all kinds."""
    every_kind(world)
    world.map(16 * HUGE, 100 * HUGE)
    world.advise(16 * HUGE, 100 * HUGE, NO_HUGE_PAGE)
    world.write(16 * HUGE, 100 * HUGE, 7 * PAGE)
    regions = np.arange(world.address(0) >> 21, world.address(120 * HUGE) >> 21)
    with reader_of(loaded, world) as reader:
        whole = reader.read(regions)
        for row in range(len(regions)):
            alone = reader.read(regions[row : row + 1])
            for name in Pages._fields:
                assert np.array_equal(getattr(whole, name)[row], getattr(alone, name)[0]), (row, name)


def entries_of(world: World, start: int, length: int) -> npt.NDArray[np.uint64]:
    with Path(f"/proc/{world.pid}/pagemap").open("rb", buffering=0) as file:
        file.seek(start // PAGE * 8)
        return np.frombuffer(file.read(length // PAGE * 8), np.uint64)


@pytest.mark.parametrize("way", ["walk", "pagemap"])
def test_each_page_is_where_move_pages_says(loaded: Machinery, world: World, way: str) -> None:
    """The zero pages are on no node for either."""
    every_kind(world)
    length = 10 * HUGE
    regions = np.arange(world.address(0) >> 21, world.address(length) >> 21)
    with reader_of(loaded, world, way) as reader:
        pages = reader.read(regions)
    told = placed(world.pid, world.address(0), length).nodes
    # move_pages() does not look at pages without any permission, and pagemap shows that they are there.
    unseen = np.flatnonzero((told < 0) & (pages.node.reshape(-1) >= 0))
    assert set(unseen.tolist()) <= set(range(512, 522))
    same = np.where(told < 0, -1, told)
    same[unseen] = pages.node.reshape(-1)[unseen]
    assert np.array_equal(pages.node.reshape(-1), same)


def test_pages_of_files_are_those_that_pagemap_shows(loaded: Machinery, world: World) -> None:
    every_kind(world)
    with reader_of(loaded, world) as reader:
        for area in read_truth(world.pid).areas:
            pages = reader.read(regions_of(area))
            start = area.start & -HUGE
            entries = entries_of(world, start, len(pages.node) * HUGE)
            counted = pages.node.reshape(-1) >= 0
            expected = counted & ((entries & FILE_BIT) != 0)
            assert np.array_equal(pages.file.reshape(-1), expected), area
        told = reader.read(np.array([world.address(9 * HUGE) >> 21])).file[0]
    assert not told[:32].any()  # copies
    assert told[32:128].all()


def test_huge_is_what_one_entry_maps(loaded: Machinery, world: World) -> None:
    every_kind(world)
    regions = np.arange(world.address(0) >> 21, world.address(16 * HUGE) >> 21)
    with reader_of(loaded, world) as reader:
        huge = (np.flatnonzero(reader.read(regions).huge)).tolist()
    # One of the two huge pages has a hole, and so is mapped page by page; the huge zero page counts nowhere.
    assert huge == [4, 11, 12, 14]


def test_a_hugetlb_page_is_at_the_place_of_its_first(loaded: Machinery, world: World) -> None:
    every_kind(world)
    with reader_of(loaded, world) as reader:
        pages = reader.read(np.array([world.address(11 * HUGE) >> 21]))
        assert (pages.node[0, 1:] == -1).all()
        assert pages.node[0, 0] in world.nodes
        assert not pages.file.any()
        shared = reader.read(np.array([world.address(14 * HUGE) >> 21]))
        assert np.flatnonzero(shared.file[0]).tolist() == [0]


def test_a_gigantic_page_is_in_its_first_region_alone(loaded: Machinery, world: World) -> None:
    shift = GIGANTIC_SHIFT if machine.free_huge_pages(GIGANTIC_SHIFT) else HUGE_SHIFT
    world.map_hugetlb(0, 1 << shift, shift)
    world.write(0, PAGE)
    first = world.address(0) >> 21
    with reader_of(loaded, world) as reader:
        for regions in (
            [first],
            [first, first + 1],
            [first + 1],
            [first + 1, first + 511],
            list(range(first, first + 512)),
        ):
            node = reader.read(np.array(regions)).node
            assert node.shape == (len(regions), REGION_PAGES)
            assert np.argwhere(node >= 0).tolist() == ([[0, 0]] if regions[0] == first else [])


def test_regions_that_hold_nothing(loaded: Machinery, world: World) -> None:
    world.map(0, HUGE)
    with reader_of(loaded, world) as reader:
        for regions in ([], [0], [world.address(0) >> 21, world.address(HUGE) >> 21]):
            pages = reader.read(np.array(regions, np.int64))
            assert pages.node.shape == pages.file.shape == (len(regions), REGION_PAGES)
            assert (pages.node == -1).all()
            assert not pages.file.any()
            assert not pages.huge.any()


def test_a_block_of_two_nodes_is_asked_about(loaded: Machinery, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the kernel's memory blocks held two nodes each: every page is then asked about by move_pages(2)."""
    every_kind(world)
    regions = np.arange(world.address(0) >> 21, world.address(16 * HUGE) >> 21)
    with reader_of(loaded, world) as reader:
        expected = reader.read(regions)
        monkeypatch.setattr(reader, "_node_of_block", np.full_like(reader._node_of_block, -2))
        monkeypatch.setattr(reader, "_some_mixed", True)
        pages = reader.read(regions)
    for name in Pages._fields:
        assert np.array_equal(getattr(pages, name), getattr(expected, name)), name


def test_reserved_pages_are_left_out(loaded: Machinery, world: World) -> None:
    """The vDSO is present for pagemap and counts nowhere."""
    with reader_of(loaded, world) as reader:
        areas = [a for a in read_truth(world.pid).areas if _path(world.pid, a.start) in (b"[vdso]", b"[vvar]")]
        assert areas
        for area in areas:
            assert by_node(part(reader.read(regions_of(area)), area)) == area.line.nodes


def _path(pid: int, start: int) -> bytes:
    for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
        words = line.split(maxsplit=5)
        if int(words[0].partition(b"-")[0], 16) == start:
            return words[5] if len(words) > 5 else b""
    return b""


def test_which_pages_are_merged(loaded: Machinery, world: World) -> None:
    """KSM goes over equal pages until it has merged them; half of them are not for it."""
    world.map(0, 2 * SMALL)
    world.advise(0, 2 * SMALL, NO_HUGE_PAGE)
    world.write(0, 2 * SMALL)
    addresses = world.address(0) + np.arange(2 * SMALL // PAGE) * PAGE
    with reader_of(loaded, world) as reader:
        assert not reader.merged(addresses).any()
        world.advise(0, SMALL, MERGEABLE)
        with machine.same_page_merging():
            merged = reader.merged(addresses)
            shuffled = np.random.default_rng(1).permutation(len(addresses))
            assert np.array_equal(reader.merged(addresses[shuffled]), merged[shuffled])
    assert merged[: SMALL // PAGE].all()
    assert not merged[SMALL // PAGE :].any()


def test_which_pages_are_of_large_folios(loaded: Machinery, world: World) -> None:
    world.map(0, HUGE, ANON, RW)
    world.advise(0, HUGE, NO_HUGE_PAGE)
    world.write(0, SMALL)
    world.map(HUGE, 2 * HUGE)
    world.advise(HUGE, 2 * HUGE, mmap.MADV_HUGEPAGE)
    world.write(HUGE, HUGE, HUGE)
    world.unmap(HUGE, PAGE)  # page by page from now on, and still one folio
    world.map_hugetlb(4 * HUGE, HUGE, HUGE_SHIFT)
    world.write(4 * HUGE, PAGE)
    with reader_of(loaded, world) as reader:
        addresses = [0, SMALL - PAGE, SMALL, HUGE, HUGE + PAGE, 2 * HUGE - PAGE, 2 * HUGE, 4 * HUGE, 4 * HUGE + PAGE]
        told = reader.large(world.address(0) + np.array(addresses, np.int64))
        assert not reader.large(np.empty(0, np.int64)).size
    assert told.tolist() == [False, False, False, False, True, True, False, True, True]


def test_the_nodes_are_those_of_the_machine(loaded: Machinery, world: World) -> None:
    every_kind(world)
    regions = np.arange(world.address(0) >> 21, world.address(16 * HUGE) >> 21)
    with reader_of(loaded, world) as reader:
        assert set(by_node(reader.read(regions).node)) == set(read_topology().has_memory)
