"""A line to type into, at the bottom of the screen, for a search, a filter or a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.segment import Segment
from rich.style import Style
from textual import events

from tracer.live.figures import fit, fit_end, safe
from tracer.live.panel import Line, Panel

__all__ = ["Prompt", "Typed"]

_LABEL = Style(bold=True)
_CURSOR = Style(reverse=True)


@dataclass(frozen=True, slots=True)
class Typed:
    """done: with Enter; None while it goes on, False where Escape ended it."""

    purpose: str
    text: str
    done: bool | None


class Prompt(Panel):
    """typed: called with every change. purpose: what is asked for; empty while nothing is. text: what was typed."""

    DEFAULT_CSS = "Prompt { display: none; } Prompt.asking { display: block; }"

    def __init__(self, typed: Callable[[Typed], None]) -> None:
        super().__init__()
        self._typed = typed
        self.purpose = ""
        self.text = ""

    def ask(self, purpose: str, text: str = "") -> None:
        """Begin. The screen hands all keys over while there is a purpose."""
        self.purpose, self.text = purpose, text
        self.add_class("asking")
        self.draw()

    def make_lines(self, width: int, screen_height: int) -> list[Line]:
        label = f"{self.purpose}: "
        room = max(0, width - len(label) - 1)
        text = safe(self.text)
        shown = text if len(text) <= room else fit_end(text, room)
        return [[Segment(fit(label, len(label)), _LABEL), Segment(shown), Segment(" ", _CURSOR)]]

    def take(self, event: events.Key) -> None:
        """A key."""
        if event.key in ("enter", "escape", "f3", "ctrl+c", "f10"):
            self._end(event.key)
            return
        if event.key in ("backspace", "ctrl+h"):
            self.text = self.text[:-1]
        elif event.key == "ctrl+u":
            self.text = ""
        elif event.character and event.is_printable:
            self.text += event.character
        else:
            return
        self.draw()
        self._typed(Typed(self.purpose, self.text, None))

    def paste(self, text: str) -> None:
        """All of a text."""
        self.text += " ".join(text.split())
        self.draw()
        self._typed(Typed(self.purpose, self.text, None))

    def _end(self, key: str) -> None:
        if key == "f3":
            # As in htop: the next one, and the search goes on.
            self._typed(Typed(self.purpose, self.text, True))
            return
        purpose, self.purpose = self.purpose, ""
        self.remove_class("asking")
        self._typed(Typed(purpose, self.text, key == "enter"))
