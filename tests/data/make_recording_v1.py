"""Made recording-v1.parquet: a recording of schema 1 with every event and every column. Do not make it again: the file
shows that what was written then is still read the same now.

    python -m tests.data.make_recording_v1 FILE
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from tests.unit.recordings import spaced, write_recording
from tests.unit.snapshots import REASONS, details, faults, flows, regions, sample, snapshot, vma
from tracer.model.events import Kind as FaultKind
from tracer.model.policy import F_NUMA_BALANCING, F_STATIC_NODES, Mode, Policy, Spelling
from tracer.model.sample import Sample
from tracer.model.snapshot import Refresh, Snapshot, Trust
from tracer.model.vma import Kind, Vma
from tracer.record.schema import Info

INFO = Info(
    version="0.5.0",
    host="testhost",
    kernel="6.12.0-test",
    node_ids=(0, 3),
    distances=((10, 21), (21, 10)),
    cpus={0: "0-3", 3: ""},
    reasons=REASONS,
    command_line=("numatrace", "record", "-p", "42", "-o", "x\udcff.parquet"),
    targets=("42 target",),
    every_s=0.5,
    spelling="named",
    details=True,
    flows=True,
    faults=True,
    threads=True,
    regions=True,
    started="2025-03-01T12:00:00.250000Z",
    complete=True,
    ended_by="target exited",
)

HEAP = vma(0x1000, 16, kind=Kind.HEAP, path=b"[heap]")
FILE = Vma(
    0x7F0000200000,
    0x7F0000400000,
    "r--s",
    2**63 + 4096,
    "fd:01",
    2**63 + 1,
    b"/tmp/\xff\\012 \xc3\xbc (deleted)",
    Kind.FILE,
    Policy(Mode.INTERLEAVE, F_STATIC_NODES, (0, 1, 3)),
)
HUGE = vma(0x7F0040000000, 1024, Policy(Mode.BIND, F_NUMA_BALANCING, (3,)), Kind.FILE, b"/dev/hugepages/x", True, 2048)
STACK = vma(0x7FFF00000000, 33, Policy.parse("later policy:0-3"), Kind.STACK, b"[stack]")
GATE = vma(0xFFFFFFFFFF600000, 1, Policy(Mode.BIND, nodes=tuple(range(0, 60, 2))))


def shot(vmas: list[Vma], pages: list[tuple[int, int]], **fields: object) -> Snapshot:
    """Of PID 42, with everything that can be asked for."""
    full = details([(row, 1, 2, 3, 4, 5) for row in range(len(vmas))])
    spans = regions([(0x1000, 1, 2), (0x7F0000200000, 0, 7)])
    made = snapshot(vmas, pages, (0, 3), details=full, regions=spans, flows=flows(), faults=faults(), namespace_pid=7)
    return replace(made, **fields)  # type: ignore[arg-type]


def samples() -> list[Sample]:
    """What the file holds."""
    first = shot([HEAP, FILE, HUGE, STACK, GATE], [(1, 2), (0, 7), (2, 0), (3, 0), (1, 1)])
    moved = replace(
        shot([HEAP, FILE, STACK, GATE], [(0, 3), (0, 7), (3, 0), (1, 1)]),
        flows=flows([(-1, 3, 0, 2, 7, 1), (0, 0, 3, 1, 1, 0), (0, 3, 3, 0, 2, 5)]),
        faults=faults([(-1, 0, -1, FaultKind.OTHER, 43, 9), (1, 3, 3, FaultKind.HUGE, 42, 2)]),
        regions=regions([(0x1000, 0, 3)]),
        trust=Trust(1, 2, 3, 4, 0.125),
        refresh=Refresh(5, 6_000),
    )
    other = replace(shot([HEAP], [(5, 6)]), pid=50, namespace_pid=50, comm=b"\xfeother", spelling=Spelling.HIDDEN)
    other = replace(other, hooks="none", reader="numa_maps", regions=None)
    last = replace(moved, details=None, flows=flows([(2, 0, 0, 0, 3, 0)]), faults=faults())
    counted = {"reasons": REASONS, "migrated": np.array([0, 5, 6]), "failed": np.array([1, 0, 0])}
    empty = replace(other, vmas=(), pages=np.zeros((0, 2), np.int64), details=details([]))
    story = [
        sample(first, other, **counted),
        sample(moved, other, untraced=2, **counted),
        sample(replace(other, comm=b"new"), ended=(last,), untraced=2, **counted),
        sample(ended=(empty,), node_ids=INFO.node_ids, **counted),
    ]
    return spaced(story, seconds=0.5)


if __name__ == "__main__":
    write_recording(sys.argv[1], samples(), INFO)
