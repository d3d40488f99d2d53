"""The machine's NUMA nodes: ids, CPUs, distances, and which node every page frame belongs to.

Read once from /sys/devices/system and /proc/zoneinfo; nothing here is cached behind the caller's back. Node ids
are the kernel's: they may have holes, and a node may have no CPU or no memory, so arrays are indexed by node id
and have `Topology.nr_node_ids` entries.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tracer.errors import NumatraceError

__all__ = [
    "AMBIGUOUS",
    "NO_MEMORY",
    "Topology",
    "Zone",
    "parse_id_list",
    "parse_zoneinfo",
    "possible_cpus",
    "read_topology",
]

NO_MEMORY = 255
"""In the node table: no memory here, or memory of a node that is not in N_MEMORY."""

AMBIGUOUS = 254
"""In the node table: two nodes hold interleaved parts of this block; only `struct page` (or move_pages) knows."""

FINEST_SHIFT = 9
"""The node table is never finer than 2**9 pages: a zone of x86-64 ends on a multiple of a 2 MiB subsection."""

_NODE_DIRECTORY = re.compile(r"node(\d+)$")
_MEMORY_DIRECTORY = re.compile(r"memory(\d+)$")
_ZONE_HEADER = re.compile(r"Node (\d+), zone\s+(\S+)")


@dataclass(frozen=True, slots=True)
class Zone:
    """One populated zone of /proc/zoneinfo: page frames start to end (excluded), holes included."""

    node: int
    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Topology:
    """Everything here comes from one read; hot-plugged memory needs another `read_topology`.

    possible, online, has_memory (N_MEMORY), has_cpu: node ids, ascending. cpus: node id -> its online CPU ids.
    distances: node id -> node id -> SLIT distance (10 is local). page_size: bytes. block_pages: pages of one
    memory block of sysfs (0 where the kernel has none). has_zone_device: device memory exists on some node.
    blocks: memory block number -> ids of the nodes that hold it. zones: RAM zones, without ZONE_DEVICE.
    """

    possible: tuple[int, ...]
    online: tuple[int, ...]
    has_memory: tuple[int, ...]
    has_cpu: tuple[int, ...]
    cpus: dict[int, tuple[int, ...]]
    distances: dict[int, dict[int, int]]
    page_size: int
    block_pages: int
    has_zone_device: bool
    blocks: dict[int, tuple[int, ...]] = field(default_factory=dict, repr=False)
    zones: tuple[Zone, ...] = field(default=(), repr=False)

    @property
    def nr_node_ids(self) -> int:
        """Highest possible node id + 1, as in the kernel: the length of an array indexed by node id."""
        return max(self.possible) + 1

    def node_of_cpu(self, cpu: int) -> int:
        """The node id of an online CPU; KeyError for a CPU that no node lists."""
        for node, cpus in self.cpus.items():
            if cpu in cpus:
                return node
        raise KeyError(cpu)

    def node_table(self) -> tuple[int, npt.NDArray[np.uint8]]:
        """(shift, table): `table[pfn >> shift]` is the node id of a page frame, `NO_MEMORY` or `AMBIGUOUS`.

        The table ends with the last memory block: a higher frame has no memory (it may be device memory). The
        shift is the order of a memory block, or finer where a zone boundary cuts a block that two nodes hold.
        Without memory blocks in sysfs the zones alone decide. Device memory that shares a block with RAM is not
        told apart here. Node ids of 254 and above do not fit and are `AMBIGUOUS`.
        """
        if not self.blocks:
            return self._table_of_zones()
        shift = min([self._block_shift(), *map(_alignment, self._cuts_in_shared_blocks())])
        shift = max(shift, FINEST_SHIFT)
        per_block = self.block_pages >> shift
        table = np.full((max(self.blocks) + 1) * per_block, NO_MEMORY, dtype=np.uint8)
        for block, nodes in self.blocks.items():
            first = block * per_block
            if len(nodes) == 1:
                table[first : first + per_block] = self._entry(nodes[0])
            else:
                for index in range(first, first + per_block):
                    table[index] = self._entry_of_range(index << shift, (index + 1) << shift, nodes)
        return shift, table

    def _block_shift(self) -> int:
        return self.block_pages.bit_length() - 1

    def _entry(self, node: int) -> int:
        if node not in self.has_memory:
            return NO_MEMORY
        return node if node < AMBIGUOUS else AMBIGUOUS

    def _entry_of_range(self, start: int, end: int, nodes: Iterable[int]) -> int:
        """The table entry of the page frames start to end, which any of `nodes` may hold."""
        holders = {zone.node for zone in self.zones if zone.node in nodes and zone.start < end and start < zone.end}
        if not holders:
            return NO_MEMORY
        return self._entry(holders.pop()) if len(holders) == 1 else AMBIGUOUS

    def _cuts_in_shared_blocks(self) -> set[int]:
        """Zone boundaries that lie inside a memory block of two or more nodes."""
        shared = {block: nodes for block, nodes in self.blocks.items() if len(nodes) > 1}
        edges = [(edge, zone.node) for zone in self.zones for edge in (zone.start, zone.end)]
        return {edge for edge, node in edges if node in shared.get(edge // self.block_pages, ())}

    def _table_of_zones(self) -> tuple[int, npt.NDArray[np.uint8]]:
        edges = {edge for zone in self.zones for edge in (zone.start, zone.end)}
        coarsest = self._block_shift() if self.block_pages else 15
        # The first zone starts at page 1 on x86 and the last may end anywhere: such edges do not separate nodes.
        inner = {edge for edge in edges if len({z.node for z in self.zones if z.start <= edge <= z.end}) > 1}
        shift = max(min([coarsest, *map(_alignment, inner)]), FINEST_SHIFT)
        size = -(-max(edges, default=0) >> shift)
        nodes = {zone.node for zone in self.zones}
        entries = [self._entry_of_range(index << shift, (index + 1) << shift, nodes) for index in range(size)]
        return shift, np.array(entries, dtype=np.uint8)


def _alignment(pfn: int) -> int:
    """The highest order at which `pfn` is aligned; 63 for 0, which cuts nothing."""
    return (pfn & -pfn).bit_length() - 1 if pfn else 63


def parse_id_list(text: str) -> tuple[int, ...]:
    """A kernel list of ids such as `0-1,4` (bitmap list format `%*pbl`); empty for an empty list."""
    ids: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            ids.extend(range(int(first), int(last or first) + 1))
    return tuple(ids)


def parse_zoneinfo(text: str) -> tuple[Zone, ...]:
    """The populated zones in /proc/zoneinfo, ZONE_DEVICE included.

    Source: mm/vmstat.c zoneinfo_show_print(); an unpopulated zone prints no `start_pfn` and is left out.
    """
    zones: list[Zone] = []
    node, name, spanned = 0, "", 0
    for line in text.splitlines():
        if header := _ZONE_HEADER.match(line):
            node, name, spanned = int(header[1]), header[2], 0
            continue
        words = line.split()
        if len(words) == 2 and words[0] == "spanned":
            spanned = int(words[1])
        elif len(words) == 2 and words[0] == "start_pfn:" and spanned:
            zones.append(Zone(node, name, int(words[1]), int(words[1]) + spanned))
    return tuple(zones)


def read_topology(sys_root: Path = Path("/sys"), proc_root: Path = Path("/proc")) -> Topology:
    """Read the topology. A kernel without NUMA has one node, 0. `NumatraceError` where /proc or /sys is unreadable."""
    try:
        return _read(sys_root / "devices/system", proc_root)
    except (OSError, ValueError) as error:
        raise NumatraceError(
            f"cannot read the memory layout of this machine: {error}", "are /proc and /sys mounted?"
        ) from error


def possible_cpus(sys_root: Path = Path("/sys")) -> int:
    """Highest CPU id that there can ever be + 1, as in the kernel: the length of an array indexed by CPU."""
    return max(_list_of(sys_root / "devices/system/cpu/possible")) + 1


def _read(system: Path, proc_root: Path) -> Topology:
    zones = parse_zoneinfo((proc_root / "zoneinfo").read_text())
    node_root = system / "node"
    numa = node_root.is_dir()
    online = _list_of(node_root / "online") if numa else (0,)
    return Topology(
        possible=_list_of(node_root / "possible") if numa else (0,),
        online=online,
        has_memory=_list_of(node_root / "has_memory") if numa else (0,),
        has_cpu=_list_of(node_root / "has_cpu") if numa else (0,),
        cpus=_cpus(node_root, online) if numa else {0: _list_of(system / "cpu/online")},
        distances=_distances(node_root, online) if numa else {0: {0: 10}},
        page_size=os.sysconf("SC_PAGE_SIZE"),
        block_pages=_block_bytes(system / "memory") // os.sysconf("SC_PAGE_SIZE"),
        has_zone_device=any(zone.name == "Device" for zone in zones),
        blocks=_blocks_by_node(node_root) if numa else dict.fromkeys(_block_numbers(system / "memory"), (0,)),
        zones=tuple(zone for zone in zones if zone.name != "Device"),
    )


def _list_of(path: Path) -> tuple[int, ...]:
    return parse_id_list(path.read_text())


def _cpus(node_root: Path, online: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    return {node: _list_of(node_root / f"node{node}" / "cpulist") for node in online}


def _distances(node_root: Path, online: tuple[int, ...]) -> dict[int, dict[int, int]]:
    # drivers/base/node.c node_read_distance() prints one column for each online node, ascending.
    rows = {node: (node_root / f"node{node}" / "distance").read_text().split() for node in online}
    return {node: dict(zip(online, map(int, row), strict=True)) for node, row in rows.items()}


def _block_bytes(memory_root: Path) -> int:
    """Size of a memory block; 0 where the kernel has no memory hotplug and so no blocks in sysfs."""
    path = memory_root / "block_size_bytes"
    return int(path.read_text(), 16) if path.exists() else 0


def _block_numbers(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    return sorted(int(match[1]) for name in os.listdir(directory) if (match := _MEMORY_DIRECTORY.match(name)))


def _blocks_by_node(node_root: Path) -> dict[int, tuple[int, ...]]:
    # A block with memory of two nodes is linked under both: nodeN/memoryM.
    nodes = sorted(int(match[1]) for name in os.listdir(node_root) if (match := _NODE_DIRECTORY.match(name)))
    blocks: dict[int, tuple[int, ...]] = {}
    for node in nodes:
        for block in _block_numbers(node_root / f"node{node}"):
            blocks[block] = (*blocks.get(block, ()), node)
    return blocks
