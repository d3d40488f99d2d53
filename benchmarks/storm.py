"""What a tracer costs a process that faults: fault storms bare, and under each peer, in the same rounds.

Every figure of a tracer is divided by the mean of the bare storms just before and just after it, so that a machine
whose speed drifts does not favour anyone; the order of the tracers turns from round to round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.peers import PEERS
from benchmarks.session_process import SessionProcess
from benchmarks.table import Section
from benchmarks.workload import Storm, pin_apart

__all__ = ["ROUNDS", "measure"]

ROUNDS = 11
MIB = 256
STORMS = 5

EMPTY = "an empty BPF program"
NUMATRACE = "numatrace"

METHOD = (
    f"{MIB} MiB of fresh 4 KiB pages, one write each, CPU time of the faulting thread; the tracer has another CPU. "
    f"× is against the bare storms around it, each figure the median of {STORMS} storms. "
)
TITLES = {
    "sequential": ("Fault storm, sequential addresses", METHOD + "numatrace refreshes every second meanwhile.", 0.04),
    "random": (
        "Fault storm, random addresses",
        METHOD + "Nearly every fault is in another region (2 MiB) than the one before it.",
        0.08,
    ),
    "other": (
        "Fault storm of another process",
        METHOD + "The tracers are attached to a process that sleeps meanwhile; what is left is their filter.",
        0.01,
    ),
}

Times = dict[str, float]
"""Nanoseconds of CPU time a fault, for each key of TITLES."""


def _storms(traced: Storm, other: Storm) -> Times:
    """One measurement of the three kinds, in turns; a storm before it, not counted, warms caches and page allocator."""
    traced.run("sequential")
    runs: dict[str, Callable[[], float]] = {
        "sequential": lambda: traced.run("sequential").cpu,
        "random": lambda: traced.run("random").cpu,
        "other": lambda: other.run("sequential").cpu,
    }
    times = [{kind: run() for kind, run in runs.items()} for _ in range(STORMS)]
    return {kind: statistics.median(time[kind] for time in times) for kind in runs}


class Round(NamedTuple):
    """bare: the first bare storms. ratios: by peer and kind, against bare. lost: events that numatrace lost."""

    bare: Times
    ratios: dict[str, Times]
    lost: float


def _round(order: list[str], traced: Storm, other: Storm) -> Round:
    bare = _storms(traced, other)
    first = bare
    ratios = {}
    lost = 0.0
    for name in order:
        with PEERS[name](traced.pid) as attached:
            times = _storms(traced, other)
        if isinstance(attached, SessionProcess):
            lost = attached.ended["lost"]
        after = _storms(traced, other)
        ratios[name] = {kind: times[kind] * 2 / (bare[kind] + after[kind]) for kind in TITLES}
        bare = after
    return Round(first, ratios, lost)


def measure(rounds: int, progress: Callable[[int], None]) -> list[Section]:
    """Three sections; see TITLES. Pins this process, and so every tracer, to one CPU."""
    _, storm_cpu = pin_apart()
    names = list(PEERS)
    results = []
    with Storm(MIB, storm_cpu) as traced, Storm(MIB, storm_cpu) as other:
        for round_ in range(rounds):
            progress(round_)
            turn = round_ % len(names)
            results.append(_round(names[turn:] + names[:turn], traced, other))
    return [_section(kind, results) for kind in TITLES]


def _section(kind: str, results: list[Round]) -> Section:
    title, method, limit = TITLES[kind]
    section = Section(title, method)
    section.add("bare, one fault", (result.bare[kind] for result in results), "ns")
    for name in PEERS:
        section.add(name, (result.ratios[name][kind] for result in results), "×")
    over = (result.ratios[NUMATRACE][kind] - result.ratios[EMPTY][kind] for result in results)
    section.add("numatrace less the empty program", over, "×", limit)
    if kind != "other":
        section.add("events that numatrace lost", (result.lost for result in results), "events", 0)
    return section
