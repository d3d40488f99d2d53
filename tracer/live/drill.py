"""The screen about one VMA: its policy and what it promises, where in it the pages lie, what moved, who touched first.

It shows the sample that the history shows, so it can be looked at while time is stepped through as well. When the VMA
or its target is gone it says so, and keeps what was last seen.
"""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from tracer.live.history import History
from tracer.live.sheet import Ink, Line, plain
from tracer.live.sheet_screen import SheetScreen, Words
from tracer.live.strip import Frame, View
from tracer.live.subject import Subject
from tracer.live.verdicts import Verdicts
from tracer.live.vma_page import Facts, page, why_page
from tracer.model.placement import first_touch

__all__ = ["VmaScreen"]

_EXPECTED = (
    "the share of pages that the policy gives a node as long as it has room; `by touch` where the CPU that touches a "
    "page first decides, `by weight` where weights do, which are not known here, `within` and `preferred` where any "
    "of the policy's nodes will do"
)
_HELP = (
    ("Esc q Backspace", "back to the table"),
    ("+ -", "closer, and less close; all the way out the strip shows the whole VMA"),
    ("arrows, PgUp PgDn", "move the cursor in the strip; the line below tells its address and pages"),
    ("Home End", "to the beginning and the end of the VMA"),
    ("u", "pages, bytes, or percent"),
    ("Space [ ]", "hold, and step back and forth in time"),
    ("F1 ? h", "this help"),
    ("", ""),
    ("expected", _EXPECTED),
    ("difference", "pages more or fewer than that; the mark in the bar is where it should end"),
    ("regions", "aligned 2 MiB of addresses; a cell of the strip is one of them, or 2, 4, 8 ..."),
    ("first touch", "pages that faults placed, by node of the CPU (rows) and node of the page (columns)"),
)
_EXPECTED_OF_USABLE = (
    "the share of pages that the policy gives a node that it can use; `by touch`, `within`, `preferred`: the CPU that "
    "touches a page first decides, `by weight`: weights that are not known"
)
_HELP_JUDGED = (
    *_HELP[:5],
    ("w", "all about the verdict, which arrows scroll; w again: back"),
    *_HELP[5:8],
    ("expected", _EXPECTED_OF_USABLE),
    ("difference", "pages more or fewer than that; the mark in the bar"),
    ("verdict", "whether pages lie as promised, but for what is chance"),
    ("because", "pages elsewhere than promised, by cause; → what helps"),
    ("regions", "a cell of the strip is 2 MiB of addresses, or 4, 8 ..."),
    ("first touch", "pages, by node of the CPU (rows) and of the page"),
)
"""With verdicts there is more to say, in as many lines."""


class VmaScreen(SheetScreen):
    """pid, start: of the target, and where the VMA begins."""

    help_title = "About one VMA"
    help_text = _HELP

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "zoom(1)", "closer"),
        Binding("minus,underscore", "zoom(-1)", "less close"),
        Binding("left", "move(-1,0)", show=False),
        Binding("right", "move(1,0)", show=False),
        Binding("up", "move(0,-1)", show=False),
        Binding("down", "move(0,1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("home", "end(False)", show=False),
        Binding("end", "end(True)", show=False),
        Binding("w", "why", "why"),
    ]

    def __init__(self, history: History, pid: int, start: int) -> None:
        super().__init__(history)
        self._subject = Subject(pid, start)
        self._view = View()
        self._frame = Frame(0, 1)
        self._facts: Facts | None = None
        self._verdicts = Verdicts()
        self._about_why = False
        self._first, self._last = 0, 0

    def _learn(self) -> None:
        self._subject.look(self._history.current, self._history.gone)
        self._facts = self._find_out()

    def _find_out(self) -> Facts | None:
        subject, history = self._subject, self._history
        found = subject.found
        if found is None:
            return None
        shot = found.snapshot
        touch = None if shot.faults is None else first_touch(subject.faults(history), shot.node_ids)
        return Facts(
            found=found,
            gone=subject.gone,
            now=None if shot.flows is None else subject.flows_now(),
            seconds=history.seconds,
            total=subject.flows(history),
            total_s=history.summed_s,
            touch=touch,
            finding=self._verdicts.of(shot, [found.row])[0],
        )

    @property
    def _judged(self) -> bool:
        return self._facts is not None and self._facts.found.snapshot.policies is not None

    def _keys(self) -> Words:
        if not self._judged:
            return ("Esc", "back"), ("+ -", "zoom"), ("←↑↓→", "cursor"), ("?", "help")
        if self._about_why:
            return ("Esc", "back"), ("↑↓", "scroll"), ("w", "where"), ("?", "help")
        return ("Esc", "back"), ("+ -", "zoom"), ("←↑↓→", "cursor"), ("w", "why"), ("?", "help")

    def _help_words(self) -> Words:
        return _HELP_JUDGED if self._judged else _HELP

    def _lines(self, width: int, height: int, ink: Ink) -> list[Line]:
        if self._facts is None:
            subject = self._subject
            return [[plain(f"{subject.start:x} of PID {subject.pid}: {subject.gone}", ink.warning)]]
        if self._about_why and self._judged:
            lines, self._last = why_page(self._facts, self._first, self._history.unit, width, height, ink)
            self._first = min(self._first, self._last)
            return lines
        shown = page(self._facts, self._view, self._history.unit, width, height, ink)
        self._frame = shown.frame
        return shown.lines

    # -- keys --

    def action_zoom(self, steps: int) -> None:
        """Positive: closer."""
        if self._facts is not None:
            self._view.zoom_by(steps, self._facts.found.vma, self._frame, self._history.colour)
            self.draw()

    def action_move(self, columns: int, lines: int) -> None:
        """The cursor, by cells; where all about the verdict is shown, that."""
        if self._about_why and self._judged:
            self._scroll(lines)
        elif self._facts is not None:
            self._view.move(columns, lines, self._facts.found.vma, self._frame, self._history.colour)
            self.draw()

    def action_page(self, pages: int) -> None:
        """The cursor, by as many lines as the strip has."""
        self.action_move(0, pages * self._frame.lines)

    def action_end(self, end: bool) -> None:
        """The cursor, to the beginning or the end."""
        if self._about_why and self._judged:
            self._scroll(self._last if end else -self._last)
        elif self._facts is not None:
            self._view.to_end(self._facts.found.vma, end)
            self.draw()

    def action_why(self) -> None:
        """All about the verdict, or back to where the pages are."""
        self._about_why = not self._about_why
        self._first = 0
        self.draw()

    def _scroll(self, lines: int) -> None:
        self._first = min(max(self._first + lines, 0), self._last)
        self.draw()
