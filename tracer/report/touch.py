"""The plot of first touch: on which node a CPU was that touched memory first, and on which the memory then lay."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from tracer.report.figure import WIDTH_IN, new_figure
from tracer.report.grid import FEW, draw_grid
from tracer.report.history import History

__all__ = ["draw", "local_share"]


def draw(history: History) -> Figure | None:
    """None where no fault placed a page."""
    if not history.touch:
        return None
    cpu_nodes = sorted({*history.node_ids, *(cpu_node for cpu_node, _ in history.touch)})
    page_nodes = sorted({*history.node_ids, *(page_node for _, page_node in history.touch)})
    kib = np.zeros((len(cpu_nodes), len(page_nodes)), np.int64)
    for (cpu_node, page_node), value in history.touch.items():
        kib[cpu_nodes.index(cpu_node), page_nodes.index(page_node)] = value
    few = len(page_nodes) <= FEW
    width = max(4.0, 1.6 + 0.95 * len(page_nodes)) if few else WIDTH_IN * 0.75
    height = 1.1 + 0.45 * len(cpu_nodes) if few else WIDTH_IN * 0.5
    with new_figure(height, min(width, WIDTH_IN)) as figure:
        axes = figure.subplots()
        draw_grid(axes, kib, cpu_nodes, page_nodes)
        axes.set_xlabel("memory lies on")
        axes.set_ylabel("touched by a CPU of")
    return figure


def local_share(history: History) -> float | None:
    """The part of what was placed that lies on the node of the CPU that touched it; None where nothing was placed."""
    total = sum(history.touch.values())
    near = sum(kib for (cpu_node, page_node), kib in history.touch.items() if cpu_node == page_node)
    return near / total if total else None
