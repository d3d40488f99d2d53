"""The thread that takes samples of running processes. However slow the terminal is, it never waits for the view."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from tracer.errors import NumatraceError
from tracer.live.history import History
from tracer.live.source import Source

__all__ = ["Feed"]

_PATIENCE_S = 5.0
"""How long a sample that is under way may take after the user has left."""


class Feed:
    """Puts what `source` gives into `history`, and calls `wake` in the thread of the view when there is something new:
    once for all that has come since it was last called.

    ended: whether no more samples come. words: how that came about, for the user. error: what ended it, if it was one;
    crash: the same, if it was a mistake of ours.
    """

    def __init__(self, source: Source, history: History, wake: Callable[[], None]) -> None:
        self.ended = False
        self.words = ""
        self.error: NumatraceError | None = None
        self.crash: Exception | None = None
        self._source = source
        self._history = history
        self._wake = wake
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="numatrace-samples", daemon=True)

    def start(self) -> None:
        """Begin. To be called in the thread of the view, in its event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Ask for the end."""
        self._asked.set()

    def join(self) -> bool:
        """After `stop`: wait for the end of the thread. Whether it has come."""
        self._asked.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while (tick := self._source.next(self._asked.is_set)) is not None:
                self._history.arrive(tick)
                self._tell()
            self.words = self._source.last_words()
        except NumatraceError as error:
            self.error = error
        except Exception as error:
            self.crash = error
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        """Latest wins: where the view has not looked yet, there is no need to tell it again."""
        if self._woken.is_set() or self._loop is None:
            return
        self._woken.set()
        # The view, and its loop with it, may be gone by now.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._wake_up)

    def _wake_up(self) -> None:
        self._woken.clear()
        self._wake()
