"""The options that verbs share, and what they mean, in one place."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass

from tracer.errors import UsageError

__all__ = ["Target", "add_general", "add_reading", "add_target", "count", "interval", "target"]

_PID_MAX = 2**31 - 1
_INTERVAL_MAX_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Target:
    """What to watch: a process that runs, or a command to be started. Exactly one of them is set."""

    pid: int = 0
    command: tuple[str, ...] = ()


def add_target(parser: ArgumentParser) -> None:
    """`-p PID`. The command of `-- CMD ARGS` never reaches argparse, which would take its options for ours."""
    parser.add_argument(
        "-p",
        "--pid",
        action="append",
        type=_process_id,
        default=[],
        metavar="PID",
        help="watch this process; or give a command to start and watch: -- CMD [ARG ...]",
    )


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


def add_general(parser: ArgumentParser) -> None:
    """Options of every verb that prints."""
    group = parser.add_argument_group("general")
    group.add_argument("-q", "--quiet", action="store_true", help="say nothing on standard error but errors")
    group.add_argument("--no-color", action="store_true", help="no colours on the terminal")


def target(arguments: Namespace) -> Target:
    """The one target that was given. UsageError for none, both, or several."""
    pids: list[int] = arguments.pid
    command: tuple[str, ...] | None = arguments.command
    if command == ():
        raise UsageError("there is no command after --", "give one: -- CMD [ARG ...]")
    if pids and command:
        raise UsageError("both -p and a command were given", "choose one: -p PID, or -- CMD [ARG ...]")
    if not pids and not command:
        raise UsageError("there is nothing to watch", "give -p PID, or a command to start: -- CMD [ARG ...]")
    if len(pids) > 1:
        raise UsageError("-p was given more than once", "this verb watches one process")
    return Target(command=command) if command else Target(pid=pids[0])


def _process_id(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= _PID_MAX):
        raise ArgumentTypeError(f"{text!r} is not a process id: give a whole number above 0, as ps shows it")
    return int(text)


def interval(text: str) -> float:
    """Seconds between two snapshots, for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds <= _INTERVAL_MAX_S:
        raise ArgumentTypeError(
            f"{text!r} is not an interval: give seconds above 0 and up to {_INTERVAL_MAX_S:.0f}, such as 0.5"
        )
    return seconds


def count(text: str) -> int:
    """How often, for argparse."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ArgumentTypeError(f"{text!r} is not a count: give a whole number above 0")
    return int(text)
