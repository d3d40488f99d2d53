"""A line on the terminal while something takes long."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable

__all__ = ["Progress"]

_PATIENCE_S = 1.0
"""Nothing is shown for what is over sooner."""
_INTERVAL_S = 0.1
_COLUMNS = 80


class Progress:
    """Callable as (what, done, total); shows `what: 42 %` on standard error, in place, where that is a terminal.

    Call `clear` before anything else is written to the terminal.
    """

    def __init__(self, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._enabled = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._stage = ""
        self._started = 0.0
        self._shown_at = 0.0
        self._width = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """stage: what is being done, in a word or two. done, total: in any unit; total 0 for unknown."""
        if not self._enabled:
            return
        now = self._clock()
        if stage != self._stage:
            self._stage, self._started, self._shown_at = stage, now, 0.0
        if now - self._started < _PATIENCE_S or now - self._shown_at < _INTERVAL_S:
            return
        self._shown_at = now
        text = f"{stage}: {100 * done // total} %" if total > 0 else f"{stage} ..."
        self._show(text[: _columns() - 1])

    def line(self, text: str) -> None:
        """Show this text, at once and as it is, until something else is shown."""
        if self._enabled:
            self._show(text[: _columns() - 1])

    def _show(self, text: str) -> None:
        # Blanks rather than an erase sequence, so that it works on any terminal; trailing ones cover the old text.
        line = "\r" + text.ljust(self._width)
        self._width = len(text)
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(line)
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._width:
            self._show("")
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write("\r")
                sys.stderr.flush()


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS
