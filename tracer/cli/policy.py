"""The verb `policy`: whether pages lie as the policies in force promise, and if not, why."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from tracer.cli import options
from tracer.cli.messages import note
from tracer.cli.policy_view import Asked, PolicyView
from tracer.cli.recorded import Chosen, open_file
from tracer.cli.verb import Verb
from tracer.cli.watch import Pace, Wants, Watch
from tracer.errors import NumatraceError, UsageError
from tracer.model.moments import FORMS, parse_moment

if TYPE_CHECKING:
    from tracer.record.recording import Recording

__all__ = ["VERB"]

_DEFAULT_INTERVAL_S = 1.0
_LOOK_S = 0.2
"""Policies are read at each look: one that changes is known to within so many seconds."""
_MOST_VMAS = 20
_MOST_MOMENTS = 64
"""Samples of a recording that are read for changes of policies alone; of earlier ones they are only counted."""

_DESCRIPTION = """\
Answers the question why pages do not lie where a memory policy promises. For each memory area with a policy, of its
own or of the task, it prints the nodes that the policy can really use, the share of each node that it promises and
the share that there is, the pages above what is expected, and a verdict: as-promised, too-small to say, skewed (more
than chance and the size of huge pages explain), or cannot-apply. Of each area that is not as promised it says why:
every page that lies elsewhere has one cause, and each cause a remedy. docs/policy.md explains them all.

With -p PID alone it looks once. It then knows where pages are, and not how they came there, so that most causes are
unknown. With --duration, --every or --count it watches, until then or until Ctrl-C, and prints what it knows at the
end, and with --every at each interval. A command after -- is watched from its first page on; what is printed is the
last placement that was seen before it ended, and the exit code is the command's. It is looked at five times a second:
who lives shorter than that may not be seen.

With FILE, what numatrace record wrote, it prints what was so at the end, when a process was last seen, or at the
moment of --at. If it was recorded with --policies the causes are known as well.

--as says how far the placement is from a policy that is not set, and how many pages would have to move for it:
interleave=0-3, weighted=0:3,1:1 (node:weight), bind=0, prefer=1. It changes nothing.

A change of a policy is dated by the look that found it. --trace-policy traces the system calls that set policies, for
the exact time and the thread of each: that makes all system calls of the whole machine a little slower.

Pages are counted as in numa_maps: a transparent huge page is 512 pages, a page of hugetlbfs is 1. A line on standard
error that begins with # says for each process how far this can be believed."""


def _configure(parser: ArgumentParser) -> None:
    options.add_target(parser, file=True)
    parser.add_argument(
        "--every", type=options.interval, metavar="SEC", help="watch, and print every SEC seconds and at the end"
    )
    parser.add_argument(
        "--count", type=options.count, metavar="N", help="end after N intervals (of a second, unless --every says so)"
    )
    parser.add_argument("--duration", type=options.duration, metavar="SEC", help="watch, and end after SEC seconds")
    parser.add_argument("--at", type=options.moment, metavar="TIME", help=f"this moment of the recording: {FORMS}")
    _configure_report(parser)
    options.add_trace_policy(parser)
    options.add_reading(parser)
    options.add_general(parser)


def _configure_report(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--as",
        dest="as_policy",
        metavar="POLICY",
        help="how far the placement is from this policy: interleave=0-3, weighted=0:3,1:1, bind=0, prefer=1",
    )
    options.add_vmas(parser, _MOST_VMAS)
    parser.add_argument(
        "--all", action="store_true", help="also memory areas without a policy, and those without pages"
    )
    parser.add_argument(
        "--significance",
        type=_probability,
        metavar="P",
        help="call skewed what chance gives less often than this (default: 0.001)",
    )
    parser.add_argument(
        "--tolerance",
        type=_share,
        metavar="SHARE",
        help="share of the pages that may lie elsewhere before that counts, however certain it is (default: 0.01)",
    )
    parser.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="text: tables and reasons; json: one object per process and line (default: text)",
    )


def _probability(text: str) -> float:
    """For argparse."""
    number = _number(text)
    if not 0.0 < number < 1.0:
        raise ArgumentTypeError(f"{text!r} is not a level of significance: give a number above 0 and below 1")
    return number


def _share(text: str) -> float:
    """For argparse."""
    number = _number(text)
    if not 0.0 <= number < 1.0:
        raise ArgumentTypeError(f"{text!r} is not a share: give a number from 0 to below 1, such as 0.01 for 1 %")
    return number


def _number(text: str) -> float:
    """Not a number where it is none: every comparison with that is False."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _run(arguments: Namespace) -> int:
    file = options.recording(arguments)
    if file is not None:
        return _run_recorded(arguments, file)
    target = options.target(arguments)
    options.check_trace_policy(arguments)
    asked = _asked(arguments)
    pace = _pace(arguments, bool(target.command))
    view = PolicyView(arguments, target.selection.open_ended, asked)
    wants = Wants(policies=True, policy_calls=arguments.trace_policy)
    return Watch(target, pace, arguments, view, wants).run()


def _pace(arguments: Namespace, command: bool) -> Pace:
    """One look, unless anything asks for more."""
    every = arguments.every
    if every is None and arguments.count is not None:
        every = _DEFAULT_INTERVAL_S
    if every is None and arguments.duration is None and not command:
        return Pace()
    duration = math.inf if arguments.duration is None else arguments.duration
    return Pace(every, arguments.count, duration, sums=True, step_s=_LOOK_S)


def _asked(arguments: Namespace) -> Asked | None:
    """What --as means. UsageError for what is no policy."""
    text: str | None = arguments.as_policy
    if text is None:
        return None
    from tracer.model.whatif import parse_policy

    try:
        policy, weights = parse_policy(text)
    except ValueError as error:
        hint = "give one such as interleave=0-3, weighted=0:3,1:1, bind=0 or prefer=1"
        raise UsageError(f"--as {text}: {error}", hint) from None
    return Asked(text, policy, weights)


# -- recordings ---------------------------------------------------------------------------------------------------


def _run_recorded(arguments: Namespace, path: str) -> int:
    for option in ("every", "count"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option} is about live processes and {path} is a recording", "give --at TIME")
    asked = _asked(arguments)
    with open_file(path, arguments.quiet) as recording:
        chosen = Chosen(recording, arguments)
        view = PolicyView(arguments, chosen.open_ended, asked)
        index = chosen.last_alive() if arguments.at is None else parse_moment(arguments.at, recording)
        # Who ended just then was seen last in a sample before.
        sample = replace(chosen.at(index), ended=())
        if not sample.snapshots:
            seen = recording.time(chosen.last_alive()).astimezone()
            raise NumatraceError(
                f"at {sample.time.astimezone():%H:%M:%S} none of the processes was there",
                f"the last one was seen at {seen:%H:%M:%S}, which is shown without --at",
            )
        if recording.info.policies:
            _remember_changes(recording, chosen, index, {it.pid for it in sample.snapshots}, view)
        elif not arguments.quiet:
            note(f"{path} was recorded without --policies: all that lies elsewhere is of unknown cause")
        view.take(sample, 0.0)
        view.show()
    return 0


def _remember_changes(recording: Recording, chosen: Chosen, index: int, pids: set[int], view: PolicyView) -> None:
    """What changed before that sample: the changes of its targets, from no more samples than there is time for."""
    table = recording.rows("target", columns=("time", "pid", "policy_changes"), last=index)
    times, those, changes = (table.column(name).to_pylist() for name in ("time", "pid", "policy_changes"))
    found = [
        (recording.index_at(time), pid, len(its))
        for time, pid, its in zip(times, those, changes, strict=True)
        if its and pid in pids
    ]
    moments = sorted({at for at, _, _ in found if at < index})[-_MOST_MOMENTS:]
    left_out: Counter[int] = Counter()
    for at, pid, count in found:
        if moments and at < moments[0]:
            left_out[pid] += count
    for at in moments:
        view.remember(chosen.at(at), pids, left_out)
        left_out.clear()


VERB = Verb(
    name="policy",
    summary="print whether pages lie as memory policies promise, and why not",
    description=_DESCRIPTION,
    usage=f"{options.FILE_USAGE} [--every SEC] [--count N] [--duration SEC | --at TIME] [--as POLICY] [--all] "
    "[--vmas N] [--significance P] [--tolerance SHARE] [--trace-policy] [--format text|json] [options]",
    configure=_configure,
    run=_run,
    takes_command=True,
)
