"""How a page came to lie where it does, and what that is to the policy in force now. Pure.

An `Origin` is what a page remembers: how it came, under which policy, in which thread. Pages of the same origin share
one. `cause_of` judges an origin by the policy that is in force today.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from tracer.model.cause import Cause
from tracer.model.policy import Policy
from tracer.model.rule import Backing

__all__ = ["ANYWHERE", "Area", "How", "Origin", "Standing", "cause_of", "same_policy"]

ANYWHERE = -1
"""In the place of a node that a policy gives a page: it gives it several."""


class How(enum.IntEnum):
    """FOUND: it was there at the first look. INHERITED: the same, in a child that was seen to be born. FAULT: a page
    fault put it there; COPIED: one that copied a shared page. MOVED: a migration that was seen. COLLAPSED: into a huge
    page. MERGED: by KSM. APPEARED: no fault tells: a system call populated the memory (MAP_POPULATE, mlock), or another
    process or the kernel on behalf of a device put it there.
    """

    FOUND = 0
    INHERITED = 1
    FAULT = 2
    COPIED = 3
    MOVED = 4
    COLLAPSED = 5
    MERGED = 6
    APPEARED = 7


@dataclass(frozen=True, slots=True)
class Origin:
    """how: see `How`. policy: the one that governed the allocation, or, of a page that was found, the one in force
    then; None where it is not known. own: it was that of the VMA, not of the thread. thread: that faulted, 0 where
    none did. weights: of weighted interleave then, by node id. full: nodes whose
    allocations others had to serve in that interval. reason: of a migration, otherwise -1. recent: that policy had been
    set since the last look but one, so that the page may be older than it.
    """

    how: How
    policy: Policy | None = None
    own: bool = False
    thread: int = 0
    weights: tuple[tuple[int, int], ...] = ()
    full: frozenset[int] = frozenset()
    reason: int = -1
    recent: bool = False


@dataclass(frozen=True, slots=True)
class Area:
    """A VMA, with what its policy promises.

    start, end: addresses. policy: the one in force, own: it is the VMA's (or its shared memory's). backing: how its
    pages are numbered. shared: tmpfs. file: of another file system, whose cached pages no VMA governs. page_pages:
    4 KiB pages in a hugetlb page, 1 elsewhere. mergeable: KSM may replace its pages.
    """

    start: int
    end: int
    policy: Policy
    own: bool
    backing: Backing
    shared: bool = False
    file: bool = False
    page_pages: int = 1
    mergeable: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What causes depend on beside the page and its VMA. allowed: nodes of the cpuset. threads: policies of the threads
    of the target now. empty_pools: by size of a hugetlb page in 4 KiB pages, nodes without a free one."""

    allowed: frozenset[int]
    threads: Mapping[int, Policy]
    empty_pools: Mapping[int, frozenset[int]]


def same_policy(one: Policy | None, other: Policy | None) -> bool:
    """Whether two policies place pages alike: mode and nodes. The flags only say what a change of the cpuset does."""
    return one is not None and other is not None and (one.mode, one.nodes) == (other.mode, other.nodes)


def cause_of(origin: Origin, area: Area, expected: int, fits_old_weights: bool, standing: Standing) -> Cause:
    """Why a page of this origin, that is no page of the page cache, does not lie on `expected` (or on any node that
    the policy allows). fits_old_weights: it lies where the weights of its origin put it."""
    if origin.how is How.MERGED:
        return Cause.MERGED
    if origin.how is How.INHERITED:
        return Cause.INHERITED
    if origin.how is How.APPEARED and area.shared:
        return Cause.SHARED
    if not same_policy(origin.policy, area.policy):
        return _under_another(origin, area, standing)
    if origin.how is How.MOVED:
        return Cause.MOVED
    if origin.how is How.COLLAPSED:
        return Cause.COLLAPSED
    if origin.how is How.FOUND:
        return Cause.UNKNOWN
    return _under_this(origin, area, expected, fits_old_weights, standing)


def _under_another(origin: Origin, area: Area, standing: Standing) -> Cause:
    """The page came under another policy than the one in force now."""
    if area.own:
        return Cause.BEFORE_POLICY
    if origin.how is How.COPIED:
        return Cause.COPIED
    # What moved, or was there at the first look, has no thread: the policy is the main thread's, which had another.
    theirs = standing.threads.get(origin.thread) if origin.how is How.FAULT else area.policy
    return Cause.BEFORE_TASK if same_policy(theirs, area.policy) else Cause.OTHER_TASK


def _under_this(origin: Origin, area: Area, expected: int, fits_old_weights: bool, standing: Standing) -> Cause:
    """The page was allocated under the policy in force, and yet it lies elsewhere."""
    if fits_old_weights:
        return Cause.WEIGHTS
    if expected != ANYWHERE and expected not in standing.allowed:
        return Cause.OUTSIDE_CPUSET
    if expected in standing.empty_pools.get(area.page_pages, ()):
        return Cause.NODE_FULL
    if expected in origin.full or (expected == ANYWHERE and origin.full):
        return Cause.NODE_FULL
    if area.shared:
        return Cause.SHARED
    # Interleave by address is no matter of chance: what does not fit it is older than it.
    return Cause.BEFORE_POLICY if origin.recent else Cause.UNKNOWN
