"""The live view as its user sees it: screens as text, at several sizes, in colour and without."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.unit.live_fakes import NODES, PAGES, HandSource, Stage, areas, at, play, process, screen_text
from tests.unit.live_golden import check
from tests.unit.snapshots import sample, snapshot, vma
from tracer.errors import NumatraceError
from tracer.live.app import NumatraceApp
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot, Trust
from tracer.model.vma import Kind
from tracer.render.palette import node_colour, node_letter

SIZES = [(80, 24), (120, 40)]


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def letters(app: NumatraceApp) -> str:
    """The screen, with each coloured cell of a bar as the letter of the node that has this colour."""
    by_colour = {node_colour(node): node_letter(node) for node in NODES}
    text = ""
    for strip in app.screen._compositor.render_strips():
        line = ""
        for segment in strip:
            colour = segment.style.color.name if segment.style and segment.style.color else ""
            letter = by_colour.get(colour)
            line += segment.text.replace("█", letter) if letter else segment.text
        text += line.rstrip() + "\n"
    return text


def colours(app: NumatraceApp) -> set[str]:
    """All colours on the screen but the terminal's own."""
    styles = [segment.style for strip in app.screen._compositor.render_strips() for segment in strip if segment.style]
    found = [colour for style in styles for colour in (style.color, style.bgcolor)]
    return {colour.name for colour in found if colour is not None and not colour.is_default}


# Layout


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "plain"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_one_target(size: tuple[int, int], colour: bool) -> None:
    async def scene(stage: Stage) -> None:
        await stage.feed(at(1), at(2))
        check(stage.app, f"target-{size[0]}x{size[1]}-{'colour' if colour else 'plain'}")

    play(scene, size, colour=colour)


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "plain"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_tree_of_targets(size: tuple[int, int], colour: bool) -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("t")
        check(stage.app, f"tree-{size[0]}x{size[1]}-{'colour' if colour else 'plain'}")

    play(scene, size, colour=colour, first=family())


def family() -> Sample:
    """Three processes, one of them in a container and one without memory."""
    worker = snapshot(areas()[:2], PAGES[:2], NODES, pid=4712, namespace_pid=7, comm=b"worker")
    return at(0, process(), worker, snapshot(node_ids=NODES, pid=4713, comm=b"idle"))


def test_colours_and_letters_say_the_same() -> None:
    screens = {}

    async def scene(stage: Stage) -> None:
        screens[stage.app.history.colour] = letters(stage.app)

    for colour in (True, False):
        play(scene, colour=colour)
    assert screens[True] == screens[False]
    assert "000000" in screens[True]


def test_without_colour_there_is_none() -> None:
    async def scene(stage: Stage) -> None:
        assert colours(stage.app) == set()
        await stage.press("f1")
        assert colours(stage.app) == set()

    doubtful = at(0, process(trust=Trust(lost=1)))
    play(scene, colour=False, first=doubtful)

    async def colourful(stage: Stage) -> None:
        assert {node_colour(node) for node in NODES} <= colours(stage.app)

    play(colourful, first=doubtful)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (12, 5), (20, 6), (40, 10), (60, 15), (300, 100)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    async def scene(stage: Stage) -> None:
        for keys in (
            ["down", "pagedown", "end", "home"],
            ["t", "down"],
            ["t", "f1", "escape"],
            ["f6", "escape"],
            ["u"],
        ):
            await stage.press(*keys)
            lines = stage.text.splitlines()
            assert len(lines) == size[1]
            assert max(map(len, lines)) <= size[0]

    play(scene, size)


def test_resize() -> None:
    async def scene(stage: Stage) -> None:
        for size in ((120, 40), (40, 10), (8, 4), (80, 24)):
            await stage.pilot.resize_terminal(*size)
            await stage.pilot.pause()
            lines = stage.text.splitlines()
            assert len(lines) == size[1]
            # The bar of keys, and above it the last rows that there is room for.
            assert lines[-1].startswith("F1Help"[: size[0]])
        check(stage.app, "resized-80x24")

    play(scene, (80, 24), first=at(0))


def test_narrow_screens_drop_columns_one_by_one() -> None:
    async def scene(stage: Stage) -> None:
        seen = []
        for width in range(80, 20, -4):
            await stage.pilot.resize_terminal(width, 24)
            await stage.pilot.pause()
            seen.append(stage.line("ADDRESS").split())
        assert seen[0] == ["ADDRESS▲", "NAME", "POLICY", "SIZE", "PAGES", "NODES", "CHANGE", "FLT/s", "MOV/s"]
        for wide, narrow in pairwise(seen):
            assert set(narrow) <= set(wide)
        assert seen[-1] == ["ADDRESS▲"]
        last_with_nodes = [columns for columns in seen if "NODES" in columns][-1]
        assert "NAME" in last_with_nodes
        assert "POLICY" not in last_with_nodes

    play(scene)


def test_more_nodes_than_there_is_room_for() -> None:
    nodes = tuple(range(0, 128, 2))
    shot = snapshot([vma()], [[10] * 64], nodes, comm=b"wide")

    async def scene(stage: Stage) -> None:
        text = stage.text
        assert "N0[" in text
        assert "57 more[" in text
        assert "570" in stage.line("57 more")
        assert "ADDRESS" in text

    play(scene, first=sample(shot))


# Head


def test_totals_are_pages_as_numa_maps_counts_them() -> None:
    async def scene(stage: Stage) -> None:
        totals = np.array(PAGES).sum(axis=0).tolist()
        for node, total in enumerate(totals):
            assert f" {total} " in stage.text.split(f"N{node}[")[1]
        await stage.press("u")
        # 66,076 pages of 4 KiB, and 2 of 2 MiB.
        assert totals[0] - 2 == 67076
        assert "266M" in stage.line("N0[")
        await stage.press("u")
        assert "25.7%" in stage.line("N0[")
        assert str(totals[0]) not in stage.line("N0[")

    play(scene)


@pytest.mark.parametrize("field", ["lost", "settling", "unexplained", "drift"])
def test_doubts_are_highlighted(field: str) -> None:
    async def scene(stage: Stage) -> None:
        strips = stage.app.screen._compositor.render_strips()
        marked = {
            segment.text
            for strip in strips[:6]
            for segment in strip
            if segment.style and segment.style.bgcolor and not segment.style.bgcolor.is_default
        }
        assert marked == {f"{field} 7"}

    play(scene, first=at(0, process(trust=Trust(**{field: 7}))))


def test_an_old_count_is_highlighted_and_a_fresh_one_is_not() -> None:
    async def scene(stage: Stage) -> None:
        assert "oldest 93.0 s" in stage.text
        assert "#e69f00" in colours(stage.app)

    play(scene, first=at(0, process(trust=Trust(oldest_read_s=93.0))))


def test_processes_for_which_there_was_no_room() -> None:
    async def scene(stage: Stage) -> None:
        assert "untraced 3" in stage.text

    play(scene, first=at(0, process(), untraced=3))


def test_a_process_in_a_container_has_both_pids() -> None:
    async def scene(stage: Stage) -> None:
        assert "4711 postgres (7 in its namespace)" in stage.text

    play(scene, first=at(0, replace(process(), namespace_pid=7)))


def test_nobody_there_yet() -> None:
    async def scene(stage: Stage) -> None:
        assert "name post*: nobody there" in stage.text
        await stage.feed(at(1))
        assert "4711 postgres" in stage.text

    play(scene, source=HandSource("name post*"), first=sample(node_ids=NODES), keep_last=False)


# Foreign names


HOSTILE = (
    b"\x1b[2J\x1b]0;owned\x07",
    b"[red]x[/red] [@click=app.quit]y[/]",
    b"a\nb\tc\rd",
    b"\xff\xfe\x9b31m",
    "\u202eevil \u200b".encode(),
    "\u6f22\u5b57".encode() * 20,
    b"%s {0} {evil!r}",
)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("size", [(80, 24), (31, 12)])
def test_hostile_names_only_show(name: bytes, size: tuple[int, int]) -> None:
    async def scene(stage: Stage) -> None:
        for keys in ([], ["t"], ["slash", *"zz", "enter"], ["backslash", *"7f", "enter"], ["u", "f6"]):
            await stage.press(*keys)
            text = stage.text
            assert all(character.isprintable() for character in text.replace("\n", ""))
            assert len(text.splitlines()) == size[1]
            for strip in stage.app.screen._compositor.render_strips():
                assert strip.cell_length == size[0]
                assert not any(segment.style and segment.style.meta for segment in strip if "x" in segment.text)
        assert "red" not in colours(stage.app)

    shots = [
        snapshot([vma(kind=Kind.FILE, path=b"/" + name)], [(1, 2, 3, 4)], NODES, pid=pid, comm=name[:15])
        for pid in (5, 6)
    ]
    play(scene, size, source=HandSource(name.decode("utf-8", "surrogateescape")), first=at(0, *shots))


def test_markup_is_shown_as_it_is() -> None:
    async def scene(stage: Stage) -> None:
        assert "[red]x[/red]" in stage.text

    play(scene, (120, 24), first=at(0, snapshot([vma(path=b"[red]x[/red]")], [(1, 0, 0, 0)], NODES)))


# Ends


def test_a_target_that_exits_stays_as_it_was() -> None:
    async def scene(stage: Stage) -> None:
        await stage.feed(at(1))
        before = stage.line("[heap]")[:55]
        last = replace(process(1), flows=None, faults=None)
        await stage.feed(sample(node_ids=NODES, time=at(2).time, ended=(last,)))
        stage.source.finish()
        await stage.until(lambda: "exited with code 3" in stage.text)
        assert stage.line("[heap]")[:55] == before
        assert "4711 postgres (exited)" in stage.text
        check(stage.app, "exited-80x24")
        await stage.press("down", "t", "left_square_bracket")
        assert "4711 postgres  " in stage.text, "one step back it still ran"

    play(scene, source=HandSource(words="exited with code 3"))


def test_a_target_that_was_gone_before_it_was_looked_at_shows_its_last_state() -> None:
    async def scene(stage: Stage) -> None:
        gone: Snapshot = replace(process(), vmas=(), pages=np.zeros((0, 4), np.int64))
        await stage.feed(sample(node_ids=NODES, time=at(1).time, ended=(gone,)))
        assert "[heap]" in stage.text
        assert "(exited)" in stage.text

    play(scene)


def test_of_a_name_only_those_who_live_are_shown() -> None:
    async def scene(stage: Stage) -> None:
        await stage.feed(sample(node_ids=NODES, time=at(1).time, ended=(process(),)))
        assert "nobody there" in stage.text
        assert "[heap]" not in stage.text

    play(scene, keep_last=False)


def test_an_error_while_it_runs_is_shown_and_kept() -> None:
    async def scene(stage: Stage) -> None:
        stage.source.fail(NumatraceError("the kernel\x1b[2J said no", "ask it again"))
        await stage.until(lambda: "ended by an error" in stage.text)
        assert r"the kernel\033[2J said no; ask it again" in stage.text
        assert "[heap]" in stage.text
        assert stage.app.error is not None

    play(scene)


def test_notes_are_shown_until_a_key_is_pressed() -> None:
    async def scene(stage: Stage) -> None:
        stage.app.main.footer.say("children are not followed here")
        await stage.pilot.pause()
        assert stage.text.splitlines()[-1] == "children are not followed here"
        await stage.press("down")
        assert stage.text.splitlines()[-1].startswith("F1Help")

    play(scene)


def test_screen_text_is_the_size_of_the_screen() -> None:
    async def scene(stage: Stage) -> None:
        assert len(screen_text(stage.app).splitlines()) == 24

    play(scene)
