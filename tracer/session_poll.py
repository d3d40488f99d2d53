"""Polling: no hooks, so every refresh reads the whole target from /proc."""

from __future__ import annotations

import numpy as np

from tracer.errors import NumatraceError
from tracer.kernel.detail_walk import details_of_lines
from tracer.kernel.machinery import Machinery
from tracer.kernel.memory import ProcMemory
from tracer.model.policy import DEFAULT
from tracer.model.snapshot import Details, Trust
from tracer.model.state import State

__all__ = ["Poller"]

TRIES = 20
REGION = 1 << 21


class Poller:
    """Gives a `State` by reading everything. Raises NumatraceError when /proc does not let us."""

    def __init__(self, machinery: Machinery, pid: int) -> None:
        self._frames = machinery.frames if machinery.reader == "pagemap" else None
        self._pid = pid
        self._memory = ProcMemory(pid, machinery.topology.nr_node_ids, self._frames)
        self.reader = self._memory.reader

    def refresh(self) -> State:
        """Everything, read now."""
        for _ in range(TRIES):
            layout = self._memory.layout()
            if layout is not None:
                break
        else:
            raise NumatraceError(
                f"process {self._pid} maps and unmaps memory faster than /proc can be read",
                "use the hooks (run as root, without `--hooks none`), or stop the target for the look",
            )
        totals = self._memory.totals()
        regions = int(((layout.spans.end + REGION - 1 >> 21) - (layout.spans.start >> 21)).sum())
        return State(layout.vmas, np.ones(len(layout.vmas), bool), DEFAULT, totals, Trust(), regions)

    def details(self) -> Details:
        """The detail fields of the same look at numa_maps."""
        return details_of_lines(self._memory.lines)

    def close(self) -> None:
        """Nothing is kept open: an exec of the target would leave us with its old memory."""
