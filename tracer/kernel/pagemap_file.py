"""/proc/PID/pagemap as a file: raw entries, and where pages are present at all.

What an entry means is Documentation/admin-guide/mm/pagemap.rst's matter; which entries count, and for which node, is
decided in `tracer.kernel.pagemap`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from tracer.kernel.procfs import PROC, TargetGone, proc_error

__all__ = ["PM_EXCLUSIVE", "PM_FILE", "PM_PFN_MASK", "PM_PRESENT", "SCAN_REGION", "Pagemap"]

# Bits of an entry: Documentation/admin-guide/mm/pagemap.rst.
PM_PRESENT = 1 << 63
PM_FILE = 1 << 61
PM_EXCLUSIVE = 1 << 56
PM_PFN_MASK = (1 << 55) - 1

_ENTRY_BYTES = 8
_PAGE = mmap.PAGESIZE

U64Array = npt.NDArray[np.uint64]


class _ScanArgument(ctypes.Structure):
    """struct pm_scan_arg, include/uapi/linux/fs.h."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "size",
            "flags",
            "start",
            "end",
            "walk_end",
            "vec",
            "vec_len",
            "max_pages",
            "category_inverted",
            "category_mask",
            "category_anyof_mask",
            "return_mask",
        )
    )


_PAGEMAP_SCAN = 3 << 30 | ctypes.sizeof(_ScanArgument) << 16 | ord("f") << 8 | 16  # _IOWR('f', 16, struct pm_scan_arg)
_PAGE_IS_PRESENT = 1 << 3
SCAN_REGION = np.dtype([("start", np.uint64), ("end", np.uint64), ("categories", np.uint64)])  # struct page_region
_SCAN_REGIONS = 4096  # of one call


class Pagemap:
    """An open /proc/PID/pagemap. It pins the address space: after an execve it still means the old one.

    Raises `NumatraceError` when it cannot be opened. Permission is checked at open, so privilege may be dropped after.
    """

    def __init__(self, pid: int, proc_root: Path = PROC) -> None:
        self.pid = pid
        self.proc_root = proc_root
        try:
            self._fd = os.open(proc_root / str(pid) / "pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise proc_error(pid, "pagemap", error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the address space go. Harmless to repeat."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """The file descriptor; ValueError once closed."""
        if self._fd < 0:
            raise ValueError("pagemap is closed")
        return self._fd

    def read(self, start: int, end: int) -> U64Array:
        """The raw entries of the pages from `start` to `end`, addresses on page boundaries; uint64, one per page.

        Never faults a page in. Raises `TargetGone` when the address space has come to its end.
        """
        entries = np.empty((end - start) // _PAGE, dtype=np.uint64)
        self.read_into(start, entries)
        return entries

    def read_into(self, start: int, entries: U64Array) -> None:
        """Fill a contiguous array with the entries from address `start` on; as `read`, without an allocation."""
        view = entries.data.cast("B")
        offset, done = start // _PAGE * _ENTRY_BYTES, 0
        while done < len(view):
            got = os.preadv(self.fileno(), [view[done:]], offset + done)
            if not got:
                # Below the end of user addresses, the kernel answers nothing only when the mm has no users left.
                raise TargetGone(f"process {self.pid} has exited or has executed another program")
            done += got

    def scan_present(self, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]] | None:
        """The parts of address ranges where pages are present, by ioctl(PAGEMAP_SCAN); None before Linux 6.7.

        Cheap over empty page tables, about as dear as a read over full ones.
        """
        present: list[tuple[int, int]] = []
        for start, end in ranges:
            for found in self.scan(start, end):
                if found is None:
                    return None
                present.extend(zip(found["start"].tolist(), found["end"].tolist(), strict=True))
        return present

    def scan(self, start: int, end: int) -> Iterator[npt.NDArray[np.void] | None]:
        """As `scan_present` of one range, in arrays with fields `start` and `end`; one None before Linux 6.7."""
        regions = np.zeros(_SCAN_REGIONS, dtype=SCAN_REGION)
        argument = _ScanArgument(
            size=ctypes.sizeof(_ScanArgument),
            end=end,
            vec=regions.ctypes.data,
            vec_len=_SCAN_REGIONS,
            category_mask=_PAGE_IS_PRESENT,
            return_mask=_PAGE_IS_PRESENT,
        )
        while start < end:
            argument.start = start
            try:
                found = fcntl.ioctl(self.fileno(), _PAGEMAP_SCAN, argument, True)
            except OSError as error:
                if error.errno not in (errno.ENOTTY, errno.EINVAL):
                    raise proc_error(self.pid, "pagemap", error) from error
                yield None
                return
            yield regions[:found].copy()
            if found < _SCAN_REGIONS:
                return
            # Not `walk_end`: do_pagemap_scan() leaves it at the last place where its buffer of 512 regions was full.
            start = int(regions["end"][-1])
