"""Screens kept as text under tests/golden/live: what a user saw when somebody last looked and found it right.

Run the tests with NUMATRACE_NEW_SCREENS=1 to write them anew, and look at the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.unit.live_fakes import screen_text
from tracer.live.app import NumatraceApp

__all__ = ["check"]

_SCREENS = Path(__file__).resolve().parents[1] / "golden" / "live"


def check(app: NumatraceApp, name: str) -> None:
    """The screen is the one that was kept under this name."""
    text, path = screen_text(app), _SCREENS / f"{name}.txt"
    if os.environ.get("NUMATRACE_NEW_SCREENS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
