"""Stacked bars of nodes: in colour, and told apart by characters where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from rich.segment import Segment
from rich.style import Style

from tracer.render.palette import node_colour, node_letter

__all__ = ["bar", "cells_of", "node_style"]


def cells_of(counts: Sequence[int], cells: int) -> list[int]:
    """How many of `cells` each count gets, by largest remainder. Whatever is not 0 has one at least, as far as there
    are enough: a few pages on another node are what one looks for."""
    total = sum(counts)
    if total <= 0 or cells <= 0:
        return [0] * len(counts)
    exact = [count * cells / total for count in counts]
    given = [max(int(share), 1 if count > 0 else 0) for share, count in zip(exact, counts, strict=True)]
    while sum(given) > cells:
        most = max(range(len(given)), key=lambda index: given[index] - exact[index] if given[index] > 1 else -cells)
        if given[most] <= 1:
            most = min((index for index in range(len(given)) if given[index]), key=lambda index: counts[index])
        given[most] -= 1
    by_remainder = sorted(range(len(given)), key=lambda index: given[index] - exact[index])
    for index in by_remainder[: cells - sum(given)]:
        given[index] += 1
    return given


@lru_cache(maxsize=1024)
def node_style(node: int) -> Style:
    """A node's colour as the colour of what is written."""
    return Style(color=node_colour(node))


def bar(node_ids: Sequence[int], counts: Sequence[int], cells: int, colour: bool) -> list[Segment]:
    """A bar of exactly `cells` cells, blank without pages."""
    segments = []
    given = cells_of(counts, cells)
    for node, count in zip(node_ids, given, strict=True):
        if count:
            segments.append(Segment("█" * count, node_style(node)) if colour else Segment(node_letter(node) * count))
    if left := cells - sum(given):
        segments.append(Segment(" " * left))
    return segments
