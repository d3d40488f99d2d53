"""Targets with policies that are kept and broken, as reports of the verb `policy` show them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from tests.unit.recordings import misplaced, pressure, with_policies
from tests.unit.snapshots import TIME, snapshot, vma
from tracer.model.cause import Cause
from tracer.model.policies import PolicyChange, TaskPolicy
from tracer.model.policy import DEFAULT, Mode, Policy
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import findings
from tracer.model.vma import Kind
from tracer.model.whatif import move_total, parse_policy, what_if
from tracer.render.policy import Report
from tracer.render.policy_vmas import WhatIf

__all__ = ["HEAP", "INTERLEAVE", "KEPT", "SKEWED", "asked", "broken", "change", "report"]

INTERLEAVE = Policy(Mode.INTERLEAVE, 0, (0, 1))
HEAP = vma(0x600000, 64, kind=Kind.HEAP, path=b"[heap]")
KEPT = vma(0x7F0000000000, 1000, INTERLEAVE)
SKEWED = vma(0x7F1000000000, 1000, INTERLEAVE, path=b"/a b\xff\x1b[2J")
FILE = vma(0x7F2000000000, 100, Policy(Mode.BIND, 0, (1,)), Kind.FILE, b"/lib/x.so")
EMPTY = vma(0x7F3000000000, 16, INTERLEAVE)


def broken(pid: int = 42, changes: Sequence[PolicyChange] = (), **fields: Any) -> Snapshot:
    """A process with an interleave that is kept, and one of which 300 of 500 pages of node 1 lie on node 0: 200 were
    there before, 90 were moved, for 10 node 1 was full."""
    shot = snapshot(
        [HEAP, KEPT, SKEWED, FILE, EMPTY], [(50, 3), (500, 500), (800, 200), (7, 2), (0, 0)], pid=pid, **fields
    )
    rows = [
        (2, 0, 1, Cause.BEFORE_POLICY, -1, 200),
        (2, 0, 1, Cause.MOVED, 2, 90),
        (2, 0, 1, Cause.NODE_FULL, -1, 10),
        (3, 0, 1, Cause.PAGE_CACHE, -1, 7),
    ]
    threads = (TaskPolicy(pid, b"target", DEFAULT), *(TaskPolicy(pid + n, b"w \x1b", INTERLEAVE) for n in (1, 2)))
    return with_policies(
        shot,
        threads=threads,
        changes=tuple(changes),
        misplaced=misplaced(rows),
        pressure=pressure([(0, 9000, 100, 200), (42, 70, 100, 200)]),
    )


def change(seconds: float = 0.0, exact: bool = False, thread: int = 0, task: bool = False) -> PolicyChange:
    """From the default, or none, to interleave."""
    start, end = (0, 0) if task else (SKEWED.start, SKEWED.end)
    call = ("set_mempolicy" if task else "mbind") if exact else ""
    old = DEFAULT if task else None
    return PolicyChange(TIME + timedelta(seconds=seconds), exact, thread, start, end, old, INTERLEAVE, call)


def asked(shot: Snapshot, text: str) -> WhatIf:
    """What --as gives."""
    policy, weights = parse_policy(text)
    moves = what_if(shot, policy, weights)
    return WhatIf(policy, weights, moves, move_total(moves, shot.node_ids))


def report(shot: Snapshot, **fields: Any) -> Report:
    """With the findings of the snapshot."""

    return Report(shot, findings(shot), **fields)
