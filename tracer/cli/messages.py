"""What the program says beside its data: errors, notes and the trust line, all on standard error."""

from __future__ import annotations

import contextlib
import sys

from tracer.errors import NumatraceError

__all__ = ["PROGRAM", "note", "report", "write"]

PROGRAM = "numatrace"


def write(line: str) -> None:
    """One line to standard error. Where that is closed or full there is nobody to tell, and work goes on."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Something the user should know, in one line."""
    # Imported here, because most runs have nothing to say.
    from tracer.render.terminal import printable

    # Words from outside (a file name in an error) must neither act on the terminal nor break the line in two.
    write(f"{PROGRAM}: " + printable(" ".join(text.splitlines()).encode("utf-8", "surrogateescape")))


def report(error: NumatraceError) -> None:
    """An error: what happened and why; what to do."""
    message = error.message.rstrip(".")
    note(f"{message}; {error.hint}" if error.hint else message)
