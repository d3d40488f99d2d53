"""The time line of a recording: where in it the view is, and where something happened."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message

from tracer.live.figures import fit
from tracer.live.panel import Line, Panel
from tracer.live.player import Player
from tracer.live.source import Recorded

__all__ = ["TimeLine"]

_STEPS = " ▁▂▃▄▅▆▇█"
_DAY = timedelta(days=1)
_BOLD = Style(bold=True)
_HERE = Style(reverse=True)


class TimeLine(Panel):
    """Two or three lines: the position, pages that moved, and page faults, each as far as there is room."""

    class Wanted(Message):
        """The user points at a sample."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, recorded: Recorded, player: Player) -> None:
        super().__init__()
        self._recorded = recorded
        self._player = player
        self._drawn: dict[str, tuple[tuple[int, int] | None, str]] = {}

    def make_lines(self, width: int, screen_height: int) -> list[Line]:
        lines = [self._position(width)]
        activity = self._player.activity
        if screen_height >= 16:
            lines += [self._marks("moved", activity.moved, width), self._marks("faults", activity.faults, width)]
        return lines

    def _position(self, width: int) -> Line:
        player, count = self._player, len(self._recorded)
        sign = ">" if player.playing else "="
        index = max(player.index, 0)
        left = f"{sign} {self._clock(0)} "
        right = self._tail()
        room = width - cell_len(left) - cell_len(right)
        if room < 3:
            return [Segment(fit(f"{sign} {self._clock(index)} {index + 1}/{count}", width), _BOLD)]
        at = self._cell(index, room)
        return [
            Segment(left, _BOLD),
            Segment("─" * at),
            Segment("●", _HERE),
            Segment("─" * (room - at - 1)),
            Segment(right, _BOLD),
        ]

    def _clock(self, index: int) -> str:
        long = self._recorded.time(len(self._recorded) - 1) - self._recorded.time(0) >= _DAY
        return f"{self._recorded.time(index).astimezone():{'%m-%d %H:%M' if long else '%H:%M:%S'}}"

    def _cell(self, index: int, room: int) -> int:
        count = len(self._recorded)
        return round(index * (room - 1) / (count - 1)) if count > 1 else 0

    def _marks(self, label: str, values: npt.NDArray[np.int64], width: int) -> Line:
        """One cell for some samples, the higher the more happened in them; the steps are logarithmic."""
        left, right = self._margins()
        room = width - left - right
        if room < 3:
            return [Segment(fit(label, width))]
        # Counted anew only when more is known: a day has 86,400 samples, and ten of them are shown in a second.
        key = room, self._player.known
        if self._drawn.get(label, (None, ""))[0] != key:
            self._drawn[label] = key, self._steps(values, room)
        return [Segment(fit(label.rjust(left - 1), left)), Segment(self._drawn[label][1])]

    def _steps(self, values: npt.NDArray[np.int64], room: int) -> str:
        count = len(self._recorded)
        cells = np.zeros(room, np.int64)
        places = np.round(np.arange(count) * (room - 1) / max(count - 1, 1)).astype(np.int64)
        np.add.at(cells, places, values)
        most = int(cells.max(initial=0))
        scale = np.log1p(cells) / np.log1p(most) if most else np.zeros(room)
        steps = np.ceil(scale * (len(_STEPS) - 1)).astype(int).tolist()
        return "".join(_STEPS[step] for step in steps)

    def _margins(self) -> tuple[int, int]:
        """Cells before the line and after it."""
        return cell_len(f"= {self._clock(0)} "), cell_len(self._tail())

    def _tail(self) -> str:
        """What stands after the line, always as wide."""
        count = len(self._recorded)
        number = str(max(self._player.index, 0) + 1).rjust(len(str(count)))
        return f" {self._clock(count - 1)} x{self._player.speed:g} {number}/{count}"

    def on_click(self, event: events.Click) -> None:
        event.stop()
        left, right = self._margins()
        room = self.size.width - left - right
        if room >= 3 and left <= event.x < left + room:
            share = (event.x - left) / (room - 1)
            self.post_message(self.Wanted(round(share * (len(self._recorded) - 1))))
