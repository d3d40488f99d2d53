"""Causes of misplaced pages in words for people: what happened, and what to do about it. One line each."""

from __future__ import annotations

from tracer.model.cause import Cause

__all__ = ["explain", "remedy"]

_EXPLAINED = {
    Cause.UNKNOWN: "there before tracing began, or nobody saw what put it there",
    Cause.BEFORE_POLICY: "there before the policy was set, which leaves present pages alone",
    Cause.OTHER_TASK: "allocated by a thread that has another task policy",
    Cause.BEFORE_TASK: "allocated before its thread had the policy",
    Cause.NODE_FULL: "the node whose turn it was had no room",
    Cause.OUTSIDE_CPUSET: "the node whose turn it was is not in the cpuset",
    Cause.PAGE_CACHE: "page cache of a file: placed for whoever read it first, whatever the policy of this memory",
    Cause.SHARED: "shared memory that was there already: another process or an earlier mapping put it there",
    Cause.MOVED: "moved after allocation",
    Cause.COLLAPSED: "made into a huge page on the node where most of its small pages were",
    Cause.GRANULARITY: "fits the policy, which goes by huge pages here and so is coarse",
    Cause.PATTERN: "fits the policy by its address, but the addresses that were touched favour some nodes",
    Cause.WEIGHTS: "fits the weights at its allocation, which have changed since",
    Cause.COPIED: "written to after a fork, and copied under another policy",
    Cause.INHERITED: "the parent's page, shared with it since the fork",
    Cause.MERGED: "merged with an equal page by KSM",
}

_REMEDIES = {
    Cause.UNKNOWN: "start the program under numatrace, so that all of it is seen: numatrace policy -- COMMAND",
    Cause.BEFORE_POLICY: "call mbind() with MPOL_MF_MOVE, or set the policy before the memory is touched",
    Cause.OTHER_TASK: "call set_mempolicy() in the thread that touches the memory first, or mbind() the memory itself",
    Cause.BEFORE_TASK: "call set_mempolicy() before the first touch, or start the program with numactl --interleave",
    Cause.NODE_FULL: "free memory on that node (numactl --hardware shows it), or leave it out of the policy",
    Cause.OUTSIDE_CPUSET: "add the node to cpuset.mems of the process's cgroup, or leave it out of the policy",
    Cause.PAGE_CACHE: "sync; echo 1 > /proc/sys/vm/drop_caches; then read the file first under numactl --interleave",
    Cause.SHARED: "set the policy before anyone touches it (numactl --shm or --file), or mbind() with MPOL_MF_MOVE_ALL",
    Cause.MOVED: "find what moves pages (numatrace flows), stop it, then call mbind() with MPOL_MF_MOVE",
    Cause.COLLAPSED: "madvise() with MADV_NOHUGEPAGE, or echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    Cause.GRANULARITY: "use more memory, or smaller pages: MADV_NOHUGEPAGE, or hugetlb pages of 2 MiB and not 1 GiB",
    Cause.PATTERN: "touch all pages, or change the stride so that it is no multiple of the number of nodes",
    Cause.WEIGHTS: "set the weights (/sys/kernel/mm/mempolicy/weighted_interleave) first, or mbind() with MPOL_MF_MOVE",
    Cause.COPIED: "set the policy in the child before it writes, or mbind() the memory before the fork",
    Cause.INHERITED: "set the policy in the parent before it touches the memory, or start children with fork and exec",
    Cause.MERGED: "madvise() the memory with MADV_UNMERGEABLE, or echo 2 > /sys/kernel/mm/ksm/run",
}

_MOVERS = {
    "compaction": "compaction",
    "memory_failure": "the kernel, because its memory failed",
    "memory_hotplug": "the kernel, because its memory went offline",
    "syscall": "move_pages(), migrate_pages() or a change of the cpuset",
    "syscall_or_cpuset": "move_pages(), migrate_pages() or a change of the cpuset",
    "mempolicy_mbind": "an mbind() with MPOL_MF_MOVE",
    "numa_misplaced": "NUMA balancing, to the node of the CPU that used it",
    "promotion": "NUMA balancing, to faster memory, because it was used",
    "contig_range": "an allocation of contiguous memory",
    "longterm_pin": "a long-term pin of a device",
    "demotion": "demotion to slower memory, because its node was short of memory",
    "damon": "DAMON",
}
"""What stands behind `enum migrate_reason` (include/linux/migrate_mode.h), by the names that `Flows.reasons` has."""

_STOP_MOVING = {
    "compaction": "call mbind() with MPOL_MF_MOVE to put it back; compaction mostly stays on the node",
    "memory_failure": "replace the memory module: see mcelog or rasdaemon",
    "memory_hotplug": "bring the memory online again, then call mbind() with MPOL_MF_MOVE",
    "syscall": "find who calls move_pages() or migrate_pages(), or writes cpuset.mems, then mbind() with MPOL_MF_MOVE",
    "mempolicy_mbind": "call mbind() with MPOL_MF_MOVE under the policy that is meant; the last call wins",
    "numa_misplaced": "echo 0 > /proc/sys/kernel/numa_balancing, or set the policy with mbind(), which balancing obeys",
    "promotion": "turn tiering off (echo 1 > /proc/sys/kernel/numa_balancing), or set the policy with mbind()",
    "contig_range": "call mbind() with MPOL_MF_MOVE to put it back",
    "longterm_pin": "call mbind() with MPOL_MF_MOVE before the memory is registered with the device",
    "demotion": "echo 0 > /sys/kernel/mm/numa/demotion_enabled, or free memory on the fast node",
    "damon": "take the migrate_hot or migrate_cold scheme away: /sys/kernel/mm/damon/admin",
}
_STOP_MOVING["syscall_or_cpuset"] = _STOP_MOVING["syscall"]


def explain(cause: Cause, reason: str = "") -> str:
    """What put such pages there. reason: of a migration, by the name that `Misplaced.reasons` has, else ""."""
    if cause is Cause.MOVED and reason:
        return f"{_EXPLAINED[cause]}, by {_MOVERS.get(reason, reason)}"
    return _EXPLAINED[cause]


def remedy(cause: Cause, reason: str = "") -> str:
    """What to do so that it does not happen again, and to put it right: the call or the tool by name."""
    if cause is Cause.MOVED and reason in _STOP_MOVING:
        return _STOP_MOVING[reason]
    return _REMEDIES[cause]
