"""One virtual memory area, as one line of /proc/PID/maps and one of /proc/PID/numa_maps describe it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tracer.model.policy import Policy

__all__ = ["Kind", "Vma"]


class Kind(enum.Enum):
    """The word that numa_maps prints after the policy (fs/proc/task_mmu.c, show_numa_map)."""

    FILE = "file"
    HEAP = "heap"
    STACK = "stack"
    ANON = ""


@dataclass(frozen=True, slots=True)
class Vma:
    """start and end: addresses, end excluded. offset: bytes into the file, as maps prints it.

    path: the name as /proc/PID/maps shows it, in bytes, with the kernel's own escape of a newline (`\\012`);
    for `Kind.FILE` the file's path (with ` (deleted)` where the kernel adds it), otherwise the bracketed name or b"".
    policy: the one in force, so the task's where the VMA has none of its own.
    hugetlb: True for hugetlbfs mappings. page_kb: kernel page size in KiB (4, or the hugetlb size; a THP still says 4).
    """

    start: int
    end: int
    perms: str
    offset: int
    device: str
    inode: int
    path: bytes
    kind: Kind
    policy: Policy
    hugetlb: bool = False
    page_kb: int = 4
