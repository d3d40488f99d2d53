"""The screen about flows between nodes: from where to where, why, and which VMAs, of all targets together."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tracer.live.drill import VmaScreen
from tracer.live.flows_page import Flowing, flowing, flows_page
from tracer.live.history import History
from tracer.live.sheet import Ink, Line, Sheet, footer, help_lines, state_of
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


class FlowsScreen(Screen[None]):
    """history: what is shown."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,backspace", "back", "back"),
        Binding("f1,question_mark,h", "help", "help"),
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
        super().__init__()
        self.sheet = Sheet()
        self._history = history
        self._in_all = False
        self._reason: str | None = None
        self._chosen: tuple[int, int] | None = None
        self._known: Flowing | None = None
        self._signature: tuple[Sample, float, str | None, bool] | None = None
        self._helping = False

    def compose(self) -> ComposeResult:
        """The sheet, and nothing else."""
        yield self.sheet

    def on_mount(self) -> None:
        """Show what there is, without waiting for the next sample."""
        self.refresh_from(self._history)

    def on_resize(self, event: events.Resize) -> None:
        """Lay out anew."""
        self._draw(event.size.width, event.size.height)

    def on_screen_resume(self) -> None:
        """Time went on while another screen was in front."""
        self.refresh_from(self._history)

    def refresh_from(self, history: History) -> None:
        """The history shows another sample, or shows it in another way."""
        self._history = history
        self._learn()

    def _learn(self) -> None:
        history = self._history
        signature = history.current, history.summed_s, self._reason, self._in_all
        # The sample itself, not what is equal to it: that comparison would cost more than it saves.
        if self._signature is None or signature[0] is not self._signature[0] or signature[1:] != self._signature[1:]:
            self._known, self._signature = flowing(history, self._reason, self._in_all), signature
        self._draw(self.size.width, self.size.height)

    def _draw(self, width: int, height: int) -> None:
        if width > 0 and height > 0 and self._known is not None:
            self.sheet.show_lines(self._lines(self._known, width, height))

    def _lines(self, known: Flowing, width: int, height: int) -> list[Line]:
        ink = Ink(self._history.colour)
        other = "now" if self._in_all else "in all"
        keys = (("Esc", "back"), ("c", other), ("r", "reason"), ("↑↓", "choose"), ("Enter", "VMA"), ("?", "help"))
        foot = footer(keys, width, ink, state_of(self.app))
        if self._helping:
            return [*help_lines("About flows", _HELP, width, height - 1, ink), foot]
        lines = flows_page(known, self._chosen, width, height - 1, ink)
        return [*lines, *([] for _ in range(height - 1 - len(lines))), foot]

    # -- keys --

    def action_back(self) -> None:
        """Out of the help, or of the screen."""
        if self._helping:
            self.action_help()
        else:
            self.dismiss()

    def action_help(self) -> None:
        """Show it, or what was there before."""
        self._helping = not self._helping
        self._draw(self.size.width, self.size.height)

    def action_turn(self) -> None:
        """Now or in all."""
        self._in_all = not self._in_all
        self._learn()

    def action_reason(self, by: int) -> None:
        """Another reason only, in alphabetical order, or all of them."""
        known = self._known
        if known is not None:
            reasons: list[str | None] = [None, *sorted(known.total.reasons)]
            at = reasons.index(self._reason) if self._reason in reasons else 0
            self._reason = reasons[(at + by) % len(reasons)]
            self._learn()

    def action_move(self, by: int) -> None:
        """Choose another of the VMAs."""
        known = self._known
        if known is not None and known.vmas:
            keys = [moved.key for moved in known.vmas]
            at = keys.index(self._chosen) + by if self._chosen in keys else 0 if by > 0 else len(keys) - 1
            self._chosen = keys[min(max(at, 0), len(keys) - 1)]
            self._draw(self.size.width, self.size.height)

    def action_open(self) -> None:
        """More about the chosen VMA, or the first one."""
        known = self._known
        if known is None or not known.vmas:
            return
        keys = [moved.key for moved in known.vmas]
        pid, start = self._chosen if self._chosen in keys and self._chosen is not None else keys[0]
        if start >= 0:
            self.app.push_screen(VmaScreen(self._history, pid, start))
