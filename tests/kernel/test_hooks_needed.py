"""Each hook is there for something: what a scenario finds right with all hooks, it finds wrong when one is missing.

A hook that no scenario misses would have no place in the set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kernel import machine
from tests.kernel.compare import difference
from tests.kernel.frames import vmstat
from tests.kernel.happenings import faults_of, flows_of, machine_wide
from tests.kernel.target import Target, read_truth
from tests.kernel.test_family import use_again
from tests.kernel.world import HUGE, PAGE, World
from tracer.kernel import hooks as module
from tracer.model.events import Kind
from tracer.model.policy import Mode
from tracer.model.selection import Selection
from tracer.session import Options, Session
from tracer.session_settle import Settler

NO_HUGE_PAGE, HUGE_PAGE, DONT_NEED, COLLAPSE = 15, 14, 4, 25  # madvise(2)
HOOKED = Options(hooks="tracepoint", reader="walk")
FLOWS = Options(hooks="tracepoint", reader="walk", flows=True)
FAULTS = Options(hooks="tracepoint", reader="walk", faults=True)
MOVE = 2  # MPOL_MF_MOVE

Scenario = Callable[[World], None]


def settler(session: Session) -> Settler:
    assert session._roster is not None
    (process,) = session._roster
    assert isinstance(process.work, Settler)
    return process.work


def small_pages(world: World, length: int) -> None:
    world.map(0, length)
    world.advise(0, length, NO_HUGE_PAGE)


def equal(world: World, session: Session) -> None:
    sample = session.refresh()
    assert [snapshot.pid for snapshot in sample.snapshots] == [world.pid]
    assert not difference(read_truth(world.pid), sample.only)


def user_faults_are_explained(world: World) -> None:
    small_pages(world, HUGE)
    with Session(world.pid, HOOKED) as session:
        session.refresh()
        world.write(0, HUGE)
        assert settler(session)._hooks.unexplained(settler(session).number) == 0
        equal(world, session)


def kernel_faults_are_counted(world: World) -> None:
    """read(2) into memory that was never touched: the kernel faults."""
    pages = 64
    small_pages(world, pages * PAGE)
    world.open(pages * PAGE)
    with Session(world.pid, FAULTS) as session:
        session.refresh()
        world.ask("readfile", world.slot, 0, pages * PAGE, world.slot, 0)
        start = world.address(0)
        counted = faults_of([session.refresh()], world.pid, start, start + pages * PAGE)
        assert sum(n for (_, _, kind, _), n in counted.items() if kind is Kind.NEW) == pages


def pages_that_are_given_back_are_noticed(world: World) -> None:
    small_pages(world, HUGE)
    world.write(0, HUGE)
    with Session(world.pid, HOOKED) as session:
        session.refresh()
        session.refresh()
        world.advise(0, HUGE // 2, DONT_NEED)
        equal(world, session)


def a_new_program_is_followed(world: World) -> None:
    with Session(world.pid, HOOKED) as session:
        session.refresh()
        world.ask("exec")
        session.refresh()
        equal(world, session)


def a_child_is_followed(world: World) -> None:
    with Session(Selection((world.target.pid,), follow_forks=True), HOOKED) as session:
        session.refresh()
        child = int(world.ask("fork"))
        assert [snapshot.pid for snapshot in session.refresh().snapshots] == sorted((world.target.pid, child))
        world.ask("reap")


def a_pid_is_forgotten_with_its_process(world: World) -> None:
    limit = Path("/proc/sys/kernel/pid_max")
    before = limit.read_text()
    with Session(Selection((world.target.pid,), follow_forks=True), HOOKED) as session:
        child = int(world.ask("fork"))
        world.ask("reap")
        session.refresh()
        limit.write_text(str(max(child, 301) + 100))
        try:
            with contextlib.ExitStack() as stack:
                use_again(child, stack)
                session.refresh()
                assert [snapshot.pid for snapshot in session.refresh().snapshots] == [world.target.pid]
        finally:
            limit.write_text(before)


def the_end_of_an_address_space_is_seen(world: World) -> None:
    with Session(Selection((world.target.pid,), follow_forks=True), HOOKED) as session:
        world.ask("fork")
        assert len(session.refresh().snapshots) == 2
        assert session._machinery is not None
        hooks = session._machinery.hooks
        assert hooks is not None
        assert int(hooks._control[0]["alive"]) == 2
        world.ask("reap")
        assert int(hooks._control[0]["alive"]) == 1


def moved_pages_are_told_with_their_reason(world: World) -> None:
    length = 256 * PAGE
    small_pages(world, length)
    world.bind(0, length, Mode.BIND, 1 << world.nodes[0])
    world.write(0, length)
    with Session(world.pid, FLOWS) as session:
        session.refresh()
        stat = vmstat()
        world.bind(0, length, Mode.BIND, 1 << world.last, MOVE)
        sample = session.refresh()
        start = world.address(0)
        told = flows_of([sample], world.pid, start, start + length)
        assert told == {(world.nodes[0], world.last, "mempolicy_mbind"): 256}
        machine_total = sum(machine_wide([sample]).values())
        assert machine_total == vmstat()["pgmigrate_success"] - stat["pgmigrate_success"]


def moved_huge_pages_are_told(world: World) -> None:
    world.map(0, HUGE)
    world.advise(0, HUGE, HUGE_PAGE)
    world.bind(0, HUGE, Mode.BIND, 1 << world.nodes[0])
    world.write(0, HUGE, HUGE)
    with Session(world.pid, FLOWS) as session:
        session.refresh()
        world.bind(0, HUGE, Mode.BIND, 1 << world.last, MOVE)
        start = world.address(0)
        told = flows_of([session.refresh()], world.pid, start, start + HUGE)
        assert told == {(world.nodes[0], world.last, "mempolicy_mbind"): 512}


def a_collapse_without_a_change_of_rss_is_noticed(world: World) -> None:
    """512 small pages become one huge page, which may be elsewhere, and RSS stays as it is."""
    small_pages(world, HUGE)
    world.write(0, HUGE)
    world.advise(0, HUGE, HUGE_PAGE)
    with Session(world.pid, HOOKED) as session:
        session.refresh()
        session.refresh()
        world.advise(0, HUGE, COLLAPSE)
        if world.transparent_huge(0) != HUGE:
            pytest.fail("nothing was collapsed")
        assert session.refresh().only.refresh.regions_read > 0


@dataclass(frozen=True)
class Needed:
    """A hook, what goes wrong without it, and how many nodes that takes."""

    scenario: Scenario
    nodes: int = 1


NEEDED = {
    "page_fault_user": Needed(user_faults_are_explained),
    "page_fault_kernel": Needed(kernel_faults_are_counted),
    "rss_stat": Needed(pages_that_are_given_back_are_noticed),
    "sched_process_exec": Needed(a_new_program_is_followed),
    "sched_process_exit": Needed(a_pid_is_forgotten_with_its_process),
    "task_newtask": Needed(a_child_is_followed),
    "exit_mmap": Needed(the_end_of_an_address_space_is_seen),
    "set_migration_pte": Needed(moved_pages_are_told_with_their_reason, 2),
    "remove_migration_pte": Needed(moved_pages_are_told_with_their_reason, 2),
    "set_migration_pmd": Needed(moved_huge_pages_are_told, 2),
    "remove_migration_pmd": Needed(moved_huge_pages_are_told, 2),
    "mm_collapse_huge_page": Needed(a_collapse_without_a_change_of_rss_is_noticed),
    "mm_migrate_pages_start": Needed(moved_pages_are_told_with_their_reason, 2),
    "mm_migrate_pages": Needed(moved_pages_are_told_with_their_reason, 2),
}
# What takes two nodes is tested in the virtual machines that have them.
HERE = [name for name, needed in NEEDED.items() if needed.nodes <= len(machine.nodes_with_memory())]


@pytest.fixture
def world(quiet_machine: None, nodes: list[int], files: Path) -> Iterator[World]:
    with Target() as target:
        it = World(target, nodes, files)
        yield it
        it.clear()


def test_no_hook_is_left_out() -> None:
    everything = module.REQUIRED + module.OPTIONAL + module.FLOWS
    assert set(NEEDED) == {tracepoint for tracepoint, _ in everything}


@pytest.mark.parametrize("name", HERE)
def test_right_with_all_hooks(name: str, world: World) -> None:
    NEEDED[name].scenario(world)


@pytest.mark.parametrize("name", HERE)
def test_wrong_without(name: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for group in ("REQUIRED", "OPTIONAL", "FLOWS", "AGAIN"):
        hooks = getattr(module, group)
        monkeypatch.setattr(module, group, tuple(hook for hook in hooks if hook[0] != name))
    with pytest.raises(AssertionError):
        NEEDED[name].scenario(world)
