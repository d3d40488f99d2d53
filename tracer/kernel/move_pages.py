"""move_pages(2) as a question: on which node is the page at this address?

Slow beside a look at the node table (it takes a reference on every page), and the only exact answer without BPF
for page frames in a memory block that two nodes share. Nothing is moved.
"""

from __future__ import annotations

import ctypes
import os
import platform

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError

__all__ = ["nodes_of_addresses"]

# include/uapi/asm-generic/unistd.h says 239; older architectures have tables of their own.
_SYSCALL_NUMBERS = {"x86_64": 279, "ppc64le": 301, "s390x": 310}
_GENERIC_NUMBER = 239


def nodes_of_addresses(pid: int, addresses: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The node of the page mapped at each address of process `pid`; a negative errno where none is.

    Raises `NumatraceError` if the process is gone or may not be asked. Source: mm/migrate.c do_pages_stat().
    """
    wanted = np.ascontiguousarray(addresses, dtype=np.uint64)
    status = np.zeros(wanted.size, dtype=np.int32)
    number = _SYSCALL_NUMBERS.get(platform.machine(), _GENERIC_NUMBER)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(
        ctypes.c_long(number),
        ctypes.c_long(pid),
        ctypes.c_ulong(wanted.size),
        ctypes.c_void_p(wanted.ctypes.data),
        ctypes.c_void_p(None),
        ctypes.c_void_p(status.ctypes.data),
        ctypes.c_long(0),
    )
    if result < 0:
        reason = os.strerror(ctypes.get_errno())
        raise NumatraceError(f"cannot ask for the nodes of pages of process {pid}: {reason}", "is it still running?")
    return status.astype(np.int64)
