"""The operations of the exactness table: everything that changes which pages a process has, and where.

Each is a generator of steps, see world.py. Sizes are a few MiB: the tests also run on emulated machines.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator

from tests.kernel import machine, outside
from tests.kernel.world import ANON, HUGE, PAGE, RW, SHARED, Operation, Step, World
from tracer.model.policy import F_STATIC_NODES, Mode

__all__ = ["MADV_PAGEOUT", "OPERATIONS", "cow_seen_by_the_child"]

_SMALL = 64 * PAGE
_SHARED_ANON = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
MADV_PAGEOUT = 21
_MADV_POPULATE_READ, _MADV_POPULATE_WRITE, _MADV_COLLAPSE, _MADV_GUARD_INSTALL = 22, 23, 25, 102
_MPOL_MF_MOVE = 2
_MREMAP_MAYMOVE, _MREMAP_FIXED, _MREMAP_DONTUNMAP = 1, 2, 4
_MFD_HUGETLB = 4
_MAP_FIXED = 0x10
_HUGE_SHIFT, _GIGANTIC_SHIFT = 21, 30
_NO_THP = (errno.EINVAL,)
_PUNCH_A_HOLE = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE

_ELSEWHERE = "another process did it: only the change of the RSS is seen"
_ALL_VIEWS = "the advice changes other mappings of a file as well"
_EVERYWHERE = "changes the whole process"


def _touch(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    w.write(0, 1 << 20)
    yield Step("4 KiB pages", 256)
    w.map(16 << 20, 16 << 20)
    w.write(16 << 20, 16 << 20, HUGE)
    yield Step("a page in each of 8 regions", 256 + 8)
    w.write(17 << 20, PAGE)
    yield Step("one more page", 256 + 9)


def _touch_thp(w: World) -> Iterator[Step]:
    w.map(0, 3 * HUGE)
    w.advise(0, 3 * HUGE, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    w.write(0, 3 * HUGE, HUGE)
    assert w.transparent_huge(0) == 3 * HUGE
    yield Step("3 huge pages", 3 * 512)
    w.unmap(HUGE + 5 * PAGE, 2 * PAGE)
    yield Step("hole in one", 3 * 512 - 2)
    w.advise(0, HUGE, mmap.MADV_DONTNEED)
    yield Step("one discarded", 2 * 512 - 2)
    w.advise(2 * HUGE + PAGE, 100 * PAGE, mmap.MADV_DONTNEED)
    yield Step("part of one discarded", 2 * 512 - 2 - 100)


def _touch_large_folios(w: World) -> Iterator[Step]:
    """Folios of 64 KiB where the kernel has them for anonymous memory, mapped page by page."""
    w.map(0, 1 << 20)
    w.advise(0, 1 << 20, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    w.write(0, 1 << 20)
    yield Step("touched", 256)
    w.unmap(5 * PAGE, 16 * PAGE)
    yield Step("hole across two", 240)
    w.ask("fork")
    w.write(32 * PAGE, PAGE)
    yield Step("forked, parent wrote a page", 240)


def _touch_hugetlb(w: World) -> Iterator[Step]:
    w.map_hugetlb(0, 3 * HUGE, _HUGE_SHIFT)
    w.write(0, 3 * HUGE, HUGE)
    yield Step("private, 3 pages", 3)
    w.unmap(HUGE, HUGE)
    yield Step("private, hole", 2)
    w.map_hugetlb(8 * HUGE, 2 * HUGE, _HUGE_SHIFT, _SHARED_ANON)
    w.write(8 * HUGE, 2 * HUGE, HUGE)
    yield Step("shared, 2 pages", 4)
    w.advise(0, HUGE, mmap.MADV_DONTNEED, lacking=(errno.EINVAL,))
    yield Step("private, discarded", 3)


def _hugetlb_memfd(w: World) -> Iterator[Step]:
    w.memfd(2 * HUGE, _MFD_HUGETLB | _HUGE_SHIFT << 26, lacking=(errno.ENOMEM, errno.EINVAL))
    w.map(0, 2 * HUGE, SHARED, file=True)
    w.map(8 * HUGE, 2 * HUGE, mmap.MAP_PRIVATE, file=True)
    w.write(0, 2 * HUGE, HUGE)
    yield Step("shared view", 2)
    w.read(8 * HUGE, 2 * HUGE, HUGE)
    yield Step("private view read", 4)
    w.write(8 * HUGE, HUGE, HUGE)
    yield Step("private view written", 4)
    os.truncate(w.file_path, HUGE)
    yield Step("cut by another process", 2, audited=_ELSEWHERE)


def _touch_gigantic(w: World) -> Iterator[Step]:
    w.map_hugetlb(0, 1 << _GIGANTIC_SHIFT, _GIGANTIC_SHIFT)
    w.write(0, PAGE)
    yield Step("1 page", 1)
    w.unmap(0, 1 << _GIGANTIC_SHIFT)
    yield Step("unmapped", 0)


def _zero_page(w: World) -> Iterator[Step]:
    w.map(0, _SMALL)
    w.read(0, _SMALL)
    yield Step("read", 0)
    w.write(0, _SMALL // 2)
    yield Step("half written", 32)


def _huge_zero_page(w: World) -> Iterator[Step]:
    w.map(0, 2 * HUGE)
    w.advise(0, 2 * HUGE, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    w.read(0, 2 * HUGE, HUGE)
    yield Step("read", 0)
    w.write(HUGE, PAGE)
    yield Step("one written")


def _fork(w: World) -> Iterator[Step]:
    w.map(0, _SMALL)
    w.write(0, _SMALL)
    w.map(HUGE, HUGE)
    w.advise(HUGE, HUGE, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    w.write(HUGE, HUGE, HUGE)
    w.ask("fork")
    yield Step("forked", 64 + 512)
    w.write(0, _SMALL // 2)
    yield Step("parent wrote", 64 + 512)
    w.write(HUGE, 3 * PAGE)
    yield Step("parent wrote huge page")
    w.ask("child", "write", w.slot, 0, _SMALL, PAGE)
    w.ask("child", "write", w.slot, HUGE, HUGE, PAGE)
    yield Step("child wrote")
    w.ask("reap")
    yield Step("child ended")
    w.write(0, _SMALL)
    w.write(HUGE, HUGE)
    yield Step("parent wrote the rest", 64 + 512)


def _fork_hugetlb(w: World) -> Iterator[Step]:
    w.map_hugetlb(0, 2 * HUGE, _HUGE_SHIFT)
    w.write(0, 2 * HUGE, HUGE)
    w.ask("fork")
    yield Step("forked", 2)
    w.write(0, PAGE)
    yield Step("parent wrote", 2)
    w.ask("child", "write", w.slot, HUGE, PAGE, PAGE)
    yield Step("child wrote", 2)


def _vfork(w: World) -> Iterator[Step]:
    w.map(0, _SMALL)
    w.ask("vfork", w.slot, 0, _SMALL)
    # Where threads keep part of the RSS to themselves (6.1), what another process has not handed in is a doubt.
    yield Step("another process with this memory wrote", 64, audited="RSS of 6.1 is late")


def _private_file(w: World) -> Iterator[Step]:
    w.open(1 << 20)
    w.map(0, 1 << 20, mmap.MAP_PRIVATE, file=True)
    w.read(0, 1 << 20)
    yield Step("read", 256)
    w.write(0, 10 * PAGE)
    yield Step("10 pages written", 256)
    w.advise(0, 1 << 20, mmap.MADV_DONTNEED)
    yield Step("discarded", 0)
    w.write(PAGE, PAGE)
    yield Step("written unread")


def _shared_file(w: World) -> Iterator[Step]:
    w.open(1 << 20)
    w.map(0, 1 << 20, SHARED, file=True)
    w.read(0, _SMALL)
    yield Step("read")
    w.write(0, 1 << 20)
    yield Step("written", 256)
    w.map(HUGE + PAGE, _SMALL, SHARED, file=True, file_offset=3 * PAGE)
    w.read(HUGE + PAGE, _SMALL)
    yield Step("a second view read", 256 + 64)


def _memfd(w: World) -> Iterator[Step]:
    w.memfd(1 << 20)
    w.map(0, 1 << 20, SHARED, file=True)
    w.write(0, 1 << 20)
    yield Step("shared, written", 256)
    w.map(HUGE, 1 << 20, mmap.MAP_PRIVATE, file=True)
    w.read(HUGE, 1 << 20)
    yield Step("private view read", 512)
    w.write(HUGE, _SMALL)
    yield Step("private view written", 512)


def _sysv(w: World) -> Iterator[Step]:
    w.ask("shm", w.slot, 0, 1 << 20, 0)
    w.write(0, 1 << 20)
    yield Step("written", 256)


def _shared_anon(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20, _SHARED_ANON)
    w.write(0, 1 << 20)
    yield Step("written", 256)
    w.ask("fork")
    w.ask("child", "advise", w.slot, 0, _SMALL, mmap.MADV_REMOVE)
    yield Step("child removed 64 pages", 256 - 64, audited=_ELSEWHERE)


def _holes(w: World) -> Iterator[Step]:
    w.map(PAGE, 3 << 20)
    w.write(PAGE, 3 << 20)
    yield Step("mapped", 768)
    for offset in (PAGE, 100 * PAGE, HUGE - 3 * PAGE, (3 << 20) - 2 * PAGE):
        w.unmap(offset, 7 * PAGE)
    yield Step("4 holes", 768 - 7 * 3 - 3)
    w.unmap(0, 4 << 20)
    yield Step("all gone", 0)


def _map_again(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    w.write(0, 1 << 20)
    yield Step("mapped", 256)
    w.unmap(0, 1 << 20)
    w.map(0, 1 << 20)
    yield Step("an equal empty one in its place", 0)
    w.write(0, 3 * PAGE)
    yield Step("touched", 3)
    w.map(0, 1 << 20, ANON | _MAP_FIXED)
    yield Step("another over it", 0)
    w.map(0, 1 << 20, ANON | _MAP_FIXED | mmap.MAP_POPULATE)
    yield Step("a populated one over it", 256)


def _map_anywhere(w: World) -> Iterator[Step]:
    """The kernel chooses the place, and chooses the same again: the list of VMAs reads as before."""
    place = int(w.ask("mapany", 1 << 20, ANON))
    try:
        yield Step("empty")
        w.ask("unmap", "at", place, 1 << 20)
        assert int(w.ask("mapany", 1 << 20, ANON | mmap.MAP_POPULATE)) == place
        assert w.ask("where", "at", place, 1 << 20).endswith("absent=0")
        yield Step("a populated one in its place", audited="the address in the call is only a wish")
    finally:
        w.ask("unmap", "at", place, 1 << 20)


def _neighbours(w: World) -> Iterator[Step]:
    for number in range(20):
        prot = RW if number % 2 else RW | mmap.PROT_EXEC
        w.map(number * 16 * PAGE, 16 * PAGE, prot=prot)
        w.write(number * 16 * PAGE, (number % 16 + 1) * PAGE)
    used = sum(number % 16 + 1 for number in range(20))
    yield Step("20 VMAs in one region", used)
    w.unmap(3 * 16 * PAGE, 16 * PAGE)
    yield Step("one gone", used - 4)


def _protect(w: World) -> Iterator[Step]:
    w.map(0, 4 << 20)
    w.write(0, 4 << 20)
    w.protect(_SMALL, _SMALL, mmap.PROT_READ)
    yield Step("middle read-only", 1024)
    w.protect(1 << 20, 2 << 20, 0)
    yield Step("part without any access", 1024)
    w.protect(0, 4 << 20, RW)
    yield Step("one again", 1024)
    w.write(0, 4 << 20)
    yield Step("written again", 1024)


def _bind_split(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    w.write(0, _SMALL)
    w.bind(_SMALL // 2, _SMALL, Mode.BIND, 1 << w.last)
    yield Step("policy on a part", 64)
    w.write(0, 1 << 20)
    yield Step("touched", 256)
    w.bind(0, 1 << 20, Mode.DEFAULT, 0)
    yield Step("default again", 256)


def _bind_modes(w: World) -> Iterator[Step]:
    modes = {
        "prefer": (Mode.PREFERRED, 1 << w.last),
        "bind, static": (Mode.BIND | F_STATIC_NODES, w.mask),
        "interleave": (Mode.INTERLEAVE, w.mask),
        "local": (Mode.LOCAL, 0),
        "prefer many": (Mode.PREFERRED_MANY, w.mask),
    }
    for number, (mode, mask) in enumerate(modes.values()):
        w.map(number * HUGE, _SMALL)
        w.bind(number * HUGE, _SMALL, mode, mask)
        w.write(number * HUGE, _SMALL)
    yield Step(", ".join(modes), 64 * len(modes))
    w.bind(0, _SMALL, Mode.BIND, w.mask)
    w.bind(HUGE, _SMALL, Mode.DEFAULT, 0)
    yield Step("two replaced", 64 * len(modes))


def _bind_weighted(w: World) -> Iterator[Step]:
    w.map(0, _SMALL)
    w.bind(0, _SMALL, Mode.WEIGHTED_INTERLEAVE, w.mask)
    w.write(0, _SMALL)
    yield Step("touched", 64)


def _bind_shared(w: World) -> Iterator[Step]:
    w.memfd(1 << 20)
    w.map(0, 1 << 20, SHARED, file=True)
    w.map(HUGE, 1 << 20, SHARED, file=True)
    w.bind(0, _SMALL, Mode.INTERLEAVE, w.mask)
    yield Step("policy on a part of one view", 0)
    w.write(0, 1 << 20)
    w.read(HUGE, 1 << 20)
    yield Step("touched", 512)
    w.ask("fork")
    w.ask("child", "bind", w.slot, 0, _SMALL, int(Mode.PREFERRED), 1 << w.last, 0)
    yield Step("policy by another process", 512)


def _bind_move(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    w.bind(0, 1 << 20, Mode.BIND, 1 << w.nodes[0])
    w.write(0, 1 << 20)
    yield Step("on the first node", 256)
    w.bind(0, 1 << 20, Mode.BIND, 1 << w.last, _MPOL_MF_MOVE)
    assert w.where(0, 1 << 20) == {w.last: 256}
    yield Step("moved to the last", 256)
    w.bind(_SMALL, _SMALL, Mode.INTERLEAVE, w.mask, _MPOL_MF_MOVE)
    yield Step("part interleaved", 256)


def _bind_move_thp(w: World) -> Iterator[Step]:
    w.map(0, 2 * HUGE)
    w.advise(0, 2 * HUGE, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    w.bind(0, 2 * HUGE, Mode.BIND, 1 << w.nodes[0])
    w.write(0, 2 * HUGE, HUGE)
    w.bind(0, 2 * HUGE, Mode.BIND, 1 << w.last, _MPOL_MF_MOVE)
    yield Step("moved", 1024)


def _mremap_grow(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    w.write(0, 1 << 20)
    w.remap(0, 1 << 20, 0, 3 << 20, 0)
    yield Step("grown", 256)
    w.write(1 << 20, 2 << 20)
    yield Step("touched", 768)
    w.remap(0, 3 << 20, 0, _SMALL, 0)
    yield Step("shrunk", 64)


def _mremap_move(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    w.write(0, 1 << 20)
    w.remap(0, 1 << 20, (8 << 20) + PAGE, 1 << 20, _MREMAP_MAYMOVE | _MREMAP_FIXED)
    yield Step("by a page more than a region", 256)
    w.remap((8 << 20) + PAGE, _SMALL, 16 << 20, HUGE, _MREMAP_MAYMOVE | _MREMAP_FIXED)
    yield Step("first part, and grown", 256)
    w.write(16 << 20, HUGE)
    yield Step("touched", 256 - 64 + 512)


def _mremap_thp(w: World) -> Iterator[Step]:
    w.map(0, 2 * HUGE)
    w.advise(0, 2 * HUGE, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    w.write(0, 2 * HUGE, HUGE)
    w.remap(0, HUGE, 8 * HUGE, HUGE, _MREMAP_MAYMOVE | _MREMAP_FIXED)
    yield Step("whole huge page", 1024)
    w.remap(HUGE, HUGE, 16 * HUGE + PAGE, HUGE, _MREMAP_MAYMOVE | _MREMAP_FIXED)
    yield Step("to an unaligned place", 1024)


def _mremap_over(w: World) -> Iterator[Step]:
    w.map(0, _SMALL)
    w.write(0, 5 * PAGE)
    w.map(HUGE, _SMALL)
    w.write(HUGE, 50 * PAGE)
    yield Step("two mappings", 55)
    w.remap(0, _SMALL, HUGE, _SMALL, _MREMAP_MAYMOVE | _MREMAP_FIXED)
    yield Step("one over the other", 5)


def _mremap_same_list(w: World) -> Iterator[Step]:
    """Pages change places and the list of VMAs reads as before."""
    everywhere = _MREMAP_MAYMOVE | _MREMAP_FIXED
    w.map(0, _SMALL)
    w.write(0, 5 * PAGE)
    w.map(HUGE, _SMALL)
    w.write(HUGE, 50 * PAGE)
    yield Step("two mappings", 55)
    w.remap(0, _SMALL, 2 * HUGE, _SMALL, everywhere)
    w.remap(HUGE, _SMALL, 0, _SMALL, everywhere)
    w.remap(2 * HUGE, _SMALL, HUGE, _SMALL, everywhere)
    yield Step("exchanged", 55)
    w.remap(0, _SMALL, HUGE, _SMALL, everywhere | _MREMAP_DONTUNMAP)
    yield Step("one over the other, its place kept", 50)


def _discard(w: World) -> Iterator[Step]:
    w.map(0, 3 << 20)
    w.write(0, 3 << 20)
    yield Step("touched", 768)
    w.advise(_SMALL, _SMALL, mmap.MADV_DONTNEED)
    yield Step("64 pages", 768 - 64)
    w.advise(0, 3 << 20, mmap.MADV_DONTNEED)
    yield Step("all", 0)


def _discard_and_touch(w: World) -> Iterator[Step]:
    """The RSS is the same before and after."""
    w.map(0, _SMALL)
    w.map(HUGE, _SMALL)
    w.write(0, _SMALL)
    yield Step("touched", 64)
    w.advise(0, _SMALL, mmap.MADV_DONTNEED)
    w.write(HUGE, _SMALL)
    yield Step("as many elsewhere", 64)


def _populate(w: World) -> Iterator[Step]:
    w.map(0, 4 << 20)
    w.advise(PAGE, 3 * PAGE, _MADV_POPULATE_WRITE, lacking=(errno.EINVAL,))
    yield Step("3 pages to write", 3)
    w.advise(0, 4 << 20, _MADV_POPULATE_WRITE)
    yield Step("1024 pages to write", 1024)
    w.map(8 << 20, 1 << 20)
    w.advise(8 << 20, 1 << 20, _MADV_POPULATE_READ)
    yield Step("zero page to read", 1024)
    w.map(16 << 20, _SMALL, ANON | mmap.MAP_POPULATE)
    yield Step("by mmap", 1024 + 64)


def _populate_file(w: World) -> Iterator[Step]:
    w.open(1 << 20)
    w.map(0, 1 << 20, SHARED, file=True)
    w.advise(PAGE, 3 * PAGE, _MADV_POPULATE_READ, lacking=(errno.EINVAL,))
    yield Step("3 pages to read")
    w.advise(0, 1 << 20, _MADV_POPULATE_WRITE)
    yield Step("256 pages to write", 256)


def _other_advice(w: World) -> Iterator[Step]:
    w.map(0, _SMALL)
    w.write(0, _SMALL)
    w.advise(0, _SMALL, mmap.MADV_FREE)
    yield Step("MADV_FREE", 64)
    w.advise(0, PAGE, mmap.MADV_DONTFORK)
    yield Step("MADV_DONTFORK", 64)


def _guard(w: World) -> Iterator[Step]:
    w.map(0, _SMALL)
    w.write(0, _SMALL)
    w.advise(PAGE, 10 * PAGE, _MADV_GUARD_INSTALL, lacking=(errno.EINVAL,))
    yield Step("10 pages", 54)


def _collapse(w: World) -> Iterator[Step]:
    w.map(0, 3 * HUGE)
    w.bind(0, 3 * HUGE, Mode.INTERLEAVE, w.mask)
    w.write(0, 3 * HUGE)
    w.advise(0, 3 * HUGE, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    yield Step("small pages", 3 * 512)
    w.advise(0, HUGE, _MADV_COLLAPSE, lacking=(errno.EINVAL,))
    assert w.transparent_huge(0) == HUGE
    yield Step("one region", 3 * 512, audited=_ALL_VIEWS)
    outside.process_madvise(w.pid, w.address(HUGE), HUGE, _MADV_COLLAPSE)
    assert w.transparent_huge(0) == 2 * HUGE
    yield Step("one region, by another process", 3 * 512, audited=_ELSEWHERE)


def _task_policies(w: World) -> Iterator[Step]:
    modes = {
        "interleave": (Mode.INTERLEAVE, w.mask),
        "bind, static": (Mode.BIND | F_STATIC_NODES, w.mask),
        "prefer": (Mode.PREFERRED, 1 << w.last),
        "prefer many": (Mode.PREFERRED_MANY, w.mask),
    }
    for number, (name, (mode, mask)) in enumerate(modes.items()):
        w.policy(mode, mask)
        yield Step(name, 64 * number)
        w.map(number * HUGE, _SMALL)
        w.write(number * HUGE, _SMALL)
        yield Step(f"{name}, touched", 64 * (number + 1))
    w.policy(Mode.DEFAULT, 0)
    yield Step("default", 64 * len(modes))


def _task_weighted(w: World) -> Iterator[Step]:
    w.policy(Mode.WEIGHTED_INTERLEAVE, w.mask)
    w.map(0, _SMALL)
    w.write(0, _SMALL)
    yield Step("touched", 64)


def _migrate(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    w.bind(0, 1 << 20, Mode.PREFERRED, 1 << w.nodes[0])
    w.write(0, 1 << 20)
    w.ask("migrate", 1 << w.nodes[0], 1 << w.last)
    assert w.where(0, 1 << 20) == {w.last: 256}
    yield Step("first node to last", 256, audited=_EVERYWHERE)
    outside.migrate_pages(w.pid, 1 << w.last, 1 << w.nodes[0])
    assert w.where(0, 1 << 20) == {w.nodes[0]: 256}
    yield Step("back, by another process", 256, audited=_EVERYWHERE)


def _migrate_twin(w: World) -> Iterator[Step]:
    """The child's pages move, at the same addresses as the parent's."""
    w.map(0, 1 << 20)
    w.bind(0, 1 << 20, Mode.PREFERRED, 1 << w.nodes[0])
    w.write(0, 1 << 20)
    w.ask("fork")
    w.ask("child", "write", w.slot, 0, _SMALL, PAGE)
    yield Step("forked, child wrote", 256)
    w.ask("child", "migrate", 1 << w.nodes[0], 1 << w.last)
    yield Step("child migrated", 256, audited=_EVERYWHERE)


def _move(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    w.bind(0, 1 << 20, Mode.PREFERRED, 1 << w.nodes[0])
    w.write(0, 1 << 20)
    w.ask("move", w.slot, _SMALL, _SMALL, w.last)
    assert w.where(_SMALL, _SMALL) == {w.last: 64}
    yield Step("64 pages", 256)
    pages = [w.address(number * PAGE) for number in range(0, 256, 3)]
    assert set(outside.move_pages(w.pid, pages, w.last)) == {w.last}
    yield Step("every third, by another process", 256)


def _move_shared(w: World) -> Iterator[Step]:
    w.memfd(1 << 20)
    w.map(0, 1 << 20, SHARED, file=True)
    w.write(0, 1 << 20)
    w.map(HUGE + 3 * PAGE, _SMALL, SHARED, file=True)
    w.read(HUGE + 3 * PAGE, _SMALL)
    w.ask("move", w.slot, 0, _SMALL, w.last)
    yield Step("pages that are mapped twice", 256 + 64)


def _read_into(w: World) -> Iterator[Step]:
    w.open(1 << 20)
    w.map(0, 1 << 20)
    w.ask("readfile", w.slot, 3 * PAGE, _SMALL, w.slot, 0)
    yield Step("64 pages", 64)
    w.ask("readfile", w.slot, 0, 1 << 20, w.slot, 0)
    yield Step("256 pages", 256)


def _read_direct(w: World) -> Iterator[Step]:
    """The disk writes into the pages: no processor faults on them."""
    w.open(1 << 20, flags=os.O_RDONLY | os.O_DIRECT)
    w.map(0, 1 << 20)
    w.ask("readfile", w.slot, 3 * PAGE, _SMALL, w.slot, 0)
    yield Step("64 pages", 64)


def _cold_file(w: World) -> Iterator[Step]:
    """Faults that wait for the disk, and are overtaken by others on their processor."""
    path = w.open(1 << 20)
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    w.map(0, 1 << 20, mmap.MAP_PRIVATE, file=True)
    w.advise(0, 1 << 20, mmap.MADV_RANDOM)
    w.read(0, 1 << 20, 16 * PAGE)
    yield Step("16 pages read")
    w.write(0, 1 << 20)
    yield Step("written", 256)


def _truncate_file(w: World) -> Iterator[Step]:
    path = w.open(1 << 20)
    w.map(0, 1 << 20, SHARED, file=True)
    w.map(HUGE, 1 << 20, mmap.MAP_PRIVATE, file=True)
    w.write(0, 1 << 20)
    w.read(HUGE, 1 << 20)
    w.write(HUGE, 1 << 20, 2 * PAGE)
    yield Step("mapped", 512)
    os.truncate(path, _SMALL)
    # A large folio across the end is split, and loses all its mappings: how many pages stay depends on the kernel.
    yield Step("cut by another process", audited=_ELSEWHERE)
    os.truncate(path, 0)
    yield Step("cut to nothing", 0, audited=_ELSEWHERE)


def _truncate_shmem(w: World) -> Iterator[Step]:
    w.memfd(1 << 20)
    w.map(0, 1 << 20, SHARED, file=True)
    w.write(0, 1 << 20)
    yield Step("mapped", 256)
    _punch_hole(w, 16 * PAGE, 5 * PAGE)
    yield Step("hole by another process", 251, audited=_ELSEWHERE)
    os.truncate(w.file_path, _SMALL)
    yield Step("cut by another process", 59, audited=_ELSEWHERE)
    w.ask("truncate", w.slot, 10 * PAGE)
    yield Step("cut by itself", 10, audited="the call names no address")


def _punch_hole(w: World, offset: int, length: int) -> None:
    with w.file_path.open("r+b") as file:
        outside.fallocate(file.fileno(), _PUNCH_A_HOLE, offset, length)


def _write_from_outside(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    outside.process_vm_writev(w.pid, w.address(5 * PAGE), b"y" * _SMALL)
    yield Step("process_vm_writev", 64, audited=_ELSEWHERE)
    outside.process_vm_writev(w.pid, w.address(200 * PAGE), b"y")
    yield Step("process_vm_writev, one page", 65, audited=_ELSEWHERE)
    with open(f"/proc/{w.pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(w.address(100 * PAGE))
        memory.write(b"y" * 7 * PAGE)
    yield Step("/proc/PID/mem", 72, audited=_ELSEWHERE)


def _page_out(w: World) -> Iterator[Step]:
    w.open(1 << 20)
    w.map(0, 1 << 20, SHARED, prot=mmap.PROT_READ, file=True)
    w.read(0, 1 << 20)
    yield Step("file read", 256)
    w.advise(0, _SMALL, MADV_PAGEOUT, lacking=(errno.EINVAL,))
    assert w.slot_pages(w.truth()) < 256
    yield Step("64 pages out", audited=_ALL_VIEWS)
    w.read(0, 1 << 20)
    outside.process_madvise(w.pid, w.address(512 << 10), 512 << 10, MADV_PAGEOUT)
    assert w.slot_pages(w.truth()) < 256
    yield Step("128 pages out, by another process", audited=_ELSEWHERE)


def _page_out_of_two_views(w: World) -> Iterator[Step]:
    """A large folio of a file is split, and by that unmapped everywhere, for a part of it."""
    w.open(1 << 20)
    for offset in (0, 4 * HUGE - 37 * PAGE):
        w.map(offset, 1 << 20, SHARED, prot=mmap.PROT_READ, file=True)
        w.read(offset, 1 << 20)
    yield Step("file read in two places", 512)
    w.advise(0, _SMALL, MADV_PAGEOUT, lacking=(errno.EINVAL,))
    yield Step("64 pages out of one", audited=_ALL_VIEWS)


def _swap(w: World) -> Iterator[Step]:
    with machine.swap(w.directory):
        w.map(0, _SMALL)
        w.write(0, _SMALL)
        yield Step("touched", 64)
        w.advise(0, _SMALL, MADV_PAGEOUT)
        assert w.slot_pages(w.truth()) < 64
        yield Step("paged out", audited=_ALL_VIEWS)
        w.read(0, _SMALL // 4)
        yield Step("16 pages read")
        w.write(0, _SMALL)
        yield Step("all written", 64)
        outside.process_madvise(w.pid, w.address(0), _SMALL, MADV_PAGEOUT)
        assert w.slot_pages(w.truth()) < 64
        yield Step("paged out by another process", audited=_ELSEWHERE)
    yield Step("swap switched off", 64, audited=_ELSEWHERE)


def _exec(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    w.write(0, 1 << 20)
    yield Step("before", 256)
    w.ask("exec")
    yield Step("new program", 0, audited=_EVERYWHERE)
    w.map(0, _SMALL)
    w.write(0, _SMALL)
    yield Step("it touches", 64)


def _brk(w: World) -> Iterator[Step]:
    w.ask("brk", 100 * PAGE)
    yield Step("grown by 100 pages")
    w.ask("brk", f"-{70 * PAGE}")
    yield Step("shrunk by 70 pages")
    w.ask("brk", f"-{30 * PAGE}")
    yield Step("shrunk by 30 pages")


def _stack(w: World) -> Iterator[Step]:
    w.ask("stack", 1 << 20)
    yield Step("grown to 1 MiB")


def _lock(w: World) -> Iterator[Step]:
    w.map(0, 1 << 20)
    w.ask("lock", w.slot, _SMALL, 3 * PAGE)
    yield Step("3 pages", 3)
    w.ask("lock", w.slot, 0, 1 << 20)
    yield Step("256 pages", 256)
    w.ask("unlock", w.slot, _SMALL, _SMALL)
    yield Step("part unlocked", 256)


def _threads(w: World) -> Iterator[Step]:
    w.map(0, 4 << 20)
    w.ask("threads", w.slot, 0, 4 << 20, 4)
    yield Step("4 threads touch 1024 pages", 1024)


def _shmem_thp(w: World) -> Iterator[Step]:
    w.memfd(2 * HUGE)
    w.map(0, 2 * HUGE, SHARED, file=True)
    w.advise(0, 2 * HUGE, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    w.write(0, 2 * HUGE, HUGE)
    assert w.transparent_huge(0) == 2 * HUGE
    yield Step("2 huge pages", 1024)
    w.unmap(7 * PAGE, 2 * PAGE)
    yield Step("hole in one")


def cow_seen_by_the_child(w: World) -> Iterator[Step]:
    """For a world that watches the child. At the first step it has just been forked: the time to start tracing it."""
    w.map(0, _SMALL)
    w.write(0, _SMALL)
    w.map(HUGE, HUGE)
    w.advise(HUGE, HUGE, mmap.MADV_HUGEPAGE, lacking=_NO_THP)
    w.write(HUGE, HUGE, HUGE)
    w.ask("fork")
    yield Step("forked", 64 + 512)
    w.ask("child", "write", w.slot, 0, 10 * PAGE, PAGE)
    yield Step("child wrote 10 pages", 64 + 512)
    w.write(0, _SMALL)
    w.write(HUGE, HUGE)
    yield Step("parent wrote", 64 + 512)
    w.ask("child", "write", w.slot, HUGE, HUGE, PAGE)
    yield Step("child wrote huge page", 64 + 512)
    w.ask("child", "unmap", w.slot, 0, _SMALL)
    yield Step("child unmapped 64 pages", 512)


OPERATIONS: dict[str, Operation] = {
    "touch": _touch,
    "THP": _touch_thp,
    "THP of 64 KiB": _touch_large_folios,
    "hugetlb 2 MiB": _touch_hugetlb,
    "hugetlb memfd": _hugetlb_memfd,
    "hugetlb 1 GiB": _touch_gigantic,
    "zero page": _zero_page,
    "huge zero page": _huge_zero_page,
    "COW after fork": _fork,
    "COW of hugetlb": _fork_hugetlb,
    "vfork": _vfork,
    "private file": _private_file,
    "shared file": _shared_file,
    "memfd": _memfd,
    "SysV shm": _sysv,
    "shared anonymous": _shared_anon,
    "THP in shmem": _shmem_thp,
    "munmap holes": _holes,
    "munmap and mmap": _map_again,
    "mmap where the kernel likes": _map_anywhere,
    "neighbours": _neighbours,
    "mprotect split": _protect,
    "mbind split": _bind_split,
    "mbind modes": _bind_modes,
    "mbind weighted interleave": _bind_weighted,
    "mbind of shmem": _bind_shared,
    "mbind MPOL_MF_MOVE": _bind_move,
    "mbind MPOL_MF_MOVE of THP": _bind_move_thp,
    "mremap grow": _mremap_grow,
    "mremap move": _mremap_move,
    "mremap THP": _mremap_thp,
    "mremap over a mapping": _mremap_over,
    "mremap, same VMA list": _mremap_same_list,
    "MADV_DONTNEED": _discard,
    "MADV_DONTNEED, same RSS": _discard_and_touch,
    "MADV_POPULATE": _populate,
    "MADV_POPULATE of a file": _populate_file,
    "exec": _exec,
    "other advice": _other_advice,
    "MADV_GUARD_INSTALL": _guard,
    "MADV_COLLAPSE": _collapse,
    "MADV_PAGEOUT": _page_out,
    "MADV_PAGEOUT, two views": _page_out_of_two_views,
    "swap": _swap,
    "set_mempolicy": _task_policies,
    "set_mempolicy weighted interleave": _task_weighted,
    "migrate_pages": _migrate,
    "migrate_pages of a twin": _migrate_twin,
    "move_pages": _move,
    "move_pages of shmem": _move_shared,
    "read(2)": _read_into,
    "read(2), O_DIRECT": _read_direct,
    "cold file": _cold_file,
    "truncation of a file": _truncate_file,
    "truncation of shmem": _truncate_shmem,
    "write from outside": _write_from_outside,
    "brk": _brk,
    "stack growth": _stack,
    "mlock": _lock,
    "threads": _threads,
}
"""In this order, in one process: what follows `exec` also shows that a session survives it."""
