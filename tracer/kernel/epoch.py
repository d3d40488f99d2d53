"""The records of one epoch (bpf/log.h) as arrays, by target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tracer.model.policy import MODE_FLAGS

__all__ = ["Birth", "Drained", "Epoch", "FaultRows", "FlowRows", "PlacedRows", "PolicyCall", "decode", "policy_hash"]

REGION, RANGE, EXEC, EXIT, FORK, FAULTS, FLOW, PLACED, CALL = 1, 2, 3, 4, 5, 6, 7, 8, 9  # enum record_kind, bpf/log.h
REGION_PAGES = 512  # bits of RECORD_PLACED
SEQUENCES = 1 << 12  # policy sequences begin again after so many
CALLS = {237: "mbind", 238: "set_mempolicy", 450: "set_mempolicy_home_node"}  # syscall_64.tbl
CALLED = np.dtype(  # struct called of bpf/log.h
    [
        ("time", np.uint64),
        ("thread", np.uint32),
        ("call", np.uint32),
        ("sequence", np.uint32),
        ("mode", np.uint32),
        ("flags", np.uint32),
        ("result", np.int32),
        ("nodes", np.uint64, (4,)),
    ]
)
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


class PlacedRows(NamedTuple):
    """Pages that page faults put where they are. A row tells of one span, kind, sequence, policy and thread; there may
    be several with the same.

    address: where the span begins (of a 1 GiB page, where the page does). kind: a `tracer.model.events.Kind`: NEW,
    HUGE, COW or MAJOR. sequence: how many traced calls had set policies of the target before the fault, modulo 4096; 0
    without `Detail.calls`. policy: `policy_hash` of the thread's own policy before the fault. thread: its id. All
    int64.
    pages: bool, shape (rows, 512), by the page's place in its 2 MiB region: the page that faulted alone, though the
    kernel may have mapped its neighbours along with it (a large folio, fault-around); all of them where it is a
    transparent huge page; of a hugetlb page its first one, where it counts.
    """

    address: Int64s
    kind: Int64s
    sequence: Int64s
    policy: Int64s
    thread: Int64s
    pages: npt.NDArray[np.bool_]


class PolicyCall(NamedTuple):
    """A system call that sets policies, traced as it returned.

    time_ns: of CLOCK_MONOTONIC. thread: its id. call: `mbind`, `set_mempolicy` or `set_mempolicy_home_node`. start,
    end: addresses, end excluded; both 0 for set_mempolicy. mode: without mode flags, and -1 for
    set_mempolicy_home_node. flags: MPOL_F_ mode flags. nodes: ids as the caller gave them, below 256, which cpusets may
    have narrowed or mapped to others; the home node for set_mempolicy_home_node. result: 0, or a negative errno.
    sequence: that of pages placed after the call, modulo 4096. mbind_flags: MPOL_MF_ flags of mbind.
    """

    time_ns: int
    thread: int
    call: str
    start: int
    end: int
    mode: int
    flags: int
    nodes: tuple[int, ...]
    result: int
    sequence: int
    mbind_flags: int = 0


def policy_hash(pointer: int) -> int:
    """What `PlacedRows.policy` holds for the policy at this kernel address: 16 bits; 0 for address 0 and no other."""
    return max(pointer * 0x9E3779B97F4A7C15 >> 48 & 0xFFFF, int(pointer != 0))


def _no_regions() -> Int64s:
    return np.empty(0, np.int64)


@dataclass(slots=True)
class Drained:
    """One epoch of one target.

    regions: numbers of the regions that were touched, int64, ascending. faults: page faults in each of them whose page
    was found, by the page's node id; int64, shape (len(regions), node ids); all 0 where they are told apart by kind.
    ranges: [start, end) that a system call changed. fault_rows, flow_rows, placed: parts in the order of the epochs.
    calls: those that set policies, in the order of time.
    """

    regions: Int64s = field(default_factory=_no_regions)
    faults: Int64s = field(default_factory=lambda: np.empty((0, 0), np.int64))
    ranges: list[tuple[int, int]] = field(default_factory=list)
    fault_rows: list[FaultRows] = field(default_factory=list)
    flow_rows: list[FlowRows] = field(default_factory=list)
    placed: list[PlacedRows] = field(default_factory=list)
    calls: list[PolicyCall] = field(default_factory=list)

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
        self.placed += more.placed
        self.calls += more.calls


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
    placed = records[kinds == PLACED]
    if len(placed):
        result.placed.append(_placed_rows(placed))
    result.calls = sorted(_policy_call(record) for record in records[kinds == CALL])
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


def _placed_rows(records: npt.NDArray[np.void]) -> PlacedRows:
    value = records["value"].astype(np.int64)
    bitmap = np.ascontiguousarray(records["faults"][:, : REGION_PAGES // 32]).view(np.uint8)
    return PlacedRows(
        records["key"].astype(np.int64) << PAGE_SHIFT,
        value & 0xF,
        value >> 4 & (SEQUENCES - 1),
        value >> 16 & 0xFFFF,
        value >> 32 & 0xFFFFFFFF,
        np.unpackbits(bitmap, axis=1, bitorder="little").astype(np.bool_),
    )


def _policy_call(record: np.void) -> PolicyCall:
    called = np.frombuffer(record["faults"].tobytes(), CALLED, 1)[0]
    call = CALLS[int(called["call"])]
    mode = int(called["mode"])
    return PolicyCall(
        int(called["time"]),
        int(called["thread"]),
        call,
        int(record["key"]),
        int(record["value"]),
        -1 if call == "set_mempolicy_home_node" else mode & ~MODE_FLAGS,
        mode & MODE_FLAGS,
        tuple(64 * i + bit for i, word in enumerate(called["nodes"].tolist()) for bit in range(64) if word >> bit & 1),
        int(called["result"]),
        int(called["sequence"]) & (SEQUENCES - 1),
        int(called["flags"]),
    )


def _sum_by_region(regions: Int64s, faults: Int64s) -> tuple[Int64s, Int64s]:
    """Unique regions and the sums of their rows."""
    if not len(regions):
        return regions, faults
    order = np.argsort(regions, kind="stable")
    regions, faults = regions[order], faults[order]
    first = np.flatnonzero(np.concatenate(([True], regions[1:] != regions[:-1])))
    return regions[first], np.add.reduceat(faults, first, axis=0)
