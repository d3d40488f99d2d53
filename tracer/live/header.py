"""The top of the screen: what is watched, where its pages are in all, and how far that can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from tracer.live.bars import bar
from tracer.live.figures import bytes_text, count_text, fit, safe
from tracer.live.history import History, Unit
from tracer.live.panel import Line, Panel
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Vma

__all__ = ["Header"]

_PLAIN = Style()
_BOLD = Style(bold=True)
_ALARM = Style(bold=True, reverse=True)
_ALARM_COLOUR = Style(bold=True, color="#000000", bgcolor="#e69f00")

_METER_WIDTH = 38
"""Cells that a node's bar needs with all that belongs to it."""
_WIDE_METER = 56
"""From here on pages and bytes have both room."""
_STALE_S = 10.0
"""A count that nobody has confirmed for so long is worth a look."""

_PAGE_KB = 4


class _Totals:
    """Adds up pages by node. Remembers in which lists of VMAs there are pages of other sizes than 4 KiB."""

    def __init__(self) -> None:
        self._sizes: dict[int, tuple[tuple[Vma, ...], list[tuple[int, int]]]] = {}

    def kib(self, sample: Sample) -> list[int]:
        """KiB on each node, of all targets."""
        kib = np.zeros(len(sample.node_ids), np.int64)
        for shot in sample.snapshots:
            kib += shot.pages.sum(axis=0) * _PAGE_KB
            for row, page_kb in self._other_sizes(shot):
                kib += shot.pages[row] * (page_kb - _PAGE_KB)
        pids = {shot.pid for shot in sample.snapshots}
        self._sizes = {pid: sizes for pid, sizes in self._sizes.items() if pid in pids}
        result: list[int] = kib.tolist()
        return result

    def _other_sizes(self, shot: Snapshot) -> list[tuple[int, int]]:
        """Rows with other pages, and KiB of those; there are few or none."""
        known = self._sizes.get(shot.pid)
        if known is None or known[0] is not shot.vmas:
            found = [(row, vma.page_kb) for row, vma in enumerate(shot.vmas) if vma.page_kb != _PAGE_KB]
            known = self._sizes[shot.pid] = shot.vmas, found
        return known[1]


@dataclass(frozen=True, slots=True)
class _Meter:
    """Of one node, or of several that there is no room for one by one."""

    name: str
    nodes: Sequence[int]
    pages: Sequence[int]
    kib: int


class Header(Panel):
    """state: what the view is doing, at the end of the first line: the time, paused, exited."""

    def __init__(self, history: History, title: str) -> None:
        super().__init__()
        self.state = ""
        self._history = history
        self._title = title
        self._totals = _Totals()

    def make_lines(self, width: int, screen_height: int) -> list[Line]:
        lines = [self._first(width), *self._meters(width, max(1, (screen_height - 10) // 3))]
        if screen_height < 8:
            return lines[:1]
        return lines + _wrapped(self._status(), width, self._alarm_style())

    def _first(self, width: int) -> Line:
        right = " " + safe(self.state)
        left = f"numatrace  {self._targets()}"
        return [Segment(fit(left, max(0, width - cell_len(right))), _BOLD), Segment(right, _BOLD)]

    def _targets(self) -> str:
        history = self._history
        shots = history.current.snapshots
        if not shots:
            return f"{safe(self._title)}: nobody there"
        names = [_name(shot, shot.pid in history.gone) for shot in shots[:20]]
        return names[0] if len(shots) == 1 else f"{len(shots)} targets: {', '.join(names)}"

    def _meters(self, width: int, most_lines: int) -> list[Line]:
        sample = self._history.current
        node_ids, pages, kib = sample.node_ids, sample.totals.tolist(), self._totals.kib(sample)
        columns = max(1, min(width // _METER_WIDTH, len(node_ids)))
        # As many in each line, and so as wide as they can be.
        columns = -(-len(node_ids) // max(1, -(-len(node_ids) // columns)))
        columns = max(columns, 1)
        room = columns * most_lines
        single = len(node_ids) if len(node_ids) <= room else room - 1
        meters = [_Meter(f"N{node_ids[at]}", (node_ids[at],), (pages[at],), kib[at]) for at in range(single)]
        if single < len(node_ids):
            rest = slice(single, None)
            meters.append(_Meter(f"{len(node_ids) - single} more", node_ids[rest], pages[rest], sum(kib[rest])))
        cell = (width - columns + 1) // columns
        drawn = [self._meter(meter, sum(kib), cell) for meter in meters]
        return [_side_by_side(drawn[at : at + columns]) for at in range(0, len(drawn), columns)]

    def _meter(self, meter: _Meter, all_kib: int, width: int) -> Line:
        """`N0[████      ]  123456  45.1%`, the bar as long as the share of the pages of all nodes."""
        unit, count = self._history.unit, sum(meter.pages)
        share = f"{100 * meter.kib / all_kib:.1f}%" if all_kib else "0.0%"
        figure = {
            Unit.PAGES: count_text(count, 9),
            Unit.BYTES: bytes_text(meter.kib * 1024),
            Unit.PERCENT: "",
        }[unit]
        if width >= _WIDE_METER:
            figure = f" {count_text(count, 12):>9} pages {bytes_text(meter.kib * 1024):>6}"
        text = f"{figure:>9} {share:>6}" if figure else f" {share:>6}"
        room = width - len(meter.name) - 2 - len(text)
        if room < 1:
            return [Segment(fit(f"{meter.name} {figure} {share}", width))]
        # The rest of all pages stands for the cells that stay empty.
        filled = max(1, round(room * meter.kib / all_kib)) if count and all_kib else 0
        return [
            Segment(meter.name, _BOLD),
            Segment("["),
            *bar(meter.nodes, meter.pages, filled, self._history.colour),
            Segment(" " * (room - filled) + "]" + text),
        ]

    def _status(self) -> list[tuple[str, bool]]:
        """Pieces of text, and whether each is an alarm."""
        sample = self._history.current
        shots = sample.snapshots
        trust = [shot.trust for shot in shots]
        lost = max((item.lost for item in trust), default=0)
        sums = {key: sum(getattr(item, key) for item in trust) for key in ("settling", "unexplained", "drift")}
        oldest = max((item.oldest_read_s for item in trust), default=0.0)
        counts = {"lost": lost, **sums}
        if sample.untraced:
            counts["untraced"] = sample.untraced
        pieces = [
            ("hooks " + ("/".join(sorted({shot.hooks for shot in shots})) or "-"), False),
            ("reader " + ("/".join(sorted({shot.reader for shot in shots})) or "-"), False),
        ]
        pieces += [(f"{key} {count}", count != 0) for key, count in counts.items()]
        pieces.append((f"oldest {oldest:.1f} s", oldest > _STALE_S))
        cpu_ms = sum(shot.refresh.cpu_ns for shot in shots) / 1e6
        regions = sum(shot.refresh.regions_read for shot in shots)
        pieces.append((f"refresh {cpu_ms:.1f} ms, {regions} regions", False))
        return pieces

    def _alarm_style(self) -> Style:
        """For what is not as it should be."""
        return _ALARM_COLOUR if self._history.colour else _ALARM


def _name(shot: Snapshot, gone: bool) -> str:
    inner = shot.namespace_pid or shot.pid
    namespace = f" ({inner} in its namespace)" if inner != shot.pid else ""
    return f"{shot.pid} {safe(shot.comm)}{namespace}{' (exited)' if gone else ''}"


def _side_by_side(meters: Sequence[Line]) -> Line:
    line: list[Segment] = []
    for meter in meters:
        line += [*meter, Segment(" ")]
    return line


def _wrapped(pieces: list[tuple[str, bool]], width: int, alarm: Style) -> list[Line]:
    """The pieces with two blanks between them, in as few lines as they fit into."""
    lines: list[list[Segment]] = [[]]
    used = 0
    for text, is_alarm in pieces:
        if used and used + 2 + len(text) > width:
            lines.append([])
            used = 0
        if used:
            lines[-1].append(Segment("  "))
        lines[-1].append(Segment(text, alarm if is_alarm else _PLAIN))
        used += len(text) + 2 * bool(used)
    return list(lines)
