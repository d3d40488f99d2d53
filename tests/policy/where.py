"""Where the kernel says that the pages of an example lie, and where its policy would have put them.

The first is move_pages(2); the second is the rule of Documentation/admin-guide/mm/numa_memory_policy.rst and
mm/mempolicy.c, written down here once more and apart from the one of `tracer.model.rule`, for the one case that the
examples have: small pages of private memory that was never moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tests.kernel.frames import placed

__all__ = ["elsewhere", "nodes_of", "spread"]

Int64s = npt.NDArray[np.int64]


def nodes_of(pid: int, start: int, end: int) -> Int64s:
    """The node of each page, by move_pages(2); negative where there is none."""
    return placed(pid, start, end - start).nodes


def spread(first: int, pages: int, nodes: Sequence[int], order: int = 0) -> Int64s:
    """The node that interleave gives to each of `pages` pages. first: number of the first page, address >> 12."""
    turn = np.array(nodes, np.int64)
    given: Int64s = turn[(np.arange(first, first + pages) >> order) % len(nodes)]
    return given


def elsewhere(actual: Int64s, expected: Int64s) -> int:
    """Pages that are there and not where they are expected."""
    return int(((actual >= 0) & (actual != expected)).sum())
