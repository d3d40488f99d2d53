"""The verb `live`: a view of where pages are, on a terminal, refreshed as they move."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from tracer.cli import options, screen
from tracer.cli.messages import note
from tracer.cli.progress import Progress
from tracer.cli.verb import Verb
from tracer.cli.watch import LAST_LOOKS, Wants, session_options
from tracer.errors import HooksMissing, UsageError

if TYPE_CHECKING:
    from tracer.kernel.launch import HeldCommand
    from tracer.live.source import Tick
    from tracer.model.selection import Selection
    from tracer.session import Session

__all__ = ["VERB"]

_DEFAULT_INTERVAL_S = 1.0
_SLICE_S = 0.1
"""How long it may take to notice that the user has left."""

_INSTEAD = "for text: numatrace maps --every 1; to look at it later: numatrace record -o FILE.parquet"

_DESCRIPTION = """\
Shows where the pages of processes are, on a terminal, as top and htop show processes: the nodes with their totals, and
a row for each memory area with its policy, its pages and on which nodes they are, what changed since the last sample,
page faults and moved pages per second. F1 or ? lists the keys: sort, filter, search, group by process, hold the view
and step back in time, look into one area, see the flows between nodes. With --policies an area also says whether
its pages lie as its policy promises, and if not, why.

A command after -- is watched from its first page on. It gets no terminal: it reads nothing, and what it writes is
lost; redirect it if you want to see it, as in: -- sh -c 'CMD >file 2>&1'. When it has ended the view stays, and
after you leave it the exit code is the command's. If you leave earlier the command goes on by itself, numatrace says
with which PID, and the exit code is 0.

With FILE, which numatrace record wrote, it is the same as numatrace replay FILE.

The view takes no more samples than --every says, however fast the terminal is, and a slow terminal delays none. It
keeps the last 600 samples to step back to, or fewer where they are large (256 MiB in all). --no-color and the variable
NO_COLOR tell nodes apart by digits and letters. Off a terminal there is numatrace maps --every SEC."""


def _configure(parser: ArgumentParser) -> None:
    options.add_target(parser, file=True)
    parser.add_argument(
        "--every",
        type=options.interval,
        metavar="SEC",
        help=f"take a sample every SEC seconds (default: {_DEFAULT_INTERVAL_S:g})",
    )
    options.add_policies(parser)
    options.add_events(parser)
    options.add_reading(parser)
    options.add_general(parser)


def _run(arguments: Namespace) -> int:
    file = options.recording(arguments)
    if file is not None:
        if arguments.every is not None:
            raise UsageError(f"--every is about live processes and {file} is a recording", "use numatrace replay")
        from tracer.cli.replay import play

        return play(arguments, file)
    target = options.target(arguments)
    options.check_rolling(arguments, False)
    screen.need_terminal("live", _INSTEAD)
    if target.command:
        return _run_command(arguments, target)
    with _session(arguments, target.selection) as session:
        return _watch(arguments, session, target, None)


def _run_command(arguments: Namespace, target: options.Target) -> int:
    from tracer.kernel.launch import HeldCommand

    # Fork before the session is imported: numpy may start threads, and the child should be a copy of little.
    with screen.away_from_terminal():
        held = HeldCommand(target.command)
    with held as command:
        selection = replace(target.selection, pids=(command.pid,))
        with _session(arguments, selection, expect_exec=True) as session:
            command.release()
            code = _watch(arguments, session, target, command)
        ended = command.poll()
        if ended is None:
            if code > screen.SIGNALLED:
                # As with every other verb: who asks us to end means the command.
                command.send(code - screen.SIGNALLED)
                return command.wait()
            note(f"{target.command[0]} goes on as process {command.pid}")
            return code
        return ended


@contextmanager
def _session(arguments: Namespace, selection: Selection, expect_exec: bool = False) -> Iterator[Session]:
    """With flows and faults where there are hooks that tell of them, and else without."""
    from tracer.session import Session

    progress = Progress(arguments.quiet)
    chosen = session_options(arguments, Wants(regions=True, policies=arguments.policies))
    with_events = replace(chosen, flows=not arguments.no_flows, faults=not arguments.no_faults)
    hooked = arguments.hooks != "none" and arguments.reader != "numa_maps"
    with ExitStack() as stack:
        try:
            session = stack.enter_context(
                Session(selection, with_events if hooked else chosen, progress, expect_exec=expect_exec)
            )
        except HooksMissing:
            session = stack.enter_context(Session(selection, chosen, progress, expect_exec=expect_exec))
        finally:
            progress.clear()
        yield session


def _watch(arguments: Namespace, session: Session, target: options.Target, command: HeldCommand | None) -> int:
    from tracer.live.app import NumatraceApp
    from tracer.live.history import History
    from tracer.live.source import Tick

    source = _Samples(session, target, arguments.every or _DEFAULT_INTERVAL_S, command)
    # The first one before the screen is taken: whatever is wrong is said in a line.
    first = Tick(session.refresh(), 0.0)
    history = History(screen.colour(arguments), keep_last=not target.selection.open_ended)
    notes = () if arguments.quiet else tuple(session.notes)
    app = NumatraceApp(history, source, first=first, notes=notes)
    code = screen.show(app)
    if not arguments.quiet:
        for text in session.notes[len(notes) :]:
            note(text)
    if app.feed is not None and not app.feed.join():
        note("a sample that was under way did not come to its end")
    return code


class _Samples:
    """A `tracer.live.source.Source`: refreshes a session on a fixed beat, in the thread that calls `next`."""

    def __init__(
        self,
        session: Session,
        target: options.Target,
        every_s: float,
        command: HeldCommand | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = _title(target)
        self.every_s = every_s
        self._session = session
        self._command = command
        self._clock = clock
        self._last = self._beat = clock()
        self._looks = 0

    def next(self, stopped: Callable[[], bool]) -> Tick | None:
        from tracer.kernel.procfs import TargetGone
        from tracer.live.source import Tick

        if not self._wait(stopped):
            return None
        try:
            sample = self._session.refresh()
        except TargetGone:
            return None
        now = self._clock()
        seconds, self._last = now - self._last, now
        return Tick(sample, seconds)

    def _wait(self, stopped: Callable[[], bool]) -> bool:
        """Until the next beat; one that was missed is skipped. False when there is nothing to wait for."""
        self._beat = max(self._beat + self.every_s, self._clock())
        while not self._looks and (left := self._beat - self._clock()) > 0:
            if stopped():
                return False
            if not self._session.wait(min(left, _SLICE_S)):
                self._looks = 1
        if self._looks:
            self._looks += 1
            return self._looks <= LAST_LOOKS + 1
        return not stopped()

    def last_words(self) -> str:
        """Of a command, with its exit code."""
        if self._command is None:
            return "exited"
        code = self._command.poll()
        return "exited" if code is None else f"exited with code {code}"


def _title(target: options.Target) -> str:
    selection = target.selection
    words = [" ".join(target.command)] * bool(target.command)
    words += [f"PID {pid}" for pid in selection.pids]
    words += [f"control group {selection.cgroup}"] * bool(selection.cgroup)
    words += [f"name {selection.name}"] * bool(selection.name)
    return ", ".join(words)


VERB = Verb(
    name="live",
    summary="show where the pages of processes are, on the terminal, as they move",
    description=_DESCRIPTION,
    usage=f"{options.FILE_USAGE} [--every SEC] [options]",
    configure=_configure,
    run=_run,
    takes_command=True,
)
