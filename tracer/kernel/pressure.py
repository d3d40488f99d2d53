"""What decides beside a policy where pages go: how full the nodes are, cpusets, weights, and pools of huge pages.

`PressureReader` keeps its files open, because it is asked at every refresh; the rest is read where it stands.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tracer.kernel.procfs import PROC
from tracer.kernel.topology import parse_id_list
from tracer.model.policies import Pressure

__all__ = ["PressureReader", "allowed_nodes", "free_hugepages", "parse_watermarks", "read_pressure", "read_weights"]

SYS = Path("/sys")
WATERMARKS_AGE_S = 5.0  # they change when somebody changes a setting, or plugs memory, or for a boost
_READ_BYTES = 1 << 16

_FOREIGN = re.compile(rb"^numa_foreign (\d+)$", re.MULTILINE)
_FREE = re.compile(rb"^nr_free_pages (\d+)$", re.MULTILINE)
_ZONE_OR_WATERMARK = re.compile(rb"^Node (\d+), zone |^ {8}(low|high) +(\d+)$", re.MULTILINE)
_ALLOWED = re.compile(rb"^Mems_allowed_list:\s*(.*)$", re.MULTILINE)

Int64s = npt.NDArray[np.int64]


def parse_watermarks(text: bytes) -> dict[int, tuple[int, int]]:
    """By node id the low and high watermarks in pages, summed over its zones, from the text of /proc/zoneinfo.

    Source: mm/vmstat.c zoneinfo_show_print(), which prints `high:` with a colon for what CPUs keep to themselves.
    """
    marks: dict[int, tuple[int, int]] = {}
    node = 0
    for found in _ZONE_OR_WATERMARK.finditer(text):
        if found[1]:
            node = int(found[1])
            continue
        low, high = marks.get(node, (0, 0))
        value = int(found[3])
        marks[node] = (low + value, high) if found[2] == b"low" else (low, high + value)
    return marks


class PressureReader:
    """Reads `Pressure` of some nodes again and again. A node that goes away counts as empty from then on.

    `foreign` of what it gives is absolute: since the machine was started.
    """

    def __init__(self, node_ids: Sequence[int], sys_root: Path = SYS, proc_root: Path = PROC) -> None:
        self.node_ids = tuple(node_ids)
        self._zoneinfo = proc_root / "zoneinfo"
        self._watermarks: tuple[Int64s, Int64s] | None = None
        self._read_at = 0.0
        self._files: list[tuple[int, int]] = []
        nodes = sys_root / "devices/system/node"
        try:
            for node in self.node_ids:
                self._files.append((_open(nodes / f"node{node}/numastat"), _open(nodes / f"node{node}/vmstat")))
        except BaseException:
            self.close()
            raise

    def read(self) -> Pressure:
        """The present state. Counters and free pages are read now, watermarks are at most a few seconds old."""
        foreign = [_number(_FOREIGN, stat) for stat, _ in self._files]
        free = [_number(_FREE, stat) for _, stat in self._files]
        low, high = self._marks()
        return Pressure(np.array(foreign, np.int64), np.array(free, np.int64), low, high)

    def _marks(self) -> tuple[Int64s, Int64s]:
        """From /proc/zoneinfo, which has a line for each CPU and zone and so is long on a large machine."""
        now = time.monotonic()
        if self._watermarks is None or now - self._read_at > WATERMARKS_AGE_S:
            marks = parse_watermarks(self._zoneinfo.read_bytes())
            pairs = [marks.get(node, (0, 0)) for node in self.node_ids]
            low, high = np.array(pairs, np.int64).reshape(-1, 2).T
            self._watermarks, self._read_at = (np.ascontiguousarray(low), np.ascontiguousarray(high)), now
        return self._watermarks

    def close(self) -> None:
        """Close the files. Harmless to repeat."""
        for fd in (fd for pair in self._files for fd in pair if fd >= 0):
            os.close(fd)
        self._files = []


def _open(path: Path) -> int:
    """A file descriptor, or -1 where there is no such file."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def _number(pattern: re.Pattern[bytes], fd: int) -> int:
    """The number that stands in a short file of sysfs; 0 where it does not."""
    if fd < 0:
        return 0
    try:
        found = pattern.search(os.pread(fd, _READ_BYTES, 0))
    except OSError:  # ENODEV: the node is gone
        return 0
    return int(found[1]) if found else 0


def read_pressure(node_ids: Sequence[int], sys_root: Path = SYS, proc_root: Path = PROC) -> Pressure:
    """`Pressure` once; `foreign` since the machine was started."""
    reader = PressureReader(node_ids, sys_root, proc_root)
    try:
        return reader.read()
    finally:
        reader.close()


def read_weights(node_ids: Sequence[int], sys_root: Path = SYS) -> tuple[int, ...] | None:
    """Weights of weighted interleave in force, by node of `node_ids`; None where the kernel has none (before 6.9).

    The files tell the weights in force, whether somebody wrote them or the kernel took them from the nodes' bandwidths
    (6.16 and later; Documentation/ABI/testing/sysfs-kernel-mm-mempolicy-weighted-interleave). A node without a file has
    the default, 1.
    """
    directory = sys_root / "kernel/mm/mempolicy/weighted_interleave"
    if not directory.is_dir():
        return None
    return tuple(_whole_number(directory / f"node{node}", 1) for node in node_ids)


def free_hugepages(node_ids: Sequence[int], page_kb: int, sys_root: Path = SYS) -> tuple[int, ...]:
    """Free huge pages of `page_kb` KiB in the hugetlb pool of each node; 0 where it has no such pool."""
    nodes = sys_root / "devices/system/node"
    pools = (nodes / f"node{node}/hugepages/hugepages-{page_kb}kB/free_hugepages" for node in node_ids)
    return tuple(_whole_number(pool, 0) for pool in pools)


def _whole_number(path: Path, missing: int) -> int:
    try:
        return int(path.read_bytes())
    except OSError:
        return missing


def allowed_nodes(pid: int, proc_root: Path = PROC) -> tuple[int, ...]:
    """Ids of the nodes that the main thread of a process may allocate on (its cpuset), with memory or not; none where
    the process is gone. Source: Mems_allowed_list of /proc/PID/status, kernel/cgroup/cpuset.c."""
    try:
        found = _ALLOWED.search((proc_root / str(pid) / "status").read_bytes())
    except OSError:
        return ()
    return parse_id_list(found[1].decode()) if found else ()
