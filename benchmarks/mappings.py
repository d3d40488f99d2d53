"""Drives the workload `vmas`: a process with very many VMAs, which it changes on demand or at full speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.workload import Workload

__all__ = ["Mappings", "room_for"]

MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")


class Mappings(Workload):
    """Holds `count` VMAs."""

    def __init__(self, count: int, cpu: int | None = None) -> None:
        super().__init__("vmas", str(count), cpu=cpu)

    def change(self) -> None:
        """One change of the list: a VMA is split, or its parts are merged."""
        self.ask("change")

    def begin(self, milliseconds: int) -> None:
        """Change the list at full speed for so long; `finish` waits for the end."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"churn {milliseconds}\n")

    def finish(self) -> float:
        """Nanoseconds of CPU time for one change."""
        changes, nanoseconds = map(int, self._answer().split())
        return nanoseconds / changes


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Let a process have so many VMAs and some, for a while."""
    before = MAX_MAP_COUNT.read_text()
    MAX_MAP_COUNT.write_text(str(max(int(before), count + 1000)))
    try:
        yield
    finally:
        MAX_MAP_COUNT.write_text(before)
