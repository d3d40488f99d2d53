"""Plays a recording into a history: step, jump, play. Reading is done in a thread, and only what is newest wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tracer.errors import NumatraceError
from tracer.live.history import History
from tracer.live.source import Activity, Recorded, Tick

__all__ = ["SPEEDS", "Player"]

SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1000.0)

_FRAME_S = 0.1
"""At most so often another sample is shown while it plays."""
_LONGEST_WAIT_S = 2.0
"""A gap in a recording is not sat out."""
_BEFORE = 30
"""Samples that are read before the one jumped to, so that stepping back from there is at once."""
_PIECE = 4096
_STRIDE = 120
"""A step forward over more samples than these is a jump."""


class Player:
    """history shows sample `index` of `recorded`. changed: called in the view's thread when another one is shown, or
    when reading has failed, which `error` then tells. crashed: called where it failed by a mistake of ours.
    activity: of the first `known` samples; zeros for the others.

    The sums of the history begin where it last jumped to (a little before).
    """

    def __init__(
        self,
        recorded: Recorded,
        history: History,
        changed: Callable[[], None],
        crashed: Callable[[BaseException], None],
    ) -> None:
        self.playing = False
        self.speed = 1.0
        self.index = -1
        self.activity = Activity(np.zeros(len(recorded), np.int64), np.zeros(len(recorded), np.int64))
        self.known = 0
        self.error: NumatraceError | None = None
        self._recorded = recorded
        self._history = history
        self._changed = changed
        self._crashed = crashed
        self._wanted = 0
        self._last = -1
        self._reader = ThreadPoolExecutor(1, "numatrace-reader")
        self._going: asyncio.Task[None] | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._behind_s = 0.0

    def __len__(self) -> int:
        return len(self._recorded)

    def start(self, index: int) -> None:
        """Show a sample, and begin to look for what happened when. In the view's event loop."""
        self.seek(index)

    async def look_around(self) -> None:
        """Find out what happened when, for the marks of the time line."""
        loop = asyncio.get_running_loop()
        try:
            # In pieces, so that whoever wants to see a sample meanwhile waits for one of them at most.
            for first in range(0, len(self._recorded), _PIECE):
                last = min(first + _PIECE, len(self._recorded)) - 1
                piece = await loop.run_in_executor(self._reader, self._recorded.activity, first, last)
                self.activity.moved[first : last + 1] = piece.moved
                self.activity.faults[first : last + 1] = piece.faults
                self.known = last + 1
                self._changed()
        except NumatraceError as error:
            self.error = error
            self._changed()

    def stop(self) -> None:
        """No more."""
        self.playing = False
        if self._beat is not None:
            self._beat.cancel()
        self._reader.shutdown(wait=True, cancel_futures=True)

    # --- where ---

    def seek(self, index: int) -> None:
        """Show the sample of this number, or the first or last where there is none. Returns at once."""
        self._wanted = min(max(index, 0), len(self._recorded) - 1)
        if self._going is None or self._going.done():
            self._going = asyncio.get_running_loop().create_task(self._go())
            self._going.add_done_callback(self._check)

    def step(self, by: int) -> None:
        """So many samples on, or (negative) back, from the one that was last asked for."""
        self.seek(self._wanted + by)

    async def moment(self, text: str) -> int:
        """The sample at a time that the user typed. Raises NumatraceError."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._recorded.moment, text)

    async def settled(self) -> None:
        """Wait until the sample that was asked for is shown."""
        if self._going is not None:
            await self._going

    def _check(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (mistake := task.exception()) is not None:
            self._crashed(mistake)

    async def _go(self) -> None:
        while self.index != self._wanted:
            wanted = self._wanted
            try:
                await self._show(wanted)
            except NumatraceError as error:
                self.error, self.playing = error, False
                self._wanted = wanted = self.index
            self.index = wanted
            self._changed()

    async def _show(self, wanted: int) -> None:
        history = self._history
        first = self._last - history.behind - history.steps_back if self.index >= 0 else 0
        if self.index >= 0 and first <= wanted <= self._last:
            history.step(wanted - self.index)
        elif self.index >= 0 and self._last < wanted <= self._last + _STRIDE:
            ticks = await self._read(self._last + 1, wanted)
            history.follow(True)
            for tick in ticks:
                history.arrive(tick)
            history.take_in()
            self._last = wanted
        else:
            ticks = await self._read(max(0, wanted - _BEFORE), wanted)
            history.restart(ticks)
            self._last = wanted

    async def _read(self, first: int, last: int) -> list[Tick]:
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._ticks, first, last)

    def _ticks(self, first: int, last: int) -> list[Tick]:
        seconds = (self._seconds(index) for index in range(first, last + 1))
        return [Tick(sample, gap) for sample, gap in zip(self._recorded.samples(first, last), seconds, strict=True)]

    def _seconds(self, index: int) -> float:
        """From the sample before."""
        if index == 0:
            return 0.0
        return (self._recorded.time(index) - self._recorded.time(index - 1)).total_seconds()

    # --- playing ---

    def play(self, playing: bool) -> None:
        """Begin or stop. At its end it begins anew."""
        self.playing = playing
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        if playing:
            if self._wanted >= len(self._recorded) - 1:
                self.seek(0)
            self._behind_s = 0.0
            self._await_next()

    def faster(self, by: int) -> None:
        """The next higher or (negative) lower speed."""
        nearest = min(range(len(SPEEDS)), key=lambda number: abs(SPEEDS[number] - self.speed))
        self.set_speed(SPEEDS[min(max(nearest + by, 0), len(SPEEDS) - 1)])

    def set_speed(self, speed: float) -> None:
        """speed: seconds of the recording in a second."""
        self.speed = speed
        if self.playing:
            self.play(True)

    def _await_next(self) -> None:
        if self._wanted >= len(self._recorded) - 1:
            self.playing = False
            self._changed()
            return
        gap = min(self._seconds(self._wanted + 1) / self.speed, _LONGEST_WAIT_S)
        loop = asyncio.get_running_loop()
        self._beat = loop.call_later(max(_FRAME_S, gap), self._next, max(_FRAME_S, gap))

    def _next(self, waited_s: float) -> None:
        """One sample on, or as many as the time that has passed stands for."""
        if not self.playing:
            return
        if self._going is None or self._going.done():
            index = self._wanted + 1
            left = waited_s * self.speed - self._seconds(index)
            while index < len(self._recorded) - 1 and (left := left - self._seconds(index + 1)) >= 0:
                index += 1
            self.seek(index)
        self._await_next()
