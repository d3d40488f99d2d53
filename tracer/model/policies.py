"""Policies of one target at one time, and its pages that lie elsewhere than these promise.

This is what `Snapshot.policies` holds: counted by the session, which knows every page, so that outputs and recordings
need not. Verdicts are drawn from it by `tracer.model.verdict`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from tracer.model.policy import Policy

__all__ = ["Misplaced", "Policies", "PolicyChange", "Pressure", "TaskPolicy"]

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TaskPolicy:
    """The policy of one thread (set_mempolicy(2)). thread: its id. comm: its name, at most 15 bytes."""

    thread: int
    comm: bytes
    policy: Policy


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """A policy became another one.

    time: aware datetime (UTC): of the system call where it was traced, otherwise of the look that found it so; exact
    tells which. thread: who called, where that is traced; for a task policy the thread whose policy it is; 0 where it
    is not known. start, end: addresses, end excluded; both 0 for a task policy. old, new: None where a VMA had or has
    no policy of its own. call: name of the system call, "" where it was not traced.
    """

    time: datetime
    exact: bool
    thread: int
    start: int
    end: int
    old: Policy | None
    new: Policy | None
    call: str = ""


@dataclass(frozen=True, slots=True)
class Pressure:
    """How full the nodes with memory are. int64 of shape (len(node_ids),), in pages of 4 KiB.

    foreign: allocations meant for the node that another one had to serve, of the whole machine, since the session
    began (numa_foreign of /sys/devices/system/node/nodeN/numastat). free, low, high: free pages and watermarks, summed
    over the node's zones (/proc/zoneinfo).
    """

    foreign: Int64s
    free: Int64s
    low: Int64s
    high: Int64s


@dataclass(frozen=True, slots=True)
class Misplaced:
    """Pages that lie on another node than the policy in force gives them; none is in two rows.

    Arrays are int64 of shape (rows,), one row per (VMA, node, expected, cause, reason), ascending. vma: row of the
    snapshot's `vmas`. node: id of the node where they lie. expected: id of the node that the policy gives them, -1
    where it gives them several. cause: a `Cause`. reason: index into `reasons` where the cause is MOVED, otherwise -1.
    pages: as numa_maps counts them. reasons: names of migration reasons, as in `Flows`.
    """

    reasons: tuple[str, ...]
    vma: Int64s
    node: Int64s
    expected: Int64s
    cause: Int64s
    reason: Int64s
    pages: Int64s


@dataclass(frozen=True, slots=True)
class Policies:
    """own: bool, shape (VMAs,): the VMA has a policy of its own, or its shared memory has (vm_ops->get_policy); False
    where the task's shows. governed: bool, shape (VMAs,): whether the policy in force decided on the pages at all:
    False for a policy of a VMA on the page cache of a file.
    allowed: ids of the nodes that the main thread may allocate on (cpuset) and that have memory.
    weights: of weighted interleave, by node of `node_ids`; None where the kernel has none (before 6.9).
    threads: the main thread first, then by id. changes: since the last snapshot of this target, in order of time.
    rule: int64, shape (VMAs, nodes): of the pages that are present, how many the policy gives to each node: by their
    addresses for the interleaves, to its one node for prefer and bind of one node; all 0 where it has no such rule.
    units: float64, shape (VMAs,): how many independent decisions the pages of a VMA come from: n pages of n
    allocations are n, a huge page is one (sum of sizes, squared, divided by the sum of their squares).
    huge: int64, shape (VMAs,): pages that came as huge pages (512 for each of 2 MiB; hugetlb counts 1, and 0 here).
    observed: False where all that is known comes from one look, so that hardly any cause can be told.
    """

    own: npt.NDArray[np.bool_]
    governed: npt.NDArray[np.bool_]
    allowed: tuple[int, ...]
    weights: tuple[int, ...] | None
    threads: tuple[TaskPolicy, ...]
    changes: tuple[PolicyChange, ...]
    rule: Int64s
    units: npt.NDArray[np.float64]
    huge: Int64s
    misplaced: Misplaced
    pressure: Pressure
    observed: bool = True
