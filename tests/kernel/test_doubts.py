"""What no event explains, and what was lost: shown at once, found by audits within their budget, and then exact."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import outside
from tests.kernel.compare import difference
from tests.kernel.target import Target, read_truth
from tests.kernel.world import HUGE, PAGE, World
from tracer import session_settle
from tracer.session import Options, Session

NO_HUGE_PAGE = 15
REGIONS = 300
HOOKED = Options(hooks="tracepoint", reader="walk")


@pytest.fixture
def world(quiet_machine: None, nodes: list[int], files: Path) -> Iterator[World]:
    with Target() as target:
        it = World(target, nodes, files)
        yield it
        it.clear()


def scatter(world: World, regions: int) -> None:
    """A page in each of many regions."""
    world.map(0, regions * HUGE)
    world.advise(0, regions * HUGE, NO_HUGE_PAGE)
    world.write(0, regions * HUGE, HUGE)


def write_from_outside(world: World, first: int) -> None:
    """Another process writes to pages of the target that are not there yet, in three regions: no fault, no system call
    of the target."""
    for region in (first, REGIONS // 2, REGIONS - 1):
        outside.process_vm_writev(world.pid, world.address(region * HUGE + (1 + first) * PAGE), b"x" * PAGE)


def test_an_audit_goes_on_over_several_refreshes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to no budget: the doubt is shown and ages until the last part has been read, and then all is equal."""
    scatter(world, REGIONS)
    with Session(world.pid, HOOKED) as session:
        session.refresh()
        monkeypatch.setattr(session_settle, "AUDIT_STEP", 20)
        monkeypatch.setattr(session_settle, "AUDIT_SLICE_S", 1e-9)
        write_from_outside(world, 0)
        seen = []
        for _ in range(200):
            snapshot = session.refresh().only
            seen.append(snapshot)
            if not snapshot.trust.unexplained:
                break
        assert len(seen) > REGIONS // 20
        assert max(s.refresh.regions_read for s in seen) <= 20 + 8
        ages = [s.trust.oldest_read_s for s in seen[:-1]]
        assert ages == sorted(ages)
        assert ages[0] > 0
        assert not difference(read_truth(world.pid), seen[-1])


def test_doubts_that_come_during_an_audit_lead_to_another(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scatter(world, REGIONS)
    with Session(world.pid, HOOKED) as session:
        session.refresh()
        monkeypatch.setattr(session_settle, "AUDIT_STEP", 40)
        monkeypatch.setattr(session_settle, "AUDIT_SLICE_S", 1e-9)
        write_from_outside(world, 0)
        for _ in range(4):
            assert session.refresh().only.trust.unexplained > 0
        write_from_outside(world, 1)  # a region that the audit has passed
        for _ in range(200):
            snapshot = session.refresh().only
            if not snapshot.trust.unexplained:
                break
        assert not difference(read_truth(world.pid), snapshot)


def test_without_budget_a_doubt_waits(world: World) -> None:
    """An audit that took more than its share is paid back by waiting; the doubt is shown all the while."""
    scatter(world, REGIONS)
    with Session(world.pid, Options(hooks="tracepoint", reader="walk", audit_cpu=0.02)) as session:
        session.refresh()
        session._budget.charge(session_settle.AUDIT_CREDIT_S + 1.0)  # what was saved up, and a second of debt
        write_from_outside(world, 0)
        for _ in range(3):
            snapshot = session.refresh().only
            assert snapshot.trust.unexplained > 0
            assert snapshot.refresh.regions_read <= 16
        session._budget.charge(-2.0)
        snapshot = session.refresh().only
        assert snapshot.trust.unexplained == 0
        assert not difference(read_truth(world.pid), snapshot)


def test_the_budget_grows_by_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("tracer.session_settle.time.monotonic", lambda: now[0])
    budget = session_settle.Budget(0.05)

    def left_after(seconds: float, charged: float) -> bool:
        now[0] += seconds
        budget.begin()
        budget.charge(charged)
        return budget.left

    assert left_after(0.0, 0.0)
    assert not left_after(0.0, session_settle.AUDIT_CREDIT_S + 0.5)
    assert not left_after(9.9, 0.0)
    assert left_after(0.2, 0.0)
    # No refresh takes longer than this, whatever has been saved up.
    assert not left_after(1e6, session_settle.AUDIT_SLICE_S)
    assert left_after(0.0, 0.0)


@pytest.mark.parametrize("how", ["process_vm_writev", "process_madvise"])
def test_other_processes_change_the_target(how: str, world: World, tmp_path: Path) -> None:
    """Found by an audit in the very refresh that sees the doubt, as long as there is budget."""
    scatter(world, REGIONS)
    with Session(world.pid, HOOKED) as session:
        session.refresh()
        if how == "process_vm_writev":
            write_from_outside(world, 0)
        else:
            outside.process_madvise(world.pid, world.address(0), 64 * HUGE, 21)  # MADV_PAGEOUT
        snapshot = session.refresh().only
        assert not difference(read_truth(world.pid), snapshot)
        assert snapshot.trust.unexplained == 0


def test_a_stopped_tracer_says_what_it_lost_and_repairs_it(world: World) -> None:
    """Stopped as by Ctrl-Z, while the target touches more regions than a log holds."""
    regions = 40_000
    cpu = min(os.sched_getaffinity(0))
    world.pin(cpu)
    command = [
        sys.executable,
        "-m",
        "tracer.cli.main",
        "maps",
        "-p",
        str(world.pid),
        "--every",
        "0.2",
        "--format",
        "json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        first = json.loads(tracer.stdout.readline())
        assert first["trust"]["lost"] == 0
        os.kill(tracer.pid, signal.SIGSTOP)
        # Over several slots: a slot is a GiB.
        for part in range(regions // 500):
            slot = world.slot + 1 + part
            world.target.ask("map", slot, 0, 500 * HUGE, 3, 34, "none", 0)
            world.target.ask("advise", slot, 0, 500 * HUGE, NO_HUGE_PAGE)
            world.target.ask("write", slot, 0, 500 * HUGE, HUGE)
        os.kill(tracer.pid, signal.SIGCONT)
        lines = [json.loads(tracer.stdout.readline()) for _ in range(6)]
        tracer.send_signal(signal.SIGINT)
        tracer.stdout.read()
    last = lines[-1]
    assert last["trust"]["lost"] > 0
    assert last["trust"]["unexplained"] == 0
    truth = {f"{area.start:x}": area.line.nodes for area in read_truth(world.pid).areas}
    told = {vma["start"]: {int(n): c for n, c in vma["nodes"].items()} for vma in last["vmas"]}
    assert told == truth
    for part in range(regions // 500):
        world.target.ask("unmap", world.slot + 1 + part, 0, 500 * HUGE)
