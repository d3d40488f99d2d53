"""What Ctrl-C, a request to end (SIGTERM) and a closed terminal (SIGHUP) mean while something is watched."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracer.kernel.launch import HeldCommand

__all__ = ["Interrupts"]

_Handler = Callable[[int, FrameType | None], object]


class Interrupts:
    """requested: whether somebody asked for the end.

    patient: the first request only sets that, and whoever watches looks at it when it suits him; the second, and
    without patience the first, raises KeyboardInterrupt.
    """

    def __init__(self, patient: bool) -> None:
        self.requested = False
        self._patient = patient

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested or not self._patient:
            raise KeyboardInterrupt
        self.requested = True

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Within it, a patient one takes the signals; otherwise they do what they always do."""
        before = _handle(self._ask) if self._patient else {}
        try:
            yield
        finally:
            _restore(before)

    @contextmanager
    def passed_on(self, command: HeldCommand) -> Iterator[Callable[[], None]]:
        """Gives a function; from its call on the signals are for the command as long as it runs, and we follow it.

        Before that call they end us, and the held command with us.
        """
        before: dict[int, _Saved] = {}

        def handle(number: int, frame: FrameType | None) -> None:
            if _has_ended(command.pid):
                self._ask(number, frame)
            # Ctrl-C goes to the whole foreground group of the terminal, so the command has it already.
            elif number != signal.SIGINT or not _in_foreground():
                command.send(number)

        try:
            yield lambda: before.update(_handle(handle))
        finally:
            _restore(before)


_Saved = signal.Handlers | _Handler | int | None


def _handle(handler: _Handler) -> dict[int, _Saved]:
    """Set it for all three. What was ignored when we were started (nohup, a background job) stays ignored."""
    return {
        number: signal.signal(number, handler)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }


def _restore(saved: dict[int, _Saved]) -> None:
    for number, handler in saved.items():
        signal.signal(number, handler)


def _has_ended(pid: int) -> bool:
    """Whether a child has exited. It is not reaped: the handler may have interrupted a wait for it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _in_foreground() -> bool:
    """Whether the terminal's keys signal this process (and the command, which is in the same group)."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
