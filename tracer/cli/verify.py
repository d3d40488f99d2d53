"""The verb `verify`: whether all counters equal the kernel's own file."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tracer.cli import messages, options
from tracer.cli.messages import note
from tracer.cli.output import Output
from tracer.cli.verb import Verb
from tracer.cli.watch import Beats, Pace, Wants, Watch
from tracer.errors import NumatraceError, UsageError

if TYPE_CHECKING:
    from tracer.kernel.freezer import Freezer
    from tracer.model.comparison import Comparison
    from tracer.model.sample import Sample
    from tracer.session import Session

__all__ = ["VERB"]

_DEFAULT_INTERVAL_S = 1.0
_PATIENCE_S = 10.0
_FROZEN_MAX_S = 30.0
"""How long a target is held still for one comparison, at most."""

_DESCRIPTION = """\
Compares everything with the kernel's own count, /proc/PID/numa_maps: every memory area, its pages on every node and its
policy. The process is traced as by every other verb; then the kernel's file is read, between two looks of numatrace.
If nothing differs it says so and the exit code is 0. Otherwise it prints a table of what differs, and the exit code
is 1: please report that.

A memory area can be compared while it stands still: when numatrace saw the same before and after the kernel's file was
read, and no event in between. An area that was changing is tried again, for --timeout seconds. If that does not help,
it is named, and the exit code is 1 as well: that is no difference, there was just nothing to compare.

--freeze holds the processes still for the moment of the comparison, by the cgroup freezer, and lets them go on in any
case: after an error, a signal, and after a kill -9 of numatrace, by a process that watches over it. It is some
hundredths of a second for a small process, and the time of one read of numa_maps for a large one, 30 s at most. If
the processes share their control group with others, they are moved for that moment into a new one below it, which
changes neither what they may use nor what they are charged for; where it would, numatrace refuses. Neither they nor
their parents see it, but time has passed, and some system calls may end early, as after any signal (signal(7)).
--freeze=stop does it with SIGSTOP and SIGCONT, which parents see: a shell takes it for Ctrl-Z.

With --every, --duration or --count it compares again and again while the processes go on, and says at the end how often
all was equal. A command after -- is compared every second; the exit code is the command's own, unless that is 0 and
something differed.

It takes root, as numatrace must have another source than the file itself. Reading numa_maps takes the kernel some 10 ms
for each GiB of the process."""


def _configure(parser: ArgumentParser) -> None:
    options.add_target(parser)
    parser.add_argument(
        "--full",
        action="store_true",
        help="compare the fields anon, dirty, mapped, mapmax, swapcache, active and writeback, too",
    )
    parser.add_argument(
        "--freeze",
        nargs="?",
        const="cgroup",
        choices=("cgroup", "stop"),
        help="hold the processes still meanwhile: by the cgroup freezer, or by SIGSTOP (default: cgroup)",
    )
    parser.add_argument(
        "--timeout",
        type=options.duration,
        default=_PATIENCE_S,
        metavar="SEC",
        help=f"how long to try again what was changing (default: {_PATIENCE_S:g})",
    )
    parser.add_argument("--every", type=options.interval, metavar="SEC", help="compare again every SEC seconds")
    parser.add_argument(
        "--count",
        type=options.count,
        metavar="N",
        help="end after N comparisons (every second, unless --every says so)",
    )
    parser.add_argument("--duration", type=options.duration, metavar="SEC", help="go on comparing for SEC seconds")
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="text: a line, or tables of what differs; json: one object per line and comparison (default: text)",
    )
    options.add_reading(parser)
    options.add_general(parser)


def _run(arguments: Namespace) -> int:
    target = options.target(arguments)
    if arguments.reader == "numa_maps":
        raise UsageError(
            "verify compares with numa_maps, and --reader numa_maps reads that very file", "use another reader"
        )
    every, command = arguments.every, bool(target.command)
    if every is None and (command or arguments.count is not None or arguments.duration is not None):
        every = _DEFAULT_INTERVAL_S
    duration = math.inf if arguments.duration is None else arguments.duration
    report = _Report(arguments, target.several, every is not None)
    with ExitStack() as stack:
        freezer = None
        if arguments.freeze is not None:
            # It forks, and so comes before all that may start threads.
            from tracer.kernel.freezer import Freezer
            from tracer.kernel.thaw import Watcher

            freezer = Freezer(arguments.freeze, stack.enter_context(Watcher()))
        pace = Pace(every, arguments.count, duration, patient=True)
        code = _Verification(target, pace, arguments, report, freezer).run()
    # With a command it is that one's code. But counters that were wrong are no success.
    return code or report.exit_code


class _Verification(Watch):
    """A watch that compares each sample instead of showing it."""

    def __init__(
        self, target: options.Target, pace: Pace, arguments: Namespace, report: _Report, freezer: Freezer | None
    ) -> None:
        super().__init__(target, pace, arguments, report, Wants(details=arguments.full))
        self._report, self._freezer = report, freezer
        self._options = arguments

    def _follow(self, session: Session) -> None:
        beats = Beats(self._pace, self._clock)
        shown = 0
        while True:
            sample = session.refresh()
            self._progress.clear()
            self._say(session.notes)
            self._say_who_is_awaited(sample)
            if sample.snapshots and self._has_something_to_show(sample):
                comparison = self._compare(session, sample)
                if comparison.targets and not (self.interrupted and not comparison.complete):
                    self._report.add(comparison)
                    self._told = True
                    shown += 1
            over = self.interrupted or beats.last or shown == self._pace.count or (shown and beats.single)
            if over or not self._wait(session, beats.next()):
                return

    def _compare(self, session: Session, sample: Sample) -> Comparison:
        from tracer.cli.verifier import Verifier, kernel_areas

        for snapshot in sample.snapshots:
            if snapshot.reader == "numa_maps":
                raise NumatraceError(
                    "there is nothing to compare with: numatrace itself reads numa_maps here",
                    "run as root, so that it can read page tables or pagemap",
                )
        patience, full = self._options.timeout, self._options.full
        if self._freezer is None:
            return Verifier(full, patience, self._given_up, kernel_areas).compare(session, sample)
        verifier = Verifier(full, min(patience, _FROZEN_MAX_S), self._given_up, kernel_areas)
        with self._freezer.frozen(snapshot.pid for snapshot in sample.snapshots):
            return verifier.compare(session, session.refresh(), frozen=True)

    def _given_up(self) -> bool:
        return self.interrupted


class _Report:
    """Prints comparisons, and counts them. several: whether there may be more than one target. series: whether there
    may be more than one comparison."""

    def __init__(self, arguments: Namespace, several: bool, series: bool) -> None:
        self._arguments, self._several, self._series = arguments, several, series
        self._output = Output()
        self._equal = self._different = self._incomplete = 0
        self._unfinished = ""

    @property
    def exit_code(self) -> int:
        """1 if anything differed, or if nothing was ever compared as a whole."""
        return int(bool(self._different) or not self._equal)

    def add(self, comparison: Comparison) -> None:
        """Print it."""
        from tracer.render import trust, verify

        self._equal += comparison.complete and not comparison.wrong
        self._different += comparison.wrong
        self._incomplete += not comparison.complete and not comparison.wrong
        number = self._equal + self._different + self._incomplete
        if self._arguments.format == "json":
            self._output.write(verify.json_line(comparison, number).encode("ascii") + b"\n")
        else:
            if not self._arguments.quiet:
                for target in comparison.targets:
                    messages.write(trust.line(target.snapshot))
            self._output.write_lines(line.encode() for line in verify.lines(comparison, self._several))
        if not comparison.complete:
            self._unfinished = verify.unfinished(comparison)

    def finish(self) -> None:
        """The sum of several, and why there is none."""
        from tracer.render import verify

        if self._series and self._arguments.format == "text":
            line = verify.summary(self._equal, self._different, self._incomplete)
            self._output.write_lines([line.encode()])
        if self._unfinished and not self._equal:
            hint = "" if self._arguments.freeze else "; stop the target for that long, or use --freeze"
            note(self._unfinished + hint)

    # What a view of samples has to have; a comparison is shown as it comes.

    def take(self, sample: Sample, seconds: float) -> bool:
        return bool(sample.snapshots)

    def show(self) -> None:
        """Nothing."""


VERB = Verb(
    name="verify",
    summary="compare all counts with the kernel's own, and say whether they are equal",
    description=_DESCRIPTION,
    usage=f"{options.TARGET_USAGE} [--full] [--freeze[=cgroup|stop]] [--timeout SEC] [--every SEC] [--count N] "
    "[--duration SEC] [--format text|json] [options]",
    configure=_configure,
    run=_run,
    takes_command=True,
)
