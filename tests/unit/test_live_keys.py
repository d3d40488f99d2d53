"""Every key of the live view, on a running app without a terminal."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from textual.events import MouseScrollDown, MouseScrollUp

from tests.unit.live_fakes import HEAP, NODES, Stage, areas, at, play, process
from tests.unit.snapshots import snapshot, vma
from tracer.live.keys import LIVE_KEYS, REPLAY_KEYS, help_lines
from tracer.live.main_screen import MainScreen
from tracer.live.rows import Column, Hidden

ORDER = ["/usr/bin/p", "[heap]", "[anon:shar", "/dev/hugep", "/usr/lib/x", "", "[stack]"]


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def names(stage: Stage) -> list[str]:
    """The names of the rows on the screen, cut."""
    table = stage.app.main.table
    return [table._rows.vma(row).path.decode()[:10] for row in table._order.tolist()]


def selected(stage: Stage) -> int:
    key = stage.app.main.table.selected()
    assert key is not None
    return key[1]


def reversed_rows(stage: Stage) -> list[str]:
    """Lines of the table that the cursor marks."""
    strips = stage.app.screen._compositor.render_strips()
    top = stage.app.main.table.region.y + 1
    return [strip.text for strip in strips[top:-1] if any(part.style and part.style.reverse for part in strip)]


# The tables of keys


@pytest.mark.parametrize("keys", [LIVE_KEYS, REPLAY_KEYS], ids=["live", "replay"])
def test_each_key_does_one_thing_that_exists(keys: tuple[object, ...]) -> None:
    names = [name for key in LIVE_KEYS if keys is LIVE_KEYS for name in key.keys]
    names += [name for key in REPLAY_KEYS if keys is REPLAY_KEYS for name in key.keys]
    assert len(names) == len(set(names))
    for key in LIVE_KEYS + REPLAY_KEYS:
        assert callable(getattr(MainScreen, f"do_{key.action.split()[0]}"))


def test_help_names_every_key_and_what_the_columns_mean() -> None:
    text = "\n".join(help_lines(LIVE_KEYS))
    for word in ("F1", "F3", "F4", "F5", "F6", "F10", "Space", "PgDn", "CHANGE", "unexplained", "settling", "lost"):
        assert word in text
    assert all(len(line) <= 125 for line in help_lines(LIVE_KEYS))


@pytest.mark.parametrize("key", ["f1", "question_mark"])
def test_help(key: str) -> None:
    async def scene(stage: Stage) -> None:
        await stage.press(key)
        assert "any other key goes back" in stage.text
        await stage.press("pagedown", "down", "up", "pageup")
        assert "any other key goes back" in stage.text
        await stage.press("q")
        assert "[heap]" in stage.text
        assert stage.app.is_running, "q leaves the help, not the program"

    play(scene)


@pytest.mark.parametrize("key", ["q", "f10", "ctrl+c"])
def test_quit(key: str) -> None:
    async def scene(stage: Stage) -> None:
        await stage.press(key)
        assert stage.app._exit

    play(scene)


@pytest.mark.parametrize("opener", ["f1", "f6", "slash", "f", "enter"])
def test_ctrl_c_quits_from_everywhere(opener: str) -> None:
    async def scene(stage: Stage) -> None:
        await stage.press(opener, "ctrl+c")
        assert stage.app._exit

    play(scene)


# Moving


def test_the_cursor() -> None:
    async def scene(stage: Stage) -> None:
        starts = [area.start for area in areas()]
        for key, position in [("down", 1), ("j", 2), ("up", 1), ("k", 0), ("up", 0), ("end", 6), ("down", 6)]:
            await stage.press(key)
            assert selected(stage) == starts[position], key
        await stage.press("home")
        assert selected(stage) == starts[0]
        assert len(reversed_rows(stage)) == 1

    play(scene)


def test_pages_of_a_long_list() -> None:
    async def scene(stage: Stage) -> None:
        height = stage.app.main.table.size.height - 1
        await stage.press("pagedown")
        assert selected(stage) == 4096 * 100 * height
        assert f"{4096 * 100 * height:012x}" in stage.text
        await stage.press("pagedown", "pageup", "pageup")
        assert selected(stage) == 0
        await stage.press("end")
        assert selected(stage) == 4096 * 100 * 299
        assert f"{4096 * 100 * 299:012x}" in stage.text
        assert len(reversed_rows(stage)) == 1

    vmas = [vma(4096 * 100 * number, 4) for number in range(300)]
    play(scene, first=at(0, snapshot(vmas, [(1, 0, 0, 0)] * 300, NODES)))


def test_the_cursor_stays_on_its_vma_when_others_come_and_go() -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("down")
        assert selected(stage) == HEAP
        more = [vma(4096 * number, 1) for number in range(1, 30)] + areas()
        counts = [(1, 0, 0, 0)] * len(more)
        await stage.feed(at(1, snapshot(more, counts, NODES, pid=4711)))
        assert selected(stage) == HEAP
        assert "[heap]" in reversed_rows(stage)[0]
        await stage.feed(at(2, snapshot(areas()[2:], counts[:5], NODES, pid=4711)))
        assert len(reversed_rows(stage)) == 1, "it is gone: the cursor is on another row"

    play(scene)


def test_wheel_and_click() -> None:
    async def scene(stage: Stage) -> None:
        table = stage.app.main.table
        await stage.pilot.click(table, offset=(3, 3))
        assert selected(stage) == areas()[2].start
        for wheel, row in [(MouseScrollDown, 5), (MouseScrollUp, 2)]:
            table.post_message(wheel(table, 3, 3, 0, 0, 0, False, False, False))
            await stage.pilot.pause()
            assert selected(stage) == areas()[row].start
        await stage.pilot.click(table, offset=(45, 0))
        assert table.layout_of_rows.sort is Column.PAGES
        await stage.pilot.click(table, offset=(45, 0))
        assert table.layout_of_rows.inverted
        await stage.pilot.click(stage.app.main.footer, offset=(2, 0))
        assert "any other key goes back" in stage.text

    play(scene)


# Sorting and filtering


@pytest.mark.parametrize(
    ("column", "first", "last"),
    [
        (Column.ADDRESS, "/usr/bin/p", "[stack]"),
        (Column.NAME, "", "[stack]"),
        (Column.SIZE, "[anon:shar", ""),
        (Column.PAGES, "[anon:shar", ""),
        (Column.NODES, "[anon:shar", "[stack]"),
        (Column.CHANGE, "[heap]", "[stack]"),
        (Column.FAULTS, "[heap]", "[stack]"),
        (Column.MOVES, "[anon:shar", "[stack]"),
        (Column.POLICY, "/dev/hugep", "[anon:shar"),
    ],
    ids=lambda value: value.name if isinstance(value, Column) else "",
)
def test_sort_by_each_column(column: Column, first: str, last: str) -> None:
    async def scene(stage: Stage) -> None:
        await stage.feed(at(1))
        for _ in range(len(Column)):
            if stage.app.main.table.layout_of_rows.sort is column:
                break
            await stage.press("greater_than_sign")
        assert stage.app.main.table.layout_of_rows.sort is column
        order = names(stage)
        assert (order[0], order[-1]) == (first, last)
        assert column.value + "▼" in stage.text or column.value + "▲" in stage.text
        await stage.press("I")
        assert names(stage) == order[::-1]

    play(scene)


def test_sort_backwards_through_the_columns() -> None:
    async def scene(stage: Stage) -> None:
        for key, column in [("less_than_sign", Column.MOVES), ("greater_than_sign", Column.ADDRESS)]:
            await stage.press(key)
            assert stage.app.main.table.layout_of_rows.sort is column

    play(scene)


def test_the_menu_of_columns() -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("f6", "down", "enter")
        assert stage.app.main.table.layout_of_rows.sort is Column.NAME
        assert names(stage)[0] == ""
        await stage.press("f6", "down", "down", "escape")
        assert stage.app.main.table.layout_of_rows.sort is Column.NAME

    play(scene)


@pytest.mark.parametrize("key", ["f4", "backslash"])
def test_filter_while_it_is_typed(key: str) -> None:
    async def scene(stage: Stage) -> None:
        await stage.press(key, *"LIBC")
        assert names(stage) == ["/usr/lib/x"]
        await stage.press("enter")
        assert "1 of 7 VMAs" in stage.text
        await stage.press(key, *["backspace"] * 4, *"interleave", "enter")
        assert names(stage) == ["[anon:shar"]
        await stage.press(key, "ctrl+u", *"7f3cc", "enter")
        assert names(stage) == ["/usr/lib/x", ""]
        await stage.press(key, "x", "escape")
        assert names(stage) == ["/usr/lib/x", ""], "Escape leaves the filter as it was"
        await stage.press("escape")
        assert names(stage) == ORDER

    play(scene)


@pytest.mark.parametrize("key", ["f3", "slash"])
def test_search(key: str) -> None:
    async def scene(stage: Stage) -> None:
        await stage.press(key, *"/usr")
        assert selected(stage) == areas()[0].start
        await stage.press("f3")
        assert selected(stage) == areas()[4].start
        await stage.press("f3")
        assert selected(stage) == areas()[0].start, "after the last one comes the first"
        await stage.press("enter", "n")
        assert selected(stage) == areas()[4].start
        await stage.press(key, "ctrl+u", *"zebra")
        assert "no row with zebra" in stage.text
        assert selected(stage) == areas()[4].start
        assert names(stage) == ORDER, "a search hides nothing"

    play(scene)


def test_hide() -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("h")
        assert names(stage) == [name for name in ORDER if name]
        assert Hidden.EMPTY.value in stage.text
        assert "6 of 7 VMAs" in stage.text
        await stage.press("h")
        assert names(stage) == ["[heap]", "[anon:shar", "/dev/hugep", "/usr/lib/x"]
        await stage.press("h")
        assert names(stage) == ORDER

    play(scene)


def test_units() -> None:
    async def scene(stage: Stage) -> None:
        await stage.feed(at(1))
        for heading, heap, change in [
            ("PAGES", "1511", "+10"),
            ("BYTES", "5.9M", "+40.0K"),
            ("SHARE", "0.6%", "+0.0%"),
        ]:
            assert heading in stage.text
            assert f" {heap} " in stage.line("[heap]")
            assert f" {change} " in stage.line("[heap]")
            await stage.press("u")
        assert "PAGES" in stage.text

    play(scene)


# Processes


def test_tree() -> None:
    shots = (process(), snapshot(areas()[:2], [(1, 0, 0, 0)] * 2, NODES, pid=5, comm=b"other"))

    async def scene(stage: Stage) -> None:
        assert "PID" in stage.text
        await stage.press("t")
        assert "- 4711" in stage.text
        assert "- 5 " in stage.text
        await stage.press("enter")
        assert "+ 4711" in stage.text
        assert "[stack]" not in stage.text
        await stage.press("down", "minus")
        assert "+ 5 " in stage.text
        await stage.press("plus")
        assert "- 5 " in stage.text
        await stage.press("slash", *"other", "enter")
        assert "- 5 " in reversed_rows(stage)[0]
        await stage.press("f5")
        assert "- 5 " not in stage.text

    play(scene, first=at(0, *shots))


def test_a_filter_that_names_a_process_keeps_all_of_it() -> None:
    shots = (process(), snapshot(areas()[:2], [(1, 0, 0, 0)] * 2, NODES, pid=5, comm=b"other"))

    async def scene(stage: Stage) -> None:
        await stage.press("backslash", *"other", "enter")
        assert len(names(stage)) == 2

    play(scene, first=at(0, *shots))


# Time


@pytest.mark.parametrize("key", ["space", "p"])
def test_pause(key: str) -> None:
    async def scene(stage: Stage) -> None:
        await stage.press(key)
        assert "paused" in stage.text
        await stage.feed(at(1), at(2))
        stage.app.redraw()
        await stage.pilot.pause()
        assert "1501" in stage.line("[heap]")
        assert "paused 2 back" in stage.text
        await stage.press(key)
        assert "1521" in stage.line("[heap]")
        assert "paused" not in stage.text

    play(scene)


def test_step_in_time() -> None:
    async def scene(stage: Stage) -> None:
        await stage.feed(*(at(second) for second in range(1, 100)))
        for key, second in [
            ("left_square_bracket", 98),
            ("left", 97),
            ("shift+left", 87),
            ("ctrl+left", 27),
            ("shift+right", 37),
            ("ctrl+right", 97),
            ("right", 98),
            ("right_square_bracket", 99),
            ("right", 99),
        ]:
            await stage.press(key)
            assert f"12:0{second // 60}:{second % 60:02}" in stage.text, key
            assert str(1501 + 10 * second) in stage.line("[heap]")
        await stage.press(*["ctrl+left"] * 3)
        assert "12:00:00" in stage.text

    play(scene)


def test_stepping_works_on_the_other_screens_too() -> None:
    async def scene(stage: Stage) -> None:
        await stage.feed(at(1), at(2))
        await stage.press("down", "enter")
        assert "[heap]" not in stage.text.splitlines()[-1]
        await stage.press("left_square_bracket")
        assert stage.app.history.current.time == at(1).time
        await stage.press("escape")
        assert "1511" in stage.line("[heap]")

    play(scene)


# Other screens


def test_enter_looks_into_a_vma_and_f_shows_flows() -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("down", "enter")
        assert f"{HEAP:x}" in stage.text
        assert stage.app.screen is not stage.app.main
        await stage.press("q")
        assert stage.app.screen is stage.app.main
        await stage.feed(at(1))
        await stage.press("f")
        assert "numa_misplaced" in stage.text
        await stage.press("q")
        assert stage.app.screen is stage.app.main
        assert stage.app.is_running

    play(scene)


def test_enter_on_nothing() -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("enter", "t", "enter", "n", "plus", "I", "end", "pagedown")
        assert stage.app.is_running

    play(scene, first=replace(at(0), snapshots=()), keep_last=False)
