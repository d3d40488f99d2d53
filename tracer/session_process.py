"""One process of a session, and how its state becomes a snapshot."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from tracer.kernel import procfs
from tracer.kernel.epoch import Drained
from tracer.kernel.machinery import Machinery
from tracer.kernel.processes import namespace_pid
from tracer.kernel.procfs import TargetGone
from tracer.kernel.spelling import probe_spelling
from tracer.model.policies import Policies
from tracer.model.policy import DEFAULT, F_NUMA_BALANCING, Policy, Spelling
from tracer.model.snapshot import Refresh, Regions, Snapshot, Trust
from tracer.model.state import State
from tracer.model.vma import Vma
from tracer.session_events import Attribution
from tracer.session_policy import PolicyWatch
from tracer.session_poll import Poller
from tracer.session_settle import Settler

__all__ = ["Dresser", "Process"]


@dataclass(slots=True)
class _Printed:
    """The VMAs as last printed, and what they were made of."""

    source: tuple[Vma, ...]
    task: Policy
    vmas: tuple[Vma, ...]


class Process:
    """A process held by its pidfd, so that a PID used again is never mistaken for it.

    work: what keeps its counters, None while it has no address space that is traced (between two programs).
    born: its address space was seen to come from a fork. watch: of its policies, where they are wanted; policies: what
    it found at the last look.
    """

    def __init__(self, pid: int) -> None:
        try:
            self.pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise TargetGone(f"no process with PID {pid}") from error
        self.pid = pid
        self.work: Settler | Poller | None = None
        self.state: State | None = None
        self.comm = b""
        self.namespace_pid = pid
        self.printed: _Printed | None = None
        self.regions: tuple[Regions, Regions] | None = None
        self.born = False
        self.watch: PolicyWatch | None = None
        self.policies: Policies | None = None

    def name(self) -> None:
        """Look its name and its PID in a container up. Nothing changes when it is gone."""
        try:
            self.comm = procfs.comm(self.pid)
            self.namespace_pid = namespace_pid(self.pid)
        except TargetGone:
            pass

    def drop_work(self) -> None:
        """Its address space has come to an end."""
        if self.work is not None:
            self.work.close()
        self.work, self.state, self.printed, self.regions = None, None, None, None
        self.watch, self.policies, self.born = None, None, False

    def close(self) -> None:
        """Let go of it."""
        self.drop_work()
        os.close(self.pidfd)


class Dresser:
    """Makes snapshots."""

    def __init__(self, machinery: Machinery, attribution: Attribution) -> None:
        self._machinery, self._attribution = machinery, attribution
        self._options = machinery.options
        self._spelling: Spelling | None = None
        self._clock: Callable[[], int] = time.thread_time_ns
        self.node_ids = tuple(machinery.topology.has_memory)
        no_pages = np.zeros((0, machinery.topology.nr_node_ids), np.int64)
        self._nothing = State((), np.ones(0, bool), DEFAULT, no_pages, Trust(), 0)

    def last(self, process: Process, drained: Drained | None) -> Snapshot:
        """The state of an address space that has come to an end, as last seen: nothing more is read."""
        return self.snapshot(process, drained, self._clock(), True)

    def snapshot(self, process: Process, drained: Drained | None, began: int, last: bool = False) -> Snapshot:
        """The present state of a process. began: its share of the refresh began at this thread CPU time (ns)."""
        state, work = process.state, process.work
        shown = state or self._nothing
        if not last and (not process.comm or shown.regions_read):
            process.name()
        mine = drained or Drained()
        rows = work.vma_rows if isinstance(work, Settler) and state is not None else _nowhere
        polled = isinstance(work, Poller) or self._machinery.hooks is None
        return Snapshot(
            time=datetime.now(UTC),
            pid=process.pid,
            comm=process.comm,
            hooks="none" if polled else "tracepoint",
            reader=work.reader if work is not None else self._machinery.reader,
            trust=shown.trust,
            refresh=Refresh(0 if last else shown.regions_read, self._clock() - began),
            vmas=self._vmas(process, shown),
            node_ids=self.node_ids,
            pages=shown.totals[:, list(self.node_ids)],
            details=work.details() if self._options.details and work is not None and not last else None,
            spelling=self._spelling or Spelling.NAMED,
            namespace_pid=process.namespace_pid,
            flows=self._attribution.flows(mine, rows) if self._options.flows else None,
            faults=self._attribution.faults(mine, rows) if self._options.faults or self._options.threads else None,
            regions=self._regions(process, shown.regions),
            policies=self._policies(process, last),
        )

    @staticmethod
    def _policies(process: Process, last: bool) -> Policies | None:
        """As last found; of an address space that has ended without the changes, which were shown already."""
        if not last or process.policies is None or not process.policies.changes:
            return process.policies
        return replace(process.policies, changes=())

    def _regions(self, process: Process, regions: Regions | None) -> Regions | None:
        """Only the nodes with memory; the same object as long as the counts are the same."""
        if regions is None:
            return None
        kept = process.regions
        if kept is None or kept[0] is not regions:
            kept = process.regions = regions, Regions(regions.address, regions.pages[:, list(self.node_ids)])
        return kept[1]

    def _vmas(self, process: Process, state: State) -> tuple[Vma, ...]:
        """The VMAs with the policy in force: numa_maps shows the task's where a VMA has none (show_numa_map)."""
        source, task = state.vmas, state.task_policy
        kept = process.printed
        if kept is None or kept.source is not source or kept.task != task:
            vmas = source
            if task != DEFAULT:
                vmas = _with_policy(source, state.own_policy, task, kept)
            kept = process.printed = _Printed(source, task, vmas)
            self._spell(source, state)
        return kept.vmas

    def _spell(self, source: tuple[Vma, ...], state: State) -> None:
        """Find out how this kernel spells the one policy of which kernels differ, once there is one."""
        if self._spelling is not None:
            return
        own = (source[row].policy for row in np.flatnonzero(state.own_policy).tolist())
        if any(policy.flags & F_NUMA_BALANCING for policy in (state.task_policy, *own)):
            self._spelling = probe_spelling(self._machinery.topology)


def _with_policy(
    source: tuple[Vma, ...], own: npt.NDArray[np.bool_], task: Policy, kept: _Printed | None
) -> tuple[Vma, ...]:
    """The VMAs with the task's policy where they have none; those printed before are used again."""
    known: dict[int, Vma] = {}
    if kept is not None and kept.task == task:
        known = dict(zip(map(id, kept.source), kept.vmas, strict=True))
    return tuple(
        vma if has else known.get(id(vma)) or replace(vma, policy=task)
        for vma, has in zip(source, own.tolist(), strict=True)
    )


def _nowhere(addresses: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.full(len(addresses), -1, np.int64)
