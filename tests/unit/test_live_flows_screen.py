"""The screen about flows: matrices now and in all, reasons, the whole machine, and the VMAs behind it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit import drill_views as views
from tests.unit import snapshots as fake
from tests.unit.drill_views import INTERLEAVED, NODES, START, Hand
from tracer.live.drill import VmaScreen
from tracer.live.flows_screen import FlowsScreen
from tracer.live.matrix import matrix
from tracer.live.sheet import Ink, text_of
from tracer.live.source import Tick
from tracer.model.sample import Sample


def shown(samples: list[Sample], *keys: str, size: tuple[int, int] = (80, 24), colour: bool = True) -> list[str]:
    return views.shown(FlowsScreen(views.history(samples, colour)), *keys, size=size)


def words(lines: list[str], begin: str) -> list[str]:
    """Of the one line that begins so."""
    (found,) = [line for line in lines if line.startswith(begin)]
    return found.split()


def busy() -> list[Sample]:
    """Two targets. In the first of two samples the heap of one moved much; in the second the buffers of the other
    did, a little."""
    quiet = views.target([INTERLEAVED], flows=fake.flows(), pid=43, comm=b"worker")
    early = views.target(flows=fake.flows([(0, 0, 3, 1, 5000, 1)]))
    late = replace(quiet, flows=fake.flows([(0, 2, 1, 2, 60, 0)]))
    return [fake.sample(early, quiet), fake.sample(replace(early, flows=fake.flows()), late)]


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=str)
@pytest.mark.parametrize("colour", [True, False], ids=["colour", "plain"])
def test_the_whole_screen(size: tuple[int, int], colour: bool) -> None:
    lines = shown(views.samples(), "down", size=size, colour=colour)
    assert all(len(line) <= size[0] for line in lines)
    views.golden(f"flows-{size[0]}x{size[1]}-{'colour' if colour else 'plain'}", lines)


def test_the_help() -> None:
    views.golden("flows-help-80x24", shown(views.samples(), "question_mark"))
    assert shown(views.samples(), "f1", "escape") == shown(views.samples())


def test_both_matrices_and_reasons_of_all_targets() -> None:
    lines = shown(busy())
    assert lines[0] == "pages that moved, of 2 targets"
    assert words(lines, "N0 ") == ["N0", "·", "·", "·", "·", "N0", "·", "·", "·", "5000"]
    assert words(lines, "N2 ") == ["N2", "·", "30", "·", "·", "N2", "·", "60", "·", "·"]
    assert words(lines, "syscall") == ["syscall", "5000", "1"]
    assert words(lines, "numa_misplaced") == ["numa_misplaced", "30", "60", "0"]
    assert "the whole machine: not known here" in lines


def test_a_narrow_terminal_shows_the_one_that_is_wanted() -> None:
    lines = shown(busy(), size=(40, 24))
    assert words(lines, "now,") == ["now,", "pages/s"]
    assert words(lines, "N2 ") == ["N2", "·", "30", "·", "·"]
    lines = shown(busy(), "c", size=(40, 24))
    assert words(lines, "in all") == ["in", "all", "4", "s,", "pages"]
    assert words(lines, "N0 ") == ["N0", "·", "·", "·", "5000"]
    assert shown(busy(), "c", "c", size=(40, 24)) == shown(busy(), size=(40, 24))


def test_vmas_are_in_the_order_of_what_moved_now_or_in_all() -> None:
    def order(lines: list[str]) -> list[str]:
        at = next(number for number, line in enumerate(lines) if "VMAs" in line)
        return [line.split()[-1] for line in lines[at + 1 : -1] if line]

    assert order(shown(busy())) == ["[anon:buffers]", "[heap]"]
    assert order(shown(busy(), "c")) == ["[heap]", "[anon:buffers]"]


def test_one_reason_at_a_time() -> None:
    # In alphabetical order: numa_misplaced, syscall, and all of them again.
    lines = shown(busy(), "r")
    assert lines[0] == "pages that moved, of 2 targets, only numa_misplaced"
    assert words(lines, "N0 ")[5:] == ["N0", "·", "·", "·", "·"]
    assert words(lines, "syscall") == ["syscall", "5000", "1"]
    assert "[heap]" not in "\n".join(lines)
    lines = shown(busy(), "r", "r")
    assert lines[0].endswith("only syscall")
    assert "[heap]" in "\n".join(lines)
    assert shown(busy(), "r", "r", "r") == shown(busy())
    assert shown(busy(), "R")[0].endswith("only syscall")


def test_how_much_of_what_the_machine_migrated_was_ours() -> None:
    lines = shown(views.samples())
    assert words(lines, "syscall") == ["syscall", "357", "2142", "0", "450", "79%"]
    assert "the whole machine now: 1004 pages migrated, 7 failed, 81% of it ours" in lines
    # A reason for which nothing of ours moved is told of as well.
    sample = replace(views.samples(1)[0], snapshots=(views.target(flows=fake.flows()),))
    lines = shown([sample])
    assert words(lines, "compaction") == ["compaction", "0", "0", "32", "0%"]
    assert "no page has moved" in lines
    assert "the whole machine now: 1004 pages migrated, 7 failed, 0% of it ours" in lines


def test_flows_of_a_target_that_has_just_ended_count() -> None:
    (sample,) = views.samples(1)
    lines = shown([Sample(fake.TIME, NODES, (views.target(pid=7, flows=fake.flows()),), ended=sample.snapshots)])
    assert words(lines, "syscall")[:3] == ["syscall", "357", "714"]


def test_without_flows_it_says_that_nobody_counts() -> None:
    lines = shown([fake.sample(views.target())], "c", "r", "down", "enter")
    assert "flows are not counted here" in lines


def test_the_chosen_vma_is_marked_stays_and_opens() -> None:
    history = views.history(views.samples())
    screen = FlowsScreen(history)
    seen: list[object] = []

    def marked() -> str:
        (line,) = [line for line in screen.sheet._lines[:-1] if line and line[0].style and line[0].style.reverse]
        return text_of(line)

    async def act(hand: Hand) -> None:
        await hand.press("down", "down")
        assert "[heap]" in marked()
        # Another order, the same one chosen.
        history.arrive(Tick(fake.sample(views.target(flows=fake.flows([(0, 0, 1, 1, 9999, 0)]))), 2.0))
        history.take_in()
        screen.refresh_from(history)
        assert "[heap]" in marked()
        await hand.press("enter")
        opened = hand.stage.screen
        assert isinstance(opened, VmaScreen)
        seen.append(views.read(opened)[0])
        await hand.press("escape")
        seen.append(hand.stage.screen)
        await hand.press("escape")
        seen.append(hand.stage.screen is screen)

    views.perform(screen, act)
    assert seen == ["555500000000-555500800000 rw-p [heap]", screen, False]


def test_what_has_no_vma_does_not_open() -> None:
    screen = FlowsScreen(views.history(views.samples()))

    async def act(hand: Hand) -> None:
        await hand.press("pagedown", "pagedown", "enter")
        assert hand.stage.screen is screen

    views.perform(screen, act)


def test_the_list_scrolls_with_the_choice() -> None:
    vmas = [fake.vma(START + at * (1 << 30), 16, path=f"/data/{at}".encode()) for at in range(60)]
    flows = fake.flows([(at, 0, 1, 1, 1000 - at, 0) for at in range(60)])
    sample = fake.sample(fake.snapshot(vmas, [(1, 0)] * 60, flows=flows))
    assert "60 VMAs" in "\n".join(shown([sample]))
    assert not any("/data/59" in line for line in shown([sample]))
    assert any("/data/59" in line for line in shown([sample], *["pagedown"] * 7))
    assert any("/data/0" in line for line in shown([sample], "down", "up", "pageup"))


def test_hostile_names_are_inert() -> None:
    vma = fake.vma(START, 16, path=b"/tmp/[blink]\x1b[2J[/blink]\n")
    flows = fake.flows([(0, 0, 1, 0, 5, 0)])
    flows = replace(flows, reasons=("[red]\x1b[31m", *flows.reasons[1:]))
    sample = fake.sample(fake.snapshot([vma], [(1, 2)], flows=flows))
    text = "\n".join(shown([sample], "r", size=(120, 24)))
    assert r"/tmp/[blink]\033[2J[/blink]\012" in text
    assert r"only [red]\033[31m" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (20, 6), (40, 10), (79, 23), (300, 90)], ids=str)
def test_any_size_is_drawn(size: tuple[int, int]) -> None:
    lines = shown(views.samples(), "down", "c", size=size)
    assert len(lines) == size[1]
    assert all(len(line) <= size[0] for line in lines)


@pytest.mark.parametrize("key", ["escape", "q", "backspace"])
def test_back_leaves_the_screen(key: str) -> None:
    screen = FlowsScreen(views.history(views.samples()))

    async def act(hand: Hand) -> None:
        await hand.press(key)
        assert hand.stage.screen is not screen

    views.perform(screen, act)


# -- the matrix itself --------------------------------------------------------------------------------------------


def lines_of(numbers: list[list[int]], size: tuple[int, int]) -> list[str]:
    array = np.array(numbers)
    return [text_of(line) for line in matrix("from\\to", range(len(array)), range(len(array)), array, size, Ink(False))]


def test_a_matrix_without_room_keeps_the_largest_and_sums_up_the_others() -> None:
    numbers = [[0, 1, 2, 3], [0, 0, 50, 0], [7, 0, 0, 0], [0, 40, 0, 5]]
    assert lines_of(numbers, (80, 9)) == [
        "from\\to     N0    N1    N2    N3",
        "N0           ·     1     2     3",
        "N1           ·     ·    50     ·",
        "N2           7     ·     ·     ·",
        "N3           ·    40     ·     5",
    ]
    assert lines_of(numbers, (26, 4)) == [
        "from\\to     N1    N2  rest",
        "N1           ·    50     ·",
        "N3          40     ·     5",
        "rest         1     2    10",
    ]
    assert lines_of(numbers, (8, 2)) == ["from\\to   rest", "rest       108"]
    assert lines_of([[0]], (80, 1)) == ["from\\to     N0"]


def test_a_matrix_grows_with_its_numbers() -> None:
    assert lines_of([[0, 1_234_567], [10**12, 0]], (80, 9)) == [
        "from\\to       N0      N1",
        "N0             · 1234567",
        "N1          1.0T       ·",
    ]


def test_pages_that_went_elsewhere_are_bold() -> None:
    lines = matrix("", (0, 1), (0, 1), np.array([[5, 6], [0, 0]]), (80, 9), Ink(True))
    weights = [[bool(segment.style and segment.style.bold) for segment in line[1:]] for line in lines[1:]]
    assert weights == [[False, True], [False, False]]
