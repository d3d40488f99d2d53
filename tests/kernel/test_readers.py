"""The readers of /proc and /sys against the kernel's own account, on the machine at hand, as root."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.kernel.operations import OPERATIONS
from tests.kernel.target import Target, wait_asleep
from tests.kernel.world import ANON, HUGE, PAGE, SHARED, KernelLacks, World
from tracer.errors import NumatraceError
from tracer.kernel import procfs
from tracer.kernel.move_pages import nodes_of_addresses
from tracer.kernel.numa_maps import NumaLine, counts_by_vma, read_numa_maps
from tracer.kernel.pageflags import KPF_ANON, KPF_NOPAGE, details, has_flag
from tracer.kernel.pagemap import PM_PRESENT, Pagemap, PagemapReader, Span, page_counts, page_flags
from tracer.kernel.procfs import MapsEntry, TargetGone, check_target, kind_of, may_hold_reserved, read_maps
from tracer.kernel.topology import AMBIGUOUS, NO_MEMORY, Topology, read_topology
from tracer.kernel.zero_pages import ZeroPages

IDLE = "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"
GIB = 1 << 30


@pytest.fixture(scope="module")
def topology() -> Topology:
    return read_topology()


@pytest.fixture(scope="module")
def reader(topology: Topology, quiet_machine: None) -> PagemapReader:
    return PagemapReader(topology)


@pytest.fixture(scope="module")
def target(quiet_machine: None) -> Iterator[Target]:
    with Target() as running:
        yield running


def look(pid: int) -> tuple[list[MapsEntry], list[NumaLine], list[Span]]:
    """The VMAs of a process at rest, the kernel's count of each, and what a reader is asked for."""
    entries, lines = read_maps(pid), read_numa_maps(pid)
    assert [entry.start for entry in entries] == [line.start for line in lines]
    spans = []
    for entry, line in zip(entries, lines, strict=True):
        hugetlb = (line.page_kb or 2048) << 10 if line.huge else 0
        spans.append(Span(entry.start, entry.end, hugetlb, may_hold_reserved(entry)))
    return entries, lines, spans


def differences(pid: int, reader: PagemapReader) -> list[str]:
    """The VMAs in which the reader and numa_maps disagree; the kernel is asked before and after."""
    entries, lines, spans = look(pid)
    with Pagemap(pid) as pagemap:
        counts = reader.counts(pagemap, spans)
    # Not the whole lines: mapmax of a shared library changes when any other process starts or ends.
    after = [(line.start, line.nodes) for line in read_numa_maps(pid)]
    assert after == [(line.start, line.nodes) for line in lines], f"process {pid} is not at rest"
    truth = counts_by_vma(lines, [entry.start for entry in entries], reader.topology.nr_node_ids)
    wrong = np.flatnonzero((counts != truth).any(axis=1))
    return [f"{entries[row]}: read {counts[row].tolist()}, kernel {truth[row].tolist()}" for row in wrong]


def others_at_rest() -> list[int]:
    """Processes that sleep, are nobody's kernel thread, and may be looked at."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                check_target(int(name))
                if procfs.state(int(name)) == "S":
                    found.append(int(name))
            except NumatraceError:
                continue
    return found


@pytest.mark.parametrize("name", OPERATIONS)
def test_pagemap_counts_what_numa_maps_counts(
    name: str, target: Target, nodes: list[int], files: Path, reader: PagemapReader
) -> None:
    world = World(target, nodes, files)
    try:
        for step in OPERATIONS[name](world):
            for pid in filter(None, (target.pid, target.child_pid)):
                assert differences(pid, reader) == [], f"{name}, {step.name}, process {pid}"
    except KernelLacks:
        pass  # the table of the exactness test says so
    finally:
        world.clear()


def test_other_processes_at_rest(reader: PagemapReader) -> None:
    with subprocess.Popen([sys.executable, "-c", IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert idle.stdout is not None
        assert idle.stdout.read(1) == b"x"
        wait_asleep(idle.pid)
        assert differences(idle.pid, reader) == []
        idle.communicate()


def test_every_sleeping_process_of_the_machine(reader: PagemapReader) -> None:
    compared = 0
    for pid in others_at_rest():
        for _ in range(20):  # somebody else's process may wake up at any time
            try:
                wrong = differences(pid, reader)
            except (AssertionError, TargetGone):
                continue
            assert wrong == [], f"process {pid} {procfs.comm(pid)!r}"
            compared += 1
            break
    assert compared >= 1  # the shell or service that runs this test sleeps


def test_one_thread_and_many_agree_on_a_large_process(topology: Topology, target: Target, nodes: list[int]) -> None:
    world = World(target, nodes, Path("/"))
    one, four = PagemapReader(topology, threads=1), PagemapReader(topology, threads=4)
    try:
        # Untouched holes between touched pages, and enough entries for several batches and all threads.
        world.map(0, GIB, ANON)
        for offset in range(0, GIB, GIB // 16):
            world.write(offset, 300 * PAGE)
        _, _, spans = look(target.pid)
        seen: list[tuple[int, int]] = []
        with Pagemap(target.pid) as pagemap:
            counts = one.counts(pagemap, spans, lambda done, total: seen.append((done, total)))
            assert (counts == four.counts(pagemap, spans)).all()
        assert differences(target.pid, one) == differences(target.pid, four) == []
        assert seen[-1][0] == seen[-1][1]
        assert seen == sorted(seen)
    finally:
        world.clear()


def test_scan_finds_the_present_pages(target: Target, nodes: list[int]) -> None:
    world = World(target, nodes, Path("/"))
    try:
        world.map(0, 64 * HUGE, ANON)
        for page in (0, 1, 3, 512, 20_000):
            world.write(page * PAGE, PAGE)
        start, end = world.address(0), world.address(64 * HUGE)
        with Pagemap(target.pid) as pagemap:
            entries = pagemap.read(start, end)
            found = pagemap.scan_present([(start, end)])
        present = np.flatnonzero(entries & np.uint64(PM_PRESENT)).tolist()
        assert present == [0, 1, 3, 512, 20_000]
        if found is None:  # before 6.7
            assert tuple(map(int, os.uname().release.split(".")[:2])) < (6, 7)
        else:
            pages = [page for first, last in found for page in range(first, last, PAGE)]
            assert [(page - start) // PAGE for page in pages] == present
    finally:
        world.clear()


def test_scan_of_thousands_of_separate_pages(target: Target) -> None:
    # More regions than the kernel's own buffer holds (512), and than one call returns (4096).
    span = max(look(target.pid)[2], key=lambda span: span.end - span.start)
    with Pagemap(target.pid) as pagemap:
        found = pagemap.scan_present([(span.start, span.end)] * 5)
        entries = pagemap.read(span.start, span.end)
    if found is not None:
        present = int(np.count_nonzero(entries & np.uint64(PM_PRESENT)))
        assert present > 1000
        assert sum(end - start for start, end in found) == 5 * present * PAGE


def test_scan_goes_on_when_its_array_is_full(target: Target, nodes: list[int]) -> None:
    world = World(target, nodes, Path("/"))
    try:
        world.map(0, 80 << 20, ANON)
        world.write(0, 80 << 20, 2 * PAGE)
        start, end = world.address(0), world.address(80 << 20)
        with Pagemap(target.pid) as pagemap:
            found = pagemap.scan_present([(start, end)])
        if found is not None:
            assert found == [(page, page + PAGE) for page in range(start, end, 2 * PAGE)]
    finally:
        world.clear()


def test_a_hugetlb_page_belongs_to_the_span_of_its_first_address(
    target: Target, nodes: list[int], reader: PagemapReader
) -> None:
    world = World(target, nodes, Path("/"))
    try:
        world.map(0, 2 * HUGE, ANON | 0x40000)
        world.write(0, 2 * HUGE)
        start, middle, end = world.address(HUGE // 2), world.address(HUGE), world.address(2 * HUGE)
        with Pagemap(target.pid) as pagemap:
            counts = reader.counts(pagemap, [(start, middle, HUGE, False), (middle, end, HUGE, False)])
        assert counts.sum(axis=1).tolist() == [0, 1]
    finally:
        world.clear()


def detail_rows(pid: int, reader: PagemapReader, dirty: bool) -> dict[int, dict[str, int]]:
    """Start of VMA -> the fields that `details` finds, with every page table entry taken as dirty or as clean."""
    entries, _, spans = look(pid)
    with Pagemap(pid) as pagemap:
        pages = reader.counted_pages(pagemap, spans)
    size = pages.pfn.size
    found = details(pages.pfn, np.full(size, dirty), pages.span, np.ones(size, dtype=np.int64), len(spans))
    names = ("anon", "dirty", "mapmax", "swapcache", "active", "writeback")
    return {entry.start: {name: int(getattr(found, name)[row]) for name in names} for row, entry in enumerate(entries)}


def printed(line: NumaLine) -> dict[str, int]:
    """All fields of a line, those that show_numa_map() leaves out filled in by its own rules."""
    pages, fields = sum(line.nodes.values()), dict(line.fields)
    default = {"anon": 0, "dirty": 0, "mapmax": min(pages, 1), "swapcache": 0, "active": pages, "writeback": 0}
    return {name: fields.get(name, value) for name, value in default.items()}


def test_details_equal_the_fields_of_numa_maps(
    target: Target, nodes: list[int], files: Path, reader: PagemapReader
) -> None:
    world = World(target, nodes, files)
    try:
        world.map(0, 8 * PAGE, ANON)
        world.write(0, 5 * PAGE)
        world.map(HUGE, 2 * HUGE, ANON)
        world.advise(HUGE, 2 * HUGE, mmap.MADV_HUGEPAGE)
        world.write(HUGE, 2 * HUGE)
        world.map(4 * HUGE, 64 * PAGE, SHARED | mmap.MAP_ANONYMOUS)
        world.write(4 * HUGE, 9 * PAGE)
        target.ask("fork")
        lines = read_numa_maps(target.pid)
        clean, dirty = (detail_rows(target.pid, reader, every) for every in (False, True))
        compared = 0
        for line in lines:
            if line.huge or not line.nodes:
                continue
            expected = printed(line)
            # The dirty bit of an entry is not in pagemap: the truth lies between "none" and "all".
            least, most = clean[line.start].pop("dirty"), dirty[line.start].pop("dirty")
            assert least <= expected.pop("dirty") <= most == sum(line.nodes.values())
            assert clean[line.start] == dirty[line.start] == expected, line
            compared += 1
        assert compared >= 10
        assert clean[world.address(HUGE)]["anon"] == 1024
        assert clean[world.address(HUGE)]["mapmax"] == 2
    finally:
        target.ask("reap")
        world.clear()


def test_flags_and_counts_of_our_own_page() -> None:
    memory = mmap.mmap(-1, PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[0] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with Pagemap(os.getpid()) as pagemap:
        pfn = pagemap.read(address, address + PAGE) & np.uint64((1 << 55) - 1)
    nowhere = np.uint64(1 << 40)
    asked = np.array([pfn[0], nowhere, pfn[0]], dtype=np.uint64)
    assert has_flag(page_flags(asked), KPF_ANON).tolist() == [True, False, True]
    assert has_flag(page_flags(asked), KPF_NOPAGE).tolist() == [False, True, False]
    assert page_counts(asked).tolist() == [1, 0, 1]


def test_move_pages_agrees_with_the_node_table(reader: PagemapReader, target: Target) -> None:
    _, _, spans = look(target.pid)
    with Pagemap(target.pid) as pagemap:
        entry = max(spans, key=lambda span: span.end - span.start)
        pages = reader.counted_pages(pagemap, [entry])
        mapped = np.flatnonzero(pagemap.read(entry.start, entry.end) >> np.uint64(63)).astype(np.uint64)
    nodes = nodes_of_addresses(target.pid, np.uint64(entry.start) + mapped * np.uint64(PAGE))
    assert nodes.size == pages.node.size > 10
    assert (nodes == pages.node).all()


def test_a_node_table_that_knows_nothing_asks_move_pages(
    topology: Topology, reader: PagemapReader, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift, table = topology.node_table()
    unsure = np.where(table == NO_MEMORY, table, np.uint8(AMBIGUOUS))
    monkeypatch.setattr(Topology, "node_table", lambda _: (shift, unsure))
    assert differences(target.pid, PagemapReader(topology)) == []


def test_a_huge_zero_page_of_others_is_recognised(
    topology: Topology, reader: PagemapReader, target: Target, nodes: list[int]
) -> None:
    """As if huge pages had been switched off after the target mapped one: then we get none of our own to compare."""
    learnt = reader.zero_pages
    assert learnt.huge_pfn is not None
    world = World(target, nodes, Path("/"))
    try:
        world.map(0, 2 * HUGE, ANON)
        world.advise(0, 2 * HUGE, mmap.MADV_HUGEPAGE)
        world.read(0, HUGE)
        address = world.address(0)
        with Pagemap(target.pid) as pagemap:
            assert int(pagemap.read(address, address + PAGE)[0]) & ((1 << 55) - 1) == learnt.huge_pfn
        assert differences(target.pid, PagemapReader(topology, zero_pages=ZeroPages(learnt.pfn))) == []
    finally:
        world.clear()


def test_the_table_knows_the_node_of_every_page_of_every_process(topology: Topology) -> None:
    shift, table = topology.node_table()
    assert set(table.tolist()) <= {*topology.has_memory, NO_MEMORY, AMBIGUOUS}
    zone_pages = {node: int((table == node).sum()) << shift for node in topology.has_memory}
    assert all(zone_pages.values())


def test_exec_and_exit_end_the_address_space(reader: PagemapReader) -> None:
    with subprocess.Popen([sys.executable, "-c", IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        spans = [Span(entry.start, entry.end) for entry in read_maps(process.pid)]
        with Pagemap(process.pid) as pagemap:
            assert reader.counts(pagemap, spans).sum() > 100
            process.communicate()
            with pytest.raises(TargetGone):
                reader.counts(pagemap, spans)
    with pytest.raises(TargetGone):
        Pagemap(process.pid)
    with pytest.raises(NumatraceError, match="no such process"):
        check_target(process.pid)


def test_what_cannot_be_a_target() -> None:
    with pytest.raises(NumatraceError, match="kernel thread"):
        check_target(2)
    process = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(NumatraceError, match="zombie"):
            check_target(process.pid)
    finally:
        process.wait()
    check_target(os.getpid())


def run_as_nobody(code: str, pid: int) -> str:
    command: Sequence[str] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    run = subprocess.run([*command, sys.executable, "-c", code, str(pid)], capture_output=True, text=True, cwd="/")
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_an_ordinary_user_is_told_what_is_missing(tmp_path: Path) -> None:
    source = Path(procfs.__file__).parents[2]
    begin = f"import sys; sys.path.insert(0, {str(source)!r})\nfrom tracer.errors import NumatraceError\n"
    ask = "try:\n    {}\nexcept NumatraceError as error:\n    print(error.message, '|', error.hint)\n"
    check = begin + "from tracer.kernel.procfs import check_target\n" + ask.format("check_target(int(sys.argv[1]))")
    learn = begin + "from tracer.kernel.zero_pages import ZeroPages\n" + ask.format("ZeroPages.learn()")
    assert "no permission" in run_as_nobody(check, os.getpid())
    assert "run as root" in run_as_nobody(check, os.getpid())
    assert "hides page frame numbers" in run_as_nobody(learn, os.getpid())


def test_names_and_kinds_agree_with_numa_maps(target: Target) -> None:
    entries, lines, _ = look(target.pid)
    assert [kind_of(entry).value for entry in entries] == [line.name for line in lines]
    for pid in others_at_rest()[:20]:
        try:
            entries, lines, _ = look(pid)
        except (AssertionError, NumatraceError):
            continue  # it is mapping just now, or gone
        assert [kind_of(entry).value for entry in entries] == [line.name for line in lines]
