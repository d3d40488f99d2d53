"""The bundled workload: quiet, deterministic, and over in time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.workload import Workload, cpus_by_node

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "workload.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_it_says_nothing_and_ends_by_itself() -> None:
    began = time.monotonic()
    done = run("--seconds", "1", "--mib", "4")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - began >= 1


def test_two_runs_take_the_same_steps() -> None:
    one, two = (run("--seconds", "1", "--mib", "4", "--verbose").stderr.splitlines() for _ in range(2))
    common = min(len(one), len(two))
    assert common > 0
    assert one[:common] == two[:common]


@pytest.mark.parametrize("arguments", [("--seconds", "0"), ("--mib", "-1")])
def test_nonsense_is_refused(arguments: tuple[str, str]) -> None:
    assert run(*arguments).returncode == 2


def test_a_round_fills_the_table_and_gives_half_back() -> None:
    workload = Workload(mib=4)
    try:
        sizes = []
        for _, action in workload.steps():
            action()
            sizes.append((resident(), len(workload.arena)))
    finally:
        workload.close()
    tables = [table for table, _ in sizes]
    arenas = [arena for _, arena in sizes]
    assert tables == [2 << 20, *[4 << 20] * 6, 2 << 20]
    assert arenas == [*[1 << 20] * 5, 2 << 20, 256 << 10, 256 << 10]


def resident() -> int:
    """Bytes of the table that are in memory; of all mappings here, it alone refuses huge pages (`nh` in smaps)."""
    resident_kib = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *fields = line.split()
        if name == "Rss:":
            resident_kib = int(fields[0])
        elif name == "VmFlags:" and "nh" in fields:
            return resident_kib << 10
    raise AssertionError("the table is not mapped")


def test_every_cpu_that_we_may_use_belongs_to_a_node() -> None:
    nodes = cpus_by_node()
    assert set().union(*nodes) == os.sched_getaffinity(0)
    assert sum(len(cpus) for cpus in nodes) == len(os.sched_getaffinity(0))
