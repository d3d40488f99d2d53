"""The screen about one VMA: what it says of policy, shares, regions, flows and first touch, and how one moves in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rich.segment import Segment
from rich.style import Style

from tests.unit import drill_views as views
from tests.unit import snapshots as fake
from tests.unit.drill_views import HEAP, INTERLEAVED, NODES, REGION, START, Hand
from tracer.live.drill import VmaScreen
from tracer.live.history import Unit
from tracer.live.sheet import Ink, Line, text_of
from tracer.live.strip import Frame, View, draw
from tracer.live.subject import Subject
from tracer.model.policy import F_NUMA_BALANCING, F_RELATIVE_NODES, F_STATIC_NODES, Mode, Policy
from tracer.model.sample import Sample
from tracer.model.snapshot import Regions
from tracer.render.palette import MIXED, node_colour


def screen(samples: list[Sample], colour: bool = True, start: int = START, pid: int = 42) -> VmaScreen:
    return VmaScreen(views.history(samples, colour), pid, start)


def shown(samples: list[Sample], *keys: str, size: tuple[int, int] = (80, 24), colour: bool = True) -> list[str]:
    return views.shown(screen(samples, colour), *keys, size=size)


def line_with(lines: list[str], text: str) -> str:
    """The one line that holds this text."""
    (found,) = [line for line in lines if text in line]
    return found


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=str)
@pytest.mark.parametrize("colour", [True, False], ids=["colour", "plain"])
def test_the_whole_screen(size: tuple[int, int], colour: bool) -> None:
    lines = shown(views.samples(), "down", "right", "right", size=size, colour=colour)
    assert all(len(line) <= size[0] for line in lines)
    views.golden(f"vma-{size[0]}x{size[1]}-{'colour' if colour else 'plain'}", lines)


def test_the_help() -> None:
    lines = shown(views.samples(), "question_mark")
    views.golden("vma-help-80x24", lines)
    assert shown(views.samples(), "f1", "f1") == shown(views.samples())
    assert shown(views.samples(), "f1", "escape") == shown(views.samples())


# -- policy and shares --------------------------------------------------------------------------------------------


def of_policy(policy: Policy, pages: tuple[int, ...] = (50, 30, 20, 0), **fields: object) -> list[str]:
    vma = fake.vma(START, 4096, policy)
    shot = fake.snapshot([vma], [pages], NODES, **fields)  # type: ignore[arg-type]
    return shown([fake.sample(shot)])


def node_line(lines: list[str], node: int) -> str:
    """What is said of the share of a node."""
    return next(line for line in lines if line.startswith(f"N{node} "))


@pytest.mark.parametrize(
    ("policy", "says", "first", "last"),
    [
        (Policy(Mode.DEFAULT), "no policy: the node of the CPU", "by touch", "by touch"),
        (Policy(Mode.LOCAL), "local: the node of the CPU", "by touch", "by touch"),
        (Policy(Mode.PREFERRED, nodes=(1,)), "prefer:1: N1 while it has room", "0.0% +50", "0.0% 0"),
        (Policy(Mode.BIND, nodes=(0, 1)), "bind:0-1: only N0-1, the nearest first", "within", "none 0"),
        (Policy(Mode.BIND, nodes=(3,)), "bind:3: only N3", "0.0% +50", "100.0% -100"),
        (Policy(Mode.PREFERRED_MANY, nodes=(0, 2)), "of N0,2 the nearest with room", "preferred", "none 0"),
        (Policy(Mode.INTERLEAVE, nodes=(0, 2)), "page by page over N0,2", "50.0% 0", "0.0% 0"),
        (Policy(Mode.WEIGHTED_INTERLEAVE, nodes=(0, 1)), "as their weights say", "by weight", "none 0"),
        (Policy(Mode.INTERLEAVE, nodes=(9,)), "none of its nodes has memory", "by touch", "by touch"),
        (Policy.parse("quantum:0-1"), "quantum:0-1: a policy that this version does not know", "?", "?"),
        (Policy(Mode.BIND, F_STATIC_NODES, (0, 1)), "keeps its nodes when the cpuset changes", "within", "none 0"),
        (Policy(Mode.BIND, F_RELATIVE_NODES, (0, 1)), "its nodes count within the cpuset", "within", "none 0"),
        (Policy(Mode.BIND, F_NUMA_BALANCING, (0, 1)), "NUMA balancing may move pages", "within", "none 0"),
    ],
    ids=lambda value: value.text() if isinstance(value, Policy) else "",
)
def test_each_policy_says_what_it_promises(policy: Policy, says: str, first: str, last: str) -> None:
    lines = of_policy(policy)
    assert says in " ".join(lines[:4])
    for node, words in ((0, first), (3, last)):
        # Node, pages and share, then what is expected and the difference, then the bar.
        found = [word for word in node_line(lines, node).split()[3:] if not set(word) & set("█│")]
        assert " ".join(found) == words


def test_a_list_of_nodes_that_the_kernel_cut_is_not_judged() -> None:
    cut = Policy.parse(Policy(Mode.INTERLEAVE, nodes=tuple(range(0, 120, 2))).text())
    lines = of_policy(cut)
    assert "page by page over N0,2,..." in " ".join(lines[:4])
    assert "30.0%          ?" in node_line(lines, 1)


def test_bytes_are_shown_where_they_are_wanted() -> None:
    history = views.history(views.samples())
    history.unit = Unit.BYTES
    lines = views.shown(VmaScreen(history, 42, START))
    assert "471M" in node_line(lines, 0)
    assert "+268M" in node_line(lines, 0)
    history.unit = Unit.PERCENT
    assert "+33.1%" in node_line(views.shown(VmaScreen(history, 42, START)), 0)


def test_many_nodes_share_the_room_that_there_is() -> None:
    nodes = tuple(range(0, 128, 2))
    pages = [0] * 64
    pages[1], pages[40], pages[63] = 10, 500, 7
    shot = fake.snapshot([fake.vma(START, 4096)], [pages], nodes, faults=fake.faults([(0, 80, 80, 0, 0, 500)]))
    lines = shown([fake.sample(shot)], size=(80, 24))
    for node, count in ((2, 10), (80, 500), (126, 7)):
        assert f" {count} " in node_line(lines, node)
    assert "more nodes" in "\n".join(lines)
    assert "first touch: 500, 100.0% local" in "\n".join(lines)
    assert "rest" in "\n".join(lines)


# -- the strip ----------------------------------------------------------------------------------------------------

FRAME = Frame(80, 4)


def strip(regions: Regions, view: View | None = None, colour: bool = True, frame: Frame = FRAME) -> list[Line]:
    ink = Ink(colour)
    return draw((view or View()).window(regions, INTERLEAVED, frame, colour), NODES, ink)


def at(lines: list[Line], column: int, line: int = 0) -> Segment:
    """The segment, cut to one character, in this column."""
    for segment in lines[line]:
        if column < len(segment.text):
            return Segment(segment.text[column], segment.style)
        column -= len(segment.text)
    raise AssertionError("the line is shorter")


def colours(segment: Segment) -> tuple[str | None, str | None]:
    style = segment.style or Style()
    both = [each.triplet.hex if each and each.triplet else None for each in (style.color, style.bgcolor)]
    return both[0], both[1]


def test_cells_have_the_colours_of_their_nodes() -> None:
    pages = np.zeros((6, 4), np.int64)
    pages[0, 0] = pages[1, 3] = 512
    pages[2, :2] = 300, 200
    pages[3] = 260, 100, 100, 40
    pages[4] = 128
    regions = Regions(START + np.arange(6) * REGION, pages)
    view = View()
    view.jump(5, INTERLEAVED)
    lines = strip(regions, view, frame=Frame(280, 4))
    assert text_of(lines[0]) == "7f0000000000  ████▀▀▀▀▒▒◆◆" + "·" * 254
    assert colours(at(lines, 14)) == (node_colour(0), None)
    assert colours(at(lines, 16)) == (node_colour(3), None)
    assert colours(at(lines, 18)) == (node_colour(0), node_colour(1))
    assert colours(at(lines, 20)) == (node_colour(0), MIXED)
    assert colours(at(lines, 22)) == (MIXED, None)


def test_without_colour_there_are_letters_and_no_colour() -> None:
    lines = strip(views.spread(), colour=False)
    text = "\n".join(map(text_of, lines))
    assert {"00", "01", "**", "··"} <= {text_of(line)[14:][at : at + 2] for line in lines for at in range(0, 66, 2)}
    assert "◆◆0000" in text
    assert all(colours(segment) == (None, None) for line in lines for segment in line)


@pytest.mark.parametrize("colour", [True, False])
def test_the_screen_without_colour_has_none(colour: bool) -> None:
    view = screen(views.samples(), colour)
    found: set[tuple[str | None, str | None]] = set()

    async def act(hand: Hand) -> None:
        lines = view.sheet._lines
        found.update(colours(segment) for line in lines for segment in line)

    views.perform(view, act)
    assert (found == {(None, None)}) is not colour


def test_zoom_goes_in_around_the_cursor_and_out_to_the_whole() -> None:
    lines = shown(views.samples())
    assert "256 cells of 4.0M" in line_with(lines, "regions:")
    lines = shown(views.samples(), "plus")
    assert "512 cells of 2.0M" in line_with(lines, "regions:")
    assert lines == shown(views.samples(), "plus", "plus")
    # At the end, zoomed in: what is there is visible.
    lines = shown(views.samples(), "plus", "end")
    assert line_with(lines, "◆ ").startswith("◆ 7f003fe00000 (+1022M): N3=511")
    assert "·◆" in "\n".join(lines)
    assert "256 cells of 4.0M" in line_with(shown(views.samples(), "plus", "minus"), "regions:")


def test_the_cursor_tells_address_and_counts_and_stays_inside() -> None:
    assert "◆ 7f0000000000 (+0): N0=1024" in shown(views.samples(), "left", "up", "pageup")
    assert "◆ 7f0000400000 (+4.0M): N0=1024" in shown(views.samples(), "right")
    lines = shown(views.samples(), "end")
    assert lines == shown(views.samples(), "end", "right", "down", "pagedown")
    assert line_with(lines, "◆ ").startswith("◆ 7f003fc00000 (+1020M): N3=511")
    assert "◆ 7f0000000000 (+0): N0=1024" in shown(views.samples(), "end", "home")
    assert "no page" in line_with(shown(views.samples(), "end", "left"), "◆ ")


def test_a_vma_that_begins_within_a_region_says_so() -> None:
    vma = fake.vma(START + 0x5000, 600)
    regions = fake.regions([(START + 0x5000, 0, 0, 0, 507), (START + REGION, 0, 93, 0, 0)], 4)
    shot = fake.snapshot([vma], [(0, 93, 0, 507)], NODES, regions=regions)
    lines = views.shown(screen([fake.sample(shot)], start=vma.start))
    assert "◆ 7f0000005000 (+0): N3=507" in lines
    assert "2 cells of 2.0M" in line_with(lines, "regions:")
    assert "7f0000005000  ◆◆◆◆◆◆◆◆████████" in lines


def test_a_hugetlb_vma_has_cells_of_its_pages() -> None:
    vma = fake.vma(4 << 30, 4 << 18, hugetlb=True, page_kb=1 << 20)
    regions = fake.regions([((4 + page) << 30, 0, page == 2, 0, page != 2) for page in range(4)], 4)
    shot = fake.snapshot([vma], [(0, 1, 0, 3)], NODES, regions=regions)
    lines = views.shown(screen([fake.sample(shot)], False, start=vma.start), "right", "right")
    assert "4 cells of 1.0G" in line_with(lines, "regions:")
    assert "100000000     " + "3" * 16 + "◆" * 8 + "3" * 8 in lines
    assert "◆ 180000000 (+2.0G): N1=1" in lines


@pytest.mark.parametrize(("hooks", "why"), [("none", "without hooks nobody counts"), ("tracepoint", "not counted")])
def test_where_nobody_counts_by_region_it_says_why(hooks: str, why: str) -> None:
    shot = replace(views.target(), hooks=hooks)
    lines = shown([fake.sample(shot)], "right", "plus", "end", "pagedown")
    assert why in line_with(lines, "regions:")


def test_a_million_regions_are_a_strip_like_any_other() -> None:
    count = 1_000_000
    vma = fake.vma(START, count * 512, path=b"[heap]")
    regions = Regions(START + np.arange(count) * REGION, np.ones((count, 4), np.int64))
    shot = fake.snapshot([vma], [(count, count, count, count)], NODES, regions=regions)
    lines = shown([fake.sample(shot)], "end")
    assert "cells of" in line_with(lines, "regions:")
    assert len(lines) <= 24


# -- flows and first touch ----------------------------------------------------------------------------------------


def test_only_its_own_flows_are_shown_now_and_in_all() -> None:
    lines = shown(views.samples())
    assert "pages moved in 6 s: 2412" in line_with(lines, "pages moved")
    assert line_with(lines, "syscall").split()[:6] == ["N0", "N1", "syscall", "350", "2100", "0"]
    assert line_with(lines, "numa_misplaced").split()[:6] == ["N3", "N2", "numa_misplaced", "20", "120", "9"]
    assert "27" not in line_with(lines, "pages moved")


def test_first_touch_is_of_faults_that_placed_a_page() -> None:
    lines = shown(views.samples(), size=(120, 40))
    assert "first touch: 15393, 78.2% local" in line_with(lines, "first touch")
    assert line_with(lines, "faults:").endswith("faults: new 12288, huge 6, cow 33, hint 51")


def test_what_is_not_counted_is_not_shown_as_nothing() -> None:
    lines = shown([fake.sample(views.target())], size=(120, 24))
    assert "flows: not counted here" in "\n".join(lines)
    assert "first touch: page faults are not counted here" in "\n".join(lines)
    quiet = views.target(flows=fake.flows(), faults=fake.faults())
    lines = shown([fake.sample(quiet)], size=(120, 24))
    assert "pages moved in 2 s: none" in "\n".join(lines)
    assert "first touch: no page fault yet" in "\n".join(lines)


def test_many_ways_are_cut_with_a_word() -> None:
    rows = [(1, source, destination, 1, 10 + source, 0) for source in range(4) for destination in range(4)]
    shot = views.target(regions=views.spread(), flows=fake.flows(rows), faults=fake.faults())
    lines = shown([fake.sample(shot)])
    assert "more ways" in "\n".join(lines)
    assert line_with(lines, "from to").startswith("from to")
    assert lines[-1].startswith(" Esc ")


# -- what becomes of it -------------------------------------------------------------------------------------------


def after(*samples: Sample) -> list[str]:
    """What stands there when the first of these was shown, and then the others came."""
    history = views.history(list(samples[:1]))
    view = VmaScreen(history, 42, START)
    lines: list[str] = []

    async def act(hand: Hand) -> None:
        from tracer.live.source import Tick

        for sample in samples[1:]:
            history.arrive(Tick(sample, 2.0))
            history.take_in()
            view.refresh_from(history)
        lines.extend(views.read(view))

    views.perform(view, act)
    return lines


def test_a_vma_that_is_unmapped_is_said_to_be_and_stays_as_it_was() -> None:
    (first,) = views.samples(1)
    lines = after(first, fake.sample(views.target([HEAP])))
    assert lines[1] == "no longer mapped: this is how it was last seen"
    assert "120520" in node_line(lines, 0)
    assert after(first, fake.sample(views.target([HEAP])), first)[1].startswith("PID 42")


def test_a_target_that_ends_is_said_to_have() -> None:
    (first,) = views.samples(1)
    lines = after(first, Sample(fake.TIME, NODES, (), ended=(views.target([]),)))
    assert lines[1] == "the target has ended: this is how it was last seen"
    assert "120520" in node_line(lines, 0)


def test_a_target_that_executes_another_program_has_other_vmas() -> None:
    (first,) = views.samples(1)
    program = views.target([fake.vma(START, 16, path=b"/bin/true")])
    lines = after(first, fake.sample(program, ended=(first.snapshots[0],)))
    assert lines[1].startswith("the target has executed another program")
    assert "120520" in node_line(lines, 0)


def test_a_vma_that_grows_downwards_is_followed_with_its_flows() -> None:
    subject = Subject(42, START)
    first = fake.sample(fake.snapshot([fake.vma(START, 16)], [(1, 0)], flows=fake.flows([(0, 0, 1, 1, 5, 0)])))
    grown = fake.vma(START - 0x10000, 32)
    second = fake.sample(fake.snapshot([grown], [(2, 0)], flows=fake.flows([(0, 0, 1, 1, 7, 0)])))
    history = views.history([first, second])
    subject.look(first)
    subject.look(second)
    assert (subject.gone, subject.start) == ("", grown.start)
    assert sorted(row.pages for row in subject.flows(history)) == [5, 7]
    assert [row.pages for row in subject.flows_now()] == [7]


def test_nothing_there_at_all() -> None:
    lines = views.shown(screen(views.samples(), start=0x1000), "right", "plus", "end", "pageup")
    assert lines[0] == "1000 of PID 42: nothing is mapped there"
    lines = views.shown(screen(views.samples(), pid=7))
    assert lines[0] == "7f0000000000 of PID 7: the target has ended"


# -- the terminal -------------------------------------------------------------------------------------------------

HOSTILE = b"/tmp/[bold red]\x1b[2J\x1b]0;owned\x07[/][@click=app.quit]x[/]\xff\xe2\x80\xae"


def test_hostile_names_are_inert() -> None:
    vma = fake.vma(START, 16, path=HOSTILE)
    shot = fake.snapshot([vma], [(1, 2, 3, 4)], NODES, comm=b"[b]\x1b[31m\n")
    lines = shown([fake.sample(shot)], size=(200, 24))
    text = "\n".join(lines)
    assert r"/tmp/[bold red]\033[2J\033]0;owned\007[/][@click=app.quit]x[/]\377\342\200\256" in lines[0]
    assert r"[b]\033[31m\012" in lines[1]
    assert not any(character in text for character in "\x1b\x07\xff\u202e")


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (20, 6), (30, 10), (60, 16), (75, 24), (300, 90)], ids=str)
@pytest.mark.parametrize("colour", [True, False], ids=["colour", "plain"])
def test_any_size_is_drawn(size: tuple[int, int], colour: bool) -> None:
    lines = shown(views.samples(), "plus", "down", "end", size=size, colour=colour)
    assert len(lines) == size[1]
    assert all(len(line) <= size[0] for line in lines)


def test_it_is_laid_out_anew_when_the_terminal_changes() -> None:
    view = screen(views.samples())
    seen: list[list[str]] = []

    async def act(hand: Hand) -> None:
        for size in ((120, 40), (33, 12), (80, 24)):
            await hand.resize(*size)
            seen.append(views.read(view))

    views.perform(view, act)
    assert seen[0] == shown(views.samples(), size=(120, 40))
    assert seen[1] == shown(views.samples(), size=(33, 12))
    assert seen[2] == shown(views.samples())


@pytest.mark.parametrize("key", ["escape", "q", "backspace"])
def test_back_leaves_the_screen(key: str) -> None:
    view = screen(views.samples())
    left: list[bool] = []

    async def act(hand: Hand) -> None:
        await hand.press(key)
        left.append(hand.stage.screen is not view)

    views.perform(view, act)
    assert left == [True]


def test_only_lines_that_differ_are_drawn_again() -> None:
    view = screen(views.samples())
    drawn: list[int] = []

    async def act(hand: Hand) -> None:
        await hand.press("home")
        plainly = view.sheet.render_line

        def counting(y: int) -> object:
            drawn.append(y)
            return plainly(y)

        view.sheet.render_line = counting  # type: ignore[method-assign,assignment]
        view.refresh_from(view._history)
        await hand.press()
        unchanged = len(drawn)
        await hand.press("right")
        drawn.insert(0, unchanged)

    views.perform(view, act)
    assert drawn[0] == 0
    # The line with the cursor and the one that tells of it.
    assert sorted(set(drawn[1:])) == [9, 13]
