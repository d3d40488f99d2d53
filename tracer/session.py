"""A session: hooks say where targets changed, a reader says what is there, the model keeps it, snapshots show it.

`Session.refresh` is the loop's body: see who has come and gone, glance at each mm, end the epoch, let every target
settle what the epoch's events touched, and give an immutable `Sample`. With nothing changed it costs one BPF run a
target.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from tracer.errors import HooksMissing, NumatraceError
from tracer.kernel import pauses, procfs
from tracer.kernel.epoch import Birth, Drained, Epoch
from tracer.kernel.hooks import Hooks
from tracer.kernel.machinery import Machinery, Options
from tracer.kernel.procfs import TargetGone
from tracer.model.sample import Sample
from tracer.model.selection import Selection
from tracer.model.snapshot import Snapshot
from tracer.session_check import Unsettled
from tracer.session_events import Attribution
from tracer.session_machine import Machine
from tracer.session_policy import PolicyWatch
from tracer.session_process import Dresser, Process
from tracer.session_roster import Roster
from tracer.session_settle import Budget, Settler, TakenDown

__all__ = ["Options", "Selection", "Session", "TargetGone"]

Progress = Callable[[str, int, int], None]
Int64s = npt.NDArray[np.int64]

EXEC_PATIENCE_S = 10.0
END_PATIENCE_S = 10.0
HALF_FULL = 0.5  # of a log: then it is emptied
TICK_S = 0.1  # between two looks, while waiting, at how full the logs are
BUSY_TICK_S = 0.02  # the same when children may be born: one that is held by its pidfd and its pagemap is not lost


class Session:
    """Traces the selected processes from `start` to `close`; a context manager.

    selection: what to trace, or the PID of one process. progress: called with (what, done, of all; 0: not known)
    during long work. expect_exec: the one PID is a held command; it is traced once it has executed its program.
    notes: lines that the user should see once: what could not be used, and what is used instead.
    Raises NumatraceError (`TargetGone` among them) when a named target cannot be traced or has exited.
    """

    def __init__(
        self,
        selection: Selection | int,
        options: Options | None = None,
        progress: Progress | None = None,
        expect_exec: bool = False,
    ) -> None:
        self.selection = Selection((selection,)) if isinstance(selection, int) else selection
        self.options = options or Options()
        self.notes: list[str] = []
        self._progress = progress or (lambda what, done, total: None)
        self._held = expect_exec
        self._machinery: Machinery | None = None
        self._roster: Roster | None = None
        self._saved, self._working = Epoch(), Epoch()
        self._ended: list[Snapshot] = []
        self._strangers: dict[int, _Stranger] = {}
        self._over = False
        self._lost = 0
        self._machine: Machine | None = None

    # --- life ---

    def start(self) -> None:
        """Attach the hooks and begin to trace (a held command: from its exec on)."""
        machinery = self._machinery = Machinery(self.options, self.notes)
        hooks = machinery.hooks
        self._budget = Budget(self.options.audit_cpu)
        self._attribution = Attribution(machinery.topology, hooks.reasons if hooks else ())
        self._dresser = Dresser(machinery, self._attribution)
        self._roster = Roster(self.selection, machinery, self._budget, self._progress)
        self._roster.begin(self._held)
        self._migrations = hooks.migrations() if hooks else None
        if self.options.policies and hooks is not None:
            self._machine = Machine(self._dresser.node_ids)
        self._say_what_is_missed()
        for process in self._roster:
            if isinstance(process.work, Settler):
                process.work.seed()

    def _say_what_is_missed(self) -> None:
        assert self._machinery is not None
        if self._machinery.hooks is not None:
            if not procfs.in_first_pid_namespace():
                self.notes.append(
                    "inside a container processes have other PIDs than the kernel's events: new programs and children "
                    "are not followed; run numatrace outside of it"
                )
            return
        options = self.options
        if options.flows or options.faults or options.threads or options.policy_calls:
            raise HooksMissing(
                "flows, faults and calls are seen by the hooks only, and they cannot be used here",
                "run as root on Linux 6.1 or later, without `--hooks none`",
            )
        if options.check:
            self.notes.append("there is nothing to check: without hooks everything is read at every look")
        if self.selection.follow_forks:
            self.notes.append("children are looked for at each look only: those that come and go in between are missed")

    def close(self) -> None:
        """Detach everything. Harmless to repeat."""
        if self._roster is not None:
            self._roster.close()
            self._roster = None
        if self._machine is not None:
            self._machine.close()
            self._machine = None
        if self._machinery is not None:
            self._machinery.close()
            self._machinery = None

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

    def wait(self, seconds: float) -> bool:
        """Sleep until the time is over (True) or there is nothing left to watch (False).

        Full logs are emptied meanwhile, so that a storm between two snapshots loses nothing, and children are taken in.
        """
        assert self._roster is not None
        hooks = self._machinery.hooks if self._machinery else None
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            tick = BUSY_TICK_S if hooks is not None and self._breeds else TICK_S
            self._roster.wait_for_an_exit(min(left, tick))
            if hooks is not None:
                self._relieve(hooks)
            if self._finished():
                return False
        return not self._finished()

    @property
    def _breeds(self) -> bool:
        return self.selection.follow_forks or bool(self.selection.cgroup)

    def _relieve(self, hooks: Hooks) -> None:
        """Between two refreshes: take the events away before a log is full, and the children before they are gone."""
        if hooks.pressure() > HALF_FULL or (self._breeds and not hooks.quiet()):
            self._take_epoch(hooks)

    def _finished(self) -> bool:
        """Nothing is left to watch, and nothing can come."""
        assert self._roster is not None
        if self.selection.open_ended or not self._roster.all_exited():
            return False
        hooks = self._machinery.hooks if self._machinery else None
        if hooks is not None and self._breeds and not hooks.quiet():
            self._take_epoch(hooks)
        return self._roster.all_exited()

    # --- samples ---

    def refresh(self) -> Sample:
        """Bring the counters up to date and show them. Raises TargetGone once nothing is left to watch or to tell."""
        if self._machinery is None or self._roster is None:
            raise NumatraceError("the session has not been started")
        if self._over:
            raise self._gone()
        hooks = self._machinery.hooks
        if self._held:
            self._await_exec(hooks)
        self._roster.look_around()
        snapshots = self._refresh_targets(hooks) if hooks is not None else self._poll()
        self._over = not snapshots and not self._strangers and self._finished()
        ended, self._ended = self._ended, []
        if self._over and not ended:
            raise self._gone()
        migrated, failed = self._machine_wide(hooks)
        return Sample(
            datetime.now(UTC),
            self._dresser.node_ids,
            tuple(snapshots),
            tuple(ended),
            hooks.untraced() if hooks is not None else 0,
            self._attribution.reasons if self.options.flows or self.options.policies else (),
            migrated,
            failed,
        )

    def unsettled(self, pid: int) -> Unsettled:
        """What the last refresh knows to have changed of a target while it was looked at. Without hooks that is
        nothing."""
        assert self._roster is not None
        process = self._roster.processes.get(pid)
        if process is not None and isinstance(process.work, Settler):
            return process.work.unsettled()
        return Unsettled(np.empty(0, np.int64))

    def _gone(self) -> TargetGone:
        pids = self.selection.pids
        return TargetGone(f"process {pids[0]} has exited" if len(pids) == 1 else "all processes have exited")

    def _machine_wide(self, hooks: Hooks | None) -> tuple[Int64s, Int64s] | tuple[None, None]:
        """Pages that the machine has migrated since the last sample, by reason; the two reasons of ours have none."""
        if hooks is None or not self.options.flows or self._migrations is None:
            return None, None
        now = hooks.migrations()
        own = np.zeros(len(self._attribution.reasons) - len(hooks.reasons), np.int64)
        migrated, failed = (np.append(a - b, own) for a, b in zip(now, self._migrations, strict=True))
        self._migrations = now
        return migrated, failed

    def _poll(self) -> list[Snapshot]:
        """Without hooks: read everything of everybody."""
        assert self._roster is not None
        snapshots = []
        for process in self._roster:
            began = time.thread_time_ns()
            try:
                process.state = self._roster.poll(process).refresh()
                snapshots.append(self._dresser.snapshot(process, None, began))
            except NumatraceError:
                if not self._roster.exited(process):
                    raise
                self._bury(process, None)
        return snapshots

    # --- with hooks ---

    def _take_epoch(self, hooks: Hooks) -> None:
        """End the epoch, keep what happened, and take in who was born."""
        assert self._roster is not None
        epoch = hooks.swap()
        self._saved.absorb(epoch)
        for birth in epoch.births + self._births_not_told(hooks, epoch):
            old = self._roster.processes.get(birth.pid)
            # Births on different CPUs are in no order: a program that is gone again does not end the one after it.
            alive = hooks.alive(birth.number)
            if alive and old is not None and isinstance(old.work, Settler) and old.work.number != birth.number:
                self._bury(old, self._last_words(old.work.number), only_its_memory=not self._roster.exited(old))
            if not self._roster.adopt(birth):
                self._strangers[birth.number] = _Stranger(birth)

    def _births_not_told(self, hooks: Hooks, epoch: Epoch) -> list[Birth]:
        """Where events were lost, a birth may be among them."""
        assert self._roster is not None
        lost, self._lost = self._lost, hooks.lost()
        if lost == self._lost:
            return []
        known = {process.work.number for process in self._roster if isinstance(process.work, Settler)}
        return hooks.unheard_of(known.union(self._strangers, (birth.number for birth in epoch.births)))

    def _refresh_targets(self, hooks: Hooks) -> list[Snapshot]:
        assert self._roster is not None
        self._budget.begin()
        if self._machine is not None:
            self._machine.refresh()
        token, pending = hooks.token(), hooks.pending()
        settlers = [process.work for process in self._roster if isinstance(process.work, Settler)]
        for settler in settlers:
            settler.look(token, pending.get(settler.number, []))
        pauses.pause("looked")
        if not hooks.quiet():
            self._take_epoch(hooks)
        self._working, self._saved = self._saved, Epoch()
        snapshots = []
        for process in self._roster:
            if hooks.pressure() > HALF_FULL:  # many targets take a while
                self._take_epoch(hooks)
            snapshot = self._refresh_one(hooks, process)
            if snapshot is not None:
                snapshots.append(snapshot)
        self._tell_of_strangers(hooks)
        return snapshots

    def _last_words(self, number: int) -> Drained:
        """All that the log still holds of an address space that has come to its end."""
        words = self._working.targets.pop(number, Drained())
        words.absorb(self._saved.targets.pop(number, Drained()))
        return words

    def _refresh_one(self, hooks: Hooks, process: Process) -> Snapshot | None:
        assert self._roster is not None
        work = process.work
        if self._roster.processes.get(process.pid) is not process:
            return None  # it has left since the refresh began
        if not isinstance(work, Settler):
            if self._roster.exited(process):
                self._roster.leave(process.pid)
            return None
        began = time.thread_time_ns()
        drained = self._working.targets.pop(work.number, None)
        try:
            if hooks.alive(work.number) and not self._roster.exited(process):
                self._work(process, work, drained)
                return self._dresser.snapshot(process, drained, began)
        except NumatraceError as error:
            # An mm that has lost its last user is still taken down; that it has come to its end is told after that.
            if not self._ends(hooks, process, END_PATIENCE_S if isinstance(error, TargetGone) else 0):
                raise
        if work.number not in self._working.ended:  # then it ended in the epoch that is under way
            self._take_epoch(hooks)
        if process.work is work:  # else it was buried by that, for a new program
            words = drained or Drained()
            words.absorb(self._last_words(work.number))
            self._bury(process, words, only_its_memory=not self._roster.exited(process))
        return None

    def _work(self, process: Process, work: Settler, drained: Drained | None) -> None:
        """Bring a process up to date. One whose memory is being taken down stays as it was shown last."""
        try:
            process.state = work.work(drained)
        except TakenDown:
            if process.state is None:
                raise TargetGone(f"process {process.pid} has ended") from None
        else:
            self._look_at_policies(process, work, drained)

    def _ends(self, hooks: Hooks, process: Process, seconds: float) -> bool:
        """Whether a process or its address space has come to its end, or does so within some seconds."""
        assert self._roster is not None
        assert isinstance(process.work, Settler)
        limit = time.monotonic() + seconds
        while hooks.alive(process.work.number) and not self._roster.exited(process, 0.001):
            if time.monotonic() > limit:
                return False
        return True

    def _look_at_policies(self, process: Process, work: Settler, drained: Drained | None) -> None:
        if self._machine is None:
            return
        assert self._machinery is not None
        if process.watch is None:
            process.watch = PolicyWatch(self._machinery, self._machine, work, self._attribution, process.born)
        process.policies = process.watch.look(drained)

    def _bury(self, process: Process, drained: Drained | None, only_its_memory: bool = False) -> None:
        """An address space has come to its end: keep its last snapshot. The process may live on with another one."""
        assert self._roster is not None
        self._ended.append(self._dresser.last(process, drained))
        if only_its_memory:
            process.drop_work()
        else:
            self._roster.leave(process.pid)

    def _tell_of_strangers(self, hooks: Hooks) -> None:
        """Of children and programs that were gone before they could be looked at: what they did is in the log."""
        for number, stranger in list(self._strangers.items()):
            stranger.drained.absorb(self._working.targets.pop(number, Drained()))
            # Its last records may still be in the log that is being written.
            if number in self._working.ended or (stranger.old and not hooks.alive(number)):
                self._ended.append(self._dresser.last(_Ghost(stranger.birth), stranger.drained))
                del self._strangers[number]
            stranger.old = True

    # --- exec ---

    def _await_exec(self, hooks: Hooks | None) -> None:
        """The held command was released: wait until its exec has given it a new address space."""
        assert self._roster is not None
        self._held = False
        if hooks is None:
            return
        (pid,) = self.selection.pids
        process = self._roster.processes[pid]
        limit = time.monotonic() + EXEC_PATIENCE_S
        while True:
            if not hooks.quiet():
                self._take_epoch(hooks)
            if process.work is not None:
                return
            if self._roster.exited(process, 0.002):
                if self._strangers:
                    return
                raise TargetGone(f"process {pid} exited before it executed its program")
            if time.monotonic() > limit:
                raise NumatraceError(
                    f"process {pid} does not execute its program", "start it by itself and use `-p PID`"
                )


@dataclass(slots=True)
class _Stranger:
    """A new address space that could not be opened, and what has happened in it. old: it was so a refresh ago."""

    birth: Birth
    drained: Drained = field(default_factory=Drained)
    old: bool = False


class _Ghost(Process):
    """A process that is known only by what it left in the log."""

    def __init__(self, birth: Birth) -> None:
        self.pid, self.namespace_pid, self.comm = birth.pid, birth.pid, birth.comm
        self.work, self.state, self.printed = None, None, None
        self.watch, self.policies, self.born = None, None, False
