"""From a selection and a pace to a series of samples: what every verb that watches live targets does.

It owns the order of things: hold the command, attach, let it run, take samples, and end as the user expects.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from tracer.cli.interrupts import Interrupts
from tracer.cli.messages import note, report
from tracer.cli.options import Target, check_rolling
from tracer.cli.output import discard
from tracer.cli.progress import Progress
from tracer.errors import NumatraceError

if TYPE_CHECKING:
    from tracer.kernel.launch import HeldCommand
    from tracer.model.sample import Sample
    from tracer.model.selection import Selection
    from tracer.session import Options, Session

__all__ = ["LAST_LOOKS", "Beats", "Pace", "View", "Wants", "Watch", "session_options"]

_STEP_S = 1.0
"""Seconds at most between the samples of a sum: a VMA is known only while somebody looks."""
_SLICE_S = 0.1
"""How long an interrupt may go unnoticed while nothing else happens."""

LAST_LOOKS = 3
"""After the end of all targets: what was still in a log that was being written comes with the second or third. The
session itself says TargetGone when there is no more."""


@dataclass(frozen=True, slots=True)
class Pace:
    """every_s: seconds between two that are shown. count: how many are shown, None until the targets end.

    sums: what is shown is what happened, not what is: it is shown when an interval is over, sampled at least every
    step_s seconds, and complete also when the user interrupts. every_s None: never, or where it is not a sum, once, at
    once.
    duration_s: seconds from the first sample to the last. patient: Ctrl-C, SIGTERM and a closed terminal end it after
    the sample that is under way, as an ordinary end; a second one is an interrupt. Sums always are.
    """

    every_s: float | None = None
    count: int | None = None
    duration_s: float = math.inf
    sums: bool = False
    patient: bool = False
    step_s: float = _STEP_S


@dataclass(frozen=True, slots=True)
class Wants:
    """What samples have to carry, as in `tracer.session.Options`."""

    details: bool = False
    flows: bool = False
    faults: bool = False
    threads: bool = False
    regions: bool = False
    policies: bool = False
    policy_calls: bool = False


def session_options(arguments: Namespace, wants: Wants) -> Options:
    """What a session is asked for. arguments: those of `tracer.cli.options.add_reading`."""
    from tracer.session import Options

    return Options(
        hooks=arguments.hooks,
        reader=arguments.reader,
        seed=arguments.seed,
        audit_cpu=arguments.audit_cpu,
        check=arguments.check or 0.0,
        details=wants.details,
        flows=wants.flows,
        faults=wants.faults,
        threads=wants.threads,
        regions=wants.regions,
        policies=wants.policies,
        policy_calls=wants.policy_calls,
    )


class View(Protocol):
    """What becomes of the samples."""

    def take(self, sample: Sample, seconds: float) -> bool:
        """Every sample, in order. Returns whether there is anything in it to tell.

        seconds: since the one before; for the first one, since the hooks were attached (or the command let run).
        """

    def show(self) -> None:
        """Print what is due: the last sample, or what was taken since this was last called."""

    def finish(self) -> None:
        """Print what is left to say at the end. Called if `take` ever returned True."""


class Watch:
    """Takes samples of `target` and hands each to `view`.

    arguments: those of `tracer.cli.options` (`hooks`, `reader`, `seed`, `audit_cpu`, `quiet`). wants: by default the
    placement only. progress: of a view that shows a line of its own. ready: called when all is set up and nothing runs
    yet: the place for what a view has to import, once the command is forked. clock: monotonic seconds.
    """

    def __init__(
        self,
        target: Target,
        pace: Pace,
        arguments: Namespace,
        view: View,
        wants: Wants | None = None,
        progress: Progress | None = None,
        ready: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._pace = pace
        self._arguments = arguments
        self._view = view
        self._wants = wants or Wants()
        self._ready = ready
        self._clock = clock
        self._progress = progress or Progress(arguments.quiet)
        self._interrupts = Interrupts(patient=pace.sums or pace.patient)
        self._told = False
        self._awaiting = False
        self._notes_said = 0

    @property
    def interrupted(self) -> bool:
        """Whether somebody has asked for the end."""
        return self._interrupts.requested

    def run(self) -> int:
        """Until the pace or the targets end it. Returns the exit code: the command's own where there is one."""
        check_rolling(self._arguments, self._pace.every_s is None and not self._pace.sums)
        if self._target.command:
            return self._run_command()
        return self._run_processes()

    def _run_processes(self) -> int:
        # The session brings numpy and BCC with it: wrong usage is reported without them.
        from tracer.kernel.procfs import TargetGone
        from tracer.session import Session

        try:
            with (
                Session(
                    self._target.selection, session_options(self._arguments, self._wants), self._progress
                ) as session,
                self._interrupts.taken(),
            ):
                self._ready()
                self._follow(session)
        except (TargetGone, KeyboardInterrupt):
            # The end of the targets, and Ctrl-C, are the ordinary ends of a watch, unless nothing was seen yet.
            if not self._told:
                raise
        except NumatraceError:
            if self._told:
                self._progress.clear()
                self._view.finish()
            raise
        finally:
            self._progress.clear()
        self._view.finish()
        return 0

    def _run_command(self) -> int:
        from tracer.kernel.launch import HeldCommand

        # Fork before the session is imported: numpy may start threads, and the child should be a copy of little.
        with HeldCommand(self._target.command) as command, self._interrupts.passed_on(command) as pass_on:
            try:
                self._trace_command(command, pass_on)
            except BrokenPipeError:
                discard()
            # Whatever ended the tracing, the command is the user's work and goes on.
            return command.wait()

    def _trace_command(self, command: HeldCommand, pass_on: Callable[[], None]) -> None:
        from tracer.kernel.procfs import TargetGone
        from tracer.session import Session

        selection = replace(self._target.selection, pids=(command.pid,))
        started = False
        try:
            with Session(
                selection, session_options(self._arguments, self._wants), self._progress, expect_exec=True
            ) as session:
                self._ready()
                pass_on()
                command.release()
                started = True
                self._follow(session)
        except TargetGone:
            if not started:
                raise
            if not self._told and not self._arguments.quiet:
                self._progress.clear()
                note(f"{self._target.command[0]} ended before its placement could be read")
        except KeyboardInterrupt:
            if not started:
                raise
        except NumatraceError as error:
            if not started:
                raise
            self._progress.clear()
            report(error)
        finally:
            self._progress.clear()
        self._finish_beside_the_command()

    def _finish_beside_the_command(self) -> None:
        try:
            if self._told:
                self._view.finish()
        except NumatraceError as error:
            report(error)

    def _follow(self, session: Session) -> None:
        beats = Beats(self._pace, self._clock)
        before = self._clock()
        shown, last_looks = 0, 0
        while last_looks < LAST_LOOKS:
            sample = session.refresh()
            self._progress.clear()
            self._say(session.notes)
            self._say_who_is_awaited(sample)
            # First: an interrupt while it is being printed finds something told.
            now = self._clock()
            self._told |= self._view.take(sample, now - before)
            before = now
            if self._interrupts.requested or beats.last:
                return
            if not last_looks and beats.due() and self._has_something_to_show(sample):
                self._view.show()
                shown += 1
                if shown == self._pace.count or beats.single:
                    return
            if last_looks or not self._wait(session, beats.next()):
                last_looks += 1

    def _say_who_is_awaited(self, sample: Sample) -> None:
        """Once, when nobody is there yet: else there would be nothing to see, for a name that was mistyped as well."""
        selection = self._target.selection
        single = self._pace.every_s is None and not self._pace.sums
        if self._awaiting or sample.snapshots or single or not selection.open_ended:
            return
        self._awaiting = True
        if not self._arguments.quiet:
            note(f"no process {_where(selection)} yet; waiting for one (Ctrl-C ends it)")

    def _has_something_to_show(self, sample: Sample) -> bool:
        """Of a process that is just executing another program there is no placement: look again a beat later.

        Raises NumatraceError for a single look at those of a name or control group who are not there.
        """
        if self._pace.sums or sample.snapshots:
            return True
        selection = self._target.selection
        if selection.open_ended and self._pace.every_s is None:
            raise NumatraceError(
                f"no process {_where(selection)} at present",
                "check what ps -e shows, or give --every SEC to wait for one",
            )
        return selection.open_ended

    def _wait(self, session: Session, seconds: float) -> bool:
        """As `Session.wait`, but a request to end is heard meanwhile."""
        if not self._pace.sums and not self._pace.patient:
            return session.wait(seconds)
        while not self._interrupts.requested:
            if not session.wait(min(seconds, _SLICE_S)):
                return False
            seconds -= _SLICE_S
            if seconds <= 0:
                break
        return True

    def _say(self, notes: list[str]) -> None:
        if not self._arguments.quiet:
            for text in notes[self._notes_said :]:
                note(text)
        self._notes_said = len(notes)


def _where(selection: Selection) -> str:
    parts = [f"is in the control group {selection.cgroup}"] * bool(selection.cgroup)
    parts += [f"has a name like {selection.name}"] * bool(selection.name)
    return " or ".join(parts)


class Beats:
    """The times of samples, on a fixed beat from now on; one that was missed is skipped, not made up for.

    single: one sample is all. last: the sample that is taken now is the last one, because the time is over.
    """

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._start = clock()
        self._end = self._start + pace.duration_s
        self.last = False
        self.single = pace.every_s is None and not pace.sums
        interval = pace.every_s or math.inf
        # A whole number of steps make an interval.
        self._steps = math.ceil(interval / pace.step_s) if pace.sums and math.isfinite(interval) else 1
        self._step = interval / self._steps if math.isfinite(interval) else pace.step_s
        self._never = pace.every_s is None and pace.sums
        self._beat = 0
        self._shown = 0 if pace.sums else -1

    def due(self) -> bool:
        """Whether an interval is over that was not shown. Asked once for each sample."""
        interval = self._beat // self._steps
        if self._never or interval <= self._shown:
            return False
        self._shown = interval
        return True

    def next(self) -> float:
        """Seconds from now to the next sample."""
        now = self._clock()
        self._beat = max(self._beat + 1, math.ceil((now - self._start) / self._step))
        at = self._start + self._beat * self._step
        self.last = at >= self._end
        return max(0.0, min(at, self._end) - now)
