"""What a refresh costs: with nothing changed, at targets of 100 MiB to 12 GiB; with 1,000 regions to settle; and after
one change of a VMA list of 100 to 100,000."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

from benchmarks.kernel_file import read_numa_maps
from benchmarks.mappings import Mappings, room_for
from benchmarks.session_process import Report, SessionProcess
from benchmarks.table import Section
from benchmarks.workload import Hold, resident_peak
from tracer.errors import NumatraceError

__all__ = ["ROUNDS", "measure"]

ROUNDS = 7
SIZES = (100, 1024, 4096, 12288)
"""Targets in MiB. They live one after the other: together they would want more memory than many machines have."""

IDLE_REFRESHES = 20
PAUSE = 0.05
"""Seconds between two idle refreshes: right after another one, a refresh finds everything in the caches."""
KERNEL_READS = 3
DIRTY_REGIONS = 1000
SETTLE_MIB = 2048
LISTS = (100, 10_000, 100_000)
"""VMAs of a target."""
CHANGES = 10
QUIET_AFTER = 20
"""Refreshes after which a target that nobody touches must have settled."""

MILLISECOND = 1e6

IDLE_METHOD = (
    f"Nothing changes between two refreshes, {PAUSE * 1000:.0f} ms apart or one right after the other. CPU time of the "
    f"whole tracing process, each figure the median of {IDLE_REFRESHES} refreshes, beside the CPU time of one read of "
    f"/proc/PID/numa_maps (median of {KERNEL_READS})."
)
SETTLE_METHOD = (
    f"A target of {SETTLE_MIB} MiB faults one page in, in each of {DIRTY_REGIONS:,} regions; then one refresh, and the "
    "next one, which reads them once more. CPU time of the whole tracing process."
)

LIST_METHOD = (
    "A target with that many VMAs changes the protection of one page, which splits a VMA or merges its parts; then one "
    f"refresh. CPU time of the whole tracing process, each figure the median of {CHANGES} changes, beside refreshes "
    f"with nothing changed, {PAUSE * 1000:.0f} ms apart, and one read of numa_maps."
)

Series = dict[str, list[float]]


def size_name(mib: int) -> str:
    return f"{mib} MiB" if mib < 1024 else f"{mib // 1024} GiB"


def _settled(session: SessionProcess) -> None:
    """Refresh until there is nothing left to read: the start of the target is over."""
    for _ in range(QUIET_AFTER):
        if not session.refresh()["regions_read"]:
            return
    raise NumatraceError(f"the target is idle, and {QUIET_AFTER} refreshes did not settle it")


def _later(session: SessionProcess) -> Report:
    time.sleep(PAUSE)
    return session.refresh()


def _idle(mib: int, series: Series) -> None:
    """One target of that size: its idle refreshes, the kernel's file, and the tracer's memory."""
    size = size_name(mib)
    with Hold(mib) as target, SessionProcess(target.pid) as session:
        _settled(session)
        refreshes = [_later(session) for _ in range(IDLE_REFRESHES)]
        close = [session.refresh() for _ in range(IDLE_REFRESHES)]
        reads = [read_numa_maps(target.pid) for _ in range(KERNEL_READS)]
        series[f"memory {size}"].append(resident_peak(session.pid))
    series[f"regions {size}"].append(max(report["regions_read"] for report in refreshes))
    series[f"refresh {size}"].append(statistics.median(report["cpu_ns"] for report in refreshes) / MILLISECOND)
    series[f"close {size}"].append(statistics.median(report["cpu_ns"] for report in close) / MILLISECOND)
    series[f"kernel {size}"].append(statistics.median(read.cpu for read in reads) / MILLISECOND)


def _settle(target: Hold, session: SessionProcess, series: Series) -> None:
    """One round of settling. The pages are given back first, and that settled, so that the faults alone count."""
    target.discard(DIRTY_REGIONS)
    _settled(session)
    target.touch(DIRTY_REGIONS)
    first: Report = session.refresh()
    second: Report = session.refresh()
    series["regions"].append(first["regions_read"])
    series["first"].append(first["cpu_ns"] / MILLISECOND)
    series["second"].append(second["cpu_ns"] / MILLISECOND)
    series["kernel"].append(read_numa_maps(target.pid).cpu / MILLISECOND)


def _changed(session: SessionProcess, target: Mappings) -> Report:
    target.change()
    return session.refresh()


def _list(count: int, series: Series) -> None:
    """One target with that many VMAs."""
    with room_for(count), Mappings(count) as target, SessionProcess(target.pid) as session:
        _settled(session)
        changed = []
        for _ in range(CHANGES):
            changed.append(_changed(session, target))
            _settled(session)
        idle = [_later(session) for _ in range(CHANGES)]
        reads = [read_numa_maps(target.pid) for _ in range(KERNEL_READS)]
    series[f"regions {count}"].append(max(report["regions_read"] for report in changed))
    series[f"changed {count}"].append(statistics.median(report["cpu_ns"] for report in changed) / MILLISECOND)
    series[f"idle {count}"].append(statistics.median(report["cpu_ns"] for report in idle) / MILLISECOND)
    series[f"kernel {count}"].append(statistics.median(read.cpu for read in reads) / MILLISECOND)


def measure(rounds: int, progress: Callable[[int], None]) -> list[Section]:
    """Sections: idle refresh, settling, changes of the VMA list, memory of the tracer."""
    idle: Series = defaultdict(list)
    lists: Series = defaultdict(list)
    settle: Series = defaultdict(list)
    with Hold(SETTLE_MIB) as target, SessionProcess(target.pid) as session:
        for round_ in range(rounds):
            progress(round_)
            turn = round_ % len(SIZES)
            for mib in SIZES[turn:] + SIZES[:turn]:
                _idle(mib, idle)
            _settle(target, session, settle)
            for count in LISTS:
                _list(count, lists)
    return [_idle_section(idle), _settle_section(settle), _list_section(lists), _memory_section(idle)]


def _idle_section(series: Series) -> Section:
    section = Section("Idle refresh", IDLE_METHOD)
    for size in map(size_name, SIZES):
        section.add(f"refresh at {size}", series[f"refresh {size}"], "ms", 0.3)
        section.add(f"refresh at {size}, without a pause", series[f"close {size}"], "ms")
        section.add(f"numa_maps at {size}", series[f"kernel {size}"], "ms")
        section.add(f"regions read again at {size}", series[f"regions {size}"], "regions")
    small, large = size_name(SIZES[0]), size_name(SIZES[-1])
    ratios = zip(series[f"refresh {large}"], series[f"refresh {small}"], strict=True)
    section.add(f"refresh at {large} against {small}", (a / b for a, b in ratios), "×")
    return section


def _settle_section(series: Series) -> Section:
    section = Section(f"Settling {DIRTY_REGIONS:,} dirty regions", SETTLE_METHOD)
    section.add("regions read again", series["regions"], "regions")
    section.add("refresh that settles them", series["first"], "ms", 5)
    section.add("the next refresh", series["second"], "ms")
    section.add("one read of numa_maps", series["kernel"], "ms")
    return section


def _list_section(series: Series) -> Section:
    section = Section("One change of the VMA list", LIST_METHOD)
    for count in LISTS:
        name = f"{count:,} VMAs"
        section.add(f"refresh after a change, {name}", series[f"changed {count}"], "ms", 15)
        section.add(f"regions read again, {name}", series[f"regions {count}"], "regions")
        section.add(f"refresh with nothing changed, {name}", series[f"idle {count}"], "ms", 0.3)
        section.add(f"numa_maps, {name}", series[f"kernel {count}"], "ms")
    return section


def _memory_section(series: Series) -> Section:
    section = Section("Memory of the tracing process", "Highest resident set of a session after its refreshes.")
    for size in map(size_name, SIZES):
        section.add(f"target of {size}", series[f"memory {size}"], "MiB", 150)
    return section
