"""The strip of a VMA's regions: where in it the pages of each node lie, with a cursor and zoom.

`View` is where one looks, `draw` what is seen there. A cell of the strip stands for one region or for a power of two of
them. Only what is visible is summed up.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.segment import Segment
from rich.style import Style

from tracer.live.sheet import Ink, Line, plain
from tracer.model.placement import Cells, cell_unit, cells
from tracer.model.snapshot import Regions
from tracer.model.vma import Vma
from tracer.render.palette import EMPTY, MIXED, contrast_text, node_colour, node_letter

__all__ = ["Frame", "View", "Window", "draw"]

_LABEL = 14
"""Columns for the address at the beginning of a line; with 5-level page tables, where an address may have 14 digits,
what stands behind it moves."""
_WIDEST = 8
"""Columns of a cell, at most, where a VMA has few regions."""
_PURE = 0.95
"""From this share on, a cell is said to be of one node, or of two."""


@dataclass(frozen=True, slots=True)
class Frame:
    """How many columns and lines the whole strip has; labels included."""

    width: int
    lines: int

    @property
    def columns(self) -> int:
        """For cells, in a line."""
        return max(2, self.width - _LABEL)


class View:
    """Where in a VMA one looks. zoom: None for all of it, else a cell is `1 << zoom` units of `cell_unit`.

    cursor: an address in the VMA, or None for its start.
    """

    def __init__(self) -> None:
        self.zoom: int | None = None
        self.cursor: int | None = None
        self._first_line = 0

    def shape(self, vma: Vma, frame: Frame, colour: bool) -> tuple[int, int, int]:
        """zoom, columns of a cell, and cells in a line, for this VMA and frame."""
        narrow = 1 if colour else 2
        units = self._units(vma)
        most = max(1, frame.columns // narrow * frame.lines)
        fits = max(0, (-(-units // most) - 1).bit_length())
        zoom = fits if self.zoom is None else min(self.zoom, fits)
        count = -(-units >> zoom)
        wide = narrow
        while wide < _WIDEST and frame.columns // (2 * wide) * frame.lines >= count:
            wide *= 2
        return zoom, wide, max(1, frame.columns // wide)

    @staticmethod
    def _units(vma: Vma) -> int:
        """How many of the smallest cells the VMA has."""
        unit = cell_unit(vma.page_kb)
        return -(-(vma.end - _base(vma)) // unit)

    def zoom_by(self, steps: int, vma: Vma, frame: Frame, colour: bool) -> None:
        """Positive: closer. All the way out follows the VMA's size again."""
        zoom, _, _ = self.shape(vma, frame, colour)
        self.zoom = None
        out, _, _ = self.shape(vma, frame, colour)
        wanted = max(0, zoom - steps)
        self.zoom = None if wanted >= out else wanted

    def move(self, columns: int, lines: int, vma: Vma, frame: Frame, colour: bool) -> None:
        """The cursor, by cells and by lines of them; it stays in the VMA."""
        zoom, _, per_line = self.shape(vma, frame, colour)
        self.jump(self._cell(vma, zoom) + columns + lines * per_line, vma, zoom)

    def jump(self, cell: int, vma: Vma, zoom: int = 0) -> None:
        """The cursor, to the cell of this number at this zoom."""
        size = cell_unit(vma.page_kb) << zoom
        last = (vma.end - 1 - _base(vma)) // size
        self.cursor = max(vma.start, _base(vma) + min(max(cell, 0), last) * size)

    def to_end(self, vma: Vma, end: bool) -> None:
        """The cursor, to the VMA's beginning or end."""
        self.jump(self._units(vma) if end else 0, vma)

    def _cell(self, vma: Vma, zoom: int) -> int:
        cursor = vma.start if self.cursor is None else min(max(self.cursor, vma.start), vma.end - 1)
        return (cursor - _base(vma)) // (cell_unit(vma.page_kb) << zoom)

    def window(self, regions: Regions, vma: Vma, frame: Frame, colour: bool) -> Window:
        """What is visible; scrolls so far that the cursor is in it."""
        zoom, wide, per_line = self.shape(vma, frame, colour)
        size = cell_unit(vma.page_kb) << zoom
        count = -(-(vma.end - _base(vma)) // size)
        cursor = self._cell(vma, zoom)
        total_lines = -(-count // per_line)
        line = cursor // per_line
        first = min(max(self._first_line, line - frame.lines + 1), line)
        self._first_line = max(0, min(first, total_lines - frame.lines))
        shown = min(frame.lines, total_lines - self._first_line) * per_line
        at = self._first_line * per_line
        found = cells(regions, vma.start, vma.end, size, at, min(shown, count - at))
        return Window(found, wide, per_line, cursor - at, max(vma.start, found.base), vma.start, count)


def _base(vma: Vma) -> int:
    return vma.start - vma.start % cell_unit(4)


@dataclass(frozen=True, slots=True)
class Window:
    """The visible cells. wide: columns of one. cursor: which of the cells. start: the first visible address.
    vma_start: the VMA's. count: how many cells the VMA has in all."""

    cells: Cells
    wide: int
    per_line: int
    cursor: int
    start: int
    vma_start: int
    count: int


def draw(window: Window, node_ids: tuple[int, ...], ink: Ink) -> list[Line]:
    """The lines of the strip, each with the address that it begins with."""
    marks = _marks(window.cells, node_ids, ink, window.wide)
    if 0 <= window.cursor < len(marks):
        marks[window.cursor] = _cursor_mark(marks[window.cursor], window.wide, ink)
    lines: list[Line] = []
    for at in range(0, len(marks), window.per_line):
        address = max(window.start, window.cells.base + at * window.cells.size)
        line = [plain(f"{address:<{_LABEL - 1}x} ", ink.dim)]
        lines.append(line + _merged(marks[at : at + window.per_line]))
    return lines


_Mark = tuple[str, Style]


def _merged(marks: list[_Mark]) -> Line:
    """Neighbours of one style in one segment."""
    line: Line = []
    run: list[str] = []
    for at, (text, style) in enumerate(marks):
        run.append(text)
        if at + 1 == len(marks) or marks[at + 1][1] is not style:
            line.append(Segment("".join(run), style))
            run = []
    return line


def _marks(found: Cells, node_ids: tuple[int, ...], ink: Ink, wide: int) -> list[_Mark]:
    known: dict[tuple[int, int], _Mark] = {}
    ranked = (column.tolist() for column in found.ranked())
    marks: list[_Mark] = []
    for first, second, first_share, second_share in zip(*ranked, strict=True):
        key = _kind(first, second, first_share, second_share)
        if key not in known:
            one, other = (node_ids[column] if column >= 0 else column for column in key)
            known[key] = (_painted if ink.colour else _lettered)(one, other, ink, wide)
        marks.append(known[key])
    return marks


_NONE, _SEVERAL = -1, -2


def _kind(first: int, second: int, first_share: float, second_share: float) -> tuple[int, int]:
    """The columns of the nodes that a cell is said to be of: twice the same, or two, or one and several others, or
    several without majority."""
    if first < 0 or first_share >= _PURE:
        return first, first
    if first_share + second_share >= _PURE:
        return first, second
    return (first, _SEVERAL) if first_share > 0.5 else (_SEVERAL, _SEVERAL)


def _painted(one: int, other: int, ink: Ink, wide: int) -> _Mark:
    if one == _NONE:
        return "·" * wide, ink.painted(EMPTY)
    if one == _SEVERAL:
        return "▒" * wide, ink.painted(MIXED)
    if one == other:
        return "█" * wide, ink.painted(node_colour(one))
    return "▀" * wide, ink.painted(node_colour(one), MIXED if other == _SEVERAL else node_colour(other))


def _lettered(one: int, other: int, ink: Ink, wide: int) -> _Mark:
    if one == _NONE:
        return "·" * wide, ink.dim
    letters = ["*" if node == _SEVERAL else node_letter(node) for node in (one, other)]
    return "".join(letters) * (wide // 2), ink.none


def _cursor_mark(mark: _Mark, wide: int, ink: Ink) -> _Mark:
    _, style = mark
    if ink.colour and style.color is not None and style.color.triplet is not None:
        under = style.color.triplet.hex
        return "◆" * wide, Style(color=contrast_text(under), bgcolor=under, bold=True)
    return "◆" * wide, ink.key
