"""What pages remember (`tracer.model.ledger`), against pages that a small kernel of our own places one by one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.model.cause import Cause
from tracer.model.ledger import Arrival, Events, PageLedger
from tracer.model.origin import Area, How, Origin, Standing
from tracer.model.policy import DEFAULT, F_STATIC_NODES, Mode, Policy
from tracer.model.rule import Backing

NODES = 4
ALL = frozenset(range(NODES))
SPREAD = Policy(Mode.INTERLEAVE, nodes=(0, 1, 2, 3))
BASE = 0x7F0000000000
REGION = BASE >> 21
PAGES = 512


def area(start: int = 0, pages: int = PAGES, **more: object) -> Area:
    """An interleaved VMA of its own policy, `start` pages after BASE."""
    begin = BASE + (start << 12)
    values: dict[str, object] = {"policy": SPREAD, "own": True, "backing": Backing(begin, begin >> 12)}
    return Area(begin, begin + (pages << 12), **(values | more))  # type: ignore[arg-type]


def standing(threads: dict[int, Policy] | None = None, allowed: frozenset[int] = ALL) -> Standing:
    return Standing(allowed, threads or {}, {})


def put(
    ledger: PageLedger, nodes: npt.ArrayLike, events: Events | None = None, huge: bool = False, file: bool = False
) -> None:
    """What is in the region now: a node for each page from its first on, -1 for none."""
    page = np.full((1, PAGES), -1, np.int16)
    found = np.asarray(nodes, np.int16)
    page[0, : len(found)] = found
    ledger.take(np.array([REGION]), page, np.full((1, PAGES), file), np.array([huge]), events or Events())


def mask(*pages: int) -> npt.NDArray[np.bool_]:
    found = np.zeros(PAGES, bool)
    found[list(pages)] = True
    return found


def causes(ledger: PageLedger, start: int = BASE) -> dict[Cause, int]:
    sums: Counter[Cause] = Counter()
    for key, pages in ledger.sums[start].misplaced.items():
        sums[Cause(key.cause)] += pages
    return dict(sums)


def by_turn(pages: int) -> npt.NDArray[np.int64]:
    """Where interleave over four nodes puts pages from BASE on (its page number is a multiple of four)."""
    return np.arange(pages) % NODES


@pytest.fixture
def ledger() -> PageLedger:
    return PageLedger(NODES)


def test_pages_where_the_policy_puts_them_have_no_cause(ledger: PageLedger) -> None:
    ledger.cover([area()])
    put(ledger, by_turn(400))
    ledger.judge(standing())
    sums = ledger.sums[BASE]
    assert not sums.misplaced
    assert sums.rule.tolist() == sums.present.tolist() == [100] * 4
    assert sums.squares == 400


def test_pages_found_at_the_first_look_are_unknown(ledger: PageLedger) -> None:
    ledger.cover([area()])
    put(ledger, [0] * 400)
    ledger.judge(standing())
    assert causes(ledger) == {Cause.UNKNOWN: 300}


def test_pages_older_than_the_policy(ledger: PageLedger) -> None:
    ledger.cover([area()])
    put(ledger, [0] * 400, Events(found=lambda of: Origin(How.FOUND, DEFAULT)))
    ledger.judge(standing())
    assert causes(ledger) == {Cause.BEFORE_POLICY: 300}
    (key,) = {key.node for key in ledger.sums[BASE].misplaced}
    assert key == 0


def test_a_fault_in_the_interval_of_the_change_is_older_if_it_does_not_fit(ledger: PageLedger) -> None:
    """400 pages were touched before mbind and 112 after it, all between two looks."""
    ledger.cover([area()])
    now, before = Origin(How.FAULT, SPREAD, True, 7), Origin(How.FAULT, DEFAULT, False, 7)
    nodes = np.concatenate((np.zeros(400, int), by_turn(PAGES)[400:]))
    arrival = Arrival(REGION, np.ones(PAGES, bool), (now, before))
    put(ledger, nodes, Events([arrival]))
    ledger.judge(standing())
    assert causes(ledger) == {Cause.BEFORE_POLICY: 300}


@pytest.mark.parametrize(
    ("now", "how", "cause"),
    [
        (DEFAULT, How.FAULT, Cause.OTHER_TASK),
        (SPREAD, How.FAULT, Cause.BEFORE_TASK),
        (DEFAULT, How.COPIED, Cause.COPIED),
        (SPREAD, How.COPIED, Cause.COPIED),
    ],
)
def test_another_threads_policy(ledger: PageLedger, now: Policy, how: How, cause: Cause) -> None:
    ledger.cover([area(own=False)])
    arrival = Arrival(REGION, np.ones(PAGES, bool), (Origin(how, DEFAULT, False, 8),))
    put(ledger, [2] * PAGES, Events([arrival]))
    ledger.judge(standing({7: SPREAD, 8: now}))
    assert causes(ledger) == {cause: 384}


def test_a_full_node(ledger: PageLedger) -> None:
    """What belongs on node 3 went to node 2, which the kernel counted as foreign to node 3."""
    ledger.cover([area()])
    nodes = np.where(by_turn(PAGES) == 3, 2, by_turn(PAGES))
    arrival = Arrival(REGION, np.ones(PAGES, bool), (Origin(How.FAULT, SPREAD, True, 7, full=frozenset({3})),))
    put(ledger, nodes, Events([arrival]))
    ledger.judge(standing())
    assert causes(ledger) == {Cause.NODE_FULL: 128}
    assert {(key.node, key.expected) for key in ledger.sums[BASE].misplaced} == {(2, 3)}


def test_a_node_outside_the_cpuset(ledger: PageLedger) -> None:
    ledger.cover([area()])
    nodes = np.where(by_turn(PAGES) == 3, 0, by_turn(PAGES))
    arrival = Arrival(REGION, np.ones(PAGES, bool), (Origin(How.FAULT, SPREAD, True, 7),))
    put(ledger, nodes, Events([arrival]))
    ledger.judge(standing(allowed=frozenset({0, 1, 2})))
    assert causes(ledger) == {Cause.OUTSIDE_CPUSET: 128}


def test_moves_take_the_reasons_that_flows_tell(ledger: PageLedger) -> None:
    ledger.cover([area()])
    arrival = Arrival(REGION, np.ones(PAGES, bool), (Origin(How.FAULT, SPREAD, True, 7),))
    put(ledger, by_turn(PAGES), Events([arrival]))
    nodes = by_turn(PAGES)
    nodes[nodes == 1] = 0
    put(ledger, nodes, Events(moves={(REGION, 1, 0): Counter({5: 100, 3: 28})}))
    ledger.judge(standing())
    found = {(Cause(key.cause), key.reason): pages for key, pages in ledger.sums[BASE].misplaced.items()}
    assert found == {(Cause.MOVED, 5): 100, (Cause.MOVED, 3): 28}


def test_a_page_that_moved_where_it_belongs_is_in_its_place(ledger: PageLedger) -> None:
    ledger.cover([area()])
    put(ledger, [0] * PAGES, Events(found=lambda of: Origin(How.FOUND, DEFAULT)))
    moves = {(REGION, 0, node): Counter({4: 128}) for node in (1, 2, 3)}
    put(ledger, by_turn(PAGES), Events(moves=moves))
    ledger.judge(standing())
    assert not ledger.sums[BASE].misplaced


def test_a_collapse_is_known_by_the_huge_page(ledger: PageLedger) -> None:
    ledger.cover([area()])
    arrival = Arrival(REGION, np.ones(PAGES, bool), (Origin(How.FAULT, SPREAD, True, 7),))
    put(ledger, by_turn(PAGES), Events([arrival]))
    node = (REGION + 1) % NODES  # not the one whose turn the huge page would be
    put(ledger, [node] * PAGES, huge=True)
    ledger.judge(standing())
    sums = ledger.sums[BASE]
    # Those as well that lie where they lay: they are parts of the new page.
    assert causes(ledger) == {Cause.COLLAPSED: PAGES}
    assert sums.huge == PAGES
    assert sums.squares == PAGES * PAGES


def test_a_collapse_that_fills_what_was_empty_and_follows_a_fault_at_once(ledger: PageLedger) -> None:
    ledger.cover([area()])
    some = np.zeros(PAGES, bool)
    some[:8] = True
    node = (REGION + 1) % NODES
    arrival = Arrival(REGION, some, (Origin(How.FAULT, SPREAD, True, 7),))
    put(ledger, [node] * PAGES, Events([arrival]), huge=True)
    ledger.judge(standing())
    assert causes(ledger) == {Cause.COLLAPSED: PAGES}


def test_a_hugetlb_page_is_no_collapse(ledger: PageLedger) -> None:
    ledger.cover([area(page_pages=PAGES)])
    arrival = Arrival(REGION, mask(0), (Origin(How.FAULT, SPREAD, True, 7, full=ALL),))
    put(ledger, [(REGION + 1) % NODES], Events([arrival]), huge=True)
    ledger.judge(standing())
    assert causes(ledger) == {Cause.NODE_FULL: 1}


def test_a_huge_page_goes_by_its_own_turn_also_after_a_split(ledger: PageLedger) -> None:
    ledger.cover([area()])
    node = REGION % NODES
    arrival = Arrival(REGION, np.ones(PAGES, bool), (Origin(How.FAULT, SPREAD, True, 7),), huge=True)
    put(ledger, [node] * PAGES, Events([arrival]), huge=True)
    ledger.judge(standing())
    assert not ledger.sums[BASE].misplaced
    put(ledger, [node] * PAGES)
    ledger.judge(standing())
    assert not ledger.sums[BASE].misplaced


def test_ksm(ledger: PageLedger) -> None:
    ledger.cover([area(mergeable=True)])
    arrival = Arrival(REGION, np.ones(PAGES, bool), (Origin(How.FAULT, SPREAD, True, 7),))
    put(ledger, by_turn(PAGES), Events([arrival]))
    put(ledger, [1] * PAGES, Events(merged=lambda addresses: np.ones(len(addresses), bool)))
    ledger.judge(standing())
    assert causes(ledger) == {Cause.MERGED: 384}


def test_shared_memory_that_was_there(ledger: PageLedger) -> None:
    """Interleave by address is no chance: a page that does not fit it was not allocated under it."""
    ledger.cover([area(shared=True, backing=Backing(BASE, 0, 0))])
    arrival = Arrival(REGION, np.ones(PAGES, bool), (Origin(How.FAULT, SPREAD, True, 7),))
    put(ledger, [0] * PAGES, Events([arrival]))
    ledger.judge(standing())
    assert causes(ledger) == {Cause.SHARED: 384}


def test_the_page_cache(ledger: PageLedger) -> None:
    ledger.cover([area(file=True)])
    put(ledger, [0] * PAGES, file=True)
    ledger.judge(standing())
    assert causes(ledger) == {Cause.PAGE_CACHE: 384}
    assert ledger.sums[BASE].file.tolist() == [PAGES, 0, 0, 0]


def test_huge_pages_of_the_page_cache_go_by_small_ones(ledger: PageLedger) -> None:
    ledger.cover([area(file=True)])
    put(ledger, [0] * PAGES, file=True, huge=True)
    ledger.judge(standing())
    assert causes(ledger) == {Cause.PAGE_CACHE: 384}


def test_weights_at_the_time_of_allocation(ledger: PageLedger) -> None:
    weighted = Policy(Mode.WEIGHTED_INTERLEAVE, nodes=(0, 1))
    old, new = {0: 3, 1: 1}, {0: 1, 1: 1}
    number = (BASE >> 12) + np.arange(PAGES)
    under_old = np.where(number % 4 < 3, 0, 1)
    under_new = number % 2
    ledger.cover([area(policy=weighted)])
    ledger.weights = old
    origin = Origin(How.FAULT, weighted, True, 7, weights=((0, 3), (1, 1)))
    put(ledger, under_old, Events([Arrival(REGION, np.ones(PAGES, bool), (origin,))]))
    ledger.judge(standing())
    assert not ledger.sums[BASE].misplaced
    ledger.weights = new
    ledger.judge(standing())
    assert causes(ledger) == {Cause.WEIGHTS: int((under_old != under_new).sum())}


def test_pages_of_a_child_are_its_parents_until_it_writes(ledger: PageLedger) -> None:
    ledger.cover([area(own=False)])
    put(ledger, [0] * PAGES, Events(found=lambda of: Origin(How.INHERITED)))
    written = Arrival(REGION, mask(*range(100)), (Origin(How.COPIED, SPREAD, False, 9),))
    nodes = np.concatenate((by_turn(100), np.zeros(412, int)))
    put(ledger, nodes, Events([written]))
    ledger.judge(standing({9: SPREAD}))
    assert causes(ledger) == {Cause.INHERITED: 309}


def test_pages_mapped_around_a_fault_have_its_origin(ledger: PageLedger) -> None:
    """A fault at page 20 mapped the sixteen pages around it; page 40 came without any."""
    ledger.cover([area()])
    put(ledger, [])
    nodes = np.full(PAGES, -1)
    nodes[16:32] = 0
    nodes[40] = 0
    arrival = Arrival(REGION, mask(20), (Origin(How.FAULT, SPREAD, True, 7, full=ALL),))
    put(ledger, nodes, Events([arrival], large=lambda addresses: (addresses >> 12 & (PAGES - 1)) < 32))
    ledger.judge(standing())
    assert causes(ledger) == {Cause.NODE_FULL: 12}  # page 40 is on its node, by turn


def test_a_policy_that_goes_and_comes(ledger: PageLedger) -> None:
    ledger.cover([area()])
    put(ledger, [0] * PAGES, Events(found=lambda of: Origin(How.FOUND, DEFAULT)))
    ledger.judge(standing())
    ledger.cover([])
    assert not ledger.sums
    assert not len(ledger.regions)
    ledger.cover([area()])
    assert ledger.unknown(np.array([REGION])).tolist() == [REGION]


def test_a_split_vma_keeps_what_its_pages_remember(ledger: PageLedger) -> None:
    ledger.cover([area()])
    put(ledger, [0] * PAGES, Events(found=lambda of: Origin(How.FOUND, DEFAULT)))
    ledger.judge(standing())
    half = BASE + (256 << 12)
    bound = Policy(Mode.BIND, nodes=(1,))
    ledger.cover([area(pages=256), area(256, 256, policy=bound)])
    ledger.judge(standing())
    assert causes(ledger) == {Cause.BEFORE_POLICY: 192}
    assert causes(ledger, half) == {Cause.BEFORE_POLICY: 256}
    assert ledger.sums[half].rule.tolist() == [0, 256, 0, 0]


def test_flags_of_a_policy_do_not_make_it_another_one(ledger: PageLedger) -> None:
    static = Policy(Mode.INTERLEAVE, F_STATIC_NODES, (0, 1, 2, 3))
    ledger.cover([area(policy=static)])
    arrival = Arrival(REGION, np.ones(PAGES, bool), (Origin(How.FAULT, SPREAD, True, 7, full=frozenset({1})),))
    put(ledger, [0] * PAGES, Events([arrival]))
    ledger.judge(standing())
    assert causes(ledger) == {Cause.NODE_FULL: 128, Cause.UNKNOWN: 256}


steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, PAGES - 1), st.integers(1, 200), st.integers(-1, NODES - 1)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(1, PAGES - 1))
def test_sums_are_those_of_the_pages_whatever_happens(changes: list[tuple[int, int, int, int]], cut: int) -> None:
    """Random pages come, go and move in three regions and two VMAs; each time, every page is in the sums once."""
    ledger = PageLedger(NODES)
    second = BASE + (1 << 21) + (cut << 12)
    first_area = Area(BASE, second, SPREAD, True, Backing(BASE, BASE >> 12))
    last_area = Area(second, BASE + (3 << 21), Policy(Mode.BIND, nodes=(2,)), True, Backing(second, second >> 12))
    ledger.cover([first_area, last_area])
    nodes = np.full((3, PAGES), -1, np.int16)
    for region, first, count, node in changes:
        nodes[region, first : first + count] = node
        regions = np.array([REGION + region])
        part = nodes[region : region + 1]
        ledger.take(regions, part, np.zeros_like(part, bool), np.array([False]), Events())
        ledger.judge(standing())
        flat = nodes.reshape(-1)
        number = np.arange(3 * PAGES)
        for it, mine in ((first_area, number < PAGES + cut), (last_area, number >= PAGES + cut)):
            rule = number % NODES if it is first_area else np.full(3 * PAGES, 2)
            sums = ledger.sums.get(it.start)
            present = mine & (flat >= 0)
            total = sums.present.sum() if sums else 0
            wrong = sum(sums.misplaced.values()) if sums else 0
            assert total == present.sum()
            assert wrong == (present & (rule != flat)).sum()
