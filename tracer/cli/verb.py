"""What a verb of the command line is: a name, its options, and what to do."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Verb"]


@dataclass(frozen=True, slots=True)
class Verb:
    """summary: one line for the list of verbs. description: paragraphs for its own help
    and for the man page, separated by empty lines.
    usage: its options in one line, as they follow `numatrace NAME`.
    configure: adds its options. run: does it and returns the exit code; raises NumatraceError where it cannot.
    takes_command: whether `-- CMD ARGS` makes sense; its words are then in `arguments.command`.
    """

    name: str
    summary: str
    description: str
    usage: str
    configure: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    takes_command: bool = False
