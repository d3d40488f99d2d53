"""The plot of memory per node over time: of all targets together, and of the largest ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tracer.render.palette import contrast_text, node_colour
from tracer.report.figure import MUTED, clean, new_figure, time_axis
from tracer.report.history import History
from tracer.report.words import shortened, shown, unit_of

__all__ = ["TARGETS", "draw"]

Floats = npt.NDArray[np.float64]

TARGETS = 6
"""Targets that have a plot of their own."""
_LABEL_SHARE = 0.09
_PLACES, _ROOM = 80, 4
"""Places in time where a label may be, and how many of them to either side it takes."""
_HEIGHT_IN, _PANEL_IN = 2.9, 1.5


def draw(history: History) -> Figure:
    """A stack of all nodes; below it, where there are several targets, one of each of the largest."""
    targets = history.ranked_targets()
    shown_targets = targets[:TARGETS] if len(targets) > 1 else []
    ratios = [_HEIGHT_IN, *[_PANEL_IN] * len(shown_targets)]
    with new_figure(sum(ratios) + 0.35 * _legend_rows(history)) as figure:
        panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        means = _means(history, shown_targets)
        titles = ["all targets"] if len(targets) > 1 else [""]
        titles += [_name(history, target) for target in shown_targets]
        for axes, mean, title in zip(panels, means, titles, strict=True):
            _stack(axes, history, mean)
            if title:
                axes.set_title(clean(title), parse_math=False)
        panels[-1].set_xlabel("time (UTC)")
        _legend(figure, history)
    return figure


def _name(history: History, target: int) -> str:
    it = history.targets[target]
    return f"{shortened(shown(it.comm), 40)} (PID {it.pid})" + (", ended" if it.ended_at >= 0 else "")


def _means(history: History, targets: Sequence[int]) -> list[Floats]:
    """KiB of all and of each of these, float64[columns, nodes]."""
    bookings, columns = history.bookings(), history.columns.count
    everything = bookings.means(np.zeros(len(bookings), np.int64), 1, columns)[0]
    place = np.full(len(history.targets), -1, np.int64)
    place[list(targets)] = np.arange(len(targets))
    group = place[history.steps.process[bookings.key]]
    chosen = group >= 0
    return [everything, *bookings.of(chosen).means(group[chosen], len(targets), columns)]


def _stack(axes: Axes, history: History, mean: Floats) -> None:
    edges = time_axis(axes, history.columns.edges())
    middle = (edges[1:] + edges[:-1]) / 2
    middle[0], middle[-1] = edges[0], edges[-1]
    top = np.cumsum(np.maximum(mean, 0.0), axis=1)
    unit, size = unit_of(float(top.max(initial=0.0)))
    keep = _corners(top)
    x, top = middle[keep], top[keep] / size
    below = np.zeros(len(x))
    for place, node in enumerate(history.node_ids):
        if (top[:, place] > below).any():
            colour = node_colour(node)
            axes.fill_between(x, below, top[:, place], facecolor=colour, edgecolor="white", linewidth=0.3)
        below = top[:, place]
    axes.set_ylim(0, float(below.max(initial=0.0)) * 1.06 or 1.0)
    axes.set_ylabel(f"memory ({unit})")
    axes.grid(axis="y", color=MUTED, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(False)
    _mark_nodes(axes, history, x, top)


def _corners(top: Floats) -> npt.NDArray[np.bool_]:
    """Where a line bends, so that a day of standing still is two points."""
    keep = np.ones(len(top), np.bool_)
    flat = (np.abs(top[1:-1] - top[:-2]) < 1e-6).all(axis=1) & (np.abs(top[1:-1] - top[2:]) < 1e-6).all(axis=1)
    keep[1:-1] = ~flat
    return keep


def _mark_nodes(axes: Axes, history: History, x: Floats, top: Floats) -> None:
    """The node's name inside its area where there is room: colour alone would not do."""
    at = np.linspace(x[0], x[-1], _PLACES)
    tops = np.stack([np.interp(at, x, column) for column in top.T])
    bottoms = np.concatenate([np.zeros((1, _PLACES)), tops[:-1]])
    for node, upper, lower in zip(history.node_ids, tops, bottoms, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(np.stack([upper, lower]), 2 * _ROOM + 1, axis=1)
        ceiling, floor = windows[0].min(axis=1), windows[1].max(axis=1)
        best = int(np.argmax(np.round((ceiling - floor) / axes.get_ylim()[1], 3)))
        if ceiling[best] - floor[best] >= _LABEL_SHARE * axes.get_ylim()[1]:
            place = at[best + _ROOM], (ceiling[best] + floor[best]) / 2
            axes.text(*place, f"node {node}", color=contrast_text(node_colour(node)), ha="center", va="center")


def _legend_rows(history: History) -> int:
    return -(-len(history.node_ids) // 12)


def _legend(figure: Figure, history: History) -> None:
    handles = [Patch(facecolor=node_colour(node), label=f"node {node}") for node in history.node_ids]
    figure.legend(handles=handles, loc="outside upper left", ncols=12, fontsize=8, handlelength=1.2, columnspacing=1.2)
