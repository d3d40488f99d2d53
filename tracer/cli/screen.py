"""What the verbs `live` and `replay` share: a terminal that can show a screen, and the screen's life on it."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tracer.cli.messages import report
from tracer.errors import UsageError

if TYPE_CHECKING:
    from tracer.live.app import NumatraceApp

__all__ = ["SIGNALLED", "away_from_terminal", "colour", "need_terminal", "show"]

SIGNALLED = 128
"""Exit codes above it stand for the number of a signal."""


def need_terminal(verb: str, instead: str) -> None:
    """UsageError where there is no terminal to show a screen on and take keys from. instead: what to do then."""
    streams = (("standard input", sys.stdin), ("standard output", sys.stdout))
    for name, stream in streams:
        if stream is None or not stream.isatty():
            raise UsageError(f"{verb} needs a terminal, and {name} is none", instead)
    kind = os.environ.get("TERM", "")
    if kind in ("", "dumb"):
        raise UsageError(f"{verb} needs a terminal that can move its cursor, and TERM is {kind!r}", instead)


def colour(arguments: Namespace) -> bool:
    """Whether colours are wanted (https://no-color.org)."""
    if arguments.no_color:
        # For the parts of the screen that are not ours.
        os.environ["NO_COLOR"] = "1"
    return not os.environ.get("NO_COLOR")


@contextmanager
def away_from_terminal() -> Iterator[None]:
    """Whoever is started within this has no terminal: it would write into the screen, and take its keys. What is
    redirected to somewhere else stays so."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    saved: list[tuple[int, int]] = []
    try:
        for descriptor in (0, 1, 2):
            if os.isatty(descriptor):
                saved.append((descriptor, os.dup(descriptor)))
                os.dup2(nowhere, descriptor)
        yield
    finally:
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)


def show(app: NumatraceApp) -> int:
    """Run the view until it is left. Returns the exit code: 0, 1 for an error that was told on standard error, or 128
    and the number of the signal that ended it."""
    app.run()
    if app.mistake is not None:
        raise app.mistake
    if app.error is not None:
        report(app.error)
        return app.error.exit_code
    if app.ended_by is not None:
        return SIGNALLED + app.ended_by
    return app.return_code or 0
