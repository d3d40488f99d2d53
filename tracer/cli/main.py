"""The command `numatrace`: finds the verb, runs it, and turns whatever happens into an exit code.

This is the only place that catches NumatraceError, an interrupt and a closed standard output for good.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from tracer import __version__
from tracer.cli import completion, diff, faults, flows, live, maps, messages, policy, record, replay, report, verify
from tracer.cli.messages import PROGRAM
from tracer.cli.output import discard, flush
from tracer.cli.verb import Verb
from tracer.errors import NumatraceError, UsageError

__all__ = ["VERBS", "build_parser", "main"]

VERBS: tuple[Verb, ...] = (
    maps.VERB,
    live.VERB,
    record.VERB,
    replay.VERB,
    diff.VERB,
    report.VERB,
    flows.VERB,
    faults.VERB,
    policy.VERB,
    verify.VERB,
    completion.VERB,
)

_INTERRUPTED = 130
"""128 and the number of SIGINT, as a shell reports it."""


class _Parser(argparse.ArgumentParser):
    """Raises UsageError instead of printing the whole usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"see {self.prog} --help")


class _Paragraphs(argparse.HelpFormatter):
    """Wraps each paragraph of a description by itself; argparse would make one of them all."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Paragraphs, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, without `-- CMD ARGS`; the man page and completions come from it too."""
    parser = _Parser(
        prog=PROGRAM,
        description="Shows where a process's pages are on a NUMA machine, while they move.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb_name", required=True)
    for verb in VERBS:
        sub = verbs.add_parser(
            verb.name,
            help=verb.summary,
            description=verb.description,
            usage=f"{PROGRAM} {verb.name} {verb.usage}",
            formatter_class=_Paragraphs,
            allow_abbrev=False,
        )
        verb.configure(sub)
        sub.set_defaults(verb=verb)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (without the program's name). Returns the exit code, and never raises."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        flush()
    except NumatraceError as error:
        messages.report(error)
        return error.exit_code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        discard()
        return 0
    return code


def _run(words: list[str]) -> int:
    command: tuple[str, ...] | None = None
    if "--" in words:
        # Everything after it belongs to the command, also what looks like an option of ours.
        end = words.index("--")
        words, command = words[:end], tuple(words[end + 1 :])
    try:
        arguments, rest = build_parser().parse_known_args(words)
    except SystemExit as done:
        # --help and --version have printed their text.
        return int(done.code or 0)
    verb: Verb = arguments.verb
    if rest:
        where = "a command to start goes after --" if verb.takes_command and not rest[0].startswith("-") else ""
        hint = f"see {PROGRAM} {verb.name} --help"
        raise UsageError(f"{verb.name} does not know what {' '.join(rest)} is", f"{where}; {hint}" if where else hint)
    if command is not None and not verb.takes_command:
        raise UsageError(f"{verb.name} runs no command", f"see {PROGRAM} {verb.name} --help")
    arguments.command = command
    return verb.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
