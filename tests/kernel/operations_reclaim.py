"""Operations: pages that the kernel takes back, and that come again from the disk or from swap space."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

from tests.kernel import cgroups, machine, outside
from tests.kernel.operations import MADV_PAGEOUT
from tests.kernel.world import HUGE, PAGE, SHARED, Operation, Step, World

__all__ = ["RECLAIM"]

_SMALL = 64 * PAGE
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")

_ELSEWHERE = "the kernel did it on behalf of another process"
_ALL_VIEWS = "the advice may change other mappings of a file as well"


def _free_and_reclaim(w: World) -> Iterator[Step]:
    with cgroups.reclaimable(w.pid) as reclaim:
        w.map(0, _SMALL)
        w.write(0, _SMALL)
        w.advise(0, _SMALL, mmap.MADV_FREE)
        w.write(0, 10 * PAGE)
        yield Step("given up, and 10 written again", 64)
        machine.until(lambda: reclaim(_SMALL) and w.slot_pages(w.truth()) < 64, "reclaim takes what was given up")
        yield Step("reclaimed", audited=_ELSEWHERE)
        w.write(0, _SMALL)
        yield Step("all written", 64)


def _reclaim_file(w: World) -> Iterator[Step]:
    path = w.open(1 << 20)
    with cgroups.reclaimable(w.pid) as reclaim:
        # Pages are charged to who reads them from the disk.
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        w.map(0, 1 << 20, SHARED, prot=mmap.PROT_READ, file=True)
        w.read(0, 1 << 20)
        yield Step("file read", 256)
        machine.until(lambda: reclaim(1 << 20) and w.slot_pages(w.truth()) < 256, "reclaim takes pages of the file")
        yield Step("reclaimed", audited=_ELSEWHERE)
        w.read(0, 1 << 20)
        yield Step("read again", 256)


def _reclaim_to_swap(w: World) -> Iterator[Step]:
    with machine.swap(w.directory), cgroups.reclaimable(w.pid) as reclaim:
        w.map(0, 1 << 20)
        w.advise(0, 1 << 20, mmap.MADV_NOHUGEPAGE, lacking=(errno.EINVAL,))
        w.write(0, 1 << 20)
        yield Step("touched", 256)
        machine.until(lambda: reclaim(1 << 20) and w.slot_pages(w.truth()) < 256, "reclaim swaps pages out")
        yield Step("reclaimed", audited=_ELSEWHERE)
        w.read(0, 1 << 20, 16 * PAGE)
        yield Step("every 16th read")
        w.write(0, 1 << 20)
        yield Step("all written", 256)


def _swap_huge(w: World) -> Iterator[Step]:
    with machine.swap(w.directory):
        w.map(0, 2 * HUGE)
        w.advise(0, 2 * HUGE, mmap.MADV_HUGEPAGE, lacking=(errno.EINVAL,))
        w.write(0, 2 * HUGE)  # pages of zeroes would not come back as pages
        yield Step("2 huge pages", 1024)
        w.advise(0, HUGE, MADV_PAGEOUT)
        assert w.slot_pages(w.truth()) < 1024
        yield Step("one paged out", audited=_ALL_VIEWS)
        w.read(0, HUGE)
        yield Step("read again", 1024)
        outside.process_madvise(w.pid, w.address(HUGE), HUGE // 2, MADV_PAGEOUT)
        yield Step("half of the other one, by another process", audited=_ELSEWHERE)
        w.write(0, 2 * HUGE)
        yield Step("all written", 1024)


def _drop_caches(w: World) -> Iterator[Step]:
    """Mapped pages stay, others go."""
    w.open(1 << 20)
    w.map(0, 1 << 20, SHARED, prot=mmap.PROT_READ, file=True)
    w.read(0, 1 << 20)
    yield Step("file read", 256)
    w.unmap(_SMALL, _SMALL)
    _DROP_CACHES.write_text("1")
    yield Step("64 unmapped, caches dropped", 256 - 64)
    w.map(_SMALL, _SMALL, SHARED, prot=mmap.PROT_READ, file=True, file_offset=_SMALL)
    w.read(_SMALL, _SMALL)
    yield Step("mapped and read again", 256)


RECLAIM: dict[str, Operation] = {
    "MADV_FREE, reclaimed": _free_and_reclaim,
    "reclaim of a file": _reclaim_file,
    "reclaim to swap": _reclaim_to_swap,
    "swap of THP": _swap_huge,
    "drop_caches": _drop_caches,
}
