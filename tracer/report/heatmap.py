"""The map of the address space over time: on which nodes each stretch of addresses lay, and how full it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tracer.render.palette import node_colour
from tracer.report.addresses import Bands, Cells, Scale, cells
from tracer.report.figure import INK, MUTED, clean, new_figure, put_text, time_axis
from tracer.report.history import History
from tracer.report.steps import Bookings, Steps
from tracer.report.words import amount, shortened, shown

__all__ = ["TARGETS", "draw"]

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

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
    keys = _held(history.steps, target)
    borders = scale.row(np.concatenate([history.steps.start[keys], history.steps.end[keys]]))
    bands = Bands.of(borders, _ROWS, int(np.count_nonzero(part.bookings.change.any(axis=0))))
    axes.imshow(
        _picture(cells(part.bookings, *part.at, scale, bands, history.columns.count), history.node_ids),
        extent=(float(x[0]), float(x[-1]), 0.0, float(_ROWS)),
        origin="lower",
        aspect="auto",
        interpolation="none",
    )
    axes.set_xlim(float(x[0]), float(x[-1]))
    axes.set_ylim(0.0, float(_ROWS))
    _label(axes, history, keys, scale, max(2, int(height_in * _LABELS_PER_IN)))


def _picture(lying: Cells, node_ids: Sequence[int]) -> npt.NDArray[np.uint8]:
    """RGBA. Colour: the node. Opacity: how much is there, measured by the fullest time of the row."""
    colours = np.array([*(to_rgb(node_colour(node)) for node in node_ids), (0.0, 0.0, 0.0)])
    fullest = lying.total.max(axis=1, initial=0.0, keepdims=True)
    full = np.divide(lying.total, fullest, out=np.zeros_like(lying.total), where=fullest > 0)
    opacity = np.where(lying.node >= 0, _PALEST + (1.0 - _PALEST) * full, 0.0)
    return np.round(255 * np.concatenate([colours[lying.node], opacity[:, :, None]], axis=2)).astype(np.uint8)


def _label(axes: Axes, history: History, keys: Int64s, scale: Scale, most: int) -> None:
    """Names of the largest VMAs on the right, their first addresses on the left, and a line around each."""
    steps = history.steps
    low, high = scale.row(steps.start[keys]), scale.row(steps.end[keys])
    largest = np.argsort(low - high, kind="stable")[:most]
    largest = largest[(high - low)[largest] >= min(_ROWS / (4 * most), (high - low)[largest[0]])]
    largest = largest[np.argsort(low[largest] + high[largest])]
    middle = (low[largest] + high[largest]) / 2
    for place, at, text_at in zip(largest.tolist(), middle, _apart(middle, scale.rows / most, scale.rows), strict=True):
        area, begin = history.areas[int(keys[place])], int(steps.start[keys[place]])
        name = shortened(shown(area.name) or f"[{area.kind}]", _NAME_CHARACTERS)
        text = f"{name}: {amount(float(steps.peak[keys[place]]))}"
        how = {"transform": axes.transAxes, "va": "center", "color": INK}
        put_text(axes, 1.03, text_at / scale.rows, text, fontsize=8, **how)
        put_text(axes, -0.03, text_at / scale.rows, f"{begin:x}", fontsize=7.5, family="monospace", ha="right", **how)
        for x0, x1 in ((1.0, 1.025), (0.0, -0.025)):
            line = Line2D([x0, x1], [at / scale.rows, text_at / scale.rows], color=MUTED, linewidth=0.6)
            line.set(transform=axes.transAxes, clip_on=False)
            axes.add_line(line)
        for edge in (low[place], high[place]):
            axes.axhline(edge, color=MUTED, linewidth=0.4, alpha=0.7)
    axes.set_yticks([])
    for x, text, align in ((-0.03, "from address", "right"), (1.03, "area: most memory", "left")):
        axes.text(x, 1.02, text, transform=axes.transAxes, fontsize=7.5, color=MUTED, ha=align, va="bottom")


def _apart(wanted: Floats, least: float, height: float) -> Floats:
    """Places for labels, at least that far apart, near those that are wanted (ascending), between 0 and `height`."""
    places = wanted.copy()
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + least)
    over = height
    for index in reversed(range(len(places))):
        places[index] = min(places[index], over)
        over = places[index] - least
    return places


def _legend_rows(history: History) -> int:
    return -(-(len(history.node_ids) + 3) // 12)


def _legend(figure: Figure, history: History) -> None:
    handles = [Patch(facecolor=node_colour(node), label=f"node {node}") for node in history.node_ids]
    handles.append(Patch(facecolor=MUTED, alpha=0.3, label="paler: less there than at its fullest"))
    figure.legend(handles=handles, loc="outside upper left", ncols=10, fontsize=8, handlelength=1.2, columnspacing=1.2)
