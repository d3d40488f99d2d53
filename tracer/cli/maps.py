"""The verb `maps`: the placement of a process as text or JSON, once or again and again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tracer.cli import messages, options
from tracer.cli.output import Output
from tracer.cli.verb import Verb
from tracer.cli.watch import Pace, Watch

if TYPE_CHECKING:
    from tracer.model.snapshot import Snapshot

__all__ = ["VERB"]

_DEFAULT_INTERVAL_S = 1.0

_DESCRIPTION = """\
Prints where the pages of a process are, one line per memory area, as /proc/PID/numa_maps does. The process is read
once; after that BPF programs keep the counts live, so that looking again costs what has changed and not the size of
the process.

With -p PID one snapshot is printed, with --every or --count several. A command after -- is held until the hooks are
attached, and then watched from its first page to its end, every second if --every does not say otherwise; the exit
code is the command's own. After --count snapshots the command goes on unwatched. It shares standard output with the
snapshots: redirect its output if that is in the way, as in: -- sh -c 'CMD >file'.

The text formats write a line that begins with # to standard error for each snapshot. It says how far the snapshot can
be believed: settling, unexplained, lost and drift are 0 when every count is exact. In JSON it is part of the object.
Several snapshots in a text format are separated by an empty line.

The fields dirty, active, writeback, swapcache and mapmax change without any page being mapped or unmapped, so nothing
can keep them live. They are printed with --full only, which reads the flags of every page."""


def _configure(parser: ArgumentParser) -> None:
    options.add_target(parser)
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
    options.add_reading(parser)
    options.add_general(parser)


def _run(arguments: Namespace) -> int:
    target = options.target(arguments)
    every = arguments.every
    if every is None and (target.command or arguments.count is not None):
        every = _DEFAULT_INTERVAL_S
    details = arguments.full or arguments.format == "2005"
    show = _shower(arguments.format, arguments.full, arguments.quiet, Output())
    return Watch(target, Pace(every, arguments.count), arguments, show, details).run()


def _shower(form: str, full: bool, quiet: bool, output: Output) -> Callable[[Snapshot], None]:
    """What to do with each snapshot."""

    first = True

    def show_json(snapshot: Snapshot) -> None:
        from tracer.render import jsonl

        output.write(jsonl.line(snapshot).encode("ascii") + b"\n")

    def show_text(snapshot: Snapshot) -> None:
        nonlocal first
        from tracer.render import trust

        if not first:
            output.write(b"\n")
        first = False
        if not quiet:
            messages.write(trust.line(snapshot))
        output.write_lines(_text_lines(form, full, snapshot))

    return show_json if form == "json" else show_text


def _text_lines(form: str, full: bool, snapshot: Snapshot) -> Iterable[bytes]:
    from tracer.render import numa_maps, original

    return original.lines(snapshot) if form == "2005" else numa_maps.lines(snapshot, full)


VERB = Verb(
    name="maps",
    summary="print where the pages of a process are, in the format of numa_maps",
    description=_DESCRIPTION,
    usage="(-p PID | -- CMD [ARG ...]) [--format kernel|2005|json] [--full] [--every SEC] [--count N] [options]",
    configure=_configure,
    run=_run,
    takes_command=True,
)
