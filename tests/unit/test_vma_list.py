"""When a VMA list is taken as proven, and what of it is read again, by a kernel that is made up."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from tracer.kernel import vma_list
from tracer.kernel.vma_list import Layout, VmaListReader, leaf_digests
from tracer.model.vma import Kind

PAGE = 4096
LEAF = 4  # VMAs a leaf
EVERYTHING = (1 << 64) - 1
FOUND = np.dtype(
    [(name, "u8") for name in ("start", "end", "flags", "pgoff", "file", "ops", "inode", "ino", "name", "block_size")]
    + [("policy", "u8"), ("nodes", "u8", (1,)), ("policy_mode", "u2"), ("policy_flags", "u2"), ("device", "u4")]
    + [("digest", "u8"), ("anon_vma", "u8")]
)
LEAVES = np.dtype([(name, "u8") for name in ("from", "until", "digest", "count")])
GLANCE = np.dtype(
    [(name, "u8") for name in ("lock_seq", "map_count", "total_vm", "writer", "start_brk", "brk", "start_stack")]
)
WITH_SEQ = {"MM_LOCK_SEQ": 1, "MM_LOCK_SEQCOUNT": 1}
PLAIN_SEQ = {"MM_LOCK_SEQ": 1}
WITHOUT: dict[str, int] = {}

Records = npt.NDArray[np.void]


class Kernel:
    """The part of `PageTables` that the reader uses. vmas: start and end in pages, and protection.

    meanwhile: called whenever something is read, to change the list underneath.
    """

    def __init__(self, constants: dict[str, int]) -> None:
        self.constants = constants
        self.list = [(10 * i, 10 * i + 2, 3) for i in range(1, 101)]
        self.seq = self.writer = self.vmas_read = self.sums = 0
        self.marks = 0, 0, 0
        self.meanwhile: Callable[[], None] = lambda: None

    def change(self, at: int, prot: int) -> None:
        start, end, _ = self.list[at]
        self.list[at] = start, end, prot
        self.seq += 2

    def look(self, mm: int) -> np.void:
        values = self.seq, len(self.list), 7, self.writer, *self.marks
        glance: np.void = np.array([values], GLANCE)[0]
        return glance

    def _records(self) -> Records:
        found = np.zeros(len(self.list), FOUND)
        for record, (start, end, prot) in zip(found, self.list, strict=True):
            record["start"], record["end"], record["flags"] = start * PAGE, end * PAGE, prot
            record["digest"] = hash((start, end, prot)) & EVERYTHING | 1
        return found

    def vma_leaves(self, mm: int) -> Records:
        self.sums += 1
        found = self._records()
        firsts = list(range(0, len(found), LEAF))
        limits = [0, *(int(found["start"][first]) for first in firsts[1:]), EVERYTHING]
        leaves = np.zeros(len(firsts), LEAVES)
        for i, first in enumerate(firsts):
            leaves[i] = limits[i], limits[i + 1], 0, len(found[first : first + LEAF])
        leaves["digest"] = leaf_digests(found, leaves["from"])
        self.meanwhile()
        return leaves

    def vmas(self, mm: int, starts: npt.NDArray[np.uint64], ends: npt.NDArray[np.uint64]) -> Records:
        found = self._records()
        inside = np.zeros(len(found), bool)
        for start, end in zip(starts, ends, strict=True):
            inside |= (found["start"] >= start) & (found["start"] < end)
        self.vmas_read += int(inside.sum())
        self.meanwhile()
        part: Records = found[inside]
        return part


def reader(kernel: Kernel) -> VmaListReader:
    return VmaListReader(kernel, 0, 0)  # type: ignore[arg-type]


def shown(layout: Layout | None) -> list[tuple[int, int, int]]:
    assert layout is not None
    bits = {"r": 1, "w": 2}
    return [(v.start // PAGE, v.end // PAGE, sum(bits.get(c, 0) for c in v.perms)) for v in layout.vmas]


@pytest.fixture(params=[WITH_SEQ, PLAIN_SEQ, WITHOUT], ids=["sequence count", "plain number", "nothing"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return Kernel(request.param)


def test_only_what_changed_is_read_again(kernel: Kernel) -> None:
    following = reader(kernel)
    first = following.read()
    assert shown(first) == kernel.list
    kernel.vmas_read = 0
    kernel.change(50, 1)
    second = following.read()
    assert shown(second) == kernel.list
    assert kernel.vmas_read == LEAF
    assert first is not None
    assert second is not None
    assert second.consistent
    kept = [one is other for one, other in zip(first.vmas, second.vmas, strict=True)]
    assert kept.count(False) == 1
    assert second.spans is first.spans  # the protection is nothing that the counting needs


def test_nothing_changed_gives_the_same_objects(kernel: Kernel) -> None:
    following = reader(kernel)
    first, second = following.read(), following.read()
    assert first is not None
    assert second is not None
    assert second.vmas is first.vmas
    assert second.spans is first.spans


def test_vmas_that_come_and_go(kernel: Kernel) -> None:
    following = reader(kernel)
    following.read()
    for start, stop, new in ((0, 3, []), (40, 40, [(385, 386, 3)]), (90, 98, [(5000, 5001, 1)]), (0, 95, [(7, 9, 2)])):
        kernel.list[start:stop] = new
        kernel.list.sort()
        kernel.seq += 2
        layout = following.read()
        assert shown(layout) == kernel.list
        assert layout is not None
        assert [v.start for v in layout.vmas] == layout.spans.start.tolist()


def test_a_writer_in_the_midst_of_its_change_is_no_proof() -> None:
    """Twice the same list proves nothing while somebody holds the lock: mremap shows the old and the new place."""
    for constants in (WITH_SEQ, PLAIN_SEQ, WITHOUT):
        kernel = Kernel(constants)
        kernel.seq, kernel.writer = 1, 1
        layout = reader(kernel).read()
        assert layout is not None
        assert not layout.consistent
        assert shown(layout) == kernel.list


def test_a_list_that_never_stands_still_is_given_as_unproven_and_read_again(kernel: Kernel) -> None:
    following = reader(kernel)
    following.read()
    turns = itertools.cycle([0, 1])  # so that the digests are the same before and after the VMAs are read
    kernel.meanwhile = lambda: kernel.change(10, next(turns))
    kernel.meanwhile()
    layout = following.read()
    assert layout is not None
    assert not layout.consistent
    assert layout.lists is None
    assert shown(layout)[:10] + shown(layout)[11:] == kernel.list[:10] + kernel.list[11:]
    kernel.meanwhile = lambda: None
    kernel.vmas_read = 0
    layout = following.read()
    assert layout is not None
    assert layout.consistent
    assert shown(layout) == kernel.list
    assert kernel.vmas_read == LEAF


def test_one_change_while_it_is_read_is_read_once_more(kernel: Kernel) -> None:
    following = reader(kernel)
    following.read()
    kernel.change(3, 1)
    changes = iter([lambda: kernel.change(70, 0)])
    kernel.meanwhile = lambda: next(changes, lambda: None)()
    layout = following.read()
    assert layout is not None
    assert layout.consistent
    assert shown(layout) == kernel.list


def test_a_list_equal_to_the_known_one_needs_no_second_time() -> None:
    kernel = Kernel(WITHOUT)
    following = reader(kernel)
    following.read()
    kernel.sums = 0
    following.read()
    assert kernel.sums == 1
    kernel.change(5, 0)
    following.read()
    assert kernel.sums == 3


def test_lists_tell_when_to_look_again() -> None:
    assert (layout := reader(Kernel(WITHOUT)).read()) is not None
    assert layout.lists is None
    kernel = Kernel(PLAIN_SEQ)
    assert (layout := reader(kernel).read()) is not None
    assert layout.lists == vma_list.lists_of(kernel.look(0))


def test_an_overlap_is_no_list_at_all(kernel: Kernel) -> None:
    kernel.list[5] = (kernel.list[4][0] + 1, kernel.list[5][1], 3)
    assert reader(kernel).read() is None


def test_heap_and_stack_move_without_any_change_of_a_vma(kernel: Kernel) -> None:
    following = reader(kernel)
    following.read()
    start = kernel.list[20][0]
    kernel.marks = start * PAGE + 1, start * PAGE + 100, kernel.list[60][0] * PAGE + 5
    layout = following.read()
    assert layout is not None
    words = {row: vma.kind for row, vma in enumerate(layout.vmas) if vma.kind is not Kind.ANON}
    assert words == {20: Kind.HEAP, 60: Kind.STACK}
    assert layout.vmas[20].path == b"[heap]"
