"""What policies depend on beyond the target: weights, full nodes, pools of huge pages. Read once a refresh for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tracer.kernel.pressure import PressureReader, free_hugepages, read_weights
from tracer.model.policies import Pressure

__all__ = ["Machine"]

PAGE = 4096


class Machine:
    """What policies depend on beyond the target: weights, full nodes, pools of huge pages. One for all targets, read
    once a refresh."""

    def __init__(self, node_ids: tuple[int, ...]) -> None:
        self.node_ids = node_ids
        self._reader = PressureReader(node_ids)
        self._start = self.pressure = self._reader.read()
        self.pressure = self._since_start(self._start)
        self.full: frozenset[int] = frozenset()
        self.weights = read_weights(node_ids)
        self._pools: dict[int, frozenset[int]] = {}

    def refresh(self) -> None:
        """Look again. `full`: nodes whose allocations others had to serve since the last look."""
        before, now = self.pressure, self._since_start(self._reader.read())
        grown = now.foreign > before.foreign
        self.full = frozenset(node for node, more in zip(self.node_ids, grown.tolist(), strict=True) if more)
        if self.full or _differs(before, now):
            self.pressure = now
        self.weights = read_weights(self.node_ids)
        self._pools.clear()

    def _since_start(self, now: Pressure) -> Pressure:
        return replace(now, foreign=now.foreign - self._start.foreign)

    def weights_of(self) -> dict[int, int]:
        """Weights by node id; none where the kernel has none."""
        return dict(zip(self.node_ids, self.weights or (), strict=bool(self.weights)))

    def empty_pools(self, page_pages: int) -> frozenset[int]:
        """Nodes without a free hugetlb page of that size in 4 KiB pages."""
        if page_pages not in self._pools:
            free = free_hugepages(self.node_ids, page_pages * PAGE // 1024)
            self._pools[page_pages] = frozenset(n for n, left in zip(self.node_ids, free, strict=True) if not left)
        return self._pools[page_pages]

    def close(self) -> None:
        """Let go of the files."""
        self._reader.close()


def _differs(one: Pressure, other: Pressure) -> bool:
    """By more than a sixty-fourth of what is free: what is shown need not follow every page."""
    return bool((np.abs(one.free - other.free) * 64 > np.maximum(one.free, 1)).any())
