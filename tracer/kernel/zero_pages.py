"""The page frames that stand for untouched memory: mapped by everybody, counted by no numa_maps."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tracer.errors import NumatraceError
from tracer.kernel.pageflags import KPF_THP, KPF_ZERO_PAGE, has_flag, page_flags
from tracer.kernel.pagemap_file import PM_PFN_MASK, Pagemap

__all__ = ["ZeroPages"]


@dataclass(frozen=True)
class ZeroPages:
    """pfn: the zero page, fixed from boot on (an architecture with coloured zero pages has more than this one).

    huge_pfn: the first frame of the huge zero page; None where the kernel would give us none (THP switched off, or
    `use_zero_page` 0). huge_order: log2 of its pages.
    """

    pfn: int
    huge_pfn: int | None = None
    huge_order: int = 9
    _kept: tuple[mmap.mmap, ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def learn(cls, sys_root: Path = Path("/sys")) -> ZeroPages:
        """Read untouched memory of our own and see what is mapped there.

        The huge zero page is freed when nobody maps it, and its next incarnation is another frame: our mapping of it
        stays as long as this object. Raises `NumatraceError` if the kernel hides page frame numbers from us.
        """
        small, address = _untouched(mmap.PAGESIZE, mmap.MADV_NOHUGEPAGE)
        pfn = _frame_at(address)
        small.close()
        if not pfn:
            raise NumatraceError(
                "the kernel hides page frame numbers from this user",
                "run as root: sudo numatrace ..., or use --reader numa_maps",
            )
        huge_bytes = _huge_page_bytes(sys_root)
        if not huge_bytes:
            return cls(pfn)
        order = (huge_bytes // mmap.PAGESIZE).bit_length() - 1
        kept, address = _untouched(huge_bytes, mmap.MADV_HUGEPAGE)
        head = _frame_at(address)
        # With use_zero_page 0 that read allocated a huge page of our own, with THP off it mapped the small zero page.
        flags = page_flags(np.array([head], dtype=np.uint64))
        if bool(has_flag(flags, KPF_ZERO_PAGE)[0]) and bool(has_flag(flags, KPF_THP)[0]):
            return cls(pfn, head, order, (kept,))
        kept.close()
        return cls(pfn, None, order)


def _untouched(size: int, advice: int) -> tuple[mmap.mmap, int]:
    """Private anonymous memory, and the address in it of `size` aligned bytes that were read and never written."""
    memory = mmap.mmap(-1, 2 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(advice)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel without THP knows no such advice, and needs none
            raise
    # The view that ctypes takes is dropped at once: a mapping with views cannot be closed.
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    address = -(-base // size) * size
    _ = memory[address - base]
    return memory, address


def _frame_at(address: int) -> int:
    with Pagemap(os.getpid()) as own:
        return int(own.read(address, address + mmap.PAGESIZE)[0]) & PM_PFN_MASK


def _huge_page_bytes(sys_root: Path) -> int:
    """Size of a transparent huge page; 0 for a kernel without them."""
    path = sys_root / "kernel/mm/transparent_hugepage/hpage_pmd_size"
    return int(path.read_text()) if path.exists() else 0
