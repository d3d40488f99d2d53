"""The player, the time line, and the live view on a recording in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pytest

from tests.unit.live_fakes import Stage, Tape, at, play, process
from tests.unit.live_golden import check
from tests.unit.snapshots import TIME
from tracer.errors import NumatraceError
from tracer.live.app import NumatraceApp
from tracer.live.history import History
from tracer.live.player import SPEEDS, Player
from tracer.live.source import Activity
from tracer.model.sample import Sample

COUNT = 300


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def tape(count: int = COUNT) -> Tape:
    moved, faulted = np.zeros(count, np.int64), np.zeros(count, np.int64)
    moved[count // 2] = 100
    faulted[: count // 3] = 7
    return Tape([at(second) for second in range(count)], Activity(moved, faulted))


def second(stage: Stage) -> int:
    return round((stage.app.history.current.time - TIME) / timedelta(seconds=1))


async def press(stage: Stage, *keys: str) -> int:
    """Press keys, wait for the sample, and return its second."""
    assert stage.app.player is not None
    await stage.press(*keys)
    await stage.app.player.settled()
    await stage.pilot.pause()
    return second(stage)


# Keys and the time line


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "plain"])
@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_screen(size: tuple[int, int], colour: bool) -> None:
    async def scene(stage: Stage) -> None:
        await stage.until(lambda: "█" in stage.text.splitlines()[-2])
        assert await press(stage, "ctrl+right", "ctrl+right", "left") == 119
        check(stage.app, f"replay-{size[0]}x{size[1]}-{'colour' if colour else 'plain'}")

    play(scene, size, recorded=tape(), colour=colour)


def test_step_and_jump_keys() -> None:
    async def scene(stage: Stage) -> None:
        for key, expected in [
            ("right", 1),
            ("right_square_bracket", 2),
            ("left_square_bracket", 1),
            ("left", 0),
            ("left", 0),
            ("shift+right", 10),
            ("ctrl+right", 70),
            ("shift+left", 60),
            ("ctrl+left", 0),
            ("end", COUNT - 1),
            ("right", COUNT - 1),
            ("left", COUNT - 2),
            ("ctrl+left", COUNT - 62),
            ("home", 0),
        ]:
            assert await press(stage, key) == expected, key
            assert f"{expected + 1:3}/{COUNT}" in stage.text
            assert str(1501 + 10 * expected) in stage.line("[heap]")
        assert await press(stage, "end", "ctrl+left", "ctrl+left", "ctrl+right", "left") == COUNT - 62

    play(scene, recorded=tape())


def test_many_keys_at_once_end_where_they_should() -> None:
    async def scene(stage: Stage) -> None:
        assert await press(stage, *["right"] * 20, *["ctrl+right"] * 3, *["left"] * 7) == 20 + 180 - 7

    play(scene, recorded=tape())


def test_jump_to_a_time() -> None:
    async def scene(stage: Stage) -> None:
        assert await press(stage, "g", *"123", "enter") == 123
        assert await press(stage, "g", *"7", "escape") == 123
        assert await press(stage, "g", *"noon", "enter") == 123
        assert "'noon' is not a time; give a number" in stage.text
        assert await press(stage, "down") == 123
        assert "noon" not in stage.text

    play(scene, recorded=tape())


def test_click_on_the_time_line() -> None:
    async def scene(stage: Stage) -> None:
        assert stage.app.main.timeline is not None
        line = stage.line("1/300")
        await stage.pilot.click(stage.app.main.timeline, offset=(line.rindex("─"), 0))
        assert stage.app.player is not None
        await stage.app.player.settled()
        assert second(stage) == COUNT - 1

    play(scene, recorded=tape())


def test_changes_and_sums_after_a_jump() -> None:
    async def scene(stage: Stage) -> None:
        assert await press(stage, "g", *"200", "enter") == 200
        assert "+10 " in stage.line("[heap]")
        history = stage.app.history
        assert history.since is not None
        span = (history.current.time - history.since) / timedelta(seconds=1)
        assert sum(row.pages for row in history.flows.rows()) == 5 * (span + 1)

    play(scene, recorded=tape())


def test_stepping_back_after_a_jump_reads_no_more() -> None:
    reel = tape()

    async def scene(stage: Stage) -> None:
        await press(stage, "end")
        reads = len(reel.reads)
        assert await press(stage, *["left"] * 20) == COUNT - 21
        assert len(reel.reads) == reads

    play(scene, recorded=reel)


def test_a_jump_reads_little() -> None:
    reel = tape(5000)

    async def scene(stage: Stage) -> None:
        await press(stage, "end")
        await press(stage, "home")
        await press(stage, "ctrl+right")
        assert sum(last - first + 1 for first, last in reel.reads) < 200

    play(scene, recorded=reel)


def test_play_and_pause() -> None:
    async def scene(stage: Stage) -> None:
        player = stage.app.player
        assert player is not None
        player.speed = 10.0
        await stage.press("space")
        assert player.playing
        assert any(line.startswith("> ") for line in stage.text.splitlines())
        await stage.until(lambda: second(stage) >= 5)
        await stage.press("p")
        assert not any(line.startswith("> ") for line in stage.text.splitlines())
        await player.settled()
        held = second(stage)
        await asyncio.sleep(0.3)
        assert second(stage) == held

    play(scene, recorded=tape())


def test_fast_play_skips_samples_on_the_screen_and_none_in_the_sums() -> None:
    async def scene(stage: Stage) -> None:
        player = stage.app.player
        assert player is not None
        player.speed = 300.0
        await stage.press("space")
        await stage.until(lambda: not player.playing)
        await player.settled()
        assert second(stage) == COUNT - 1
        assert sum(row.pages for row in stage.app.history.flows.rows()) == 5 * (COUNT - 1)
        await stage.press("space")
        assert player.playing, "at the end it begins anew"
        await stage.until(lambda: second(stage) < COUNT - 1)

    play(scene, recorded=tape())


def test_speed() -> None:
    async def scene(stage: Stage) -> None:
        assert " x1 " in stage.text
        await stage.press("plus")
        assert " x2 " in stage.text
        await stage.press(*["minus"] * 20)
        assert f" x{SPEEDS[0]:g} " in stage.text
        await stage.press(*["plus"] * 30)
        assert f" x{SPEEDS[-1]:g} " in stage.text

    play(scene, recorded=tape())


@pytest.mark.parametrize("size", [(1, 1), (9, 4), (20, 8), (45, 20)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    async def scene(stage: Stage) -> None:
        await press(stage, "end", "left")
        lines = stage.text.splitlines()
        assert len(lines) == size[1]
        assert max(map(len, lines)) <= size[0]

    play(scene, size, recorded=tape())


def test_a_recording_of_one_sample() -> None:
    async def scene(stage: Stage) -> None:
        for keys in (["space"], ["right"], ["left"], ["end"], ["home"], ["g", "0", "enter"]):
            assert await press(stage, *keys) == 0
        assert "1/1" in stage.text

    play(scene, recorded=tape(1))


# Trouble


class Broken(Tape):
    """Cannot be read from some sample on."""

    def samples(self, first: int, last: int) -> Iterator[Sample]:
        if last >= 100:
            raise NumatraceError("the file is damaged", "restore it")
        yield from super().samples(first, last)


def test_a_part_that_cannot_be_read() -> None:
    async def scene(stage: Stage) -> None:
        assert await press(stage, "end") == 0
        assert "the file is damaged; restore it" in stage.text
        assert await press(stage, "right") == 1
        assert "damaged" not in stage.text

    play(scene, recorded=Broken([at(number) for number in range(200)]))


class Mistaken(Tape):
    """Has a mistake of ours in it."""

    def samples(self, first: int, last: int) -> Iterator[Sample]:
        if first > 0:
            raise IndexError("off by one")
        yield from super().samples(first, last)


def test_a_mistake_of_ours_is_not_hidden() -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("end")
        await stage.until(lambda: stage.app.mistake is not None)
        assert isinstance(stage.app.mistake, IndexError)
        assert stage.app._exit

    play(scene, recorded=Mistaken([at(number) for number in range(200)]))


def test_a_slow_file_does_not_hold_up_the_screen() -> None:
    class Slow(Tape):
        def samples(self, first: int, last: int) -> Iterator[Sample]:
            time.sleep(0.3)
            yield from super().samples(first, last)

    reel = Slow([at(number) for number in range(COUNT)])

    async def scene(stage: Stage) -> None:
        await stage.press("end")
        began = time.perf_counter()
        await stage.press("down", "down")
        assert stage.app.main.table.selected() == (4711, process().vmas[2].start)
        assert time.perf_counter() - began < 10
        for _ in range(5):
            await stage.press("home", "end")
        assert stage.app.player is not None
        await stage.app.player.settled()
        assert second(stage) == COUNT - 1
        # Of all those places only the last ones were worth reading.
        assert len(reel.reads) < 10

    play(scene, recorded=reel)


def test_the_player_starts_where_it_is_told() -> None:
    async def run() -> None:
        history = History()
        app = NumatraceApp(history, recorded=tape(), start=77, speed=2.0)
        async with app.run_test() as pilot:
            assert isinstance(app.player, Player)
            await app.player.settled()
            await pilot.pause()
            assert history.current.time == at(77).time
            assert app.player.speed == 2.0

    asyncio.run(run())
