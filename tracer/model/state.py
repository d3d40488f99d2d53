"""What one refresh leaves behind, before it is dressed up as a snapshot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.model.policy import Policy
from tracer.model.snapshot import Regions, Trust
from tracer.model.vma import Vma

__all__ = ["State"]


@dataclass(frozen=True, slots=True)
class State:
    """vmas with their own policies; own_policy: False where the VMA has none and task_policy shows.

    totals: int64, shape (VMAs, node ids from 0). regions_read: how many regions the refresh read.
    regions: as in `Snapshot`, with a column for each node id from 0.
    """

    vmas: tuple[Vma, ...]
    own_policy: npt.NDArray[np.bool_]
    task_policy: Policy
    totals: npt.NDArray[np.int64]
    trust: Trust
    regions_read: int
    regions: Regions | None = None
