"""Why a page lies on another node than the policy in force promises: one cause for each page."""

from __future__ import annotations

import enum

__all__ = ["Cause"]


class Cause(enum.IntEnum):
    """What put a page where the policy would not. Values are for arrays; recordings and JSON hold the names in lower
    case with `-` (`before-policy`).

    UNKNOWN: it was there before tracing began, or what put it there was not seen.
    BEFORE_POLICY: it was there when the policy was set; mbind() without MPOL_MF_MOVE leaves such pages alone.
    OTHER_TASK: a thread with another task policy allocated it; set_mempolicy() is per thread.
    BEFORE_TASK: the thread has the promised task policy now, and allocated it before it had.
    NODE_FULL: the node whose turn it was had no page above its watermark (numa_foreign counted it), or, for hugetlb,
    its pool was empty.
    OUTSIDE_CPUSET: the node whose turn it was is not in the cpuset of the task.
    PAGE_CACHE: a page of a file, which no policy of a VMA governs (filemap_alloc_folio() asks the reader's task).
    SHARED: a page of shared memory that was there already: another process, or an earlier mapping, put it there.
    MOVED: it was moved after it was allocated; the reason is that of enum migrate_reason.
    COLLAPSED: khugepaged or MADV_COLLAPSE made a huge page there, which lies where most of its small pages did.
    GRANULARITY: it fits the policy, which goes by huge pages here, and that makes the spread coarse.
    PATTERN: it fits the policy, page by page, but the pages that were touched are not evenly spread over it.
    WEIGHTS: it fits the weights of weighted interleave when it was allocated, and these have changed.
    COPIED: written to after fork, copied by a task whose policy was another one.
    INHERITED: it is the parent's, shared since fork.
    MERGED: KSM replaced it by an equal one.
    """

    UNKNOWN = 0
    BEFORE_POLICY = 1
    OTHER_TASK = 2
    BEFORE_TASK = 3
    NODE_FULL = 4
    OUTSIDE_CPUSET = 5
    PAGE_CACHE = 6
    SHARED = 7
    MOVED = 8
    COLLAPSED = 9
    GRANULARITY = 10
    PATTERN = 11
    WEIGHTS = 12
    COPIED = 13
    INHERITED = 14
    MERGED = 15

    @property
    def word(self) -> str:
        """As recordings and JSON spell it."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def of_word(cls, word: str) -> Cause:
        """The reverse of `word`; UNKNOWN for a word that this version does not know."""
        return cls.__members__.get(word.upper().replace("-", "_"), cls.UNKNOWN)
