"""What policies promise, strips of regions, and matrices of what happened."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import snapshots as fake
from tracer.model import placement
from tracer.model.accumulate import FaultSums, FlowSums
from tracer.model.events import Kind
from tracer.model.placement import Promise, expectation
from tracer.model.policy import F_NUMA_BALANCING, F_RELATIVE_NODES, F_STATIC_NODES, Mode, Policy
from tracer.model.snapshot import Regions

MIB = 1 << 20
NODES = (0, 1, 2, 3)

node_ids = st.sets(st.integers(0, 1023), min_size=1, max_size=8).map(sorted)


def shares(policy: Policy, nodes: Sequence[int] = NODES, **known: object) -> list[float] | None:
    found = expectation(policy, nodes, **known).shares  # type: ignore[arg-type]
    return None if found is None else [round(share, 6) for share in found.tolist()]


def interleaved(nodes: Sequence[int], index: int) -> int:
    """interleave_nid() of mm/mempolicy.c: the node of the page with this index."""
    return nodes[index % len(nodes)]


def weighted(nodes: Sequence[int], weights: dict[int, int], index: int) -> int:
    """weighted_interleave_nid(): the node of the page with this index."""
    target = index % sum(weights[node] for node in nodes)
    for node in nodes:
        if target < weights[node]:
            return node
        target -= weights[node]
    raise AssertionError("the weights were summed up")


@given(fake.policies, node_ids, st.data())
def test_shares_sum_to_one_and_never_leave_the_policy(policy: Policy, nodes: list[int], data: st.DataObject) -> None:
    weights = data.draw(st.none() | st.dictionaries(st.sampled_from(nodes), st.integers(1, 255)))
    touched = data.draw(st.none() | st.dictionaries(st.sampled_from(nodes), st.integers(0, 2**40)))
    nearest = {node: sorted(nodes, key=lambda other: abs(other - node)) for node in nodes}
    expected = expectation(policy, nodes, weights, touched, nearest)
    if expected.shares is None:
        assert expected.promise is not Promise.PREFER or not expected.nodes
        return
    assert expected.shares.shape == (len(nodes),)
    assert expected.shares.sum() == pytest.approx(1)
    assert (expected.shares >= 0).all()
    outside = [at for at, node in enumerate(nodes) if not expected.allows(node)]
    assert not expected.shares[outside].any()


@given(node_ids, st.integers(1, 5))
def test_interleave_gives_what_the_kernels_turns_give(nodes: list[int], turns: int) -> None:
    pages = turns * len(nodes)
    counts = Counter(interleaved(nodes, index) for index in range(pages))
    expected = expectation(Policy(Mode.INTERLEAVE, nodes=tuple(nodes)), nodes).shares
    assert expected is not None
    assert placement.apportion(expected, pages).tolist() == [counts[node] for node in nodes]


@given(st.sets(st.integers(0, 20), min_size=1, max_size=5).map(sorted), st.data())
def test_weighted_interleave_gives_what_the_kernels_turns_give(nodes: list[int], data: st.DataObject) -> None:
    weights = {node: data.draw(st.integers(1, 9)) for node in nodes}
    pages = 2 * sum(weights.values())
    counts = Counter(weighted(nodes, weights, index) for index in range(pages))
    expected = expectation(Policy(Mode.WEIGHTED_INTERLEAVE, nodes=tuple(nodes)), nodes, weights=weights).shares
    assert expected is not None
    assert placement.apportion(expected, pages).tolist() == [counts[node] for node in nodes]


def test_interleave_is_equal_over_its_nodes_and_knows_no_weights() -> None:
    policy = Policy(Mode.INTERLEAVE, nodes=(1, 3))
    assert shares(policy) == shares(policy, weights={1: 9, 3: 1}) == [0, 0.5, 0, 0.5]
    assert expectation(policy, NODES).promise is Promise.SPREAD
    assert expectation(policy, NODES).nodes == (1, 3)


def test_weighted_interleave_needs_its_weights() -> None:
    policy = Policy(Mode.WEIGHTED_INTERLEAVE, nodes=(0, 2))
    assert shares(policy) is None
    assert shares(policy, weights={0: 3, 1: 200, 2: 1}) == [0.75, 0, 0.25, 0]
    assert shares(policy, weights={}) == [0.5, 0, 0.5, 0]
    with pytest.raises(ValueError, match="weight 0"):
        shares(policy, weights={0: 0})
    # One node gets it all, whatever its weight.
    assert shares(Policy(Mode.WEIGHTED_INTERLEAVE, nodes=(2,))) == [0, 0, 1, 0]


def test_prefer_is_one_node() -> None:
    policy = Policy(Mode.PREFERRED, nodes=(2,))
    assert shares(policy) == shares(policy, touched={0: 5}) == [0, 0, 1, 0]
    assert expectation(policy, NODES).promise is Promise.PREFER


@pytest.mark.parametrize("mode", [Mode.DEFAULT, Mode.LOCAL])
def test_default_and_local_depend_on_who_touches(mode: Mode) -> None:
    assert shares(Policy(mode)) is None
    assert shares(Policy(mode), touched={0: 0}) is None
    assert shares(Policy(mode), touched={0: 30, 3: 10}) == [0.75, 0, 0, 0.25]
    assert expectation(Policy(mode), NODES).promise is Promise.TOUCH


def test_a_node_without_memory_gives_to_the_nearest() -> None:
    touched = {0: 1, 7: 3}
    assert shares(Policy(Mode.LOCAL), touched=touched) is None
    assert shares(Policy(Mode.LOCAL), touched=touched, nearest={7: (3, 2)}) == [0.25, 0, 0, 0.75]
    # That nothing was touched there is known without.
    assert shares(Policy(Mode.LOCAL), touched={0: 1, 7: 0}) == [1, 0, 0, 0]


@pytest.mark.parametrize(("mode", "promise"), [(Mode.BIND, Promise.WITHIN), (Mode.PREFERRED_MANY, Promise.PREFER_MANY)])
def test_bind_and_prefer_many_take_the_nearest_of_their_nodes(mode: Mode, promise: Promise) -> None:
    policy = Policy(mode, nodes=(1, 2))
    expected = expectation(policy, NODES)
    assert (expected.promise, expected.nodes, expected.shares) == (promise, (1, 2), None)
    assert [expected.allows(node) for node in NODES] == [False, True, True, False]
    assert shares(policy, touched={1: 3, 2: 1}) == [0, 0.75, 0.25, 0]
    assert shares(policy, touched={0: 3, 2: 1}) is None
    assert shares(policy, touched={0: 3, 2: 1}, nearest={0: (0, 3, 1, 2)}) == [0, 0.75, 0.25, 0]
    assert shares(Policy(mode, nodes=(3,)), touched={0: 1}) == [0, 0, 0, 1]


@pytest.mark.parametrize("flag", [F_STATIC_NODES, F_RELATIVE_NODES, F_NUMA_BALANCING])
def test_flags_do_not_change_the_nodes_in_force(flag: int) -> None:
    assert shares(Policy(Mode.INTERLEAVE, flag, (0, 1))) == [0.5, 0.5, 0, 0]
    assert shares(Policy(Mode.BIND, flag, (1,))) == [0, 1, 0, 0]


def test_nodes_without_memory_get_nothing() -> None:
    assert shares(Policy(Mode.INTERLEAVE, nodes=(0, 1, 9)), (0, 1, 5)) == [0.5, 0.5, 0]
    # Of none, the kernel takes the node of the CPU.
    empty = Policy(Mode.INTERLEAVE, nodes=(9,))
    assert shares(empty) is None
    assert shares(empty, touched={1: 1}) == [0, 1, 0, 0]


def test_what_is_not_understood_promises_nothing() -> None:
    expected = expectation(Policy.parse("quantum:0-1"), NODES)
    assert (expected.promise, expected.shares) == (Promise.UNKNOWN, None)
    assert expectation(Policy(77), NODES).promise is Promise.UNKNOWN


def test_a_list_of_nodes_that_the_kernel_cut_has_no_shares() -> None:
    many = tuple(range(0, 120, 2))
    cut = Policy.parse(Policy(Mode.INTERLEAVE, nodes=many).text())
    expected = expectation(cut, many)
    assert (expected.promise, expected.whole, expected.shares) == (Promise.SPREAD, False, None)
    assert expected.allows(118)
    whole = expectation(Policy(Mode.INTERLEAVE, nodes=many), many)
    assert whole.whole
    assert whole.shares is not None


def test_a_machine_without_memory_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="memory"):
        expectation(Policy(Mode.LOCAL), ())


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8).filter(any), st.integers(0, 2**45))
def test_apportioned_pages_sum_up_and_are_near(weights: list[int], total: int) -> None:
    parts = np.array(weights) / sum(weights)
    pages = placement.apportion(parts, total)
    assert pages.sum() == total
    assert (abs(pages - parts * total) <= 1 + total * 1e-12).all()


def test_of_equals_the_first_gets_the_page_that_is_left() -> None:
    assert placement.apportion(np.full(3, 1 / 3), 11).tolist() == [4, 4, 3]


@given(st.lists(st.integers(0, 300), min_size=2, max_size=8))
def test_of_equals_the_page_that_is_left_goes_where_there_are_more(pages: list[int]) -> None:
    """With equal shares no other way of rounding leaves fewer pages beyond their share."""
    actual, count = np.array(pages), len(pages)
    even = placement.apportion(np.full(count, 1 / count), int(actual.sum()), actual)
    assert even.sum() == actual.sum()
    assert even.max() - even.min() <= 1
    floor = int(actual.sum()) // count
    above = sum(number > floor for number in pages)
    least = sum(max(0, number - floor) for number in pages) - min(int(actual.sum()) % count, above)
    assert np.maximum(actual - even, 0).sum() == least


def test_weights_come_before_what_is_there() -> None:
    assert placement.apportion(np.array([0.6, 0.4]), 6, np.array([0, 6])).tolist() == [4, 2]


# -- cells --------------------------------------------------------------------------------------------------------


def row(address: int, *pages: int) -> list[int]:
    return [address, *pages]


def test_cells_hold_what_their_regions_hold() -> None:
    start, end = 5 * MIB, 21 * MIB
    known = fake.regions(
        [row(2 * MIB, 9, 9), row(5 * MIB, 1, 2), row(6 * MIB, 3, 4), row(18 * MIB, 5, 0), row(22 * MIB, 9, 9)]
    )
    found = placement.cells(known, start, end, 2 * MIB, 0, 10)
    assert (found.base, found.size) == (4 * MIB, 2 * MIB)
    assert found.pages.tolist() == [[1, 2], [3, 4], *[[0, 0]] * 5, [5, 0], *[[0, 0]] * 2]
    assert placement.cells(known, start, end, 8 * MIB, 0, 3).pages.tolist() == [[4, 6], [5, 0], [0, 0]]
    shifted = placement.cells(known, start, end, 4 * MIB, 2, 2)
    assert (shifted.base, shifted.pages.tolist()) == (12 * MIB, [[0, 0], [5, 0]])


def test_a_cell_is_whole_regions() -> None:
    for size in (0, MIB, 3 * MIB, -2 * MIB):
        with pytest.raises(ValueError, match="regions"):
            placement.cells(fake.regions(), 0, MIB, size, 0, 1)


def test_a_hugetlb_page_is_one_cell() -> None:
    assert placement.cell_unit(4) == placement.cell_unit(2048) == 2 * MIB
    assert placement.cell_unit(1 << 20) == 1 << 30
    start = 3 << 30
    known = fake.regions([row(start, 1, 0), row(start + (1 << 30), 0, 1)])
    found = placement.cells(known, start, start + (2 << 30), 1 << 30, 0, 2)
    assert found.pages.tolist() == [[1, 0], [0, 1]]


@st.composite
def populated(draw: st.DrawFn) -> tuple[int, int, Regions]:
    """A VMA anywhere, and regions in it and around it."""
    start = draw(st.integers(0, 4 * 512)) * 4096
    end = start + draw(st.integers(1, 40 * 512)) * 4096
    chosen = draw(st.sets(st.integers(0, 60), max_size=30))
    # A span begins where its VMA does, if that is inside of a region.
    addresses = [max(start, at * 2 * MIB) if at * 2 * MIB + 2 * MIB > start else at * 2 * MIB for at in sorted(chosen)]
    return start, end, fake.regions([row(at, draw(st.integers(0, 512)), draw(st.integers(0, 512))) for at in addresses])


@given(populated(), st.integers(1, 9), st.integers(0, 5), st.integers(0, 70))
def test_cells_are_the_sums_of_their_spans(
    target: tuple[int, int, Regions], regions: int, first: int, count: int
) -> None:
    start, end, known = target
    size = regions * 2 * MIB
    found = placement.cells(known, start, end, size, first, count)
    expected = np.zeros((count, 2), np.int64)
    base = start // (2 * MIB) * 2 * MIB + first * size
    for address, pages in zip(known.address.tolist(), known.pages, strict=True):
        cell = (address - base) // size
        if start <= address < end and 0 <= cell < count:
            expected[cell] += pages
    assert found.pages.tolist() == expected.tolist()
    assert found.totals.tolist() == expected.sum(axis=1).tolist()


def test_cells_are_ranked_by_node() -> None:
    known = fake.regions([row(0, 0, 8, 2), row(2 * MIB, 4, 0, 4), row(6 * MIB, 0, 0, 3)], nodes=3)
    first, second, first_share, second_share = placement.cells(known, 0, 8 * MIB, 2 * MIB, 0, 4).ranked()
    assert first.tolist() == [1, 0, -1, 2]
    assert second.tolist() == [2, 2, -1, -1]
    assert first_share.tolist() == [0.8, 0.5, 0, 1]
    assert second_share.tolist() == [0.2, 0.5, 0, 0]


def test_a_million_regions_take_no_time() -> None:
    count = 1_000_000
    address = np.arange(count, dtype=np.int64) * 2 * MIB
    known = Regions(address, np.ones((count, 4), np.int64))
    end = count * 2 * MIB
    took = []
    for _ in range(5):
        began = time.perf_counter()
        found = placement.cells(known, 0, end, 512 * 2 * MIB, 0, 2000)
        found.ranked()
        took.append(time.perf_counter() - began)
    assert found.totals.sum() == 4 * count
    # A tick has room for it; the best of a few, because the machine may be busy.
    assert min(took) < 0.05


# -- matrices -----------------------------------------------------------------------------------------------------

VMA, OTHER = fake.vma(0x10000000), fake.vma(0x20000000)


def test_first_touch_counts_only_what_was_placed() -> None:
    sums = FaultSums()
    rows = [
        (0, 0, 0, Kind.NEW, 0, 10),
        (0, 0, 1, Kind.HUGE, 0, 1),
        (0, 1, 1, Kind.COW, 0, 6),
        (0, 1, 0, Kind.HINT, 0, 99),
        (0, 1, -1, Kind.NEW, 0, 5),
        (1, 3, 3, Kind.NEW, 0, 7),
    ]
    sums.add(fake.snapshot([VMA, OTHER], [[0, 0]] * 2, faults=fake.faults(rows)))
    mine = [each for each in sums.rows() if placement.lies_in(each.place, 42, VMA.start)]
    touch = placement.first_touch(mine, (0, 1))
    assert (touch.cpu_nodes, touch.page_nodes) == ((0, 1), (0, 1))
    assert touch.pages.tolist() == [[10, 512], [0, 6]]
    assert touch.faults == {Kind.NEW: 15, Kind.HUGE: 1, Kind.COW: 6, Kind.HINT: 99}
    assert touch.local == pytest.approx(16 / 528)
    assert touch.touched == {0: 522, 1: 6}
    assert placement.first_touch(sums.rows()).cpu_nodes == (0, 1, 3)


def test_of_no_page_none_is_local() -> None:
    assert placement.first_touch([], (0, 1)).local is None
    assert placement.first_touch([]).pages.shape == (0, 0)


def test_a_place_is_the_vma_of_one_target() -> None:
    sums = FlowSums()
    sums.add(fake.snapshot([VMA], [[0, 0]], flows=fake.flows([(0, 0, 1, 0, 1, 0), (-1, 0, 1, 0, 1, 0)])))
    places = [each.place for each in sums.rows()]
    assert [placement.lies_in(place, 42, VMA.start) for place in places] == [True, False]
    assert not placement.lies_in(places[0], 43, VMA.start)
    assert not placement.lies_in(places[0], 42, OTHER.start)


def test_flows_by_node_and_by_reason() -> None:
    sums = FlowSums()
    rows = [(0, 0, 1, 1, 30, 0), (0, 0, 1, 2, 5, 0), (0, 1, 1, 0, 7, 0), (0, 2, 2, 1, 0, 4), (0, -1, 0, 2, 3, 0)]
    sums.add(fake.snapshot([VMA], [[0, 0, 0]], (0, 1, 2), flows=fake.flows(rows)))
    matrix = placement.flow_matrix(sums.rows(), (0, 1, 2))
    assert matrix.nodes == (0, 1, 2, -1)
    assert matrix.pages.tolist() == [[0, 35, 0, 0], [0, 7, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]]
    assert list(matrix.reasons.items()) == [("syscall", (30, 4)), ("numa_misplaced", (8, 0)), ("compaction", (7, 0))]
    assert matrix.moved == 45
    one = placement.flow_matrix(sums.rows(), (0, 1), "syscall")
    assert (one.nodes, one.pages.tolist()) == ((0, 1), [[0, 30], [0, 0]])
    assert one.reasons == matrix.reasons
