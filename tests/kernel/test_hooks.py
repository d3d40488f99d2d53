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
