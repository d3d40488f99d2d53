"""The history of the live view: which sample is shown, what it remembers, and the sums up to it."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from tests.unit.live_fakes import NODES, areas, at, process
from tests.unit.snapshots import TIME, regions, sample, snapshot
from tracer.live.history import MOST_BYTES, MOST_SAMPLES, History, Unit
from tracer.live.source import Tick


def filled(count: int, most: int = MOST_SAMPLES, most_bytes: int = MOST_BYTES) -> History:
    """`count` samples, a second apart; each but the first has a flow of 5 pages and 10 faults."""
    history = History(most=most, most_bytes=most_bytes)
    for second in range(count):
        history.arrive(Tick(at(second), 1.0))
    history.take_in()
    return history


def moved(history: History) -> int:
    return sum(row.pages for row in history.flows.rows())


def faulted(history: History) -> int:
    return sum(row.count for row in history.faults.rows())


def second(history: History) -> int:
    return round((history.current.time - TIME) / timedelta(seconds=1))


def test_empty() -> None:
    history = History()
    assert not history.take_in()
    assert not history.step(-1)
    assert history.current.snapshots == ()
    assert history.previous is None
    assert history.since is None
    assert moved(history) == 0


def test_the_newest_is_shown_with_the_one_before() -> None:
    history = filled(3)
    assert second(history) == 2
    assert history.previous is not None
    assert history.previous.time == at(1).time
    assert history.seconds == 1.0
    assert history.since == TIME


def test_what_has_arrived_is_not_shown_before_it_is_taken_in() -> None:
    history = filled(2)
    history.arrive(Tick(at(2), 1.0))
    assert second(history) == 1
    assert history.take_in()
    assert second(history) == 2


def test_step() -> None:
    history = filled(10)
    history.hold()
    assert history.step(-3)
    assert (second(history), history.behind, history.steps_back) == (6, 3, 6)
    assert history.step(-100)
    assert (second(history), history.previous) == (0, None)
    assert not history.step(-1)
    assert history.step(100)
    assert second(history) == 9


def test_held_while_more_arrive() -> None:
    history = filled(3)
    history.hold()
    history.arrive(Tick(at(3), 1.0))
    history.take_in()
    assert (second(history), history.behind) == (2, 1)
    history.follow(True)
    assert second(history) == 3


def test_sums_are_up_to_the_sample_shown() -> None:
    history = filled(10)
    assert (moved(history), faulted(history)) == (45, 90)
    history.hold()
    for step, shown in ((-1, 8), (-4, 4), (2, 6), (-100, 0), (100, 9)):
        history.step(step)
        assert (moved(history), faulted(history)) == (5 * shown, 10 * shown)
    assert history.summed_s == 10.0


def test_events_of_those_that_ended_count() -> None:
    history = filled(2)
    history.arrive(Tick(replace(at(2), ended=(process(3, pid=99),)), 1.0))
    history.take_in()
    assert moved(history) == 15


def test_the_number_of_samples_is_bounded_and_sums_are_not() -> None:
    history = filled(50, most=20)
    assert (history.steps_back, moved(history)) == (19, 245)
    history.hold()
    history.step(-100)
    assert second(history) == 30
    assert moved(history) == 150


def test_bytes_are_bounded() -> None:
    history = filled(300, most_bytes=100_000)
    assert 10 < history.steps_back < 100
    assert moved(history) == 5 * 299


def test_one_sample_that_is_too_large_is_kept_with_the_one_before() -> None:
    history = filled(5, most_bytes=10)
    assert history.steps_back == 1
    assert history.previous is not None


def test_a_view_that_sleeps_loses_no_sums_and_holds_no_more_memory() -> None:
    history = filled(10, most=20)
    for number in range(10, 100):
        history.arrive(Tick(at(number), 1.0))
    assert len(history._arrived.kept) == 20
    history.take_in()
    assert (second(history), history.steps_back) == (99, 19)
    assert moved(history) == 5 * 99
    history.hold()
    history.step(-5)
    assert moved(history) == 5 * 94


def test_a_sample_that_is_held_while_it_is_forgotten_stays_on_the_screen() -> None:
    history = filled(5, most=5)
    history.hold()
    history.step(-4)
    for number in range(5, 30):
        history.arrive(Tick(at(number), 1.0))
        history.take_in()
    assert second(history) == 0
    assert history.behind == 29
    history.step(1)
    assert second(history) == 25, "the oldest that is left"


def test_what_does_not_change_is_kept_once() -> None:
    history = History()
    for number in range(3):
        shot = snapshot(areas()[:1], [(1, 2, 3, 4)], NODES, regions=regions([(0, 1, 2, 3, 4)], 4))
        history.arrive(Tick(at(number, shot), 1.0))
    history.take_in()
    assert history.previous is not None
    now, before = history.current.only, history.previous.only
    assert now.vmas is before.vmas
    assert now.pages is before.pages
    assert now.regions is before.regions
    assert history._ring.kept[-1].size <= 1000 < history._ring.kept[0].size


def test_restart() -> None:
    history = filled(10)
    history.restart([Tick(at(number), 1.0) for number in range(40, 45)])
    assert (second(history), history.steps_back, moved(history)) == (44, 4, 25)
    assert history.since == at(40).time


@pytest.mark.parametrize("ended", [True, False])
def test_the_last_targets_stay(ended: bool) -> None:
    history = filled(2)
    last = replace(process(2), vmas=tuple(areas()[:1]), pages=np.ones((1, 4), np.int64), flows=None, faults=None)
    history.arrive(Tick(sample(node_ids=NODES, ended=(last,) if ended else ()), 1.0))
    history.take_in()
    assert len(history.current.only.vmas) == (1 if ended else 7)
    assert history.gone == {4711}
    assert history.current.ended == ()
    assert moved(history) == 5, "nothing counts twice"
    history.arrive(Tick(sample(node_ids=NODES), 1.0))
    history.take_in()
    assert len(history.current.only.vmas) == (1 if ended else 7)


def test_a_process_that_execs_is_not_gone() -> None:
    history = filled(1)
    history.arrive(Tick(replace(at(1), ended=(process(1),)), 1.0))
    history.take_in()
    assert history.gone == frozenset()
    assert len(history.current.ended) == 1


def test_units_take_turns() -> None:
    assert [unit.next for unit in Unit] == [Unit.BYTES, Unit.PERCENT, Unit.PAGES]


def test_samples_may_come_from_another_thread_while_the_view_looks() -> None:
    history = History(most=10)
    count = 300

    def deliver() -> None:
        for number in range(count):
            history.arrive(Tick(at(number), 1.0))

    thread = threading.Thread(target=deliver)
    thread.start()
    while thread.is_alive():
        history.take_in()
        assert moved(history) == 5 * max(0, second(history)) if history.current.snapshots else True
    thread.join()
    history.take_in()
    assert moved(history) == 5 * (count - 1)
