"""Which page frame lies where, and on which node, by the kernel's own files: what moved and what did not."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["Placed", "moves", "placed", "vmstat"]

_PFN = (1 << 55) - 1  # Documentation/admin-guide/mm/pagemap.rst
_PRESENT = 1 << 63
_SYS_MOVE_PAGES = 279  # x86-64

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Placed:
    """frames: page frame numbers, 0 where nothing is present; nodes: by move_pages(2), negative where there is none."""

    frames: npt.NDArray[np.int64]
    nodes: npt.NDArray[np.int64]


def placed(pid: int, start: int, length: int) -> Placed:
    """Every page of a range of a process at rest."""
    count = length >> 12
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as file:
        file.seek(start >> 9)
        entries = np.frombuffer(file.read(count * 8), np.uint64)
    assert len(entries) == count
    present = (entries & np.uint64(_PRESENT)) != 0
    frames = np.where(present, entries & np.uint64(_PFN), 0).astype(np.int64)
    return Placed(frames, _nodes(pid, [start + (i << 12) for i in range(count)]))


def _nodes(pid: int, addresses: Sequence[int]) -> npt.NDArray[np.int64]:
    """move_pages(2) without nodes to move to: it only tells."""
    count = len(addresses)
    pages = (ctypes.c_void_p * count)(*addresses)
    status = (ctypes.c_int * count)()
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOVE_PAGES),
        ctypes.c_ulong(pid),
        ctypes.c_ulong(count),
        pages,
        None,
        status,
        ctypes.c_ulong(0),
    )
    assert result == 0, ctypes.get_errno()
    return np.array(status, np.int64)


def moves(before: Placed, after: Placed) -> Counter[tuple[int, int]]:
    """(from, to) -> pages whose frame is another one than before."""
    moved = (before.frames != after.frames) & (before.frames != 0) & (after.frames != 0)
    return Counter(zip(before.nodes[moved].tolist(), after.nodes[moved].tolist(), strict=True))


def vmstat() -> dict[str, int]:
    """The counters of /proc/vmstat."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}
