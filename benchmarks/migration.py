"""What tracing costs the migration of memory from node to node. It takes two nodes: see `make bench-vm`.

Every traced figure is divided by the mean of the bare ones just before and just after it.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.session_process import SessionProcess
from benchmarks.table import Section
from benchmarks.workload import Hold, pin_apart
from tracer.errors import NumatraceError
from tracer.kernel.topology import read_topology

__all__ = ["ROUNDS", "measure"]

ROUNDS = 3
MIB = 2048
EVERY = 1.0
MILLISECOND = 1e6
_SYS_MIGRATE_PAGES = 256  # x86-64

METHOD = (
    f"{MIB >> 10} GiB of 4 KiB pages are moved from the first node to the second by migrate_pages(2), or back; elapsed "
    "time of the call. × is against the bare moves before and after. numatrace has another CPU and refreshes every "
    "second meanwhile: `maps` marks the regions that change, `flows` follows every page. On an emulated machine only "
    "the ratios mean anything."
)


class Round(NamedTuple):
    """bare: nanoseconds. maps, flows: against bare. lost: events."""

    bare: float
    maps: float
    flows: float
    lost: float


class Mover:
    """Moves a process's memory to the other node, each time."""

    def __init__(self, pid: int, nodes: tuple[int, int]) -> None:
        self._pid, self._from, self._to = pid, *nodes
        self._libc = ctypes.CDLL(None, use_errno=True)

    def move(self) -> float:
        """Nanoseconds. Raises NumatraceError when anything else stayed than a few pages that cannot be moved."""
        masks = [ctypes.c_ulong(1 << node) for node in (self._from, self._to)]
        begin = time.monotonic_ns()
        stayed = self._libc.syscall(
            ctypes.c_long(_SYS_MIGRATE_PAGES),
            ctypes.c_ulong(self._pid),
            ctypes.c_ulong(65),
            ctypes.byref(masks[0]),
            ctypes.byref(masks[1]),
        )
        elapsed = time.monotonic_ns() - begin
        if stayed < 0:
            raise NumatraceError(f"migrate_pages failed: {os.strerror(ctypes.get_errno())}", "run as root")
        if stayed > MIB:
            raise NumatraceError(f"{stayed} pages could not be moved: there is not enough free memory on both nodes")
        self._from, self._to = self._to, self._from
        return float(elapsed)


def _round(pid: int, mover: Mover) -> Round:
    before = mover.move()
    with SessionProcess(pid, every=EVERY) as session:
        maps = mover.move()
    between = mover.move()
    lost = session.ended["lost"]
    with SessionProcess(pid, every=EVERY, flows=True) as session:
        flows = mover.move()
    after = mover.move()
    lost += session.ended["lost"]
    return Round(before, 2 * maps / (before + between), 2 * flows / (between + after), lost)


def measure(rounds: int, progress: Callable[[int], None]) -> list[Section]:
    """One section. Raises NumatraceError on a machine with one node."""
    nodes = read_topology().has_memory
    if len(nodes) < 2:
        raise NumatraceError("memory can only be migrated between two nodes, and here is one", "use `make bench-vm`")
    pin_apart()
    balancing = Path("/proc/sys/kernel/numa_balancing")
    before = balancing.read_text()
    balancing.write_text("0")
    try:
        with Hold(MIB) as target:
            mover = Mover(target.pid, (nodes[0], nodes[1]))
            mover.move()  # not counted; gathers what the start has put on either node
            results = []
            for number in range(rounds):
                progress(number)
                results.append(_round(target.pid, mover))
    finally:
        balancing.write_text(before)
    section = Section("Migration", METHOD)
    section.add("bare, 2 GiB", (result.bare / MILLISECOND for result in results), "ms")
    section.add("migration of 2 GiB, maps: traced / bare", (result.maps for result in results), "×")
    section.add("migration of 2 GiB, flows: traced / bare", (result.flows for result in results), "×")
    section.add("events that numatrace lost", (result.lost for result in results), "events", 0)
    return [section]
