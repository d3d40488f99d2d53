"""Verdicts: what the policy promises, what came of it, whether chance does that, and why each page is elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit import snapshots as fake
from tracer.model.cause import Cause
from tracer.model.placement import Promise
from tracer.model.policies import Misplaced, Policies, Pressure, TaskPolicy
from tracer.model.policy import DEFAULT, Mode, Policy
from tracer.model.rule import rule_nodes
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import Finding, Limits, Verdict, findings, summary
from tracer.model.vma import Vma

REASONS = ("compaction", "numa_misplaced")
NODES = (0, 1, 2, 3)
EVEN = Policy(Mode.INTERLEAVE, nodes=NODES)
HUGE = 512


def misplaced(rows: Sequence[Sequence[int]] = ()) -> Misplaced:
    """One row each: row of the VMA, node, expected node, cause, index into REASONS or -1, pages."""
    return Misplaced(REASONS, *np.array(sorted(map(tuple, rows)), np.int64).reshape(len(rows), 6).T)


def policies(
    rule: Sequence[Sequence[int]],
    node_ids: Sequence[int] = NODES,
    rows: Sequence[Sequence[int]] = (),
    units: Sequence[float] | None = None,
    huge: Sequence[int] | None = None,
    weights: Sequence[int] | None = None,
    allowed: Sequence[int] | None = None,
    governed: bool = True,
) -> Policies:
    """What a session would tell of as many VMAs as `rule` has rows; by default each page is a unit of its own."""
    count, nothing = len(rule), np.zeros(len(node_ids), np.int64)
    rules = np.array(rule, np.int64).reshape(count, len(node_ids))
    return Policies(
        own=np.ones(count, bool),
        governed=np.full(count, governed),
        allowed=tuple(node_ids if allowed is None else allowed),
        weights=None if weights is None else tuple(weights),
        threads=(TaskPolicy(42, b"target", DEFAULT),),
        changes=(),
        rule=rules,
        units=np.full(count, 1e18) if units is None else np.array(units, np.float64),
        huge=np.zeros(count, np.int64) if huge is None else np.array(huge, np.int64),
        misplaced=misplaced(rows),
        pressure=Pressure(nothing, nothing, nothing, nothing),
    )


def shot(
    policy: Policy,
    pages: Sequence[int],
    told: Policies | None = None,
    node_ids: Sequence[int] = NODES,
    vma: Vma | None = None,
) -> Snapshot:
    """A snapshot of one VMA."""
    area = vma or fake.vma(pages=max(1, sum(pages)), policy=policy)
    return dataclasses.replace(fake.snapshot([area], [pages], node_ids), policies=told)


DEFAULTS = Limits()


def one(snapshot: Snapshot, limits: Limits = DEFAULTS) -> Finding:
    (found,) = findings(snapshot, limits)
    return found


def causes(found: Finding) -> dict[Cause, int]:
    return {count.cause: count.pages for count in found.causes}


# -- verdicts --


def test_an_even_interleave_is_as_promised() -> None:
    found = one(shot(EVEN, [250, 250, 250, 250], policies([[250] * 4])))
    assert found.verdict is Verdict.AS_PROMISED
    assert found.usable == NODES
    assert found.promise is Promise.SPREAD
    assert found.shares is not None
    assert found.shares.tolist() == [0.25] * 4
    assert found.difference.tolist() == [0] * 4
    assert (found.excess, found.causes, found.units, found.own) == (0, (), 1000, True)
    assert found.why == "every node has its share"


def test_memory_that_was_there_before_its_policy_is_skewed_and_says_why() -> None:
    rows = [[0, 0, node, Cause.BEFORE_POLICY, -1, 62] for node in (1, 2, 3)]
    found = one(shot(EVEN, [436, 188, 188, 188], policies([[250] * 4], rows=rows)))
    assert found.verdict is Verdict.SKEWED
    assert found.expected is not None
    assert found.expected.tolist() == [250] * 4
    assert found.difference.tolist() == [186, -62, -62, -62]
    assert found.excess == 186
    assert causes(found) == {Cause.BEFORE_POLICY: 186}
    assert found.causes[0].nodes == {0: 186}
    assert found.p_value is not None
    assert found.p_value < 1e-20
    assert found.why == "44 % on node 0 where 25 % were promised; chance alone does that less than once in a million"


def test_what_no_cause_explains_is_unknown() -> None:
    rows = [[0, 0, 1, Cause.MOVED, 1, 30], [0, 0, 1, Cause.MOVED, 0, 20], [0, 2, 1, Cause.NODE_FULL, -1, 7]]
    found = one(shot(EVEN, [436, 188, 188, 188], policies([[0] * 4], rows=rows)))
    assert causes(found) | {Cause.MOVED: 50} == {Cause.UNKNOWN: 136, Cause.MOVED: 50, Cause.NODE_FULL: 7}
    assert [(count.cause, count.reason, count.pages, count.nodes) for count in found.causes] == [
        (Cause.UNKNOWN, "", 136, {0: 136}),
        (Cause.MOVED, "numa_misplaced", 30, {0: 30}),
        (Cause.MOVED, "compaction", 20, {0: 20}),
        (Cause.NODE_FULL, "", 7, {2: 7}),
    ]


def test_addresses_that_favour_a_node_are_a_pattern() -> None:
    """Every fourth page was touched."""
    found = one(shot(EVEN, [100, 0, 0, 0], policies([[100, 0, 0, 0]])))
    assert found.verdict is Verdict.SKEWED
    assert causes(found) == {Cause.PATTERN: 75}


def test_ten_huge_pages_on_four_nodes_are_as_even_as_can_be() -> None:
    spread = [3 * HUGE, 3 * HUGE, 2 * HUGE, 2 * HUGE]
    found = one(shot(EVEN, spread, policies([spread], units=[10], huge=[10 * HUGE])))
    assert found.verdict is Verdict.AS_PROMISED
    assert found.excess == HUGE
    assert causes(found) == {Cause.GRANULARITY: HUGE}
    assert found.units == 10


def test_one_huge_page_is_too_small_to_say() -> None:
    found = one(shot(EVEN, [0, HUGE, 0, 0], policies([[0, HUGE, 0, 0]], units=[1], huge=[HUGE])))
    assert found.verdict is Verdict.TOO_SMALL
    assert causes(found) == {Cause.GRANULARITY: 384}
    assert found.why == (
        "512 pages, allocated in the equivalent of 1 piece, are too few to tell a skew from chance on 4 nodes"
    )


def test_hugetlb_pages_are_granular_too() -> None:
    vma = dataclasses.replace(fake.vma(pages=HUGE * 6, policy=EVEN, hugetlb=True), page_kb=2048)
    found = one(shot(EVEN, [3, 3, 0, 0], policies([[3, 3, 0, 0]], units=[6]), vma=vma))
    assert found.verdict is Verdict.AS_PROMISED  # 6 units can show a skew, and this is none
    assert causes(found) == {Cause.GRANULARITY: 2}


@pytest.mark.parametrize("pages", [[1, 0, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1], [2, 1, 1, 1], [1, 1, 1, 2]])
def test_five_pages_are_too_small_to_say_and_nothing_is_beyond_its_share(pages: list[int]) -> None:
    found = one(shot(EVEN, pages, policies([pages])))
    assert found.verdict is Verdict.TOO_SMALL
    assert (found.excess, found.causes) == (0, ())


def test_too_small_still_says_what_is_elsewhere() -> None:
    rows = [[0, 0, node, Cause.BEFORE_POLICY, -1, 1] for node in (1, 2, 3)]
    found = one(shot(EVEN, [5, 0, 0, 0], policies([[2, 1, 1, 1]], rows=rows)))
    assert found.verdict is Verdict.TOO_SMALL
    assert causes(found) == {Cause.BEFORE_POLICY: 3}
    assert found.why.endswith("; 3 pages lie elsewhere than by their address")


def test_few_pages_can_be_skewed_where_chance_is_out_of_the_question() -> None:
    rows = [[0, 0, node, Cause.BEFORE_POLICY, -1, 2] for node in (1, 2, 3)]
    found = one(shot(EVEN, [8, 0, 0, 0], policies([[2] * 4], rows=rows)))
    assert found.verdict is Verdict.SKEWED
    assert found.p_value == pytest.approx(4 * 4**-8)


def test_misplaced_pages_that_cancel_out_are_as_promised_and_listed() -> None:
    rows = [[0, 0, 1, Cause.MOVED, 0, 40], [0, 1, 0, Cause.MOVED, 0, 40]]
    found = one(shot(EVEN, [250] * 4, policies([[250] * 4], rows=rows)))
    assert found.verdict is Verdict.AS_PROMISED
    assert found.excess == 0
    assert causes(found) == {Cause.MOVED: 80}
    assert found.why == "every node has its share, although 80 pages lie elsewhere than by their address"


def test_a_page_that_was_moved_out_of_a_pattern_is_counted_once() -> None:
    """All of 100 belong on node 0; 75 were moved, so that the spread is even."""
    rows = [[0, node, 0, Cause.MOVED, 1, 25] for node in (1, 2, 3)]
    found = one(shot(EVEN, [25] * 4, policies([[100, 0, 0, 0]], rows=rows)))
    assert causes(found) == {Cause.MOVED: 75}
    assert found.verdict is Verdict.AS_PROMISED


def test_what_is_within_the_tolerance_is_not_skewed_however_certain() -> None:
    pages = [250_900, 249_700, 249_700, 249_700]
    certain = Limits(significance=0.5)
    assert one(shot(EVEN, pages, policies([pages])), certain).verdict is Verdict.AS_PROMISED
    found = one(shot(EVEN, pages, policies([pages])), Limits(significance=0.5, tolerance=0.0005))
    assert found.verdict is Verdict.SKEWED


def test_the_significance_decides() -> None:
    pages = [40, 20, 20, 20]
    p_value = one(shot(EVEN, pages, policies([pages]))).p_value
    assert p_value is not None
    assert 0.001 < p_value < 0.05
    assert one(shot(EVEN, pages, policies([pages]))).verdict is Verdict.AS_PROMISED
    assert one(shot(EVEN, pages, policies([pages])), Limits(significance=0.05)).verdict is Verdict.SKEWED


def test_pages_outside_the_nodes_of_an_interleave() -> None:
    policy = Policy(Mode.INTERLEAVE, nodes=(0, 1))
    rows = [[0, 3, 0, Cause.NODE_FULL, -1, 20]]
    found = one(shot(policy, [480, 500, 0, 20], policies([[500, 500, 0, 0]], rows=rows)))
    assert found.verdict is Verdict.SKEWED
    assert found.difference.tolist() == [-20, 0, 0, 20]
    assert found.p_value == 0
    assert causes(found) == {Cause.NODE_FULL: 20}
    assert found.why == "2 % on node 3 where none was promised"


# -- weighted interleave --


def test_weights_are_those_of_the_snapshot() -> None:
    policy = Policy(Mode.WEIGHTED_INTERLEAVE, nodes=(0, 1))
    told = policies([[750, 250, 0, 0]], weights=[3, 1, 1, 1])
    found = one(shot(policy, [750, 250, 0, 0], told))
    assert found.verdict is Verdict.AS_PROMISED
    assert found.shares is not None
    assert found.shares.tolist() == [0.75, 0.25, 0, 0]
    assert found.units == pytest.approx(1000 / 2.5)
    rows = [[0, 0, 1, Cause.WEIGHTS, -1, 500]]
    told = policies([[250, 750, 0, 0]], weights=[1, 3, 1, 1], rows=rows)
    found = one(shot(policy, [750, 250, 0, 0], told))
    assert found.verdict is Verdict.SKEWED
    assert causes(found) == {Cause.WEIGHTS: 500}


def test_weighted_interleave_that_has_not_come_round_is_too_small() -> None:
    """Fifty in a row on each node: thirty on one are no skew, and neither are 100 and 50."""
    policy = Policy(Mode.WEIGHTED_INTERLEAVE, nodes=(0, 1))
    weights = [50, 50, 1, 1]
    found = one(shot(policy, [30, 0, 0, 0], policies([[30, 0, 0, 0]], weights=weights)))
    assert (found.verdict, found.p_value) == (Verdict.TOO_SMALL, None)
    assert found.why == "30 pages cannot show the weights, which come round after 100 pages"
    assert one(shot(policy, [100, 50, 0, 0], policies([[100, 50, 0, 0]], weights=weights))).verdict is Verdict.TOO_SMALL


@pytest.mark.parametrize("told", [None, policies([[0] * 4])])
def test_without_weights_nothing_can_be_said(told: Policies | None) -> None:
    found = one(shot(Policy(Mode.WEIGHTED_INTERLEAVE, nodes=(0, 1)), [9, 1, 0, 0], told))
    assert (found.verdict, found.expected, found.excess) == (Verdict.CANNOT_APPLY, None, 0)
    assert found.why == "the weights are not known"


# -- policies that name nodes --


@pytest.mark.parametrize("mode", [Mode.BIND, Mode.PREFERRED_MANY])
def test_nodes_without_shares(mode: Mode) -> None:
    policy = Policy(mode, nodes=(0, 1))
    found = one(shot(policy, [90, 10, 0, 0], policies([[0] * 4])))
    assert found.verdict is Verdict.AS_PROMISED
    assert (found.shares, found.expected, found.p_value) == (None, None, None)
    assert found.why == "all pages are on nodes 0-1"
    rows = [[0, 3, -1, Cause.BEFORE_POLICY, -1, 15]]
    found = one(shot(policy, [70, 10, 5, 15], policies([[0] * 4], rows=rows)))
    assert found.verdict is Verdict.SKEWED
    assert found.difference.tolist() == [0, 0, 5, 15]
    assert causes(found) == {Cause.BEFORE_POLICY: 15, Cause.UNKNOWN: 5}
    assert found.why == "20 % of the pages are on nodes 2-3 where nodes 0-1 were promised"


@pytest.mark.parametrize("mode", [Mode.BIND, Mode.PREFERRED])
def test_one_node(mode: Mode) -> None:
    policy = Policy(mode, nodes=(2,))
    assert one(shot(policy, [0, 0, 3, 0], policies([[0, 0, 3, 0]]))).verdict is Verdict.AS_PROMISED
    found = one(shot(policy, [0, 1, 3, 0], policies([[0, 0, 4, 0]])))
    assert found.verdict is Verdict.SKEWED
    assert found.difference.tolist() == [0, 1, -1, 0]
    assert causes(found) == {Cause.UNKNOWN: 1}
    assert found.why == "25 % of the pages are on node 1 where node 2 was promised"
    found = one(shot(policy, [0, 1, 9999, 0], policies([[0, 0, 10_000, 0]])))
    assert found.verdict is Verdict.AS_PROMISED
    assert found.why == "less than 0.1 % of the pages are elsewhere than on node 2, which is within the tolerance"


@pytest.mark.parametrize("policy", [DEFAULT, Policy(Mode.LOCAL)])
@pytest.mark.parametrize("told", [None, policies([[0] * 4])])
def test_without_a_policy_nothing_is_promised(policy: Policy, told: Policies | None) -> None:
    found = one(shot(policy, [1000, 0, 0, 0], told))
    assert found.verdict is Verdict.NO_POLICY
    assert (found.excess, found.causes, found.p_value) == (0, (), None)


# -- policies that cannot apply --


def test_page_cache_is_not_governed() -> None:
    rows = [[0, 0, node, Cause.PAGE_CACHE, -1, 25] for node in (1, 2, 3)]
    found = one(shot(EVEN, [100, 0, 0, 0], policies([[25] * 4], rows=rows, governed=False)))
    assert found.verdict is Verdict.CANNOT_APPLY
    assert causes(found) == {Cause.PAGE_CACHE: 75}
    assert "page cache" in found.why


@pytest.mark.parametrize("mode", [Mode.INTERLEAVE, Mode.BIND, Mode.PREFERRED, Mode.PREFERRED_MANY])
@pytest.mark.parametrize("nodes", [(5, 7), (3,)])
def test_none_of_the_nodes_can_be_used(mode: Mode, nodes: tuple[int, ...]) -> None:
    """5 and 7 have no memory, 3 is outside the cpuset."""
    found = one(shot(Policy(mode, nodes=nodes), [9, 0, 0, 0], policies([[0] * 4], allowed=(0, 1, 2))))
    assert (found.verdict, found.usable, found.excess) == (Verdict.CANNOT_APPLY, (), 0)
    assert found.why.startswith("none of its nodes can be used: node")


def test_an_interleave_with_one_node_left() -> None:
    found = one(shot(Policy(Mode.INTERLEAVE, nodes=(0, 3)), [90, 0, 0, 10], policies([[0] * 4], allowed=(0, 1))))
    assert (found.verdict, found.usable) == (Verdict.CANNOT_APPLY, (0,))
    assert found.difference.tolist() == [-10, 0, 0, 10]
    assert found.why == "of nodes 0,3 it can use only node 0, so there is nothing to spread over"
    found = one(shot(Policy(Mode.INTERLEAVE, nodes=(1,)), [0, 90, 0, 0], policies([[0, 90, 0, 0]])))
    assert found.why == "it names only node 1, so there is nothing to spread over"


def test_what_cannot_be_understood_cannot_be_judged() -> None:
    assert one(shot(Policy(17, nodes=(0,)), [9, 0, 0, 0])).verdict is Verdict.CANNOT_APPLY
    cut = Policy(Mode.INTERLEAVE, nodes=(0, 2), printed="interleave:".ljust(63, "0"))
    found = one(shot(cut, [9, 0, 0, 0]))
    assert (found.verdict, found.expected, found.excess) == (Verdict.CANNOT_APPLY, None, 0)


# -- without what a session tells --


def test_without_policies_all_excess_is_unknown_and_a_huge_page_is_thought_possible() -> None:
    found = one(shot(EVEN, [4000, 2000, 2000, 2000]))
    assert found.own is None
    assert found.units < 21
    assert found.verdict is Verdict.AS_PROMISED
    assert causes(found) == {Cause.UNKNOWN: 1500}
    found = one(shot(EVEN, [400_000, 200_000, 200_000, 200_000]))
    assert found.verdict is Verdict.SKEWED


def test_huge_pages_are_possible_only_where_a_region_is_whole() -> None:
    start = 0x7F00_0000_1000
    vma = fake.vma(start, 700, EVEN)  # reaches over one boundary of 2 MiB and covers no region
    assert one(shot(EVEN, [400, 100, 100, 100], vma=vma)).units == 700
    vma = dataclasses.replace(vma, hugetlb=True, page_kb=2048)
    assert one(shot(EVEN, [9, 3, 3, 3], vma=vma)).units == 18


def test_vmas_without_pages_have_no_finding_and_rows_stay_theirs() -> None:
    vmas = [fake.vma(0x1000_0000 * (at + 1), 100, EVEN) for at in range(3)]
    rows = [[0, 0, 1, Cause.MERGED, -1, 1], [2, 3, 0, Cause.COPIED, -1, 25], [2, 3, 1, Cause.COPIED, -1, 25]]
    told = policies([[25] * 4] * 3, rows=rows)
    snapshot = fake.snapshot(vmas, [[26, 24, 25, 25], [0] * 4, [0, 0, 25, 75]], NODES)
    found = findings(dataclasses.replace(snapshot, policies=told))
    assert [one.row for one in found] == [0, 2]
    assert [causes(one) for one in found] == [{Cause.MERGED: 1}, {Cause.COPIED: 50}]


def test_the_summary_adds_up() -> None:
    vmas = [fake.vma(0x1000_0000 * (at + 1), 100, policy) for at, policy in enumerate((EVEN, DEFAULT, EVEN))]
    rows = [[0, 0, 1, Cause.MOVED, 1, 40], [2, 3, 0, Cause.MOVED, 1, 50], [2, 3, 1, Cause.COPIED, -1, 25]]
    told = policies([[25] * 4] * 3, rows=rows)
    snapshot = fake.snapshot(vmas, [[65, 0, 10, 25], [7, 0, 0, 0], [0, 0, 0, 100]], NODES)
    found = findings(dataclasses.replace(snapshot, policies=told))
    total = summary(found)
    assert total.verdicts == {
        Verdict.AS_PROMISED: 0,
        Verdict.TOO_SMALL: 0,
        Verdict.SKEWED: 2,
        Verdict.CANNOT_APPLY: 0,
        Verdict.NO_POLICY: 1,
    }
    assert (total.pages, total.excess) == (207, 115)
    assert [(count.cause, count.reason, count.pages) for count in total.causes] == [
        (Cause.MOVED, "numa_misplaced", 90),
        (Cause.COPIED, "", 25),
    ]
    assert total.causes[0].nodes == {0: 40, 3: 50}
    assert summary([]).causes == ()


# -- any placement --


@given(st.data())
def test_every_page_of_the_excess_is_in_exactly_one_cause(data: st.DataObject) -> None:
    """Any pages, each with a node by the rule and one where it lies; some of the misplaced have been told."""
    count = st.integers(0, 40)
    table = np.array(data.draw(st.lists(st.lists(count, min_size=4, max_size=4), min_size=4, max_size=4)))
    actual, rule = table.sum(axis=1), table.sum(axis=0)
    known = data.draw(st.booleans())
    rows = [
        [
            0,
            node,
            expected,
            int(data.draw(st.sampled_from([Cause.MOVED, Cause.OTHER_TASK]))),
            -1,
            int(table[node, expected]),
        ]
        for node in range(4)
        for expected in range(4)
        if node != expected and table[node, expected] and data.draw(st.booleans())
    ]
    told = policies([rule if known else [0] * 4], rows=rows)
    if not actual.any():
        assert findings(shot(EVEN, actual.tolist(), told)) == []
        return
    found = one(shot(EVEN, actual.tolist(), told))
    per_node = np.zeros(4, np.int64)
    for cause in found.causes:
        assert cause.pages == sum(cause.nodes.values())
        for node, pages in cause.nodes.items():
            per_node[node] += pages
    assert (per_node >= np.maximum(found.difference, 0)).all()
    assert (per_node <= actual).all()
    assert int(found.difference.sum()) == 0
    told_pages = sum(row[5] for row in rows)
    assert sum(cause.pages for cause in found.causes) >= max(found.excess, told_pages)
    if known and len(rows) == int((table - np.diag(np.diag(table)) > 0).sum()):
        assert Cause.UNKNOWN not in causes(found)


@given(fake.snapshots())
def test_any_snapshot_has_findings(snapshot: Snapshot) -> None:
    found = findings(snapshot)
    assert [one.row for one in found] == np.flatnonzero(snapshot.pages.sum(axis=1)).tolist()
    for one in found:
        assert one.why
        assert sum(cause.pages for cause in one.causes) == one.excess
        assert one.p_value is None or 0 <= one.p_value <= 1
    assert sum(summary(found).verdicts.values()) == len(found)


# -- honest small cases --


def honest(generator: np.random.Generator, sparse: bool) -> Snapshot:
    """1 to 200 pages where the rule puts them, at a random place: neighbours, or a random few of more of them."""
    node_ids = tuple(range(int(generator.integers(2, 9))))
    weights = tuple(int(weight) for weight in generator.integers(1, (4, 10, 256)[generator.integers(3)], len(node_ids)))
    nodes = tuple(
        sorted(generator.choice(node_ids, int(generator.integers(2, len(node_ids) + 1)), replace=False).tolist())
    )
    policy = (
        Policy(Mode.INTERLEAVE, nodes=nodes),
        Policy(Mode.WEIGHTED_INTERLEAVE, nodes=nodes),
        Policy(Mode.BIND, nodes=nodes[:1]),
    )[generator.integers(3)]
    count = int(generator.integers(1, 201))
    span = count * int(generator.choice((2, 10, 1000))) if sparse else count
    touched = np.sort(generator.choice(span, count, replace=False)) + int(generator.integers(2**34, 2**35))
    given_nodes = rule_nodes(policy, touched, dict(zip(node_ids, weights, strict=True)))
    pages = np.bincount(given_nodes, minlength=len(node_ids)).tolist()
    told = policies([pages], node_ids, weights=weights)
    return shot(policy, pages, told, node_ids)


def rate_of(verdicts: Mapping[Verdict, int], verdict: Verdict) -> str:
    return f"{verdicts[verdict]} of {sum(verdicts.values())} {verdict.value}"


def test_neighbours_that_lie_by_the_rule_are_never_skewed() -> None:
    """An interleave of neighbours is more even than chance, and that of weights is allowed for: never, in 2,000."""
    generator = np.random.default_rng(2000)
    verdicts = summary(one(honest(generator, sparse=False)) for _ in range(2000)).verdicts
    print("neighbours:", ", ".join(rate_of(verdicts, verdict) for verdict in Verdict if verdicts[verdict]))
    assert verdicts[Verdict.SKEWED] == 0
    assert verdicts[Verdict.AS_PROMISED] > 500
    assert verdicts[Verdict.TOO_SMALL] > 100


def test_random_pages_that_lie_by_the_rule_are_skewed_more_seldom_than_the_significance() -> None:
    """2,000 at 0.1 %, a third of them bind, which is never left to chance: of the others 1.3 are expected, and fewer
    because the p-value of so few units errs on the careful side. The seed is fixed."""
    generator = np.random.default_rng(2001)
    verdicts = summary(one(honest(generator, sparse=True)) for _ in range(2000)).verdicts
    print("random pages:", ", ".join(rate_of(verdicts, verdict) for verdict in Verdict if verdicts[verdict]))
    assert verdicts[Verdict.SKEWED] <= 2


def test_without_policies_neighbours_are_never_skewed_either() -> None:
    generator = np.random.default_rng(2002)
    shots = [dataclasses.replace(honest(generator, sparse=False), policies=None) for _ in range(500)]
    assert summary(one(snapshot) for snapshot in shots).verdicts[Verdict.SKEWED] == 0
