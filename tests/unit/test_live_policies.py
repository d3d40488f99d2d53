"""The live view where policies are read: the column of verdicts, why pages lie elsewhere, the screen about policies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from tests.unit.live_fakes import INTERLEAVE, NODES, Stage, Tape, areas, at, play, process
from tests.unit.live_golden import check
from tests.unit.ruled import (
    ARENA,
    MISPLACED,
    THREADS,
    changed,
    plain_pressure,
    ruled,
    ruled_areas,
    sample_at,
    with_policies,
)
from tests.unit.snapshots import TIME, sample, snapshot, vma
from tracer.live.columns import widths
from tracer.live.history import History
from tracer.live.policies_page import policy_lines, ruling
from tracer.live.rows import Column, Layout, Listings, Rows, order, rows_of
from tracer.live.sheet import Ink, text_of
from tracer.live.source import Tick
from tracer.live.verdicts import Verdicts, same_parts
from tracer.model.cause import Cause
from tracer.model.policies import Policies, TaskPolicy
from tracer.model.policy import DEFAULT
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import Verdict, findings

SIZES = [(80, 24), (120, 40)]
LOOKS = pytest.mark.parametrize("colour", [True, False], ids=["colour", "plain"])
SIZED = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def named(what: str, size: tuple[int, int], colour: bool) -> str:
    return f"{what}-{size[0]}x{size[1]}-{'colour' if colour else 'plain'}"


def policies_of(shot: Snapshot) -> Policies:
    assert shot.policies is not None
    return shot.policies


# Screens


@LOOKS
@SIZED
def test_the_table(size: tuple[int, int], colour: bool) -> None:
    async def scene(stage: Stage) -> None:
        await stage.feed(sample_at(1), sample_at(2))
        check(stage.app, named("verdicts", size, colour))

    play(scene, size, colour=colour, first=sample_at(0))


@LOOKS
@SIZED
def test_one_area(size: tuple[int, int], colour: bool) -> None:
    async def scene(stage: Stage) -> None:
        await stage.feed(sample_at(1), sample_at(2))
        await stage.press("down", "down", "enter")
        check(stage.app, named("why", size, colour))
        await stage.press("w")
        check(stage.app, named("why-all", size, colour))

    play(scene, size, colour=colour, first=sample_at(0))


@LOOKS
@SIZED
def test_policies_of_all(size: tuple[int, int], colour: bool) -> None:
    async def scene(stage: Stage) -> None:
        await stage.feed(sample_at(1), sample_at(2))
        await stage.press("m")
        check(stage.app, named("policies", size, colour))

    play(scene, size, colour=colour, first=sample_at(0))


def test_the_helps() -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("m", "question_mark")
        check(stage.app, "policies-help-80x24")
        await stage.press("escape", "escape", "down", "enter", "question_mark")
        check(stage.app, "why-help-80x24")
        await stage.press("escape", "escape", "f1", "pagedown", "pagedown")
        for word in ("VERDICT says", "skewed", "n/a"):
            assert word in stage.text

    play(scene, first=sample_at(0))


def test_without_colour_there_is_none() -> None:
    async def scene(stage: Stage) -> None:
        for keys in ((), ("down", "down", "enter"), ("w",), ("escape", "m")):
            await stage.press(*keys)
            strips = stage.app.screen._compositor.render_strips()
            styles = [segment.style for strip in strips for segment in strip if segment.style]
            found = [colour for style in styles for colour in (style.color, style.bgcolor)]
            assert all(colour is None or colour.is_default for colour in found)

    play(scene, colour=False, first=sample_at(0))


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (12, 5), (20, 6), (40, 10), (60, 15), (300, 100)])
def test_any_size_will_do(size: tuple[int, int]) -> None:
    async def scene(stage: Stage) -> None:
        for keys in (("down", "down", "enter"), ("w", "down"), ("escape", "m", "down", "end"), ("f1",)):
            await stage.press(*keys)
            assert len(stage.text.splitlines()) == size[1]

    play(scene, size, first=sample_at(0))


def test_of_a_recording_it_is_the_same() -> None:
    screens: dict[bool, list[str]] = {}

    def scene_of(replayed: bool) -> None:
        async def scene(stage: Stage) -> None:
            if replayed:
                assert stage.app.player is not None
                await stage.press("end")
                await stage.app.player.settled()
                await stage.pilot.pause()
            else:
                await stage.feed(sample_at(1), sample_at(2))
            table = [line for line in stage.text.splitlines() if line[:4] in ("5581", "7f3c", "7ffe")]
            await stage.press("down", "down", "enter", "w")
            one = stage.text.splitlines()[:-1]
            await stage.press("escape", "m")
            screens[replayed] = [*table, *one, *stage.text.splitlines()[:-1]]

        recorded = Tape([sample_at(step) for step in range(3)]) if replayed else None
        play(scene, recorded=recorded, first=sample_at(0))

    scene_of(False)
    scene_of(True)
    assert screens[True] == screens[False]
    assert any("skewed" in line for line in screens[True])


# The column


def test_there_is_no_column_without_policies() -> None:
    async def scene(stage: Stage) -> None:
        assert "VERDICT" not in stage.text
        assert "Policy" not in stage.text.splitlines()[-1]
        await stage.press("f6")
        assert "VERDICT" not in stage.text
        await stage.press("escape", "m")
        assert "policies were not read here" in stage.text
        await stage.press("escape", "down", "enter")
        assert "why" not in stage.text.splitlines()[-1]
        await stage.press("w")
        assert "pages moved" in stage.text or "flows" in stage.text

    play(scene)


@pytest.mark.parametrize("total", [*range(130), 200])
@pytest.mark.parametrize(("several", "tree"), [(False, False), (True, False), (True, True)])
def test_columns_fill_the_line(total: int, several: bool, tree: bool) -> None:
    columns = widths(total, several, tree, judged=True)
    assert sum(width for _, width in columns) + len(columns) - 1 == total
    names = [column for column, _ in columns]
    assert names == sorted(names, key=list(Column).index)
    if total >= 80:
        assert {Column.VERDICT, Column.NAME, Column.NODES} <= set(names)


def of(*shots: Snapshot) -> Rows:
    return rows_of(sample(*shots), None, 0.0, Listings())


def test_skewed_ones_come_first_and_the_worst_of_them_before_others() -> None:
    vmas = [vma(0x10000000 * (place + 1), 4096, policy) for place, policy in enumerate([DEFAULT] + [INTERLEAVE] * 4)]
    pages = [(9, 0, 0, 0), (1, 1, 0, 0), (500, 100, 100, 100), (250, 250, 250, 250), (1000, 0, 0, 0)]
    rows = of(with_policies(snapshot(vmas, pages, NODES), [(2, 0, 1, Cause.UNKNOWN, -1, 1)]))
    listings = Listings()
    # Skewed by 750 and by 300, too few, even, without a policy.
    assert order(rows, Layout(Column.VERDICT), listings).tolist() == [4, 2, 1, 3, 0]
    assert order(rows, Layout(Column.VERDICT, inverted=True), listings).tolist() == [0, 3, 1, 2, 4]


def test_a_verdict_can_be_searched_and_filtered() -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("slash", *"skew", "enter")
        assert stage.app.main.table.selected() == (4711, ARENA)
        await stage.press("backslash", *"small", "enter")
        assert stage.app.main.table.count_text() == "1 of 7 VMAs"
        assert "small" in stage.line("7f3cc1000000")

    play(scene, first=sample_at(0))


def test_one_can_sort_by_it() -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("f6")
        assert "VERDICT" in stage.text
        await stage.press("down", "down", "down", "enter")
        assert stage.app.main.table.layout_of_rows.sort is Column.VERDICT
        lines = stage.text.splitlines()
        heading = next(number for number, line in enumerate(lines) if line.startswith("ADDRESS"))
        assert "skewed" in lines[heading + 1]
        assert "small" in lines[heading + 2]
        assert "VERDIC▲" in lines[heading]

    play(scene, first=sample_at(0))


def test_targets_with_and_without_policies_stand_side_by_side() -> None:
    other = snapshot(areas()[:2], [(1, 0, 0, 0)] * 2, NODES, pid=9, comm=b"plain")
    rows = of(ruled(), other)
    assert rows.judged
    assert order(rows, Layout(Column.VERDICT), Listings()).tolist()[0] == 2
    assert set(rows.judge(range(len(rows)))) == {0, 1, 2, 3, 4, 5, 6}
    assert rows.matches(1, "skewed").tolist() == [False, False]


# What it costs


def test_only_what_is_on_the_screen_is_judged() -> None:
    count = 5000
    vmas = [vma(0x10000000 + place * 0x100000, 64, INTERLEAVE) for place in range(count)]
    shot = with_policies(snapshot(vmas, [(2, 2, 2, 2)] * count, NODES))

    async def scene(stage: Stage) -> None:
        verdicts = stage.app.main.table.verdicts
        height = stage.app.main.table.size.height
        assert 0 < verdicts.judged <= height
        await stage.press("down")
        assert verdicts.judged <= height
        await stage.press("end")
        assert verdicts.judged <= 2 * height
        await stage.press("slash", *"anything", "enter")
        assert verdicts.judged <= 2 * height
        await stage.press("f6", *["down"] * 3, "enter")
        assert verdicts.judged == count

    play(scene, first=sample(shot))


def again(shot: Snapshot, **fields: object) -> Snapshot:
    """An equal snapshot of which nothing is the same object, with other policies."""
    policies = policies_of(shot)
    copied = {name: getattr(policies, name).copy() for name in ("own", "governed", "rule", "units", "huge")}
    it = policies.misplaced
    columns = {name: getattr(it, name).copy() for name in ("vma", "node", "expected", "cause", "reason", "pages")}
    changed = replace(policies, **{**copied, "misplaced": replace(it, **columns), **fields})
    return replace(shot, pages=shot.pages.copy(), policies=changed)


def test_while_nothing_changes_nothing_is_judged_or_drawn() -> None:
    first = ruled()
    full = plain_pressure(4)

    async def scene(stage: Stage) -> None:
        table = stage.app.main.table
        rows, judged = table._rows, table.verdicts.judged
        for step in (1, 2, 3):
            # Free memory of the machine is another one every second.
            fuller = replace(full, free=full.free - step)
            await stage.feed(at(step, again(first, pressure=fuller)))
            if step == 1:
                # Against the first sample the rows have a change that is 0, where they had none.
                rows = table._rows
        assert table.verdicts.judged == judged
        assert table._rows is rows
        await stage.feed(at(4, again(first, rule=policies_of(first).rule + 1)))
        assert table._rows is not rows
        assert table.verdicts.judged == judged + 7

    play(scene, first=at(0, first))


def test_what_is_equal_is_kept_once() -> None:
    one = ruled()
    other = policies_of(again(one))
    assert same_parts(other, one.policies) is one.policies
    assert same_parts(None, one.policies) is None
    assert same_parts(other, None) is other
    less = replace(other, misplaced=replace(other.misplaced, pages=other.misplaced.pages - 1))
    mixed = same_parts(less, one.policies)
    assert mixed is not None
    assert mixed.rule is policies_of(one).rule
    assert mixed.misplaced is less.misplaced
    # Changes are of one sample alone.
    eventful = replace(other, changes=(changed(TIME),))
    mixed = same_parts(eventful, one.policies)
    assert mixed is not None
    assert (len(mixed.changes), mixed.own is policies_of(one).own) == (1, True)
    quiet = same_parts(other, eventful)
    assert quiet is not None
    assert quiet.changes == ()


def test_history_counts_the_bytes_of_policies() -> None:
    history = History(most=10, most_bytes=1 << 40)
    for step in range(3):
        history.arrive(Tick(at(step, ruled()), 1.0))
    history.take_in()
    sizes = [kept.size for kept in history._ring.kept]
    assert sizes[1] == sizes[2] < sizes[0]
    plain = History(most=10, most_bytes=1 << 40)
    plain.arrive(Tick(at(0, replace(ruled(), policies=None)), 1.0))
    plain.take_in()
    assert plain._ring.kept[0].size < sizes[0]


# Verdicts


def same(found: Sequence[object], wanted: Sequence[object]) -> bool:
    """Findings hold arrays, which have no truth value: as text they can be compared."""
    return list(map(repr, found)) == list(map(repr, wanted))


def test_verdicts_one_by_one_are_those_of_all() -> None:
    shot = ruled()
    every = {it.row: it for it in findings(shot)}
    rows = list(range(len(shot.vmas)))
    wanted = [every.get(row) for row in rows]
    assert {it.verdict for it in every.values()} == set(Verdict) - {Verdict.CANNOT_APPLY}
    assert same(Verdicts().of(shot, rows), wanted)
    one_by_one = Verdicts()
    assert same([one_by_one.of(shot, [row])[0] for row in reversed(rows)], wanted[::-1])
    assert same(Verdicts().of(shot, [5, 2, 2]), [wanted[5], wanted[2], wanted[2]])
    assert Verdicts().of(replace(shot, policies=None), [0, 1]) == [None, None]


@pytest.mark.parametrize(
    ("what", "judged"),
    [("nothing", 0), ("pages", 1), ("rule", 1), ("misplaced", 1), ("threads", 7), ("weights", 7), ("vmas", 7)],
)
def test_what_has_changed_is_judged_again(what: str, judged: int) -> None:
    shot = ruled()
    policies = policies_of(shot)
    pages, rule = shot.pages.copy(), policies.rule.copy()
    pages[2, 3] += 40_000
    rule[2, 3] += 40_000
    other = {
        "nothing": again(shot),
        "pages": replace(shot, pages=pages),
        "rule": again(shot, rule=rule),
        "misplaced": replace(with_policies(shot, MISPLACED[1:]), policies=None),
        "threads": again(shot, threads=THREADS[:1]),
        "weights": again(shot, weights=(1, 1, 1, 1)),
        "vmas": replace(shot, vmas=tuple(ruled_areas())),
    }[what]
    if what == "misplaced":
        less = policies_of(with_policies(shot, MISPLACED[1:])).misplaced
        other = again(shot, misplaced=less)
    verdicts = Verdicts()
    rows = list(range(len(shot.vmas)))
    verdicts.of(shot, rows)
    before = verdicts.judged
    found = verdicts.of(other, rows)
    assert verdicts.judged - before == judged
    every = {it.row: it for it in findings(other)}
    assert same(found, [every.get(row) for row in rows])


def test_targets_that_are_gone_are_forgotten() -> None:
    verdicts = Verdicts()
    one, two = ruled(), ruled(pid=9)
    for shot in (one, two):
        verdicts.of(shot, [0])
    verdicts.keep([two])
    assert set(verdicts._known) == {9}


# The screen of one area


def test_the_task_s_policy_is_told_from_its_own() -> None:
    own = policies_of(ruled()).own.copy()
    own[2] = False

    async def scene(stage: Stage) -> None:
        await stage.press("down", "down", "enter")
        assert "(the task's, can use N0,2)" in stage.text

    play(scene, first=at(0, ruled(own=own, allowed=(0, 2))))


def test_an_area_without_pages_has_no_verdict() -> None:
    empty = with_policies(replace(ruled(), pages=np.zeros((7, 4), np.int64)))

    async def scene(stage: Stage) -> None:
        await stage.press("down", "down", "enter")
        assert "skewed" not in stage.text
        await stage.press("w")
        assert "no verdict" in stage.text

    play(scene, first=at(0, empty))


def test_why_scrolls() -> None:
    async def scene(stage: Stage) -> None:
        await stage.press("down", "down", "enter", "w")
        first = stage.text
        assert "more lines (down)" in first
        await stage.press("down")
        assert stage.text != first
        await stage.press("end")
        assert "the node whose turn it was had no room" in stage.text
        assert "more lines" not in stage.text
        await stage.press("home")
        assert stage.text == first
        await stage.press("w")
        assert "first touch" in stage.text

    play(scene, first=sample_at(0))


# The screen about policies


def lines_of(*samples: Sample) -> list[str]:
    history = History(colour=False)
    for one in samples:
        history.arrive(Tick(one, 1.0))
    history.take_in()
    return [text_of(line) for line in policy_lines(ruling(history, Verdicts()), 100, Ink(False))]


def test_threads_stand_with_their_policies() -> None:
    lines = lines_of(at(0, ruled()))
    (workers,) = [line for line in lines if "4713" in line]
    assert workers.split() == ["interleave:0-3", "2", "threads:", "4713", "worker", "<1>,", "4714", "worker", "\\033[2"]
    many = tuple(TaskPolicy(100 + number, b"t%d" % number, INTERLEAVE) for number in range(300))
    text = " ".join(" ".join(lines_of(at(0, ruled(threads=(THREADS[0], *many))))).split())
    assert "300 threads" in text
    assert all(f"{it.thread} t" in text for it in many)


def test_changes_are_told_up_to_the_sample_that_is_shown() -> None:
    history = History()
    for step in range(4):
        then = changed(TIME + timedelta(seconds=step), thread=4710 + step)
        history.arrive(Tick(at(step, ruled(step, changes=(then,))), 1.0))
    history.take_in()
    assert [change.thread for _, change in history.policy_changes(3)] == [4713, 4712, 4711]
    history.step(-2)
    assert [change.thread for _, change in history.policy_changes(10)] == [4711, 4710]


def test_changes_of_a_target_that_has_ended_are_told_once() -> None:
    history = History()
    last = ruled(1, changes=(changed(TIME),))
    history.arrive(Tick(at(0, ruled()), 1.0))
    history.arrive(Tick(at(1, last), 1.0))
    for step in (2, 3):
        history.arrive(Tick(replace(at(step), snapshots=(), ended=()), 1.0))
    history.take_in()
    assert [shot.pid for shot in history.current.snapshots] == [4711]
    assert len(history.policy_changes(10)) == 1


def test_a_full_node_is_seen() -> None:
    (line,) = [line for line in lines_of(at(0, ruled())) if line.startswith("N0 ")]
    assert line.split() == ["N0", "11.7M", "16.0M", "24.0M", "1000"]


def test_keys_go_through_long_lists() -> None:
    many = tuple(TaskPolicy(100 + number, b"t%d" % number, INTERLEAVE) for number in range(300))

    async def scene(stage: Stage) -> None:
        await stage.press("m")
        first = stage.text
        assert "more lines (down)" in first
        await stage.press("pagedown", "pagedown")
        assert stage.text != first
        await stage.press("end")
        assert "foreign" in stage.text
        await stage.press("home")
        assert stage.text == first
        await stage.press("escape")
        assert "VERDICT" in stage.text

    play(scene, first=at(0, ruled(threads=(THREADS[0], *many))))


def test_the_sums_are_of_all_targets() -> None:
    (line,) = [line for line in lines_of(at(0, ruled(), ruled(pid=9), process(pid=3))) if "areas" in line]
    assert "2 skewed, 0 cannot apply, 2 too small to say, 2 as promised" in line
