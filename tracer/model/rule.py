"""Which node the kernel gives a page, by policy and address (mm/mempolicy.c). Pure, and vectorised over pages.

Only the policies that go by the page have such a rule: interleave and weighted interleave by its interleave index
(`ilx` in the kernel), prefer and bind of one node by being what they are. Where the CPU decides, or where the page
cache counts turns (`il_prev` of the task), there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.model.policy import BUFFER_BYTES, Mode, Policy

__all__ = ["NO_RULE", "Backing", "allows", "interleave_index", "rule_nodes"]

NO_RULE = -1
"""Where a policy says nothing of a single page; no node has this id."""

Int16s = npt.NDArray[np.int16]
Int64s = npt.NDArray[np.int64]

_PAGE_SHIFT = 12


@dataclass(frozen=True, slots=True)
class Backing:
    """How the kernel numbers the pages of a VMA when it interleaves.

    start: address of the VMA. pgoff: its `vm_pgoff`, in pages of 4 KiB: for files (tmpfs, hugetlbfs and private
    mappings) the offset that /proc/PID/maps shows; for anonymous memory the address that the VMA had when it was
    made, as a page number, which is start >> 12 until it is moved by mremap().
    ino: inode number (i_ino, st_ino) of shared memory, which the kernel adds so that small files do not all begin on
    the same node; None for anything else: anonymous and private memory, hugetlb.
    ilx: False on a kernel older than ddc1a5cbc05d ("mempolicy: alloc_pages_mpol() for NUMA policy without vma", 6.7;
    not in 6.1.y). There shmem_pseudo_vma_init() made a VMA whose vm_pgoff was index + i_ino, so that the inode number
    was shifted by the order as well; and offset_il_node() cut every index to 32 bits, which is seen where the number
    of nodes is no power of two: anonymous memory lies above 2^44. A kernel tells by its BTF: since that commit
    `vm_operations_struct.get_policy` has a third parameter, `ilx`.
    """

    start: int
    pgoff: int
    ino: int | None = None
    ilx: bool = True


def interleave_index(backing: Backing, pages: Int64s, order: Int64s | int = 0) -> Int64s:
    """Interleave index of pages that were allocated at an order: int64 of the shape of `pages`.

    pages: page numbers, which are addresses >> 12. order: of the allocation (0: a page of 4 KiB, 9: a huge page of
    2 MiB), for all or for each. All pages of one allocation have one index. Sources: get_vma_policy() and
    shmem_get_pgoff_policy(); before 6.7 interleave_nid() and shmem_alloc_hugefolio(); huge_node() for hugetlb.
    """
    first = backing.start >> _PAGE_SHIFT
    if backing.ino is None:
        # The kernel is given the address of the allocation's first page (haddr). Shifts of negative numbers round
        # down in numpy, which is right for a huge page that a later split of the VMA left to begin below it.
        heads = (pages >> order) << order
        index = (backing.pgoff >> np.asarray(order, np.int64)) + ((heads - first) >> order)
    else:
        heads = ((pages - first + backing.pgoff) >> order) << order
        index = backing.ino + (heads >> order) if backing.ilx else (backing.ino + heads) >> order
    cut: Int64s = index if backing.ilx else index & 0xFFFFFFFF
    return cut


def rule_nodes(policy: Policy, index: Int64s, weights: Mapping[int, int] | None = None) -> Int16s:
    """Ids of the nodes that `policy` gives to pages of these interleave indices, int16 of the same shape; NO_RULE
    everywhere if the policy has no rule by page.

    policy: with the nodes in force. weights: of weighted interleave by node id, 1 where one is missing, as
    weighted_interleave_nid() has it; None where they are not known, and then weighted interleave has no rule.
    ValueError for a weight below 1.
    """
    nodes = policy.nodes
    nothing = np.full(index.shape, NO_RULE, np.int16)
    if not nodes or not _whole(policy):
        return nothing
    if policy.mode == Mode.PREFERRED:
        return np.full(index.shape, nodes[0], np.int16)
    if policy.mode == Mode.BIND:
        return np.full(index.shape, nodes[0], np.int16) if len(nodes) == 1 else nothing
    if policy.mode == Mode.INTERLEAVE:
        return _turn(nodes, index)
    if policy.mode == Mode.WEIGHTED_INTERLEAVE and weights is not None:
        return _turn(_slots(nodes, weights), index)
    return nothing


def _turn(slots: Sequence[int], index: Int64s) -> Int16s:
    turn: Int16s = np.array(slots, np.int16)[index % len(slots)]
    return turn


def _slots(nodes: Sequence[int], weights: Mapping[int, int]) -> list[int]:
    """One turn of weighted interleave: nodes ascending, each as often in a row as it weighs."""
    slots: list[int] = []
    for node in nodes:
        weight = weights.get(node, 1)
        if weight < 1:
            raise ValueError(f"node {node} has the weight {weight}")
        slots += [node] * weight
    return slots


def allows(policy: Policy, node: int) -> bool:
    """Whether a page on this node is where `policy` would put one, if any node that it names may be the right one.

    True for policies that name no node, and for a list of nodes that the kernel cut."""
    nodes = policy.nodes[:1] if policy.mode == Mode.PREFERRED else policy.nodes
    return not nodes or not _whole(policy) or node in nodes


def _whole(policy: Policy) -> bool:
    """Whether the list of nodes is complete: numa_maps cuts a long one."""
    return len(policy.printed) < BUFFER_BYTES - 1
