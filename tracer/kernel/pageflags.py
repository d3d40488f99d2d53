"""Flags and map counts of page frames (/proc/kpageflags, /proc/kpagecount), and the fields of numa_maps made of them.

Both files need root. They tell of the moment they are read: flags such as dirty or active change without any
mapping being made or removed, so nothing here can be kept live.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError
from tracer.kernel.procfs import PROC
from tracer.model.snapshot import Details

__all__ = [
    "KPF_ACTIVE",
    "KPF_ANON",
    "KPF_COMPOUND_HEAD",
    "KPF_COMPOUND_TAIL",
    "KPF_DIRTY",
    "KPF_HUGE",
    "KPF_KSM",
    "KPF_NOPAGE",
    "KPF_RESERVED",
    "KPF_SWAPCACHE",
    "KPF_THP",
    "KPF_UNEVICTABLE",
    "KPF_WRITEBACK",
    "KPF_ZERO_PAGE",
    "details",
    "has_flag",
    "head_flags",
    "page_counts",
    "page_flags",
]

# Bit numbers of include/uapi/linux/kernel-page-flags.h; 32 and above are include/linux/kernel-page-flags.h's.
KPF_DIRTY = 4
KPF_ACTIVE = 6
KPF_WRITEBACK = 8
KPF_ANON = 12
KPF_SWAPCACHE = 13
KPF_COMPOUND_HEAD = 15
KPF_COMPOUND_TAIL = 16
KPF_HUGE = 17
KPF_UNEVICTABLE = 18
KPF_NOPAGE = 20
KPF_KSM = 21
KPF_THP = 22
KPF_ZERO_PAGE = 24
KPF_RESERVED = 32

_ENTRY_BYTES = 8
# A gap of so few entries costs the kernel less to fill in than another call does.
_GAP = 128
_MAX_RUN = 1 << 17  # entries in one read: 1 MiB
_MAX_ORDER = 18  # of a compound page: 1 GiB in pages of 4 KiB

U64Array = npt.NDArray[np.uint64]


def has_flag(flags: U64Array, bit: int) -> npt.NDArray[np.bool_]:
    """Which elements have this KPF bit."""
    return (flags >> np.uint64(bit) & np.uint64(1)).astype(np.bool_)


def page_flags(pfns: U64Array, proc_root: Path = PROC) -> U64Array:
    """KPF flags of each page frame (any order, repeats allowed); `1 << KPF_NOPAGE` for a frame that does not exist.

    On 6.1 a tail of a compound page lacks the flags that the kernel keeps on the head: see `head_flags`.
    """
    return _look_up(pfns, proc_root / "kpageflags", 1 << KPF_NOPAGE)


def page_counts(pfns: U64Array, proc_root: Path = PROC) -> U64Array:
    """How often each page frame is mapped into page tables; 0 for a frame that does not exist."""
    return _look_up(pfns, proc_root / "kpagecount", 0)


def head_flags(pfns: U64Array, proc_root: Path = PROC) -> U64Array:
    """KPF flags of the folio of each page frame: those of its head where the frame is the tail of a compound page.

    A folio is aligned to its own size. So the first candidate below a tail, rounding its PFN down to ever higher
    powers of two, that is a head is the tail's own: the candidates before lie inside the same folio and are tails.
    """
    flags = page_flags(pfns, proc_root)
    tails = np.flatnonzero(has_flag(flags, KPF_COMPOUND_TAIL))
    for order in range(1, _MAX_ORDER + 1):
        if not tails.size:
            break
        candidates = pfns[tails] & np.uint64(~((1 << order) - 1) & 0xFFFFFFFFFFFFFFFF)
        found = page_flags(candidates, proc_root)
        is_head = has_flag(found, KPF_COMPOUND_HEAD)
        flags[tails[is_head]] = found[is_head]
        tails = tails[~is_head]
    return flags


def details(
    pfn: U64Array,
    pte_dirty: npt.NDArray[np.bool_],
    vma: npt.NDArray[np.int64],
    pages: npt.NDArray[np.int64],
    n_vmas: int,
    proc_root: Path = PROC,
) -> Details:
    """The fields of numa_maps that no counter can hold, for VMAs 0 to n_vmas - 1.

    One array element for each page table entry that numa_maps counts: its page frame, whether the entry itself is
    dirty, the index of its VMA, and the pages that it counts for: 1, or 512 for a huge PMD entry, whose `pfn` is
    the head; 1 for a whole hugetlb page. Source: fs/proc/task_mmu.c gather_stats(): `dirty` is the entry's or the
    folio's, `active` includes unevictable, and `mapmax` is that of the very page (not of the folio).
    """
    frames, where = _unique(pfn)
    flags = head_flags(frames, proc_root)[where]

    def total(selected: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        # Weights are summed as float64: exact up to 2**53 pages.
        return np.bincount(vma[selected], weights=pages[selected], minlength=n_vmas).astype(np.int64)

    return Details(
        anon=total(has_flag(flags, KPF_ANON)),
        dirty=total(pte_dirty | has_flag(flags, KPF_DIRTY)),
        mapmax=_highest(page_counts(frames, proc_root)[where].astype(np.int64), vma, n_vmas),
        swapcache=total(has_flag(flags, KPF_SWAPCACHE)),
        active=total(has_flag(flags, KPF_ACTIVE) | has_flag(flags, KPF_UNEVICTABLE)),
        writeback=total(has_flag(flags, KPF_WRITEBACK)),
    )


def _highest(values: npt.NDArray[np.int64], group: npt.NDArray[np.int64], n_groups: int) -> npt.NDArray[np.int64]:
    """The highest value of each group, 0 for an empty one. (np.maximum.at takes nearly three times as long.)"""
    highest = np.zeros(n_groups, dtype=np.int64)
    if values.size:
        order = np.argsort(group, kind="stable")
        ordered = group[order]
        firsts = np.flatnonzero(np.diff(ordered, prepend=-1))
        highest[ordered[firsts]] = np.maximum.reduceat(values[order], firsts)
    return highest


def _look_up(pfns: U64Array, path: Path, absent: int) -> U64Array:
    """One uint64 of `path` for each page frame, reading runs of nearby frames with one call each."""
    if not pfns.size:
        return np.empty(0, dtype=np.uint64)
    # Tails and shared pages repeat, and frames come in the order of addresses: sort, read each run once, spread.
    wanted, inverse = _unique(pfns)
    values = np.empty(wanted.size, dtype=np.uint64)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NumatraceError(
            f"cannot open {path}: {error.strerror}", "run as root: sudo numatrace ..., or do without --full"
        ) from error
    try:
        for first, last in _runs(wanted):
            start = int(wanted[first])
            entries = _read_entries(fd, start, int(wanted[last - 1]) + 1 - start, absent)
            values[first:last] = entries[wanted[first:last].astype(np.int64) - start]
    finally:
        os.close(fd)
    return values[inverse]


def _unique(pfns: U64Array) -> tuple[U64Array, npt.NDArray[np.intp]]:
    """The page frames sorted and without repeats, and for each element of `pfns` its index there."""
    if (pfns[1:] > pfns[:-1]).all():
        return pfns, np.arange(pfns.size)
    wanted, inverse = np.unique(pfns, return_inverse=True)
    return wanted, inverse.reshape(-1)


def _runs(wanted: U64Array) -> list[tuple[int, int]]:
    """Cut sorted page frames into index ranges (first, last excluded), each worth one read."""
    cuts = np.flatnonzero(np.diff(wanted) > _GAP) + 1
    bounds = [0, *cuts.tolist(), wanted.size]
    runs: list[tuple[int, int]] = []
    for first, last in itertools.pairwise(bounds):
        # Neighbours in a run are at most _GAP apart, so this many of them never need more than _MAX_RUN entries.
        step = _MAX_RUN // _GAP if int(wanted[last - 1] - wanted[first]) >= _MAX_RUN else last - first
        runs.extend((start, min(start + step, last)) for start in range(first, last, step))
    return runs


def _read_entries(fd: int, start: int, count: int, absent: int) -> U64Array:
    entries = np.full(count, absent, dtype=np.uint64)
    view = entries.data.cast("B")
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], start * _ENTRY_BYTES + done)
        if not got:  # beyond the highest frame
            break
        done += got
    return entries
