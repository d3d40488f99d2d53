"""What the screens that are one sheet of lines share: they lay out anew when they must, have a help, and go back."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tracer.live.history import History
from tracer.live.sheet import Ink, Line, Sheet, footer, help_lines, state_of

__all__ = ["SheetScreen"]

Words = tuple[tuple[str, str], ...]


class SheetScreen(Screen[None]):
    """history: what is shown. help_title, help_text: of its help."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,backspace", "back", "back"),
        Binding("f1,question_mark,h", "help", "help"),
    ]

    help_title: ClassVar[str]
    help_text: ClassVar[Words]

    def __init__(self, history: History) -> None:
        super().__init__()
        self.sheet = Sheet()
        self._history = history
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

    def refresh_from(self, history: History) -> None:
        """The history shows another sample, or shows it in another way."""
        self._history = history
        self._learn()
        self.draw()

    def draw(self) -> None:
        """In the present size."""
        self._draw(self.size.width, self.size.height)

    def _draw(self, width: int, height: int) -> None:
        if width <= 0 or height <= 0:
            return
        ink = Ink(self._history.colour)
        foot = footer(self._keys(), width, ink, state_of(self.app))
        if self._helping:
            lines = help_lines(self.help_title, self._help_words(), width, height - 1, ink)
        else:
            lines = self._lines(width, height - 1, ink)
            lines = [*lines, *([] for _ in range(height - 1 - len(lines)))]
        self.sheet.show_lines([*lines, foot])

    def _learn(self) -> None:
        """Take out of the history what will be shown."""
        raise NotImplementedError

    def _keys(self) -> Words:
        """Key and word of the footer."""
        raise NotImplementedError

    def _help_words(self) -> Words:
        """What the help explains: where it depends on what there is, another one than `help_text`."""
        return self.help_text

    def _lines(self, width: int, height: int, ink: Ink) -> list[Line]:
        """At most `height` lines, without the footer."""
        raise NotImplementedError

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
        self.draw()
