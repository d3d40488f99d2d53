"""Screens on top of the table: the choice of a column to sort by, and the help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget

from tracer.live.figures import fit
from tracer.live.rows import Column

__all__ = ["HelpScreen", "SortScreen"]

_PLAIN = Style()
_HERE = Style(reverse=True)
_TITLE = Style(bold=True)


class _List(Widget):
    """Lines of text with a title. cursor: the line that is marked, None for none."""

    DEFAULT_CSS = "_List { height: 1fr; width: 1fr; }"

    def __init__(self, title: str, lines: Sequence[str], cursor: int | None) -> None:
        super().__init__()
        self._title = title
        self._texts = lines
        self.cursor = cursor
        self.top = 0

    def move(self, by: int) -> None:
        """The cursor, or where there is none the window."""
        height = max(1, self.size.height - 2)
        if self.cursor is None:
            self.top = max(0, min(self.top + by, len(self._texts) - height))
        else:
            self.cursor = min(max(self.cursor + by, 0), len(self._texts) - 1)
            self.top = min(max(self.top, self.cursor - height + 1), self.cursor)
        self.refresh()

    @property
    def page(self) -> int:
        """Lines that fit on the screen."""
        return max(1, self.size.height - 2)

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        index = self.top + y - 1
        if y == 0:
            segment = Segment(fit(self._title, width), _TITLE)
        elif 0 <= index < len(self._texts):
            segment = Segment(fit(self._texts[index], width), _HERE if index == self.cursor else _PLAIN)
        else:
            segment = Segment(" " * width)
        return Strip([segment], width)


_MOVES: list[BindingType] = [
    Binding("up,k", "move(-1)"),
    Binding("down,j", "move(1)"),
    Binding("pageup", "page(-1)"),
    Binding("pagedown,space", "page(1)"),
]


class SortScreen(Screen[Column | None]):
    """Gives the column that was chosen, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *_MOVES,
        Binding("enter", "choose"),
        Binding("escape,q,f6", "leave"),
    ]

    def __init__(self, columns: Sequence[Column], now: Column) -> None:
        super().__init__()
        self._columns = columns
        names = [f"  {column.value}" for column in columns]
        cursor = columns.index(now) if now in columns else 0
        self._list = _List("Sort by (Enter takes it, Esc leaves it as it is)", names, cursor)

    def compose(self) -> ComposeResult:
        yield self._list

    def action_move(self, by: int) -> None:
        self._list.move(by)

    def action_page(self, by: int) -> None:
        self._list.move(by * self._list.page)

    def action_choose(self) -> None:
        self.dismiss(self._columns[self._list.cursor or 0])

    def action_leave(self) -> None:
        self.dismiss(None)

    def on_click(self, event: events.Click) -> None:
        index = self._list.top + event.screen_y - 1
        if 0 <= index < len(self._columns) and self.is_current:
            self.dismiss(self._columns[index])


class HelpScreen(Screen[None]):
    """Any other key than those that move leaves it."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__()
        self._list = _List("numatrace: keys (any other key goes back)", lines, None)

    def compose(self) -> ComposeResult:
        yield self._list

    def take_key(self, event: events.Key) -> None:
        page = self._list.page
        moves = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -page, "pagedown": page, "space": page}
        if event.key in moves:
            self._list.move(moves[event.key])
        else:
            self.dismiss(None)
