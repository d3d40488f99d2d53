"""Operations: system calls that fill, move or drop pages in ways of their own."""

from __future__ import annotations

import errno
import mmap
import os
import select
from collections.abc import Iterator

from tests.kernel import outside
from tests.kernel.world import HUGE, PAGE, SHARED, Operation, Step, World

__all__ = ["CALLS"]

_SMALL = 64 * PAGE
_MREMAP_ELSEWHERE_DONTUNMAP = 1 | 2 | 4  # MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP
_MADV_REMOVE, _NO_HUGE_PAGE = 9, 15
_MCL_CURRENT_AND_FUTURE_ON_FAULT, _MCL_FUTURE = 1 | 2 | 4, 2
_COPY, _ZERO, _MOVE = range(3)  # enum userfault_way in tests/workloads/userfault.h
_DIRECTLY, _WORKER, _FIXED = range(3)  # enum ring_way in tests/workloads/ring.h

_ELSEWHERE = "another process did it: only the change of the RSS is seen"
_FILLED = "where userfaultfd fills, pages may come from anywhere in the process"
_NO_ADDRESS = "the call names no address, or not all that it changes"


def _remap_and_keep(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    w.write(0, 1 << 20)
    w.remap(0, 1 << 20, 4 * HUGE + PAGE, 1 << 20, _MREMAP_ELSEWHERE_DONTUNMAP)
    yield Step("moved, the old place kept", 256)
    w.write(0, _SMALL)
    yield Step("the old place touched", 256 + 64)
    w.memfd(1 << 20)
    w.map(8 * HUGE, 1 << 20, SHARED, file=True)
    w.write(8 * HUGE, 1 << 20)
    w.remap(8 * HUGE, 1 << 20, 12 * HUGE, 1 << 20, _MREMAP_ELSEWHERE_DONTUNMAP)
    yield Step("shared memory", 256 + 64 + 256)
    w.read(8 * HUGE, _SMALL)
    yield Step("read again in the old place", 256 + 64 + 256 + 64)


def _remap_and_keep_thp(w: World) -> Iterator[Step]:
    w.map(0, 2 * HUGE)
    w.advise(0, 2 * HUGE, mmap.MADV_HUGEPAGE, lacking=(errno.EINVAL,))
    w.write(0, 2 * HUGE, HUGE)
    w.remap(0, 2 * HUGE, 8 * HUGE, 2 * HUGE, _MREMAP_ELSEWHERE_DONTUNMAP)
    yield Step("moved, the old place kept", 1024)
    w.write(HUGE, PAGE)
    yield Step("one touched in the old place", 1536)


def _remove(w: World) -> Iterator[Step]:
    """It takes the pages from the file, and so from every mapping of it, but for private copies."""
    w.memfd(1 << 20)
    w.map(0, 1 << 20, SHARED, file=True)
    w.map(4 * HUGE, 1 << 20, mmap.MAP_PRIVATE, file=True)
    w.write(0, 1 << 20)
    w.read(4 * HUGE, 1 << 20)
    w.write(4 * HUGE, 10 * PAGE)
    yield Step("two views", 512)
    w.advise(0, _SMALL, _MADV_REMOVE)
    yield Step("64 pages removed from both", 512 - 64 - 54, audited=_NO_ADDRESS)
    w.read(4 * HUGE, _SMALL)
    yield Step("read again in one", 512 - 64)


def _lock_all(w: World) -> Iterator[Step]:
    w.ask("lockall", _MCL_FUTURE)
    w.map(0, 1 << 20)
    yield Step("what is mapped from now on is there at once", 256)
    w.ask("lockall", 0)
    w.map(HUGE, 1 << 20)
    yield Step("and no more", 256)
    w.ask("lockall", _MCL_CURRENT_AND_FUTURE_ON_FAULT)
    w.write(HUGE, _SMALL)
    yield Step("locked when touched", 256 + 64, audited=_NO_ADDRESS)
    w.ask("lockall", 0)
    yield Step("unlocked", 256 + 64)


def _userfault_world(w: World, shared: bool) -> None:
    """A MiB that is filled on demand only, and a MiB of pages to fill it with, 4 MiB further."""
    if shared:
        w.memfd(1 << 20)
        w.map(0, 1 << 20, SHARED, file=True)
    else:
        w.map(0, 1 << 20)
    w.map(2 * HUGE, 1 << 20)
    for offset in (0, 2 * HUGE):
        w.advise(offset, 1 << 20, _NO_HUGE_PAGE)
    w.ask("userfault", w.slot, 0, 1 << 20, lacking=(errno.ENOSYS, errno.EPERM, errno.EINVAL))
    w.write(2 * HUGE, 1 << 20)


def _fill(w: World, to: int, length: int, source: int, way: int) -> None:
    w.ask("fill", w.slot, to, length, source, way, lacking=(errno.EINVAL, errno.ENOTTY) if way == _MOVE else ())


def _userfault_copy(w: World, shared: bool = False) -> Iterator[Step]:
    _userfault_world(w, shared)
    yield Step("nothing there", 256)
    _fill(w, 3 * PAGE, _SMALL, 2 * HUGE, _COPY)
    yield Step("64 pages copied", 256 + 64, audited=_NO_ADDRESS)
    _fill(w, 128 * PAGE, 16 * PAGE, 0, _ZERO)
    zeroes = 16 if shared else 0
    yield Step("16 pages of zeroes", 256 + 64 + zeroes, audited=_NO_ADDRESS)
    w.write(3 * PAGE, 10 * PAGE)
    w.write(128 * PAGE, 4 * PAGE)
    yield Step("some of both written", 256 + 64 + (zeroes or 4), audited="" if shared else _FILLED)
    with outside.userfaults(w.pid, w.file_descriptor) as descriptor:
        outside.userfault_copy(descriptor, w.address(200 * PAGE), b"z" * 20 * PAGE)
    yield Step("20 pages by another process", 256 + 64 + (zeroes or 4) + 20, audited=_ELSEWHERE)
    w.unmap(0, 1 << 20)
    yield Step("unmapped", 256, audited="" if shared else _FILLED)


def _userfault_copy_shmem(w: World) -> Iterator[Step]:
    return _userfault_copy(w, shared=True)


def _userfault_waits(w: World) -> Iterator[Step]:
    """A fault that waits until another process has filled its page."""
    _userfault_world(w, shared=False)
    yield Step("nothing there", 256)
    words = ("write", w.slot, 0, 3 * PAGE, PAGE)
    w.target.send(*words)
    with outside.userfaults(w.pid, w.file_descriptor) as descriptor:
        for number in range(3):
            assert select.select([descriptor], [], [], 60.0)[0], "no fault arrives"
            assert outside.userfault_address(descriptor) == w.address(number * PAGE)
            outside.userfault_copy(descriptor, w.address(number * PAGE), b"z" * PAGE)
    w.target.receive(*words)
    yield Step("3 pages, each waited for", 256 + 3, audited=_ELSEWHERE)
    w.unmap(0, 1 << 20)
    yield Step("unmapped", 256, audited=_FILLED)


def _userfault_move(w: World) -> Iterator[Step]:
    _userfault_world(w, shared=False)
    yield Step("nothing there", 256)
    _fill(w, 0, _SMALL, 2 * HUGE, _MOVE)
    yield Step("64 pages moved", 256, audited=_FILLED)
    w.write(2 * HUGE, 32 * PAGE)
    yield Step("32 of them touched where they were", 256 + 32)
    w.unmap(0, 1 << 20)
    yield Step("unmapped", 256 - 32, audited=_FILLED)


def _ring(w: World, flags: int = os.O_RDONLY) -> Iterator[Step]:
    w.open(1 << 20, flags=flags)
    w.map(0, 1 << 20)
    pages = 0
    ways = {"directly": _DIRECTLY, "by a worker of the kernel's": _WORKER, "into a fixed buffer": _FIXED}
    for name, way in ways.items():
        w.ask("ring", w.slot, way * _SMALL, _SMALL, w.slot, 0, way, lacking=(errno.ENOSYS, errno.EPERM))
        pages += 64
        yield Step(name, pages, audited=_NO_ADDRESS)


def _ring_direct(w: World) -> Iterator[Step]:
    return _ring(w, os.O_RDONLY | os.O_DIRECT)


CALLS: dict[str, Operation] = {
    "mremap DONTUNMAP": _remap_and_keep,
    "mremap DONTUNMAP of THP": _remap_and_keep_thp,
    "MADV_REMOVE": _remove,
    "mlockall": _lock_all,
    "userfaultfd copy": _userfault_copy,
    "userfaultfd copy into shmem": _userfault_copy_shmem,
    "userfaultfd, a fault waits": _userfault_waits,
    "userfaultfd move": _userfault_move,
    "io_uring": _ring,
    "io_uring, O_DIRECT": _ring_direct,
}
