"""The hooks: BPF programs on tracepoints that say when and where a target changes.

`Hooks` loads bpf/faults.c, rss.c, migrate.c, life.c and calls.c, keeps the table of targets, and takes what happened
epoch by epoch. It says *where to look*; what is there is read by the walk or from pagemap.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError
from tracer.kernel import pauses
from tracer.kernel.btf import Btf
from tracer.kernel.epoch import CALLS, Birth, Epoch, decode
from tracer.kernel.layout import layout, preemption
from tracer.kernel.programs import ARRAY, ARRAY_OF_MAPS, BpfRefused, Compilation, Programs, create_map, update_map
from tracer.kernel.topology import Topology, possible_cpus
from tracer.kernel.walk import PageTables, Paging, Prepared

__all__ = ["Detail", "Hooks", "Pending", "PreparedHooks", "reason_names"]

SOURCES = (
    "common.h",
    "entry.h",
    "nodes.h",
    "targets.h",
    "log.h",
    "maple.h",
    "spans.h",
    "faults.c",
    "rss.c",
    "migrate.c",
    "life.c",
)
CALL_SOURCES = ("calls.c",)  # compiled with the others where they are asked for
REQUIRED = (
    ("page_fault_user", "fault_user"),
    ("page_fault_kernel", "fault_kernel"),
    ("rss_stat", "rss_changed"),
    ("sched_process_exec", "executed"),
    ("sched_process_exit", "task_ended"),
    ("task_newtask", "task_made"),
    ("exit_mmap", "mm_ended"),
)
OPTIONAL = (
    ("set_migration_pte", "migration_set"),
    ("remove_migration_pte", "migration_removed"),
    ("set_migration_pmd", "migration_set_huge"),
    ("remove_migration_pmd", "migration_removed_huge"),
    ("mm_collapse_huge_page", "collapsed"),
)
NO_MODE = 4095  # as any argument of a call that sets policies it is refused: neither a mode, nor flags, nor an address
# Where a task may be preempted in a program, the kernel does not run it for others on that CPU until it has gone on: a
# second one then does it (bpf/life.c). Attached after the first ones, they run after them.
AGAIN = (
    ("sched_process_exec", "executed_again"),
    ("sched_process_exit", "task_ended_again"),
    ("task_newtask", "task_made_again"),
    ("exit_mmap", "mm_ended_again"),
)
NEVER_PREEMPTED = {"fault_user", "fault_kernel"}  # bpf/log.h
FLOWS = (("mm_migrate_pages_start", "migration_begins"), ("mm_migrate_pages", "migration_ends"))
SCANS = ("scan_set", "scan_removed", "deal_set", "deal_removed")  # in the order of bpf/migrate.c
FOLLOW_EXEC, FOLLOW_FORKS = 1, 2  # flags in the map `followed` of bpf/targets.h
LOG_MEMORY = 64 << 20  # bytes for all logs together
BITMAP_BINS = 16  # as many as hold a bit for each page of a region
REMEMBERED = 4096  # slots per CPU that find a region's record again


@dataclass(frozen=True, slots=True)
class Detail:
    """What is counted beyond touched regions. flows: each page that migrates, with the reason. faults: by span, kind
    and CPU; threads: by thread as well. policies: which pages were placed by which thread, under which policy of its
    own. calls: the system calls that set policies; implies policies."""

    flows: bool = False
    faults: bool = False
    threads: bool = False
    policies: bool = False
    calls: bool = False

    @property
    def follows_faults(self) -> bool:
        """Each fault is followed to its end: `Hooks.count_finished` has to be told of those that no other follows."""
        return self.faults or self.threads or self.places

    @property
    def places(self) -> bool:
        """It is told which pages were placed by which thread."""
        return self.policies or self.calls

    def constants(self, bins: int) -> dict[str, int]:
        """The variants of bpf/log.h. bins: how many of them the machine's nodes ask for."""
        return {
            "FLOWS": int(self.flows),
            "FAULTS": 2 if self.threads else int(self.faults),
            "POLICIES": int(self.places),
            "CALLS": int(self.calls),
            "BINS": max(bins, BITMAP_BINS) if self.places else bins,
        }


@dataclass(frozen=True, slots=True)
class Pending:
    """A fault that was not seen to be mapped. `key` names it for good: (CPU or thread, its count of faults); a CPU is
    given as -1 less its number. thread: its id, known of a CPU's fault only where faults are told apart (else 0)."""

    key: tuple[int, int]
    address: int
    write: bool
    target: int
    thread: int


def reason_names(btf: Btf) -> tuple[str, ...]:
    """Names of enum migrate_reason in order, without their prefix: `compaction`, `memory_failure` and so on."""
    found = {value: name for name, value in btf.enumerators("migrate_reason").items() if not name.endswith("_TYPES")}
    names = (found.get(value, f"MR_{value}") for value in range(max(found, default=-1) + 1))
    return tuple(name.removeprefix("MR_").lower() for name in names)


class PreparedHooks:
    """The hooks' programs on their way, compiled in another process. `tables` gives the node table's dimensions."""

    def __init__(self, btf: Btf, topology: Topology, tables: Prepared, detail: Detail) -> None:
        constants = layout(btf, topology)
        self.cpus = possible_cpus()
        self.detail = detail
        self.reasons = reason_names(btf) if detail.flows else ()
        calls = (f"__x64_sys_{name}" for name in CALLS.values() if detail.calls)
        self.call_functions = {function: btf.function(function) for function in calls}
        constants |= detail.constants(constants["BINS"])
        constants |= preemption(btf, detail.calls)
        self.preemptible = "PREEMPT_DISABLE" in constants
        record_bytes = 32 + 4 * constants["BINS"]
        log = max(256, min(16384, LOG_MEMORY // (2 * record_bytes * self.cpus)))
        self.log = 1 << (log.bit_length() - 1)
        constants |= {
            "CPUS": self.cpus,
            "LOG": self.log,
            "MEMORY": REMEMBERED,
            "BLOCK_SHIFT": tables.block_shift,
            "BLOCKS": tables.blocks,
            "NOWHERE": topology.nr_node_ids,
            # The reason is the last argument; older kernels have one less, and the first is the context.
            "REASON_ARGUMENT": (btf.arguments("btf_trace_mm_migrate_pages") or 9) - 2,
        }
        self.compilation = Compilation(SOURCES + CALL_SOURCES * detail.calls, constants)


class Hooks:
    """Attached from construction to `close`. Raises BpfRefused when the kernel takes none of the required hooks.

    slows_calls: to see the calls that set policies, every system call of the machine has to be seen on this kernel.
    """

    def __init__(self, prepared: PreparedHooks, tables: PageTables) -> None:
        self._log = prepared.log
        self._nodes = tables.topology.nr_node_ids
        self.detail, self.reasons = prepared.detail, prepared.reasons
        self._preemptible, self._skipped = prepared.preemptible, 0
        self._grace_maps: tuple[int, ...] = ()
        self.graces = 0
        self._programs = Programs(prepared.compilation)
        try:
            self._set_up(tables.paging, tables.node_bins)
            self._prepare_grace()
            self._attach()
            self.slows_calls = self.detail.calls and self._attach_to_calls(prepared.call_functions)
        except BaseException:
            self.close()
            raise

    def _set_up(self, paging: Paging, bins: npt.NDArray[np.uint8]) -> None:
        programs = self._programs
        self._cpus = programs.array("cpus")
        self._records = programs.array("records")
        self._targets = programs.array("targets")
        self._control = programs.array("control")
        self._admission = programs.array("admission")[0]
        programs.array("node_table")[0]["bin"][:] = bins
        c = self._control[0]
        c["paging"]["direct_map"], c["paging"]["address"], c["paging"]["five"] = (
            paging.direct_map,
            paging.address,
            paging.five,
        )
        c["registers"] = paging.registers
        c["generation"] = 1
        for slot in reversed(range(len(self._targets))):
            programs.push("free_slots", slot)
        self._admit, self._expel = programs.load("admit_target"), programs.load("expel_target")
        if self.detail.follows_faults:
            self._settlement = programs.array("settlement")[0]
            self._settle = programs.load("settle_faults")
        for slot, function in enumerate(SCANS):
            programs.chain(function, "scan_again", slot)
        self._blocked_seen = 0
        self._blocked: dict[int, tuple[Pending, int]] = {}

    def _attach(self) -> None:
        self.missing: list[str] = []
        for tracepoint, function in REQUIRED + FLOWS * self.detail.flows:
            self._programs.attach(tracepoint, function)
        for tracepoint, function in OPTIONAL:
            try:
                self._programs.attach(tracepoint, function)
            except BpfRefused:
                self.missing.append(tracepoint)
        for tracepoint, function in AGAIN if self._preemptible else ():
            self._programs.attach(tracepoint, function)

    def _attach_to_calls(self, functions: dict[str, int | None]) -> bool:
        """To the functions behind the three system calls, or else to the return of every system call there is.

        The first costs nobody but the callers; gives whether it had to be the second.
        """
        attached: list[str] = []
        try:
            for name, number in functions.items():
                if number is None:
                    raise BpfRefused(f"this kernel's BTF does not tell {name}")
                self._programs.attach_to_exit(name, number, "call_returned")
                attached.append(name)
            if self._sees_calls():
                return False
        except BpfRefused:
            pass
        for name in attached:
            self._programs.detach(name)
        self._programs.attach("sys_exit", "call_returned")
        return True

    def _sees_calls(self) -> bool:
        """Whether calls of our own are seen. The kernel carries none of them out: it knows no mode of that number."""
        libc = ctypes.CDLL(None)
        for number in CALLS:
            before = int(self._control[0]["calls_seen"])
            libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(NO_MODE) for _ in range(6)))
            if int(self._control[0]["calls_seen"]) == before:
                return False
        return True

    def _prepare_grace(self) -> None:
        """A map of maps that no program uses: updating one from user space waits for an RCU grace period
        (maybe_wait_bpf_programs() in kernel/bpf/syscall.c)."""
        inner = create_map(ARRAY, "grace_inner", 4, 8, 1)
        self._grace_maps = (inner,)
        self._grace_maps = (create_map(ARRAY_OF_MAPS, "grace", 4, 4, 1, inner=inner), inner)

    # --- targets ---

    def add(self, mm: int, tgid: int) -> int:
        """Trace an address space from now on; gives its number, the same when it is traced already.

        Raises NumatraceError when there is no room.
        """
        self._admission["mm"], self._admission["tgid"] = mm, tgid
        self._programs.run(self._admit)
        number = int(self._admission["number"])
        if not number:
            raise NumatraceError(
                f"{len(self._targets)} address spaces are traced already, and no more can be", "choose fewer processes"
            )
        return number

    def remove(self, number: int) -> None:
        """Stop tracing an address space. Harmless when it has ended already."""
        target = self._targets[number % len(self._targets)]
        if int(target["number"]) == number:
            self._admission["mm"] = int(target["mm"])
            self._programs.run(self._expel)

    def alive(self, number: int) -> bool:
        """Whether the address space of that number still exists, and is traced."""
        target = self._targets[number % len(self._targets)]
        return int(target["number"]) == number and bool(target["mm"])

    def unheard_of(self, known: set[int]) -> list[Birth]:
        """The other address spaces that are traced, as if they had just been born: not all births can be told when a
        log is full."""
        numbers = self._targets["number"].tolist()
        return [
            Birth(numbers[slot], int(self._targets[slot]["mm"]), int(self._targets[slot]["tgid"]), False, b"")
            for slot in np.flatnonzero(self._targets["mm"]).tolist()
            if numbers[slot] not in known
        ]

    def follow(self, tgid: int, forks: bool) -> None:
        """Trace what this process executes from now on, and its children if `forks`."""
        self._programs.put("followed", tgid, FOLLOW_EXEC | (FOLLOW_FORKS if forks else 0))

    def unfollow(self, tgid: int) -> None:
        """Undo `follow`."""
        self._programs.delete("followed", tgid)

    def births(self) -> int:
        """A number that is another one after each fork and each exec of any process."""
        return int(self._control[0]["generation"])

    def untraced(self) -> int:
        """Processes, since the start, for which there was no room."""
        return int(self._control[0]["untraced"])

    # --- events ---

    def token(self) -> bytes:
        """All per-CPU counters and pending faults, and what no program saw: while it stays the same, no event of a
        target has come in."""
        fields = self._cpus.dtype.fields
        assert fields is not None
        raw = self._cpus.view(np.uint8).reshape(len(self._cpus), -1)
        token: bytes = raw[:, : fields["last_task"][1]].tobytes()
        if self._preemptible:
            self._skipped = self._count_skipped()
        return token + self._skipped.to_bytes(8, "little")

    def _count_skipped(self) -> int:
        """Events, at most, that no program saw, as a task was preempted in it. With two programs both were skipped."""
        skipped = {
            function: self._programs.skipped(function)
            for function in self._programs.attached()
            if function not in NEVER_PREEMPTED
        }
        twice = [(skipped.pop(again), skipped.pop(again.removesuffix("_again"))) for _, again in AGAIN]
        return sum(skipped.values()) + sum(map(min, twice))

    def quiet(self) -> bool:
        """Nothing was written to the present epoch's log. Cheap: no system call."""
        return not self._cpus["used"][:, int(self._control[0]["epoch"]) & 1].any()

    def pressure(self) -> float:
        """How full the fullest log of the present epoch is, from 0 to 1."""
        return float(self._cpus["used"][:, int(self._control[0]["epoch"]) & 1].max()) / self._log

    def unexplained(self, number: int) -> int:
        """Changes of a target, since it is one, that no event located."""
        target = self._targets[number % len(self._targets)]
        return int(target["unexplained"]) if int(target["number"]) == number else 0

    def lost(self) -> int:
        """Events lost since the start: full logs, full maps, programs interrupted by others, programs that did not run
        (as of the last `token`)."""
        return int(self._cpus["dropped"].sum() + self._cpus["missed"].sum()) + self._skipped

    def migrations(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Pages that the machine has migrated and failed to migrate since the start, by reason; int64."""
        control, count = self._control[0], len(self.reasons)
        return control["migrated"][:count].astype(np.int64), control["failed"][:count].astype(np.int64)

    def grace(self) -> None:
        """Wait until every program that is running now has ended and every spinlock held now was released.

        `graces` counts how often that was waited for.
        """
        outer, inner = self._grace_maps
        update_map(outer, ctypes.c_uint32(0), ctypes.c_uint32(inner))
        self.graces += 1

    def swap(self) -> Epoch:
        """End the epoch and give what happened in it."""
        control = self._control[0]
        old = int(control["epoch"])
        control["epoch"] = old + 1 & 0x7FFFFFFF
        pauses.pause("ended")
        self.grace()
        pauses.pause("quiet")
        parity = old & 1
        parts = list(self._written(parity))
        self._cpus["used"][:, parity] = 0
        pauses.pause("drained")
        return decode(np.concatenate(parts), self._nodes) if parts else Epoch()

    def touched_now(self, target: int) -> npt.NDArray[np.int64]:
        """Regions of a target that the present epoch's log holds so far; the log goes on being written."""
        parts = [
            part["key"][(part["kind"] == 1) & (part["target"] == target)].astype(np.int64) >> 9
            for part in self._written(int(self._control[0]["epoch"]) & 1)
        ]
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)

    def _written(self, parity: int) -> Iterator[npt.NDArray[np.void]]:
        """Each CPU's records in one of the two logs, as far as they are written; they can be overwritten later."""
        for cpu in np.flatnonzero(self._cpus["used"][:, parity]).tolist():
            at = (cpu * 2 + parity) * self._log
            yield self._records[at : at + int(self._cpus[cpu]["used"][parity])]

    # --- faults in flight ---

    def pending(self) -> dict[int, list[Pending]]:
        """By target, faults that may not have been mapped yet: the last one of each CPU, and the blocked ones."""
        found: dict[int, list[Pending]] = {}
        for cpu in np.flatnonzero(self._cpus["pending_open"]):
            at = self._cpus[cpu]
            key = -1 - int(cpu), int(at["sequence"])
            address, write = int(at["pending_address"]), bool(at["pending_write"])
            it = Pending(key, address, write, int(at["pending_target"]), int(at["pending_tid"]))
            found.setdefault(it.target, []).append(it)
        if self._control[0]["blocked"] != self._blocked_seen:
            self._blocked_seen = int(self._control[0]["blocked"])
            self._blocked = {tid: _overtaken(tid, it) for tid, it in self._programs.items("blocked")}
            for tid in [tid for tid, (it, _) in self._blocked.items() if not self.alive(it.target)]:
                if not self.detail.follows_faults:  # else it is still to be counted, as a fault that left nothing
                    self.forget(tid)
        for it, _ in self._blocked.values():
            found.setdefault(it.target, []).append(it)
        return found

    def forget(self, thread: int) -> None:
        """Drop a blocked fault of a thread that is gone."""
        self._blocked.pop(thread, None)
        self._programs.delete("blocked", thread)

    def count_finished(self, it: Pending, gone: bool, majors: int | None) -> None:
        """Count a pending fault (with `Detail.follows_faults`), if it is over and no program has done so meanwhile.

        gone: its thread has ended. majors: the thread's present count of major faults, None where it is not known.
        """
        settlement = self._settlement
        settlement["gone"], settlement["thread"], settlement["pending"] = gone, 0, it.thread
        if it.key[0] < 0:
            self._programs.run_on(self._settle, -1 - it.key[0])
            return
        before = self._blocked.pop(it.key[0])[1]
        settlement["thread"], settlement["majors"] = it.key[0], before if majors is None else majors
        self._programs.run_on(self._settle, it.key[1] & 0xFFFF)
        self._blocked_seen = -1  # it may still be there

    def close(self) -> None:
        """Detach and unload everything."""
        for name in ("_cpus", "_records", "_targets", "_control", "_admission", "_settlement"):
            self.__dict__.pop(name, None)
        self._programs.close()
        for fd in self._grace_maps:
            os.close(fd)
        self._grace_maps = ()


def _overtaken(tid: int, it: np.void) -> tuple[Pending, int]:
    """An entry of the map `blocked`: the fault, and its thread's count of major faults before it."""
    key = tid, int(it["sequence"]) << 16 | int(it["cpu"])
    return Pending(key, int(it["address"]), bool(it["write"]), int(it["target"]), tid), int(it["majors"])
