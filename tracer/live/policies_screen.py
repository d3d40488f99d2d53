"""The screen about policies: verdicts in all, the policies of threads, what changed, and how full the nodes are."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from tracer.live.history import History
from tracer.live.policies_page import Ruling, policy_lines, ruling
from tracer.live.sheet import Ink, Line
from tracer.live.sheet_screen import SheetScreen, Words
from tracer.live.verdicts import Verdicts
from tracer.live.why import cut
from tracer.model.sample import Sample

__all__ = ["PoliciesScreen"]

_TASKS = (
    "set_mempolicy() is per thread: each line is a policy with the threads that have it, the main thread's first; "
    "another than that is marked"
)
_CHANGES = "those of the last samples: what it was and what it became, of an area or of a thread"
_FOREIGN = (
    "allocations meant for the node that another one had to serve, of the whole machine since the view began; free, "
    "low and high are its free memory and its watermarks: at low it is full"
)
_HELP = (
    ("Esc q Backspace", "back to the table"),
    ("arrows, PgUp PgDn", "scroll"),
    ("Home End", "to the beginning and the end"),
    ("Space [ ]", "hold, and step back and forth in time"),
    ("F1 ? h", "this help"),
    ("", ""),
    ("threads", _TASKS),
    ("may use", "nodes that its cpuset allows and that have memory"),
    ("weights", "of weighted interleave, from /sys/kernel/mm/mempolicy/weighted_interleave"),
    ("changes", _CHANGES),
    ("foreign", _FOREIGN),
)


class PoliciesScreen(SheetScreen):
    """verdicts: those of the table, which need not be found out twice."""

    help_title = "About policies"
    help_text = _HELP

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "end(False)", show=False),
        Binding("end", "end(True)", show=False),
    ]

    def __init__(self, history: History, verdicts: Verdicts) -> None:
        super().__init__(history)
        self._verdicts = verdicts
        self._known: Ruling | None = None
        self._sample: Sample | None = None
        self._first, self._last, self._page = 0, 0, 1

    def _learn(self) -> None:
        # Each sample once, however often it is drawn.
        if self._sample is not self._history.current:
            self._sample = self._history.current
            self._known = ruling(self._history, self._verdicts)

    def _keys(self) -> Words:
        return ("Esc", "back"), ("↑↓", "scroll"), ("?", "help")

    def _lines(self, width: int, height: int, ink: Ink) -> list[Line]:
        if self._known is None:
            return []
        lines = policy_lines(self._known, width, ink)
        self._page = max(height - 1, 1)
        self._last = max(len(lines) - height, 0)
        self._first = min(self._first, self._last)
        return cut(lines, self._first, height, "down", ink)

    # -- keys --

    def action_move(self, lines: int) -> None:
        """Down, or (negative) up."""
        self._first = min(max(self._first + lines, 0), self._last)
        self.draw()

    def action_page(self, pages: int) -> None:
        """The same by screens."""
        self.action_move(pages * self._page)

    def action_end(self, end: bool) -> None:
        """To the beginning, or the end."""
        self.action_move(self._last if end else -self._last)
