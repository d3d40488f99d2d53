"""Policies of VMAs and of threads as they were at a look, and what has been set since.

Changes come from comparing two looks, and, where they are traced, from the system calls that made them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from tracer.kernel.epoch import PolicyCall, policy_hash
from tracer.kernel.memory import Layout
from tracer.kernel.threads import ThreadPolicy
from tracer.model.policies import PolicyChange, TaskPolicy
from tracer.model.policy import MODE_FLAGS, Mode, Policy

__all__ = ["Owned", "Tasks", "change_by_call", "differences", "policy_by_calls"]

Int64s = npt.NDArray[np.int64]
Range = tuple[int, int, Policy | None, Policy | None]
"""start, end, old policy, new policy"""


@dataclass(slots=True)
class Owned:
    """VMAs as they were at a look, and which policy each had of its own."""

    start: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    end: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    policies: list[Policy | None] = field(default_factory=list)

    @classmethod
    def of(cls, layout: Layout) -> Owned:
        own = layout.own_policy.tolist()
        policies = [vma.policy if has else None for vma, has in zip(layout.vmas, own, strict=True)]
        return cls(layout.spans.start, layout.spans.end, policies)

    def at(self, address: int) -> tuple[bool, Policy | None]:
        """Whether there was a VMA, and its own policy."""
        row = int(np.searchsorted(self.start, address, "right")) - 1
        if row < 0 or address >= int(self.end[row]):
            return False, None
        return True, self.policies[row]

    def between(self, start: int, end: int) -> Iterator[tuple[int, int, Policy | None]]:
        """Parts of the range that a VMA covered, with its own policy."""
        row = int(np.searchsorted(self.end, start, "right"))
        while row < len(self.start) and int(self.start[row]) < end:
            yield max(start, int(self.start[row])), min(end, int(self.end[row])), self.policies[row]
            row += 1


@dataclass(slots=True)
class Tasks:
    """Policies of the threads at a look: as shown, by thread, and by the hash of the kernel's pointer."""

    shown: tuple[TaskPolicy, ...] = ()
    by_thread: dict[int, Policy] = field(default_factory=dict)
    by_hash: dict[int, Policy] = field(default_factory=dict)

    @classmethod
    def of(cls, threads: tuple[ThreadPolicy, ...]) -> Tasks:
        return cls(
            tuple(TaskPolicy(it.thread, it.comm, it.policy) for it in threads),
            {it.thread: it.policy for it in threads},
            {policy_hash(it.pointer): it.policy for it in threads},
        )


def policy_by_calls(
    calls: list[PolicyCall], address: int, sequence: int, was: Policy | None
) -> tuple[Policy | None] | None:
    """A VMA's own policy when the target had made so many calls, from the calls that were traced; None without any."""
    mine = [it for it in calls if not it.result and it.call == "mbind" and it.start <= address < it.end]
    if not mine:
        return None
    earlier = [it for it in mine if (sequence - it.sequence) % 4096 < 2048]
    if not earlier:
        return (was,)
    last = earlier[-1]
    return (None if last.mode == Mode.DEFAULT else Policy(last.mode, last.flags & MODE_FLAGS, last.nodes),)


def change_by_call(call: PolicyCall, owned: Owned, before: Tasks) -> PolicyChange:
    """A traced system call as a change."""
    late = time.monotonic_ns() - call.time_ns
    when = datetime.fromtimestamp(time.time() - late / 1e9, UTC)
    new = Policy(call.mode, call.flags & MODE_FLAGS, call.nodes)
    if call.call == "set_mempolicy":
        return PolicyChange(when, True, call.thread, 0, 0, before.by_thread.get(call.thread), new, call.call)
    old = owned.at(call.start)[1]
    ours = None if call.mode == Mode.DEFAULT and call.call == "mbind" else new
    if call.call == "set_mempolicy_home_node":
        ours = old
    return PolicyChange(when, True, call.thread, call.start, call.end, old, ours, call.call)


def differences(before: Owned, now: Owned) -> list[Range]:
    """Ranges of addresses whose VMA has another policy of its own than before; a new VMA had none."""
    found: list[Range] = []
    for first, last, new in zip(now.start.tolist(), now.end.tolist(), now.policies, strict=True):
        at = first
        for start, end, old in (*before.between(first, last), (last, last, None)):
            for begin, stop, was in ((at, start, None), (start, end, old)):
                if begin < stop and was != new:
                    _extend(found, begin, stop, was, new)
            at = max(at, end)
    return found


def _extend(found: list[Range], start: int, end: int, old: Policy | None, new: Policy | None) -> None:
    """Add a range, to the one before if it goes on there."""
    if found and found[-1][1:] == (start, old, new):
        found[-1] = (found[-1][0], end, old, new)
    else:
        found.append((start, end, old, new))
