"""The verb `maps`: the placement of processes as text or JSON, once or again and again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from tracer.cli import messages, options
from tracer.cli.output import Output
from tracer.cli.recorded import Beat, Chosen, open_file, span_of
from tracer.cli.verb import Verb
from tracer.cli.watch import Pace, View, Wants, Watch
from tracer.errors import NumatraceError, UsageError
from tracer.model.moments import parse_moment, span

if TYPE_CHECKING:
    from tracer.model.sample import Sample
    from tracer.model.snapshot import Snapshot
    from tracer.record.recording import Recording

__all__ = ["VERB"]

_DEFAULT_INTERVAL_S = 1.0

_DESCRIPTION = """\
Prints where the pages of a process are, one line per memory area, as /proc/PID/numa_maps does. The process is read
once; after that BPF programs keep the counts live, so that looking again costs what has changed and not the size of
the process.

With -p PID one snapshot is printed, with --every or --count several. -p may be repeated; --cgroup and --name watch
whoever is in a control group or has a name, also those who come later, and end only when they are told to; they can
be combined. With --follow-forks the children of all these are watched as well. A command after -- is held until the
hooks are attached, and then watched from its first page to its end, every second if --every does not say otherwise;
the exit code is the command's own. After --count snapshots the command goes on unwatched. It shares standard output
with the snapshots: redirect its output if that is in the way, as in: -- sh -c 'CMD >file'.

The text formats write a line that begins with # to standard error for each snapshot. It says how far the snapshot can
be believed: settling, unexplained, lost and drift are 0 when every count is exact. In JSON it is part of the object.
Several snapshots in a text format are separated by an empty line.

Where there may be several processes, the lines of each follow a line that begins with # and names it, with the PID in
its own namespace (a container) where that is another one. A last line gives the pages on each node over all of them:
a page that several processes share counts in each, as it does in the numa_maps of each. In JSON each process has an
object of its own, and one more, with the key targets, is for all of them.

With FILE, what numatrace record wrote, it prints what was there then: the last sample with a live process, or that of
--at. With --from, --to, --every or --count it prints every sample in between, or one every SEC seconds. -p and --name
choose among the processes that were recorded. Text and JSON are those that a live process had at that moment; --full
and the format 2005 need a recording made with --full.

The fields dirty, active, writeback, swapcache and mapmax change without any page being mapped or unmapped, so nothing
can keep them live. They are printed with --full only, which reads the flags of every page."""


def _configure(parser: ArgumentParser) -> None:
    options.add_target(parser, file=True)
    parser.add_argument(
        "--format",
        choices=("kernel", "2005", "json"),
        default="kernel",
        help="kernel: as numa_maps of the running kernel; 2005: as numa_maps was first proposed; "
        "json: one object per line and snapshot (default: kernel)",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="with the fields anon, dirty, mapped, mapmax, swapcache, active and writeback; reads every page's flags",
    )
    parser.add_argument("--every", type=options.interval, metavar="SEC", help="print again every SEC seconds")
    parser.add_argument(
        "--count", type=options.count, metavar="N", help="end after N snapshots (every second, unless --every says so)"
    )
    options.add_span(parser, at="the last sample up to this moment (default: the last one with a live process)")
    options.add_reading(parser)
    options.add_general(parser)


def _run(arguments: Namespace) -> int:
    file = options.recording(arguments)
    if file is not None:
        return _run_recorded(arguments, file)
    target = options.target(arguments)
    every = arguments.every
    if every is None and (target.command or arguments.count is not None):
        every = _DEFAULT_INTERVAL_S
    view = _view(arguments, target.several, target.selection.open_ended)
    return Watch(target, Pace(every, arguments.count), arguments, view, Wants(details=_details(arguments))).run()


def _details(arguments: Namespace) -> bool:
    """Whether anything of what is printed takes reading every page's flags."""
    return bool(arguments.full) or arguments.format == "2005"


def _run_recorded(arguments: Namespace, path: str) -> int:
    series = [arguments.first, arguments.last, arguments.every, arguments.count] != [None] * 4
    if arguments.at is not None and series:
        raise UsageError("--at is one moment, and --from, --to, --every and --count are for several", "choose")
    with open_file(path, arguments.quiet) as recording:
        if _details(arguments) and not recording.info.details:
            wants = "--full" if arguments.full else "--format 2005"
            raise NumatraceError(f"{wants} needs details, and this was recorded without", "use numatrace record --full")
        chosen = Chosen(recording, arguments)
        view = _view(arguments, chosen.several, chosen.open_ended)
        if series:
            _print_series(arguments, recording, chosen, view)
        else:
            _print_moment(arguments, recording, chosen, view)
    return 0


def _print_moment(arguments: Namespace, recording: Recording, chosen: Chosen, view: View) -> None:
    index = chosen.last_alive() if arguments.at is None else parse_moment(arguments.at, recording)
    sample = _as_asked(arguments, chosen.at(index))
    if not view.take(sample, 0.0):
        seen = recording.time(chosen.last_alive()).astimezone()
        raise NumatraceError(
            f"at {sample.time.astimezone():%H:%M:%S} none of the processes was there",
            f"the last one was seen at {seen:%H:%M:%S}, which is shown without --at",
        )
    view.show()


def _print_series(arguments: Namespace, recording: Recording, chosen: Chosen, view: View) -> None:
    first, last = span_of(arguments, recording)
    start = recording.time(first or 0)
    beat = Beat(0.0, arguments.every, recording.info.every_s) if arguments.every is not None else None
    shown = 0
    for sample in chosen.samples(first or 0, last):
        seconds = (sample.time - start).total_seconds()
        there = view.take(_as_asked(arguments, sample), seconds)
        due = beat is None or beat.due(seconds) or not shown
        if there and due:
            view.show()
            shown += 1
            if shown == arguments.count:
                break
    if not shown:
        raise NumatraceError("none of the processes was there then", f"the recording goes {span(recording)}")
    view.finish()


def _as_asked(arguments: Namespace, sample: Sample) -> Sample:
    """Details that were recorded and not asked for are not shown, as they would not be of a live process."""
    if _details(arguments):
        return sample
    return replace(sample, snapshots=tuple(replace(snapshot, details=None) for snapshot in sample.snapshots))


def _view(arguments: Namespace, several: bool, open_ended: bool) -> View:
    output = Output()
    if arguments.format == "json":
        return _Json(output, several, open_ended)
    return _Text(output, several, open_ended, arguments.format, arguments.full, arguments.quiet)


class _Placement:
    """Shows the last sample. several: whether a sample may have more than one target, so that they are told apart.
    open_ended: whether a sample without any is one to show."""

    def __init__(self, output: Output, several: bool, open_ended: bool) -> None:
        self._output = output
        self._several = several
        self._open_ended = open_ended
        self._sample: Sample | None = None
        self._ended: list[int] = []

    def take(self, sample: Sample, seconds: float) -> bool:
        self._sample = sample
        self._ended += [snapshot.pid for snapshot in sample.ended]
        return bool(sample.snapshots) or self._open_ended

    def show(self) -> None:
        ended, self._ended = self._ended, []
        if self._sample is not None:
            self._print(self._sample, ended)

    def finish(self) -> None:
        """Nothing: what has ended has no placement."""

    def _print(self, sample: Sample, ended: list[int]) -> None:
        """ended: PIDs of those that ended since the last time."""
        raise NotImplementedError


class _Json(_Placement):
    """A line for each target, and one for all of them."""

    def _print(self, sample: Sample, ended: list[int]) -> None:
        from tracer.render import jsonl

        lines = [jsonl.line(snapshot, sample.untraced) for snapshot in sample.snapshots]
        if self._several:
            lines.append(jsonl.session_line(sample, ended))
        self._output.write("".join(line + "\n" for line in lines).encode("ascii"))

    def finish(self) -> None:
        """Who ended last; of one that was watched by itself that need not be said."""
        if self._several and self._ended:
            self.show()


class _Text(_Placement):
    """The lines of each target; samples after an empty line. Trust goes to standard error, unless quiet."""

    def __init__(self, output: Output, several: bool, open_ended: bool, form: str, full: bool, quiet: bool) -> None:
        super().__init__(output, several, open_ended)
        self._form = form
        self._full = full
        self._quiet = quiet
        self._first = True

    def _print(self, sample: Sample, ended: list[int]) -> None:
        from tracer.render import targets, trust

        if not self._first:
            self._output.write(b"\n")
        self._first = False
        for snapshot in sample.snapshots:
            if not self._quiet:
                messages.write(trust.line(snapshot))
            if self._several:
                self._output.write_lines([targets.header(snapshot).encode()])
            self._output.write_lines(_text_lines(self._form, self._full, snapshot))
        if self._several:
            self._output.write_lines(line.encode() for line in targets.totals(sample))
        elif not self._quiet:
            for line in targets.untraced(sample.untraced):
                messages.write(line)


def _text_lines(form: str, full: bool, snapshot: Snapshot) -> Iterable[bytes]:
    from tracer.render import numa_maps, original

    return original.lines(snapshot) if form == "2005" else numa_maps.lines(snapshot, full)


VERB = Verb(
    name="maps",
    summary="print where the pages of processes are, in the format of numa_maps",
    description=_DESCRIPTION,
    usage=f"{options.FILE_USAGE} [--format kernel|2005|json] [--full] [--every SEC] [--count N] "
    "[--at TIME | --from TIME --to TIME] [options]",
    configure=_configure,
    run=_run,
    takes_command=True,
)
