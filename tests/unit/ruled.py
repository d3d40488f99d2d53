"""A process under policies, for the tests of what shows them: some of its memory lies where these would not put it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from tests.unit.live_fakes import INTERLEAVE, NODES, areas, at
from tests.unit.snapshots import REASONS, TIME, faults, flows, snapshot
from tracer.model.cause import Cause
from tracer.model.policies import Misplaced, Policies, PolicyChange, Pressure, TaskPolicy
from tracer.model.policy import DEFAULT, Mode, Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Kind, Vma

__all__ = ["ARENA", "SMALL", "changed", "plain_pressure", "ruled", "sample_at", "with_policies"]

ARENA = 0x7F3C00000000
SMALL = 0x7F3CC1000000
WEIGHTED = Policy(Mode.WEIGHTED_INTERLEAVE, 0, (0, 1))
PAGES = (
    (40, 0, 0, 0),
    (1200, 300, 0, 1),
    (150000, 40000, 35000, 37052),
    (2, 0, 0, 0),
    (300, 0, 0, 0),
    (2, 1, 0, 0),
    (0, 12, 0, 0),
)
MISPLACED = (
    (2, 0, 1, Cause.BEFORE_POLICY, -1, 25000),
    (2, 0, 2, Cause.BEFORE_POLICY, -1, 30000),
    (2, 0, 3, Cause.BEFORE_POLICY, -1, 20000),
    (2, 0, 3, Cause.MOVED, 2, 8457),
    (2, 0, 1, Cause.NODE_FULL, -1, 100),
)
"""Row of the VMA, where they lie, where they should, why, the reason of a move, how many."""
THREADS = (
    TaskPolicy(4711, b"postgres", DEFAULT),
    TaskPolicy(4712, b"writer", DEFAULT),
    TaskPolicy(4713, b"worker <1>", INTERLEAVE),
    TaskPolicy(4714, b"worker \x1b[2", INTERLEAVE),
)


def ruled_areas() -> list[Vma]:
    """Those of `live_fakes`, with one that has a few pages under a weighted interleave."""
    return [replace(it, policy=WEIGHTED) if it.start == SMALL else it for it in areas()]


def plain_pressure(nodes: int) -> Pressure:
    """The first node is full, and turned away a thousand allocations."""
    free = np.full(nodes, 1 << 20, np.int64)
    foreign = np.zeros(nodes, np.int64)
    free[0], foreign[0] = 3000, 1000
    return Pressure(foreign, free, np.full(nodes, 4096, np.int64), np.full(nodes, 6144, np.int64))


def with_policies(shot: Snapshot, misplaced: Sequence[Sequence[int]] = (), **fields: Any) -> Snapshot:
    """With policies that fit its pages: the rule gives what lies there but for the misplaced ones."""
    rows = np.array(misplaced, np.int64).reshape(len(misplaced), 6)
    rows = rows[np.lexsort(rows.T[::-1])]
    rule = shot.pages.copy()
    place = {node: index for index, node in enumerate(shot.node_ids)}
    for row, node, expected, _, _, pages in rows.tolist():
        rule[row, place[node]] -= pages
        rule[row, place[expected]] += pages
    spread = [it.policy.mode in (Mode.INTERLEAVE, Mode.WEIGHTED_INTERLEAVE) for it in shot.vmas]
    given: dict[str, Any] = {
        "own": np.array([it.policy != DEFAULT for it in shot.vmas], np.bool_),
        "governed": np.array([it.kind is not Kind.FILE or it.hugetlb for it in shot.vmas], np.bool_),
        "allowed": shot.node_ids,
        "weights": tuple(3 if index == 0 else 1 for index in range(len(shot.node_ids))),
        "threads": (TaskPolicy(shot.pid, shot.comm, DEFAULT),),
        "changes": (),
        "rule": np.where(np.array(spread, np.bool_)[:, None], rule, 0),
        "units": shot.pages.sum(axis=1).astype(np.float64),
        "huge": np.zeros(len(shot.vmas), np.int64),
        "misplaced": Misplaced(REASONS, *rows.T),
        "pressure": plain_pressure(len(shot.node_ids)),
    }
    return replace(shot, policies=Policies(**{**given, **fields}))


def changed(time: datetime, **fields: Any) -> PolicyChange:
    """The arena was made an interleaved one."""
    given: dict[str, Any] = {
        "exact": True,
        "thread": 4712,
        "start": ARENA,
        "end": ARENA + (1 << 30),
        "old": None,
        "new": INTERLEAVE,
        "call": "mbind",
    }
    return PolicyChange(time, **{**given, **fields})


def ruled(step: int = 0, pid: int = 4711, comm: bytes = b"postgres", **fields: Any) -> Snapshot:
    """The process after `step` seconds: its heap grows on node 1."""
    pages = np.array(PAGES, np.int64)
    pages[1, 1] += 10 * step
    shot = snapshot(
        ruled_areas(),
        pages.tolist(),
        NODES,
        pid=pid,
        comm=comm,
        flows=flows([(2, 3, 0, 2, 5, 0)] if step else []),
        faults=faults([(1, 1, 1, 0, 0, 10)] if step else []),
        time=TIME + timedelta(seconds=step),
    )
    return with_policies(shot, MISPLACED, **{"threads": THREADS, **fields})


def sample_at(step: int, *shots: Snapshot, **fields: Any) -> Sample:
    """A sample `step` seconds after the first one; in the second, the arena becomes interleaved, and a thread's policy
    with it."""
    time = TIME + timedelta(seconds=step)
    found = changed(time, exact=False, thread=4713, start=0, end=0, old=DEFAULT, new=INTERLEAVE, call="")
    changes = (changed(time - timedelta(milliseconds=300)), found) if step == 1 else ()
    return at(step, *(shots or (ruled(step, changes=changes),)), **fields)
