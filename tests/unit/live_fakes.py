"""A live view without a terminal: made-up targets on four nodes, sources that are fed by hand, screens as text."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from tests.unit.snapshots import TIME, faults, flows, sample, snapshot, vma
from tracer.errors import NumatraceError
from tracer.live.app import NumatraceApp
from tracer.live.history import History
from tracer.live.source import Activity, Recorded, Tick
from tracer.model.policy import Mode, Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot, Trust
from tracer.model.vma import Kind, Vma

NODES = (0, 1, 2, 3)
HEAP = 0x5581D6A3B000
BIND = Policy(Mode.BIND, 0, (0, 1))
INTERLEAVE = Policy(Mode.INTERLEAVE, 0, NODES)


def areas() -> list[Vma]:
    """A small process: a program, a heap, an interleaved arena, huge pages, a library, a stack."""
    return [
        vma(0x5581D5E00000, 64, kind=Kind.FILE, path=b"/usr/bin/postgres"),
        vma(HEAP, 2048, kind=Kind.HEAP, path=b"[heap]"),
        vma(0x7F3C00000000, 262144, INTERLEAVE, path=b"[anon:shared buffers]"),
        vma(0x7F3C80000000, 1024, BIND, Kind.FILE, b"/dev/hugepages/pool", hugetlb=True, page_kb=2048),
        vma(0x7F3CC0000000, 512, kind=Kind.FILE, path=b"/usr/lib/x86_64-linux-gnu/libc.so.6"),
        vma(0x7F3CC1000000, 16),
        vma(0x7FFE12340000, 34, kind=Kind.STACK, path=b"[stack]"),
    ]


PAGES = (
    (40, 0, 0, 0),
    (1200, 300, 0, 1),
    (65536, 65500, 65536, 65480),
    (2, 0, 0, 0),
    (300, 0, 0, 0),
    (0, 0, 0, 0),
    (0, 12, 0, 0),
)


def process(step: int = 0, pid: int = 4711, comm: bytes = b"postgres", trust: Trust | None = None) -> Snapshot:
    """The process after `step` seconds: the heap grows on node 1, and pages of the arena move from 3 to 2."""
    pages = np.array(PAGES, np.int64)
    pages[1, 1] += 10 * step
    pages[2, 2] += 5 * step
    pages[2, 3] -= 5 * step
    return snapshot(
        areas(),
        pages.tolist(),
        NODES,
        pid=pid,
        comm=comm,
        trust=trust or Trust(oldest_read_s=0.2),
        flows=flows([(2, 3, 2, 2, 5, 0)] if step else []),
        faults=faults([(1, 1, 1, 0, 0, 10)] if step else []),
        time=TIME + timedelta(seconds=step),
    )


def at(step: int, *shots: Snapshot, **fields: Any) -> Sample:
    """A sample `step` seconds after the first one."""
    return sample(*(shots or (process(step),)), time=TIME + timedelta(seconds=step), **fields)


class HandSource:
    """A source that gives what the test puts in, when it does; `finish` ends it."""

    every_s = 1.0

    def __init__(self, title: str = "-p 4711", words: str = "") -> None:
        self.title = title
        self._words = words
        self._queue: queue.Queue[Tick | NumatraceError | None] = queue.Queue()

    def put(self, *samples: Sample, seconds: float = 1.0) -> None:
        for one in samples:
            self._queue.put(Tick(one, seconds))

    def fail(self, error: NumatraceError) -> None:
        self._queue.put(error)

    def finish(self) -> None:
        self._queue.put(None)

    def next(self, stopped: Callable[[], bool]) -> Tick | None:
        while not stopped():
            try:
                given = self._queue.get(timeout=0.02)
            except queue.Empty:
                continue
            if isinstance(given, NumatraceError):
                raise given
            return given
        return None

    def last_words(self) -> str:
        return self._words


class Tape:
    """A recording in memory."""

    def __init__(self, samples: Sequence[Sample], activity: Activity | None = None, title: str = "run.parquet") -> None:
        self.title = title
        self.reads: list[tuple[int, int]] = []
        self._samples = samples
        self._activity = activity

    def __len__(self) -> int:
        return len(self._samples)

    def time(self, index: int) -> datetime:
        return self._samples[index].time

    def samples(self, first: int, last: int) -> Iterator[Sample]:
        self.reads.append((first, last))
        yield from self._samples[first : last + 1]

    def activity(self, first: int, last: int) -> Activity:
        if self._activity is None:
            return Activity(*np.zeros((2, last + 1 - first), np.int64))
        return Activity(self._activity.moved[first : last + 1], self._activity.faults[first : last + 1])

    def moment(self, text: str) -> int:
        if not text.isdecimal():
            raise NumatraceError(f"{text!r} is not a time", "give a number")
        return int(text)


def screen_text(app: NumatraceApp) -> str:
    """What a terminal would show, as lines of text without trailing blanks."""
    lines = app.screen._compositor.render_strips()
    return "".join("".join(segment.text for segment in strip).rstrip() + "\n" for strip in lines)


def screen_styles(app: NumatraceApp) -> set[str]:
    """All colours on the screen, as rich spells them."""
    strips = app.screen._compositor.render_strips()
    found = set()
    for strip in strips:
        for segment in strip:
            if segment.style is not None:
                for colour in (segment.style.color, segment.style.bgcolor):
                    if colour is not None and not colour.is_default:
                        found.add(colour.name)
    return found


Scene = Callable[["Stage"], Awaitable[None]]


class Stage:
    """A running app, as a test drives it."""

    def __init__(self, app: NumatraceApp, pilot: Any, source: HandSource | None) -> None:
        self.app = app
        self.pilot = pilot
        self._source = source

    @property
    def source(self) -> HandSource:
        assert self._source is not None
        return self._source

    @property
    def text(self) -> str:
        return screen_text(self.app)

    def line(self, word: str) -> str:
        """The first line with a word in it."""
        return next(line for line in self.text.splitlines() if word in line)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def feed(self, *samples: Sample) -> None:
        """Hand over samples, and wait until the last one has come in."""
        self.source.put(*samples)
        await self.until(lambda: self.app.history.newest_time == samples[-1].time)

    async def until(self, done: Callable[[], bool], seconds: float = 10.0) -> None:
        for _ in range(int(seconds / 0.01)):
            if done():
                await self.pilot.pause()
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"it does not happen; the screen:\n{self.text}")


def play(
    scene: Scene,
    size: tuple[int, int] = (80, 24),
    source: HandSource | None = None,
    recorded: Recorded | None = None,
    first: Sample | None = None,
    colour: bool = True,
    keep_last: bool = True,
) -> None:
    """Run a scene in an app of this size. Without a recording, processes run: the first sample is there already."""

    async def run() -> None:
        history = History(colour, keep_last)
        if recorded is not None:
            app = NumatraceApp(history, recorded=recorded)
            live = None
        else:
            live = source or HandSource()
            app = NumatraceApp(history, live, first=Tick(first or at(0), 0.0))
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            if app.player is not None:
                await app.player.settled()
                await pilot.pause()
            await scene(Stage(app, pilot, live))

    asyncio.run(run())
