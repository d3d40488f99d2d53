"""Which node a page gets: against the kernel's loops, written down here a second time and slowly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.model.policy import DEFAULT, F_STATIC_NODES, Mode, Policy
from tracer.model.rule import NO_RULE, Backing, allows, interleave_index, rule_nodes

PAGE_SHIFT = 12
HUGE_ORDER = 9

node_lists = st.sets(st.integers(0, 1023), min_size=1, max_size=9).map(lambda ids: tuple(sorted(ids)))
orders = st.sampled_from((0, 1, 4, 9, 18))
indices = st.integers(0, 2**52)


def next_node_in(node: int, mask: tuple[int, ...]) -> int:
    """include/linux/nodemask.h"""
    return next((other for other in mask if other > node), mask[0])


def interleave_nid(mask: tuple[int, ...], ilx: int) -> int:
    """mm/mempolicy.c of 6.12."""
    target = ilx % len(mask)
    nid = mask[0]
    for _ in range(target):
        nid = next_node_in(nid, mask)
    return nid


def offset_il_node(mask: tuple[int, ...], n: int) -> int:
    """mm/mempolicy.c of 6.1: `target = (unsigned int)n % nnodes`."""
    return interleave_nid(mask, n % 2**32)


def weighted_interleave_nid(mask: tuple[int, ...], weights: dict[int, int], ilx: int) -> int:
    """mm/mempolicy.c of 6.12."""
    total = 0
    for nid in mask:
        total += weights[nid]
    target = ilx % total
    nid = mask[0]
    while target:
        if target < weights[nid]:
            break
        target -= weights[nid]
        nid = next_node_in(nid, mask)
    return nid


def get_vma_policy_ilx(vm_start: int, vm_pgoff: int, address: int, order: int) -> int:
    """mm/mempolicy.c of 6.7 and later for a VMA without get_policy(); of 6.1 interleave_nid() with shift = 12 + order.

    The address is that of the folio, aligned to its size (vma_alloc_anon_folio_pmd(), alloc_anon_folio(), huge_node()).
    """
    address = address // (4096 << order) * (4096 << order)
    return (vm_pgoff >> order) + ((address - vm_start) >> (PAGE_SHIFT + order))


def shmem_get_pgoff_policy_ilx(i_ino: int, index: int, order: int) -> int:
    """mm/shmem.c of 6.7 and later."""
    return i_ino + (index >> order)


def shmem_pseudo_vma_off(i_ino: int, index: int, order: int) -> int:
    """mm/shmem.c of 6.1: shmem_alloc_hugefolio() rounds the index down, shmem_pseudo_vma_init() adds i_ino, and the
    address is 0 in a VMA that begins at 0."""
    hindex = index // (1 << order) * (1 << order)
    return ((hindex + i_ino) >> order) + ((0 - 0) >> (PAGE_SHIFT + order))


@given(node_lists, st.lists(indices, max_size=20))
def test_interleave_is_interleave_nid(mask: tuple[int, ...], ilx: list[int]) -> None:
    found = rule_nodes(Policy(Mode.INTERLEAVE, nodes=mask), np.array(ilx, np.int64))
    assert found.dtype == np.int16
    assert found.tolist() == [interleave_nid(mask, one) for one in ilx]


@given(node_lists, st.data())
def test_weighted_interleave_is_weighted_interleave_nid(mask: tuple[int, ...], data: st.DataObject) -> None:
    weights = {node: data.draw(st.integers(1, 255)) for node in mask}
    ilx = data.draw(st.lists(indices, max_size=20))
    found = rule_nodes(Policy(Mode.WEIGHTED_INTERLEAVE, nodes=mask), np.array(ilx, np.int64), weights)
    assert found.tolist() == [weighted_interleave_nid(mask, weights, one) for one in ilx]


def test_weights_are_slots_in_a_row_and_a_missing_one_is_1() -> None:
    policy = Policy(Mode.WEIGHTED_INTERLEAVE, nodes=(0, 2, 5))
    assert rule_nodes(policy, np.arange(8), {0: 3, 5: 2}).tolist() == [0, 0, 0, 2, 5, 5, 0, 0]
    with pytest.raises(ValueError, match="node 5 has the weight 0"):
        rule_nodes(policy, np.arange(8), {5: 0})


def test_a_whole_turn_has_the_weights_themselves() -> None:
    weights = {0: 7, 1: 255, 3: 1}
    found = rule_nodes(Policy(Mode.WEIGHTED_INTERLEAVE, nodes=(0, 1, 3)), np.arange(1000, 1263), weights)
    assert Counter(found.tolist()) == weights


@pytest.mark.parametrize(
    ("policy", "node"),
    [
        (DEFAULT, NO_RULE),
        (Policy(Mode.LOCAL), NO_RULE),
        (Policy(Mode.PREFERRED, nodes=(3,)), 3),
        (Policy(Mode.PREFERRED, nodes=(2, 3)), 2),
        (Policy(Mode.BIND, F_STATIC_NODES, (1,)), 1),
        (Policy(Mode.BIND, nodes=(0, 1)), NO_RULE),
        (Policy(Mode.PREFERRED_MANY, nodes=(0, 1)), NO_RULE),
        (Policy(Mode.PREFERRED_MANY, nodes=(0,)), NO_RULE),
        (Policy(Mode.INTERLEAVE, nodes=(4,)), 4),
        (Policy(Mode.INTERLEAVE), NO_RULE),
        (Policy(Mode.WEIGHTED_INTERLEAVE, nodes=(0, 1)), NO_RULE),
        (Policy(17, nodes=(0,)), NO_RULE),
        (Policy(Mode.INTERLEAVE, nodes=(0, 1), printed="interleave:".ljust(63, "0")), NO_RULE),
    ],
)
def test_policies_that_go_by_no_page(policy: Policy, node: int) -> None:
    assert rule_nodes(policy, np.arange(6).reshape(2, 3)).tolist() == [[node] * 3] * 2


@given(st.integers(1, 2**35), st.integers(0, 2**35), st.integers(1, 10**6), orders, st.data())
def test_the_index_of_memory_without_an_inode(
    first: int, pgoff: int, size: int, order: int, data: st.DataObject
) -> None:
    page = first + data.draw(st.integers(0, size - 1))
    found = interleave_index(Backing(first << 12, pgoff), np.array([page]), order)
    assert found.tolist() == [get_vma_policy_ilx(first << 12, pgoff, page << 12, order)]


@given(st.integers(1, 2**35), st.integers(0, 2**30), st.integers(1, 2**32 - 1), st.integers(0, 10**6), orders)
def test_the_index_of_shared_memory(first: int, pgoff: int, ino: int, page: int, order: int) -> None:
    pages = np.array([first + page])
    new = interleave_index(Backing(first << 12, pgoff, ino), pages, order)
    old = interleave_index(Backing(first << 12, pgoff, ino, ilx=False), pages, order)
    assert new.tolist() == [shmem_get_pgoff_policy_ilx(ino, pgoff + page, order)]
    assert old.tolist() == [shmem_pseudo_vma_off(ino, pgoff + page, order) % 2**32]


@given(node_lists, st.integers(2**34, 2**35))
def test_before_6_7_the_index_was_cut_to_32_bits(mask: tuple[int, ...], page: int) -> None:
    index = interleave_index(Backing(page << 12, page, ilx=False), np.array([page]))
    assert rule_nodes(Policy(Mode.INTERLEAVE, nodes=mask), index).tolist() == [offset_il_node(mask, page)]


def test_the_cut_moves_three_nodes_by_one_and_four_not_at_all() -> None:
    page = 0x7F00_0000_0000 >> 12  # 7 * 2^32 is 1 more than a multiple of 3
    pages = np.arange(page, page + 12)
    for nodes, shift in (((0, 1, 2), 1), ((0, 1, 2, 3), 0)):
        policy = Policy(Mode.INTERLEAVE, nodes=nodes)
        now, then = (
            rule_nodes(policy, interleave_index(Backing(page << 12, page, ilx=ilx), pages)) for ilx in (True, False)
        )
        assert ((now - then) % len(nodes) == shift).all()


def test_the_pages_of_a_huge_page_have_one_index() -> None:
    first = 0x7F00_0000_0000 >> 12
    pages = np.arange(first, first + 4 * 512)
    anonymous = interleave_index(Backing(first << 12, first), pages, HUGE_ORDER)
    shared = interleave_index(Backing(first << 12, 512, ino=77), pages, HUGE_ORDER)
    assert (anonymous == np.repeat((first >> 9) + np.arange(4), 512)).all()
    assert (shared == np.repeat(77 + 1 + np.arange(4), 512)).all()
    # The inode number was shifted too: of 77 and 512 more nothing is left.
    before = interleave_index(Backing(first << 12, 512, ino=77, ilx=False), pages, HUGE_ORDER)
    assert (before == np.repeat(1 + np.arange(4), 512)).all()


def test_orders_may_differ_from_page_to_page() -> None:
    first = 0x7F00_0000_0000 >> 12
    pages = np.arange(first, first + 1024)
    mixed = interleave_index(Backing(first << 12, first), pages, np.where(pages < first + 512, HUGE_ORDER, 0))
    assert (mixed[:512] == first >> 9).all()
    assert (mixed[512:] == pages[512:]).all()


def test_a_huge_page_that_a_split_vma_begins_in() -> None:
    """After mbind() on its second half: the VMA begins 256 pages into the huge page."""
    first = (0x7F00_0000_0000 >> 12) + 256
    found = interleave_index(Backing(first << 12, first), np.arange(first, first + 256 + 512), HUGE_ORDER)
    assert np.unique(found).tolist() == [(first >> 9) - 1, first >> 9]


def test_anonymous_memory_keeps_its_index_when_mremap_moves_it() -> None:
    made, moved = 0x7F00_0000_0000 >> 12, 0x7E00_0000_1000 >> 12
    at_home = interleave_index(Backing(made << 12, made), np.arange(made, made + 9))
    assert interleave_index(Backing(moved << 12, made), np.arange(moved, moved + 9)).tolist() == at_home.tolist()


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        (DEFAULT, [True, True, True]),
        (Policy(Mode.LOCAL), [True, True, True]),
        (Policy(Mode.BIND, nodes=(0, 2)), [True, False, True]),
        (Policy(Mode.PREFERRED, nodes=(1,)), [False, True, False]),
        (Policy(Mode.PREFERRED, nodes=(1, 2)), [False, True, False]),
        (Policy(Mode.PREFERRED_MANY, nodes=(1, 2)), [False, True, True]),
        (Policy(Mode.INTERLEAVE, nodes=(0, 1)), [True, True, False]),
        (Policy(Mode.BIND, nodes=(0,), printed="bind:".ljust(63, "0")), [True, True, True]),
    ],
)
def test_nodes_that_a_policy_allows(policy: Policy, allowed: list[bool]) -> None:
    assert [allows(policy, node) for node in range(3)] == allowed
