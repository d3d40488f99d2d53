"""How the running kernel spells a policy with MPOL_F_NUMA_BALANCING: found out by asking it, never by its version."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

from tracer.kernel.topology import Topology
from tracer.model.policy import F_NUMA_BALANCING, Mode, Spelling

__all__ = ["probe_spelling"]

SYS_SET_MEMPOLICY = 238  # x86-64


def probe_spelling(topology: Topology) -> Spelling:
    """Give a thread of our own such a policy and see what its numa_maps says. Costs one read of our own numa_maps."""
    found = [Spelling.NAMED]

    def ask() -> None:
        node = topology.has_memory[0]
        mask = (ctypes.c_ulong * (node // 64 + 1))()
        mask[node // 64] = 1 << node % 64
        libc = ctypes.CDLL(None, use_errno=True)
        bits = ctypes.c_ulong(64 * len(mask) + 1)
        if libc.syscall(SYS_SET_MEMPOLICY, int(Mode.BIND) | F_NUMA_BALANCING, mask, bits):
            return  # the kernel does not know the flag, so no target can have it
        with open("/proc/thread-self/numa_maps", "rb", buffering=0) as file:
            line = file.read(4096).split(b"\n")[0]
        found[0] = Spelling.of(line.split(b" ")[1].decode())

    thread = threading.Thread(target=ask)
    if Path("/proc/thread-self/numa_maps").exists():
        thread.start()
        thread.join()
    return found[0]
