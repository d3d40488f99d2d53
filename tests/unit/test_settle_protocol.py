"""The settle protocol (tracer/session_settle.py) against a kernel in small, where everything may happen at any moment.

What is promised, and checked after each refresh (`Tracer.refresh`) and in the end (`Tracer.come_to_rest`):

- A region that has not changed since before a refresh began is shown as it is, or there is doubt.
- A region that is changing is shown as it was at some moment of the refresh, or there is doubt. (Not checked where
  no event tells that it was this region: one's own unmapping, copy-on-write, or a kernel that batches RSS events.)
- When all is quiet, a few refreshes make all counts right, without doubt; faults that sleep for ever or were killed
  do not matter.

Cases are drawn from seeds, so a run is like any other. One that goes wrong is made small (`smallest`) and printed, and
can be put under FOUND as it is. A Settler in which one rule is missing does not keep the promise, which shows that the
cases are good for something.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from random import Random

import numpy as np
import numpy.typing as npt
import pytest

from tests.unit.settle_cases import KERNELS, Case, random_case, run, smallest
from tests.unit.settle_tracer import Go, Refresh, Wrong
from tests.unit.settle_world import Op, World
from tracer.kernel.epoch import Drained
from tracer.kernel.hooks import Pending
from tracer.kernel.memory import Glance
from tracer.model.state import State
from tracer.session_check import Drift
from tracer.session_settle import Settler, _Audit

Int64s = npt.NDArray[np.int64]
NONE = np.empty(0, np.int64)

CASES, CASES_OF_A_MUTANT = 40, 400


SUBJECTS: list[Sequence[str]] = [
    (),  # any few of all
    ("fault", "map"),
    ("migrate", "reclaim"),
    ("remap", "split"),
    ("sleeping fault", "discard"),
    ("unmap", "map"),
    ("write", "reclaim"),
]


def first_wrong(kind: type[Settler], kernel: str, kinds: Sequence[str], cases: int) -> Case | None:
    """The first of so many cases that goes wrong."""
    for seed in range(cases):
        case = random_case(Random(seed), KERNELS[kernel], kinds)
        try:
            run(case, kind)
        except Wrong:
            return case
    return None


@pytest.mark.parametrize("kinds", SUBJECTS, ids=", ".join)
@pytest.mark.parametrize("kernel", KERNELS)
def test_whatever_happens_what_is_shown_is_right_or_in_doubt(kernel: str, kinds: Sequence[str]) -> None:
    case = first_wrong(Settler, kernel, kinds, CASES)
    if case is not None:
        run(smallest(case))


# --- one rule less -----------------------------------------------------------------------------------------------


class IgnoresFaultsInFlight(Settler):
    def _unfinished(self, pending: list[Pending]) -> Int64s:
        return NONE


class IgnoresOvertakenFaults(Settler):
    def _unfinished(self, pending: list[Pending]) -> Int64s:
        return super()._unfinished([it for it in pending if it.key[0] < 0])


class TakesAReadablePageForAWritableOne(Settler):
    def _unfinished(self, pending: list[Pending]) -> Int64s:
        return super()._unfinished([dataclasses.replace(it, write=False) for it in pending])


class IsCalmWithFaultsInFlight(Settler):
    def work(self, drained: Drained | None) -> State:
        state = super().work(drained)
        self._calm = self._token
        return state


class TakesItsTokenLate(Settler):
    def look(self, token: bytes, pending: list[Pending]) -> None:
        super().look(token, pending)
        self._token = token + self.memory.token()


class BelievesEachRead(Settler):
    def _settle(self, regions: Int64s, leaves: npt.NDArray[np.uint64] | None = None) -> Int64s:
        if len(regions):
            self._read(regions, leaves)
        return NONE


class IgnoresRanges(Settler):
    def _work_off(self, glance: Glance, mine: Drained, drift: Drift | None) -> None:
        super()._work_off(glance, Drained(mine.regions, mine.faults), drift)


class BelievesEachList(Settler):
    def _take_vmas(self) -> tuple[Int64s, Int64s, Int64s]:
        found = super()._take_vmas()
        self._list_settling, self._lists = False, self.memory.glance().lists
        return found


class ReadsOnceForAList(Settler):
    def _take_vmas(self) -> tuple[Int64s, Int64s, Int64s]:
        self._unproven = NONE, NONE
        return super()._take_vmas()


class AuditsAtOnce(Settler):
    def _before_walk(self) -> tuple[tuple[int, int], int]:
        return (self._seen.unexplained + self._moved, self._seen.lost), self._seen.rss


class ClearsUpWhatCameDuringAnAudit(Settler):
    def _end_audit(self, audit: _Audit) -> None:
        super()._end_audit(audit)
        self._unexplained, self._lost = self._doubts()


class TrustsRssEvents(Settler):
    def _rss_doubt(self, glance: Glance) -> bool:
        return False


class LearnsTheRssOffsetAnyTime(Settler):
    def _learn_rss_offset(self, before: int) -> None:
        rss = self.memory.glance().rss
        if rss >= 0:
            self._rss_offset = rss - self._counted()


class LearnsTheRssOffsetAtOnce(Settler):
    def _learn_rss_offset(self, before: int) -> None:
        if not len(self._dirty) and not len(self._hooks.touched_now(self.number)):
            rss = self.memory.glance().rss
            if rss >= 0 and rss == before:
                self._rss_offset = rss - self._counted()


# Kernel, and what happens in the cases in which it is looked for.
MUTANTS: list[tuple[type[Settler], str, Sequence[str]]] = [
    (IgnoresFaultsInFlight, "6.18", ("sleeping fault",)),
    (IgnoresOvertakenFaults, "6.18", ("sleeping fault",)),
    (TakesAReadablePageForAWritableOne, "6.18", ("sleeping fault",)),
    (IsCalmWithFaultsInFlight, "6.18", ("sleeping fault",)),
    (TakesItsTokenLate, "6.18", ("unmap", "split")),
    (IgnoresRanges, "6.18", ("discard",)),
    (BelievesEachList, "6.18", ("unmap", "split")),
    (ReadsOnceForAList, "6.18", ("remap", "split")),
    (ReadsOnceForAList, "6.6", ("remap", "split")),
    (AuditsAtOnce, "6.18", ("write", "reclaim")),
    (ClearsUpWhatCameDuringAnAudit, "6.18", ("reclaim",)),
    (TrustsRssEvents, "6.1", ("fault", "map")),
]


@pytest.mark.parametrize(("kind", "kernel", "kinds"), MUTANTS, ids=[kind.__name__ for kind, *_ in MUTANTS])
def test_no_rule_is_there_for_nothing(kind: type[Settler], kernel: str, kinds: Sequence[str]) -> None:
    case = first_wrong(kind, kernel, kinds, CASES_OF_A_MUTANT)
    assert case is not None, "nothing goes wrong without this rule"
    run(case)


LEARNT_IN_BETWEEN = Case(
    KERNELS["6.1"],
    (
        Go("A", Op("map", 1, 2, 0, "fixed populate"), 9),
        Refresh(),
        Go("X", Op("reclaim", 5)),
        Refresh(),
        Go("X", Op("reclaim", 8), until="cleared"),
        Refresh(),
        Go("X"),
        Refresh(),
    ),
    ((0, 3), (3, 5), (6, 8)),
    ((5, 0, True), (8, 0, True), (15, 1, False)),
)

TOLD: list[tuple[type[Settler], Case]] = [
    (
        BelievesEachRead,
        Case(
            KERNELS["6.18"],
            (
                Refresh(),
                Go("A", Op("fault", 1, 1, 0, "anon")),
                Refresh((("read 2", Go("B", Op("migrate", 0, 0, 1))), ("read 2", Go("B", Op("migrate", 2, 0, 0))))),
            ),
            pages=((0, 0, True), (2, 1, True)),
        ),
    ),
    (
        LearnsTheRssOffsetAnyTime,
        Case(
            KERNELS["6.1"],
            (
                Go("A", Op("map", 0, 1, 0, "fixed populate"), until="unlocked"),
                Refresh((("read 14", Go("A")),)),
            ),
            ((1, 8),),
            ((14, 0, True),),
        ),
    ),
    (LearnsTheRssOffsetAtOnce, LEARNT_IN_BETWEEN),
]


@pytest.mark.parametrize(("kind", "case"), TOLD, ids=[kind.__name__ for kind, _ in TOLD])
def test_nor_are_these(kind: type[Settler], case: Case) -> None:
    with pytest.raises(Wrong):
        run(case, kind)
    run(case)


def test_an_epoch_does_not_end_before_its_programs_have(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Go("A", Op("migrate", 0, 0, 1), until="migrating"), *(Refresh(),) * 3
    ended = Go("A", until="put"), Go("A", steps=1), Go("B", Op("fault", 8, 1, 0, "anon"))  # its program runs
    case = Case(KERNELS["6.18"], (*begun, *ended, Refresh(), Go("A"), Refresh()), pages=((0, 0, True),))
    run(case)
    monkeypatch.setattr(World, "grace", lambda self: None)
    with pytest.raises(Wrong):
        run(case)


# --- what was wrong once -----------------------------------------------------------------------------------------

FULL = tuple((place, 0, True) for place in (0, 4, 8))

FOUND = {
    "mremap has listed the new VMA and goes on to move the pages": Case(
        KERNELS["6.18"],
        (Refresh(), Go("A", Op("remap", 0, 4), until="listed"), Refresh()),
        ((0, 2),),
        ((0, 0, True),),
    ),
    "the same during the seed": Case(
        KERNELS["6.18"], (Go("A", Op("remap", 0, 4), until="listed"), Refresh()), ((0, 2),), ((0, 0, True),)
    ),
    "a page that another process makes is counted, and comes after the audit": Case(
        KERNELS["6.18"], (Refresh(), Go("X", Op("write", 0), until="counted"), Refresh())
    ),
    "the same, and the seed": Case(KERNELS["6.18"], (Go("X", Op("write", 0), until="counted"), Refresh())),
    "a huge page moves while a long audit is under way": Case(
        KERNELS["6.18"],
        (Refresh(), Go("X", Op("reclaim", 0)), Refresh(), Go("A", Op("migrate", 12, 0, 1)), Refresh()),
        pages=FULL,
        leaves=((3, 0),),
    ),
    "RSS tells of pages where an audit that is not done yet has been": Case(
        KERNELS["6.1"],
        (
            Refresh(),
            Go("X", Op("reclaim", 4)),
            Go("A", Op("map", 0, 1, 0, "populate"), until="unlocked"),
            Refresh(),
            Go("A"),
            Refresh(),
        ),
        ((1, 8),),
        ((2, 0, True), (4, 0, True), (8, 0, True), (12, 0, True)),
    ),
    "RSS is as it was while such an audit goes on, and is off at its end": Case(
        KERNELS["6.1"],
        (
            Go("A", Op("map", 1, 2, 0, "fixed populate"), 9),
            Refresh(),
            Go("X", Op("reclaim", 8), until="cleared"),
            Refresh(),
        ),
        ((0, 3), (3, 5), (6, 8)),
        ((7, 1, True), (8, 0, True)),
    ),
    "a copy-on-write fault sleeps, and is overtaken while the log is full": Case(
        KERNELS["6.18, short logs"],
        (
            Refresh(),
            Go("A", Op("fault", 8, 1, 0, "anon")),
            Go("A", Op("fault", 12, 1, 0, "anon")),
            Go("A", Op("fault", 0, 1, 1, "anon!")),
            Go("C", Op("fault", 4, 1, 1, "anon")),
            *(Refresh(),) * 3,
        ),
        pages=((0, 0, False),),
    ),
    # In these two a fault of A at place 0 sleeps; B maps the page meanwhile, so that the fault counts as finished, and
    # the page is thrown away again; then A goes on where an older fault of A is still remembered, which is not this
    # one.
    "an older fault of the thread is the last one of the CPU where it wakes": Case(
        KERNELS["6.18"],
        (
            Refresh(),
            Go("A", Op("fault", 15, 1, 0, "anon")),
            Go("A", Op("move", 1)),
            Go("A", Op("fault", 0, 1, 0, "anon!")),
            Go("A", Op("move", 0)),
            Go("B", Op("fault", 0, 1, 1, "anon")),
            Refresh(),
            Go("B", Op("discard", 0, 1)),
            *(Refresh(),) * 3,
        ),
    ),
    "an older fault of the thread was overtaken": Case(
        KERNELS["6.18"],
        (
            Refresh(),
            Go("A", Op("fault", 15, 1, 0, "anon!")),
            Go("C", Op("fault", 14, 1, 0, "anon")),
            Go("A", Op("wake", 0)),
            Go("A"),
            Go("A", Op("fault", 0, 1, 0, "anon!")),
            Go("A", Op("move", 1)),
            Go("B", Op("fault", 0, 1, 1, "anon")),
            Refresh(),
            Go("B", Op("discard", 0, 1)),
            *(Refresh(),) * 3,
        ),
    ),
    # An audit learns what RSS holds beyond the counts while X has taken a page away that RSS still holds; later A maps
    # a page without an event, and that looks like it.
    "RSS is learnt in between": LEARNT_IN_BETWEEN,
}


@pytest.mark.parametrize("case", FOUND.values(), ids=FOUND)
def test_what_was_wrong_once(case: Case) -> None:
    run(case)
