"""What the first look costs: seeding a large target by the walk and by pagemap, beside one read of numa_maps."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.kernel_file import read_numa_maps
from benchmarks.session_process import ROOT
from benchmarks.table import Section
from benchmarks.workload import Hold
from tracer.errors import NumatraceError

__all__ = ["ROUNDS", "measure"]

ROUNDS = 9
MILLISECOND = 1e6


class Target(NamedTuple):
    """mib: size. limits: how much of one read of numa_maps a seed may take, by the way of seeding."""

    title: str
    mib: int
    thp: bool
    limits: dict[str, float | None]


TARGETS = (
    Target("Seed at 12 GiB of 4 KiB pages", 12288, False, {"walk": 0.15, "pagemap": 1.0}),
    Target("Seed at 8 GiB of huge pages (THP)", 8192, True, {"walk": 0.5, "pagemap": None}),
)
METHOD = (
    "From the list of VMAs to the first counts, with the hooks attached already: CPU time of all threads of the "
    "tracing process, and elapsed time; × is against the same clock of one read of /proc/PID/numa_maps in that round."
)

Series = dict[str, list[float]]


def _look(way: str, pid: int) -> tuple[float, float]:
    """(CPU time, elapsed time) in nanoseconds of one first look: way is "numa_maps" or a way of seeding."""
    if way == "numa_maps":
        return read_numa_maps(pid)
    command = [sys.executable, "-m", "benchmarks.seed_process", str(pid), way]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if result.returncode:
        raise NumatraceError(f"the seed by {way} ended with exit code {result.returncode}")
    report = json.loads(result.stdout)
    return report["cpu_ns"], report["elapsed_ns"]


def _round(ways: list[str], pid: int, series: Series) -> None:
    times = {way: _look(way, pid) for way in ways}
    for way, (cpu, elapsed) in times.items():
        series[f"{way} cpu"].append(cpu / MILLISECOND)
        series[f"{way} elapsed"].append(elapsed / MILLISECOND)
        series[f"{way} cpu ratio"].append(cpu / times["numa_maps"][0])
        series[f"{way} elapsed ratio"].append(elapsed / times["numa_maps"][1])


def measure(rounds: int, progress: Callable[[int], None]) -> list[Section]:
    """A section for each of TARGETS; they live one after the other, to need no more memory than the largest."""
    sections = []
    for target in TARGETS:
        series: Series = defaultdict(list)
        ways = ["numa_maps", *target.limits]
        with Hold(target.mib, target.thp) as process:
            for round_ in range(rounds):
                progress(round_)
                turn = round_ % len(ways)
                _round(ways[turn:] + ways[:turn], process.pid, series)
        sections.append(_section(target, series))
    return sections


def _section(target: Target, series: Series) -> Section:
    section = Section(target.title, METHOD)
    for clock, name in (("cpu", "CPU"), ("elapsed", "elapsed")):
        section.add(f"one read of numa_maps, {name}", series[f"numa_maps {clock}"], "ms")
        for way, limit in target.limits.items():
            section.add(f"seed by {way}, {name}", series[f"{way} {clock}"], "ms")
            section.add(f"seed by {way}, {name}, against numa_maps", series[f"{way} {clock} ratio"], "×", limit)
    return section
