"""The text of a snapshot equals the kernel's /proc/PID/numa_maps, byte for byte and line by line, with all fields."""

from __future__ import annotations

import errno
import mmap
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kernel import machine
from tests.kernel.operations import MADV_PAGEOUT
from tests.kernel.steady import steady
from tests.kernel.target import Target
from tests.kernel.ways import WAYS, traced_as_asked
from tests.kernel.world import ANON, HUGE, PAGE, SHARED, KernelLacks, World
from tracer.model.policy import F_NUMA_BALANCING, F_RELATIVE_NODES, F_STATIC_NODES, Mode
from tracer.render import numa_maps

NAMES = (
    b"plain",
    b"with blanks  and more ",
    b"new\nline",
    b"tab\there",
    b"a=b",
    b"back\\slash \\040 \\",
    b"\x1b[31mred\x07",
    b"\xff\xfe not \x80 utf-8",
    "Füße".encode(),
    b"huge anon=3 N0=5",
    b"file=heap stack",
    b"ends in (deleted)",
    b"#" + b"l" * 200,
)


def _files(w: World) -> Iterator[str]:
    for number, name in enumerate(NAMES):
        w.open(16 * PAGE, name)
        w.map(number * HUGE, 16 * PAGE, mmap.MAP_PRIVATE if number % 2 else SHARED, file=True)
        w.ask("close", w.slot)
        w.read(number * HUGE, 16 * PAGE)
        w.write(number * HUGE, 3 * PAGE)
    yield "hostile names"
    for name in NAMES[::2]:
        (w.directory / name.decode("utf-8", "surrogateescape")).unlink()
    yield "deleted"
    for number, name in enumerate(NAMES):
        w.memfd(4 * PAGE, name=name)
        w.map((number + 20) * HUGE, 4 * PAGE, SHARED, file=True)
        w.ask("close", w.slot)
        w.write((number + 20) * HUGE, 2 * PAGE)
    yield "memfd"


def _policies(w: World) -> Iterator[str]:
    every_second = sum(1 << node for node in w.nodes[::2])
    policies = (
        (Mode.PREFERRED, 1 << w.last),
        (Mode.PREFERRED | F_STATIC_NODES, 1 << w.last),
        (Mode.BIND, w.mask),
        (Mode.BIND | F_STATIC_NODES, every_second),
        (Mode.BIND | F_RELATIVE_NODES, w.mask),
        (Mode.BIND | F_NUMA_BALANCING, w.mask),
        (Mode.BIND | F_STATIC_NODES | F_NUMA_BALANCING, w.mask),
        (Mode.INTERLEAVE, w.mask),
        (Mode.INTERLEAVE | F_RELATIVE_NODES, every_second),
        (Mode.LOCAL, 0),
        (Mode.PREFERRED, 0),
        (Mode.PREFERRED_MANY, w.mask),
        (Mode.PREFERRED_MANY | F_STATIC_NODES, every_second),
        (Mode.WEIGHTED_INTERLEAVE, w.mask),
        (Mode.WEIGHTED_INTERLEAVE | F_STATIC_NODES, every_second),
    )
    for number, (mode, mask) in enumerate(policies):
        w.map(number * HUGE, 16 * PAGE)
        try:
            w.bind(number * HUGE, 16 * PAGE, mode, mask)
        except KernelLacks:
            assert mode & 0xFF == Mode.WEIGHTED_INTERLEAVE or mode & F_NUMA_BALANCING, f"{mode:#x} is refused"
        w.write(number * HUGE, 5 * PAGE)
    yield "of VMAs"
    for mode, mask in policies:
        try:
            w.policy(mode, mask)
        except KernelLacks:
            assert mode & 0xFF == Mode.WEIGHTED_INTERLEAVE, f"{mode:#x} is refused"
        yield f"of the task, mode {mode:#x}"


def _shared_policies(w: World) -> Iterator[str]:
    """A policy of shared memory belongs to the file: another view shows that of its own first page."""
    w.memfd(64 * PAGE)
    w.map(0, 64 * PAGE, SHARED, file=True)
    w.map(HUGE, 64 * PAGE, SHARED, file=True)
    w.map(2 * HUGE, 32 * PAGE, SHARED, file=True, file_offset=32 * PAGE)
    w.bind(0, 16 * PAGE, Mode.INTERLEAVE, w.mask)
    w.bind(40 * PAGE, 8 * PAGE, Mode.BIND, 1 << w.last)
    w.write(0, 64 * PAGE)
    yield "memfd"
    w.ask("shm", w.slot, 4 * HUGE, 16 * PAGE, 0)
    w.bind(4 * HUGE, 16 * PAGE, Mode.PREFERRED, 1 << w.last)
    w.write(4 * HUGE, 16 * PAGE)
    yield "SysV"


def _kinds(w: World) -> Iterator[str]:
    w.ask("brk", 20 * PAGE)
    w.ask("stack", 512 << 10)
    w.map(0, 16 * PAGE)
    w.write(0, 16 * PAGE)
    w.map(HUGE, 16 * PAGE)
    w.read(HUGE, 16 * PAGE)
    w.map(2 * HUGE, 16 * PAGE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    w.write(2 * HUGE, 7 * PAGE)
    w.map(3 * HUGE, 16 * PAGE, prot=0)
    yield "heap, stack, anonymous, shared, zero page, empty"
    w.map(8 * HUGE, 2 * HUGE)
    w.advise(8 * HUGE, 2 * HUGE, mmap.MADV_HUGEPAGE)
    w.write(8 * HUGE, HUGE, HUGE)
    w.read(9 * HUGE, HUGE, HUGE)
    yield "THP and huge zero page"
    w.ask("lock", w.slot, 0, 16 * PAGE)
    yield "locked"
    w.protect(0, 8 * PAGE, 0)
    yield "without access"
    w.ask("brk", f"-{20 * PAGE}")
    yield "heap gone"


def _hugetlb(w: World) -> Iterator[str]:
    w.map_hugetlb(0, 2 * HUGE, 21)
    w.write(0, HUGE, HUGE)
    w.map_hugetlb(8 * HUGE, 2 * HUGE, 21, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    w.read(8 * HUGE, 2 * HUGE, HUGE)
    w.bind(8 * HUGE, 2 * HUGE, Mode.PREFERRED, 1 << w.last)
    yield "private and shared"


def _mapmax(w: World) -> Iterator[str]:
    w.map(0, 64 * PAGE)
    w.write(0, 64 * PAGE)
    w.map(HUGE, HUGE)
    w.advise(HUGE, HUGE, mmap.MADV_HUGEPAGE)
    w.write(HUGE, HUGE, HUGE)
    w.ask("fork")
    yield "forked"
    w.write(0, 10 * PAGE)
    yield "written"
    w.ask("child", "unmap", w.slot, HUGE + 5 * PAGE, 3 * PAGE)
    yield "child unmapped part of a THP"


def _named(w: World) -> Iterator[str]:
    w.map(0, 16 * PAGE)
    w.write(0, 16 * PAGE)
    w.ask("name", w.slot, 0, 16 * PAGE, b"a name".hex(), lacking=(errno.EINVAL,))
    w.map(HUGE, 16 * PAGE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    w.write(HUGE, 16 * PAGE)
    yield "anonymous"
    w.ask("name", w.slot, HUGE, 16 * PAGE, b"another name".hex(), lacking=(errno.EBADF, errno.EINVAL))
    yield "shared anonymous"


def _swap(w: World) -> Iterator[str]:
    with machine.swap(w.directory):
        w.map(0, 64 * PAGE)
        w.write(0, 64 * PAGE)
        w.advise(0, 64 * PAGE, MADV_PAGEOUT)
        assert w.slot_pages(w.truth()) < 64
        yield "out"
        w.read(0, 16 * PAGE)
        yield "partly in"
        w.unmap(0, 64 * PAGE)


SCENES: dict[str, Callable[[World], Iterator[str]]] = {
    "files": _files,
    "policies": _policies,
    "shared policies": _shared_policies,
    "kinds": _kinds,
    "hugetlb": _hugetlb,
    "mapmax": _mapmax,
    "named": _named,
    "swap": _swap,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_line_equals_the_kernels(way: str, quiet_machine: None, nodes: list[int], files: Path) -> None:
    wrong: list[str] = []
    with Target(static=True) as target, traced_as_asked(way, target.pid, details=True) as session:
        for name, scene in SCENES.items():
            world = World(target, nodes, files)
            try:
                for moment in scene(world):
                    theirs, ours = steady(target.pid, lambda: list(numa_maps.lines(session.refresh().only, full=True)))
                    wrong += [f"{name}, {moment}: {line}" for line in _unequal(theirs, ours)]
            except KernelLacks:
                pass
            finally:
                world.clear()
    assert not wrong, "\n".join(wrong)


def _unequal(theirs: list[bytes], ours: list[bytes]) -> list[str]:
    if len(theirs) != len(ours):
        return [f"{len(ours)} lines instead of {len(theirs)}"]
    return [f"kernel {one!r} ours {other!r}" for one, other in zip(theirs, ours, strict=True) if one != other]


def test_the_command_prints_the_kernels_file(quiet_machine: None, nodes: list[int], files: Path) -> None:
    with Target(static=True) as target:
        world = World(target, nodes, files)
        for scene in (_files, _kinds):
            list(scene(world))
            world = World(target, nodes, files)
        world.map(0, HUGE, ANON)
        world.write(0, HUGE)
        command = [sys.executable, "-m", "tracer.cli.main", "maps", "--full", "-p", str(target.pid)]

        def printed() -> list[bytes]:
            done = subprocess.run(command, capture_output=True, check=True)
            return done.stdout.split(b"\n")[:-1]

        theirs, ours = steady(target.pid, printed)
    assert _unequal(theirs, ours) == []
