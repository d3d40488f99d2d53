"""Reading /proc/PID/numa_maps: what every figure of ours is compared with."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

__all__ = ["ReadTime", "read_numa_maps"]


class ReadTime(NamedTuple):
    """Nanoseconds of one read to the end of the file: CPU time of the reader, and elapsed."""

    cpu: int
    elapsed: int


def read_numa_maps(pid: int) -> ReadTime:
    """Read the file once, in pieces of 1 MiB, and throw it away.

    The kernel walks the page tables while it is read, in the reader's context. It hands out a page of text at a time
    and starts a line that did not fit over again; the workloads have too few VMAs for that to happen.
    """
    file = os.open(f"/proc/{pid}/numa_maps", os.O_RDONLY)
    try:
        elapsed, cpu = time.monotonic_ns(), time.thread_time_ns()
        while os.read(file, 1 << 20):
            pass
        return ReadTime(time.thread_time_ns() - cpu, time.monotonic_ns() - elapsed)
    finally:
        os.close(file)
