"""All targets of a session at one time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from tracer.model.snapshot import Snapshot

__all__ = ["Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one refresh of a session gives.

    time: aware datetime (UTC). node_ids: ids of the nodes with memory, ascending; all snapshots have the same.
    snapshots: one per live target, by PID. ended: the last snapshot of each address space that came to an end (exit or
    exec) since the last sample, with the events since then; its pages are those last seen, and its VMAs are empty
    when it was gone before it could be looked at.
    untraced: how often, since the session began, there was no room for a process that should have been traced.
    migrated, failed: pages that the whole machine migrated or failed to migrate since the last sample, by reason; int64
    of shape (len(reasons),); None unless flows were asked for. Source: migrate:mm_migrate_pages (mm/migrate.c), the
    sum of which is what pgmigrate_success and pgmigrate_fail of /proc/vmstat count.
    """

    time: datetime
    node_ids: tuple[int, ...]
    snapshots: tuple[Snapshot, ...]
    ended: tuple[Snapshot, ...] = ()
    untraced: int = 0
    reasons: tuple[str, ...] = ()
    migrated: npt.NDArray[np.int64] | None = None
    failed: npt.NDArray[np.int64] | None = None

    @property
    def only(self) -> Snapshot:
        """The snapshot of the one live target. ValueError when there is none or several."""
        (snapshot,) = self.snapshots
        return snapshot

    @property
    def totals(self) -> npt.NDArray[np.int64]:
        """Pages per node over all live targets, int64 of shape (len(node_ids),). A page that several targets map counts
        in each of them, as it does in their numa_maps; a hugetlb page counts 1."""
        total = np.zeros(len(self.node_ids), np.int64)
        for snapshot in self.snapshots:
            total += snapshot.pages.sum(axis=0)
        return total
