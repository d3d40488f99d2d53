"""The hooks: BPF programs on tracepoints that say when and where a target changes.

`Hooks` loads bpf/faults.c, rss.c, migrate.c and life.c, keeps the table of targets, and takes what happened epoch by
epoch. It says *where to look*; what is there is read by the walk or from pagemap.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError
from tracer.kernel.btf import Btf
from tracer.kernel.layout import layout
from tracer.kernel.programs import ARRAY, ARRAY_OF_MAPS, BpfRefused, Compilation, Programs, create_map, update_map
from tracer.kernel.topology import Topology
from tracer.kernel.walk import PageTables, Paging, Prepared

__all__ = ["Drained", "Hooks", "Pending", "PreparedHooks", "merge"]

SOURCES = ("common.h", "entry.h", "nodes.h", "targets.h", "log.h", "faults.c", "rss.c", "migrate.c", "life.c")
REQUIRED = (
    ("page_fault_user", "fault_user"),
    ("page_fault_kernel", "fault_kernel"),
    ("rss_stat", "rss_changed"),
    ("sched_process_exec", "executed"),
    ("task_newtask", "task_made"),
    ("exit_mmap", "mm_ended"),
)
OPTIONAL = (
    ("set_migration_pte", "migration_set"),
    ("remove_migration_pte", "migration_removed"),
    ("set_migration_pmd", "migration_set"),
    ("remove_migration_pmd", "migration_removed"),
    ("mm_collapse_huge_page", "collapsed"),
    ("mm_khugepaged_collapse_file", "collapsed"),
    ("ksm_merge_one_page", "merged_one"),
    ("ksm_merge_with_ksm_page", "merged_with"),
)
REGION_RECORD, RANGE_RECORD, EXEC_RECORD, EXIT_RECORD = 1, 2, 3, 4  # enum record_kind of bpf/log.h
LOG_MEMORY = 64 << 20  # bytes for all logs together
REMEMBERED = 4096  # slots per CPU that find a region's record again


@dataclass(frozen=True, slots=True)
class Pending:
    """A fault that was not seen to be mapped. `key` names it for good: (CPU or thread, its count of faults)."""

    key: tuple[int, int]
    address: int
    write: bool
    target: int


@dataclass(slots=True)
class Drained:
    """One epoch of one target.

    regions: numbers of the regions that were touched, int64, ascending. faults: page faults in each of them whose page
    was found, by the page's node id; int64, shape (len(regions), node ids). ranges: [start, end) that a system call
    changed. executed: (mm, tgid) for each program that the target has executed. ended: its mm came to an end.
    """

    regions: npt.NDArray[np.int64]
    faults: npt.NDArray[np.int64]
    ranges: list[tuple[int, int]] = field(default_factory=list)
    executed: list[tuple[int, int]] = field(default_factory=list)
    ended: bool = False


class PreparedHooks:
    """The hooks' programs on their way, compiled in another process. `tables` gives the node table's dimensions."""

    def __init__(self, btf: Btf, topology: Topology, tables: Prepared) -> None:
        constants = layout(btf, topology)
        possible = Path("/sys/devices/system/cpu/possible").read_text().strip()
        self.cpus = int(possible.replace("-", ",").split(",")[-1]) + 1
        record_bytes = 32 + 4 * constants["BINS"]
        log = max(256, min(16384, LOG_MEMORY // (2 * record_bytes * self.cpus)))
        self.log = 1 << (log.bit_length() - 1)
        constants |= {
            "CPUS": self.cpus,
            "LOG": self.log,
            "MEMORY": REMEMBERED,
            "BLOCK_SHIFT": tables.block_shift,
            "BLOCKS": tables.blocks,
        }
        self.compilation = Compilation(SOURCES, constants)


class Hooks:
    """Attached from construction to `close`. Raises BpfRefused when the kernel takes none of the required hooks."""

    def __init__(self, prepared: PreparedHooks, tables: PageTables) -> None:
        self._log = prepared.log
        self._nodes = tables.topology.nr_node_ids
        self._grace_maps: tuple[int, ...] = ()
        self._programs = Programs(prepared.compilation)
        try:
            self._set_up(tables.paging, tables.node_bins)
            self._prepare_grace()
            self._attach()
        except BaseException:
            self.close()
            raise

    def _set_up(self, paging: Paging, bins: npt.NDArray[np.uint8]) -> None:
        self._cpus = self._programs.array("cpus")
        self._records = self._programs.array("records")
        self._targets = self._programs.array("targets")
        self._control = self._programs.array("control")
        self._programs.array("node_table")[0]["bin"][:] = bins
        c = self._control[0]
        c["paging"]["direct_map"], c["paging"]["address"], c["paging"]["five"] = (
            paging.direct_map,
            paging.address,
            paging.five,
        )
        c["registers"] = paging.registers
        c["next_number"] = 1
        self._blocked_seen = 0
        self._blocked: list[Pending] = []

    def _attach(self) -> None:
        self.missing: list[str] = []
        for tracepoint, function in REQUIRED:
            self._programs.attach(tracepoint, function)
        for tracepoint, function in OPTIONAL:
            try:
                self._programs.attach(tracepoint, function)
            except BpfRefused:
                self.missing.append(tracepoint)

    def _prepare_grace(self) -> None:
        """A map of maps that no program uses: updating one from user space waits for an RCU grace period
        (maybe_wait_bpf_programs() in kernel/bpf/syscall.c)."""
        inner = create_map(ARRAY, "grace_inner", 4, 8, 1)
        self._grace_maps = (inner,)
        self._grace_maps = (create_map(ARRAY_OF_MAPS, "grace", 4, 4, 1, inner=inner), inner)

    # --- targets ---

    def add(self, mm: int, pgd: int, tgid: int) -> int:
        """Trace an address space from now on; gives its number. Raises NumatraceError when there is no room."""
        slot = (mm >> 6 ^ mm >> 14 ^ mm >> 22) & (len(self._targets) - 1)
        target = self._targets[slot]
        if target["mm"] and target["mm"] != mm:
            raise NumatraceError("two targets collide in the table of traced address spaces", "trace them one by one")
        control = self._control[0]
        number = int(control["next_number"])
        control["next_number"] = number + 1
        target["pgd"], target["tgid"], target["number"] = pgd, tgid, number
        target["mm"] = mm
        self._list_active()
        return number

    def remove(self, number: int) -> None:
        """Stop tracing an address space."""
        for slot in np.flatnonzero(self._targets["number"] == number):
            self._targets[slot]["mm"] = 0
            self._targets[slot]["number"] = 0
        self._list_active()

    def adopt(self) -> None:
        """Let events without an mm look at the address spaces that an exec has added."""
        self._list_active()

    def _list_active(self) -> None:
        control = self._control[0]
        slots = np.flatnonzero(self._targets["mm"])[: len(control["slots"])]
        control["slots"][: len(slots)] = slots
        control["active"] = len(slots)
        control["generation"] += 1

    # --- events ---

    def token(self) -> bytes:
        """All per-CPU counters and pending faults: while it stays the same, no event of a target has come in."""
        fields = self._cpus.dtype.fields
        assert fields is not None
        raw = self._cpus.view(np.uint8).reshape(len(self._cpus), -1)
        token: bytes = raw[:, : fields["last_task"][1]].tobytes()
        return token

    def quiet(self) -> bool:
        """Nothing was written to the present epoch's log. Cheap: no system call."""
        return not self._cpus["used"][:, int(self._control[0]["epoch"]) & 1].any()

    def pressure(self) -> float:
        """How full the fullest log of the present epoch is, from 0 to 1."""
        return float(self._cpus["used"][:, int(self._control[0]["epoch"]) & 1].max()) / self._log

    def unexplained(self) -> int:
        """Changes of any target, since the start, that no event located."""
        return int(self._cpus["unexplained"].sum())

    def lost(self) -> int:
        """Events lost since the start: full logs, full maps, programs interrupted by others."""
        return int(self._cpus["dropped"].sum() + self._cpus["missed"].sum())

    def grace(self) -> None:
        """Wait until every program that is running now has ended and every spinlock held now was released."""
        outer, inner = self._grace_maps
        update_map(outer, ctypes.c_uint32(0), ctypes.c_uint32(inner))

    def swap(self) -> dict[int, Drained]:
        """End the epoch and give what happened in it, by target number."""
        control = self._control[0]
        old = int(control["epoch"])
        control["epoch"] = old + 1 & 0x7FFFFFFF
        self.grace()
        parity = old & 1
        parts = list(self._written(parity))
        self._cpus["used"][:, parity] = 0
        return _by_target(np.concatenate(parts), self._nodes) if parts else {}

    def touched_now(self, target: int) -> npt.NDArray[np.int64]:
        """Regions of a target that the present epoch's log holds so far; the log goes on being written."""
        parts = [
            part["key"][(part["kind"] == REGION_RECORD) & (part["target"] == target)].astype(np.int64)
            for part in self._written(int(self._control[0]["epoch"]) & 1)
        ]
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)

    def _written(self, parity: int) -> Iterator[npt.NDArray[np.void]]:
        """Each CPU's records in one of the two logs, as far as they are written; they can be overwritten later."""
        for cpu in np.flatnonzero(self._cpus["used"][:, parity]).tolist():
            at = (cpu * 2 + parity) * self._log
            yield self._records[at : at + int(self._cpus[cpu]["used"][parity])]

    def pending(self, target: int) -> list[Pending]:
        """Faults of a target that may not have been mapped yet: the last one of each CPU, and the blocked ones."""
        found = []
        for cpu in np.flatnonzero((self._cpus["pending_open"] != 0) & (self._cpus["pending_target"] == target)):
            at = self._cpus[cpu]
            found.append(
                Pending(
                    (-1 - int(cpu), int(at["sequence"])), int(at["pending_address"]), bool(at["pending_write"]), target
                )
            )
        if self._control[0]["blocked"] != self._blocked_seen:
            self._blocked_seen = int(self._control[0]["blocked"])
            self._blocked = [
                Pending(
                    (tid, int(it["sequence"]) << 16 | int(it["cpu"])),
                    int(it["address"]),
                    bool(it["write"]),
                    int(it["target"]),
                )
                for tid, it in self._programs.items("blocked")
            ]
        return found + [it for it in self._blocked if it.target == target]

    def forget(self, thread: int) -> None:
        """Drop a blocked fault of a thread that is gone."""
        self._blocked = [it for it in self._blocked if it.key[0] != thread]
        self._programs.delete("blocked", thread)

    def close(self) -> None:
        """Detach and unload everything."""
        for name in ("_cpus", "_records", "_targets", "_control"):
            self.__dict__.pop(name, None)
        self._programs.close()
        for fd in self._grace_maps:
            os.close(fd)
        self._grace_maps = ()


def merge(first: dict[int, Drained], second: dict[int, Drained]) -> dict[int, Drained]:
    """Two epochs that follow each other, as one. `first` is changed."""
    for number, more in second.items():
        have = first.get(number)
        if have is None:
            first[number] = more
            continue
        regions = np.concatenate((have.regions, more.regions))
        have.regions, have.faults = _sum_by_region(regions, np.concatenate((have.faults, more.faults)))
        have.ranges += more.ranges
        have.executed += more.executed
        have.ended |= more.ended
    return first


def _sum_by_region(
    regions: npt.NDArray[np.int64], faults: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Unique regions and the sums of their rows."""
    if not len(regions):
        return regions, faults
    order = np.argsort(regions, kind="stable")
    regions, faults = regions[order], faults[order]
    first = np.flatnonzero(np.concatenate(([True], regions[1:] != regions[:-1])))
    return regions[first], np.add.reduceat(faults, first, axis=0)


def _by_target(records: npt.NDArray[np.void], nodes: int) -> dict[int, Drained]:
    result: dict[int, Drained] = {}
    kinds = records["kind"]
    for number in np.unique(records["target"]):
        mine = records["target"] == number
        touched = records[mine & (kinds == REGION_RECORD)]
        regions, faults = _sum_by_region(touched["key"].astype(np.int64), touched["faults"][:, :nodes].astype(np.int64))
        ranges = records[mine & (kinds == RANGE_RECORD)]
        executed = records[mine & (kinds == EXEC_RECORD)]
        result[int(number)] = Drained(
            regions,
            faults,
            sorted({(int(r["key"]), int(r["value"])) for r in ranges}),
            [(int(r["key"]), int(r["value"])) for r in executed],
            bool((mine & (kinds == EXIT_RECORD)).any()),
        )
    return result
