"""What holds for all tests."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

# How long a machine that does other things as well takes to think examples up says nothing about them.
settings.register_profile("numatrace", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("numatrace")


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """A shell that starts a job in the background has it ignore SIGINT, and so would every process of the tests."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
