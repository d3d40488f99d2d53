"""The plot of what moved: from which node, for which reason, to which node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from tracer.render.palette import MIXED, node_colour
from tracer.report.figure import INK, MUTED, WIDTH_IN, new_figure, put_text
from tracer.report.grid import draw_grid
from tracer.report.history import FlowSum, History
from tracer.report.words import amount, shortened, shown

__all__ = ["draw"]

_MOST_NODES = 8
_MOST_REASONS = 7
_OTHER = "other reasons"
_GAP = 0.07
_NODE = 0.016
_REASON = (0.39, 0.61)
"""Width of a node's block, and where those of the reasons begin and end, in parts of the picture's width."""


@dataclass(frozen=True, slots=True)
class _Pile:
    """Blocks above each other. blocks: where each begins, its height, and its KiB. tops: where each flow is in them."""

    blocks: dict[int, tuple[float, float, int]]
    tops: dict[FlowSum, float]

    @classmethod
    def of(
        cls,
        flows: Sequence[FlowSum],
        per_kib: float,
        block: Callable[[FlowSum], int],
        order: Callable[[FlowSum], tuple[int, int]],
    ) -> _Pile:
        """per_kib: height of one. block: where a flow belongs, and order: its place there; both from above."""
        inside: dict[int, list[FlowSum]] = {}
        for flow in sorted(flows, key=lambda it: (block(it), order(it))):
            inside.setdefault(block(flow), []).append(flow)
        height = per_kib * sum(flow.kib for flow in flows) + _GAP * (len(inside) - 1)
        pile, top = cls({}, {}), (1.0 - height) / 2
        for number, members in inside.items():
            begin = top
            for flow in members:
                pile.tops[flow] = top
                top += flow.kib * per_kib
            pile.blocks[number] = (begin, top - begin, sum(flow.kib for flow in members))
            top += _GAP
        return pile


def draw(history: History) -> Figure | None:
    """Bands where the nodes are few, a matrix where they are many; None where nothing moved."""
    flows = _merged([flow for flow in history.flows if flow.kib > 0])
    if not flows:
        return None
    nodes = {node for flow in flows for node in (flow.source, flow.destination)}
    if len(nodes) > _MOST_NODES:
        return _draw_matrix(flows)
    with new_figure(max(2.8, 1.5 + 0.55 * len(nodes))) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_xlim(-0.1, 1.1)
        axes.set_ylim(1.0, -0.1)
        _draw_bands(axes, flows)
    return figure


def _merged(flows: Sequence[FlowSum]) -> list[FlowSum]:
    """The reasons that moved least in one, where there are too many to read."""
    sums: dict[str, int] = {}
    for flow in flows:
        sums[flow.reason] = sums.get(flow.reason, 0) + flow.kib
    ranked = sorted(sums, key=lambda reason: (-sums[reason], reason))
    kept = set(ranked if len(ranked) <= _MOST_REASONS else ranked[: _MOST_REASONS - 1])
    merged: dict[tuple[int, int, str], FlowSum] = {}
    for flow in flows:
        where = (flow.source, flow.destination, flow.reason if flow.reason in kept else _OTHER)
        before = merged.get(where, FlowSum(*where, 0, 0, 0))
        merged[where] = FlowSum(*where, before.pages + flow.pages, before.failed + flow.failed, before.kib + flow.kib)
    return list(merged.values())


def _draw_bands(axes: Axes, flows: list[FlowSum]) -> None:
    """Three piles of blocks; each flow is a band from one to the next, in the colour of the node that it left."""
    sums = {reason: sum(flow.kib for flow in flows if flow.reason == reason) for reason in {it.reason for it in flows}}
    reasons = sorted(sums, key=lambda reason: (-sums[reason], reason))
    rank = {reason: place for place, reason in enumerate(reasons)}
    blocks = max(len({key(flow) for flow in flows}) for key in (_source, _destination, lambda it: rank[it.reason]))
    per_kib = (1.0 - _GAP * (blocks - 1)) / sum(sums.values())
    left = _Pile.of(flows, per_kib, _source, lambda it: (rank[it.reason], it.destination))
    middle = _Pile.of(flows, per_kib, lambda it: rank[it.reason], lambda it: (it.source, it.destination))
    right = _Pile.of(flows, per_kib, _destination, lambda it: (rank[it.reason], it.source))
    for flow in sorted(flows, key=lambda it: -it.kib):
        height = flow.kib * per_kib
        axes.add_patch(_band(_NODE, left.tops[flow], _REASON[0], middle.tops[flow], height, flow.source))
        axes.add_patch(_band(_REASON[1], middle.tops[flow], 1 - _NODE, right.tops[flow], height, flow.source))
    for pile, x, text_x, align in ((left, 0.0, -0.01, "right"), (right, 1 - _NODE, 1.01, "left")):
        for node, (top, height, kib) in pile.blocks.items():
            axes.add_patch(Rectangle((x, top), _NODE, height, facecolor=_colour(node), linewidth=0))
            name = f"node {node}" if node >= 0 else "unknown"
            axes.text(text_x, top + height / 2, f"{name}\n{amount(kib)}", ha=align, va="center", color=INK)
    for number, (top, height, kib) in middle.blocks.items():
        _reason(axes, top + height / 2, max(height, _GAP * 0.9), f"{reasons[number]}: {amount(kib)}")
    for x, text in ((0.0, "left"), (0.5, "because of"), (1.0, "reached")):
        axes.text(x, -0.045, text, ha="center", va="bottom", fontsize=8.5, color=MUTED)


def _source(flow: FlowSum) -> int:
    return flow.source


def _destination(flow: FlowSum) -> int:
    return flow.destination


def _colour(node: int) -> str:
    return node_colour(node) if node >= 0 else MIXED


def _band(x0: float, top0: float, x1: float, top1: float, height: float, node: int) -> PathPatch:
    """From (x0, top0) to (x1, top1), `height` thick, bent like an S."""
    bend = (x0 + x1) / 2
    upper = [(x0, top0), (bend, top0), (bend, top1), (x1, top1)]
    lower = [(x, y + height) for x, y in reversed(((x0, top0), (bend, top0), (bend, top1), (x1, top1)))]
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    path = Path([*upper, *lower, (x0, top0)], codes)
    return PathPatch(path, facecolor=_colour(node), alpha=0.62, linewidth=0.4, edgecolor=_colour(node))


def _reason(axes: Axes, middle: float, height: float, text: str) -> None:
    box = Rectangle((_REASON[0], middle - height / 2), _REASON[1] - _REASON[0], height, facecolor=MIXED, linewidth=0)
    axes.add_patch(box)
    put_text(axes, 0.5, middle, shortened(shown(text), 40), ha="center", va="center", color="black", fontsize=8.5)


def _draw_matrix(flows: Sequence[FlowSum]) -> Figure:
    nodes = sorted({node for flow in flows for node in (flow.source, flow.destination)})
    kib = np.zeros((len(nodes), len(nodes)), np.int64)
    for flow in flows:
        kib[nodes.index(flow.source), nodes.index(flow.destination)] += flow.kib
    with new_figure(WIDTH_IN * 0.5, WIDTH_IN * 0.75) as figure:
        axes = figure.subplots()
        draw_grid(axes, kib, nodes, nodes)
        axes.set_xlabel("reached")
        axes.set_ylabel("left")
    return figure
