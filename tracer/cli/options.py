"""The options that verbs share, and what they mean, in one place."""

from __future__ import annotations

import math
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from dataclasses import dataclass

from tracer.errors import UsageError
from tracer.model.moments import FORMS, check_moment
from tracer.model.selection import Selection

__all__ = [
    "FILE_USAGE",
    "TARGET_USAGE",
    "Target",
    "add_choice",
    "add_events",
    "add_file",
    "add_general",
    "add_policies",
    "add_reading",
    "add_span",
    "add_target",
    "add_trace_policy",
    "add_vmas",
    "check_choice",
    "check_rolling",
    "check_trace_policy",
    "count",
    "duration",
    "interval",
    "moment",
    "node",
    "process_id",
    "recording",
    "target",
    "whole",
]

TARGET_USAGE = "(-p PID | --cgroup PATH | --name PATTERN | -- CMD [ARG ...]) [--follow-forks]"
FILE_USAGE = "(-p PID | --cgroup PATH | --name PATTERN | -- CMD [ARG ...] | FILE) [--follow-forks]"

_FILE_HELP = "a recording instead: a file that numatrace record wrote, or a directory of such files"
_PID_MAX = 2**31 - 1
_INTERVAL_MAX_S = 86_400.0
_DURATION_MAX_S = 366 * 86_400.0
_AUDIT_PERCENT = 5.0
_VMAS = 10
_LIVE_ONLY = (
    "follow_forks",
    "cgroup",
    "hooks",
    "reader",
    "seed",
    "audit_cpu",
    "duration",
    "no_flows",
    "no_faults",
    "policies",
    "trace_policy",
    "check",
)
"""Names of the options that concern live processes, as argparse has them."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to watch. selection: the processes; empty but for `follow_forks` where command, which is yet to be started,
    gives the first one."""

    selection: Selection
    command: tuple[str, ...] = ()

    @property
    def several(self) -> bool:
        """Whether there may be more than one target, so that an output has to tell them apart."""
        selection = self.selection
        return len(selection.pids) > 1 or selection.follow_forks or selection.open_ended


def add_target(parser: ArgumentParser, file: bool = False) -> None:
    """What to watch. The command of `-- CMD ARGS` never reaches argparse, which would take its options for ours.

    file: whether it may be a recording, which `recording` then gives.
    """
    if file:
        add_file(parser)
    group = parser.add_argument_group("what to watch", "or give a command to start and watch: -- CMD [ARG ...]")
    group.add_argument(
        "-p",
        "--pid",
        action="append",
        type=process_id,
        default=[],
        metavar="PID",
        help="this process; may be given several times",
    )
    group.add_argument(
        "--follow-forks",
        action="store_true",
        help="the children of what is watched too, and theirs, each from its first page on",
    )
    group.add_argument(
        "--cgroup",
        metavar="PATH",
        help="all processes in this control group and below it, as they enter and leave; "
        "a path, or a name below /sys/fs/cgroup",
    )
    group.add_argument(
        "--name",
        metavar="PATTERN",
        help="all processes of this name, also those that start later; * and ? stand for any letters: 'postgres*'",
    )


def add_file(parser: ArgumentParser, nargs: str = "*", text: str = _FILE_HELP) -> None:
    """A recording. By default as many words as there are, so that a command without -- is told from it."""
    parser.add_argument("file", nargs=nargs, metavar="FILE", help=text)
    # So that `--at -10s` is a value, as -10 would be: no option of ours begins with a digit.
    parser._negative_number_matcher = re.compile(r"-[.\d]")


def add_choice(parser: ArgumentParser) -> None:
    """Which of the processes of a recording; `add_target` with a file has the same."""
    group = parser.add_argument_group("which processes")
    group.add_argument(
        "-p",
        "--pid",
        action="append",
        type=process_id,
        default=[],
        metavar="PID",
        help="this process only; may be given several times",
    )
    group.add_argument("--name", metavar="PATTERN", help="only processes of this name; * and ? stand for any letters")


def check_choice(arguments: Namespace) -> None:
    """UsageError for a name that is none."""
    if arguments.name == "":
        raise UsageError("--name is empty", "say which processes, or leave the option away")


def add_span(parser: ArgumentParser, at: str = "") -> None:
    """Moments of a recording: from when to when, and, if it has a help, at which one.

    They come as `first`, `last` and `at`; None where they are not given.
    """
    group = parser.add_argument_group("when, in a recording", f"TIME is one such as {FORMS}")
    if at:
        group.add_argument("--at", type=moment, metavar="TIME", help=at)
    group.add_argument("--from", dest="first", type=moment, metavar="TIME", help="from this moment on")
    group.add_argument("--to", dest="last", type=moment, metavar="TIME", help="up to this moment")


def add_reading(parser: ArgumentParser) -> None:
    """How the placement is found out. The first choice of each is the best that works here."""
    group = parser.add_argument_group("how to read")
    group.add_argument(
        "--hooks",
        choices=("auto", "tracepoint", "none"),
        default="auto",
        help="what tells of changes: tracepoint (BPF), or none: read everything each time (default: auto)",
    )
    group.add_argument(
        "--reader",
        choices=("auto", "walk", "pagemap", "numa_maps"),
        default="auto",
        help="what counts the pages: walk (BPF reads the page tables), pagemap, "
        "or numa_maps, which needs no privilege (default: auto)",
    )
    group.add_argument(
        "--seed",
        choices=("auto", "pagemap", "walk"),
        default="auto",
        help="what counts the pages that are there at the start (default: auto)",
    )
    group.add_argument(
        "--audit-cpu",
        type=_percent,
        default=_AUDIT_PERCENT / 100,
        metavar="PERCENT",
        help="how much of one CPU may go into reading again what changed without an event that says where "
        f"(default: {_AUDIT_PERCENT:g})",
    )
    group.add_argument(
        "--check",
        type=_percent_of_memory,
        metavar="PERCENT",
        help="at each look compare so much of the memory, in turn, with pagemap, and count what was wrong as drift",
    )


def check_rolling(arguments: Namespace, single: bool) -> None:
    """UsageError for --check where there is nothing to compare, or no second look that could judge. single: one look
    is all."""
    if arguments.check is None:
        return
    if arguments.hooks == "none" or arguments.reader == "numa_maps":
        choice = "--hooks none" if arguments.hooks == "none" else "--reader numa_maps"
        raise UsageError(f"--check is about counts that hooks keep, and {choice} has none", "leave one of them away")
    if single:
        raise UsageError(
            "--check compares from one look to the next, and there is only one",
            "give --every SEC, or use numatrace verify, which compares everything",
        )


def add_general(parser: ArgumentParser) -> None:
    """Options of every verb that prints."""
    group = parser.add_argument_group("general")
    group.add_argument("-q", "--quiet", action="store_true", help="say nothing on standard error but errors")
    group.add_argument("--no-color", action="store_true", help="no colours on the terminal")


def add_events(parser: ArgumentParser) -> None:
    """For a verb that takes what happened along, where it can: what may be left out, so that it costs nothing."""
    parser.add_argument("--no-flows", action="store_true", help="without the pages that moved from node to node")
    parser.add_argument("--no-faults", action="store_true", help="without the page faults")


def add_policies(parser: ArgumentParser) -> None:
    """For a verb that can take along why pages do not lie where their policies promise."""
    parser.add_argument(
        "--policies",
        action="store_true",
        help="with the policies of memory areas and threads, and why pages lie elsewhere than these promise",
    )


def add_trace_policy(parser: ArgumentParser) -> None:
    """The exact time of changes of policies, which has its price."""
    parser.add_argument(
        "--trace-policy",
        action="store_true",
        help="trace the system calls that set policies, for the exact time and thread of each; it makes every system "
        "call of the whole machine a little slower (default: policies are read at each look)",
    )


def check_trace_policy(arguments: Namespace) -> None:
    """UsageError for what is traced without anything that could."""
    if arguments.trace_policy and (arguments.hooks == "none" or arguments.reader == "numa_maps"):
        choice = "--hooks none" if arguments.hooks == "none" else "--reader numa_maps"
        raise UsageError(f"--trace-policy needs the hooks, and {choice} has none", "leave one of them away")


def add_vmas(parser: ArgumentParser, default: int = _VMAS) -> None:
    """How many VMAs a text names."""
    parser.add_argument(
        "--vmas",
        type=whole,
        default=default,
        metavar="N",
        help=f"how many memory areas the text names, 0 for all (default: {default}); JSON has all of them",
    )


def target(arguments: Namespace) -> Target:
    """What was given, a PID that came twice once. UsageError for nothing, and for a command together with processes."""
    command: tuple[str, ...] | None = arguments.command
    given = _given(arguments)
    if command == ():
        raise UsageError("there is no command after --", "give one: -- CMD [ARG ...]")
    if given and command:
        raise UsageError(f"both {given[0]} and a command were given", "choose one; -- CMD [ARG ...] goes by itself")
    if not given and not command:
        more = "--follow-forks says only that children are watched too; " if arguments.follow_forks else ""
        raise UsageError(
            "there is nothing to watch",
            f"{more}give -p PID, --cgroup PATH, --name PATTERN, or a command to start: -- CMD [ARG ...]",
        )
    pids = tuple(dict.fromkeys(arguments.pid))
    selection = Selection(pids, arguments.follow_forks, arguments.cgroup or "", arguments.name or "")
    return Target(selection, command or ())


def recording(arguments: Namespace) -> str | None:
    """The recording that was given, None where it is live targets. UsageError for options that go with those only.

    -p and --name go with a recording too: they choose among its targets.
    """
    files: list[str] = arguments.file
    if not files:
        for option, value in (("--at", "at"), ("--from", "first"), ("--to", "last")):
            if getattr(arguments, value, None) is not None:
                raise UsageError(f"{option} is a moment of a recording, and none is given", "give its FILE")
        return None
    if files == ["-"]:
        raise UsageError("a recording cannot be read from standard input", "give the name of its file")
    if len(files) > 1:
        raise UsageError(
            f"{arguments.verb_name} does not know what {' '.join(files)} is",
            "give one recording at a time; a command to start goes after --",
        )
    for option in _live_only(arguments):
        raise UsageError(f"{option} is about live processes and {files[0]} is a recording", "leave one of them away")
    check_choice(arguments)
    return files[0]


def _live_only(arguments: Namespace) -> Iterator[str]:
    """Options that were given and cannot concern what has been recorded."""
    if arguments.command is not None:
        yield "a command after --"
    for name in _LIVE_ONLY:
        # Not every verb has each of them. The default given in so many words does no harm.
        default = _AUDIT_PERCENT / 100 if name == "audit_cpu" else None
        if getattr(arguments, name, None) not in (None, False, "auto", default):
            yield f"--{name.replace('_', '-')}"


def _given(arguments: Namespace) -> list[str]:
    """The options that name processes. UsageError where one of them names none."""
    for option, text in (("--cgroup", arguments.cgroup), ("--name", arguments.name)):
        if text == "":
            raise UsageError(f"{option} is empty", "say which processes, or leave the option away")
    present = (("-p", arguments.pid), ("--cgroup", arguments.cgroup), ("--name", arguments.name))
    return [option for option, value in present if value]


def process_id(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= _PID_MAX):
        raise ArgumentTypeError(f"{text!r} is not a process id: give a whole number above 0, as ps shows it")
    return int(text)


def moment(text: str) -> str:
    """The same text, where it can be understood, for argparse; `parse_moment` does it once there is a recording."""
    try:
        check_moment(text)
    except UsageError as error:
        raise ArgumentTypeError(f"{error.message}: {error.hint}") from None
    return text


def interval(text: str) -> float:
    """Seconds between two snapshots, for argparse."""
    return _seconds(text, "an interval", _INTERVAL_MAX_S)


def duration(text: str) -> float:
    """Seconds from the first look to the last, for argparse."""
    return _seconds(text, "a duration", _DURATION_MAX_S)


def _seconds(text: str, what: str, most: float) -> float:
    seconds = _number(text)
    if not 0.0 < seconds <= most:
        raise ArgumentTypeError(f"{text!r} is not {what}: give seconds above 0 and up to {most:.0f}, such as 0.5")
    return seconds


def _percent(text: str) -> float:
    """A percentage as a fraction, for argparse."""
    percent = _number(text)
    if not 0.0 < percent <= 100.0:
        raise ArgumentTypeError(f"{text!r} is not a share of a CPU: give a number above 0 and up to 100, without %")
    return percent / 100


def _percent_of_memory(text: str) -> float:
    """A percentage as a fraction, for argparse."""
    percent = _number(text)
    if not 0.0 < percent <= 100.0:
        raise ArgumentTypeError(f"{text!r} is not a share of memory: give a number above 0 and up to 100, without %")
    return percent / 100


def _number(text: str) -> float:
    """Not a number where it is none: every comparison with that is False."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def count(text: str) -> int:
    """How often, for argparse."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ArgumentTypeError(f"{text!r} is not a count: give a whole number above 0")
    return int(text)


def whole(text: str) -> int:
    """How many VMAs at most, 0 for all, for argparse."""
    if not (text.isascii() and text.isdecimal()):
        raise ArgumentTypeError(f"{text!r} is not a number of VMAs: give a whole number, 0 for all")
    return int(text)


def node(text: str) -> int:
    """A node's id, for argparse."""
    digits = text.removeprefix("N")
    if not (digits.isascii() and digits.isdecimal()):
        raise ArgumentTypeError(f"{text!r} is not a node: give its number, as numactl --hardware shows it")
    return int(digits)
