"""The spelling of policies against what kernels were seen to print, and against itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.snapshots import node_sets, policies
from tracer.model.policy import (
    DEFAULT,
    F_NUMA_BALANCING,
    F_RELATIVE_NODES,
    F_STATIC_NODES,
    Mode,
    Policy,
    Spelling,
    format_nodes,
    parse_nodes,
)

KERNEL_TEXTS = [
    (DEFAULT, "default"),
    (Policy(Mode.LOCAL), "local"),
    (Policy(Mode.PREFERRED, 0, (1,)), "prefer:1"),
    (Policy(Mode.BIND, 0, (0, 1)), "bind:0-1"),
    (Policy(Mode.INTERLEAVE, 0, (0, 1, 3)), "interleave:0-1,3"),
    (Policy(Mode.PREFERRED_MANY, 0, (0, 2)), "prefer (many):0,2"),
    (Policy(Mode.WEIGHTED_INTERLEAVE, 0, (0, 1, 2, 3)), "weighted interleave:0-3"),
    (Policy(Mode.BIND, F_STATIC_NODES, (0,)), "bind=static:0"),
    (Policy(Mode.INTERLEAVE, F_RELATIVE_NODES, (0,)), "interleave=relative:0"),
    (Policy(Mode.BIND, F_NUMA_BALANCING, (0,)), "bind=balancing:0"),
    (Policy(Mode.BIND, F_STATIC_NODES | F_NUMA_BALANCING, (0,)), "bind=static|balancing:0"),
    (Policy(Mode.BIND, F_RELATIVE_NODES | F_NUMA_BALANCING, (0, 1)), "bind=relative|balancing:0-1"),
    (Policy(Mode.PREFERRED_MANY, F_NUMA_BALANCING, (0,)), "prefer (many)=balancing:0"),
]


@pytest.mark.parametrize(("policy", "text"), KERNEL_TEXTS)
def test_text_as_seen_on_a_kernel(policy: Policy, text: str) -> None:
    assert policy.text() == text
    assert Policy.parse(text) == policy


@pytest.mark.parametrize(
    ("spelling", "flags", "text"),
    [
        (Spelling.HIDDEN, F_NUMA_BALANCING, "default"),
        (Spelling.HIDDEN, F_NUMA_BALANCING | F_STATIC_NODES, "default"),
        (Spelling.HIDDEN, F_STATIC_NODES, "bind=static:0-1"),
        (Spelling.BARE, F_NUMA_BALANCING, "bind=:0-1"),
        (Spelling.BARE, F_NUMA_BALANCING | F_STATIC_NODES, "bind=static:0-1"),
        (Spelling.NAMED, F_NUMA_BALANCING, "bind=balancing:0-1"),
    ],
)
def test_text_of_kernels_without_a_word_for_balancing(spelling: Spelling, flags: int, text: str) -> None:
    assert Policy(Mode.BIND, flags, (0, 1)).text(spelling) == text


@pytest.mark.parametrize("spelling", Spelling)
def test_spelling_is_recognised_by_its_own_text(spelling: Spelling) -> None:
    assert Spelling.of(Policy(Mode.BIND, F_NUMA_BALANCING, (0,)).text(spelling)) is spelling


def test_flags_of_the_kernel_itself_are_not_printed() -> None:
    internal = 1 << 0 | 1 << 3 | 1 << 4  # MPOL_F_SHARED, MPOL_F_MOF, MPOL_F_MORON
    assert Policy(Mode.BIND, internal, (0,)).text() == "bind:0"


@pytest.mark.parametrize(
    ("mode", "text", "believed"),
    [
        (Mode.INTERLEAVE, "interleave:0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,32,34,36,", 37),
        (Mode.BIND, "bind:0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,32,34,36,38,40,", 41),
        (Mode.PREFERRED_MANY, "prefer (many):0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,32,34,", 35),
        (Mode.WEIGHTED_INTERLEAVE, "weighted interleave:0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,", 31),
    ],
)
def test_text_is_cut_as_the_buffer_cuts_it(mode: Mode, text: str, believed: int) -> None:
    assert Policy(mode, 0, tuple(range(0, 100, 2))).text() == text
    assert len(text) == 63
    policy = Policy.parse(text)
    assert policy.text() == text
    assert policy.nodes == tuple(range(0, believed, 2))


def test_half_a_number_at_the_cut_is_not_taken_for_a_node() -> None:
    text = Policy(Mode.BIND, 0, tuple(range(100, 200, 3))).text()
    assert text.endswith(",136,139,14")
    policy = Policy.parse(text)
    assert policy.text() == text
    assert policy.nodes == tuple(range(100, 140, 3))


@pytest.mark.parametrize("text", ["unknown", "newmode:0-1", "bind=shiny:0", "bind:0-", "bind:x", "default default"])
def test_words_not_understood_come_back_as_they_were(text: str) -> None:
    assert Policy.parse(text).text() == text


def test_a_mode_of_a_newer_kernel() -> None:
    assert Policy(77, 0, (0,)).text() == "unknown"
    assert Policy(77, 0, (0,)).text_2005() == "unknown={0}"


@given(policies, st.sampled_from(Spelling))
def test_what_is_printed_is_parsed_and_printed_again(policy: Policy, spelling: Spelling) -> None:
    text = policy.text(spelling)
    assert len(text) <= 63
    # A reader of numa_maps renders with the spelling of the same kernel.
    assert Policy.parse(text).text(spelling) == text


@given(st.text(max_size=80))
def test_parse_never_fails(text: str) -> None:
    assert isinstance(Policy.parse(text), Policy)


@given(node_sets)
def test_node_lists(nodes: tuple[int, ...]) -> None:
    assert parse_nodes(format_nodes(nodes)) == nodes


@pytest.mark.parametrize(("nodes", "text"), [((), ""), ((0,), "0"), ((0, 1), "0-1"), ((0, 2, 3, 4, 9), "0,2-4,9")])
def test_node_list_form(nodes: tuple[int, ...], text: str) -> None:
    assert format_nodes(nodes) == text


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (DEFAULT, "default"),
        (Policy(Mode.INTERLEAVE, 0, (0, 1)), "interleave={0,1}"),
        (Policy(Mode.PREFERRED, 0, (1,)), "prefer=1"),
        (Policy(Mode.BIND, 0, (0, 1)), "bind={0,1}"),
        (Policy(Mode.BIND, F_STATIC_NODES, (0, 1, 2, 5)), "bind={0,1,2,5}"),
        (Policy(Mode.LOCAL), "local"),
        (Policy(Mode.PREFERRED_MANY, 0, (0, 1)), "prefer-many={0,1}"),
        (Policy(Mode.WEIGHTED_INTERLEAVE, 0, (0, 1)), "weighted-interleave={0,1}"),
    ],
)
def test_spelling_of_2005(policy: Policy, text: str) -> None:
    assert policy.text_2005() == text


@given(policies)
def test_spelling_of_2005_holds_no_blank(policy: Policy) -> None:
    assert " " not in policy.text_2005()
