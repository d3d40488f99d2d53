"""Demotion to a node of slow memory and promotion from it, as /proc/vmstat counts them and pagemap shows them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import machine
from tests.kernel.compare import difference
from tests.kernel.frames import moves, placed, vmstat
from tests.kernel.happenings import flows_of, machine_wide, reasons_of
from tests.kernel.target import Target, read_truth
from tests.kernel.traced import fight
from tests.kernel.world import PAGE, World
from tracer.kernel.tiers import memory_tiers
from tracer.model.policy import Mode
from tracer.model.sample import Sample
from tracer.model.selection import Selection
from tracer.session import Options, Session

PAGES = 4096
LENGTH = PAGES * PAGE
NO_HUGE_PAGE = 15
OPTIONS = Options(hooks="tracepoint", reader="walk", flows=True)
DEMOTED = ("pgdemote_kswapd", "pgdemote_direct", "pgdemote_khugepaged", "pgdemote_proactive")


@pytest.fixture
def world(quiet_machine: None, nodes: list[int], files: Path) -> Iterator[World]:
    with Target() as target:
        it = World(target, nodes, files)
        yield it
        it.clear()


@pytest.fixture
def slow() -> int:
    """The node of the slower tier."""
    tiers = memory_tiers()
    slowest = max(tiers.values())
    (node,) = (node for node, tier in tiers.items() if tier == slowest)
    assert len(set(tiers.values())) == 2
    return node


def grown(before: dict[str, int], *names: str) -> int:
    after = vmstat()
    return sum(after.get(name, 0) - before.get(name, 0) for name in names)


@contextlib.contextmanager
def reclaimed_group() -> Iterator[Path]:
    """A cgroup with its own memory to be reclaimed, and demotion instead of swapping."""
    root = Path("/sys/fs/cgroup")
    (root / "cgroup.subtree_control").write_text("+memory")
    group = root / "numatrace-demotion"
    group.mkdir()
    demotion = Path("/sys/kernel/mm/numa/demotion_enabled")
    demotion.write_text("true")
    try:
        yield group
    finally:
        demotion.write_text("false")
        for pid in (group / "cgroup.procs").read_text().split():
            (root / "cgroup.procs").write_text(pid)
        group.rmdir()


def test_demotion_with_a_twin_present(world: World, slow: int) -> None:
    with reclaimed_group() as group:
        (group / "cgroup.procs").write_text(str(world.target.pid))
        world.map(0, LENGTH)
        world.advise(0, LENGTH, NO_HUGE_PAGE)
        world.bind(0, LENGTH, Mode.INTERLEAVE, world.mask & ~(1 << slow))
        world.write(0, LENGTH)
        world.bind(0, LENGTH, Mode.DEFAULT, 0)
        twin = int(world.ask("fork"))
        pids = (world.target.pid, twin)
        with Session(Selection(pids), OPTIONS) as session:
            session.refresh()
            before = {pid: placed(pid, world.address(0), LENGTH) for pid in pids}
            stat = vmstat()
            with contextlib.suppress(OSError):  # EAGAIN: not as much as was asked for
                (group / "memory.reclaim").write_text(str(LENGTH // 2))
            samples = [session.refresh()]
            start = world.address(0)
            for pid in pids:
                expected = moves(before[pid], placed(pid, start, LENGTH))
                told = flows_of(samples, pid, start, start + LENGTH)
                assert told == {(a, b, "demotion"): pages for (a, b), pages in expected.items()}
                assert {to for _, to, _ in told} == {slow}
            assert not any(difference(read_truth(s.pid), s) for s in samples[-1].snapshots)
            assert machine_wide(samples) == {"demotion": grown(stat, *DEMOTED)}
            # The target's program and its libraries are others' as well: at most a few of their pages go, too.
            moved = sum(reasons_of(samples, world.target.pid).values())
            assert PAGES // 4 < moved <= grown(stat, *DEMOTED)


def test_promotion_has_a_name_of_its_own(world: World, slow: int) -> None:
    length = 512 * PAGE
    world.map(0, length)
    world.advise(0, length, NO_HUGE_PAGE)
    world.bind(0, length, Mode.BIND, 1 << slow)
    world.write(0, length)
    world.bind(0, length, Mode.DEFAULT, 0)
    balancing = Path("/proc/sys/kernel/numa_balancing")
    cpu = min(os.sched_getaffinity(0))
    with machine.numa_balancing(), Session(world.pid, OPTIONS) as session:
        balancing.write_text("2")  # NUMA_BALANCING_MEMORY_TIERING
        session.refresh()
        stat = vmstat()
        samples: list[Sample] = []
        fight(world, session, lambda: samples.append(session.refresh()), length, (cpu, cpu), 15, 4000)
        told = reasons_of(samples, world.pid)
        assert set(told) == {"promotion"}
        assert told["promotion"] == grown(stat, "pgpromote_success") > 0
        assert not difference(read_truth(world.pid), samples[-1].only)
