"""From a target and a pace to a series of snapshots: what every verb that watches a live target does.

It owns the order of things: hold the command, attach, let it run, take snapshots, and end as the user expects.
"""

from __future__ import annotations

import os
import signal
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from tracer.cli.messages import note, report
from tracer.cli.options import Target
from tracer.cli.output import discard
from tracer.cli.progress import Progress
from tracer.errors import NumatraceError

if TYPE_CHECKING:
    from tracer.kernel.launch import HeldCommand
    from tracer.model.snapshot import Snapshot
    from tracer.session import Options, Session

__all__ = ["Pace", "Watch"]


@dataclass(frozen=True, slots=True)
class Pace:
    """every_s: seconds between snapshots, None for a single one. count: how many, None until the target ends."""

    every_s: float | None = None
    count: int | None = None


class Watch:
    """Takes snapshots of `target` and hands each to `show`.

    arguments: those of `tracer.cli.options` (`hooks`, `reader`, `seed`, `quiet`). details: whether snapshots carry
    `Details`. clock: monotonic seconds.
    """

    def __init__(
        self,
        target: Target,
        pace: Pace,
        arguments: Namespace,
        show: Callable[[Snapshot], None],
        details: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._pace = pace
        self._arguments = arguments
        self._show = show
        self._details = details
        self._clock = clock
        self._progress = Progress(arguments.quiet)
        self._shown = 0
        self._notes_said = 0

    def run(self) -> int:
        """Until the pace or the target ends it. Returns the exit code: the command's own where there is one."""
        if self._target.command:
            return self._run_command()
        return self._run_process()

    def _options(self) -> Options:
        from tracer.session import Options

        arguments = self._arguments
        return Options(hooks=arguments.hooks, reader=arguments.reader, seed=arguments.seed, details=self._details)

    def _run_process(self) -> int:
        # The session brings numpy and BCC with it: wrong usage is reported without them.
        from tracer.kernel.procfs import TargetGone
        from tracer.session import Session

        try:
            with Session(self._target.pid, self._options(), self._progress) as session:
                self._follow(session)
        except (TargetGone, KeyboardInterrupt):
            # The end of the target, and Ctrl-C, are the ordinary ends of a watch, unless it has shown nothing yet.
            if not self._shown:
                raise
        finally:
            self._progress.clear()
        return 0

    def _run_command(self) -> int:
        from tracer.kernel.launch import HeldCommand

        # Fork before the session is imported: numpy may start threads, and the child should be a copy of little.
        with HeldCommand(self._target.command) as command, _signals_go_to(command) as pass_on:
            self._trace_command(command, pass_on)
            # Whatever ended the tracing, the command is the user's work and goes on.
            return command.wait()

    def _trace_command(self, command: HeldCommand, pass_on: Callable[[], None]) -> None:
        from tracer.kernel.procfs import TargetGone
        from tracer.session import Session

        started = False
        try:
            with Session(command.pid, self._options(), self._progress, expect_exec=True) as session:
                pass_on()
                command.release()
                started = True
                self._follow(session)
        except TargetGone:
            if not started:
                raise
            if not self._shown and not self._arguments.quiet:
                self._progress.clear()
                note(f"{self._target.command[0]} ended before its placement could be read")
        except BrokenPipeError:
            discard()
        except NumatraceError as error:
            if not started:
                raise
            self._progress.clear()
            report(error)
        finally:
            self._progress.clear()

    def _follow(self, session: Session) -> None:
        every, due = self._pace.every_s, self._clock()
        while True:
            snapshot = session.refresh()
            self._progress.clear()
            self._say(session.notes)
            self._shown += 1  # first: an interrupt while it is being printed finds something shown
            self._show(snapshot)
            if every is None or self._shown == self._pace.count:
                return
            # A fixed beat; one that was missed because a snapshot took longer is skipped, not made up for.
            now = self._clock()
            due += every * max(1, -((due - now) // every))
            if not session.wait(max(0.0, due - now)):
                return

    def _say(self, notes: list[str]) -> None:
        if not self._arguments.quiet:
            for text in notes[self._notes_said :]:
                note(text)
        self._notes_said = len(notes)


@contextmanager
def _signals_go_to(command: HeldCommand) -> Iterator[Callable[[], None]]:
    """Gives a function; from its call on, an interrupt or a request to end is for the command, and we follow it.

    Before that call they end us, and the held command with us.
    """
    before: dict[int, signal.Handlers | Callable[[int, FrameType | None], object] | int | None] = {}

    def handle(number: int, _frame: FrameType | None) -> None:
        # Ctrl-C goes to the whole foreground group of the terminal, so the command has it already.
        if number != signal.SIGINT or not _in_foreground():
            command.send(number)

    def pass_on() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            # What was ignored when we were started (nohup, a background job) is ignored by the command as well.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handle)

    try:
        yield pass_on
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Whether the terminal's keys signal this process (and the command, which is in the same group)."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
