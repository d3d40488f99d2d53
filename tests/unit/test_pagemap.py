"""The pagemap reader on made-up pagemap and kpageflags files: what counts, on which node, and for which span."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracer.kernel import pagemap as pagemap_module
from tracer.kernel.pageflags import KPF_NOPAGE, KPF_RESERVED, KPF_THP, KPF_ZERO_PAGE
from tracer.kernel.pagemap import PM_EXCLUSIVE, PM_FILE, PM_PRESENT, Pagemap, PagemapReader, Span
from tracer.kernel.pagemap_file import SCAN_REGION
from tracer.kernel.procfs import TargetGone
from tracer.kernel.topology import Topology, Zone
from tracer.kernel.zero_pages import ZeroPages

PID = 7
PAGE = 4096
BLOCK = 1 << 10  # pages of a memory block
ZERO, HUGE_ZERO = 33, 2 * BLOCK + 512
SWAPPED = 1 << 62 | 3


def topology(blocks: dict[int, tuple[int, ...]], possible: int = 5, has_memory: tuple[int, ...] = (0, 2)) -> Topology:
    """Node 0 holds blocks 0 and 1, node 2 block 2, and node 4 block 3 but is not in N_MEMORY, unless told otherwise."""
    ids = tuple(range(possible))
    return Topology(ids, ids, has_memory, ids, {}, {}, PAGE, BLOCK, False, blocks)


TWO_NODES = topology({0: (0,), 1: (0,), 2: (2,), 3: (4,)})


@dataclass
class FakeProcess:
    """A process whose pagemap is an ordinary file; pages that were not set are holes."""

    root: Path
    pages: int
    flags: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.root / str(PID)).mkdir()
        self.entries = np.zeros(self.pages, dtype=np.uint64)
        self.resident(self.pages)

    def resident(self, pages: int) -> None:
        (self.root / str(PID) / "statm").write_text(f"{self.pages} {pages} 0 0 0 0 0\n")

    def map(self, page: int, *pfns: int, bits: int = PM_PRESENT | PM_EXCLUSIVE) -> None:
        self.entries[page : page + len(pfns)] = np.array(pfns, dtype=np.uint64) | np.uint64(bits)

    def open(self) -> Pagemap:
        self.entries.tofile(self.root / str(PID) / "pagemap")
        table = np.zeros(4 * BLOCK, dtype=np.uint64)
        for pfn, value in self.flags.items():
            table[pfn] = value
        table.tofile(self.root / "kpageflags")
        return Pagemap(PID, self.root)


@pytest.fixture
def process(tmp_path: Path) -> FakeProcess:
    return FakeProcess(tmp_path, 4096)


def reader(of: Topology = TWO_NODES, huge: int | None = HUGE_ZERO, threads: int = 1) -> PagemapReader:
    return PagemapReader(of, threads=threads, zero_pages=ZeroPages(ZERO, huge))


def span(first: int, last: int, hugetlb: int = 0, special: bool = False) -> Span:
    """Pages first to last (excluded)."""
    return Span(first * PAGE, last * PAGE, hugetlb, special)


def test_nodes_of_spans(process: FakeProcess) -> None:
    process.map(1, 5, BLOCK + 7, 2 * BLOCK, bits=PM_PRESENT | PM_FILE)
    process.map(10, 2 * BLOCK + 1)
    with process.open() as pagemap:
        counts = reader().counts(pagemap, [span(0, 3), span(3, 10), span(10, 11), span(11, 12)])
    assert counts.dtype == np.int64
    assert counts.tolist() == [[2, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0] * 5]


def test_what_numa_maps_leaves_out(process: FakeProcess) -> None:
    process.map(0, 3, bits=SWAPPED)
    process.map(1, ZERO, bits=PM_PRESENT)
    process.map(2, 3 * BLOCK)  # a node outside N_MEMORY
    process.map(3, 50 * BLOCK)  # beyond all memory: a device's
    process.map(512, *range(HUGE_ZERO, HUGE_ZERO + 512), bits=PM_PRESENT | PM_FILE)
    process.map(1024, HUGE_ZERO - 1, HUGE_ZERO - 512, ZERO + 1, bits=PM_PRESENT)
    with process.open() as pagemap:
        counts = reader().counts(pagemap, [span(0, 512), span(512, 1024), span(1024, 2048)])
    assert counts.sum(axis=1).tolist() == [0, 0, 3]


def test_reserved_and_offline_pages_are_looked_for_where_told(process: FakeProcess) -> None:
    process.flags = {40: 1 << KPF_RESERVED, 41: 1 << KPF_NOPAGE, 42: 0}
    process.map(0, 40, 41, 42)
    process.map(8, 40, 41, 42)
    with process.open() as pagemap:
        counts = reader().counts(pagemap, [span(0, 8, special=True), span(8, 16)])
    assert counts[:, 0].tolist() == [1, 3]


def test_a_leftover_huge_zero_page_is_found_by_its_flags(process: FakeProcess) -> None:
    process.flags = {HUGE_ZERO: 1 << KPF_ZERO_PAGE | 1 << KPF_THP, 512: 1 << KPF_THP}
    process.map(0, *range(HUGE_ZERO, HUGE_ZERO + 512), bits=PM_PRESENT)
    process.map(512, *range(512, 1024), bits=PM_PRESENT)
    with process.open() as pagemap:
        counts = reader(huge=None).counts(pagemap, [span(0, 512), span(512, 1024)])
    assert counts.sum(axis=1).tolist() == [0, 512]


def test_a_hugetlb_page_counts_once_and_in_the_span_of_its_head(process: FakeProcess) -> None:
    process.map(512, *range(2 * BLOCK, 2 * BLOCK + 512))
    process.map(1536, *range(1024, 1536))
    with process.open() as pagemap:
        counts = reader().counts(pagemap, [span(0, 600, 2 << 20), span(600, 1024, 2 << 20), span(1024, 2048, 2 << 20)])
    assert counts[:, [0, 2]].tolist() == [[0, 1], [0, 0], [1, 0]]


def test_hugetlb_between_neighbours(process: FakeProcess) -> None:
    process.map(0, *range(64, 64 + 512))
    process.map(512, *range(2 * BLOCK, 2 * BLOCK + 512))
    process.map(1024, 70, 71)
    with process.open() as pagemap:
        counts = reader().counts(pagemap, [span(0, 512), span(512, 1024, 2 << 20), span(1024, 1030)])
    assert counts[:, [0, 2]].tolist() == [[512, 0], [0, 1], [2, 0]]


def test_counted_pages_tell_each_entry(process: FakeProcess) -> None:
    process.map(0, ZERO, bits=PM_PRESENT)
    process.map(3, 70, bits=PM_PRESENT | PM_FILE)
    process.map(4, 2 * BLOCK)
    process.map(20, 80)
    with process.open() as pagemap:
        pages = reader().counted_pages(pagemap, [span(0, 10), span(10, 30)])
        nothing = reader().counted_pages(pagemap, [])
    assert pages.pfn.tolist() == [70, 2 * BLOCK, 80]
    assert pages.span.tolist() == [0, 0, 1]
    assert pages.node.tolist() == [0, 2, 0]
    assert pages.exclusive.tolist() == [False, True, True]
    assert pages.anon.tolist() == [False, True, True]
    assert nothing.pfn.size == nothing.span.size == 0


def test_ambiguous_blocks_are_asked_of_the_kernel_by_address(
    process: FakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, list[int]]] = []

    def answer(pid: int, addresses: pagemap_module.U64Array) -> pagemap_module.I64Array:
        asked.append((pid, (addresses // PAGE).tolist()))
        return np.array([2, 0, -14, 1][: addresses.size])

    monkeypatch.setattr(pagemap_module, "nodes_of_addresses", answer)
    shared = topology({0: (0, 2), 1: (0,), 2: (2,)})
    shared = Topology(**{**vars(shared), "zones": (Zone(0, "Normal", 0, 2 * BLOCK), Zone(2, "Normal", 0, 3 * BLOCK))})
    process.map(0, BLOCK)
    process.map(100, 70, 71, 2 * BLOCK, 72)
    process.map(300, 73)
    with process.open() as pagemap:
        counts = reader(shared).counts(pagemap, [span(0, 200), span(200, 400)])
    assert asked == [(PID, [100, 101, 103, 300])]
    # -14 is a page that is gone, and node 1 has no memory.
    assert counts[:, [0, 1, 2]].tolist() == [[2, 0, 2], [0, 0, 0]]


def test_many_node_ids(process: FakeProcess) -> None:
    many = topology({0: (0,), 1: (253,)}, possible=1024, has_memory=(0, 253))
    process.map(0, 70, BLOCK, 3 * BLOCK)
    with process.open() as pagemap:
        counts = reader(many).counts(pagemap, [span(0, 2), span(2, 8), span(8, 9)])
    assert counts.shape == (3, 1024)
    assert counts[0, [0, 253]].tolist() == [1, 1]
    assert counts.sum() == 2


def test_no_answer_means_that_the_target_is_gone(process: FakeProcess) -> None:
    with process.open() as pagemap, pytest.raises(TargetGone):
        reader().counts(pagemap, [span(0, process.pages + 1)])
    with pytest.raises(TargetGone):
        Pagemap(PID + 1, process.root)


def test_a_closed_pagemap_says_so(process: FakeProcess) -> None:
    pagemap = process.open()
    pagemap.close()
    pagemap.close()
    with pytest.raises(ValueError, match="closed"):
        pagemap.read(0, PAGE)


def test_a_kernel_without_the_scan_reads_everything(process: FakeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagemap_module, "_SCAN_SLACK", 10)
    monkeypatch.setattr(pagemap_module, "_SCAN_SPAN", PAGE)
    process.map(3000, 70)
    process.resident(1)
    with process.open() as pagemap:
        assert pagemap.scan_present([(0, PAGE)]) is None
        assert reader().counts(pagemap, [span(0, 4096)])[0, 0] == 1


def test_holes_are_skipped_and_short_ones_read(process: FakeProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagemap_module, "_SCAN_SLACK", 10)
    monkeypatch.setattr(pagemap_module, "_SCAN_SPAN", PAGE)
    read: list[tuple[int, int]] = []
    mapped = [0, 1, 40, 2000, 4000]

    def scan(self: Pagemap, start: int, end: int) -> list[np.ndarray[tuple[int], np.dtype[np.void]]]:
        regions = np.zeros(len(mapped), dtype=SCAN_REGION)
        regions["start"] = np.array(mapped) * PAGE
        regions["end"] = np.array(mapped) * PAGE + PAGE
        return [regions, regions[:0]]

    def read_into(self: Pagemap, start: int, entries: pagemap_module.U64Array) -> None:
        if entries.size:
            read.append((start // PAGE, start // PAGE + entries.size))
        entries[:] = process.entries[start // PAGE : start // PAGE + entries.size]

    monkeypatch.setattr(Pagemap, "scan", scan)
    monkeypatch.setattr(Pagemap, "read_into", read_into)
    for page in mapped:
        process.map(page, 70)
    process.resident(len(mapped))
    with process.open() as pagemap:
        assert reader().counts(pagemap, [span(0, 4096)])[0, 0] == len(mapped)
    assert read == [(0, 41), (2000, 2001), (4000, 4001)]


ENTRY = st.sampled_from(
    [0, SWAPPED, PM_PRESENT | ZERO]
    + [
        PM_PRESENT | bits | pfn
        for bits in (0, PM_EXCLUSIVE, PM_FILE)
        for pfn in (70, BLOCK, 2 * BLOCK, 3 * BLOCK, 1 << 40)
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_batches_and_threads_do_not_change_the_counts(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Every way of cutting the work gives what a plain loop over the entries gives."""
    process = FakeProcess(tmp_path_factory.mktemp("proc"), 400)
    process.entries[:] = data.draw(st.lists(ENTRY, min_size=20, max_size=20)) * 20
    edges = sorted(data.draw(st.sets(st.integers(0, 400), min_size=2, max_size=12)))
    spans = [span(first, last) for first, last in itertools.pairwise(edges)]
    spans = data.draw(st.permutations([one for one in spans if data.draw(st.booleans())]))
    node_of_block = {0: 0, 1: 0, 2: 2}
    expected = np.zeros((len(spans), 5), dtype=np.int64)
    for row, (start, end, _, _) in enumerate(spans):
        for entry in process.entries[start // PAGE : end // PAGE].tolist():
            pfn = entry & ((1 << 55) - 1)
            if entry & PM_PRESENT and pfn != ZERO and pfn // BLOCK in node_of_block:
                expected[row, node_of_block[pfn // BLOCK]] += 1
    with pytest.MonkeyPatch.context() as patch, process.open() as pagemap:
        patch.setattr(pagemap_module, "_BATCH_ENTRIES", data.draw(st.integers(1, 300)))
        patch.setattr(pagemap_module, "_LARGE_PIECE", data.draw(st.integers(1, pagemap_module._BATCH_ENTRIES)))
        patch.setattr(pagemap_module, "_BATCH_PIECES", data.draw(st.integers(1, 4)))
        patch.setattr(pagemap_module, "_PARALLEL_ENTRIES", data.draw(st.sampled_from([0, 1 << 20])))
        patch.setattr(pagemap_module, "_REGION_BYTES", PAGE)
        assert (reader(threads=3).counts(pagemap, spans) == expected).all()
        pages = reader(threads=3).counted_pages(pagemap, spans)
    again = np.zeros_like(expected)
    np.add.at(again, (pages.span, pages.node), 1)
    assert (again == expected).all()
