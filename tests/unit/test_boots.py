"""A virtual machine that panics while it boots is started again, and one whose tests began is not."""

from __future__ import annotations

from typing import cast

import pytest

from tests.vm.machine import BOOTS, TIMED_OUT, Machine, Outcome, until_it_boots

PANIC = Outcome(1, "[ 26.6] Kernel panic - not syncing: Fatal exception in interrupt", began=False)
WELL = Outcome(0, "reboot: Power down", began=True)


class Booted:
    """In place of a `Machine`: its end is known."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def wait(self) -> Outcome:
        return self._outcome


@pytest.mark.parametrize(
    ("ends", "boots"),
    [
        ([WELL], 1),
        ([PANIC, WELL], 2),
        ([PANIC] * BOOTS, BOOTS),
        ([Outcome(1, PANIC.console, began=True)], 1),
        ([Outcome(TIMED_OUT, "", began=False)], 1),
    ],
)
def test_only_a_panic_before_the_tests_is_tried_again(ends: list[Outcome], boots: int) -> None:
    left = iter(ends)
    assert until_it_boots(lambda: cast(Machine, Booted(next(left)))) == (ends[-1], boots)
