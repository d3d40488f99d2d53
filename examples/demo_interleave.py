"""A process whose memory is interleaved over all NUMA nodes, and which then waits: something to look at and to move.

    python examples/demo_interleave.py [--mib 64]

It maps memory, asks for interleaving with mbind(2), touches every page, prints one line `ready PID ADDRESS` (the
address in hex, as in /proc/PID/maps) and waits until its standard input ends. Needs no privileges and no NUMA
library.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import sys
from pathlib import Path

SYS_MBIND = {"x86_64": 237, "aarch64": 235, "riscv64": 235}
MPOL_INTERLEAVE = 3  # include/uapi/linux/mempolicy.h
WORD_BITS = 8 * ctypes.sizeof(ctypes.c_ulong)


def nodes_with_memory() -> list[int]:
    """Ids of the nodes that have memory; there may be gaps between them."""
    nodes: list[int] = []
    for span in Path("/sys/devices/system/node/has_memory").read_text().strip().split(","):
        first, _, last = span.partition("-")
        nodes += range(int(first), int(last or first) + 1)
    return nodes


def interleave(address: int, size: int, nodes: list[int]) -> None:
    """Ask for the pages of a mapping to be put on these nodes in turn. Raises OSError as mbind(2) fails."""
    mask = (ctypes.c_ulong * (max(nodes) // WORD_BITS + 1))()
    for node in nodes:
        mask[node // WORD_BITS] |= 1 << node % WORD_BITS
    libc = ctypes.CDLL(None, use_errno=True)
    # The kernel reads one bit less than it is told to.
    bits = len(mask) * WORD_BITS + 1
    number = SYS_MBIND[os.uname().machine]
    arguments = (address, size, MPOL_INTERLEAVE, ctypes.addressof(mask), bits, 0)
    if libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in arguments)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mbind: {os.strerror(error)}")


def main() -> int:
    """Map, interleave, touch, say so, wait."""
    parser = argparse.ArgumentParser(description="Hold memory that is interleaved over all NUMA nodes.")
    parser.add_argument("--mib", type=int, default=64, help="how much memory (default: 64)")
    size = parser.parse_args().mib << 20
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)  # page by page is the picture; huge pages interleave as well, by 2 MiB
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    interleave(address, size, nodes_with_memory())
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1
    print(f"ready {os.getpid()} {address:x}", flush=True)
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
