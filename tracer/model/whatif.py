"""What would have to move if a policy were set: how far today's placement is from one that is not in force. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.model.placement import Promise
from tracer.model.policy import Policy
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Vma

__all__ = ["Move", "MoveTotal", "move_total", "pages_off", "parse_policy", "what_if"]

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Move:
    """One VMA under a policy that it does not have. Arrays are of shape (len(node_ids),).

    row: of the snapshot's `vmas`. promise, shares: as in `Expectation`; shares None where the policy fixes none (bind
    and prefer (many) of several nodes, local). expected: pages, the shares apportioned; None where `shares` is.
    actual: pages as numa_maps counts them. difference: actual - expected, or, without shares, pages on nodes that the
    policy does not allow. pages: the least number that would have to move, sum of the positive differences; bytes: the
    same, in bytes.
    """

    row: int
    vma: Vma
    promise: Promise
    shares: Float64s | None
    expected: Int64s | None
    actual: Int64s
    difference: Int64s
    pages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class MoveTotal:
    """The sum of several `Move`s, in bytes, because a hugetlb page counts as one. Arrays as there.

    expected: None where it is for one of them. vmas: how many have something to move."""

    vmas: int
    expected: Int64s | None
    actual: Int64s
    difference: Int64s
    bytes: int
    of_bytes: int


def parse_policy(text: str) -> tuple[Policy, dict[int, int] | None]:
    """The policy that `--as` names, and its weights if it is a weighted interleave.

    `interleave=0-3`, `weighted=0:3,1:1`, `bind=0`, `prefer=1`, `prefer-many=0,1`, `local`. ValueError, in words for
    the user, for anything else.
    """
    raise NotImplementedError


def what_if(
    snapshot: Snapshot, policy: Policy, weights: Mapping[int, int] | None = None, rows: Sequence[int] | None = None
) -> list[Move]:
    """What would have to move under `policy`, for each VMA that has pages (of `rows`, if given), in address order.

    By shares alone, so the least number of pages. mbind() with MPOL_MF_MOVE goes by address and may move more:
    `pages_off` counts these where the node of each page is known. weights: of weighted interleave, those of the
    snapshot if None. ValueError, in words for the user, where a node has no memory or is not in the cpuset.
    """
    raise NotImplementedError


def move_total(moves: Iterable[Move], node_ids: Sequence[int]) -> MoveTotal:
    """The sum over VMAs."""
    raise NotImplementedError


def pages_off(nodes_by_page: npt.NDArray[np.integer], rule: npt.NDArray[np.integer]) -> int:
    """How many pages lie elsewhere than a rule gives them, so how many mbind() with MPOL_MF_MOVE would move.

    nodes_by_page: id of each page's node, negative where there is no page. rule: as from `rule_nodes`, of the same
    shape; a negative id fits any node.
    """
    return int(((nodes_by_page >= 0) & (rule >= 0) & (nodes_by_page != rule)).sum())
