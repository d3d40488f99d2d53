"""What a tracer costs a process that changes its VMA list at full speed, and what following it costs the tracer.

Every traced figure is divided by the mean of the bare runs just before and just after it, as in `benchmarks.storm`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.mappings import Mappings
from benchmarks.session_process import Report, SessionProcess
from benchmarks.table import Section
from benchmarks.workload import pin_apart

__all__ = ["ROUNDS", "measure"]

ROUNDS = 9
VMAS = 1000
RUN_MS = 200
RUNS = 5
EVERY = 0.1
REFRESHES = 10
PAUSE = RUN_MS * RUNS / 1000 / (REFRESHES + 2)
"""Seconds before each of them: all are made while the list changes."""
MILLISECOND = 1e6

METHOD = (
    f"A process with {VMAS:,} VMAs maps, protects, moves and unmaps memory as fast as it can: CPU time of one change "
    "of its VMA list (of four, one maps, one splits, one moves and one unmaps; one page fault goes with them), the "
    f"median of {RUNS} runs of {RUN_MS} ms. numatrace has another CPU and refreshes every {EVERY * 1000:.0f} ms; × is "
    "against the bare runs around it. A refresh of a list that never stands still: CPU time of the tracing process, "
    f"the median of {REFRESHES}."
)


class Round(NamedTuple):
    """bare: the first bare run, in ns. ratio: traced against bare. lost: events. refresh: ms of CPU time."""

    bare: float
    ratio: float
    lost: float
    refresh: float


def _run(target: Mappings) -> float:
    """Nanoseconds of CPU time for one change."""
    times = []
    for _ in range(RUNS):
        target.begin(RUN_MS)
        times.append(target.finish())
    return statistics.median(times)


def _later(session: SessionProcess) -> Report:
    time.sleep(PAUSE)
    return session.refresh()


def _refresh(target: Mappings) -> float:
    """Milliseconds of CPU time of a refresh in the midst of changes."""
    with SessionProcess(target.pid) as session:
        target.begin(RUN_MS * RUNS)
        reports = [_later(session) for _ in range(REFRESHES)]
        target.finish()
    return statistics.median(report["cpu_ns"] for report in reports) / MILLISECOND


def _round(target: Mappings) -> Round:
    _run(target)  # not counted: warms caches
    before = _run(target)
    with SessionProcess(target.pid, every=EVERY) as session:
        traced = _run(target)
    after = _run(target)
    return Round(before, traced * 2 / (before + after), session.ended["lost"], _refresh(target))


def measure(rounds: int, progress: Callable[[int], None]) -> list[Section]:
    """One section. Pins this process, and so every tracer, to one CPU."""
    _, cpu = pin_apart()
    results = []
    with Mappings(VMAS, cpu) as target:
        for round_ in range(rounds):
            progress(round_)
            results.append(_round(target))
    section = Section("VMA churn", METHOD)
    section.add("bare, one change", (result.bare for result in results), "ns")
    section.add("traced against bare", (result.ratio for result in results), "×")
    section.add("a refresh meanwhile", (result.refresh for result in results), "ms")
    section.add("events that numatrace lost", (result.lost for result in results), "events", 0)
    return [section]
