"""The records of one epoch (bpf/log.h) as arrays, by target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Birth", "Drained", "Epoch", "FaultRows", "FlowRows", "decode"]

REGION, RANGE, EXEC, EXIT, FORK, FAULTS, FLOW = 1, 2, 3, 4, 5, 6, 7  # enum record_kind of bpf/log.h
COMM = 16  # TASK_COMM_LEN
PAGE_SHIFT, REGION_PAGES_SHIFT = 12, 9

Int64s = npt.NDArray[np.int64]


class FaultRows(NamedTuple):
    """address: where the span begins. kind, cpu, thread (0: not told apart): int64. faults: by the page's node id, the
    last column for those that left no page that counts; int64, shape (rows, node ids + 1)."""

    address: Int64s
    kind: Int64s
    cpu: Int64s
    thread: Int64s
    faults: Int64s


class FlowRows(NamedTuple):
    """address: where the span begins. source, destination: node ids, not below the number of node ids where no node
    is known. reason: as the kernel numbers them, 15 without one. pages that moved, pages put back. All int64."""

    address: Int64s
    source: Int64s
    destination: Int64s
    reason: Int64s
    pages: Int64s
    failed: Int64s


def _no_regions() -> Int64s:
    return np.empty(0, np.int64)


@dataclass(slots=True)
class Drained:
    """One epoch of one target.

    regions: numbers of the regions that were touched, int64, ascending. faults: page faults in each of them whose page
    was found, by the page's node id; int64, shape (len(regions), node ids); all 0 where they are told apart by kind.
    ranges: [start, end) that a system call changed. fault_rows, flow_rows: parts in the order of the epochs.
    """

    regions: Int64s = field(default_factory=_no_regions)
    faults: Int64s = field(default_factory=lambda: np.empty((0, 0), np.int64))
    ranges: list[tuple[int, int]] = field(default_factory=list)
    fault_rows: list[FaultRows] = field(default_factory=list)
    flow_rows: list[FlowRows] = field(default_factory=list)

    def absorb(self, more: Drained) -> None:
        """Add what happened in a later epoch."""
        if not len(self.regions):
            self.regions, self.faults = more.regions, more.faults
        elif len(more.regions):
            regions = np.concatenate((self.regions, more.regions))
            self.regions, self.faults = _sum_by_region(regions, np.concatenate((self.faults, more.faults)))
        self.ranges += more.ranges
        self.fault_rows += more.fault_rows
        self.flow_rows += more.flow_rows


class Birth(NamedTuple):
    """A new address space, traced from its first moment: its number, mm, process, whether by fork or by exec, and the
    name of the process (of a child, its parent's; at most 15 bytes)."""

    number: int
    mm: int
    pid: int
    forked: bool
    comm: bytes


@dataclass(slots=True)
class Epoch:
    """What happened between two swaps: by target number; new address spaces in order; numbers of those that ended."""

    targets: dict[int, Drained] = field(default_factory=dict)
    births: list[Birth] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.targets or self.births or self.ended)

    def absorb(self, more: Epoch) -> None:
        """Add a later epoch."""
        for number, drained in more.targets.items():
            self.targets.setdefault(number, Drained()).absorb(drained)
        self.births += more.births
        self.ended |= more.ended


def decode(records: npt.NDArray[np.void], nodes: int) -> Epoch:
    """Sort an epoch's records out. nodes: number of node ids."""
    epoch = Epoch()
    kinds = records["kind"]
    life = records[(kinds == EXEC) | (kinds == FORK) | (kinds == EXIT)]
    for record in life:
        number, kind = int(record["target"]), int(record["kind"])
        if kind == EXIT:
            epoch.ended.add(number)
        else:
            comm = record["faults"].tobytes()[:COMM].partition(b"\0")[0]
            epoch.births.append(Birth(number, int(record["key"]), int(record["value"]), kind == FORK, comm))
    order = np.argsort(records["target"], kind="stable")
    records = records[order]
    numbers, first = np.unique(records["target"], return_index=True)
    for number, mine in zip(numbers.tolist(), np.split(records, first[1:]), strict=True):
        epoch.targets[number] = _drained(mine, nodes)
    return epoch


def _drained(records: npt.NDArray[np.void], nodes: int) -> Drained:
    kinds = records["kind"]
    touched = records[kinds == REGION]
    regions, faults = _sum_by_region(
        touched["key"].astype(np.int64) >> REGION_PAGES_SHIFT, touched["faults"][:, :nodes].astype(np.int64)
    )
    ranges = records[kinds == RANGE]
    result = Drained(regions, faults, sorted({(int(r["key"]), int(r["value"])) for r in ranges}))
    detailed = records[kinds == FAULTS]
    if len(detailed):
        result.fault_rows.append(_fault_rows(detailed, nodes))
    moved = records[kinds == FLOW]
    if len(moved):
        result.flow_rows.append(_flow_rows(moved))
    return result


def _fault_rows(records: npt.NDArray[np.void], nodes: int) -> FaultRows:
    value = records["value"].astype(np.int64)
    counts = records["faults"].astype(np.int64)
    return FaultRows(
        records["key"].astype(np.int64) << PAGE_SHIFT,
        value & 0xFF,
        value >> 8 & 0xFFFF,
        value >> 32,
        np.column_stack((counts[:, :nodes], counts[:, nodes:].sum(axis=1))),
    )


def _flow_rows(records: npt.NDArray[np.void]) -> FlowRows:
    value = records["value"].astype(np.int64)
    return FlowRows(
        records["key"].astype(np.int64) << PAGE_SHIFT,
        value & 0xFFFF,
        value >> 16 & 0xFFFF,
        value >> 32,
        records["touches"].astype(np.int64),
        records["unresolved"].astype(np.int64),
    )


def _sum_by_region(regions: Int64s, faults: Int64s) -> tuple[Int64s, Int64s]:
    """Unique regions and the sums of their rows."""
    if not len(regions):
        return regions, faults
    order = np.argsort(regions, kind="stable")
    regions, faults = regions[order], faults[order]
    first = np.flatnonzero(np.concatenate(([True], regions[1:] != regions[:-1])))
    return regions[first], np.add.reduceat(faults, first, axis=0)
