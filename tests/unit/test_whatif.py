"""Policies that are not set: how they are written, and what would have to move."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import snapshots as fake
from tests.unit.test_verdict import policies
from tracer.model.placement import Promise
from tracer.model.policy import DEFAULT, Mode, Policy, format_nodes
from tracer.model.rule import rule_nodes
from tracer.model.snapshot import Snapshot
from tracer.model.whatif import move_total, pages_off, parse_policy, what_if

NODES = (0, 1, 2, 3)


def shot(*pages: list[int], page_kb: int = 4) -> Snapshot:
    vmas = [fake.vma(0x1000_0000 * (at + 1), 4096, page_kb=page_kb) for at in range(len(pages))]
    return fake.snapshot(vmas, pages, NODES)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("interleave=0-3", Policy(Mode.INTERLEAVE, nodes=(0, 1, 2, 3))),
        ("interleave=3,0-1", Policy(Mode.INTERLEAVE, nodes=(0, 1, 3))),
        (" bind=0 ", Policy(Mode.BIND, nodes=(0,))),
        ("bind=0,2", Policy(Mode.BIND, nodes=(0, 2))),
        ("prefer=1", Policy(Mode.PREFERRED, nodes=(1,))),
        ("prefer-many=0,1", Policy(Mode.PREFERRED_MANY, nodes=(0, 1))),
        ("local", Policy(Mode.LOCAL)),
        ("interleave=1023", Policy(Mode.INTERLEAVE, nodes=(1023,))),
    ],
)
def test_policies_as_people_write_them(text: str, policy: Policy) -> None:
    assert parse_policy(text) == (policy, None)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("weighted=0:3,1:1", {0: 3, 1: 1}),
        ("weighted=1:1,0:3", {0: 3, 1: 1}),
        ("weighted=0-2:2,3:255", {0: 2, 1: 2, 2: 2, 3: 255}),
    ],
)
def test_weights_as_people_write_them(text: str, weights: dict[int, int]) -> None:
    policy, found = parse_policy(text)
    assert policy == Policy(Mode.WEIGHTED_INTERLEAVE, nodes=tuple(sorted(weights)))
    assert found == weights


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no policy; write interleave=0-3, weighted=0:3,1:1"),
        ("interleaved=0-3", "'interleaved=0-3' names no policy"),
        ("default", "names no policy"),
        ("interleave", "interleave needs nodes: interleave=0"),
        ("interleave=", "interleave needs nodes"),
        ("weighted", "weighted needs nodes: weighted=0:3,1:1"),
        ("interleave=a", "'a' is no list of nodes; write 0-3 or 0,2"),
        ("interleave=3-1", "'3-1' is no list of nodes"),
        ("interleave=0,0", "'0,0' is no list of nodes"),
        ("interleave=0-2,1", "is no list of nodes"),
        ("bind=-1", "is no list of nodes"),
        ("bind=1024", "is no list of nodes"),
        ("bind=0-99999999999", "is no list of nodes"),
        ("prefer=0,1", "prefer takes one node, and '0,1' are 2; prefer-many takes several"),
        ("local=0", "local takes no nodes"),
        ("weighted=0,1", "'0' is no node with a weight from 1 to 255"),
        ("weighted=0:0", "'0:0' is no node with a weight from 1 to 255"),
        ("weighted=0:256", "is no node with a weight"),
        ("weighted=0:-1", "is no node with a weight"),
        ("weighted=0:²", "is no node with a weight"),
        ("weighted=0:1,0-1:2", "'0:1,0-1:2' gives node 0 two weights"),
        ("weighted=:3", "is no list of nodes"),
    ],
)
def test_what_is_wrong_is_said_in_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse_policy(text)


@given(st.text(max_size=30))
def test_any_text_is_a_policy_or_a_value_error(text: str) -> None:
    try:
        policy, weights = parse_policy(text)
    except ValueError:
        return
    assert policy.nodes == tuple(sorted(set(policy.nodes)))
    assert (weights is not None) == (policy.mode == Mode.WEIGHTED_INTERLEAVE)


@given(st.sets(st.integers(0, 1023), min_size=1))
def test_any_nodes_can_be_written(nodes: set[int]) -> None:
    listed = tuple(sorted(nodes))
    assert parse_policy(f"interleave={format_nodes(listed)}")[0].nodes == listed


def test_an_interleave_that_is_not_set() -> None:
    (move,) = what_if(shot([100, 0, 0, 0]), Policy(Mode.INTERLEAVE, nodes=NODES))
    assert move.promise is Promise.SPREAD
    assert move.expected is not None
    assert move.expected.tolist() == [25] * 4
    assert move.difference.tolist() == [75, -25, -25, -25]
    assert (move.pages, move.bytes) == (75, 75 * 4096)


def test_what_is_even_already_does_not_move() -> None:
    (move,) = what_if(shot([1, 1, 1, 2]), Policy(Mode.INTERLEAVE, nodes=NODES))
    assert move.pages == 0
    assert move.difference.tolist() == [0] * 4


def test_weights_are_the_written_ones_else_those_of_the_snapshot() -> None:
    policy = Policy(Mode.WEIGHTED_INTERLEAVE, nodes=(0, 1))
    snapshot = shot([40, 0, 0, 0])
    told = dataclasses.replace(snapshot, policies=policies([[0] * 4], weights=[1, 3, 1, 1]))
    assert what_if(snapshot, policy, {0: 3, 1: 1})[0].pages == 10
    assert what_if(told, policy, {0: 3, 1: 1})[0].pages == 10
    assert what_if(told, policy)[0].pages == 30
    with pytest.raises(ValueError, match="weights of the nodes are not known; write them: weighted="):
        what_if(snapshot, policy)


@pytest.mark.parametrize("mode", [Mode.BIND, Mode.PREFERRED_MANY])
def test_nodes_without_shares_ask_only_for_what_is_outside(mode: Mode) -> None:
    (move,) = what_if(shot([90, 1, 2, 7]), Policy(mode, nodes=(0, 1)))
    assert (move.shares, move.expected) == (None, None)
    assert move.difference.tolist() == [0, 0, 2, 7]
    assert move.pages == 9


def test_one_node_asks_for_all_others() -> None:
    for mode in (Mode.BIND, Mode.PREFERRED):
        (move,) = what_if(shot([90, 1, 2, 7]), Policy(mode, nodes=(3,)))
        assert (move.difference.tolist(), move.pages) == ([90, 1, 2, -93], 93)


@pytest.mark.parametrize("policy", [Policy(Mode.LOCAL), DEFAULT])
def test_local_moves_nothing(policy: Policy) -> None:
    (move,) = what_if(shot([90, 1, 2, 7]), policy)
    assert (move.pages, move.difference.tolist()) == (0, [0] * 4)


def test_nodes_without_memory_are_named() -> None:
    for nodes, words in (((0, 5), "no memory on node 5"), ((5, 6, 7, 9), "no memory on nodes 5-7,9")):
        with pytest.raises(ValueError, match=f"^{words}; the nodes with memory are 0-3$"):
            what_if(shot([1, 1, 1, 1]), Policy(Mode.BIND, nodes=nodes))


def test_nodes_outside_the_cpuset_are_named() -> None:
    told = dataclasses.replace(shot([1, 1, 1, 1]), policies=policies([[0] * 4], allowed=(0, 1)))
    for nodes, words in (((1, 2), "node 2 is"), ((2, 3), "nodes 2-3 are")):
        with pytest.raises(ValueError, match=f"^{words} not in the cpuset of the process, which has 0-1$"):
            what_if(told, Policy(Mode.INTERLEAVE, nodes=nodes))


def test_rows_choose_and_empty_vmas_do_not_appear() -> None:
    snapshot = shot([4, 0, 0, 0], [0, 0, 0, 0], [0, 0, 8, 0])
    policy = Policy(Mode.BIND, nodes=(0,))
    assert [move.row for move in what_if(snapshot, policy)] == [0, 2]
    assert [move.row for move in what_if(snapshot, policy, rows=[2, 1])] == [2]
    assert what_if(snapshot, policy, rows=[]) == []


def test_the_total_is_in_bytes() -> None:
    small, large = fake.vma(0x1000, 8), fake.vma(0x4000_0000, 2048, hugetlb=True, page_kb=2048)
    snapshot = fake.snapshot([small, large], [[4, 4, 0, 0], [0, 4, 0, 0]], NODES)
    moves = what_if(snapshot, Policy(Mode.INTERLEAVE, nodes=(0, 1)))
    total = move_total(moves, NODES)
    assert (total.vmas, total.bytes, total.of_bytes) == (1, 2 << 21, (8 << 12) + (4 << 21))
    assert total.actual.tolist() == [4 << 12, (4 << 12) + (4 << 21), 0, 0]
    assert total.expected is not None
    assert total.expected.tolist() == [(4 << 12) + (2 << 21), (4 << 12) + (2 << 21), 0, 0]
    assert total.difference.tolist() == [-(2 << 21), 2 << 21, 0, 0]
    assert move_total(what_if(snapshot, Policy(Mode.BIND, nodes=(0, 1))), NODES).expected is None
    assert move_total([], NODES).bytes == 0


def test_opposite_skews_do_not_cancel_in_what_has_to_move() -> None:
    snapshot = shot([8, 0, 0, 0], [0, 8, 0, 0])
    total = move_total(what_if(snapshot, Policy(Mode.INTERLEAVE, nodes=(0, 1))), NODES)
    assert total.difference.tolist() == [0] * 4
    assert (total.vmas, total.bytes) == (2, 8 * 4096)


@given(st.lists(st.integers(0, 200), min_size=4, max_size=4).filter(any), st.sets(st.integers(0, 3), min_size=1))
def test_the_least_number_is_enough(pages: list[int], nodes: set[int]) -> None:
    (move,) = what_if(shot(pages), Policy(Mode.INTERLEAVE, nodes=tuple(sorted(nodes))))
    assert move.expected is not None
    assert move.expected.sum() == sum(pages)
    # What is too many somewhere is what is missing elsewhere, so as many moves make it even.
    assert move.pages == int(-move.difference[move.difference < 0].sum())
    assert max(move.expected[list(nodes)]) - min(move.expected[list(nodes)]) <= 1


def test_pages_off_go_by_address() -> None:
    """An even spread, but turned by one: by shares nothing moves, by address everything does."""
    index = np.arange(100, 108)
    rule = rule_nodes(Policy(Mode.INTERLEAVE, nodes=NODES), index)
    assert pages_off(rule, rule) == 0
    assert pages_off((rule + 1) % 4, rule) == 8
    assert pages_off(np.where(index < 104, -1, (rule + 1) % 4), rule) == 4
    assert pages_off(rule, np.full(8, -1)) == 0
