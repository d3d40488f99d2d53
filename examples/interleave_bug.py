"""A process with four tables that are all meant to be interleaved over the nodes, and are not all: one to diagnose.

    python examples/interleave_bug.py [--mib 32]

It prints `ready PID` and waits for a line on its standard input (attach meanwhile); then it fills the tables, prints
a line `NAME START` for each (the address in hex, as in /proc/PID/maps) and `done`, and waits for the end of its input.

right   mbind(2), then touched: it is spread evenly.
late    touched, then mbind(2): the pages are where the CPU was, and the policy is for those to come.
thread  set_mempolicy(2) in the main thread, touched by a worker that was there before: the policy is the thread's own.
huge    interleaved with huge pages, and too few of them: it goes by 2 MiB.

On a machine with one node there is nothing to spread, and it runs as well. It needs no privileges.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.demo_interleave import MPOL_INTERLEAVE, WORD_BITS, interleave, nodes_with_memory
from examples.workload import cpus_by_node, touch

HUGE = 2 << 20
PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0  # include/uapi/linux/prctl.h
SYS_SET_MEMPOLICY = {"x86_64": 238, "aarch64": 237, "riscv64": 237}
PAUSE_SECONDS = 1.0  # between the touch and the policy: long enough to be seen

libc = ctypes.CDLL(None, use_errno=True)


def interleave_thread(nodes: list[int]) -> None:
    """set_mempolicy(2): from now on, what the calling thread touches goes to these nodes in turn."""
    mask = (ctypes.c_ulong * (max(nodes) // WORD_BITS + 1))()
    for node in nodes:
        mask[node // WORD_BITS] |= 1 << node % WORD_BITS
    number = SYS_SET_MEMPOLICY[os.uname().machine]
    arguments = (MPOL_INTERLEAVE, ctypes.addressof(mask), len(mask) * WORD_BITS + 1)
    if libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in arguments)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"set_mempolicy: {os.strerror(error)}")


class Table:
    """Private memory of `size` bytes that begins on a huge page. name: shown in /proc/PID/maps where kernels can."""

    def __init__(self, name: str, size: int, advice: int) -> None:
        self.area = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.area))
        self.offset = -begin % HUGE
        self.start, self.size = begin + self.offset, size
        self.area.madvise(advice, self.offset, size)
        arguments = (PR_SET_VMA_ANON_NAME, self.start, size, ctypes.create_string_buffer(name.encode()))
        libc.prctl(PR_SET_VMA, *(ctypes.c_ulong(number) for number in arguments[:3]), arguments[3])

    def touch(self) -> None:
        touch(self.area, self.offset, self.offset + self.size, 1)


def main() -> int:
    """Wait, fill the tables, say so, wait."""
    parser = argparse.ArgumentParser(description="Hold tables that should be interleaved over all NUMA nodes.")
    parser.add_argument("--mib", type=int, default=32, help="size of each table (default: 32)")
    size = parser.parse_args().mib << 20
    nodes = nodes_with_memory()
    os.sched_setaffinity(0, cpus_by_node()[0])  # one node's CPUs: else the scheduler would spread a little by itself
    with ThreadPoolExecutor(1) as worker:
        worker.submit(int).result()  # the thread is there, with the policy of this moment
        print(f"ready {os.getpid()}", flush=True)
        sys.stdin.readline()
        tables = {name: Table(name, size, mmap.MADV_NOHUGEPAGE) for name in ("right", "late", "thread")}
        tables["huge"] = Table("huge", (len(nodes) + 1) * HUGE, mmap.MADV_HUGEPAGE)
        for name in ("right", "huge"):
            interleave(tables[name].start, tables[name].size, nodes)
            tables[name].touch()
        tables["late"].touch()
        time.sleep(PAUSE_SECONDS)
        interleave(tables["late"].start, size, nodes)
        interleave_thread(nodes)
        worker.submit(tables["thread"].touch).result()
        for name, table in tables.items():
            print(name, f"{table.start:x}")
        print("done", flush=True)
        sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
