"""Races on purpose: the target acts in the very middle of a look at it, and is held against numa_maps afterwards.

A look is stopped at each of `tracer.kernel.pauses.POINTS`, and the target changes its memory there, and sleeps again.
What that look then shows of each VMA must be what it was before, what it is after, or in between, or a doubt must be
shown. From the next look on it is exact, unless a doubt is shown, and the doubt goes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.kernel import outside
from tests.kernel.compare import difference
from tests.kernel.stuck import Stuck
from tests.kernel.target import Target, Truth, read_truth
from tests.kernel.test_vmas import SCRATCH, churn
from tests.kernel.world import HUGE, PAGE, World
from tests.soak.command import Command
from tests.soak.judge import Figures
from tests.soak.run import THREADS
from tests.soak.workload import Kinds, Soak
from tracer.kernel import hooks as hooks_module
from tracer.kernel import pauses
from tracer.kernel.procfs import TargetGone
from tracer.kernel.walk import PageTables
from tracer.model.sample import Sample
from tracer.model.selection import Selection
from tracer.model.snapshot import Snapshot
from tracer.session import Options, Session
from tracer.session_settle import Settler

# Audits at once: with their usual share of a CPU an emulated machine puts them off.
HOOKED = Options(hooks="tracepoint", reader="walk", audit_cpu=1.0)
NO_HUGE_PAGE, HUGE_PAGE, DONT_NEED, COLLAPSE = 15, 14, 4, 25  # madvise(2)
MOVE, FIXED, DONT_UNMAP = 1, 2, 4  # mremap(2)
GETRANDOM, PROCESS_VM_WRITEV = 318, 311  # x86-64
LOOKS = 200
PAUSE_S = 0.05
STORM_S = float(os.environ.get("NUMATRACE_STOPPED", "10"))
SPARE = 512 << 20  # in a slot: what is disturbed before each look, so that it comes by all points

Act = Callable[[World], object]


def doubt(snapshot: Snapshot, lost: int = 0) -> bool:
    """Whether it says that it cannot vouch for its counts. lost: events that are no doubt any more."""
    trust = snapshot.trust
    return bool(trust.settling or trust.unexplained or trust.lost > lost)


def calm(session: Session, *pids: int) -> Sample:
    """Look until all processes, which are at rest, are shown as they are and without a doubt; a difference without a
    doubt is never allowed."""
    lost = 0
    for _ in range(LOOKS):
        sample = session.refresh()
        assert [snapshot.pid for snapshot in sample.snapshots] == sorted(pids)
        differs = {s.pid: difference(read_truth(s.pid), s) for s in sample.snapshots}
        doubtful = {s.pid for s in sample.snapshots if doubt(s, lost)}
        for pid, it in differs.items():
            assert not it or pid in doubtful, it.lines
        if not doubtful:
            return sample
        lost = max(s.trust.lost for s in sample.snapshots)
        session.wait(PAUSE_S)
    raise AssertionError(f"doubts that do not go: {[snapshot.trust for snapshot in sample.snapshots]}")


@dataclass
class Window:
    """Takes the place of `pause`: lets the target act once, at one point. before, after: what the kernel said then."""

    point: str
    pid: int
    act: Callable[[], object]
    before: Truth | None = None
    after: Truth | None = None
    again: bool = False

    def __call__(self, point: str) -> None:
        if point != self.point or (self.after is not None and not self.again):
            return
        if self.before is None:
            self.before = read_truth(self.pid)
        self.act()
        with contextlib.suppress(TargetGone):
            self.after = read_truth(self.pid)


@contextlib.contextmanager
def opened(window: Window) -> Iterator[Window]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pauses, "pause", window)
        yield window


def assert_in_between(snapshot: Snapshot, window: Window) -> None:
    """Every VMA that is shown was there before or after, with as many pages on each node, or some number in between."""
    assert window.before is not None
    assert window.after is not None
    sides = [{(a.start, a.end): a.line.nodes for a in truth.areas} for truth in (window.before, window.after)]
    for vma, row in zip(snapshot.vmas, snapshot.pages.tolist(), strict=True):
        key = vma.start, vma.end
        assert any(key in side for side in sides), f"{key[0]:x}-{key[1]:x} was never there"
        for node, pages in zip(snapshot.node_ids, row, strict=True):
            told = [side.get(key, {}).get(node, 0) for side in sides]
            assert min(told) <= pages <= max(told), f"{key[0]:x}-{key[1]:x}: {pages} pages, the kernel says {told}"


def disturb(world: World) -> None:
    """Something for the look to do at each of its points: a new VMA, touched, and a page that another process wrote."""
    world.map(SPARE, HUGE)
    world.write(SPARE, PAGE)
    outside.process_vm_writev(world.pid, world.address(SPARE + 9 * PAGE), b"x" * PAGE)


# --- what the target does ----------------------------------------------------------------------------------------


def small(world: World, offset: int, length: int) -> None:
    world.map(offset, length)
    world.advise(offset, length, NO_HUGE_PAGE)


def written(world: World) -> None:
    """4 regions of small pages, some of them written, one of them behind its end."""
    small(world, 0, 4 * HUGE + 10 * PAGE)
    world.write(0, 4 * HUGE, 16 * PAGE)
    world.write(4 * HUGE, 5 * PAGE)


def huge(world: World) -> None:
    world.map(0, 3 * HUGE)
    world.advise(0, 3 * HUGE, HUGE_PAGE)
    world.write(0, 3 * HUGE, HUGE)


def hugetlb(world: World) -> None:
    world.map_hugetlb(0, 3 * HUGE, 21)
    world.write(0, 2 * HUGE, HUGE)


def touches(world: World) -> None:
    world.write(HUGE, HUGE, 8 * PAGE)


def uses_tables_again(world: World) -> None:
    """The page tables of what goes are free for what comes elsewhere."""
    world.unmap(0, 3 * HUGE)
    small(world, 64 * HUGE, 8 * HUGE)
    world.write(64 * HUGE, 8 * HUGE, 64 * PAGE)


def goes_and_comes(world: World) -> None:
    """Another mapping takes the same place, with other pages."""
    world.unmap(HUGE, 2 * HUGE)
    small(world, HUGE, 2 * HUGE)
    world.write(HUGE, HUGE)


def gives_back(world: World) -> None:
    world.advise(HUGE // 2, 2 * HUGE, DONT_NEED)


def collapses(world: World) -> None:
    world.advise(0, 4 * HUGE, HUGE_PAGE)
    world.advise(0, 2 * HUGE, COLLAPSE)


def splits(world: World) -> None:
    world.unmap(HUGE + 7 * PAGE, 3 * PAGE)
    world.advise(2 * HUGE + PAGE, 100 * PAGE, DONT_NEED)


def protects(world: World) -> None:
    world.protect(HUGE + 3 * PAGE, HUGE, mmap.PROT_READ)
    world.protect(3 * HUGE, 2 * PAGE, 0)


def moves(world: World) -> None:
    world.remap(HUGE + PAGE, 2 * HUGE, 80 * HUGE, 2 * HUGE, MOVE | FIXED)


def moves_tables(world: World) -> None:
    """Whole page tables are taken from one place to another."""
    world.remap(HUGE, 2 * HUGE, 80 * HUGE, 2 * HUGE, MOVE | FIXED)


def takes_out(world: World) -> None:
    """Of a part of a VMA, which stays as it was."""
    world.remap(HUGE, HUGE, 80 * HUGE, HUGE, MOVE | FIXED | DONT_UNMAP)


def grows(world: World) -> None:
    world.remap(0, 4 * HUGE + 10 * PAGE, 0, 6 * HUGE, 0)
    world.write(5 * HUGE, HUGE, 32 * PAGE)


def is_written_to(world: World) -> None:
    outside.process_vm_writev(world.pid, world.address(3 * HUGE + 3 * PAGE), b"x" * 2 * PAGE)


def has_a_child_that_writes(world: World) -> None:
    world.ask("fork")
    world.write(HUGE, HUGE, 16 * PAGE)
    world.ask("reap")


def exchanges_huge_pages(world: World) -> None:
    """As many as before: only where they are is another."""
    world.write(2 * HUGE, PAGE)
    world.advise(0, HUGE, DONT_NEED)


def executes(world: World) -> None:
    world.ask("exec")


RACES: dict[str, tuple[Act, Act]] = {
    f"{prepare.__name__}, {act.__name__}": (prepare, act)
    for prepare, act in (
        (written, touches),
        (written, uses_tables_again),
        (written, goes_and_comes),
        (written, gives_back),
        (written, collapses),
        (huge, splits),
        (written, protects),
        (written, moves),
        (written, moves_tables),
        (huge, moves_tables),
        (written, takes_out),
        (written, grows),
        (written, is_written_to),
        (written, has_a_child_that_writes),
        (hugetlb, exchanges_huge_pages),
        (written, executes),
    )
}


@dataclass
class Traced:
    target: Target
    session: Session
    directory: Path
    nodes: list[int] = field(default_factory=list)


@pytest.fixture(scope="module")
def traced(quiet_machine: None, nodes: list[int], files: Path) -> Iterator[Traced]:
    with Target() as target, Session(target.pid, HOOKED) as session:
        yield Traced(target, session, files, nodes)


@pytest.mark.parametrize("name", RACES)
def test_the_target_goes_on_in_the_middle_of_a_look(name: str, traced: Traced) -> None:
    prepare, act = RACES[name]
    for point in pauses.POINTS:
        world = World(traced.target, traced.nodes, traced.directory)
        prepare(world)
        calm(traced.session, world.pid)
        disturb(world)
        with opened(Window(point, world.pid, lambda world=world: act(world))) as window:  # type: ignore[misc]
            sample = traced.session.refresh()
        assert window.after is not None, f"the look does not come by {point!r}"
        if act is not executes and not doubt(sample.only, sample.only.trust.lost):
            assert_in_between(sample.only, window)
        calm(traced.session, world.pid)
        world.clear()


@pytest.mark.parametrize("point", ["chosen", "read", "listing", "listed"])
def test_what_changes_all_the_time_is_shown_as_settling(point: str, traced: Traced) -> None:
    """Whenever the look has come to that point, the target changes what has just been read."""
    world = World(traced.target, traced.nodes, traced.directory)
    written(world)
    calm(traced.session, world.pid)
    count = iter(range(1000))

    def act() -> None:
        n = next(count)
        if point.startswith("list"):
            world.protect(n * 2 * PAGE, PAGE, mmap.PROT_READ)
        else:
            world.write(3 * HUGE + (1 + n) * PAGE, PAGE)

    world.write(3 * HUGE + 400 * PAGE, PAGE)
    world.protect(4 * HUGE, PAGE, mmap.PROT_READ)
    with opened(Window(point, world.pid, act, again=True)):
        snapshot = traced.session.refresh().only
    assert snapshot.trust.settling > 0 or point == "chosen"
    calm(traced.session, world.pid)
    world.clear()


def test_targets_exit_in_the_middle_of_a_look(quiet_machine: None, nodes: list[int], files: Path) -> None:
    """One of several at each point; the others are shown as they are, and of what is left of its memory nothing is."""
    with contextlib.ExitStack() as stack:
        targets = {point: stack.enter_context(Target()) for point in pauses.POINTS}
        last = stack.enter_context(Target())
        pids = {target.pid for target in targets.values()} | {last.pid}
        session = stack.enter_context(Session(Selection(tuple(pids)), HOOKED))
        known = {it.pid: int(it.pages.sum()) for it in calm(session, *pids).snapshots}
        for point, target in targets.items():
            for each in pids:
                world = World(next(t for t in (*targets.values(), last) if t.pid == each), nodes, files)
                disturb(world)
            with opened(Window(point, target.pid, target.kill)) as window:
                sample = session.refresh()
            assert window.before is not None
            shown = [it for it in sample.snapshots if it.pid == target.pid]
            assert all(it.pages.sum() >= known[target.pid] for it in shown)
            pids.remove(target.pid)
            session.refresh()
            calm(session, *pids)


# --- what the soak has found -------------------------------------------------------------------------------------


def test_pages_are_taken_out_of_a_vma_that_had_none_when_it_was_listed(traced: Traced) -> None:
    """mremap(MREMAP_DONTUNMAP) of a whole VMA: the list is as before, for it had no anon_vma then, and has none now."""
    world = World(traced.target, traced.nodes, traced.directory)
    small(world, 0, HUGE)
    calm(traced.session, world.pid)
    world.write(0, 64 * PAGE)
    calm(traced.session, world.pid)
    world.remap(0, HUGE, 8 * HUGE, HUGE, MOVE | FIXED | DONT_UNMAP)
    assert not difference(read_truth(world.pid), traced.session.refresh().only)
    world.clear()


def goes_with_its_new_place(world: World) -> None:
    """The pages are taken out of a part of a VMA that stays as it was, and are given back where they came to."""
    world.remap(HUGE, HUGE, 80 * HUGE, HUGE, MOVE | FIXED | DONT_UNMAP)
    world.unmap(80 * HUGE, HUGE)


def goes_there_and_back(world: World) -> None:
    """The VMA is as before, but for a page that came to it elsewhere."""
    world.remap(0, 4 * HUGE + 10 * PAGE, 80 * HUGE, 4 * HUGE + 10 * PAGE, MOVE | FIXED)
    world.write(82 * HUGE + PAGE, PAGE)
    world.remap(80 * HUGE, 4 * HUGE + 10 * PAGE, 0, 4 * HUGE + 10 * PAGE, MOVE | FIXED)


@pytest.mark.parametrize("act", [goes_with_its_new_place, goes_there_and_back])
def test_moves_that_leave_no_trace_but_in_the_rss(act: Act, traced: Traced) -> None:
    """The kernel tells the exact RSS, in one way or another (docs/kernels.md)."""
    world = World(traced.target, traced.nodes, traced.directory)
    written(world)
    calm(traced.session, world.pid)
    act(world)
    assert traced.session._roster is not None
    (process,) = traced.session._roster
    assert isinstance(process.work, Settler)
    assert process.work.memory.glance().rss >= 0
    assert not difference(read_truth(world.pid), traced.session.refresh().only)
    world.clear()
    traced.session.refresh()


def test_a_page_comes_where_another_hugetlb_page_goes(traced: Traced) -> None:
    """The kernel's count of hugetlb pages is as before."""
    world = World(traced.target, traced.nodes, traced.directory)
    hugetlb(world)
    calm(traced.session, world.pid)
    exchanges_huge_pages(world)
    assert not difference(read_truth(world.pid), traced.session.refresh().only)
    world.clear()


def test_a_fault_of_the_kernel_is_over_though_its_frame_is_still_there(quiet_machine: None) -> None:
    """The kernel faults in memory of the target for one system call, and maps other memory of it without any fault for
    the next: the frame of that fault may still be on the stack."""
    vector = SCRATCH + 256
    with churn() as target, Session(target.pid, HOOKED) as session:
        area = 0x600000000000
        target.map(area, 1024)
        for n in range(20):
            session.refresh()
            target.call(GETRANDOM, area + n * PAGE, 16, 0)
            place = area + (512 + 20 * n) * PAGE
            # Two struct iovec; what is written is read from memory that is there.
            target.ask("put", vector, struct.pack("<4Q", SCRATCH, 16, place, 16).hex())
            assert target.call(PROCESS_VM_WRITEV, target.pid, vector, 1, vector + 16, 1, 0) == 16
            assert not difference(read_truth(target.pid), session.refresh().only)


def test_a_program_whose_birth_was_lost_is_shown_again(
    quiet_machine: None, nodes: list[int], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logs are full when the target executes it."""
    monkeypatch.setattr(hooks_module, "LOG_MEMORY", 1)
    with Target() as target, Session(target.pid, HOOKED) as session:
        world = World(target, nodes, files)
        calm(session, target.pid)
        small(world, 0, 400 * HUGE)
        for cpu in sorted(os.sched_getaffinity(0)):
            world.pin(cpu)
            world.write(0, 400 * HUGE, HUGE)
            world.advise(0, 400 * HUGE, DONT_NEED)
        world.ask("exec")
        session.refresh()
        assert calm(session, target.pid).only.trust.lost > 0


def test_a_target_executes_a_program_while_it_is_being_found(
    quiet_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is open already, and has come to its end before the kernel is asked whose it is."""
    find = PageTables.find_mm
    with Target() as target:
        left = iter(range(2))

        def find_late(tables: PageTables, pagemap: int, address: int) -> int:
            if next(left, None) is not None:
                target.ask("exec")
            return find(tables, pagemap, address)

        monkeypatch.setattr(PageTables, "find_mm", find_late)
        with Session(target.pid, HOOKED) as session:
            calm(session, target.pid)


# --- faults that take long, and a tracer that does ---------------------------------------------------------------


@pytest.fixture
def stuck(quiet_machine: None) -> Iterator[tuple[Stuck, Session]]:
    with Stuck() as target, Session(target.pid, HOOKED) as session:
        yield target, session


def test_faults_block_for_seconds_while_looks_go_by(stuck: tuple[Stuck, Session]) -> None:
    """Threads wait for userfaultfd; others fault on their CPUs meanwhile. What does not come is not shown, and what
    comes is."""
    target, session = stuck
    waiting = range(12)
    for n in waiting:
        target.ask("stick", n)
        target.ask("touch", n)
    for look in range(30):
        calm(session, target.pid)
        session.wait(0.1)
        target.ask("touch", 20 + look)
    for n in waiting[:6]:
        target.ask("fill", n)
        assert not difference(read_truth(target.pid), session.refresh().only)
        calm(session, target.pid)
    for n in waiting[6:9]:
        target.ask("end", n)
        target.ask("drop", n)
        calm(session, target.pid)
    for n in waiting[9:]:
        target.ask("fill", n)
    assert not difference(read_truth(target.pid), session.refresh().only)


def test_faults_block_over_an_exec(stuck: tuple[Stuck, Session]) -> None:
    target, session = stuck
    for n in range(4):
        target.ask("stick", n)
        target.ask("touch", n)
    calm(session, target.pid)
    target.ask("exec", 0)
    target.ask("touch", 5)
    session.refresh()
    calm(session, target.pid)
    target.ask("stick", 6)
    calm(session, target.pid)
    target.ask("fill", 6)
    assert not difference(read_truth(target.pid), session.refresh().only)


@pytest.mark.parametrize("point", pauses.POINTS)
def test_a_fault_comes_to_its_end_in_the_middle_of_a_look(point: str, stuck: tuple[Stuck, Session]) -> None:
    target, session = stuck
    calm(session, target.pid)
    target.ask("stick", 1)
    target.ask("touch", 2)
    with opened(Window(point, target.pid, lambda: target.ask("fill", 1))) as window:
        snapshot = session.refresh().only
    if window.after is None:  # the look had no reason to come by
        target.ask("fill", 1)
    elif not doubt(snapshot):
        assert_in_between(snapshot, window)
    calm(session, target.pid)


def test_a_tracer_that_was_stopped_for_long_is_exact_again(quiet_machine: None, files: Path) -> None:
    """By SIGSTOP, in the middle of a storm of operations of several processes, one of which executes programs."""
    with Soak(1, files, THREADS) as soak:
        command = Command(soak.pids, "--every", "0.2")
        try:
            command.next()
            soak.go(200, Kinds(7))
            os.kill(command.process.pid, signal.SIGSTOP)
            began = time.monotonic()
            while time.monotonic() - began < STORM_S:
                soak.go(200, Kinds(7))
            os.kill(command.process.pid, signal.SIGCONT)
            command.judge(soak, Figures())
        finally:
            command.process.send_signal(signal.SIGCONT)
            command.close()
