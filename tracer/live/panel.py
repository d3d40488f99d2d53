"""A widget of a few lines that draws only those that have become others: an idle screen costs nothing."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

__all__ = ["Panel"]

Line = Sequence[Segment]


class Panel(Widget):
    """Shows what `make_lines` gives, in as many lines as that has."""

    DEFAULT_CSS = "Panel { height: 1; width: 1fr; }"
    can_focus = False

    def __init__(self) -> None:
        super().__init__()
        self._strips: list[Strip] = []

    def make_lines(self, width: int, screen_height: int) -> list[Line]:
        """The lines, for a panel of this width on a screen of this height. A line may be too long."""
        raise NotImplementedError

    def draw(self) -> None:
        """Make the lines anew, and refresh those that differ."""
        width = self.size.width or self.app.size.width
        lines = self.make_lines(width, self.app.size.height)
        strips = [Strip(line).adjust_cell_length(width) for line in lines]
        old, self._strips = self._strips, strips
        if len(strips) != len(old):
            self.styles.height = len(strips)
        changed = [y for y, strip in enumerate(strips) if y >= len(old) or strip._segments != old[y]._segments]
        if changed:
            self.refresh(*(Region(0, y, width, 1) for y in changed))

    def render_line(self, y: int) -> Strip:
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width)

    def on_resize(self) -> None:
        self._strips = []
        self.draw()
