"""The machine's own nodes, pools and weights, each against another file of the kernel."""

from __future__ import annotations

import os
from pathlib import Path

from tests.kernel import machine
from tracer.kernel.pressure import PressureReader, allowed_nodes, free_hugepages, read_pressure, read_weights

NODES = Path("/sys/devices/system/node")
WEIGHTS = Path("/sys/kernel/mm/mempolicy/weighted_interleave")


def test_nodes_are_as_full_as_zoneinfo_and_meminfo_say(nodes: list[int]) -> None:
    reader = PressureReader(nodes)
    first, told, last = reader.read(), read_pressure(nodes), reader.read()
    reader.close()
    total = {node: _meminfo(node, "MemTotal") // 4 for node in nodes}
    for i, node in enumerate(nodes):
        assert 0 <= told.free[i] <= total[node]
        assert 0 < told.low[i] < told.high[i] < total[node]
        assert first.foreign[i] <= told.foreign[i] <= last.foreign[i]
    # Pages come and go, but not a fourth of the machine's while it is at rest.
    assert abs(int(told.free.sum()) - sum(_meminfo(node, "MemFree") for node in nodes) // 4) * 4 < sum(total.values())


def _meminfo(node: int, name: str) -> int:
    """KiB."""
    lines = (NODES / f"node{node}/meminfo").read_text().splitlines()
    return next(int(line.split()[3]) for line in lines if line.split()[2] == f"{name}:")


def test_pools_are_those_that_the_machine_sums_up(quiet_machine: None, nodes: list[int]) -> None:
    with machine.huge_pages(18):
        assert sum(free_hugepages(nodes, 2048)) == machine.free_huge_pages(21) >= 18


def test_allowed_nodes_are_those_of_the_process(nodes: list[int]) -> None:
    assert set(nodes) >= set(allowed_nodes(os.getpid())) > set()


def test_weights_are_those_of_the_files(nodes: list[int]) -> None:
    """On a kernel before 6.9 there is nothing to read."""
    told = read_weights(nodes)
    if not WEIGHTS.is_dir():
        assert told is None
        return
    assert told == tuple(int((WEIGHTS / f"node{node}").read_text()) for node in nodes)
    assert all(1 <= weight <= 255 for weight in told)


def test_a_weight_that_somebody_sets_shows_at_once(quiet_machine: None, nodes: list[int]) -> None:
    if not WEIGHTS.is_dir():
        assert read_weights(nodes) is None
        return
    # That ends the kernel's own choice of weights (6.16); a machine that tells no bandwidths cannot have it again.
    with machine.setting(WEIGHTS / f"node{nodes[-1]}", "7"):
        told = read_weights(nodes)
        assert told is not None
        assert told[-1] == 7
