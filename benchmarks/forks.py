"""What following its children costs a process that forks all the time.

Every traced figure is divided by the mean of the bare runs just before and just after it, as in `benchmarks.storm`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.session_process import SessionProcess
from benchmarks.table import Section
from benchmarks.workload import StormTime, Workload, pin_apart
from tracer.errors import NumatraceError

__all__ = ["ROUNDS", "measure"]

ROUNDS = 9
CHILDREN = 300
PAGES = 256
RUNS = 5
EVERY = 1.0
SEEN = 0.9
"""Share of the children that the session must have seen; of the last ones it may tell at its next refresh."""

MICROSECOND = 1e3

METHOD = (
    f"A process forks {CHILDREN} times, one child after the other; each child writes {PAGES} pages of 4 KiB that it "
    "shares with its parent, and ends. CPU time of parent and children for one child, from fork to wait, and elapsed "
    f"time. Each figure is the median of {RUNS} such storms; × is against the bare storms around it. numatrace has "
    "another CPU, follows all children and refreshes every second meanwhile."
)


class Forks(Workload):
    """Short-lived children, one after the other, again and again."""

    def __init__(self, cpu: int) -> None:
        super().__init__("forkstorm", str(CHILDREN), str(PAGES), cpu=cpu)

    def run(self) -> StormTime:
        """One storm: nanoseconds of CPU time, and of time, by the number of children."""
        cpu, elapsed, children = map(int, self.ask("run").split())
        return StormTime(cpu / children, elapsed / children)


class Round(NamedTuple):
    """bare: the first bare storms. traced: against bare. lost: events. untraced: children that had no room."""

    bare: StormTime
    traced: StormTime
    lost: float
    untraced: float


def _storms(target: Forks) -> StormTime:
    target.run()  # not counted: warms caches and page allocator
    times = [target.run() for _ in range(RUNS)]
    return StormTime(statistics.median(time.cpu for time in times), statistics.median(time.elapsed for time in times))


def _round(target: Forks) -> Round:
    before = _storms(target)
    with SessionProcess(target.pid, every=EVERY, follow_forks=True) as session:
        traced = _storms(target)
    after = _storms(target)
    ended, untraced = session.ended["ended"], session.ended["untraced"]
    children = CHILDREN * (RUNS + 1)
    if ended + untraced < SEEN * children:
        raise NumatraceError(f"the session saw {ended + untraced:.0f} of {children} children: its cost means nothing")
    cpu, elapsed = (2 * t / (a + b) for t, a, b in zip(traced, before, after, strict=True))
    return Round(before, StormTime(cpu, elapsed), session.ended["lost"], untraced)


def measure(rounds: int, progress: Callable[[int], None]) -> list[Section]:
    """One section. Pins this process, and so the tracer, to one CPU."""
    _, cpu = pin_apart()
    results = []
    with Forks(cpu) as target:
        for round_ in range(rounds):
            progress(round_)
            results.append(_round(target))
    section = Section("Fork storm", METHOD)
    section.add("bare, one child", (result.bare.cpu / MICROSECOND for result in results), "us")
    section.add("fork storm with --follow-forks: traced / bare", (result.traced.cpu for result in results), "×")
    section.add("the same by elapsed time", (result.traced.elapsed for result in results), "×")
    section.add("events that numatrace lost", (result.lost for result in results), "events", 0)
    section.add("children that were not traced", (result.untraced for result in results), "events", 0)
    return [section]
