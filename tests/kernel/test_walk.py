"""The walk by itself: VMAs against /proc/PID/maps, the self-test that must not be fooled, and the cache of programs."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.kernel.target import Target, read_truth
from tests.kernel.world import World
from tracer.errors import NumatraceError
from tracer.kernel import cache, selftest
from tracer.kernel.btf import Btf
from tracer.kernel.machinery import Machinery, Options
from tracer.kernel.pagemap import Pagemap, PagemapReader
from tracer.kernel.procfs import read_maps, resident_pages, resident_pages_are_exact
from tracer.kernel.programs import Compilation
from tracer.kernel.selftest import check_walk
from tracer.kernel.topology import read_topology
from tracer.kernel.walk import PAGE, REGION, PageTables, Prepared, WalkUnfit
from tracer.session import Session


@pytest.fixture(scope="module")
def frames() -> PagemapReader:
    return PagemapReader(read_topology())


@pytest.fixture
def tables(frames: PagemapReader) -> Iterator[PageTables]:
    """Fresh programs: some tests spoil what they know."""
    found = PageTables(Prepared(Btf(), read_topology()))
    found.set_huge_zero(frames.zero_pages.huge_pfn)
    yield found
    found.close()


def bounds(pid: int) -> list[tuple[int, int]]:
    return [(entry.start, entry.end) for entry in read_maps(pid)]


def walked(tables: PageTables, mm: int) -> list[tuple[int, int]]:
    records = tables.vmas(mm)
    assert records is not None
    return [(int(record["start"]), int(record["end"])) for record in records]


def test_the_vma_list_of_a_process_equals_its_maps(tables: PageTables) -> None:
    with Target() as target, Pagemap(target.pid) as pagemap:
        mm = tables.find_mm(pagemap.fileno(), bounds(target.pid)[0][0])
        assert walked(tables, mm) == bounds(target.pid)
        assert int(tables.look(mm)["map_count"]) == len(bounds(target.pid))
        assert int(tables.look(mm)["owner_tgid"]) == target.pid


def test_a_list_of_thousands_of_vmas(tables: PageTables) -> None:
    """Our own: every second page read-only, so more VMAs than one run of the program gives."""
    count = 3000
    memory = mmap.mmap(-1, count * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for page in range(0, count, 2):
        assert libc.mprotect(ctypes.c_void_p(address + page * PAGE), ctypes.c_size_t(PAGE), mmap.PROT_READ) == 0
    inside = [(a, b) for a, b in walked(tables, tables.own_mm()) if address <= a < address + count * PAGE]
    assert inside == [(a, b) for a, b in bounds(os.getpid()) if address <= a < address + count * PAGE]
    assert len(inside) >= count - 1


def test_resident_pages_are_added_up_over_all_cpus(
    tables: PageTables, quiet_machine: None, nodes: list[int], files: Path
) -> None:
    """Each page counts at once, on whichever CPU it comes and goes. Up to 6.1 the threads keep their part."""
    length = 7 * PAGE  # far below a batch
    with Target() as target, Pagemap(target.pid) as pagemap:
        mm = tables.find_mm(pagemap.fileno(), bounds(target.pid)[0][0])
        if "TASK_RSS" in tables.constants:
            assert tables.resident_pages(mm) == -1
            return
        world = World(target, nodes, files)
        world.map(0, length)
        world.advise(0, length, mmap.MADV_NOHUGEPAGE)
        reserved = tables.resident_pages(mm) - mapped(target.pid)  # as the vDSO, which numa_maps leaves out
        for cpu in sorted(os.sched_getaffinity(0)):
            world.pinned(0, length, cpu)
            world.join()
            assert tables.resident_pages(mm) == mapped(target.pid) + reserved
            if resident_pages_are_exact():
                assert tables.resident_pages(mm) == resident_pages(target.pid)
            world.advise(0, 3 * PAGE, mmap.MADV_DONTNEED)
            assert tables.resident_pages(mm) == mapped(target.pid) + reserved
            world.advise(0, length, mmap.MADV_DONTNEED)


def mapped(pid: int) -> int:
    """Pages in numa_maps."""
    return sum(read_truth(pid).pages(0, 1 << 47).values())


def test_the_self_test_passes_and_says_how_much_it_compared(tables: PageTables, frames: PagemapReader) -> None:
    assert check_walk(tables, frames) > 6 * 512


def _spoil_nodes(tables: PageTables) -> None:
    tables.node_bins[:] = tables.nowhere * tables.constants["BIN_STEP"]


def _spoil_direct_map(tables: PageTables) -> None:
    tables.request[0]["paging"]["direct_map"] += 1 << 30


def _spoil_count(tables: PageTables) -> None:
    """As if every table were full: what a wrong short cut would say."""
    count = tables.count

    def full(*arguments: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> object:
        found = count(*arguments)  # type: ignore[arg-type]
        found[0, 0] += 1
        return found

    tables.count = full  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("spoil", [_spoil_nodes, _spoil_direct_map, _spoil_count])
def test_the_self_test_notices(spoil: object, tables: PageTables, frames: PagemapReader) -> None:
    assert callable(spoil)
    spoil(tables)
    with pytest.raises(WalkUnfit, match="self-test"):
        check_walk(tables, frames)


def test_a_walk_that_fails_its_self_test_is_replaced_by_pagemap(monkeypatch: pytest.MonkeyPatch) -> None:
    def differing(*_: object) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        return np.ones(3, bool)

    monkeypatch.setattr(selftest, "differing_frames", differing)
    with Target() as target, Session(target.pid) as session:
        snapshot = session.refresh().only
        assert (snapshot.hooks, snapshot.reader) == ("tracepoint", "pagemap")
        (said,) = (note for note in session.notes if "self-test" in note)
        assert "pagemap" in said
    with pytest.raises(WalkUnfit):
        Machinery(Options(reader="walk"), [])


def test_entries_are_those_of_pagemap(tables: PageTables) -> None:
    with Pagemap(os.getpid()) as pagemap:
        memory = mmap.mmap(-1, 3 * REGION, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for page in range(0, 3 * REGION, 5 * PAGE):
            memory[page] = 1
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        addresses = np.arange(address, address + 3 * REGION, PAGE)
        told = pagemap.read(address, address + 3 * REGION)
        pgd = int(tables.look(tables.own_mm())["pgd"])
        assert not selftest.differing_frames(tables, pgd, addresses, told).any()
        told[7] ^= np.uint64(1)
        told[0] ^= np.uint64(1 << 63)
        assert np.flatnonzero(selftest.differing_frames(tables, pgd, addresses, told)).tolist()[0] == 0


class TestCache:
    """Compiled programs are kept; whatever is wrong with the file, the programs are the right ones."""

    @pytest.fixture(autouse=True)
    def own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("NUMATRACE_FACTS", str(tmp_path / "facts"))
        return tmp_path / "facts"

    def prepared(self) -> tuple[bool, dict[str, object]]:
        """(compiled anew, image)."""
        prepared = Prepared(Btf(), read_topology())
        compiled = prepared.compilation._process is not None
        return compiled, prepared.compilation.image()

    def test_the_second_start_does_not_compile(self, own_cache: Path) -> None:
        first = self.prepared()
        assert first[0]
        assert self.prepared() == (False, first[1])
        (kept,) = own_cache.glob("bpf-*")
        assert kept.stat().st_mode & 0o777 == 0o600
        kept.write_text("{ not JSON")
        assert self.prepared() == (True, first[1])
        os.chown(kept, 65534, 65534)
        assert self.prepared() == (True, first[1]), "a file that another user could have written"

    def test_another_source_is_another_image(self) -> None:
        a = Compilation(["common.h", "entry.h"], {"BINS": 8})
        b = Compilation(["common.h", "entry.h"], {"BINS": 16})
        a.abandon()
        b.abandon()
        assert a._key != b._key

    def test_an_error_of_the_compiler_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "wrong.c").write_text("int program(void) { return unknown; }")
        with pytest.raises(NumatraceError, match=r"wrong\.c:1:28: error: .*unknown") as caught:
            Compilation([str(tmp_path / "wrong.c")], {}).image()
        assert "\n" not in caught.value.message

    def test_a_link_in_the_cache_is_not_followed(self, own_cache: Path, tmp_path: Path) -> None:
        own_cache.mkdir()
        (own_cache / "fact").symlink_to(tmp_path / "elsewhere")
        assert cache.read_cached("fact") is None
        cache.write_cached("fact", "text")
        assert not (tmp_path / "elsewhere").exists()
        assert cache.read_cached("fact") == "text"
