"""Recordings made up: what a database server of 500 VMAs does in a day, without a day of waiting.

Deterministic. Most of it stands still, as in a real server; every second a few areas grow or shrink by some pages; now
and then a file is mapped or unmapped; every ten minutes NUMA balancing moves pages about for half a minute.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from tracer.model.events import Faults, Flows, Kind
from tracer.model.policy import DEFAULT, Mode, Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Refresh, Snapshot, Trust
from tracer.model.vma import Kind as VmaKind
from tracer.model.vma import Vma
from tracer.record.schema import Info

__all__ = ["INFO", "VMAS", "Server"]

VMAS = 500
NODES = (0, 1, 2, 3)
REASONS = ("compaction", "syscall", "numa_misplaced")
INFO = Info(
    host="db1",
    kernel="6.12.0",
    node_ids=NODES,
    reasons=REASONS,
    command_line=("numatrace", "record", "-p", "4242", "-o", "day.parquet"),
    targets=("4242",),
    every_s=1.0,
    flows=True,
    faults=True,
)
START = datetime(2026, 3, 1, tzinfo=UTC)
INTERLEAVE = Policy(Mode.INTERLEAVE, 0, NODES)
GROWING = 6
"""Areas that gain or lose pages in a second."""
REMAP_EVERY_S = 10
BALANCING_EVERY_S, BALANCING_S = 600, 30


def _vma(number: int, pages: int) -> Vma:
    start = 0x7F00_0000_0000 + number * (1 << 30)
    file = number % 3 == 0
    return Vma(
        start,
        start + pages * 4096,
        "r--s" if file else "rw-p",
        0,
        "08:01" if file else "00:00",
        number if file else 0,
        f"/var/lib/db/base/16384/{number}".encode() if file else b"",
        VmaKind.FILE if file else VmaKind.ANON,
        INTERLEAVE if number % 50 == 1 else DEFAULT,
    )


class Server:
    """Gives one `Sample` a second for as many seconds as asked."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        sizes = [1 << self._random.randint(4, 16) for _ in range(VMAS)]
        self._vmas = tuple(_vma(number, size) for number, size in enumerate(sizes))
        self._pages = np.array([[self._random.randint(0, size // 4) for _ in NODES] for size in sizes], np.int64)
        self._next = VMAS

    def samples(self, seconds: int) -> Iterator[Sample]:
        """One for each second from START on."""
        for second in range(seconds):
            if second % REMAP_EVERY_S == REMAP_EVERY_S - 1:
                self._remap()
            faults = self._grow()
            balancing = second % BALANCING_EVERY_S < BALANCING_S
            yield self._sample(START + timedelta(seconds=second), self._balance() if balancing else [], faults)

    def _remap(self) -> None:
        """An area goes, another one comes."""
        row = self._random.randrange(VMAS)
        new = _vma(self._next, 1 << self._random.randint(4, 16))
        self._next += 1
        self._vmas = (*self._vmas[:row], *self._vmas[row + 1 :], new)
        self._pages = np.vstack((np.delete(self._pages, row, axis=0), np.zeros((1, len(NODES)), np.int64)))

    def _grow(self) -> list[tuple[int, ...]]:
        self._pages = self._pages.copy()
        faults: list[tuple[int, ...]] = []
        for _ in range(GROWING):
            row, node = self._random.randrange(VMAS), self._random.randrange(len(NODES))
            change = self._random.randint(-200, 300)
            self._pages[row, node] = max(0, self._pages[row, node] + change)
            if change > 0:
                faults.append((row, node, node, int(Kind.NEW), 0, change))
        return faults

    def _balance(self) -> list[tuple[int, ...]]:
        flows: list[tuple[int, ...]] = []
        for _ in range(10):
            row = self._random.randrange(VMAS)
            source, destination = self._random.sample(range(len(NODES)), 2)
            moved = int(min(self._pages[row, source], 128))
            if moved:
                self._pages[row, source] -= moved
                self._pages[row, destination] += moved
                flows.append((row, source, destination, REASONS.index("numa_misplaced"), moved, 0))
        return flows

    def _sample(self, time: datetime, flows: list[tuple[int, ...]], faults: list[tuple[int, ...]]) -> Sample:
        columns = [np.array(rows, np.int64).reshape(len(rows), 6).T for rows in (flows, faults)]
        moved = np.zeros(len(REASONS), np.int64)
        moved[REASONS.index("numa_misplaced")] = sum(flow[4] for flow in flows)
        snapshot = Snapshot(
            time,
            4242,
            b"db",
            "tracepoint",
            "walk",
            replace(Trust(), oldest_read_s=self._random.random()),
            Refresh(2 * GROWING, self._random.randint(200_000, 400_000)),
            self._vmas,
            NODES,
            self._pages,
            namespace_pid=4242,
            flows=Flows(REASONS, *columns[0]),
            faults=Faults(*columns[1]),
        )
        return Sample(time, NODES, (snapshot,), (), 0, REASONS, moved, np.zeros(len(REASONS), np.int64))
