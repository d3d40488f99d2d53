"""Flows are what moved: page by page as pagemap and move_pages(2) show it, in all as /proc/vmstat counts it.

A forked twin maps the same pages at the same addresses all the while. The machine is at rest but for what a test does.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import machine, outside
from tests.kernel.compare import difference
from tests.kernel.family import Family, slot_address
from tests.kernel.frames import Placed, moves, placed, vmstat
from tests.kernel.happenings import failures, flows_of, machine_wide, reasons_of
from tests.kernel.target import read_truth
from tests.kernel.traced import Traced, fight, traced_with
from tests.kernel.world import ANON, HUGE, PAGE, SHARED, KernelLacks, World
from tracer.model.policy import Mode
from tracer.model.sample import Sample
from tracer.model.selection import Selection
from tracer.model.snapshot import Snapshot
from tracer.session import Options, Session

PAGES = 1200
LENGTH = PAGES * PAGE
MOVE = 2  # MPOL_MF_MOVE
MOVE_ALL = 4
NO_HUGE_PAGE, HUGE_PAGE = 15, 14  # madvise(2)
OPTIONS = Options(hooks="tracepoint", reader="walk", flows=True)


@pytest.fixture(scope="module")
def traced(quiet_machine: None) -> Iterator[Traced]:
    with traced_with(OPTIONS) as it:
        yield it


@pytest.fixture
def session(traced: Traced) -> Session:
    traced.session.refresh()
    return traced.session


@pytest.fixture
def world(traced: Traced, nodes: list[int], files: Path) -> Iterator[World]:
    it = World(traced.target, nodes, files)
    yield it
    it.clear()


def one(sample: Sample, pid: int) -> Snapshot:
    """The snapshot of a process."""
    (snapshot,) = (it for it in sample.snapshots if it.pid == pid)
    return snapshot


def fill(world: World, offset: int = 0, length: int = LENGTH) -> None:
    """Small pages, spread over all nodes."""
    world.map(offset, length)
    world.advise(offset, length, NO_HUGE_PAGE)
    world.bind(offset, length, Mode.INTERLEAVE, world.mask)
    world.write(offset, length)


class Watched:
    """The target and its twin, what the kernel said of their pages before, and what the session says meanwhile."""

    def __init__(self, world: World, session: Session, twin: int = 0, length: int = LENGTH) -> None:
        self.world, self.session, self.length = world, session, length
        self.pids = [world.target.pid, *([twin] if twin else [])]
        self.samples: list[Sample] = []
        session.refresh()
        self.before = {pid: self._placed(pid) for pid in self.pids}
        self.stat = vmstat()

    def _placed(self, pid: int) -> Placed:
        return placed(pid, self.world.address(0), self.length)

    def changed(self, name: str) -> int:
        """By how much a counter of /proc/vmstat has grown."""
        return vmstat().get(name, 0) - self.stat.get(name, 0)

    def look(self) -> None:
        self.samples.append(self.session.refresh())

    def expected(self, pid: int, reason: str) -> Counter[tuple[int, int, str]]:
        told = moves(self.before[pid], self._placed(pid))
        return Counter({(source, to, reason): pages for (source, to), pages in told.items()})

    def flows(self, pid: int) -> Counter[tuple[int, int, str]]:
        start = self.world.address(0)
        return flows_of(self.samples, pid, start, start + self.length)

    def check(self, reason: str) -> int:
        """Equal, page for page, in each process; the number of pages that moved in the first."""
        self.look()
        for snapshot in self.samples[-1].snapshots:
            # Pages only: the policy of shared memory that the other one sets is seen some seconds later.
            assert difference(read_truth(snapshot.pid), snapshot).pages == 0
            assert (snapshot.trust.lost, snapshot.trust.unexplained) == (0, 0)
        for pid in self.pids:
            assert self.flows(pid) == self.expected(pid, reason)
        assert sum(machine_wide(self.samples).values()) == self.changed("pgmigrate_success")
        return sum(self.flows(self.pids[0]).values())


@pytest.mark.parametrize("way", ["migrate_pages", "move_pages", "mbind"])
def test_a_system_call_moves_pages_with_a_twin_present(way: str, world: World, session: Session) -> None:
    """The twin shares half of the pages and has copies of its own of the others."""
    fill(world)
    twin = int(world.ask("fork"))
    world.target.ask("child", "write", world.slot, 0, LENGTH // 2, PAGE)
    watched = Watched(world, session, twin)
    if way == "migrate_pages":
        outside.migrate_pages(world.target.pid, world.mask, 1 << world.last)
    elif way == "move_pages":
        outside.move_pages(world.target.pid, [world.address(at * PAGE) for at in range(PAGES)], world.last)
    else:
        world.bind(0, LENGTH, Mode.BIND, 1 << world.last, MOVE_ALL)
    moved = watched.check("mempolicy_mbind" if way == "mbind" else "syscall")
    elsewhere = int((watched.before[world.target.pid].nodes != world.last).sum())
    assert moved in ((elsewhere,) if way == "mbind" else (elsewhere, elsewhere // 2))


def test_a_huge_page_counts_its_small_ones(world: World, session: Session) -> None:
    world.map(0, 2 * HUGE)
    world.advise(0, 2 * HUGE, HUGE_PAGE)
    world.bind(0, 2 * HUGE, Mode.BIND, 1 << world.nodes[0])
    world.write(0, 2 * HUGE, HUGE)
    assert world.transparent_huge(0) == 2 * HUGE
    watched = Watched(world, session, length=2 * HUGE)
    world.bind(0, 2 * HUGE, Mode.BIND, 1 << world.last, MOVE)
    assert watched.check("mempolicy_mbind") == (1024 if len(world.nodes) > 1 else 0)


def test_a_hugetlb_page_counts_one(world: World, session: Session) -> None:
    try:
        world.map_hugetlb(0, HUGE, 21)
        world.bind(0, HUGE, Mode.BIND, 1 << world.nodes[0])
        world.write(0, HUGE, HUGE)
    except KernelLacks:
        pytest.fail("no huge pages in the pool")
    session.refresh()
    world.bind(0, HUGE, Mode.BIND, 1 << world.last, MOVE)
    sample = session.refresh()
    assert not difference(read_truth(world.pid), one(sample, world.pid))
    start = world.address(0)
    told = flows_of([sample], world.pid, start, start + HUGE)
    kernel = world.truth().pages(start, start + HUGE)
    assert kernel == {world.last: 1}
    several = len(world.nodes) > 1
    assert told == ({(world.nodes[0], world.last, "mempolicy_mbind"): 1} if several else {})


def test_shared_memory_and_files_flow_as_well(world: World, session: Session) -> None:
    world.memfd(LENGTH)
    world.map(0, LENGTH, SHARED, file=True)
    world.bind(0, LENGTH, Mode.BIND, 1 << world.nodes[0])
    world.write(0, LENGTH)
    twin = int(world.ask("fork"))
    world.target.ask("child", "read", world.slot, 0, LENGTH, PAGE)
    watched = Watched(world, session, twin)
    world.bind(0, LENGTH, Mode.BIND, 1 << world.last, MOVE_ALL)
    assert watched.check("mempolicy_mbind") == (PAGES if len(world.nodes) > 1 else 0)


def test_compaction_moves_pages_within_their_node(world: World, session: Session) -> None:
    """Compaction moves whose pages it likes, so only what pagemap says of the target is expected of it. Where memory is
    packed already it moves none of ours: then that is said, after some tries."""
    for _ in range(4):
        world.unmap(0, 8 * LENGTH)
        fill(world, 0, 8 * LENGTH)
        world.ask("sieve", world.slot, 0, 8 * LENGTH)
        watched = Watched(world, session, length=8 * LENGTH)
        Path("/proc/sys/vm/compact_memory").write_text("1")
        moved = watched.check("compaction")
        assert all(source == to for source, to, _ in watched.flows(world.pid))
        assert machine_wide(watched.samples)["compaction"] >= moved
        if moved:
            return
    warnings.warn("compaction has moved no page of the target", stacklevel=1)


def test_pages_that_cannot_move_are_told_apart(world: World, session: Session) -> None:
    """Pages under direct I/O or pinned otherwise are put back: here, those that a pipe holds a reference to."""
    fill(world)
    watched = Watched(world, session)
    world.ask("vmsplice", world.slot, 0, 16 * PAGE)
    outside.migrate_pages(world.target.pid, world.mask, 1 << world.last)
    watched.check("syscall")
    held = int((watched.before[world.pid].nodes[:16] != world.last).sum())
    assert failures(watched.samples, world.pid) >= held  # each is tried several times
    assert watched.changed("pgmigrate_fail") == held


def test_two_threads_fight_over_pages_under_numa_balancing(world: World, session: Session) -> None:
    cpus = machine.cpu_of_each_node()
    length = 256 * PAGE
    world.map(0, length)
    world.advise(0, length, NO_HUGE_PAGE)
    world.write(0, length)
    with machine.numa_balancing():
        watched = Watched(world, session, length=length)
        seconds = 20 if len(world.nodes) > 1 else 2
        fight(world, session, watched.look, length, (cpus[world.nodes[0]], cpus[max(cpus)]), seconds, 4000)
        assert not difference(read_truth(world.pid), one(watched.samples[-1], world.pid))
        told = reasons_of(watched.samples, world.pid)
        assert set(told) <= {"numa_misplaced"}
        assert told["numa_misplaced"] == watched.changed("numa_pages_migrated")
        assert machine_wide(watched.samples)["numa_misplaced"] == watched.changed("numa_pages_migrated")
        assert (told["numa_misplaced"] > 0) == (len(world.nodes) > 1)
        assert one(watched.samples[-1], world.pid).trust.lost == 0


def test_nothing_moves_nothing_flows(world: World, session: Session) -> None:
    fill(world)
    watched = Watched(world, session)
    world.unmap(0, LENGTH)
    world.map(0, LENGTH, ANON)
    world.write(0, LENGTH)
    watched.look()
    assert not watched.flows(world.pid)


def test_many_processes_map_the_same_pages(quiet_machine: None, nodes: list[int]) -> None:
    """More than one program of the chain deals with, in one group of slots and in several."""
    pages, children = 16, 40
    with Family() as family:
        family.ask(family.pid, "map", 1, pages * PAGE)
        family.ask(family.pid, "small", 1)
        family.ask(family.pid, "write", 1, 0, pages * PAGE)
        for _ in range(children):
            family.fork(family.pid)
        start = slot_address(1)
        with Session(Selection(family.live), OPTIONS) as session:
            session.refresh()
            before = {pid: placed(pid, start, pages * PAGE) for pid in family.live}
            there = int(before[family.pid].nodes[0])
            to = next((node for node in nodes if node != there), there)
            outside.migrate_pages(family.pid, 1 << there, 1 << to)
            sample = session.refresh()
            for pid in family.live:
                expected = moves(before[pid], placed(pid, start, pages * PAGE))
                told = flows_of([sample], pid, start, start + pages * PAGE)
                assert told == {(a, b, "syscall"): count for (a, b), count in expected.items()}
                assert sum(told.values()) == (pages if to != there else 0)
            assert not any(snapshot.trust.lost for snapshot in sample.snapshots)
