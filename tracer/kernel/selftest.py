"""Proof at every start: the walk and pagemap must say the same about memory of our own, kind by kind.

Any difference means that this kernel's page tables are not what we think they are, and the pagemap reader is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.kernel.pagemap import PM_PFN_MASK, PM_PRESENT, Pagemap, PagemapReader, Span
from tracer.kernel.walk import PAGE, REGION, PageTables, WalkUnfit

__all__ = ["check_walk", "differing_frames"]

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


@dataclass(frozen=True, slots=True)
class Sample:
    """A kind of mapping of our own, in whole pages; `memory` keeps it alive."""

    kind: str
    start: int
    pages: int
    memory: mmap.mmap


def _address(memory: mmap.mmap) -> int:
    view = ctypes.c_char.from_buffer(memory)
    return ctypes.addressof(view)


def _anonymous(kind: str, advice: int, touched: range, written: bool) -> Sample:
    """One aligned region of private memory with some of its pages written, or only read."""
    memory = mmap.mmap(-1, 2 * REGION, flags=PRIVATE)
    with contextlib.suppress(OSError):  # a kernel without THP refuses both advices
        memory.madvise(advice)
    base = _address(memory)
    start = (base + REGION - 1) & -REGION
    for page in touched:
        at = start - base + page * PAGE
        if written:
            memory[at] = 1
        else:
            memory[at]
    return Sample(kind, start, REGION // PAGE, memory)


def _file() -> Sample:
    """Pages of a file in the page cache: the interpreter's own, or its library's."""
    with open(os.path.realpath(sys.executable), "rb") as file:
        size = min(os.fstat(file.fileno()).st_size, 64 * PAGE)
        memory = mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    for at in range(0, size, PAGE):
        memory[at]
    return Sample("file", _address(memory), size // PAGE, memory)


def _samples() -> list[Sample]:
    small, huge = mmap.MADV_NOHUGEPAGE, mmap.MADV_HUGEPAGE
    protected = _anonymous("PROT_NONE", small, range(64), True)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect(ctypes.c_void_p(protected.start), ctypes.c_size_t(32 * PAGE), 0)
    return [
        _anonymous("4 KiB", small, range(512), True),
        _anonymous("sparse", small, range(3, 512, 7), True),
        _anonymous("zero page", small, range(0, 512, 2), False),
        _anonymous("huge page", huge, range(1), True),
        _anonymous("huge zero page", huge, range(1), False),
        protected,
        _file(),
    ]


def check_walk(tables: PageTables, frames: PagemapReader) -> int:
    """Compare both readers on our own pages; gives how many pages were compared.

    Raises WalkUnfit that names the first kind of memory on which they differ.
    """
    pgd = int(tables.look(tables.own_mm())["pgd"])
    compared = 0
    with Pagemap(os.getpid()) as pagemap:
        for sample in _samples():
            compared += _check(tables, frames, pagemap, pgd, sample)
    return compared


def _check(tables: PageTables, frames: PagemapReader, pagemap: Pagemap, pgd: int, sample: Sample) -> int:
    end = sample.start + sample.pages * PAGE
    cuts = [sample.start, *range((sample.start | REGION - 1) + 1, end, REGION), end]
    starts, ends = np.array(cuts[:-1], np.int64), np.array(cuts[1:], np.int64)
    walked = tables.count(pgd, starts, (ends - starts) >> 12, np.zeros(len(starts), bool))
    expected = frames.counts(pagemap, [Span(int(s), int(e)) for s, e in zip(starts, ends, strict=True)])
    # Blocks that hold two nodes are pagemap's business either way.
    mixed = walked[:, tables.nowhere + 1].sum()
    if not mixed and not np.array_equal(walked[:, : expected.shape[1]], expected):
        raise WalkUnfit(
            f"the page-table walk fails its self-test on this kernel ({sample.kind}: {walked.sum()} pages, "
            f"pagemap says {expected.sum()})"
        )
    entries = pagemap.read(sample.start, end)
    present = np.flatnonzero(entries & np.uint64(PM_PRESENT))[::5]
    if differing_frames(tables, pgd, sample.start + present * PAGE, entries[present]).any():
        raise WalkUnfit(f"the page-table walk fails its self-test on this kernel ({sample.kind}: other page frames)")
    return sample.pages


def differing_frames(
    tables: PageTables, pgd: int, addresses: npt.NDArray[np.int64], told: npt.NDArray[np.uint64]
) -> npt.NDArray[np.bool_]:
    """At which addresses the page tables and pagemap's entries (`told`) differ in the page frame they show."""
    leaves = tables.entries(pgd, addresses)
    mapped = (leaves & np.uint64(0x101)) != 0
    inside = np.where(leaves & np.uint64(0x80), (addresses // PAGE) & 511, 0).astype(np.uint64)
    frame = (_physical(leaves, tables.paging.address) >> np.uint64(12)) | inside
    present = (told & np.uint64(PM_PRESENT)) != 0
    same: npt.NDArray[np.bool_] = (mapped == present) & (~present | (frame == told & np.uint64(PM_PFN_MASK)))
    return ~same


def _physical(leaves: npt.NDArray[np.uint64], mask: int) -> npt.NDArray[np.uint64]:
    upright = np.where(leaves & np.uint64(1), leaves, ~leaves) & np.uint64(mask)
    large = (leaves & np.uint64(0x80)) != 0
    return np.where(large, upright & np.uint64(~(REGION - 1) & (1 << 64) - 1), upright)
