"""What counts as equal, as different, and as changing, when two accounts of a process are held against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.snapshots import snapshot, vma
from tracer.cli.verifier import our_areas
from tracer.model.comparison import Area, Compared, Comparison, TargetComparison, compare
from tracer.model.policy import Mode, Policy
from tracer.model.vma import Kind

ONE = Area(0x1000, 0x9000, "default", b"", {0: 5, 1: 3}, {"kernelpagesize_kB": 4})
TWO = Area(0x10000, 0x20000, "interleave:0-1", b"file=/x", {1: 7}, {"kernelpagesize_kB": 4}, b"/x")


def held(
    kernel: list[Area],
    before: tuple[Area, ...] = (ONE, TWO),
    after: tuple[Area, ...] = (ONE, TWO),
    changing: str = "",
    list_changed: bool = False,
) -> Compared:
    """changing: what of the first area changed, by the events."""
    return compare(before, kernel, after, lambda area: changing if area.key == ONE.key else "", list_changed)


def fields(result: Compared) -> list[tuple[str, object, object, int | None]]:
    return [(it.field, it.ours, it.kernel, it.difference) for its in result.wrong for it in its]


def test_equal_where_both_say_the_same() -> None:
    result = held([ONE, TWO])
    assert result.equal == [ONE, TWO]
    assert not result.wrong
    assert not result.unstable


def test_paths_of_maps_are_not_compared() -> None:
    assert held([ONE, replace(TWO, path=b"/y")]).equal == [ONE, replace(TWO, path=b"/y")]


def test_a_page_on_another_node_is_told_for_both_nodes() -> None:
    result = held([replace(ONE, nodes={0: 4, 1: 4}), TWO])
    assert fields(result) == [("N0", 5, 4, 1), ("N1", 3, 4, -1)]
    assert result.equal == [TWO]


def test_a_node_that_only_one_side_has() -> None:
    assert fields(held([replace(ONE, nodes={0: 5, 1: 3, 3: 2}), TWO])) == [("N3", 0, 2, -2)]


def test_the_page_size_is_printed_only_where_there_are_pages() -> None:
    assert fields(held([replace(ONE, nodes={}, fields={}), TWO])) == [("N0", 5, 0, 5), ("N1", 3, 0, 3)]


def test_policies_and_other_fields() -> None:
    told = replace(TWO, policy="bind:1", fields={"kernelpagesize_kB": 2048, "anon": 2})
    assert fields(held([ONE, told])) == [
        ("policy", "interleave:0-1", "bind:1", None),
        ("anon", None, 2, -2),
        ("kernelpagesize_kB", 4, 2048, -2044),
    ]


@pytest.mark.parametrize(("ours", "kernel", "expected"), [(True, False, "present"), (False, True, "missing")])
def test_an_area_that_only_one_side_has(ours: bool, kernel: bool, expected: str) -> None:
    mine = (ONE, TWO) if ours else (ONE,)
    result = held([ONE, TWO] if kernel else [ONE], mine, mine)
    assert fields(result) == [("area", expected, "missing" if ours else "present", None)]


def test_an_area_that_ends_elsewhere_is_another_one() -> None:
    assert [it[0] for it in fields(held([replace(ONE, end=0xA000), TWO]))] == ["area", "area"]


def test_names_alone_are_kept_apart_since_they_are_read_rarely() -> None:
    result = held([ONE, replace(TWO, name=rb"file=/x\040(deleted)")])
    assert not result.wrong
    assert [it.field for its in result.unvouched for it in its] == ["name"]


def test_what_other_processes_change_is_kept_apart() -> None:
    told = replace(ONE, fields={"kernelpagesize_kB": 4, "mapmax": 3})
    result = held([told, TWO])
    assert not result.wrong
    assert [it.field for its in result.unvouched for it in its] == ["mapmax"]


@pytest.mark.parametrize(
    ("later", "what"),
    [
        (replace(ONE, nodes={0: 5}), "pages"),
        (replace(ONE, policy="bind:0"), "policy"),
        (replace(ONE, fields={"kernelpagesize_kB": 4, "dirty": 1}), "dirty"),
        (replace(ONE, name=b"heap"), "name"),
    ],
)
def test_what_changed_between_our_two_looks_is_not_compared(later: Area, what: str) -> None:
    result = held([replace(ONE, nodes={0: 1}), TWO], after=(later, TWO))
    assert [(it.area.key, it.what) for it in result.unstable] == [(ONE.key, what)]
    assert result.equal == [TWO]
    assert not result.wrong


def test_what_an_event_named_is_not_compared_though_both_looks_show_the_same() -> None:
    result = held([replace(ONE, nodes={0: 1}), TWO], changing="pages")
    assert [(it.area.key, it.what) for it in result.unstable] == [(ONE.key, "pages")]
    assert not result.wrong


def test_pages_are_compared_while_other_areas_come_and_go() -> None:
    new = Area(0x30000, 0x40000, "default", b"", {}, {})
    result = held([replace(ONE, nodes={0: 4}), TWO, new], list_changed=True)
    assert [it[0] for it in fields(result)] == ["N0", "N1"]
    assert [(it.area.key, it.what) for it in result.unstable] == [(new.key, "the list of memory areas")]


def test_an_area_that_came_between_our_looks_is_changing() -> None:
    result = held([ONE, TWO], before=(ONE,))
    assert [(it.area.key, it.what) for it in result.unstable] == [(TWO.key, "the list of memory areas")]


def test_an_area_that_neither_look_shows_is_none_of_ours() -> None:
    result = held([ONE], before=(ONE,), after=(ONE,))
    assert result.equal == [ONE]
    assert not result.unstable


def test_sums_of_a_comparison() -> None:
    wrong = tuple(it for its in held([replace(ONE, nodes={0: 9}), TWO]).wrong for it in its)
    shot = snapshot([vma()], [(1, 2)])
    target = TargetComparison(shot, (TWO,), wrong, ())
    assert (target.vmas, target.nodes) == (2, {0: 9, 1: 7})
    both = Comparison(shot.time, (target, replace(target, wrong=())), 1, 0.5)
    assert (both.vmas, both.nodes, both.wrong, both.complete) == (3, {0: 9, 1: 14}, True, True)


def test_nothing_at_all_is_not_complete() -> None:
    assert not Comparison(snapshot().time, (), 1, 0.5).complete


def test_our_account_is_what_maps_prints() -> None:
    areas = [
        vma(0x400000, 16, Policy(Mode.PREFERRED_MANY, 0, (0, 1)), Kind.FILE, b"/a b=c"),
        vma(0x600000, 4, kind=Kind.HEAP, path=b"[heap]"),
        vma(0x7F0000000000, 1024, hugetlb=True, page_kb=2048),
        vma(0x7F1000000000, 1),
    ]
    shown = our_areas(snapshot(areas, [(5, 6), (0, 4), (1, 1), (0, 0)]), full=False)
    assert [(it.start, it.end) for it in shown] == [(it.start, it.end) for it in areas]
    assert [it.policy for it in shown] == ["prefer (many):0-1", "default", "default", "default"]
    assert [it.name for it in shown] == [rb"file=/a\040b\075c", b"heap", b"huge", b""]
    assert [it.path for it in shown] == [b"/a b=c", b"[heap]", b"", b""]
    assert [it.nodes for it in shown] == [{0: 5, 1: 6}, {1: 4}, {0: 1, 1: 1}, {}]
    assert [it.fields for it in shown] == [{"kernelpagesize_kB": 4}] * 2 + [{"kernelpagesize_kB": 2048}, {}]
