"""The terminal as the view uses it: it draws on standard output, and ends when the terminal is gone."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from io import TextIOWrapper
from typing import IO, Any, cast

from textual.drivers.linux_driver import LinuxDriver

__all__ = ["Driver"]

_COLUMNS, _LINES = 80, 24
"""Of a terminal that does not say, as a serial line."""


class _Output:
    """Standard output, as far as it is there: once it is not, what is written goes nowhere.

    Textual's thread that writes would die of the error, and leave the view waiting for it for ever.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._gone = False

    def write(self, text: str) -> int:
        if not self._gone:
            try:
                return self._file.write(text)
            except OSError:
                self._gone = True
        return len(text)

    def flush(self) -> None:
        if not self._gone:
            try:
                self._file.flush()
            except OSError:
                self._gone = True

    def fileno(self) -> int:
        return self._file.fileno()

    def isatty(self) -> bool:
        return self._file.isatty()


class Driver(LinuxDriver):
    """Textual's own would draw on standard error, which may be a log; it would believe the environment about the size
    of the terminal; and where that is closed without a signal, it would read its end again and again."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        assert sys.__stdout__ is not None
        self._file = cast(TextIOWrapper, _Output(sys.__stdout__))

    def start_application_mode(self) -> None:
        super().start_application_mode()  # type: ignore[no-untyped-call]
        threading.Thread(target=self._await_its_end, name="numatrace-terminal", daemon=True).start()

    def _get_terminal_size(self) -> tuple[int, int]:
        """Of the terminal itself: COLUMNS and LINES, where they are exported, do not follow when it changes."""
        try:
            columns, lines = os.get_terminal_size(self.fileno)
        except OSError:
            columns = lines = 0
        return columns or _COLUMNS, lines or _LINES

    def _await_its_end(self) -> None:
        """Sleeps until the other side of the terminal is closed."""
        waiting = select.poll()
        waiting.register(self.fileno, 0)
        waiting.poll()
        self.exit_event.set()
        with contextlib.suppress(RuntimeError):  # the view has just ended by itself
            self._app.call_from_thread(self._app.hang_up)  # type: ignore[attr-defined]
