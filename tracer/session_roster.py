"""Who is traced: processes that were named, those that join a cgroup or take a name, children, and new programs."""

from __future__ import annotations

import contextlib
import math
import os
import select
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tracer.kernel import processes, procfs
from tracer.kernel.epoch import Birth
from tracer.kernel.machinery import Machinery
from tracer.kernel.pagemap import Pagemap
from tracer.kernel.procfs import TargetGone, first_address
from tracer.model.selection import Selection
from tracer.session_poll import Poller
from tracer.session_process import Process
from tracer.session_settle import Budget, Settler

__all__ = ["Roster"]

Progress = Callable[[str, int, int], None]

PROGRAMS_IN_A_ROW = 5  # that a process may execute just when it is to be traced
NAMES_AGE_S = 1.0  # how long a process may go by a name before it is taken in, if it has executed nothing


class Roster:
    """The processes of a session, by PID.

    Raises NumatraceError (`TargetGone` among them) from `begin` when a process that was named cannot be traced.
    """

    def __init__(self, selection: Selection, machinery: Machinery, budget: Budget, progress: Progress) -> None:
        self._selection, self._machinery = selection, machinery
        self._budget, self._progress = budget, progress
        self._hooks = machinery.hooks
        self._cgroup: Path | None = processes.find_cgroup(selection.cgroup) if selection.cgroup else None
        self._polled_for_forks = selection.follow_forks and self._hooks is None
        self.processes: dict[int, Process] = {}
        self._named: set[int] = set()  # by PID or by name: they stay, whatever cgroup they are in
        self._members: set[int] = set()  # of the cgroup, when last looked
        self._births, self._searched = -1, 0.0

    # --- begin and end ---

    def begin(self, held: bool) -> None:
        """Take the processes that were named. held: the only one is about to execute its program, and is traced from
        then on."""
        for pid in self._selection.pids:
            procfs.check_target(pid)
        for pid in self._selection.pids:
            process = self.processes[pid] = Process(pid)
            self._named.add(pid)
            if not held:
                self._start(process)
            elif self._hooks is not None:
                self._hooks.follow(pid, self._selection.follow_forks)
        self.look_around()

    def close(self) -> None:
        """Let go of all."""
        for process in self.processes.values():
            process.close()
        self.processes.clear()

    # --- joining ---

    def look_around(self) -> None:
        """Take in who has joined the cgroup or goes by the name now, and let go of who has left the cgroup."""
        if self._polled_for_forks:
            self._take(processes.descendants(self.processes))
        if not self._selection.open_ended:
            return
        if self._selection.name and self._names_may_differ():
            named = set(processes.matching(self._selection.name))
            self._take(named)
            self._named |= named
        if self._cgroup is not None:
            members = set(processes.members(self._cgroup)) - {os.getpid()}
            self._take(members, breed=True)
            for pid in (self._members - members - self._named) & set(self.processes):
                if not self.exited(self.processes[pid]):
                    self.leave(pid)
            self._members = members

    def _names_may_differ(self) -> bool:
        """Whether a process was made, or has executed a program, since the last time; or, as a process may also rename
        itself, some time has gone by."""
        births = self._hooks.births() if self._hooks is not None else -1
        now = time.monotonic()
        if births == self._births and births >= 0 and now - self._searched < NAMES_AGE_S:
            return False
        self._births, self._searched = births, now
        return True

    def _take(self, pids: Iterable[int], breed: bool = False) -> None:
        for pid in sorted(set(pids) - set(self.processes)):
            # It may be gone again, or be a kernel thread, which has no memory of its own.
            with contextlib.suppress(TargetGone):
                process = Process(pid)
                try:
                    self._start(process, breed)
                except BaseException:
                    process.close()
                    raise
                self.processes[pid] = process

    def _start(self, process: Process, breeds: bool = False) -> None:
        """Trace the present address space of a process. breeds: trace its children, too, whatever was selected."""
        if self._hooks is None:
            self.poll(process)
            return
        self._hooks.follow(process.pid, self._selection.follow_forks or breeds)
        try:
            pagemap, mm = self._present_memory(process)
            try:
                self._work(process, pagemap, mm, self._hooks.add(mm, process.pid))
            except BaseException:
                pagemap.close()
                raise
        except BaseException:
            self._hooks.unfollow(process.pid)
            raise

    def _present_memory(self, process: Process) -> tuple[Pagemap, int]:
        """The open pagemap of a process and its mm: of the next one, where it executes a program just now."""
        for tries_left in reversed(range(PROGRAMS_IN_A_ROW)):
            pagemap = Pagemap(process.pid)
            try:
                return pagemap, self._mm_behind(pagemap)
            except TargetGone:
                pagemap.close()
                if not tries_left or self.exited(process):
                    raise
            except BaseException:
                pagemap.close()
                raise
        raise AssertionError

    def poll(self, process: Process) -> Poller:
        """What reads a process without hooks."""
        if not isinstance(process.work, Poller):
            process.work = Poller(self._machinery, process.pid)
        return process.work

    def _mm_behind(self, pagemap: Pagemap) -> int:
        address = first_address(pagemap.pid)
        if address is None:
            raise TargetGone(f"process {pagemap.pid} has no memory of its own (it is exiting)")
        assert self._machinery.tables is not None
        if pagemap.pid == os.getpid():
            return self._machinery.tables.own_mm()
        return self._machinery.tables.find_mm(pagemap.fileno(), address)

    def _work(self, process: Process, pagemap: Pagemap, mm: int, number: int) -> None:
        others = (p.work for p in self.processes.values() if p is not process)
        if any(isinstance(work, Settler) and work.number == number for work in others):
            raise TargetGone(f"process {process.pid} shares the memory of another one that is traced already")
        process.work = Settler(self._machinery, pagemap, mm, number, self._budget, self._progress)

    # --- births and deaths ---

    def adopt(self, birth: Birth) -> bool:
        """Take a child, or a new program of a process. False when it has come to its end already."""
        assert self._hooks is not None
        if not self._hooks.alive(birth.number):
            return False
        process = self.processes.get(birth.pid)
        if process is not None and isinstance(process.work, Settler) and process.work.number == birth.number:
            return True  # a member of the cgroup, say, that was found there before its birth was read
        with contextlib.ExitStack() as undo:
            try:
                if process is None or self.exited(process):
                    process = Process(birth.pid)
                    undo.callback(process.close)
                pagemap = self._pagemap_of(birth)
                if pagemap is None:
                    return False
                process.drop_work()
                process.comm, process.born = birth.comm, birth.forked
                undo.callback(pagemap.close)
                self._work(process, pagemap, birth.mm, birth.number)
            except TargetGone:
                return False
            undo.pop_all()
        self.processes[birth.pid] = process
        if self._cgroup is not None and not self._selection.follow_forks:
            self._members.add(birth.pid)  # as its parent was; if it is not, it leaves at the next look
        return True

    def _pagemap_of(self, birth: Birth) -> Pagemap | None:
        """The open pagemap of the very address space that was born, or None when the process has moved on.

        A process never goes back to an mm it has left, so if it has this one before and after, the file is of this one.
        """
        assert self._hooks is not None
        with contextlib.ExitStack() as undo:
            pagemap = Pagemap(birth.pid)
            undo.callback(pagemap.close)
            if not self._has(birth, pagemap) or not self._hooks.alive(birth.number):
                return None
            undo.pop_all()
        return pagemap

    def _has(self, birth: Birth, pagemap: Pagemap) -> bool:
        assert self._machinery.tables is not None
        if "MM_OWNER" not in self._machinery.tables.constants:
            return self._mm_behind(pagemap) == birth.mm
        glance = self._machinery.tables.look(birth.mm)
        return int(glance["owner_tgid"]) == birth.pid and int(glance["owner_mm"]) == birth.mm

    def leave(self, pid: int) -> None:
        """Trace a process no more."""
        process = self.processes.pop(pid)
        if self._hooks is not None and not self.exited(process):  # else the PID may be another's by now
            self._hooks.unfollow(pid)
        process.close()

    # --- being there ---

    def exited(self, process: Process, seconds: float = 0.0) -> bool:
        """Whether a process has exited, or does so within some seconds."""
        return bool(_readable([process.pidfd], seconds))

    def all_exited(self) -> bool:
        """Whether no process is left."""
        fds = [process.pidfd for process in self.processes.values()]
        return len(_readable(fds, 0.0)) == len(fds)

    def wait_for_an_exit(self, seconds: float) -> None:
        """Sleep until one more process has exited, or the time is over."""
        fds = [process.pidfd for process in self.processes.values()]
        gone = set(_readable(fds, 0.0))
        _readable([fd for fd in fds if fd not in gone], seconds)

    def __iter__(self) -> Iterator[Process]:
        return iter([self.processes[pid] for pid in sorted(self.processes)])


def _readable(fds: list[int], seconds: float) -> list[int]:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    # Rounded up: what is left of a millisecond would be waited for without a pause, look after look.
    return [fd for fd, _ in poller.poll(max(0, math.ceil(seconds * 1000)))]
