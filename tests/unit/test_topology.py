"""Topology from made-up /sys and /proc trees: holes in node ids, memory-only nodes, blocks of two nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.errors import NumatraceError
from tracer.kernel.topology import AMBIGUOUS, NO_MEMORY, Topology, parse_id_list, parse_zoneinfo, read_topology

BLOCK_PAGES = 32768  # 128 MiB


class FakeMachine:
    """Writes the files that a topology is read from."""

    def __init__(self, root: Path, block_bytes: int = BLOCK_PAGES * 4096) -> None:
        self.sys, self.proc = root / "sys", root / "proc"
        self.write("memory/block_size_bytes", f"{block_bytes:x}\n")
        self.proc.mkdir()
        self.zoneinfo = ""

    def write(self, name: str, text: str) -> None:
        path = self.sys / "devices/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def nodes(self, possible: str, online: str, has_memory: str, has_cpu: str) -> None:
        lists = {"possible": possible, "online": online, "has_memory": has_memory, "has_cpu": has_cpu}
        for name, value in lists.items():
            self.write(f"node/{name}", value + "\n")

    def node(self, node: int, cpus: str, distances: str, blocks: range | list[int]) -> None:
        self.write(f"node/node{node}/cpulist", cpus + "\n")
        self.write(f"node/node{node}/distance", distances + "\n")
        for block in blocks:
            self.write(f"memory/memory{block}/state", "online\n")
            (self.sys / f"devices/system/node/node{node}/memory{block}").symlink_to(f"../../memory/memory{block}")

    def zone(self, node: int, name: str, start: int, end: int) -> None:
        self.zoneinfo += (
            f"Node {node}, zone {name:>8}\n  per-node stats\n      nr_inactive_anon 5\n  pages free     10\n"
            f"        min      1\n        spanned  {end - start}\n        present  {end - start}\n"
            f"        managed  {end - start}\n  pagesets\n    cpu: 0\n              count:    3\n"
            f"  node_unreclaimable:  0\n  start_pfn:           {start}\n"
        )

    def empty_zone(self, node: int, name: str) -> None:
        self.zoneinfo += f"Node {node}, zone {name:>8}\n  pages free     0\n        spanned  0\n        present  0\n"

    def read(self) -> Topology:
        (self.proc / "zoneinfo").write_text(self.zoneinfo)
        return read_topology(self.sys, self.proc)


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path)


def holes(machine: FakeMachine) -> Topology:
    """Nodes 0 and 4 with CPUs, 6 with memory only, 7 with CPUs only; 9 is possible and absent."""
    machine.nodes("0-9", "0,4,6-7", "0,4,6", "0,4,7")
    machine.node(0, "0-1,8", "10 21 31 17", range(8))
    machine.node(4, "2-3", "21 10 31 17", range(8, 12))
    machine.node(6, "", "31 31 10 17", range(16, 20))
    machine.node(7, "4-7", "17 17 17 10", [])
    machine.zone(0, "DMA", 1, 4096)
    machine.zone(0, "Normal", 4096, 8 * BLOCK_PAGES)
    machine.zone(4, "Normal", 8 * BLOCK_PAGES, 12 * BLOCK_PAGES)
    machine.empty_zone(4, "Device")
    machine.zone(6, "Movable", 16 * BLOCK_PAGES, 20 * BLOCK_PAGES)
    return machine.read()


def test_ids_with_holes_and_nodes_without_cpu_or_memory(machine: FakeMachine) -> None:
    topology = holes(machine)
    assert topology.online == (0, 4, 6, 7)
    assert topology.has_memory == (0, 4, 6)
    assert topology.has_cpu == (0, 4, 7)
    assert topology.nr_node_ids == 10
    assert topology.cpus == {0: (0, 1, 8), 4: (2, 3), 6: (), 7: (4, 5, 6, 7)}
    assert topology.distances[4] == {0: 21, 4: 10, 6: 31, 7: 17}
    assert topology.block_pages == BLOCK_PAGES
    assert topology.page_size == 4096
    assert not topology.has_zone_device


def test_node_of_a_cpu(machine: FakeMachine) -> None:
    topology = holes(machine)
    assert [topology.node_of_cpu(cpu) for cpu in (0, 8, 3, 7)] == [0, 0, 4, 7]
    with pytest.raises(KeyError):
        topology.node_of_cpu(9)


def test_table_has_an_entry_for_each_block_and_a_gap_without_memory(machine: FakeMachine) -> None:
    shift, table = holes(machine).node_table()
    assert 1 << shift == BLOCK_PAGES
    assert table.dtype == np.uint8
    assert table.tolist() == [0] * 8 + [4] * 4 + [NO_MEMORY] * 4 + [6] * 4


def test_memory_of_a_node_outside_n_memory_does_not_count(machine: FakeMachine) -> None:
    machine.nodes("0-1", "0-1", "0", "0-1")
    machine.node(0, "0", "10 20", [0])
    machine.node(1, "1", "20 10", [1])
    machine.zone(0, "Normal", 1, BLOCK_PAGES)
    machine.zone(1, "Normal", BLOCK_PAGES, 2 * BLOCK_PAGES)
    assert machine.read().node_table()[1].tolist() == [0, NO_MEMORY]


def two_nodes(machine: FakeMachine, zones: list[tuple[int, int, int]]) -> Topology:
    """Nodes 0 and 2, which share block 1."""
    machine.nodes("0-2", "0,2", "0,2", "0,2")
    machine.node(0, "0", "10 20", [0, 1])
    machine.node(2, "1", "20 10", [1, 2])
    for node, start, end in zones:
        machine.zone(node, "Normal", start, end)
    return machine.read()


def test_a_zone_boundary_inside_a_shared_block_makes_the_table_finer(machine: FakeMachine) -> None:
    cut = BLOCK_PAGES + 3 * 4096
    shift, table = two_nodes(machine, [(0, 1, cut), (2, cut, 3 * BLOCK_PAGES)]).node_table()
    assert shift == 12
    assert table.tolist() == [0] * 8 + [0] * 3 + [2] * 5 + [2] * 8


def test_a_hole_between_the_zones_of_a_shared_block_has_no_memory(machine: FakeMachine) -> None:
    end, start = BLOCK_PAGES + 4096, BLOCK_PAGES + 5 * 4096
    shift, table = two_nodes(machine, [(0, 1, end), (2, start, 3 * BLOCK_PAGES)]).node_table()
    assert shift == 12
    assert table[8:16].tolist() == [0] + [NO_MEMORY] * 4 + [2] * 3


def test_overlapping_zones_in_a_shared_block_are_ambiguous(machine: FakeMachine) -> None:
    shift, table = two_nodes(machine, [(0, 1, 2 * BLOCK_PAGES), (2, BLOCK_PAGES, 3 * BLOCK_PAGES)]).node_table()
    assert 1 << shift == BLOCK_PAGES
    assert table.tolist() == [0, AMBIGUOUS, 2]


def test_a_boundary_below_two_mebibytes_leaves_only_its_own_part_ambiguous(machine: FakeMachine) -> None:
    cut = BLOCK_PAGES + 512 + 8
    shift, table = two_nodes(machine, [(0, 1, cut), (2, cut, 3 * BLOCK_PAGES)]).node_table()
    assert shift == 9
    per_block = BLOCK_PAGES >> 9
    assert table[:per_block].tolist() == [0] * per_block
    assert table[per_block : per_block + 4].tolist() == [0, AMBIGUOUS, 2, 2]


def test_interleaved_zones_of_whole_blocks_are_told_apart_by_the_blocks(machine: FakeMachine) -> None:
    machine.nodes("0-1", "0-1", "0-1", "0-1")
    machine.node(0, "0", "10 20", [0, 2])
    machine.node(1, "1", "20 10", [1, 3])
    machine.zone(0, "Normal", 1, 3 * BLOCK_PAGES)
    machine.zone(1, "Normal", BLOCK_PAGES, 4 * BLOCK_PAGES)
    assert machine.read().node_table()[1].tolist() == [0, 1, 0, 1]


def test_device_memory_is_noticed_and_is_in_no_zone(machine: FakeMachine) -> None:
    machine.nodes("0", "0", "0", "0")
    machine.node(0, "0", "10", [0])
    machine.zone(0, "Normal", 1, BLOCK_PAGES)
    machine.zone(0, "Device", 2 * BLOCK_PAGES, 4 * BLOCK_PAGES)
    topology = machine.read()
    assert topology.has_zone_device
    assert [zone.name for zone in topology.zones] == ["Normal"]
    assert topology.node_table()[1].tolist() == [0]


def test_without_memory_blocks_the_zones_decide(machine: FakeMachine) -> None:
    (machine.sys / "devices/system/memory/block_size_bytes").unlink()
    machine.nodes("0-1", "0-1", "0-1", "0-1")
    machine.node(0, "0", "10 20", [])
    machine.node(1, "1", "20 10", [])
    machine.zone(0, "Normal", 1, 5 * 8192)
    machine.zone(1, "Normal", 5 * 8192, 7 * 8192)
    topology = machine.read()
    assert topology.block_pages == 0
    shift, table = topology.node_table()
    assert shift == 13
    assert table.tolist() == [0] * 5 + [1] * 2


def test_a_kernel_without_numa_has_node_zero(machine: FakeMachine) -> None:
    machine.write("cpu/online", "0-3\n")
    machine.write("memory/memory0/state", "online\n")
    machine.zone(0, "Normal", 1, BLOCK_PAGES)
    topology = machine.read()
    assert topology.has_memory == topology.possible == (0,)
    assert topology.node_of_cpu(3) == 0
    assert topology.node_table()[1].tolist() == [0]


def test_node_ids_that_do_not_fit_the_table_are_ambiguous(machine: FakeMachine) -> None:
    machine.nodes("0-300", "0,253-254,300", "0,253-254,300", "0")
    for index, node in enumerate((0, 253, 254, 300)):
        machine.node(node, "", "10 10 10 10", [index])
    assert machine.read().node_table()[1].tolist() == [0, 253, AMBIGUOUS, AMBIGUOUS]


def test_no_sys_and_no_proc_is_an_error_for_the_user(tmp_path: Path) -> None:
    with pytest.raises(NumatraceError, match="memory layout") as caught:
        read_topology(tmp_path, tmp_path)
    assert caught.value.hint


@given(st.sets(st.integers(0, 2000)))
def test_id_lists_are_read_as_the_kernel_prints_them(ids: set[int]) -> None:
    ranges: list[list[int]] = []
    for number in sorted(ids):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    text = ",".join(f"{first}-{last}" if first != last else f"{first}" for first, last in ranges) + "\n"
    assert parse_id_list(text) == tuple(sorted(ids))


def test_unpopulated_zones_are_left_out() -> None:
    text = "Node 3, zone      DMA\n        spanned  0\n        present  0\nNode 3, zone   Normal\n        spanned  7\n"
    assert parse_zoneinfo(text) == ()
    (zone,) = parse_zoneinfo(text + "  start_pfn:           100\n")
    assert (zone.node, zone.name, zone.start, zone.end) == (3, "Normal", 100, 107)
