"""A session: hooks say where a target changed, a reader says what is there, the model keeps it, snapshots show it.

`Session.refresh` is the loop's body: glance at the mm, take the events of the epoch, settle what they touched, follow
the VMA list, audit what nobody explained, and give an immutable `Snapshot`. With nothing changed it costs one BPF run.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import numpy as np

from tracer.errors import NumatraceError
from tracer.kernel import procfs
from tracer.kernel.machinery import Machinery, Options
from tracer.kernel.procfs import TargetGone
from tracer.model.policy import DEFAULT, F_NUMA_BALANCING, Policy, Spelling
from tracer.model.snapshot import Refresh, Snapshot
from tracer.model.vma import Vma
from tracer.session_poll import Poller
from tracer.session_settle import Settler

__all__ = ["Options", "Session", "TargetGone"]

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class _Printed:
    """The VMAs as last printed, and what they were made of."""

    source: tuple[Vma, ...]
    task: Policy
    vmas: tuple[Vma, ...]


class Session:
    """Traces one target from `start` to `close`; a context manager.

    pid: thread group id. progress: called with (what, done, of all; 0: not known) during long work.
    expect_exec: `pid` is a held command; the placement is read once it has executed its program.
    notes: lines that the user should see once: what could not be used, and what is used instead.
    Raises NumatraceError (`TargetGone` among them) when the target cannot be traced or has exited.
    """

    def __init__(
        self, pid: int, options: Options | None = None, progress: Progress | None = None, expect_exec: bool = False
    ) -> None:
        self.pid = pid
        self.options = options or Options()
        self.notes: list[str] = []
        self._progress = progress or (lambda what, done, total: None)
        self._held = expect_exec
        self._pidfd = -1
        self._machinery: Machinery | None = None
        self._work: Settler | Poller | None = None
        self._printed: _Printed | None = None
        self._spelling: Spelling | None = None
        self._comm = b""

    # --- life ---

    def start(self) -> None:
        """Attach the hooks and seed the counters (for a held command: only attach)."""
        procfs.check_target(self.pid)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            raise TargetGone(f"no process with PID {self.pid}") from error
        self._machinery = Machinery(self.options, self.notes)
        if self._machinery.hooks is not None:
            self._work = Settler(self._machinery, self.pid, self._gone, self._progress)
            self._work.begin(self._held)
        elif not self._held:
            self._work = Poller(self._machinery, self.pid)

    def close(self) -> None:
        """Detach everything. Harmless to repeat."""
        if self._work is not None:
            self._work.close()
            self._work = None
        if self._machinery is not None:
            self._machinery.close()
            self._machinery = None
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _gone(self, seconds: float = 0.0) -> bool:
        """Whether the target has exited, or does so within some seconds."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(max(0, int(seconds * 1000))))

    def wait(self, seconds: float) -> bool:
        """Sleep until the time is over (True) or the target has exited (False).

        Full logs are emptied meanwhile, so that a storm between two snapshots loses nothing.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._gone(min(left, 0.1)):
                return False
            if isinstance(self._work, Settler):
                self._work.relieve()
        return not self._gone()

    # --- snapshots ---

    def refresh(self) -> Snapshot:
        """Bring the counters up to date and show them. Raises TargetGone once the target has exited."""
        began = time.thread_time_ns()
        if self._machinery is None:
            raise NumatraceError("the session has not been started")
        self._check_alive()
        if self._work is None:
            self._work = Poller(self._machinery, self.pid)
        try:
            state = self._work.refresh()
        except NumatraceError:
            self._check_alive()
            raise
        vmas = self._vmas(state.vmas, state.own_policy, state.task_policy)
        nodes = list(self._machinery.topology.has_memory)
        if not self._comm or state.regions_read:
            self._comm = procfs.comm(self.pid)
        return Snapshot(
            time=datetime.now(UTC),
            pid=self.pid,
            comm=self._comm,
            hooks="none" if isinstance(self._work, Poller) else "tracepoint",
            reader=self._work.reader,
            trust=state.trust,
            refresh=Refresh(state.regions_read, time.thread_time_ns() - began),
            vmas=vmas,
            node_ids=tuple(nodes),
            pages=state.totals[:, nodes],
            details=self._work.details() if self.options.details else None,
            spelling=self._spelling or Spelling.NAMED,
        )

    def _check_alive(self) -> None:
        if self._gone():
            raise TargetGone(f"process {self.pid} has exited")

    def _vmas(
        self, source: tuple[Vma, ...], own: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], task: Policy
    ) -> tuple[Vma, ...]:
        """The VMAs with the policy in force: numa_maps shows the task's where a VMA has none (show_numa_map)."""
        kept = self._printed
        if kept is None or kept.source is not source or kept.task != task:
            vmas = source
            if task != DEFAULT:
                vmas = tuple(v if o else replace(v, policy=task) for v, o in zip(source, own, strict=True))
            kept = self._printed = _Printed(source, task, vmas)
            if self._spelling is None and any(v.policy.flags & F_NUMA_BALANCING for v in vmas):
                from tracer.kernel.spelling import probe_spelling

                assert self._machinery is not None
                self._spelling = probe_spelling(self._machinery.topology)
        return kept.vmas
