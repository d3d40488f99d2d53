"""Families and groups of processes: each live target equal to its own numa_maps, none counted twice, none left out."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.cgroups import VERSIONS, cgroup, enter
from tests.kernel.compare import difference
from tests.kernel.family import Family
from tests.kernel.target import Target, read_truth, wait_asleep
from tests.kernel.world import World
from tracer.errors import NumatraceError
from tracer.kernel import hooks as module
from tracer.kernel.btf import Btf
from tracer.kernel.layout import preemption
from tracer.kernel.procfs import TargetGone
from tracer.model.sample import Sample
from tracer.model.selection import Selection
from tracer.session import Options, Session

HOOKED = Options(hooks="tracepoint", reader="walk")
COUNTED = Options(hooks="tracepoint", reader="walk", faults=True)
STORM = int(os.environ.get("NUMATRACE_STORM", "10000"))
PAGE = 4096


@pytest.fixture
def family(quiet_machine: None) -> Iterator[Family]:
    with Family() as it:
        yield it


def check(sample: Sample, pids: tuple[int, ...], lost: int = 0) -> None:
    """Exactly these processes, each as its numa_maps says, and no doubt left."""
    assert [snapshot.pid for snapshot in sample.snapshots] == sorted(pids)
    for snapshot in sample.snapshots:
        assert not difference(read_truth(snapshot.pid), snapshot), snapshot.pid
        trust = snapshot.trust
        assert (trust.settling, trust.unexplained, trust.lost) == (0, 0, lost)
    assert sample.untraced == 0
    assert sample.totals.tolist() == [
        sum(int(s.pages[:, at].sum()) for s in sample.snapshots) for at in range(len(sample.node_ids))
    ]


def settled(session: Session) -> Sample:
    """After a second look, which clears up what happened while the first one was taken."""
    session.refresh()
    return session.refresh()


def test_fork_of_fork(family: Family) -> None:
    family.ask(family.pid, "map", 1, 64 * PAGE)
    family.ask(family.pid, "write", 1, 0, 64 * PAGE)
    with Session(Selection((family.pid,), follow_forks=True), HOOKED) as session:
        check(session.refresh(), family.live)
        line = family.fork(family.pid, 3)
        check(session.refresh(), family.live)
        assert len(family.live) == 4
        family.ask(line[2], "write", 1, 0, 32 * PAGE)
        family.ask(line[0], "write", 1, 0, 16 * PAGE)
        check(session.refresh(), family.live)
        family.ask(line[1], "exit")  # the middle one: its child is an orphan now, and followed all the same
        check(settled(session), family.live)
        more = family.fork(line[2])
        family.ask(more[0], "map", 2, 16 * PAGE)
        family.ask(more[0], "write", 2, 0, 16 * PAGE)
        check(session.refresh(), family.live)


def test_without_follow_forks_children_are_left_alone(family: Family) -> None:
    with Session(family.pid, HOOKED) as session:
        family.fork(family.pid, 2)
        check(session.refresh(), (family.pid,))


def test_vfork_and_exec_chains(family: Family) -> None:
    with Session(Selection((family.pid,), follow_forks=True), HOOKED) as session:
        (child,) = family.ask(family.pid, "vforkexec")
        check(settled(session), family.live)
        family.ask(child, "exec", 5)
        check(settled(session), family.live)
        (grandchild,) = family.ask(child, "vforkexec")
        family.ask(grandchild, "threadexec")
        check(settled(session), family.live)
        family.ask(grandchild, "map", 1, 16 * PAGE)
        family.ask(grandchild, "write", 1, 0, 16 * PAGE)
        sample = session.refresh()
        check(sample, family.live)
        assert all(s.pid in family.live for s in sample.snapshots)


def test_exec_ends_one_address_space_and_begins_another(family: Family) -> None:
    (child,) = family.fork(family.pid)
    with Session(child, HOOKED) as session:
        family.ask(child, "map", 1, 64 * PAGE)
        family.ask(child, "write", 1, 0, 64 * PAGE)
        before = session.refresh().only
        family.ask(child, "exec", 1)
        ended = [*session.refresh().ended, *session.refresh().ended]
        assert [s.pid for s in ended] == [child]
        assert ended[0].pages.sum() == before.pages.sum()
        check(session.refresh(), (child,))


def test_many_short_lived_children(family: Family) -> None:
    """Every address space and fault of every child is found again, though few live long enough to be looked at."""
    pages, at_once = 6, 8
    with Session(Selection((family.pid,), follow_forks=True), COUNTED) as session:
        session.refresh()
        words = ("storm", STORM, at_once, pages)
        family.send(family.pid, *words)
        samples = []
        while family.busy():
            session.wait(0.1)
            samples.append(session.refresh())
        family.receive(family.pid, *words)
        samples += [session.refresh(), session.refresh()]
        assert session._machinery is not None
        hooks = session._machinery.hooks
        assert hooks is not None
        assert (hooks._cpus["missed"].sum(), hooks._cpus["dropped"].sum()) == (0, 0)
        # RSS changes that were not seen as a task was preempted in that program (from 7.0 on): audited, and told.
        unseen = hooks._programs.skipped("rss_changed") if preemption(Btf(), functions=False) else 0
        check(samples[-1], family.live, unseen)
        ended = [s for sample in samples for s in sample.ended]
        assert len({s.pid for s in ended}) <= STORM
        # Of four children two have executed a program; the one that was forked and not vforked had two address spaces.
        assert len(ended) == STORM + STORM // 4
        faults = sum(int(s.faults.count.sum()) for s in ended if s.faults is not None)
        assert faults >= STORM * pages


@pytest.fixture(params=["second", "both"])
def programs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the two programs that see a birth or an end where a task may be preempted in one: the second alone, as if none
    of the first had been run, or both, also on a kernel that needs one only."""
    again = dict(module.AGAIN)
    if request.param == "second":
        hooks = tuple((name, again.get(name, function)) for name, function in module.REQUIRED)
        monkeypatch.setattr(module, "AGAIN", ())
        monkeypatch.setattr(module, "REQUIRED", hooks)
    elif not preemption(Btf(), functions=False):
        monkeypatch.setattr(module, "REQUIRED", module.REQUIRED + module.AGAIN)
    return str(request.param)


def test_births_and_ends_are_seen_once(family: Family, programs: str) -> None:
    with Session(Selection((family.pid,), follow_forks=True), COUNTED) as session:
        check(session.refresh(), family.live)
        child, other = family.fork(family.pid, 2)
        (grandchild,) = family.ask(child, "vforkexec")
        family.ask(other, "exec", 1)
        check(settled(session), family.live)
        family.ask(grandchild, "exit")
        check(settled(session), family.live)
        assert not session.refresh().ended
        family.ask(family.pid, "storm", 40, 8, 2)
        ended = [*session.refresh().ended, *session.refresh().ended]
        assert len(ended) == 40 + 40 // 4  # as in the long storm
        check(session.refresh(), family.live)


def test_who_found_no_room_is_counted_once(family: Family, programs: str) -> None:
    """By the first program: the second one cannot tell whether that was run."""
    with Session(Selection((family.pid,), follow_forks=True), HOOKED) as session:
        session.refresh()
        assert session._machinery is not None
        hooks = session._machinery.hooks
        assert hooks is not None
        for at in range(len(hooks._targets) - 1):
            hooks.add((at + 1) << 12, 1)
        told = hooks.untraced()
        family.fork(family.pid)
        assert session.refresh().untraced == told + (programs == "both")


def test_a_killed_target_is_gone_and_the_others_stay(family: Family) -> None:
    first, second = family.fork(family.pid, 1)[0], family.fork(family.pid, 1)[0]
    with Session(Selection((first, second)), HOOKED) as session:
        check(session.refresh(), (first, second))
        family.kill(first, signal.SIGKILL)
        wait_for_end(first)
        sample = session.refresh()
        check(sample, (second,))
        assert [s.pid for s in sample.ended] == [first]
        family.kill(second, signal.SIGKILL)
        wait_for_end(second)
        assert not session.wait(1)
        assert [s.pid for s in session.refresh().ended] == [second]
        with pytest.raises(TargetGone):
            session.refresh()


def wait_for_end(pid: int) -> None:
    fd = os.pidfd_open(pid)
    try:
        import select

        assert select.select([fd], [], [], 60)[0]
    finally:
        os.close(fd)


def test_a_pid_used_again_is_another_process(quiet_machine: None) -> None:
    """PIDs are made to come round again at once: pid_max is small for a moment."""
    limit = Path("/proc/sys/kernel/pid_max")
    before = limit.read_text()
    with Target() as target, Session(Selection((target.pid,), follow_forks=True), HOOKED) as session:
        session.refresh()
        old = int(target.ask("fork"))
        check(session.refresh(), (target.pid, old))
        target.ask("reap")
        limit.write_text(str(max(301, *pids()) + 100))
        try:
            with contextlib.ExitStack() as stack:
                use_again(old, stack)
                check(settled(session), (target.pid,))
        finally:
            limit.write_text(before)


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def use_again(pid: int, stack: contextlib.ExitStack) -> None:
    """Start processes that have nothing to do with it until one has that PID; the kernel is told where to go on."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(40_000):
        if last.exists():
            last.write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "60"])
        if process.pid == pid:
            stack.callback(process.wait)
            stack.callback(process.kill)
            wait_asleep(pid)
            return
        process.kill()
        process.wait()
    raise AssertionError(f"PID {pid} does not come again")


def test_several_targets_with_pages_in_common(quiet_machine: None, nodes: list[int], files: Path) -> None:
    """A page that two processes map counts in each, as in their numa_maps."""
    with Target() as target:
        world = World(target, nodes, files)
        world.map(0, 128 * PAGE)
        world.write(0, 128 * PAGE)
        child = int(world.ask("fork"))
        with Session(Selection((target.pid, child)), HOOKED) as session:
            check(session.refresh(), (target.pid, child))
            target.ask("child", "write", world.slot, 0, 64 * PAGE, PAGE)
            check(session.refresh(), (target.pid, child))
        world.clear()


@pytest.mark.parametrize("version", VERSIONS)
def test_processes_enter_and_leave_a_cgroup(version: str, family: Family, tmp_path: Path) -> None:
    """In it, in one below it, out again; children of members are members from their first page."""
    first, second, third = (family.fork(family.pid)[0] for _ in range(3))
    with cgroup(version, tmp_path) as group:
        below = group / "below"
        below.mkdir()
        enter(group, first)
        enter(below, second)
        with Session(Selection(cgroup=str(group)), HOOKED) as session:
            check(session.refresh(), (first, second))
            enter(group, third)
            check(settled(session), (first, second, third))
            (child,) = family.fork(first)
            family.ask(child, "map", 1, 16 * PAGE)
            family.ask(child, "write", 1, 0, 16 * PAGE)
            check(settled(session), (first, second, third, child))
            enter(group.parent, second)
            check(settled(session), (first, third, child))
            enter(group, second)
            check(settled(session), (first, second, third, child))
            for pid in (child, first, second, third):
                family.ask(pid, "exit")
            assert session.wait(0.2)
            check(settled(session), ())
            assert session.wait(0.1)


def test_processes_by_name(family: Family, tmp_path: Path) -> None:
    program = tmp_path / "numatrace-napper"
    shutil.copy("/bin/sleep", program)
    with contextlib.ExitStack() as stack, Session(Selection(name="numatrace-nap*"), HOOKED) as session:
        check(session.refresh(), ())
        nappers = []
        for _ in range(2):
            process = subprocess.Popen([program, "600"])
            stack.callback(process.wait)
            stack.callback(process.kill)
            wait_asleep(process.pid)
            nappers.append(process.pid)
            check(settled(session), tuple(nappers))
        os.kill(nappers[0], signal.SIGKILL)
        wait_for_end(nappers[0])
        check(session.refresh(), tuple(nappers[1:]))


def test_the_pid_inside_a_container_is_shown(quiet_machine: None) -> None:
    with subprocess.Popen(["unshare", "--pid", "--fork", "--mount-proc", "sleep", "600"]) as outer:
        try:
            inner = wait_for_child(outer.pid)
            with Session(inner, HOOKED) as session:
                snapshot = session.refresh().only
                assert (snapshot.pid, snapshot.namespace_pid) == (inner, 1)
        finally:
            os.kill(inner, signal.SIGKILL)


def wait_for_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for _ in range(30_000):
        found = children.read_text().split()
        if found and Path(f"/proc/{found[0]}/comm").read_text() == "sleep\n":
            wait_asleep(int(found[0]))
            return int(found[0])
        time.sleep(0.001)
    raise AssertionError("no child")


def test_no_room_is_said_and_does_no_harm(family: Family) -> None:
    """The table of address spaces is filled up with ones that do not exist; then a child is born."""
    with Session(Selection((family.pid,), follow_forks=True), HOOKED) as session:
        check(session.refresh(), family.live)
        assert session._machinery is not None
        hooks = session._machinery.hooks
        assert hooks is not None
        room = len(hooks._targets) - 1
        numbers = [hooks.add((at + 1) << 12, 1) for at in range(room)]
        with pytest.raises(NumatraceError, match="no more can be"):
            hooks.add(1 << 40, 1)
        told = hooks.untraced()
        (child,) = family.fork(family.pid)
        sample = session.refresh()
        assert [snapshot.pid for snapshot in sample.snapshots] == [family.pid]
        assert sample.untraced == told + 1
        for number in numbers:
            hooks.remove(number)
        family.ask(child, "exec", 1)  # now there is room
        session.refresh()
        assert [snapshot.pid for snapshot in session.refresh().snapshots] == sorted(family.live)
