"""The table of VMAs: a window on as many rows as there are, of which only those on the screen are ever drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from textual import events
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tracer.live.columns import widths
from tracer.live.figures import safe
from tracer.live.history import History
from tracer.live.lines import Look, heading, process_line, vma_line
from tracer.live.rows import Column, Layout, Listings, Rows, order, rows_of
from tracer.live.verdicts import Verdicts, identity

__all__ = ["VmaTable"]

_WHEEL_LINES = 3


class VmaTable(Widget):
    """Shows the current sample of a history. chosen: called with PID and start of a VMA that the user wants to look
    into. layout_of_rows: which rows, and in which order; change it by `set_layout`."""

    DEFAULT_CSS = "VmaTable { height: 1fr; width: 1fr; }"
    can_focus = False

    def __init__(self, history: History, chosen: Callable[[int, int], None]) -> None:
        super().__init__()
        self.layout_of_rows = Layout()
        self._chosen = chosen
        self.lines_drawn = 0
        self._history = history
        self._listings = Listings()
        self._signature: object = None
        self._rows: Rows = rows_of(history.current, None, 0.0, self._listings)
        self._order = np.zeros(0, np.int64)
        self._cursor = 0
        self._top = 0
        self._lines: list[Strip] = []

    # --- what is shown ---

    @property
    def columns(self) -> list[Column]:
        """Those that can be sorted by."""
        return [column for column in self._rows.columns if column is not Column.PID]

    @property
    def judged(self) -> bool:
        """Whether there are verdicts."""
        return self._rows.judged

    @property
    def verdicts(self) -> Verdicts:
        """Those that are known."""
        return self._listings.verdicts

    def take(self) -> None:
        """The history shows another sample, or shows it in another unit."""
        history = self._history
        signature = _signature(history)
        if signature is None or signature != self._signature:
            held = self._held()
            self._rows = rows_of(history.current, history.previous, history.seconds, self._listings)
            self._sort(held)
        self._signature = signature
        self._draw()

    def set_layout(self, layout: Layout) -> None:
        """Show the rows in another way. The VMA under the cursor stays under it, unless that is at the top."""
        held = self._held()
        self.layout_of_rows = layout
        self._sort(held)
        self._draw()

    def _sort(self, held: tuple[int, int] | None) -> None:
        self._order = order(self._rows, self.layout_of_rows, self._listings)
        if held is not None:
            self._hold(held)
        self._clamp()

    def _held(self) -> tuple[int, int] | None:
        """What is under the cursor: PID and start, -1 for the process itself. None at the top of the table: who looks
        at the first rows wants to see those that are first."""
        return self._key(self._cursor) if self._cursor and self._cursor < len(self._order) else None

    def _key(self, position: int) -> tuple[int, int]:
        row = int(self._order[position])
        if row < 0:
            return self._rows.shots[-1 - row].pid, -1
        shot, _ = self._rows.place(row)
        return self._rows.shots[shot].pid, int(self._rows.start[row])

    def _hold(self, key: tuple[int, int]) -> None:
        """Move the cursor to where this is now, and the window by as much."""
        pid, start = key
        if start < 0:
            row = next((-1 - index for index, shot in enumerate(self._rows.shots) if shot.pid == pid), None)
        else:
            row = self._rows.find(pid, start)
        found = np.flatnonzero(self._order == row).tolist() if row is not None else []
        if found:
            self._top += found[0] - self._cursor
            self._cursor = found[0]

    # --- cursor ---

    @property
    def _height(self) -> int:
        """Rows on the screen."""
        return max(1, self.size.height - 1)

    def _clamp(self) -> None:
        self._cursor = min(max(self._cursor, 0), max(0, len(self._order) - 1))
        self._top = min(max(self._top, self._cursor - self._height + 1), self._cursor)
        self._top = max(0, min(self._top, len(self._order) - self._height))

    def move(self, lines: int) -> None:
        """The cursor, down or (negative) up."""
        self._cursor += lines
        self._clamp()
        self._draw()

    def page(self, pages: int) -> None:
        """The same by screens."""
        self._top += pages * self._height
        self.move(pages * self._height)

    def to_end(self, last: bool) -> None:
        """The first row, or the last."""
        self.move(len(self._order) if last else -len(self._order))

    def selected(self) -> tuple[int, int] | None:
        """PID and start of the VMA under the cursor; start -1 on a process."""
        return self._key(self._cursor) if self._cursor < len(self._order) else None

    def search(self, needle: str, onward: bool) -> bool:
        """Move to the next row with this text, from the one under the cursor on, or after it. Whether there is one."""
        needle = needle.lower()
        count = len(self._order)
        masks = [self._rows.matches(index, needle) for index in range(len(self._rows.shots))]
        vmas = np.concatenate(masks) if masks else np.zeros(0, np.bool_)
        hits = np.zeros(count, np.bool_)
        ordinary = self._order >= 0
        hits[ordinary] = vmas[self._order[ordinary]]
        for position in np.flatnonzero(~ordinary).tolist():
            shot = self._rows.shots[-1 - int(self._order[position])]
            hits[position] = needle in f"{shot.pid} {safe(shot.comm).lower()}"
        places = np.flatnonzero(hits)
        if not len(places):
            return False
        after = places[places >= self._cursor + onward]
        self._cursor = int(after[0] if len(after) else places[0])
        self._clamp()
        self._draw()
        return True

    def count_text(self) -> str:
        """`17 of 230 VMAs`."""
        shown, every = int((self._order >= 0).sum()), len(self._rows)
        return f"{every} VMAs" if shown == every else f"{shown} of {every} VMAs"

    # --- drawing ---

    def _draw(self) -> None:
        """Make the lines of the screen, and refresh those that are others now."""
        if not self.size.height:
            return
        look = self._look()
        layout = self.layout_of_rows
        lines = [heading(look, layout)]
        window = self._order[self._top : self._top + self._height].tolist()
        findings = self._rows.judge([row for row in window if row >= 0])
        for position, row in enumerate(window, self._top):
            selected = position == self._cursor
            if row < 0:
                folded = self._rows.shots[-1 - row].pid in layout.folded
                lines.append(process_line(self._rows, -1 - row, look, selected, folded))
            else:
                lines.append(vma_line(self._rows, row, look, selected, layout.tree, findings.get(row)))
        self.lines_drawn += len(window)
        lines = lines[: self.size.height]
        lines += [Strip.blank(self.size.width)] * (self.size.height - len(lines))
        old, self._lines = self._lines, lines
        changed = [y for y, line in enumerate(lines) if y >= len(old) or old[y]._segments != line._segments]
        if changed:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in changed))

    def _look(self) -> Look:
        rows, history = self._rows, self._history
        several = len(rows.shots) > 1
        columns = widths(self.size.width, several, self.layout_of_rows.tree, rows.judged)
        return Look(columns, history.unit, history.colour, int(rows.kib.sum()), history.gone)

    def render_line(self, y: int) -> Strip:
        return self._lines[y] if y < len(self._lines) else Strip.blank(self.size.width)

    def on_resize(self) -> None:
        self._lines = []
        self._clamp()
        self._draw()

    # --- the mouse ---

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.move(_WHEEL_LINES)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.move(-_WHEEL_LINES)

    def on_click(self, event: events.Click) -> None:
        """On a heading: sort by it. On a row: go there; on the row under the cursor: look into it."""
        event.stop()
        if event.y == 0:
            self._sort_by_cell(event.x)
            return
        position = self._top + event.y - 1
        if position >= len(self._order):
            return
        if position == self._cursor:
            self.choose()
        else:
            self.move(position - self._cursor)

    def _sort_by_cell(self, x: int) -> None:
        for column, width in self._look().columns:
            if x <= width:
                self.sort_by(column)
                return
            x -= width + 1

    def sort_by(self, column: Column) -> None:
        """Sort by a column; by the one that is sorted by already: the other way round."""
        layout = self.layout_of_rows
        inverted = not layout.inverted if layout.sort is column else False
        self.set_layout(replace(layout, sort=column, inverted=inverted))

    def choose(self) -> None:
        """Enter: the VMA under the cursor, or fold and unfold a process."""
        key = self.selected()
        if key is None:
            return
        pid, start = key
        if start >= 0:
            self._chosen(pid, start)
        else:
            self.fold(pid)

    def fold(self, pid: int) -> None:
        """Hide the VMAs of a process in the tree, or show them again."""
        layout = self.layout_of_rows
        self.set_layout(replace(layout, folded=layout.folded ^ {pid}))


def _signature(history: History) -> object:
    """Of what the rows are made, where nothing happened: with an equal one they are equal. None if something did."""
    now, before = history.current, history.previous
    if before is None:
        return None
    old = {shot.pid: shot for shot in before.snapshots}
    parts = []
    for shot in now.snapshots:
        was = old.get(shot.pid)
        same = was is not None and was.vmas is shot.vmas and was.pages is shot.pages
        same = same and was is not None and identity(was.policies) == identity(shot.policies)
        quiet = not any(events is not None and len(events.vma) for events in (shot.flows, shot.faults))
        if not same or not quiet:
            return None
        objects = id(shot.vmas), id(shot.pages), identity(shot.policies)
        parts.append((shot.pid, *objects, shot.flows is None, shot.faults is None))
    return tuple(parts)
