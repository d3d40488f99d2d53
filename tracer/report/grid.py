"""A plot of amounts from something to something: a small table with colours, or, of many nodes, only the colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from tracer.render.palette import node_colour
from tracer.report.figure import INK, MUTED
from tracer.report.words import amount

__all__ = ["FEW", "draw_grid"]

FEW = 10
"""Up to so many rows and columns each cell has its number."""
_TICKS = 14
_STRONG = 0.55


def draw_grid(axes: Axes, kib: npt.NDArray[np.int64], rows: Sequence[int], columns: Sequence[int]) -> None:
    """kib: int64[rows, columns]. rows, columns: node ids. The diagonal, where both are the same node, has a frame."""
    most = max(int(kib.max(initial=0)), 1)
    strength = kib / most
    picture = np.empty((*kib.shape, 4))
    picture[:, :, :3] = to_rgb(node_colour(0))
    picture[:, :, 3] = np.where(kib > 0, 0.08 + 0.92 * strength, 0.0)
    axes.imshow(picture, aspect="auto", interpolation="none", extent=(-0.5, len(columns) - 0.5, len(rows) - 0.5, -0.5))
    axes.spines[:].set_visible(False)
    for ids, set_ticks in ((columns, axes.set_xticks), (rows, axes.set_yticks)):
        each = max(1, -(-len(ids) // _TICKS))
        set_ticks(range(0, len(ids), each), [f"node {node}" if node >= 0 else "unknown" for node in ids[::each]])
    axes.tick_params(length=0)
    for row, first in enumerate(rows):
        for column, second in enumerate(columns):
            if first == second:
                axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fill=False, edgecolor=MUTED, lw=0.8))
            if max(kib.shape) <= FEW:
                colour = "white" if strength[row, column] > _STRONG else INK
                axes.text(column, row, amount(float(kib[row, column])), ha="center", va="center", color=colour)
