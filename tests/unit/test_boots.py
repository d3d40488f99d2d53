"""A virtual machine that panics while it boots is started again, and one whose tests began is not."""

from __future__ import annotations

from typing import cast

import pytest

from tests.vm.machine import BOOTS, GREETING, REPOSITORY, TIMED_OUT, Machine, Outcome, until_it_boots

PANIC = Outcome(1, "[ 26.6] Kernel panic - not syncing: Fatal exception in interrupt")


class Booted:
    """In place of a `Machine`: its end is known."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def wait(self) -> Outcome:
        return self._outcome


@pytest.mark.parametrize(
    ("ends", "boots"),
    [
        ([Outcome(0, GREETING)], 1),
        ([PANIC, Outcome(0, GREETING)], 2),
        ([PANIC] * BOOTS, BOOTS),
        ([Outcome(1, f"{GREETING} 6.1\n{PANIC.console}")], 1),
        ([Outcome(TIMED_OUT, "")], 1),
    ],
)
def test_only_a_panic_before_the_tests_is_tried_again(ends: list[Outcome], boots: int) -> None:
    left = iter(ends)
    assert until_it_boots(lambda: cast(Machine, Booted(next(left)))) == (ends[-1], boots)


def test_the_guest_begins_with_the_greeting() -> None:
    assert f'print(f"{GREETING} ' in (REPOSITORY / "tests/vm/guest.py").read_text()
