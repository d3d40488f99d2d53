"""How full nodes are, weights, pools and cpusets, from files that this test writes as the kernel does."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tracer.kernel import pressure
from tracer.kernel.pressure import (
    PressureReader,
    allowed_nodes,
    free_hugepages,
    parse_watermarks,
    read_pressure,
    read_weights,
)

ZONEINFO = b"""\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 1
      low 77
  pages free     3840
        boost    0
        min      30
        low      37
        high     44
        promo    51
        spanned  4095
        protection: (0, 2954, 31942, 31942, 31942)
  pagesets
    cpu: 0
              count:    0
              high:     9999
              batch:    1
              high_min: 15
Node 0, zone   Normal
  pages free     500000
        min      16063
        low      21862
        high     27661
  pagesets
    cpu: 1
              high:     30212
Node 1, zone   Normal
  pages free     7
        min      1
        low      2
        high     3
Node 1, zone   Device
  pages free     0
        min      0
        low      0
        high     0
"""
NUMASTAT = "numa_hit 237544589\nnuma_miss 3\nnuma_foreign {}\ninterleave_hit 752337\nlocal_node 1\nother_node 0\n"
VMSTAT = "nr_free_pages {}\nnr_free_pages_blocks 5\nnr_zone_inactive_anon 0\n"


class Machine:
    """/sys and /proc of a machine with nodes 0 and 2."""

    def __init__(self, root: Path) -> None:
        self.sys, self.proc = root / "sys", root / "proc"
        self.nodes = self.sys / "devices/system/node"
        self.proc.mkdir(parents=True)
        (self.proc / "zoneinfo").write_bytes(ZONEINFO.replace(b"Node 1", b"Node 2"))
        self.set(0, foreign=11, free=503840)
        self.set(2, foreign=5, free=7)

    def set(self, node: int, foreign: int, free: int) -> None:
        directory = self.nodes / f"node{node}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "numastat").write_text(NUMASTAT.format(foreign))
        (directory / "vmstat").write_text(VMSTAT.format(free))

    def reader(self) -> PressureReader:
        return PressureReader((0, 2), self.sys, self.proc)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_watermarks_are_summed_over_zones_and_not_those_of_cpus() -> None:
    assert parse_watermarks(ZONEINFO) == {0: (37 + 21862, 44 + 27661), 1: (2, 3)}


def test_a_machine_without_a_word_has_no_watermarks() -> None:
    assert parse_watermarks(b"") == {}


def test_what_is_read(machine: Machine) -> None:
    told = read_pressure((0, 2), machine.sys, machine.proc)
    assert told.foreign.tolist() == [11, 5]
    assert told.free.tolist() == [503840, 7]
    assert told.low.tolist() == [21899, 2]
    assert told.high.tolist() == [27705, 3]


def test_each_reading_is_new(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = machine.reader()
    first = reader.read()
    machine.set(2, foreign=6, free=1)
    second = reader.read()
    assert (first.foreign.tolist(), first.free.tolist()) == ([11, 5], [503840, 7])
    assert (second.foreign.tolist(), second.free.tolist()) == ([11, 6], [503840, 1])
    (machine.proc / "zoneinfo").write_bytes(
        ZONEINFO.replace(b"high     3\n", b"high     4\n").replace(b"Node 1", b"Node 2")
    )
    monkeypatch.setattr(pressure, "WATERMARKS_AGE_S", -1.0)
    assert reader.read().high.tolist() == [27705, 4]
    reader.close()
    reader.close()


def test_no_nodes(machine: Machine) -> None:
    told = read_pressure((), machine.sys, machine.proc)
    assert [len(column) for column in (told.foreign, told.free, told.low, told.high)] == [0] * 4


def test_a_node_that_goes_away_is_empty(machine: Machine) -> None:
    (machine.nodes / "node2/numastat").unlink()
    told = read_pressure((0, 2), machine.sys, machine.proc)
    assert told.foreign.tolist() == [11, 0]
    assert told.free.tolist() == [503840, 7]


def weights(root: Path, **files: str) -> None:
    directory = root / "kernel/mm/mempolicy/weighted_interleave"
    directory.mkdir(parents=True)
    for name, text in files.items():
        (directory / name).write_text(text)


def test_weights_of_the_nodes_that_are_asked_for(tmp_path: Path) -> None:
    weights(tmp_path, node0="3\n", node1="200\n", node2="1\n", auto="true\n")
    assert read_weights((0, 2), tmp_path) == (3, 1)
    assert read_weights((1, 7), tmp_path) == (200, 1)
    assert read_weights((), tmp_path) == ()


def test_a_kernel_without_weights(tmp_path: Path) -> None:
    assert read_weights((0, 1), tmp_path) is None


def test_pools_by_size_and_node(machine: Machine) -> None:
    for node, free in ((0, 12), (2, 0)):
        pool = machine.nodes / f"node{node}/hugepages/hugepages-2048kB"
        pool.mkdir(parents=True)
        (pool / "free_hugepages").write_text(f"{free}\n")
    assert free_hugepages((0, 2), 2048, machine.sys) == (12, 0)
    assert free_hugepages((0, 2), 1 << 20, machine.sys) == (0, 0)


def test_nodes_that_a_process_may_use(machine: Machine) -> None:
    status = machine.proc / "12/status"
    status.parent.mkdir()
    status.write_bytes(
        b"Name:\tMems_allowed_list:\t9\nMems_allowed:\t00000000,0000000d\nMems_allowed_list:\t0,2-3\nnonvoluntary:\t1\n"
    )
    assert allowed_nodes(12, machine.proc) == (0, 2, 3)
    status.write_bytes(b"Name:\tx\n")
    assert allowed_nodes(12, machine.proc) == ()
    shutil.rmtree(status.parent)
    assert allowed_nodes(12, machine.proc) == ()
