"""The hooks by themselves: live counts, epochs, silence about others, and what happens when a log is full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.kernel.compare import difference
from tests.kernel.target import Target, read_truth
from tests.kernel.world import HUGE, PAGE, World
from tracer.kernel import hooks as module
from tracer.kernel.btf import Btf
from tracer.model.policy import Mode
from tracer.session import Session
from tracer.session_settle import Settler


@pytest.fixture
def world(quiet_machine: None, nodes: list[int], files: Path) -> Iterator[World]:
    with Target() as target:
        yield World(target, nodes, files)


def settler(session: Session) -> Settler:
    assert session._roster is not None
    (process,) = session._roster
    assert isinstance(process.work, Settler)
    return process.work


def test_faults_are_counted_live_by_the_node_of_their_page(world: World) -> None:
    """On each node in turn; the very last fault of a CPU is only looked at by the next one there."""
    with Session(world.pid) as session:
        session.refresh()
        work = settler(session)
        work._hooks.swap()
        for number, node in enumerate(world.nodes):
            start = 2 * number * HUGE
            world.map(start, HUGE)
            world.advise(start, HUGE, 15)  # MADV_NOHUGEPAGE
            world.bind(start, HUGE, Mode.BIND, 1 << node)
            world.write(start, HUGE)
            mine = work._hooks.swap().targets[work.number]
            area = world.address(start) >> 21
            at = np.searchsorted(mine.regions, area)
            assert mine.regions[at] == area
            counted = mine.faults[at]
            assert 511 <= counted[node] <= 512, counted
            assert counted.sum() == counted[node]


def test_an_epoch_holds_what_happened_in_it(world: World) -> None:
    with Session(world.pid) as session:
        session.refresh()
        session.refresh()
        work = settler(session)
        assert work._hooks.quiet()
        world.map(0, HUGE)
        world.write(0, PAGE)
        assert not work._hooks.quiet()
        assert world.address(0) >> 21 in work._hooks.touched_now(work.number)
        first = work._hooks.swap().targets[work.number]
        assert world.address(0) >> 21 in first.regions
        assert work._hooks.quiet()
        assert not work._hooks.swap()


def test_other_processes_leave_no_trace(world: World) -> None:
    with Session(world.pid) as session, Target() as other:
        session.refresh()
        session.refresh()
        work = settler(session)
        before = work._hooks.token()
        busy = World(other, world.nodes, Path("/nowhere"))
        busy.map(0, 8 * HUGE)
        busy.write(0, 8 * HUGE)
        assert work._hooks.token() == before


def test_preemption_is_held_off_where_the_kernel_lets_programs_do_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the code of 7.0 and later, which is left out where tracepoints hold it off, but is right there as well."""
    btf = Btf()
    functions = {"PREEMPT_DISABLE": "bpf_preempt_disable", "PREEMPT_ENABLE": "bpf_preempt_enable"}
    found = {name: number for name, function in functions.items() if (number := btf.function(function)) is not None}
    monkeypatch.setattr(module, "preemption", lambda *_: found)
    with Session(world.pid) as session:
        work = settler(session)
        assert work._hooks._preemptible == bool(found)
        session.refresh()
        world.map(0, 64 * HUGE)
        world.write(0, 64 * HUGE, HUGE)
        world.advise(0, 32 * HUGE, 4)  # MADV_DONTNEED: an RSS change that the system call explains
        snapshot = session.refresh().only
        assert (snapshot.trust.lost, snapshot.trust.unexplained) == (0, 0)
        assert not difference(read_truth(world.pid), snapshot)


def test_programs_that_were_not_run_count_as_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two programs for one event as many as were surely not run; a fault's cannot be held up by another task."""
    skipped = {"executed": 3, "executed_again": 2, "task_made": 1, "rss_changed": 4, "fault_user": 8}
    with Session(world.pid) as session:
        hooks = settler(session)._hooks
        before = hooks.token()
        monkeypatch.setattr(
            hooks._programs, "attached", lambda: [function for _, function in module.REQUIRED + module.AGAIN]
        )
        monkeypatch.setattr(hooks._programs, "skipped", lambda function: skipped.get(function, 0))
        monkeypatch.setattr(hooks, "_preemptible", True)
        assert hooks.token() != before
        assert hooks.lost() == 2 + 4
        assert session.refresh().only.trust.lost == 2 + 4


def test_a_full_log_is_counted_and_repaired(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """600 regions are touched and a CPU's log holds 256: the rest is lost, said to be, and found by an audit."""
    monkeypatch.setattr(module, "LOG_MEMORY", 0)
    with Session(world.pid) as session:
        session.refresh()
        world.map(0, 600 * HUGE)
        world.advise(0, 600 * HUGE, 15)
        world.write(0, 600 * HUGE, HUGE)
        snapshot = session.refresh().only
        assert snapshot.trust.lost > 0
        assert snapshot.trust.unexplained == 0
        assert not difference(read_truth(world.pid), snapshot)
