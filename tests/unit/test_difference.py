"""What differs between two samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.snapshots import flows, sample, snapshot, vma
from tracer.model.accumulate import FlowRow, FlowSums
from tracer.model.difference import Change, Difference, compare
from tracer.model.policy import Mode, Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Kind, Vma

BIND = Policy(Mode.BIND, 0, (1,))


def one(*areas: tuple[Vma, Sequence[int]], **fields: Any) -> Sample:
    """A sample of one target with these areas, each with its pages on two nodes."""
    return sample(snapshot([area for area, _ in areas], [pages for _, pages in areas], **fields))


def said(difference: Difference) -> list[tuple[tuple[str, ...], tuple[int, ...], int]]:
    return [(change.words, change.delta, change.moved) for change in difference.changes]


def moved_rows(target: Snapshot, *rows: tuple[int, int, int, int, int, int]) -> list[FlowRow]:
    sums = FlowSums()
    sums.add(replace(target, flows=flows(rows)))
    return sums.rows()


def test_nothing_differs() -> None:
    before = one((vma(), (3, 4)))
    difference = compare(before, before)
    assert (difference.changes, difference.delta, difference.moved) == ((), (0, 0), 0)
    assert compare(before, before, same_run=False).changes == ()


def test_words_of_one_area() -> None:
    area = vma(pages=16)
    cases: list[tuple[Vma, Sequence[int], tuple[str, ...], int]] = [
        (area, (4, 3), ("moved",), 1),
        (area, (5, 4), ("grew",), 0),
        (area, (3, 3), ("shrank",), 0),
        (area, (0, 9), ("moved", "grew"), 3),
        (replace(area, policy=BIND), (3, 4), ("policy",), 0),
        (replace(area, end=area.end + 4096), (3, 4), ("resized",), 0),
        (replace(area, path=b"[anon:x]"), (3, 4), ("renamed",), 0),
    ]
    for after, pages, words, moved in cases:
        (change,) = compare(one((area, (3, 4))), one((after, pages))).changes
        assert (change.words, change.moved) == (words, moved)
        assert change.delta == (pages[0] - 3, pages[1] - 4)


def test_areas_come_and_go() -> None:
    first, second = vma(0x10000, path=b"/a", kind=Kind.FILE), vma(0x90000)
    difference = compare(one((first, (1, 2))), one((second, (5, 0))))
    assert said(difference) == [(("appeared",), (5, 0), 0), (("disappeared",), (-1, -2), 0)]
    assert difference.delta == (4, -2)


def test_another_file_at_the_same_place_is_another_area() -> None:
    first, second = (vma(0x10000, path=path, kind=Kind.FILE) for path in (b"/a", b"/b"))
    assert [change.words for change in compare(one((first, (1, 2))), one((second, (1, 2)))).changes] == [
        ("disappeared",),
        ("appeared",),
    ]
    deleted = replace(first, path=b"/a (deleted)")
    assert [change.words for change in compare(one((first, (1, 2))), one((deleted, (1, 2)))).changes] == [("renamed",)]


def test_huge_pages_are_not_small_ones_at_the_same_place() -> None:
    small, huge = vma(0x200000, 512), vma(0x200000, 512, hugetlb=True, page_kb=2048)
    difference = compare(one((small, (512, 0))), one((huge, (0, 1))))
    assert [change.words for change in difference.changes] == [("disappeared",), ("appeared",)]


def test_split_area_is_one_change() -> None:
    whole = vma(0x100000, 16)
    left, right = replace(whole, end=0x104000), replace(whole, start=0x104000, policy=BIND)
    (change,) = compare(one((whole, (16, 0))), one((left, (4, 0)), (right, (0, 12)))).changes
    assert change.words == ("moved", "policy", "split")
    assert change.policies == (("default",), ("default", "bind:1"))
    assert (change.delta, change.moved) == ((-12, 12), 12)
    (change,) = compare(one((left, (4, 0)), (right, (0, 12))), one((whole, (16, 0)))).changes
    assert change.words == ("moved", "policy", "merged")


def test_neighbours_that_did_not_change_are_not_drawn_in() -> None:
    first, second = vma(0x100000, 16), vma(0x110000, 16)
    (change,) = compare(one((first, (1, 0)), (second, (1, 0))), one((first, (1, 0)), (second, (2, 0)))).changes
    assert [area.vma for area in change.before] == [second]


def test_program_that_was_replaced_has_nothing_in_common() -> None:
    before, after = one((vma(), (3, 4))), one((vma(), (3, 5)))
    difference = compare(before, after, replaced={42})
    assert said(difference) == [(("appeared",), (3, 5), 0), (("disappeared",), (-3, -4), 0)]
    assert [target.replaced for target in difference.targets] == [True]
    assert compare(before, after, replaced={43}).changes[0].words == ("grew",)


def test_recorded_moves_say_more_than_the_net() -> None:
    area, other = vma(0x100000), vma(0x900000)
    before, after = one((area, (8, 8)), (other, (1, 0))), one((area, (8, 8)), (other, (1, 0)))
    rows = moved_rows(after.only, (0, 0, 1, 1, 5, 0), (0, 1, 0, 1, 5, 2), (0, 0, 0, 0, 9, 0), (1, 0, 1, 1, 0, 3))
    difference = compare(before, after, flows=rows)
    (change,) = difference.changes
    assert change.words == ("moved",)
    assert change.delta == (0, 0)
    assert (change.moved, difference.moved) == (10, 10)
    assert [(m.source, m.destination, m.reason, m.pages, m.kib) for m in change.moves or ()] == [
        (0, 1, "syscall", 5, 20),
        (1, 0, "syscall", 5, 20),
    ]


def test_moves_of_what_is_there_at_neither_moment_are_in_the_sum() -> None:
    before, after = one((vma(0x100000), (8, 8))), one((vma(0x100000), (8, 8)))
    passing = snapshot([vma(0x700000)], [(0, 4)])
    rows = moved_rows(passing, (0, 0, 1, 1, 4, 0), (-1, 1, 0, 1, 3, 0))
    difference = compare(before, after, flows=rows)
    assert (difference.changes, difference.moved) == ((), 7)


def test_moves_before_another_program_was_executed_belong_to_no_area() -> None:
    before = after = one((vma(0x100000), (8, 8)))
    rows = moved_rows(before.only, (0, 0, 1, 1, 4, 0))
    difference = compare(before, after, replaced={42}, flows=rows)
    assert [change.moved for change in difference.changes] == [0, 0]
    assert difference.moved == 4


def test_without_records_net_is_all_there_is_and_with_them_none_moved() -> None:
    before, after = one((vma(), (8, 0))), one((vma(), (0, 8)))
    assert said(compare(before, after)) == [(("moved",), (-8, 8), 8)]
    # Pages were unmapped and touched again elsewhere: nothing moved.
    assert said(compare(before, after, flows=[])) == [(("shifted",), (-8, 8), 0)]


# Two runs


def test_two_runs_match_by_name() -> None:
    before = one(
        (vma(0x400000, path=b"/bin/x", kind=Kind.FILE), (2, 0)),
        (vma(0x600000, path=b"[heap]", kind=Kind.HEAP), (5, 5)),
        (vma(0x7F1000000000, 16), (1, 0)),
        (vma(0x7F2000000000, 100), (50, 0)),
    )
    after = one(
        (vma(0x500000, path=b"/bin/x", kind=Kind.FILE), (2, 0)),
        (vma(0x800000, path=b"[heap]", kind=Kind.HEAP), (5, 6)),
        (vma(0x7E1000000000, 120), (0, 60)),
        (vma(0x7E3000000000, 16), (1, 0)),
        pid=99,
    )
    heap, array = sorted(compare(before, after, same_run=False).changes, key=lambda change: change.pages)
    assert (heap.before[0].vma.start, heap.after[0].vma.start, heap.words) == (0x600000, 0x800000, ("grew",))
    assert (array.before[0].vma.start, array.after[0].vma.start) == (0x7F2000000000, 0x7E1000000000)
    assert array.words == ("moved", "grew", "resized")
    assert array.moves is None


def test_of_areas_that_are_called_the_same_equal_lengths_go_first_and_then_the_longest() -> None:
    lengths = [(10, 20, 30), (20, 11, 500, 7)]
    before, after = (
        one(*((vma(0x10000000 * number, length), (length, 0)) for number, length in enumerate(side, 1)))
        for side in lengths
    )
    pairs = [
        tuple((area.vma.end - area.vma.start) // 4096 for areas in (change.before, change.after) for area in areas)
        for change in compare(before, after, same_run=False).changes
    ]
    assert sorted(pairs) == [(7,), (10, 11), (30, 500)]


def test_processes_of_two_runs_match_by_name_in_order_of_pid() -> None:
    def shot(pid: int, comm: bytes, pages: int) -> Snapshot:
        return snapshot([vma()], [(pages, 0)], pid=pid, comm=comm)

    before = sample(shot(5, b"worker", 1), shot(9, b"worker", 2), shot(7, b"main", 3))
    after = sample(shot(105, b"main", 3), shot(104, b"worker", 1), shot(103, b"other", 8), node_ids=(0, 1))
    pairs = {
        tuple(side and side.pid for side in (target.before, target.after))
        for target in compare(before, after, same_run=False).targets
    }
    assert pairs == {(5, 104), (9, None), (7, 105), (None, 103)}
    (alone,) = compare(sample(shot(5, b"a", 1)), sample(shot(6, b"b", 2)), same_run=False).targets
    assert alone.before is not None
    assert alone.after is not None


def test_nodes_of_both_are_shown() -> None:
    before = sample(snapshot([vma()], [(1, 2)], node_ids=(0, 1)))
    after = sample(snapshot([vma()], [(4, 1)], node_ids=(1, 5)))
    difference = compare(before, after, same_run=False)
    assert (difference.node_ids, difference.before, difference.after) == ((0, 1, 5), (1, 2, 0), (0, 4, 1))
    assert difference.changes[0].delta == (-1, 2, 1)


def test_without_target_at_one_of_the_moments() -> None:
    difference = compare(one((vma(), (3, 4))), sample())
    assert said(difference) == [(("disappeared",), (-3, -4), 0)]
    assert difference.delta == (-3, -4)


# Whatever the samples are


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Up to three targets, with areas that often touch those of another sample."""
    node_ids = draw(st.sampled_from([(0, 1), (0, 2), (1,)]))
    shots = []
    for pid in sorted(draw(st.sets(st.integers(1, 3)))):
        borders = sorted(draw(st.sets(st.integers(1, 12), max_size=9)))
        areas = [
            replace(
                vma(start * 4096, path=draw(st.sampled_from([b"", b"/a", b"/b"]))),
                end=end * 4096,
                kind=draw(st.sampled_from(Kind)),
                policy=draw(st.sampled_from([Policy(0), BIND])),
                hugetlb=draw(st.booleans()),
            )
            for start, end in zip(borders[::2], borders[1::2], strict=False)
        ]
        pages = [[draw(st.integers(0, 9)) for _ in node_ids] for _ in areas]
        shots.append(snapshot(areas, pages, node_ids, pid=pid, comm=draw(st.sampled_from([b"x", b"y"]))))
    return sample(*shots, node_ids=node_ids)


def added(changes: Sequence[Change], nodes: int) -> tuple[int, ...]:
    return tuple(sum(change.delta[node] for change in changes) for node in range(nodes))


@given(samples(), samples(), st.booleans(), st.sets(st.integers(1, 3)), st.booleans())
def test_changes_sum_up_to_the_difference_of_the_totals(
    before: Sample, after: Sample, same_run: bool, replaced: set[int], with_flows: bool
) -> None:
    rows: list[FlowRow] | None = [] if with_flows else None
    difference = compare(before, after, same_run, replaced if same_run else (), rows)
    assert added(difference.changes, len(difference.node_ids)) == difference.delta
    for side, given_sample, totals in (("before", before, difference.before), ("after", after, difference.after)):
        assert sum(totals) == given_sample.totals.sum()
        areas = [area.vma for change in difference.changes for area in getattr(change, side)]
        assert len(areas) <= sum(len(shot.vmas) for shot in given_sample.snapshots), "an area is in one change only"
    for change in difference.changes:
        assert change.words
        assert change.moved <= sum(abs(count) for count in change.delta)


@given(samples(), samples())
def test_exchanged_moments_give_the_opposite(before: Sample, after: Sample) -> None:
    opposite = {"appeared": "disappeared", "grew": "shrank", "split": "merged"}
    opposite |= {value: key for key, value in opposite.items()}

    def summary(difference: Difference, turn: bool) -> list[tuple[Any, ...]]:
        return sorted(
            (
                sorted(opposite.get(word, word) if turn else word for word in change.words),
                [-count if turn else count for count in change.delta],
                change.moved,
            )
            for change in difference.changes
        )

    assert summary(compare(before, after), False) == summary(compare(after, before), True)


@given(samples(), st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 2), st.integers(0, 2), st.integers(0, 9))))
def test_moves_are_counted_once(shots: Sample, events: list[tuple[int, int, int, int]]) -> None:
    rows: list[FlowRow] = []
    for shot in shots.snapshots:
        mine = [(min(row, len(shot.vmas) - 1), a, b, 1, pages, 0) for row, a, b, pages in events]
        rows += moved_rows(shot, *mine)
    expected = sum(row.pages for row in rows if row.source != row.destination)
    difference = compare(shots, shots, flows=rows)
    elsewhere = sum(row.pages for row in rows if row.place.vma is None and row.source != row.destination)
    assert difference.moved == expected
    assert sum(change.moved for change in difference.changes) == expected - elsewhere
