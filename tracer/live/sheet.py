"""A page of text in colours that is drawn line by line: what the screens about one VMA and about flows are made of.

A line is a list of segments. Text from outside is put into segments as it is after `printable`, so no markup in it can
ever be understood as such.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tracer.render.palette import node_colour, node_letter

__all__ = ["Ink", "Line", "Sheet", "beside", "footer", "help_lines", "plain", "state_of", "text_of", "width_of"]

Line = list[Segment]

_WORDS = 19
"""Columns for keys on a page of help."""


class Ink:
    """Styles with or without colour. Without, nothing but bold, dim, reverse and underlined is left."""

    bold = Style(bold=True)
    dim = Style(dim=True)
    key = Style(reverse=True)
    none = Style()

    def __init__(self, colour: bool) -> None:
        self.colour = colour
        self.warning = Style(color="#ff8080", bold=True) if colour else Style(bold=True, reverse=True)

    def node(self, node: int, bold: bool = False) -> Style:
        """Of text about a node. node: its id; -1 for one that is not known."""
        return Style(color=node_colour(node) if self.colour and node >= 0 else None, bold=bold or None)

    def painted(self, front: str, back: str | None = None) -> Style:
        """Colours (`#rrggbb`) as they are, or none."""
        return Style(color=front, bgcolor=back) if self.colour else self.none

    def bar(self, node: int, cells: int) -> Segment:
        """A bar of this node."""
        return Segment(("█" if self.colour else node_letter(node)) * cells, self.node(node))


def plain(text: str, style: Style | None = None) -> Segment:
    """A piece of a line."""
    return Segment(text, style or Style())


def width_of(line: Iterable[Segment]) -> int:
    """In cells of the terminal."""
    return sum(cell_len(segment.text) for segment in line)


def text_of(line: Iterable[Segment]) -> str:
    """Without styles, without blanks at the end."""
    return "".join(segment.text for segment in line).rstrip()


def beside(left: Sequence[Line], right: Sequence[Line], width: int) -> list[Line]:
    """Two blocks next to each other, the right one beginning in column `width`."""
    lines: list[Line] = []
    for at in range(max(len(left), len(right))):
        line = list(left[at]) if at < len(left) else []
        line = list(Segment.adjust_line_length(line, width))
        lines.append(line + (list(right[at]) if at < len(right) else []))
    return lines


def footer(keys: Iterable[tuple[str, str]], width: int, ink: Ink, right: str = "") -> Line:
    """The last line: keys and what they do, as many as fit, and at its end how it is with time, if there is room."""
    line: Line = []
    for key, what in keys:
        if width_of(line) + cell_len(f" {key}  {what} ") > width:
            break
        line += [plain(f" {key} ", ink.key), plain(f" {what} ")]
    left = width - width_of(line)
    return [*line, plain(right.rjust(left))] if right and cell_len(right) < left else line


def state_of(app: App[object]) -> str:
    """The time that the application shows and whether it is paused, if it is one that has time."""
    text = getattr(app, "state_text", None)
    return str(text()) if callable(text) else ""


def help_lines(title: str, help_text: Iterable[tuple[str, str]], width: int, height: int, ink: Ink) -> list[Line]:
    """A page of explanations. help_text: keys or words of the screen, and what they mean."""
    lines: list[Line] = [[plain(title, ink.bold)], []]
    for word, meaning in help_text:
        first, *more = textwrap.wrap(meaning, max(20, width - _WORDS - 2)) or [""]
        lines.append([plain(f"{word:{_WORDS}}", ink.bold), plain(first)])
        lines += [[plain(" " * _WORDS + text)] for text in more]
    lines = lines[:height]
    return lines + [[] for _ in range(height - len(lines))]


class Sheet(Widget):
    """Draws the lines that it is given. Only lines that differ from what it shows are drawn again."""

    DEFAULT_CSS = """
    Sheet { width: 100%; height: 100%; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[Line] = []

    def show_lines(self, lines: list[Line]) -> None:
        """What stands on it from now on; what does not fit is cut off."""
        old, self._lines = self._lines, lines
        for at in range(min(max(len(old), len(lines)), self.size.height)):
            if at >= len(old) or at >= len(lines) or old[at] != lines[at]:
                self.refresh(Region(0, at, self.size.width, 1))

    def text_lines(self) -> list[str]:
        """As one reads it."""
        return [text_of(line) for line in self._lines]

    def render_line(self, y: int) -> Strip:
        """The line at `y`."""
        width = self.size.width
        line = self._lines[y] if y < len(self._lines) else []
        return Strip(line).adjust_cell_length(width).apply_style(self.rich_style)
