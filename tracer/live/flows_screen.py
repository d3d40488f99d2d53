"""The screen about flows between nodes: from where to where, why, and which VMAs, of all targets together."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from tracer.live.drill import VmaScreen
from tracer.live.flows_page import Flowing, flowing, flows_page
from tracer.live.history import History
from tracer.live.sheet import Ink, Line
from tracer.live.sheet_screen import SheetScreen, Words
from tracer.model.sample import Sample

__all__ = ["FlowsScreen"]

_MACHINE = (
    "what the whole machine migrated since the last refresh, and how much of it was of the targets; a page that "
    "several targets map counts once there, and in each of them here"
)
_HELP = (
    ("Esc q Backspace", "back to the table"),
    ("c", "order by what moved now, or in all; a narrow terminal shows only this one"),
    ("r R", "only the next, or the previous, of the kernel's reasons; after the last one all of them again"),
    ("up down PgUp PgDn", "choose one of the VMAs"),
    ("Enter", "more about that VMA"),
    ("Space [ ]", "hold, and step back and forth in time"),
    ("F1 ? h", "this help"),
    ("", ""),
    ("from to", "rows of the matrix are the nodes that pages left, columns those that they reached"),
    ("failed", "pages that were to move and stayed where they were"),
    ("machine/s", _MACHINE),
)


class FlowsScreen(SheetScreen):
    """The matrix, the reasons, and the VMAs behind it."""

    help_title = "About flows"
    help_text = _HELP

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "turn", "now or in all"),
        Binding("r", "reason(1)", "by reason"),
        Binding("R", "reason(-1)", show=False),
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "move(-10)", show=False),
        Binding("pagedown", "move(10)", show=False),
        Binding("enter", "open", "more"),
    ]

    def __init__(self, history: History) -> None:
        super().__init__(history)
        self._in_all = False
        self._reason: str | None = None
        self._chosen: tuple[int, int] | None = None
        self._known: Flowing | None = None
        self._signature: tuple[Sample, float, str | None, bool] | None = None

    def on_screen_resume(self) -> None:
        """Time went on while another screen was in front."""
        self.refresh_from(self._history)

    def _learn(self) -> None:
        history = self._history
        signature = history.current, history.summed_s, self._reason, self._in_all
        # The sample itself, not what is equal to it: that comparison would cost more than it saves.
        if self._signature is None or signature[0] is not self._signature[0] or signature[1:] != self._signature[1:]:
            self._known, self._signature = flowing(history, self._reason, self._in_all), signature

    def _keys(self) -> Words:
        other = "now" if self._in_all else "in all"
        return ("Esc", "back"), ("c", other), ("r", "reason"), ("↑↓", "choose"), ("Enter", "VMA"), ("?", "help")

    def _lines(self, width: int, height: int, ink: Ink) -> list[Line]:
        return [] if self._known is None else flows_page(self._known, self._chosen, width, height, ink)

    # -- keys --

    def action_turn(self) -> None:
        """Now or in all."""
        self._in_all = not self._in_all
        self._learn()
        self.draw()

    def action_reason(self, by: int) -> None:
        """Another reason only, in alphabetical order, or all of them."""
        known = self._known
        if known is not None:
            reasons: list[str | None] = [None, *sorted(known.total.reasons)]
            at = reasons.index(self._reason) if self._reason in reasons else 0
            self._reason = reasons[(at + by) % len(reasons)]
            self._learn()
            self.draw()

    def action_move(self, by: int) -> None:
        """Choose another of the VMAs."""
        known = self._known
        if known is not None and known.vmas:
            keys = [moved.key for moved in known.vmas]
            at = keys.index(self._chosen) + by if self._chosen in keys else 0 if by > 0 else len(keys) - 1
            self._chosen = keys[min(max(at, 0), len(keys) - 1)]
            self.draw()

    def action_open(self) -> None:
        """More about the chosen VMA, or the first one."""
        known = self._known
        if known is None or not known.vmas:
            return
        keys = [moved.key for moved in known.vmas]
        pid, start = self._chosen if self._chosen in keys and self._chosen is not None else keys[0]
        if start >= 0:
            self.app.push_screen(VmaScreen(self._history, pid, start))
