"""Targets on four nodes for the tests of the screens about one VMA and about flows, and what these screens show."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen

from tests.unit import snapshots as fake
from tracer.live.history import History
from tracer.live.sheet import Sheet
from tracer.live.source import Tick
from tracer.model.events import Faults, Flows, Kind
from tracer.model.policy import Mode, Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Regions, Snapshot
from tracer.model.vma import Vma

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "drill"
NODES = (0, 1, 2, 3)
REGION = 2 << 20
START = 0x7F0000000000
REGIONS = 512
"""Of the VMA: 1 GiB."""

INTERLEAVED = fake.vma(START, REGIONS * 512, Policy(Mode.INTERLEAVE, nodes=NODES), path=b"[anon:buffers]")
HEAP = fake.vma(0x555500000000, 2048, path=b"[heap]")


def spread() -> Regions:
    """A quarter of the VMA on N0, one shared by N0 and N1, one on all nodes, one empty but for N3's last."""
    pages = np.zeros((REGIONS, 4), np.int64)
    pages[:128, 0] = 512
    pages[128:256, :2] = 300, 212
    pages[256:384] = 128
    pages[384:400] = 0, 0, 400, 112
    pages[400:404] = 50, 30, 400, 32
    pages[-1] = 0, 0, 0, 511
    rows = np.flatnonzero(pages.sum(axis=1))
    return Regions(START + rows * REGION, pages[rows])


FLOW_ROWS = [(0, 0, 1, 1, 700, 0), (0, 3, 2, 2, 40, 3), (0, 1, 1, 0, 64, 0), (1, 2, 0, 1, 9, 0), (-1, 0, 3, 1, 5, 0)]
FAULT_ROWS = [
    (0, 0, 0, Kind.NEW, 0, 4000),
    (0, 1, 0, Kind.NEW, 0, 96),
    (0, 2, 3, Kind.HUGE, 0, 2),
    (0, 3, 3, Kind.COW, 0, 11),
    (0, 3, 0, Kind.HINT, 0, 17),
    (1, 1, 1, Kind.NEW, 0, 5),
]


def target(
    vmas: Sequence[Vma] = (HEAP, INTERLEAVED),
    regions: Regions | None = None,
    flows: Flows | None = None,
    faults: Faults | None = None,
    pid: int = 42,
    comm: bytes = b"postgres",
    node_ids: tuple[int, ...] = NODES,
) -> Snapshot:
    """A snapshot in which the counts of a VMA with regions are their sums; of another, ten on the first node."""
    pages = np.zeros((len(vmas), len(node_ids)), np.int64)
    pages[:, 0] = 10
    for row, vma in enumerate(vmas):
        if regions is not None and vma.path == INTERLEAVED.path:
            pages[row] = regions.pages.sum(axis=0)
    return replace(
        fake.snapshot(vmas, pages.tolist(), node_ids, pid=pid, comm=comm, flows=flows, faults=faults),
        regions=regions,
    )


def in_order(rows: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Rows that say 0 for the VMA with the buffers and 1 for the heap, as the snapshot has them: in address order."""
    return [(1 - row[0] if row[0] >= 0 else -1, *row[1:]) for row in rows]


def samples(count: int = 3) -> list[Sample]:
    """One a second (the view is told that they are two apart): each with the same flows and faults."""
    regions = spread()
    shots = [
        target(regions=regions, flows=fake.flows(in_order(FLOW_ROWS)), faults=fake.faults(in_order(FAULT_ROWS)))
        for _ in range(count)
    ]
    machine = np.array([64, 900, 40], np.int64), np.array([2, 0, 5], np.int64)
    return [
        fake.sample(
            replace(shot, time=fake.TIME + timedelta(seconds=at)),
            time=fake.TIME + timedelta(seconds=at),
            reasons=fake.REASONS,
            migrated=machine[0],
            failed=machine[1],
        )
        for at, shot in enumerate(shots)
    ]


def history(shown: Sequence[Sample], colour: bool = True) -> History:
    """One that has taken in all of these, two seconds apart."""
    known = History(colour=colour)
    for sample in shown:
        known.arrive(Tick(sample, 2.0))
    known.take_in()
    return known


class Stage(App[None]):
    """An application that shows nothing but one screen."""

    def __init__(self, shown: Screen[None]) -> None:
        super().__init__()
        self.shown = shown

    def on_mount(self) -> None:
        """Show it."""
        self.push_screen(self.shown)


def read(screen: Screen[None]) -> list[str]:
    """What stands on the terminal, line by line."""
    sheet = screen.query_one(Sheet)
    return [sheet.render_line(y).text.rstrip() for y in range(sheet.size.height)]


class Hand:
    """Somebody at the keyboard."""

    def __init__(self, stage: Stage, pilot: Pilot[None]) -> None:
        self.stage = stage
        self._pilot = pilot

    async def press(self, *keys: str) -> None:
        """Press keys, and wait until what they do is done."""
        await self._pilot.press(*keys)
        await self._pilot.pause()

    async def resize(self, width: int, height: int) -> None:
        """Pull at the corner of the window."""
        await self._pilot.resize_terminal(width, height)
        await self._pilot.pause()


def perform(screen: Screen[None], act: Callable[[Hand], Awaitable[None]], size: tuple[int, int] = (80, 24)) -> None:
    """Show the screen in a terminal of this size and let `act` do what it likes."""

    async def run() -> None:
        stage = Stage(screen)
        async with stage.run_test(size=size) as pilot:
            await pilot.pause()
            await act(Hand(stage, pilot))

    asyncio.run(run())


def shown(screen: Screen[None], *keys: str, size: tuple[int, int] = (80, 24)) -> list[str]:
    """What stands on the terminal after these keys."""
    lines: list[str] = []

    async def act(hand: Hand) -> None:
        if keys:
            await hand.press(*keys)
        lines.extend(read(screen))

    perform(screen, act, size)
    return lines


def golden(name: str, lines: list[str]) -> None:
    """Compare with a file of tests/golden/drill; UPDATE_GOLDEN=1 in the environment writes it."""
    path = GOLDEN / f"{name}.txt"
    text = "".join(line + "\n" for line in lines)
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
