"""From the records of an epoch to rows that an output can name: flows and faults by VMA."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tracer.kernel.epoch import Drained, FaultRows, FlowRows
from tracer.kernel.tiers import memory_tiers
from tracer.kernel.topology import Topology
from tracer.model.events import Faults, Flows

__all__ = ["Attribution"]

Int64s = npt.NDArray[np.int64]
Rows = Callable[[Int64s], Int64s]
PROMOTED, PROMOTION = "numa_misplaced", "promotion"
NOWHERE = -1


class Attribution:
    """Turns records into `Flows` and `Faults`. reasons: the kernel's names of migration reasons, in its order."""

    def __init__(self, topology: Topology, reasons: tuple[str, ...]) -> None:
        self._nodes = topology.nr_node_ids
        self.reasons = (*reasons, PROMOTION, "none")
        self._promoted = reasons.index(PROMOTED) if PROMOTED in reasons else -1
        self._node_of_cpu = np.full(1 << 16, NOWHERE, np.int64)
        for node, cpus in topology.cpus.items():
            self._node_of_cpu[list(cpus)] = node
        tiers = memory_tiers()
        self._tier = np.array([tiers.get(node, 0) for node in range(self._nodes)], np.int64)

    def moves(self, drained: Drained) -> FlowRows:
        """Migrations as the records have them, by span, with nodes that are known, else -1, and reasons told apart."""
        parts = drained.flow_rows
        columns = [np.concatenate([getattr(p, name) for p in parts]) if parts else _none() for name in FlowRows._fields]
        address, source, destination, reason, pages, failed = columns
        source, destination = self._known(source), self._known(destination)
        return FlowRows(address, source, destination, self._told_apart(source, destination, reason), pages, failed)

    def flows(self, drained: Drained, vma_rows: Rows) -> Flows:
        """One row per (VMA, source, destination, reason)."""
        address, source, destination, reason, pages, failed = self.moves(drained)
        keys, sums = _summed((vma_rows(address), source, destination, reason), (pages, failed))
        return Flows(self.reasons, *keys, *sums)

    def _known(self, nodes: Int64s) -> Int64s:
        return np.where(nodes < self._nodes, nodes, NOWHERE)

    def _told_apart(self, source: Int64s, destination: Int64s, reason: Int64s) -> Int64s:
        """Promotion has no reason of its own in the kernel: it is a misplaced page that goes to a faster tier."""
        last = len(self.reasons) - 1
        reason = np.where(reason < last - 1, reason, last)
        up = (reason == self._promoted) & (source >= 0) & (destination >= 0)
        up &= self._tier[destination] < self._tier[source]
        return np.where(up, last - 1, reason)

    def faults(self, drained: Drained, vma_rows: Rows) -> Faults:
        """One row per (VMA, CPU's node, page's node, kind, thread)."""
        parts = drained.fault_rows
        if not parts:
            return Faults(*(_none() for _ in range(6)))
        rows = FaultRows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        at, bin_ = np.nonzero(rows.faults)
        node = np.where(bin_ < self._nodes, bin_, NOWHERE)
        keys, sums = _summed(
            (
                vma_rows(rows.address[at]),
                self._node_of_cpu[rows.cpu[at]],
                node,
                rows.kind[at],
                rows.thread[at],
            ),
            (rows.faults[at, bin_],),
        )
        return Faults(*keys, *sums)


def _none() -> Int64s:
    return np.empty(0, np.int64)


def _summed(keys: tuple[Int64s, ...], values: tuple[Int64s, ...]) -> tuple[tuple[Int64s, ...], tuple[Int64s, ...]]:
    """Unique rows of the keys in ascending order, and the sums of the values that belong to each."""
    if not len(keys[0]):
        return keys, values
    order = np.lexsort(keys[::-1])
    ordered = [key[order] for key in keys]
    differs = np.any([key[1:] != key[:-1] for key in ordered], axis=0)
    first = np.flatnonzero(np.concatenate(([True], differs)))
    return tuple(key[first] for key in ordered), tuple(np.add.reduceat(value[order], first) for value in values)
