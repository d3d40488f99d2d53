"""Faults are told apart as a workload made them: who touched which page first, from which node, and what for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import machine
from tests.kernel.frames import vmstat
from tests.kernel.happenings import faults_of, kinds_of
from tests.kernel.traced import Traced, fight, traced_with
from tests.kernel.world import HUGE, PAGE, World
from tracer.model.events import Kind
from tracer.model.policy import Mode
from tracer.model.sample import Sample
from tracer.session import Options, Session

NO_HUGE_PAGE, HUGE_PAGE, RANDOM = 15, 14, 1  # madvise(2)
OPTIONS = Options(hooks="tracepoint", reader="walk", threads=True)
SHARE = 300


@pytest.fixture(scope="module")
def traced(quiet_machine: None) -> Iterator[Traced]:
    with traced_with(OPTIONS) as it:
        yield it


@pytest.fixture
def session(traced: Traced) -> Session:
    return traced.session


@pytest.fixture
def world(traced: Traced, nodes: list[int], files: Path) -> Iterator[World]:
    it = World(traced.target, nodes, files)
    yield it
    it.clear()


@pytest.fixture
def cpus() -> dict[int, int]:
    return machine.cpu_of_each_node()


def small_pages(world: World, offset: int, length: int) -> None:
    world.map(offset, length)
    world.advise(offset, length, NO_HUGE_PAGE)


def told(sample: Sample, world: World, pid: int, offset: int, length: int) -> Counter[tuple[int, int, Kind, int]]:
    start = world.address(offset)
    return faults_of([sample], pid, start, start + length)


def test_threads_on_every_node_touch_their_shares(world: World, session: Session, cpus: dict[int, int]) -> None:
    """Two VMAs within one region, so that counts by region alone could not tell them apart. Each thread has a share of
    its own size, in both."""
    length = SHARE * PAGE
    expected: list[Counter[tuple[int, int, Kind, int]]] = [Counter(), Counter()]
    small_pages(world, 0, 2 * length)
    world.protect(length, length, 1)  # PROT_READ: another VMA
    world.protect(length, length, 7)
    session.refresh()
    for half in (0, 1):
        at = half * length
        for number, (node, cpu) in enumerate(cpus.items()):
            pages = 20 + 7 * number + half
            thread = world.pinned(at, pages * PAGE, cpu)
            home = node if node in world.nodes else None
            if home is not None:
                expected[half][node, node, Kind.NEW, thread] = pages
            at += pages * PAGE
    sample = session.refresh()
    for half in (0, 1):
        counted = told(sample, world, world.pid, half * length, length)
        if all(node in world.nodes for node in cpus):
            assert counted == expected[half]
        else:  # a node without memory: its thread's pages are on the nearest that has some
            assert {key: n for key, n in counted.items() if key[0] in world.nodes} == expected[half]
    assert not any(snapshot.trust.lost for snapshot in sample.snapshots)


def test_faults_of_a_bound_range_name_both_nodes(world: World, session: Session, cpus: dict[int, int]) -> None:
    """Who put these pages on node N: a thread somewhere else, because the policy says so."""
    small_pages(world, 0, SHARE * PAGE)
    world.bind(0, SHARE * PAGE, Mode.BIND, 1 << world.last)
    first = next(iter(cpus))
    session.refresh()
    thread = world.pinned(0, SHARE * PAGE, cpus[first])
    counted = told(session.refresh(), world, world.pid, 0, SHARE * PAGE)
    assert counted == {(first, world.last, Kind.NEW, thread): SHARE}


def test_a_child_on_another_node_copies_on_write(world: World, session: Session, cpus: dict[int, int]) -> None:
    first, last = min(cpus), max(cpus)
    small_pages(world, 0, SHARE * PAGE)
    world.pin(cpus[first])
    world.write(0, SHARE * PAGE)
    child = int(world.ask("fork"))
    world.pin(cpus[last], child=True)
    session.refresh()
    world.ask("child", "write", world.slot, 0, SHARE // 2 * PAGE, PAGE)
    sample = session.refresh()
    home = last if last in world.nodes else None
    counted = told(sample, world, child, 0, SHARE * PAGE)
    assert sum(counted.values()) == SHARE // 2
    assert {(key[0], key[2], key[3]) for key in counted} == {(last, Kind.COW, child)}
    if home is not None:
        assert {key[1] for key in counted} == {home}
    # The pages that the child has left are the parent's alone again: it is permitted to write, and copies nothing.
    world.write(0, SHARE // 2 * PAGE)
    counted = told(session.refresh(), world, world.target.pid, 0, SHARE * PAGE)
    assert counted == {(first, first if first in world.nodes else -1, Kind.OTHER, world.target.pid): SHARE // 2}


def test_a_huge_page_is_one_fault(world: World, session: Session, cpus: dict[int, int]) -> None:
    node = world.nodes[0]
    world.map(0, 2 * HUGE)
    world.advise(0, 2 * HUGE, HUGE_PAGE)
    world.bind(0, 2 * HUGE, Mode.BIND, 1 << node)
    session.refresh()
    thread = world.pinned(0, 2 * HUGE, cpus[min(cpus)])
    assert world.transparent_huge(0) == 2 * HUGE
    counted = told(session.refresh(), world, world.pid, 0, 2 * HUGE)
    assert counted == {(min(cpus), node, Kind.HUGE, thread): 2}


def test_the_zero_page_is_on_no_node(world: World, session: Session, cpus: dict[int, int]) -> None:
    """Reading gives the zero page, and writing then a page: two faults, and one page."""
    first = world.nodes[0] if world.nodes[0] in cpus else min(cpus)
    small_pages(world, 0, 40 * PAGE)
    session.refresh()
    reader = world.pinned_read(0, 40 * PAGE, cpus[first])
    counted = told(session.refresh(), world, world.pid, 0, 40 * PAGE)
    assert counted == {(first, -1, Kind.OTHER, reader): 40}
    writer = world.pinned(0, 40 * PAGE, cpus[first])
    counted = told(session.refresh(), world, world.pid, 0, 40 * PAGE)
    assert counted == {(first, first, Kind.NEW, writer): 40}


def test_what_waits_for_a_disk_is_major(world: World, session: Session, cpus: dict[int, int]) -> None:
    """Read from the disk page by page, without readahead. The kernel counts such faults, too."""
    pages = 24
    world.open(pages * PAGE)
    world.map(0, pages * PAGE, flags=2, prot=1, file=True)  # MAP_PRIVATE, PROT_READ
    world.advise(0, pages * PAGE, RANDOM)
    Path("/proc/sys/vm/drop_caches").write_text("1")
    cpu = cpus[min(cpus)]
    session.refresh()
    before = majors(world.pid)
    thread = world.pinned_read(0, pages * PAGE, cpu)
    world.join()
    sample = session.refresh()
    # The program's own pages were dropped from memory as well.
    assert kinds_of([sample], world.pid)[Kind.MAJOR] == majors(world.pid) - before
    counted = told(sample, world, world.pid, 0, pages * PAGE)
    assert {(kind, key_thread) for _, _, kind, key_thread in counted} == {(Kind.MAJOR, thread)}
    assert sum(counted.values()) == pages


def majors(pid: int) -> int:
    """Of the whole process, by its own file."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[9])


def test_hint_faults_are_those_that_the_kernel_counts(world: World, session: Session, cpus: dict[int, int]) -> None:
    length = 256 * PAGE
    small_pages(world, 0, length)
    world.write(0, length)
    several = len(world.nodes) > 1
    with machine.numa_balancing():
        session.refresh()
        before = vmstat()
        samples: list[Sample] = []
        both = cpus[min(cpus)], cpus[max(cpus)]
        fight(world, session, lambda: samples.append(session.refresh()), length, both, 12 if several else 1, 3000)
        counted = faults_of(samples, world.pid)
        hints = sum(n for (_, _, kind, _), n in counted.items() if kind is Kind.HINT)
        kernel = vmstat().get("numa_hint_faults", 0) - before.get("numa_hint_faults", 0)
        # Of two threads that want a page in the same moment, both have the exception, and the kernel counts one hint.
        assert hints <= 1.05 * kernel
        # The kernel counts those of all processes: with one node nothing of ours moves, and it may be anybody's.
        assert hints >= 0.95 * kernel or not several
        assert (hints > 0) == several
        start = world.address(0)
        mine = faults_of(samples, world.pid, start, start + length)
        assert sum(n for (_, _, kind, _), n in mine.items() if kind is Kind.HINT) > 0 or not several


def test_every_fault_is_counted_once(world: World, session: Session, cpus: dict[int, int]) -> None:
    """As many as the kernel has counted for the process, whichever VMA they were in."""
    length = 64 * PAGE
    session.refresh()
    before = faults_by_stat(world.pid)
    small_pages(world, 0, length)
    for cpu in cpus.values():
        world.pinned(0, length, cpu)
        world.advise(0, length, 4)  # MADV_DONTNEED
    world.join()
    sample = session.refresh()
    assert kinds_of([sample], world.pid).total() == faults_by_stat(world.pid) - before


def faults_by_stat(pid: int) -> int:
    """Minor and major faults of a process and its threads that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7]) + int(fields[9])
