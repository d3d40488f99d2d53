"""The verb `report`: a page, and pictures, of a recording."""

from __future__ import annotations

import contextlib
import os
from argparse import ArgumentParser, Namespace
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tracer.cli import options
from tracer.cli.messages import note
from tracer.cli.output import Output
from tracer.cli.progress import Progress
from tracer.cli.recorded import open_file, span_of
from tracer.cli.verb import Verb
from tracer.errors import NumatraceError, UsageError

if TYPE_CHECKING:
    from tracer.report.deliver import Drop
    from tracer.report.history import History

__all__ = ["VERB"]

_DESCRIPTION = """\
Makes a page of a recording, to read and to send round: one HTML file that needs nothing else, no network and no script,
for the screen, dark or light, and for paper. It has

the memory on each node over time, of all processes and of the largest ones; a map of the address space over time, by
node; the memory areas that changed most; what moved, from which node, for which reason and to which node; which CPUs
touched memory first, and where it then lay; the policies in force, with what they promise and what there is; and how
far the counts can be believed, and what it cost to get them.

--png DIR writes the plots as pictures: totals.png, heatmap.png, flows.png and touch.png, each only if there is anything
to draw. The directory is made if there is none. With --from and --to it is all about a part of the
recording; what happened before the first sample of that part is left out.

Where in a large memory area the nodes lie is known only if the recording was made with --regions. Otherwise the map
shows in stripes how much of an area lies on each node.

The files can be read by their owner only, who is the user that called sudo. Nothing is written through a symbolic
link, and no file is replaced without -f."""


def _configure(parser: ArgumentParser) -> None:
    options.add_file(parser, "+", "a recording: a file or a directory of numatrace record")
    group = parser.add_argument_group("what to make")
    group.add_argument("-o", "--output", metavar="FILE", help="the page, such as report.html")
    group.add_argument("--png", metavar="DIR", help="the plots, as pictures in this directory")
    group.add_argument("--title", metavar="TEXT", default="", help="the heading of the page")
    group.add_argument("-f", "--force", action="store_true", help="replace files that are there already")
    group.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="what is said at the end: text on standard error, or json: one object on standard output (default: text)",
    )
    options.add_span(parser)
    options.add_general(parser)


def _run(arguments: Namespace) -> int:
    if arguments.output is None and arguments.png is None:
        raise UsageError("there is nothing to make", "give -o FILE.html for a page, --png DIR for pictures, or both")
    if len(arguments.file) > 1:
        raise UsageError(f"{len(arguments.file)} recordings were given", "give one; each gets a report of its own")
    progress = Progress(arguments.quiet)
    try:
        with ExitStack() as stack:
            recording = stack.enter_context(open_file(arguments.file[0], arguments.quiet))
            first, last = span_of(arguments, recording)
            # Before the long work: whether its result has a place.
            drops = _drops(arguments, stack)
            from tracer.report.gather import gather

            history = gather(recording, first or 0, last, progress)
            files = _write(arguments, history, drops, progress)
    finally:
        progress.clear()
    _say(arguments, history, files)
    return 0


def _drops(arguments: Namespace, stack: ExitStack) -> tuple[tuple[Drop, str] | None, Drop | None]:
    try:
        from tracer.report.deliver import Drop
        from tracer.report.page import PLOTS
    except ModuleNotFoundError as error:
        raise NumatraceError(f"cannot draw: {error}", "pip install matplotlib jinja2") from None

    page = pictures = None
    if arguments.output is not None:
        _check_not_the_recording(arguments)
        page = Drop.for_file(arguments.output, arguments.force)
        stack.enter_context(page[0])
    if arguments.png is not None:
        names = tuple(f"{plot.name}.png" for plot in PLOTS)
        pictures = stack.enter_context(Drop.for_directory(arguments.png, names, arguments.force))
    return page, pictures


def _check_not_the_recording(arguments: Namespace) -> None:
    with contextlib.suppress(OSError, ValueError):
        if os.path.samefile(arguments.file[0], arguments.output):
            raise UsageError(f"{arguments.output} is the recording itself", "give another name")


def _write(
    arguments: Namespace, history: History, drops: tuple[tuple[Drop, str] | None, Drop | None], progress: Progress
) -> list[tuple[str, int]]:
    """Paths and sizes of the files."""
    from tracer.report import page

    files = []
    if drops[0] is not None:
        drop, name = drops[0]
        data = page.page(history, arguments.title, progress).encode("utf-8")
        files.append((drop.put(name, data), len(data)))
    if drops[1] is not None:
        for name, data in page.pictures(history, progress).items():
            files.append((drops[1].put(name, data), len(data)))
    return files


def _say(arguments: Namespace, history: History, files: list[tuple[str, int]]) -> None:
    if arguments.format == "json":
        from tracer.render.paths import text_name
        from tracer.render.stream import json_line
        from tracer.render.timestamp import timestamp

        listed = [{"path": text_name(os.fsencode(path)), "bytes": size} for path, size in files]
        fields = {
            "from": timestamp(history.started),
            "to": timestamp(history.ended),
            "samples": len(history.times),
            "files": listed,
        }
        Output().write(json_line("report", fields).encode("ascii") + b"\n")
        return
    if not arguments.quiet:
        for path, size in files:
            note(f"wrote {path} ({_kib(size)})")


def _kib(size: int) -> str:
    return f"{max(1, round(size / 1024)):,} KiB"


VERB = Verb(
    name="report",
    summary="make a page, or pictures, of a recording",
    description=_DESCRIPTION,
    usage="FILE [-o FILE.html] [--png DIR] [--title TEXT] [-f] [--from TIME] [--to TIME] [options]",
    configure=_configure,
    run=_run,
)
