"""The same operations on memory of every page size: 4 KiB, folios of 64 KiB, transparent huge pages, hugetlb pages."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.kernel import machine, outside
from tests.kernel.world import HUGE, PAGE, KernelLacks, Operation, Step, World
from tracer.model.policy import Mode

__all__ = ["SIZED"]

_NO_HUGE_PAGE = 15
_MADV_PAGEOUT = 21
_MREMAP_ELSEWHERE = 1 | 2  # MREMAP_MAYMOVE | MREMAP_FIXED
_MPOL_MF_MOVE = 2
_FAR = 64 * HUGE
_FOLIOS_OF_64K = Path("/sys/kernel/mm/transparent_hugepage/hugepages-64kB")

_EVERYWHERE = "changes the whole process"
_ALL_VIEWS = "the advice may change other mappings of a file as well"


@dataclass(frozen=True, slots=True)
class _Size:
    """A kind of page. counted: what numa_maps counts for one of them. units: how many an operation works on."""

    name: str
    unit: int
    counted: int
    units: int

    @property
    def length(self) -> int:
        return self.unit * self.units

    @property
    def pages(self) -> int:
        return self.counted * self.units

    def map(self, w: World) -> None:
        """Map the slot's first bytes, untouched, for pages of this size."""
        if self.name == "hugetlb":
            w.map_hugetlb(0, self.length, 21)
            return
        if self.unit == 16 * PAGE and not _FOLIOS_OF_64K.exists():
            raise KernelLacks("no folios of 64 KiB")
        w.map(0, self.length)
        advice = _NO_HUGE_PAGE if self.unit == PAGE else mmap.MADV_HUGEPAGE
        w.advise(0, self.length, advice, lacking=(errno.EINVAL,) if self.unit > PAGE else ())

    def fill(self, w: World) -> None:
        """Map them, and write everywhere: of a folio that is split, what holds zeroes may become the zero page."""
        self.map(w)
        self.write(w)
        if self.name == "THP":
            assert w.transparent_huge(0) == self.length

    def write(self, w: World) -> None:
        """Write to every small page of what is mapped."""
        w.write(0, self.length, self.unit if self.name == "hugetlb" else PAGE)


_SIZES = (
    _Size("4 KiB", PAGE, 1, 256),
    _Size("64 KiB", 16 * PAGE, 16, 16),
    _Size("THP", HUGE, 512, 3),
    _Size("hugetlb", HUGE, 1, 3),
)


def _touch(size: _Size, w: World) -> Iterator[Step]:
    size.map(w)
    w.write(0, size.unit, size.unit)
    yield Step("one", size.counted)
    w.write(0, size.length, size.unit)
    yield Step("all", size.pages)
    w.read(0, size.length, PAGE)
    yield Step("read", size.pages)


def _unmap(size: _Size, w: World) -> Iterator[Step]:
    size.fill(w)
    w.unmap(size.unit, size.unit)
    yield Step("one in the middle", size.pages - size.counted)
    w.unmap(0, size.length)
    yield Step("all", 0)


def _discard(size: _Size, w: World) -> Iterator[Step]:
    size.fill(w)
    w.advise(size.unit, size.unit, mmap.MADV_DONTNEED, lacking=(errno.EINVAL,))
    yield Step("one", size.pages - size.counted)
    w.write(size.unit, size.unit, size.unit)
    yield Step("and written again", size.pages)
    w.advise(0, size.length, mmap.MADV_DONTNEED)
    yield Step("all", 0)


def _fork(size: _Size, w: World) -> Iterator[Step]:
    size.fill(w)
    w.ask("fork")
    w.write(0, PAGE)
    yield Step("parent wrote", size.pages)
    w.ask("child", "write", w.slot, 0, size.length, size.unit)
    yield Step("child wrote", size.pages)
    w.ask("reap")
    w.write(0, size.length, size.unit)
    yield Step("child ended, parent wrote the rest", size.pages)


def _remap(size: _Size, w: World) -> Iterator[Step]:
    size.fill(w)
    w.ask("remap", w.slot, 0, size.length, w.slot, _FAR, size.length, _MREMAP_ELSEWHERE, lacking=(errno.EINVAL,))
    yield Step("all", size.pages)
    w.remap(_FAR, size.unit, 2 * _FAR, size.unit, _MREMAP_ELSEWHERE)
    yield Step("one of them further", size.pages)


def _protect(size: _Size, w: World) -> Iterator[Step]:
    size.fill(w)
    w.protect(size.unit, size.unit, 0)
    yield Step("one without any access", size.pages)
    w.protect(0, size.length, mmap.PROT_READ | mmap.PROT_WRITE)
    w.write(0, size.length, size.unit)
    yield Step("all written again", size.pages)


def _bind(size: _Size, w: World) -> Iterator[Step]:
    size.map(w)
    w.bind(0, size.length, Mode.BIND, 1 << w.nodes[0])
    size.write(w)
    yield Step("on the first node", size.pages)
    w.bind(0, size.length, Mode.BIND, 1 << w.last, _MPOL_MF_MOVE)
    assert _nodes(w) == {w.last: size.pages}
    yield Step("moved to the last", size.pages)
    w.bind(0, size.unit, Mode.INTERLEAVE, w.mask, _MPOL_MF_MOVE)
    yield Step("one of them interleaved", size.pages)


def _migrate(size: _Size, w: World) -> Iterator[Step]:
    size.map(w)
    w.bind(0, size.length, Mode.PREFERRED, 1 << w.nodes[0])
    size.write(w)
    outside.migrate_pages(w.pid, 1 << w.nodes[0], 1 << w.last)
    assert _nodes(w) == {w.last: size.pages}
    yield Step("first node to last, by another process", size.pages, audited=_EVERYWHERE)
    w.ask("migrate", 1 << w.last, 1 << w.nodes[0])
    yield Step("and back", size.pages, audited=_EVERYWHERE)


def _move(size: _Size, w: World) -> Iterator[Step]:
    size.map(w)
    w.bind(0, size.length, Mode.PREFERRED, 1 << w.nodes[0])
    size.write(w)
    outside.move_pages(w.pid, [w.address(size.unit)], w.last)
    yield Step("one, by another process", size.pages)
    outside.move_pages(w.pid, [w.address(at) for at in range(0, size.length, size.unit)], w.last)
    yield Step("all", size.pages)


def _swap(size: _Size, w: World) -> Iterator[Step]:
    with machine.swap(w.directory):
        size.map(w)
        size.write(w)
        yield Step("written", size.pages)
        w.advise(0, size.length, _MADV_PAGEOUT, lacking=(errno.EINVAL,))
        assert w.slot_pages(w.truth()) < size.pages
        yield Step("paged out", audited=_ALL_VIEWS)
        w.read(0, size.length)
        yield Step("read again", size.pages)


def _nodes(w: World) -> dict[int, int]:
    return w.truth().pages(w.address(0), w.address(_FAR))


_OPERATIONS: dict[str, Callable[[_Size, World], Iterator[Step]]] = {
    "first touch": _touch,
    "munmap of one": _unmap,
    "MADV_DONTNEED of one": _discard,
    "copy-on-write": _fork,
    "mremap of all": _remap,
    "mprotect of one": _protect,
    "mbind and move": _bind,
    "migrate_pages there and back": _migrate,
    "move_pages of one and all": _move,
    "swap out and in": _swap,
}

SIZED: dict[str, Operation] = {
    f"{name}, {size.name}": partial(operation, size)
    for name, operation in _OPERATIONS.items()
    for size in _SIZES
    if (name, size.name) != ("swap out and in", "hugetlb")  # it cannot be
}
"""Operation and page size -> the operation on pages of that size."""
