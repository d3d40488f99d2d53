"""The map of the address space over time: which node had most of each stretch of addresses, and how clearly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tracer.render.palette import MIXED, node_colour
from tracer.report.addresses import Scale, Shares, shares
from tracer.report.figure import INK, MUTED, clean, new_figure, put_text, time_axis
from tracer.report.history import History
from tracer.report.steps import Bookings, Steps
from tracer.report.words import amount, shortened, shown

__all__ = ["TARGETS", "draw"]

Int64s = npt.NDArray[np.int64]

TARGETS = 4
"""Targets whose addresses are shown, the largest ones."""
_ROWS = 300
_HEIGHT_IN, _PANEL_IN = 4.6, 2.9
_LABELS_PER_IN = 4.0
_NAME_CHARACTERS = 30
_REGION = 1 << 21
_PALEST = 0.18


@dataclass(frozen=True, slots=True)
class _Part:
    """What is drawn of one target: stretches of addresses, int64[n] each, and what was booked of them.

    at: of each booking, its addresses: int64[m] each.
    """

    start: Int64s
    end: Int64s
    peak: Int64s
    bookings: Bookings
    at: tuple[Int64s, Int64s]


def draw(history: History) -> Figure | None:
    """One map for each of the largest targets; None where no target ever had a page."""
    targets = history.ranked_targets()[:TARGETS]
    if not targets:
        return None
    height = _HEIGHT_IN if len(targets) == 1 else _PANEL_IN
    spans = history.spans.bookings() if history.spans is not None else None
    with new_figure(height * len(targets) + 0.35 * _legend_rows(history)) as figure:
        panels = figure.subplots(len(targets), 1, sharex=True, squeeze=False)[:, 0]
        for axes, target in zip(panels, targets, strict=True):
            _map(axes, history, target, _part(history, spans, target), height)
            if len(history.targets) > 1:
                it = history.targets[target]
                axes.set_title(clean(f"{shortened(shown(it.comm), 40)} (PID {it.pid})"), parse_math=False)
        panels[-1].set_xlabel("time (UTC)")
        _legend(figure, history)
    return figure


def _part(history: History, spans: Bookings | None, target: int) -> _Part:
    """By regions where they were recorded, otherwise by VMAs."""
    if history.spans is not None and spans is not None:
        keys = _held(history.spans, target)
        if len(keys):
            return _regions(history, history.spans, spans, keys)
    steps, bookings = history.steps, history.bookings()
    keys = _held(steps, target)
    own = bookings.of(np.isin(bookings.key, keys))
    return _Part(steps.start[keys], steps.end[keys], steps.peak[keys], own, (steps.start[own.key], own.end))


def _held(steps: Steps, target: int) -> Int64s:
    """What of a target ever had pages."""
    keys: Int64s = np.flatnonzero((steps.process[: len(steps)] == target) & (steps.peak[: len(steps)] > 0))
    return keys


def _regions(history: History, spans: Steps, bookings: Bookings, keys: Int64s) -> _Part:
    """A span ends with its 2 MiB, where the next one begins, or, in hugetlbfs, with its page."""
    keys = keys[np.argsort(spans.start[keys])]
    start = spans.start[keys]
    end = (start // _REGION + 1) * _REGION
    steps = history.steps
    for key in np.flatnonzero(steps.process[: len(steps)] == spans.process[keys[0]]).tolist():
        size = history.areas[key].page_kb * 1024
        if size > _REGION:
            inside = (start >= steps.start[key]) & (start < steps.end[key])
            end[inside] = start[inside] + size
    end[:-1] = np.minimum(end[:-1], start[1:])
    end_of = np.zeros(len(spans), np.int64)
    end_of[keys] = end
    own = bookings.of(np.isin(bookings.key, keys))
    return _Part(start, end, spans.peak[keys], own, (spans.start[own.key], end_of[own.key]))


def _map(axes: Axes, history: History, target: int, part: _Part, height_in: float) -> None:
    x = time_axis(axes, history.columns.edges())
    scale = Scale.of(part.start, part.end, part.peak, _ROWS)
    cells = shares(part.bookings, *part.at, scale, history.columns.count)
    axes.imshow(
        _picture(cells, [to_rgb(node_colour(node)) for node in history.node_ids]),
        extent=(float(x[0]), float(x[-1]), 0.0, float(_ROWS)),
        origin="lower",
        aspect="auto",
        interpolation="none",
    )
    axes.set_xlim(float(x[0]), float(x[-1]))
    axes.set_ylim(0.0, float(_ROWS))
    axes.set_ylabel("address")
    _label(axes, history, target, scale, max(2, int(height_in * _LABELS_PER_IN)))


def _picture(cells: Shares, colours: Sequence[tuple[float, float, float]]) -> npt.NDArray[np.uint8]:
    """Colour: the node with most, the greyer the less clearly so. Opacity: how full, measured by the fullest time."""
    nodes = np.array([*colours, (0.0, 0.0, 0.0)])
    colour = nodes[cells.first]
    clear = np.clip(2.0 * cells.share - 1.0, 0.0, 1.0)[:, :, None]
    colour = np.array(to_rgb(MIXED)) * (1.0 - clear) + colour * clear
    fullest = cells.total.max(axis=1, initial=0.0, keepdims=True)
    full = np.divide(cells.total, fullest, out=np.zeros_like(cells.total), where=fullest > 0)
    opacity = np.where(cells.first >= 0, _PALEST + (1.0 - _PALEST) * full, 0.0)
    return np.round(255 * np.concatenate([colour, opacity[:, :, None]], axis=2)).astype(np.uint8)


def _label(axes: Axes, history: History, target: int, scale: Scale, most: int) -> None:
    """Names of the largest VMAs on the right, where they begin on the left, and a line around each."""
    keys = _held(history.steps, target)
    low, high = scale.row(history.steps.start[keys]), scale.row(history.steps.end[keys])
    apart, taken, ticks = scale.rows / (most + 1), list[float](), dict[float, str]()
    for place in np.argsort(low - high, kind="stable").tolist():
        middle = (low[place] + high[place]) / 2
        if len(taken) == most:
            break
        if any(abs(middle - other) < apart for other in taken):
            continue
        taken.append(middle)
        key = int(keys[place])
        name = shown(history.areas[key].name) or f"[{history.areas[key].kind}]"
        text = f"{shortened(name, _NAME_CHARACTERS)}  {amount(float(history.steps.peak[key]))}"
        put_text(axes, 1.008, middle / scale.rows, text, transform=axes.transAxes, va="center", fontsize=8, color=INK)
        ticks[middle] = f"{int(history.steps.start[key]):x}"
        for edge in (low[place], high[place]):
            axes.axhline(edge, color=MUTED, linewidth=0.4, alpha=0.7)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=7.5, family="monospace")


def _legend_rows(history: History) -> int:
    return -(-(len(history.node_ids) + 1) // 9)


def _legend(figure: Figure, history: History) -> None:
    handles = [Patch(facecolor=node_colour(node), label=f"most on node {node}") for node in history.node_ids]
    handles.append(Patch(facecolor=MIXED, label="no node has most"))
    figure.legend(handles=handles, loc="outside upper left", ncols=8, fontsize=8, handlelength=1.2, columnspacing=1.2)
