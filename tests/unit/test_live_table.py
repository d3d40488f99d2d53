"""The table with very many VMAs, the columns of numbers behind it, and what it draws."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.geometry import Region

from tests.unit.live_fakes import NODES, PAGES, Stage, areas, at, play, process
from tests.unit.snapshots import faults, flows, sample, snapshot, vma
from tracer.live.bars import bar, cells_of
from tracer.live.columns import widths
from tracer.live.figures import amount, bytes_text, count_text, fit, fit_end, rate_text
from tracer.live.history import Unit
from tracer.live.rows import Column, Hidden, Layout, Listings, Rows, order, rows_of
from tracer.live.source import Tick
from tracer.live.table import VmaTable
from tracer.model.sample import Sample
from tracer.model.vma import Vma

MANY = 100_000


def many() -> tuple[tuple[Vma, ...], np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    vmas = tuple(
        vma(0x7F0000000000 + number * 0x10000, 8, path=b"/lib/x%d" % (number % 5000)) for number in range(MANY)
    )
    return vmas, np.random.default_rng(1).integers(0, 5, (MANY, 4))


def rows(now: Sample, before: Sample | None = None, seconds: float = 1.0) -> Rows:
    return rows_of(now, before, seconds, Listings())


# Very many VMAs


def test_a_hundred_thousand_vmas(capsys: pytest.CaptureFixture[str]) -> None:
    vmas, pages = many()
    base = snapshot(vmas[:1], [(1, 0, 0, 0)], NODES)

    def shot(number: int) -> Sample:
        more = pages.copy()
        more[number] += 1
        return at(number, replace(base, vmas=vmas, pages=more))

    figures: dict[str, float] = {}

    async def scene(stage: Stage) -> None:
        table = stage.app.main.table
        height = table.size.height

        def measured(what: str, began: float, drawn: int) -> None:
            figures[what] = 1000 * (time.perf_counter() - began)
            # However many there are, only what is on the screen is drawn.
            assert 0 < table.lines_drawn - drawn <= height, what

        for number in (1, 2):
            stage.app.history.arrive(Tick(shot(number), 1.0))
            drawn, began = table.lines_drawn, time.perf_counter()
            stage.app.history.take_in()
            stage.app.redraw()
            measured("refresh", began, drawn)
        for what, act in (
            ("scroll by a line", lambda: table.move(1)),
            ("scroll by a screen", lambda: table.page(1)),
            ("to the end", lambda: table.to_end(True)),
            ("sort by pages", lambda: table.sort_by(Column.PAGES)),
            ("sort by name", lambda: table.sort_by(Column.NAME)),
            ("filter", lambda: table.set_layout(replace(table.layout_of_rows, needle="x12"))),
            ("search", lambda: table.search("x1234", False)),
        ):
            drawn, began = table.lines_drawn, time.perf_counter()
            act()
            measured(what, began, drawn)
        assert "2220 of 100000 VMAs" in table.count_text()
        await stage.pilot.pause()
        assert "/lib/x1234" in stage.text

    play(scene, first=shot(0))
    with capsys.disabled():
        print("\n100,000 VMAs, ms:", ", ".join(f"{what} {value:.0f}" for what, value in figures.items()))


def test_nothing_is_drawn_or_computed_when_nothing_changes() -> None:
    quiet = replace(process(), flows=flows(), faults=faults())

    async def scene(stage: Stage) -> None:
        table = stage.app.main.table
        await stage.feed(at(1, quiet), at(2, quiet))
        before = table._rows
        refreshed = []

        def refresh(*regions: Region, **more: object) -> VmaTable:
            refreshed.append(regions)
            return table

        table.refresh = refresh  # type: ignore[method-assign]
        await stage.feed(at(3, quiet))
        assert table._rows is before
        assert not refreshed
        await stage.feed(at(4, process(4)))
        assert table._rows is not before
        assert refreshed

    play(scene, first=at(0, quiet))


# Columns of numbers


def test_changes_are_by_start() -> None:
    before = at(0, snapshot(areas()[:3], PAGES[:3], NODES))
    pages = np.array(PAGES[1:4]) + 1
    now = at(1, snapshot(areas()[1:4], pages.tolist(), NODES))
    table = rows(now, before)
    assert table.change.tolist() == [4, 4, 6], "the last one is new"
    assert table.has_change.all()
    assert not rows(now).has_change.any()
    assert not rows(now).change.any()


def test_changes_after_an_exec_or_of_no_vma() -> None:
    empty = at(0, snapshot(node_ids=NODES))
    full = at(1, snapshot(areas()[:1], PAGES[:1], NODES))
    assert rows(full, empty).change.tolist() == [40]
    assert rows(empty, full).change.tolist() == []


def test_rates() -> None:
    shot = snapshot(
        areas()[:2],
        PAGES[:2],
        NODES,
        faults=faults([(0, 0, 0, 0, 0, 6), (0, 1, 0, 0, 0, 4), (-1, 0, 0, 0, 0, 99)]),
        flows=flows([(1, 0, 1, 0, 8, 3)]),
    )
    table = rows(at(1, shot), seconds=2.0)
    assert table.faults.tolist() == [5.0, 0.0]
    assert table.moved.tolist() == [0.0, 4.0]
    assert np.isnan(rows(at(1, shot), seconds=0.0).faults).all()
    assert np.isnan(rows(at(1, replace(shot, flows=None))).moved).all()


def test_huge_pages_weigh_what_they_are() -> None:
    table = rows(at(0))
    assert table.kib[3] == 2 * 2048
    assert table.pages[3] == 2


def test_addresses_of_the_upper_half() -> None:
    top = 0xFFFFFFFFFF600000
    table = rows(sample(snapshot([vma(top, 1)], [(0, 0)])))
    assert int(table.start[0]) == top
    assert table.find(42, top) == 0
    assert table.find(42, top - 4096) is None
    assert table.find(41, top) is None


def test_find_among_several() -> None:
    shots = [process(pid=5), process(pid=9)]
    table = rows(at(0, *shots))
    for pid, offset in ((5, 0), (9, 7)):
        for number, area in enumerate(areas()):
            row = table.find(pid, area.start)
            assert row == offset + number
            assert table.place(row) == (offset // 7, number)
            assert table.vma(row) is shots[offset // 7].vmas[number]


def test_order_in_a_tree_sorts_within_each_process() -> None:
    table = rows(at(0, process(pid=5), process(pid=9)))
    layout = Layout(Column.PAGES, tree=True, hidden=Hidden.SMALL)
    expected = [-1, 2, 1, 3, 4, -2, 9, 8, 10, 11]
    assert sorted(order(table, layout, Listings()).tolist()) == sorted(expected)
    places = order(table, layout, Listings()).tolist()
    kib = [int(table.kib[row]) for row in places[1:5]]
    assert kib == sorted(kib, reverse=True)
    folded = order(table, replace(layout, folded=frozenset({5})), Listings()).tolist()
    assert folded[:2] == [-1, -2]


@given(st.sampled_from(list(Column)), st.booleans(), st.sampled_from(list(Hidden)), st.booleans())
def test_order_loses_no_row(column: Column, inverted: bool, hidden: Hidden, tree: bool) -> None:
    table = rows(at(1), at(0))
    shown = order(table, Layout(column, inverted, hidden=hidden, tree=tree), Listings())
    least = {Hidden.NOTHING: 0, Hidden.EMPTY: 1, Hidden.SMALL: 1024}[hidden]
    assert sorted(row for row in shown.tolist() if row >= 0) == [
        row for row in range(len(table)) if table.kib[row] >= least
    ]


# Cells


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=8), st.integers(0, 60))
def test_bars_are_full_and_show_every_node(counts: list[int], cells: int) -> None:
    given_cells = cells_of(counts, cells)
    assert sum(given_cells) == (cells if sum(counts) else 0)
    assert all(count >= 0 for count in given_cells)
    populated = [index for index, count in enumerate(counts) if count]
    if len(populated) <= cells:
        assert all(given_cells[index] >= 1 for index in populated)
    assert all(given_cells[index] == 0 for index, count in enumerate(counts) if not count)
    assert sum(len(segment.text) for segment in bar(range(len(counts)), counts, cells, False)) == cells


def test_bars_are_proportional() -> None:
    assert cells_of((50, 25, 25, 0), 8) == [4, 2, 2, 0]
    assert cells_of((1_000_000, 1), 10) == [9, 1]


@given(st.integers(1, 400), st.booleans(), st.booleans())
def test_columns_fill_the_line(total: int, several: bool, tree: bool) -> None:
    columns = widths(total, several, tree)
    assert sum(width for _, width in columns) + len(columns) - 1 == total
    assert columns[0][0] in (Column.ADDRESS, Column.PID)
    assert [column for column, _ in columns] == [column for column in Column if column in dict(columns)]


@given(st.text(max_size=30), st.integers(0, 20))
def test_names_fill_their_cells(text: str, width: int) -> None:
    from rich.cells import cell_len

    for cut in (fit, fit_end):
        assert cell_len(cut(text, width)) == width


def test_a_path_keeps_its_end_and_a_name_its_beginning() -> None:
    assert fit_end("/usr/lib/libc.so.6", 10) == "…libc.so.6"
    assert fit("[anon:something long]", 10) == "[anon:som…"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0K"),
        (-40960, "-40.0K"),
        (8 << 20, "8.0M"),
        (1 << 60, "1.0E"),
        (1 << 40, "1.0T"),
    ],
)
def test_bytes(number: int, text: str) -> None:
    assert bytes_text(number) == text


@given(st.integers(-(2**62), 2**62))
def test_figures_are_short(number: int) -> None:
    assert len(bytes_text(number)) <= 7
    assert len(count_text(abs(number))) <= 7
    assert len(rate_text(abs(number))) <= 6


def test_amounts() -> None:
    assert amount(512, 2048, 4096, Unit.PAGES) == "512"
    assert amount(512, 2048, 4096, Unit.BYTES) == "2.0M"
    assert amount(512, 2048, 4096, Unit.PERCENT) == "50.0%"
    assert amount(0, 0, 0, Unit.PERCENT) == "0.0%"
    assert [rate_text(value) for value in (0.0, 0.01, 0.5, 12.4, 123456.0)] == ["", "<0.1", "0.5", "12", "123K"]
