"""What a tracer costs a process of many threads that all fault at once.

Every traced figure is divided by the mean of the bare runs just before and just after it, as in `benchmarks.storm`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.session_process import SessionProcess
from benchmarks.table import Section
from benchmarks.workload import StormTime, Workload

__all__ = ["ROUNDS", "measure"]

ROUNDS = 11
THREADS = 64
PAGES = 1024
RUNS = 7
EVERY = 1.0

METHOD = (
    f"{THREADS} threads on all CPUs write {PAGES:,} fresh 4 KiB pages each, side by side in one mapping: CPU time of "
    f"all threads for one fault, and time from the first write to the last. Each figure is the median of {RUNS} such "
    "storms; × is against the bare storms around it. numatrace refreshes every second meanwhile, on the same CPUs."
)


class Threads(Workload):
    """Many threads that fault at once, again and again."""

    def __init__(self) -> None:
        super().__init__("threads", str(THREADS), str(PAGES))

    def run(self) -> StormTime:
        """One storm: nanoseconds of CPU time, and of time, by the number of faults."""
        cpu, elapsed, pages = map(int, self.ask("run").split())
        return StormTime(cpu / pages, elapsed / pages)


class Round(NamedTuple):
    """bare: the first bare storms. traced: against bare. lost: events."""

    bare: StormTime
    traced: StormTime
    lost: float


def _storms(target: Threads) -> StormTime:
    target.run()  # not counted: warms caches and page allocator
    times = [target.run() for _ in range(RUNS)]
    return StormTime(statistics.median(time.cpu for time in times), statistics.median(time.elapsed for time in times))


def _round(target: Threads) -> Round:
    before = _storms(target)
    with SessionProcess(target.pid, every=EVERY) as session:
        traced = _storms(target)
    after = _storms(target)
    cpu, elapsed = (2 * t / (a + b) for t, a, b in zip(traced, before, after, strict=True))
    return Round(before, StormTime(cpu, elapsed), session.ended["lost"])


def measure(rounds: int, progress: Callable[[int], None]) -> list[Section]:
    """One section."""
    results = []
    with Threads() as target:
        for round_ in range(rounds):
            progress(round_)
            results.append(_round(target))
    name = f"{THREADS} threads faulting"
    section = Section(name, METHOD)
    section.add("bare, one fault", (result.bare.cpu for result in results), "ns")
    section.add(f"{name}: traced / bare", (result.traced.cpu for result in results), "×")
    section.add("the same by elapsed time", (result.traced.elapsed for result in results), "×")
    section.add("events that numatrace lost", (result.lost for result in results), "events", 0)
    return [section]
