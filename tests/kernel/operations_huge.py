"""Operations: huge pages that come together, are taken apart, and share their page tables."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator

from tests.kernel import machine
from tests.kernel.world import HUGE, PAGE, SHARED, KernelLacks, Operation, Step, World

__all__ = ["HUGE_PAGES"]

_NO_THP = (errno.EINVAL,)
_MADV_COLLAPSE = 25
_MFD_HUGETLB_2M = 4 | 21 << 26
_MAP_NORESERVE = 0x4000
_GIB = 1 << 30

_ELSEWHERE = "another process did it: only the change of the RSS is seen"


def _khugepaged(w: World) -> Iterator[Step]:
    w.map(0, 3 * HUGE)
    w.write(0, HUGE)
    w.write(HUGE, 10 * PAGE)
    yield Step("small pages", 512 + 10)
    w.advise(0, 2 * HUGE, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    with machine.khugepaged():
        machine.until(lambda: w.transparent_huge(0) == 2 * HUGE, "khugepaged collapses two regions")
    yield Step("two regions, the second one from 10 pages", 1024, audited="khugepaged did it, and names no address")
    w.write(0, 2 * HUGE)
    yield Step("written", 1024)


def _khugepaged_of_shmem(w: World) -> Iterator[Step]:
    w.memfd(2 * HUGE)
    w.map(0, 2 * HUGE, SHARED, file=True)
    w.map(8 * HUGE, 2 * HUGE, SHARED, file=True)
    w.write(0, 2 * HUGE)
    w.read(8 * HUGE, HUGE)
    yield Step("small pages", 1024 + 512)
    w.advise(0, 2 * HUGE, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    with machine.khugepaged():
        machine.until(lambda: w.slot_pages(w.truth()) < 1536, "khugepaged collapses shared memory")
        machine.khugepaged_has_been_round()
    yield Step("collapsed, unmapped where it was mapped", audited="khugepaged did it")
    w.write(0, 2 * HUGE)
    w.read(8 * HUGE, HUGE)
    yield Step("touched", 1024 + 512)


def _collapse_shmem(w: World) -> Iterator[Step]:
    w.memfd(2 * HUGE)
    w.map(0, 2 * HUGE, SHARED, file=True)
    w.map(8 * HUGE, 2 * HUGE, SHARED, file=True)
    w.write(0, 2 * HUGE)
    w.read(8 * HUGE, 2 * HUGE)
    yield Step("small pages in two views", 2048)
    w.advise(0, HUGE, _MADV_COLLAPSE, lacking=(errno.EINVAL,))
    yield Step("one region collapsed through one view", audited="the other view is changed as well")
    w.read(0, 2 * HUGE)
    w.read(8 * HUGE, 2 * HUGE)
    yield Step("read in both", 2048)


def _split(w: World) -> Iterator[Step]:
    """The folios themselves are split, by debugfs: pages stay where they are."""
    w.map(0, 2 * HUGE)
    w.advise(0, 2 * HUGE, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    w.write(0, HUGE)
    w.write(HUGE, PAGE)
    assert w.transparent_huge(0) == 2 * HUGE
    yield Step("2 huge pages", 1024)
    machine.split_huge_pages(w.pid, w.address(0), w.address(HUGE))
    assert w.transparent_huge(0) == HUGE
    yield Step("one split by another process", 1024)
    w.advise(0, HUGE // 2, mmap.MADV_DONTNEED)
    yield Step("half of it discarded", 768)
    machine.split_huge_pages(w.pid, w.address(HUGE), w.address(2 * HUGE))
    assert w.transparent_huge(0) == 0
    yield Step("the other one split, whose pages of zeroes may become the zero page", audited=_ELSEWHERE)
    w.write(HUGE, HUGE)
    yield Step("written", 768)


def _shared_tables(w: World) -> Iterator[Step]:
    """Two processes that map a whole aligned GiB of one file have one page table for it: a page that either faults in
    is there for both at once, and nothing but that table changes."""
    w.memfd(_GIB, _MFD_HUGETLB_2M, lacking=(errno.ENOMEM, errno.EINVAL))
    w.map(0, _GIB, SHARED | _MAP_NORESERVE, file=True)
    w.write(0, PAGE)
    yield Step("1 page", 1)
    w.ask("fork")
    w.ask("child", "write", w.slot, 0, PAGE, PAGE)
    yield Step("the child has it as well", 1)
    w.ask("child", "write", w.slot, 5 * HUGE, 2 * HUGE, HUGE)
    if w.slot_pages(w.truth()) == 1:
        raise KernelLacks("page tables are not shared")
    yield Step("the child has faulted in 2 more", 3, audited="only the page table tells")
    w.write(5 * HUGE, 3 * HUGE, HUGE)
    yield Step("and the parent one", 4, audited="hugetlb pages are counted in the one who faults")
    w.ask("child", "unmap", w.slot, 0, _GIB)
    yield Step("the child has unmapped it", 4, audited="hugetlb pages are counted in the one who faults")
    os.truncate(w.file_path, 5 * HUGE)
    yield Step("cut by another process", 1, audited=_ELSEWHERE)


HUGE_PAGES: dict[str, Operation] = {
    "khugepaged": _khugepaged,
    "khugepaged of shmem": _khugepaged_of_shmem,
    "MADV_COLLAPSE of shmem": _collapse_shmem,
    "THP split": _split,
    "hugetlb, shared page tables": _shared_tables,
}
