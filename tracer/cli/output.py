"""Standard output, for data only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tracer.errors import NumatraceError

__all__ = ["Output", "discard", "flush"]


class Output:
    """Writes bytes to standard output, whole snapshots at a time.

    Raises NumatraceError where it is closed or full. BrokenPipeError passes through: a reader that has seen enough
    (`| head`) is no error, and the caller decides what ends with it.
    """

    def __init__(self) -> None:
        if sys.stdout is None:
            raise NumatraceError("standard output is closed", "redirect it to a file, or to /dev/null")
        self._file = sys.stdout.buffer
        self.is_terminal = sys.stdout.isatty()

    def write(self, data: bytes) -> None:
        """Write and flush, so that a reader at the other end of a pipe sees a snapshot when it is taken."""
        with _only_a_broken_pipe_passes():
            self._file.write(data)
            self._file.flush()

    def write_lines(self, lines: Iterable[bytes]) -> None:
        """Lines of text, each with a newline added; on a terminal with everything escaped that would act on it."""
        if self.is_terminal:
            from tracer.render.terminal import printable

            lines = (printable(line).encode() for line in lines)
        self.write(b"".join(line + b"\n" for line in lines))


def flush() -> None:
    """Write what others printed to standard output. Raises as `Output.write` does."""
    if sys.stdout is not None:
        with _only_a_broken_pipe_passes():
            sys.stdout.flush()


@contextmanager
def _only_a_broken_pipe_passes() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard()
        raise NumatraceError(
            f"cannot write to standard output: {error.strerror}", "free some space, or redirect it elsewhere"
        ) from None


def discard() -> None:
    """Give up on standard output: what is still buffered goes nowhere, instead of failing again at exit."""
    if sys.stdout is None:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
