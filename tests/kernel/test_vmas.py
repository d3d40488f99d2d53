"""VMA lists that are long, that change, and that never stand still: every line equal to the kernel's own files.

The target is tests/workloads/churn.c. Pages, policies and words are compared with numa_maps, and names, permissions,
offsets, devices and inodes with maps.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kernel.compare import difference
from tests.kernel.exactness import check
from tests.kernel.target import CommandFailed, Target, build_workloads, read_truth, wait_asleep
from tests.kernel.ways import WAYS, traced_as_asked
from tests.kernel.world import Step
from tracer import session_settle
from tracer.errors import NumatraceError
from tracer.kernel import walk
from tracer.kernel.layout import layout
from tracer.kernel.procfs import file_path, kind_of, read_maps
from tracer.kernel.vma_list import VmaListReader
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Kind, Vma
from tracer.session import Options, Session

WITHOUT_SEQ = "MM_LOCK_SEQ", "MM_LOCK_SEQCOUNT"
VMAS = int(os.environ.get("NUMATRACE_TEST_VMAS", "100000"))
"""VMAs of the long list; an emulated machine may be given fewer."""
LONG_LIVED = 1000
CHANGES_A_SECOND = 10_000
REFRESHES = 30
PAUSE = 0.02
MOST_SECONDS = 60.0
REUSES = 20

PAGE = 4096
BASE = 0x100000000000
FAR = 0x300000000000
CHURNING = 0x400000000000
CHURNING_BYTES = 64 << 20
SCRATCH = 0x500000000000
MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")

# System calls of x86-64 and their constants
OPEN, CLOSE, MMAP, MPROTECT, MUNMAP, BRK, MREMAP, MLOCK, PRCTL, MBIND = 2, 3, 9, 10, 11, 12, 25, 149, 157, 237
NONE, READ, WRITE = 0, 1, 2
RW = READ | WRITE
PRIVATE, FIXED, ANONYMOUS = 2, 0x10, 0x20
MAY_MOVE, MOVE_FIXED = 1, 2
PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0
MPOL_PREFERRED = 1
NO_DESCRIPTOR = (1 << 64) - 1


class Churn(Target):
    """A running tests/workloads/churn.c."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(build_workloads() / "churn")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self.child_pid = None
        self.churning = False
        self.pid = int(self._answer("start").removeprefix("ready "))
        wait_asleep(self.pid)

    def _settle(self) -> None:
        if not self.churning:
            super()._settle()

    def call(self, *words: object) -> int:
        """A system call; its result."""
        return int(self.ask("call", *words).split()[0])

    def map(self, address: int, pages: int, prot: int = RW, descriptor: int = NO_DESCRIPTOR, offset: int = 0) -> None:
        flags = PRIVATE | FIXED | (ANONYMOUS if descriptor == NO_DESCRIPTOR else 0)
        self.call(MMAP, address, pages * PAGE, prot, flags, descriptor, offset)

    def put(self, data: bytes) -> int:
        """Bytes in the target's memory, for calls that want a pointer; their address."""
        self.ask("put", SCRATCH, data.hex())
        return SCRATCH

    def open(self, path: Path) -> int:
        return self.call(OPEN, self.put(os.fsencode(path) + b"\0"), os.O_RDWR)

    def begin(self) -> None:
        """Change the list all the time, from now on."""
        self.churning = True
        self.ask("churn", CHURNING)

    def rest(self) -> float:
        """Stop that; how many changes a second there were."""
        self.churning = False
        changes, nanoseconds = map(int, self.ask("rest").split())
        return changes / nanoseconds * 1e9


@pytest.fixture(scope="module", autouse=True)
def room(quiet_machine: None) -> Iterator[None]:
    """As many VMAs for one process as the tests want."""
    before = MAX_MAP_COUNT.read_text()
    MAX_MAP_COUNT.write_text(str(max(int(before), 2 * VMAS)))
    yield
    MAX_MAP_COUNT.write_text(before)


@contextmanager
def churn() -> Iterator[Churn]:
    with Churn() as target:
        target.map(SCRATCH, 1)
        target.ask("touch", SCRATCH, PAGE, PAGE)
        yield target


def _line(vma: Vma) -> tuple[object, ...]:
    return vma.start, vma.end, vma.perms, vma.offset, vma.device, vma.inode, vma.kind, vma.path


def assert_equal_to_maps(snapshot: Snapshot) -> None:
    """Everything that maps prints of each VMA."""
    told = [
        (e.start, e.end, e.perms, e.offset, e.device, e.inode, kind, file_path(e) if kind is Kind.FILE else e.path)
        for e, kind in ((e, kind_of(e)) for e in read_maps(snapshot.pid))
    ]
    ours = [_line(vma) for vma in snapshot.vmas]
    assert [pair for pair in itertools.zip_longest(told, ours) if pair[0] != pair[1]][:3] == []


def refreshed(session: Session) -> Snapshot:
    """A snapshot of the one target."""
    return session.refresh().only


@pytest.fixture(params=["mm_lock_seq", "without it"])
def seq(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As the kernel is, and as one without mm_lock_seq (6.1) would be."""
    if request.param != "mm_lock_seq":
        monkeypatch.setattr(
            walk,
            "layout",
            lambda *facts: {name: value for name, value in layout(*facts).items() if name not in WITHOUT_SEQ},
        )
    way: str = request.param
    return way


@dataclass(frozen=True, slots=True)
class Place:
    """Where the steps change the list: VMAs of two pages follow each other; the ones at even places are writable, and
    their first page is present."""

    target: Churn
    middle: int
    last: int

    def steps(self) -> Iterator[str]:
        call, middle, last = self.target.call, self.middle, self.last
        call(MPROTECT, middle, PAGE, READ)
        yield "mprotect of one page splits"
        call(MPROTECT, middle, PAGE, RW)
        yield "and merges"
        call(MUNMAP, middle, PAGE)
        yield "a hole"
        self.target.map(middle, 1)
        yield "filled again"
        call(MPROTECT, middle + 2 * PAGE, 2 * PAGE, RW)
        yield "three VMAs become one"
        call(MLOCK, middle + PAGE, PAGE)
        yield "mlock of one page"
        call(MBIND, middle + 4 * PAGE, PAGE, MPOL_PREFERRED, self.target.put(b"\1" + bytes(7)), 64, 0)
        yield "mbind of one page"
        call(MUNMAP, last + PAGE, 3 * PAGE)
        yield "the last one shrinks"
        call(MREMAP, last, PAGE, 8 * PAGE, 0)
        self.target.ask("touch", last, 8 * PAGE, PAGE)
        yield "and grows"
        call(MREMAP, middle - 4 * PAGE, 2 * PAGE, 2 * PAGE, MAY_MOVE | MOVE_FIXED, FAR)
        yield "moved far away"
        call(MREMAP, FAR, 2 * PAGE, 6 * PAGE, MAY_MOVE | MOVE_FIXED, middle - 64 * PAGE)
        yield "moved over others, and larger"
        self.target.map(BASE, 64)
        self.target.ask("touch", BASE, 64 * PAGE, 2 * PAGE)
        yield "one over many"
        self.target.ask("many", BASE, 32)
        yield "many over one"
        call(MUNMAP, BASE, PAGE)
        call(MPROTECT, middle + 100 * PAGE, PAGE, READ)
        call(MUNMAP, last, PAGE)
        yield "three places at once"

    def stack_and_heap(self) -> Iterator[str]:
        self.target.ask("stack", 1 << 20)
        yield "the stack grows"
        end = self.target.call(BRK, 0)
        assert self.target.call(BRK, end + (1 << 20)) == end + (1 << 20)
        self.target.ask("touch", end, 1 << 20, PAGE)
        yield "the heap grows"
        self.target.call(BRK, end + (1 << 19))
        yield "and shrinks"


def long_list(target: Churn) -> Place:
    target.ask("many", BASE, VMAS)
    return Place(target, BASE + VMAS // 4 * 2 * 2 * PAGE, BASE + (VMAS // 2 - 1) * 2 * 2 * PAGE)


def test_a_long_list_that_changes() -> None:
    with churn() as target:
        place = long_list(target)
        with traced_as_asked("walk", target.pid) as session:
            failures = []
            for step in itertools.chain(["seed"], place.steps(), place.stack_and_heap()):
                row = check("long VMA list", Step(step), target.pid, session)
                failures += [row.failure] if row.failure else []
                assert_equal_to_maps(refreshed(session))
            assert not failures, "\n".join(failures)[:4000]


def test_a_short_list_that_changes(seq: str) -> None:
    with churn() as target:
        target.ask("many", BASE, LONG_LIVED)
        place = Place(target, BASE + LONG_LIVED // 4 * 2 * 2 * PAGE, BASE + (LONG_LIVED // 2 - 1) * 2 * 2 * PAGE)
        with traced_as_asked("walk", target.pid) as session:
            for _ in itertools.chain(place.steps(), place.stack_and_heap()):
                snapshot = refreshed(session)
                assert not difference(read_truth(target.pid), snapshot)
                assert not snapshot.trust.settling
                assert_equal_to_maps(snapshot)


def test_a_change_of_the_list_costs_a_small_part_of_reading_it_all() -> None:
    with churn() as target:
        place = long_list(target)
        began = time.thread_time()
        with traced_as_asked("walk", target.pid) as session:
            seed = time.thread_time() - began
            refreshed(session)
            spent = []
            for prot in (READ, RW) * 5:
                target.call(MPROTECT, place.middle, PAGE, prot)
                snapshot = refreshed(session)
                spent.append(snapshot.refresh.cpu_ns / 1e9)
                assert snapshot.refresh.regions_read < VMAS // 512, snapshot.refresh
            assert_equal_to_maps(refreshed(session))
            assert sorted(spent)[len(spent) // 2] * 5 < seed, (spent, seed)


def _long_lived(vmas: tuple[Vma, ...]) -> list[tuple[int, int]]:
    return [(v.start, v.end) for v in vmas if not CHURNING <= v.start < CHURNING + CHURNING_BYTES]


def test_a_list_that_never_stands_still_is_followed(seq: str) -> None:
    with churn() as target:
        target.ask("many", BASE, LONG_LIVED)
        lasting = [(entry.start, entry.end) for entry in read_maps(target.pid)]
        target.begin()
        # The first list is read while it changes, too.
        with Session(target.pid, Options(hooks="tracepoint", reader="walk")) as session:
            seen = settling = 0
            limit = time.monotonic() + MOST_SECONDS
            for _ in range(REFRESHES):
                snapshot = refreshed(session)
                assert _long_lived(snapshot.vmas) == lasting
                settling += snapshot.trust.settling > 0
                seen += len(snapshot.vmas) > len(lasting)
                assert time.monotonic() < limit, "a refresh of a changing target takes for ever"
                time.sleep(PAUSE)
            rate = target.rest()
            assert rate >= CHANGES_A_SECOND
            # How often a look falls between two changes depends on the machine, but not always.
            assert settling > REFRESHES // 2
            assert seen > REFRESHES // 4
            row = check("churn", Step("at rest", audited="it never stood still"), target.pid, session)
            assert not row.failure, row.failure
            assert_equal_to_maps(refreshed(session))


def no_sense(monkeypatch: pytest.MonkeyPatch, times: float) -> None:
    """The tree makes no sense for the first so many readings, as when every one falls into a change."""
    real, left = VmaListReader.read, itertools.count()
    monkeypatch.setattr(VmaListReader, "read", lambda self: None if next(left) < times else real(self))


def test_the_first_list_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    no_sense(monkeypatch, 50)
    with churn() as target, Session(target.pid, Options(hooks="tracepoint", reader="walk")) as session:
        assert not difference(read_truth(target.pid), refreshed(session))


def test_a_first_list_that_never_makes_sense_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    no_sense(monkeypatch, math.inf)
    monkeypatch.setattr(session_settle, "FIRST_LIST_S", 0.2)
    faster = pytest.raises(NumatraceError, match="changes faster than it can be read")
    with churn() as target, faster, Session(target.pid, Options(hooks="tracepoint", reader="walk")) as session:
        session.refresh()


def test_a_long_list_that_never_stands_still_is_followed_to_the_latest_change() -> None:
    with churn() as target:
        place = long_list(target)
        with traced_as_asked("walk", target.pid) as session:
            target.begin()
            # What is changed for good in the midst of it shows at once.
            target.call(MUNMAP, place.middle, 2 * PAGE)
            target.map(FAR, 5)
            starts = {vma.start: vma.end for vma in refreshed(session).vmas}
            assert place.middle not in starts
            assert starts[FAR] == FAR + 5 * PAGE
            target.rest()
            row = check("churn", Step("at rest", audited="it never stood still"), target.pid, session)
            assert not row.failure, row.failure


# --- names ---


@pytest.fixture
def named(files: Path) -> Iterator[tuple[Churn, Session, Path]]:
    """A target, and a session that asks for names at every refresh."""
    directory = files / "names"
    directory.mkdir()
    with churn() as target, traced_as_asked("walk", target.pid, details=True) as session:
        yield target, session, directory
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()


def _file(path: Path) -> Path:
    path.write_bytes(bytes(4 * PAGE))
    return path


def test_names_follow_rename_and_unlink(seq: str, named: tuple[Churn, Session, Path]) -> None:
    target, session, directory = named
    path = _file(directory / "first name")
    descriptor = target.open(path)
    target.map(FAR, 2, descriptor=descriptor)
    target.map(FAR + 8 * PAGE, 1, READ, descriptor, PAGE)
    assert_equal_to_maps(refreshed(session))
    path = path.rename(directory / "second\nname")
    assert_equal_to_maps(refreshed(session))
    elsewhere = directory.rename(directory.with_name("elsewhere"))
    assert_equal_to_maps(refreshed(session))
    elsewhere.rename(directory)
    assert_equal_to_maps(refreshed(session))
    path.unlink()
    snapshot = refreshed(session)
    assert_equal_to_maps(snapshot)
    (vma,) = [vma for vma in snapshot.vmas if vma.start == FAR]
    assert vma.path.endswith(b" (deleted)")


def test_a_struct_file_used_again_for_another_file(files: Path) -> None:
    """The kernel gives the place of a closed file to the next one that is opened, and the inode number of a deleted
    one to the next one that is made; the old name must not stick, though nobody asks for names."""
    with churn() as target, traced_as_asked("walk", target.pid) as session:
        for number in range(REUSES):
            path = _file(files / f"file-{number}")
            descriptor = target.open(path)
            target.map(FAR, 1, descriptor=descriptor)
            target.call(CLOSE, descriptor)
            snapshot = refreshed(session)
            path.unlink()
            target.call(MUNMAP, FAR, PAGE)
            (vma,) = [vma for vma in snapshot.vmas if vma.start == FAR]
            assert vma.path == os.fsencode(path)


def test_a_renamed_file_shows_with_the_next_change_of_the_list(files: Path) -> None:
    """Nothing is asked for: the directory entry tells."""
    with churn() as target, traced_as_asked("walk", target.pid) as session:
        path = _file(files / "before")
        target.map(FAR, 1, descriptor=target.open(path))
        refreshed(session)
        path = path.rename(files / "after")
        target.map(BASE, 1)
        assert_equal_to_maps(refreshed(session))
        path.unlink()
        target.map(BASE, 2)
        assert_equal_to_maps(refreshed(session))


def test_names_given_by_prctl(named: tuple[Churn, Session, Path]) -> None:
    target, session, _ = named
    target.map(FAR, 4)
    words = PRCTL, PR_SET_VMA, PR_SET_VMA_ANON_NAME, FAR + PAGE, PAGE
    if " anon_vma_name_alloc" not in Path("/proc/kallsyms").read_text():
        # Without CONFIG_ANON_VMA_NAME; 6.1 has the field of the struct all the same.
        with pytest.raises(CommandFailed, match="EINVAL"):
            target.call(*words, target.put(b"one\0"))
        assert_equal_to_maps(refreshed(session))
        return
    for name in (
        b"one",
        b"another\0",
        b"one\0",
        b"last name of all, as long as it may be, which is seventy-nine bytes",
    ):
        target.call(*words, target.put(name + b"\0"))
        snapshot = refreshed(session)
        assert_equal_to_maps(snapshot)
        assert b"[anon:" + name.rstrip(b"\0") + b"]" in {vma.path for vma in snapshot.vmas}
    target.call(*words, 0)
    assert_equal_to_maps(refreshed(session))


def test_heap_and_stack_at_their_edges(named: tuple[Churn, Session, Path]) -> None:
    """Memory that only touches the heap, and a heap of no length: kernels differ in the word, we follow."""
    target, session, _ = named
    end = target.call(BRK, 0)
    start = next(vma.start for vma in refreshed(session).vmas if vma.kind is Kind.HEAP)
    target.map(end, 1, READ)
    assert_equal_to_maps(refreshed(session))
    target.map(start - PAGE, 1, READ)
    assert_equal_to_maps(refreshed(session))


def test_every_way_of_tracing_lists_the_same() -> None:
    with churn() as target:
        target.ask("many", BASE, LONG_LIVED)
        lists = []
        for way in WAYS:
            with traced_as_asked(way, target.pid) as session:
                snapshot = refreshed(session)
                assert_equal_to_maps(snapshot)
                lists.append([(_line(vma), vma.policy) for vma in snapshot.vmas])
        assert all(listed == lists[0] for listed in lists)
