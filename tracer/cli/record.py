"""The verb `record`: everything that happens to the pages of processes, in a file that can be looked at later."""

from __future__ import annotations

import math
import signal
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from tracer.cli import options
from tracer.cli.messages import note
from tracer.cli.output import Output
from tracer.cli.record_view import RecordView
from tracer.cli.verb import Verb
from tracer.cli.watch import Pace, Wants, Watch
from tracer.errors import HooksMissing, NumatraceError, UsageError

if TYPE_CHECKING:
    from tracer.record.rotation import Rotation

__all__ = ["VERB"]

_DEFAULT_INTERVAL_S = 1.0

_DESCRIPTION = """\
Writes the placement of a process, every change of it, the pages that moved and the page faults to a parquet file, one
sample each second, until the process ends, until --duration is over or until Ctrl-C. A command after -- is recorded
from its first page on; the exit code is the command's.

numatrace replay FILE shows the recording as it was live; numatrace maps FILE --at TIME prints any moment of it, and
flows, faults, diff and report take it too. The file is one table that pandas, DuckDB, polars and Spark read:
docs/recording.md says what each column means. It holds only what changed, and everything again once a minute.

The file appears when the recording is over. Until then it is in a hidden directory beside it. What was written when the
recorder was killed, or the machine, is found there by the next numatrace that is given the file's name, and made a
recording then. When the disk is full the recording ends, and can be read. A file that is there already is replaced only
with -f, and only at the end. The file is readable by its owner alone, who is whoever called sudo.

With --rotate the output is a directory, in which a new file begins at each full hour (UTC), or whatever time is given,
and at each day, or when one has become that large: host=NAME/date=YYYY-MM-DD/HHMMSS.parquet. Each can be read by
itself, and all of them as one table.

With --policies it also holds the policies of all memory areas and threads, each change of them, and the pages that lie
elsewhere than they promise, by cause: what numatrace policy FILE then explains. Without it that verb can compare a
recording with its policies, and does not know why they differ.

Page moves and page faults are known to the BPF hooks only. Where those cannot be used, the rest is recorded."""


def _configure(parser: ArgumentParser) -> None:
    options.add_target(parser)
    group = parser.add_argument_group("what to write")
    group.add_argument("-o", "--output", required=True, metavar="FILE", help="FILE.parquet; with --rotate a directory")
    group.add_argument("-f", "--force", action="store_true", help="replace FILE, if it is there, at the end")
    group.add_argument(
        "--every",
        type=options.interval,
        default=_DEFAULT_INTERVAL_S,
        metavar="SEC",
        help=f"seconds between two samples (default: {_DEFAULT_INTERVAL_S:g})",
    )
    group.add_argument("--duration", type=options.duration, metavar="SEC", help="end after SEC seconds")
    group.add_argument(
        "--rotate",
        type=_rotation,
        metavar="WHEN",
        help="begin a new file after a time (30m, 1h, 1d) or a size (100MB), in the directory FILE",
    )
    group.add_argument(
        "--full",
        action="store_true",
        help="with the fields anon, dirty, mapmax, swapcache, active and writeback; reads every page's flags",
    )
    group.add_argument("--threads", action="store_true", help="tell apart which thread each page fault was of")
    group.add_argument("--regions", action="store_true", help="with the counts of each 2 MiB of each memory area")
    options.add_policies(parser)
    options.add_trace_policy(parser)
    options.add_events(parser)
    group.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="what is said at the end: text on standard error, or json: one object on standard output (default: text)",
    )
    options.add_reading(parser)
    options.add_general(parser)


def _rotation(text: str) -> Rotation:
    """For argparse."""
    from tracer.record.rotation import Rotation

    try:
        return Rotation.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _run(arguments: Namespace) -> int:
    target = options.target(arguments)
    wants, missed = _wants(arguments)
    _check_pyarrow()
    # It may be closed, and then nothing is begun.
    output = Output() if arguments.format == "json" else None
    with _ended_in_order():
        recovered = _recover(arguments)
        from tracer.record.claim import claim

        claimed = claim(arguments.output, arguments.force, arguments.rotate is not None)
        view = RecordView(claimed, target, arguments, recovered, output)
        try:
            _say(arguments, missed)
            code = _watch(target, arguments, view, wants)
        finally:
            view.leave()
            claimed.close()
    # With a command it is that one's code. But a recording that ended too early is no success.
    return code or (view.failed.exit_code if view.failed else 0)


def _watch(target: options.Target, arguments: Namespace, view: RecordView, wants: Wants) -> int:
    duration = math.inf if arguments.duration is None else arguments.duration
    pace = Pace(arguments.every, None, duration, patient=True)
    try:
        return _watch_with(target, pace, arguments, view, wants)
    except HooksMissing:
        if wants.threads or wants.policy_calls:
            raise
    # Nothing has been started yet, and the session says itself why there are none.
    policies = ", policies of threads and why pages lie elsewhere" if wants.policies else ""
    _say(arguments, f"page moves and page faults{policies} are not recorded: they are seen by the hooks only")
    return _watch_with(target, pace, arguments, view, Wants(details=wants.details))


def _watch_with(target: options.Target, pace: Pace, arguments: Namespace, view: RecordView, wants: Wants) -> int:
    watch = Watch(target, pace, arguments, view, wants, view.progress, view.ready)
    view.wants, view.interrupted = wants, lambda: watch.interrupted
    return watch.run()


def _wants(arguments: Namespace) -> tuple[Wants, str]:
    """What to record, and what the user should know is missing from it."""
    if arguments.threads and arguments.no_faults:
        raise UsageError("--threads is about page faults, and --no-faults leaves them out", "choose one")
    options.check_trace_policy(arguments)
    options.check_rolling(arguments, False)
    # To ask for the time of changes is to ask for the changes.
    policies = arguments.policies or arguments.trace_policy
    if arguments.hooks != "none" and arguments.reader != "numa_maps":
        wants = Wants(
            details=arguments.full,
            flows=not arguments.no_flows,
            faults=not arguments.no_faults,
            threads=arguments.threads,
            regions=arguments.regions,
            policies=policies,
            policy_calls=arguments.trace_policy,
        )
        return wants, ""
    choice = "--hooks none" if arguments.hooks == "none" else "--reader numa_maps"
    for option, given in (("--threads", arguments.threads), ("--regions", arguments.regions)):
        if given:
            raise UsageError(f"{option} needs the hooks, and {choice} has none", "leave one of them away")
    missed = [*["page moves and page faults"] * (not (arguments.no_flows and arguments.no_faults))]
    missed += ["policies of threads and why pages lie elsewhere"] * policies
    # The recording is to say that it has none, so that nobody looks for them there.
    said = f"{', '.join(missed)} are not recorded: {choice} cannot see them" if missed else ""
    return Wants(details=arguments.full), said


def _check_pyarrow() -> None:
    """Not by importing it: a command is forked first."""
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise NumatraceError("cannot record: there is no pyarrow", "pip install pyarrow")


def _recover(arguments: Namespace) -> str | None:
    """What an earlier recorder has left behind becomes a recording first."""
    from tracer.record.hidden import left_over

    if left_over(arguments.output.rstrip("/")) is None:
        return None
    from tracer.record.recover import recover

    recovered = recover(arguments.output)
    if recovered:
        _say(arguments, recovered)
    return recovered


def _say(arguments: Namespace, text: str) -> None:
    if text and not arguments.quiet:
        note(text)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """A request to end that comes when nobody is ready for one leaves nothing behind."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    ends = [it for it in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(it) is signal.SIG_DFL]
    before = {number: signal.signal(number, interrupt) for number in ends}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


VERB = Verb(
    name="record",
    summary="write what happens to the pages of processes to a parquet file",
    description=_DESCRIPTION,
    usage=f"{options.TARGET_USAGE} -o FILE.parquet [--every SEC] [--duration SEC] [--rotate WHEN] [-f] [options]",
    configure=_configure,
    run=_run,
    takes_command=True,
)
