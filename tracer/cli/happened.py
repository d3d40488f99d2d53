"""What the verbs `flows` and `faults` share: their options, and how samples become reports of what happened."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from tracer.cli import messages, options
from tracer.cli.output import Output
from tracer.cli.progress import Progress
from tracer.cli.recorded import Beat, Chosen, open_file, span_of
from tracer.cli.watch import Pace, Wants, Watch
from tracer.errors import NumatraceError, UsageError

if TYPE_CHECKING:
    from tracer.model.accumulate import FaultSums, FlowSums, Period
    from tracer.model.sample import Sample
    from tracer.model.snapshot import Snapshot
    from tracer.record.recording import Recording

__all__ = ["PERIOD_USAGE", "Report", "add_period", "run"]

PERIOD_USAGE = "[--every SEC] [--count N] [--duration SEC | --from TIME --to TIME] [--format text|json] [--vmas N]"

_DEFAULT_INTERVAL_S = 1.0

Sums = TypeVar("Sums", "FlowSums", "FaultSums")


def add_period(parser: ArgumentParser) -> None:
    """Of how long a time, live or in a recording, and how it is printed."""
    parser.add_argument(
        "--every",
        type=options.interval,
        metavar="SEC",
        help="print what happened every SEC seconds, and the sum at last",
    )
    parser.add_argument(
        "--count", type=options.count, metavar="N", help="end after N intervals (of a second, unless --every says so)"
    )
    parser.add_argument("--duration", type=options.duration, metavar="SEC", help="end after SEC seconds")
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="text: tables; json: one object per line and interval (default: text)",
    )
    options.add_vmas(parser)
    options.add_span(parser)


@dataclass(frozen=True, slots=True)
class Report(Generic[Sums]):
    """A kind of report. Whatever it needs it imports when it is called: the command is forked before.

    noun: what it tells of, in the plural. sums: makes empty ones.
    lines: of a period, with the heading's first words, and whether there may be several targets.
    json_line: the same on one line.
    """

    noun: str
    sums: Callable[[], Sums]
    lines: Callable[[Period[Sums], str, bool], Iterable[str]]
    json_line: Callable[[Period[Sums]], str]


def run(arguments: Namespace, report: Report[Sums], wants: Wants) -> int:
    """Watch, or read a recording, and report. Returns the exit code."""
    file = options.recording(arguments)
    if file is not None:
        return _run_recorded(arguments, file, report, wants)
    target = options.target(arguments)
    if arguments.hooks == "none" or arguments.reader == "numa_maps":
        choice = "--hooks none" if arguments.hooks == "none" else "--reader numa_maps"
        raise UsageError(f"{report.noun} are told by the hooks, and {choice} has none", "leave that option away")
    every = arguments.every
    if every is None and arguments.count is not None:
        every = _DEFAULT_INTERVAL_S
    duration = math.inf if arguments.duration is None else arguments.duration
    view = _Periods(report, target.several, target.selection.open_ended, every is not None, arguments)
    return Watch(target, Pace(every, arguments.count, duration, sums=True), arguments, view, wants).run()


def _run_recorded(arguments: Namespace, path: str, report: Report[Sums], wants: Wants) -> int:
    every = arguments.every
    if every is None and arguments.count is not None:
        every = _DEFAULT_INTERVAL_S
    with open_file(path, arguments.quiet) as recording:
        _check_recorded(recording, wants)
        chosen = Chosen(recording, arguments)
        first, last = span_of(arguments, recording)
        if first == last:
            raise UsageError("--from and --to are the same sample", "give moments further apart")
        view = _Periods(report, chosen.several, chosen.open_ended, every is not None, arguments)
        start = _start(recording) if first is None else recording.time(first)
        beat = Beat(0.0, every or math.inf, recording.info.every_s)
        progress = Progress(arguments.quiet)
        before, shown = 0.0, 0
        for sample in chosen.samples(0 if first is None else first + 1, last, progress):
            now = max(0.0, (sample.time - start).total_seconds())
            view.take(sample if wants.threads else _without_threads(sample), now - before)
            before = now
            if beat.due(now):
                progress.clear()
                view.show()
                shown += 1
                if shown == arguments.count:
                    break
        progress.clear()
        view.finish()
    return 0


def _check_recorded(recording: Recording, wants: Wants) -> None:
    """NumatraceError where what is wanted was not recorded."""
    info = recording.info
    for name, missing in (("flows", wants.flows and not info.flows), ("faults", wants.faults and not info.faults)):
        if missing:
            raise NumatraceError(f"{name} were not recorded", f"record with hooks, and without --no-{name}")
    if wants.threads and not info.threads:
        raise NumatraceError("threads were not told apart when this was recorded", "use numatrace record --threads")


def _start(recording: Recording) -> datetime:
    """When the first sample's events began: when the hooks had been attached; its own time where that is not known."""
    first = recording.time(0)
    try:
        started = datetime.fromisoformat(recording.info.started)
    except ValueError:
        return first
    return min(started, first) if started.tzinfo else first


def _without_threads(sample: Sample) -> Sample:
    """With faults that do not tell threads apart, as they are where nobody asked for it."""
    return replace(sample, snapshots=tuple(map(_merged, sample.snapshots)), ended=tuple(map(_merged, sample.ended)))


def _merged(snapshot: Snapshot) -> Snapshot:
    faults = snapshot.faults
    if faults is None or not faults.thread.any():
        return snapshot
    return replace(snapshot, faults=replace(faults, thread=faults.thread * 0))


class _Periods(Generic[Sums]):
    """Adds samples up, and prints intervals and the sum, or only the latter."""

    def __init__(
        self, report: Report[Sums], several: bool, open_ended: bool, intervals: bool, arguments: Namespace
    ) -> None:
        """several: whether there may be more than one target. open_ended: whether nobody at all is worth telling."""
        self._report: Report[Sums] = report
        self._several = several
        self._open_ended = open_ended
        self._json = arguments.format == "json"
        self._quiet = arguments.quiet
        self._output = Output()
        self._interval: Period[Sums] | None = None
        self._total: Period[Sums] | None = None
        self._intervals = intervals
        self._printed = False

    def take(self, sample: Sample, seconds: float) -> bool:
        self._interval = self._interval or self._empty()
        self._interval.add(sample, seconds)
        if self._intervals:
            self._total = self._total or self._empty()
            self._total.add(sample, seconds)
        return bool(sample.snapshots or sample.ended) or self._open_ended

    def _empty(self) -> Period[Sums]:
        from tracer.model.accumulate import Period

        return Period(self._report.sums())

    def show(self) -> None:
        period, self._interval = self._interval, None
        if period is not None:
            self._print(period, self._report.noun)

    def finish(self) -> None:
        """What happened since the last interval, and the sum over all. JSON has no sum: it would count twice."""
        self.show()
        if self._total is not None and not self._json:
            self._print(self._total, f"{self._report.noun}, sum")

    def _print(self, period: Period[Sums], what: str) -> None:
        if self._json:
            self._output.write(self._report.json_line(period).encode("ascii") + b"\n")
            return
        from tracer.render import trust

        if self._printed:
            self._output.write(b"\n")
        self._printed = True
        if not self._quiet:
            for line in trust.seen_lines(period.targets):
                messages.write(line)
        self._output.write_lines(line.encode() for line in self._report.lines(period, what, self._several))
