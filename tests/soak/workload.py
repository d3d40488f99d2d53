"""The processes that the soak drives (tests/workloads/soak.c), and what they did, from the ledger that they keep."""

from __future__ import annotations

import enum
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.kernel.target import Driven, build_workloads, wait_asleep

__all__ = ["Did", "Kinds", "Soak", "Tally"]

_PROCESSES, _THREADS, _OPERATIONS, _KEPT, _LEDGER_FD = 8, 8, 64, 256, 93
_ENTRY = np.dtype(
    [
        ("number", np.uint32),
        ("operation", np.uint32),
        ("result", np.int32),
        ("extra", np.uint32),
        ("start", np.uint64),
        ("length", np.uint64),
    ]
)
_LEDGER = np.dtype(
    [
        ("done", np.uint64),
        ("tried", np.uint64, (_OPERATIONS,)),
        ("failed", np.uint64, (_OPERATIONS,)),
        ("last", _ENTRY, (_KEPT,)),
    ]
)
_COMMON = np.dtype([("pids", np.int32, (_PROCESSES,)), ("ledgers", _LEDGER, (_PROCESSES, _THREADS))])


class Kinds(enum.IntFlag):
    """Operations of a round: on the process's own memory, on memory that others map too, on other processes."""

    LOCAL = 1
    SHARING = 2
    OUTSIDE = 4


@dataclass(frozen=True, slots=True)
class Did:
    """An operation that was done. result: 0, a negative error number, or 1 while it is under way."""

    pid: int
    thread: int
    number: int
    operation: str
    start: int
    length: int
    extra: int
    result: int

    @property
    def on_another(self) -> bool:
        """It changes another process, or memory that others map as well."""
        return "another" in self.operation or self.operation.startswith("process_") or not self.start

    def __str__(self) -> str:
        end = self.start + self.length
        outcome = "" if not self.result else " -> not over" if self.result > 0 else f" -> {os.strerror(-self.result)}"
        return (
            f"{self.pid}/{self.thread} #{self.number} {self.operation} {self.start:x}-{end:x} {self.extra:#x}{outcome}"
        )


@dataclass(frozen=True, slots=True)
class Tally:
    """How often an operation was tried, and how often it failed, over all threads."""

    operation: str
    tried: int
    failed: int


class Soak(Driven):
    """Running processes. pids: the hub, and then one process for each number in `threads`; none of them ever ends."""

    def __init__(self, seed: int, directory: Path, threads: tuple[int, ...]) -> None:
        program = build_workloads() / "soak"
        names = subprocess.run([program, "names"], check=True, capture_output=True, encoding="ascii")
        self._names = names.stdout.splitlines()
        super().__init__(program, (), (str(seed), str(directory), *map(str, threads)))
        words = self._answer("start").split()
        assert words[0] == "ready", words
        self.pids = tuple(map(int, words[1:]))
        self._threads = threads
        self.mark()
        self.rest()

    def send(self, count: int, kinds: Kinds) -> None:
        """Let every thread do so many operations."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go %d %d\n" % (count, kinds))

    def receive(self) -> None:
        """Wait until all threads have done them, and all processes are at rest."""
        answer = self._answer("go")
        assert answer == "ok", answer
        self.rest()

    def go(self, count: int, kinds: Kinds) -> None:
        """Let every thread do so many operations, and wait until all are at rest."""
        self.send(count, kinds)
        self.receive()

    def rest(self) -> None:
        """Return when every thread of every process sleeps."""
        for pid in self.pids:
            wait_asleep(pid)

    def _ledger(self) -> np.void:
        content = Path(f"/proc/{self.pids[0]}/fd/{_LEDGER_FD}").read_bytes()
        common: np.void = np.frombuffer(content, _COMMON)[0]
        return common

    def mark(self) -> None:
        """Forget what was done so far: `last` tells what comes."""
        self._marked = self._ledger()["ledgers"]["done"].copy()

    def operations(self) -> int:
        """How many were done since the start, by all."""
        return int(self._ledger()["ledgers"]["done"].sum())

    def tallies(self) -> list[Tally]:
        """By operation, since the start."""
        ledgers = self._ledger()["ledgers"]
        tried, failed = (ledgers[field].sum(axis=(0, 1)).tolist() for field in ("tried", "failed"))
        return [Tally(name, *counts) for name, *counts in zip(self._names, tried, failed, strict=False)]

    def last(self) -> list[Did]:
        """The operations of all threads since `mark` (at most the last 256 of each), those of a thread in order."""
        common = self._ledger()
        found = []
        for process, threads in enumerate(self._threads):
            pid = int(common["pids"][process])
            for thread in range(threads):
                ledger = common["ledgers"][process][thread]
                done, marked = int(ledger["done"]), int(self._marked[process][thread])
                for number in range(max(marked, done - _KEPT), done):
                    found.append(self._did(pid, thread, ledger["last"][number % _KEPT]))
        return found

    def _did(self, pid: int, thread: int, entry: np.void) -> Did:
        number, operation, result, extra, start, length = entry.tolist()
        return Did(pid, thread, number, self._names[operation], start, length, extra, result)
