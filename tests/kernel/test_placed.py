"""Which page was put where it is by which thread, and under which policy of that thread: told by the hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.kernel import machine
from tests.kernel.frames import placed
from tests.kernel.target import Target
from tests.kernel.world import HUGE, PAGE, SHARED, World
from tracer.kernel.epoch import Drained, PlacedRows
from tracer.kernel.hooks import Hooks
from tracer.kernel.machinery import Machinery, Options
from tracer.kernel.pagemap import Pagemap
from tracer.model.events import Kind
from tracer.model.policy import Mode

NO_HUGE_PAGE, HUGE_PAGE, RANDOM = 15, 14, 1  # madvise(2)
HUGE_SHIFT, GIGANTIC_SHIFT = 21, 30
OPTIONS = Options(hooks="tracepoint", reader="walk", policies=True)


@dataclass(frozen=True, slots=True)
class Followed:
    """A target under the hooks alone, with its number there."""

    hooks: Hooks
    number: int
    target: Target

    def drained(self) -> Drained:
        """What has happened since the last time, with the faults that no other has followed on their CPU."""
        for waiting in self.hooks.pending().values():
            for it in waiting:
                self.hooks.count_finished(it, False, None)
        return self.hooks.swap().targets.get(self.number, Drained())


@contextlib.contextmanager
def followed(options: Options) -> Iterator[Followed]:
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(Target())
        it = Machinery(options, [])
        stack.callback(it.close)
        assert it.tables is not None
        assert it.hooks is not None
        pagemap = stack.enter_context(Pagemap(target.pid))
        mm = it.tables.find_mm(pagemap.fileno(), World(target, [], Path("/nowhere")).address(0))
        yield Followed(it.hooks, it.hooks.add(mm, target.pid), target)


@pytest.fixture(scope="module")
def hooked(quiet_machine: None) -> Iterator[Followed]:
    with followed(OPTIONS) as it:
        yield it


@pytest.fixture
def world(hooked: Followed, nodes: list[int], files: Path) -> Iterator[World]:
    it = World(hooked.target, nodes, files)
    yield it
    it.clear()
    hooked.drained()


@pytest.fixture
def cpu() -> int:
    return min(machine.cpu_of_each_node().values())


class Placement(NamedTuple):
    """A page as a row tells of it. page: number, counted from the beginning of the world's slot."""

    page: int
    kind: Kind
    policy: int
    thread: int


def placements(parts: list[PlacedRows], world: World, length: int) -> list[Placement]:
    """Of the first `length` bytes of the world's slot, one a page and row, ascending."""
    found = []
    for rows in parts:
        row, bit = np.nonzero(rows.pages)
        page = ((rows.address[row] & -HUGE) - world.address(0) >> 12) + bit
        for i in np.flatnonzero((page >= 0) & (page < length // PAGE)).tolist():
            at = int(row[i])
            found.append(Placement(int(page[i]), Kind(int(rows.kind[at])), int(rows.policy[at]), int(rows.thread[at])))
    return sorted(found)


def present(world: World, length: int) -> list[int]:
    """Numbers of the pages that are there, by pagemap."""
    return np.flatnonzero(placed(world.pid, world.address(0), length).frames).tolist()


def small_pages(world: World, length: int) -> None:
    world.map(0, length)
    world.advise(0, length, NO_HUGE_PAGE)


def test_every_new_page_is_told_once_with_its_thread(hooked: Followed, world: World, cpu: int) -> None:
    length = 3 * HUGE
    small_pages(world, length)
    hooked.drained()
    world.write(0, length // 2, 3 * PAGE)
    thread = world.pinned(length // 2, length // 2, cpu)
    told = placements(hooked.drained().placed, world, length)
    assert [it.page for it in told] == present(world, length)
    halfway = length // 2 // PAGE
    assert {(it.kind, it.policy, it.thread) for it in told if it.page < halfway} == {(Kind.NEW, 0, world.pid)}
    assert {(it.kind, it.policy, it.thread) for it in told if it.page >= halfway} == {(Kind.NEW, 0, thread)}


def test_a_page_that_comes_again_is_told_again(hooked: Followed, world: World) -> None:
    small_pages(world, HUGE)
    world.write(0, HUGE)
    hooked.drained()
    world.advise(5 * PAGE, 7 * PAGE, 4)  # MADV_DONTNEED
    world.write(0, HUGE)
    assert [it.page for it in placements(hooked.drained().placed, world, HUGE)] == list(range(5, 12))


def test_policies_of_threads_tell_them_apart(hooked: Followed, world: World, cpu: int) -> None:
    """Each thread has a copy of its maker's policy, and so a hash of its own."""
    small_pages(world, HUGE)
    hooked.drained()
    world.policy(Mode.INTERLEAVE, world.mask)
    world.write(0, 10 * PAGE)
    first = world.pinned(10 * PAGE, 10 * PAGE, cpu)
    world.policy(Mode.DEFAULT, 0)
    world.write(20 * PAGE, 10 * PAGE)
    told = placements(hooked.drained().placed, world, HUGE)
    policies = [{(it.thread, it.policy) for it in told[at : at + 10]} for at in (0, 10, 20)]
    assert [len(them) for them in policies] == [1, 1, 1]
    (main, own), (thread, copied), (again, none) = (them.pop() for them in policies)
    assert (main, thread, again) == (world.pid, first, world.pid)
    assert own != 0
    assert copied not in (0, own)
    assert none == 0


def test_two_areas_of_a_region_are_two_spans(hooked: Followed, world: World) -> None:
    small_pages(world, 64 * PAGE)
    world.protect(32 * PAGE, 32 * PAGE, 1)  # PROT_READ
    world.protect(32 * PAGE, 32 * PAGE, 7)
    hooked.drained()
    world.write(31 * PAGE, 2 * PAGE)
    (rows,) = hooked.drained().placed
    spans = dict(zip(rows.address.tolist(), (np.flatnonzero(p).tolist() for p in rows.pages), strict=True))
    assert spans[world.address(0)] == [31]
    assert spans[world.address(32 * PAGE)] == [32]


def test_copies_and_reads(hooked: Followed, world: World) -> None:
    """The zero page is nobody's; a write puts a page there; what the child shares is copied by who writes first."""
    small_pages(world, 64 * PAGE)
    hooked.drained()
    world.read(0, 64 * PAGE)
    assert placements(hooked.drained().placed, world, HUGE) == []
    world.write(0, 32 * PAGE)
    told = placements(hooked.drained().placed, world, HUGE)
    assert told == [Placement(page, Kind.NEW, 0, world.pid) for page in range(32)]
    world.ask("fork")
    world.write(8 * PAGE, 4 * PAGE)
    told = placements(hooked.drained().placed, world, HUGE)
    assert told == [Placement(page, Kind.COW, 0, world.pid) for page in range(8, 12)]


def test_a_huge_page_is_all_its_pages(hooked: Followed, world: World) -> None:
    world.map(0, 3 * HUGE)
    world.advise(0, 3 * HUGE, HUGE_PAGE)
    hooked.drained()
    world.write(HUGE + 5 * PAGE, HUGE, HUGE)
    assert world.transparent_huge(0) == HUGE
    told = placements(hooked.drained().placed, world, 3 * HUGE)
    assert told == [Placement(page, Kind.HUGE, 0, world.pid) for page in range(512, 1024)]


@pytest.mark.parametrize("flags", [None, SHARED | 0x20], ids=["private", "shared"])
def test_a_hugetlb_page_is_its_first_page(hooked: Followed, world: World, flags: int | None) -> None:
    world.map_hugetlb(0, 3 * HUGE, HUGE_SHIFT, *() if flags is None else (flags,))
    hooked.drained()
    world.write(HUGE + 77 * PAGE, 2 * HUGE, HUGE)
    told = placements(hooked.drained().placed, world, 3 * HUGE)
    assert told == [Placement(page, Kind.HUGE, 0, world.pid) for page in (512, 1024)]


def test_a_gigantic_page_is_the_first_page_of_its_first_region(hooked: Followed, world: World) -> None:
    """Wherever in it the fault is. The same with pages of 2 MiB, which are all that a small machine can give."""
    length = 1 << GIGANTIC_SHIFT
    for shift in (HUGE_SHIFT, GIGANTIC_SHIFT):
        if not machine.free_huge_pages(shift):
            continue
        world.map_hugetlb(0, length if shift == GIGANTIC_SHIFT else HUGE, shift)
        hooked.drained()
        world.write((1 << shift) - 5 * PAGE, PAGE)
        told = placements(hooked.drained().placed, world, length)
        assert told == [Placement(0, Kind.HUGE, 0, world.pid)]
        world.unmap(0, length)


def test_what_waits_for_a_disk_knows_the_policy_before(hooked: Followed, world: World, cpu: int) -> None:
    pages = 24
    world.open(pages * PAGE)
    world.map(0, pages * PAGE, flags=2, prot=1, file=True)  # MAP_PRIVATE, PROT_READ
    world.advise(0, pages * PAGE, RANDOM)
    Path("/proc/sys/vm/drop_caches").write_text("1")
    hooked.drained()
    world.policy(Mode.INTERLEAVE, world.mask)
    thread = world.pinned_read(0, pages * PAGE, cpu)
    told = placements(hooked.drained().placed, world, pages * PAGE)
    assert [it.page for it in told] == list(range(pages))
    assert {(it.kind, it.thread) for it in told} == {(Kind.MAJOR, thread)}
    assert len({it.policy for it in told} - {0}) == 1


def test_faults_are_told_apart_only_when_they_are_asked_for(hooked: Followed, world: World) -> None:
    small_pages(world, HUGE)
    hooked.drained()
    world.write(0, HUGE)
    assert hooked.drained().fault_rows == []
    for options, named in ((Options(policies=True, faults=True), 0), (Options(policies=True, threads=True), 1)):
        with followed(options) as other:
            there = World(other.target, world.nodes, world.directory)
            small_pages(there, HUGE)
            other.drained()
            there.write(0, HUGE)
            drained = other.drained()
            (rows,) = drained.fault_rows
            inside = rows.address == there.address(0)
            assert rows.faults[inside].sum() == 512
            assert set(rows.thread[inside].tolist()) == {named * there.pid}
            assert [it.page for it in placements(drained.placed, there, HUGE)] == list(range(512))


def test_without_policies_nothing_is_told() -> None:
    with followed(Options(threads=True)) as other:
        there = World(other.target, [0], Path("/nowhere"))
        small_pages(there, HUGE)
        there.write(0, HUGE)
        drained = other.drained()
        assert drained.fault_rows
        assert drained.placed == []
        assert drained.calls == []
