"""The sentence that tells people what a verdict rests on. Pure; all figures come from the caller."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tracer.model.policy import format_nodes

__all__ = ["counted", "fits", "named", "outside", "percent", "rare", "skewed", "too_small", "too_small_turn", "within"]

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

_RARE = ((1e-6, "a million"), (1e-5, "100,000"), (1e-4, "10,000"), (1e-3, "1,000"), (1e-2, "100"))


_TOLERATED = "which is within the tolerance"


def percent(share: float) -> str:
    """`62 %`; below ten with a decimal, and never `0.0 %` of something or `100 %` of not all."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    if 0.99 < share < 1:
        return f"{min(share * 100, 99.9):.1f} %"
    return f"{share * 100:.1f} %".replace(".0 %", " %") if share < 0.1 else f"{share * 100:.0f} %"


def counted(number: int, noun: str) -> str:
    """`1 page`, `12,000 pages`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def named(nodes: Sequence[int]) -> str:
    """`node 0`, `nodes 0-3`."""
    return f"node{'s' if len(nodes) > 1 else ''} {format_nodes(nodes)}"


def rare(p_value: float) -> str:
    """How often chance does it."""
    if p_value <= 0:
        return "no chance does that"
    for bound, words in _RARE:
        if p_value < bound:
            return f"chance alone does that less than once in {words}"
    if p_value < 0.2:
        return f"chance alone does that about once in {1 / p_value:.0f}"
    return f"chance alone does that in {percent(min(p_value, 1.0))} of all cases"


def skewed(actual: Int64s, shares: Float64s, node_ids: Sequence[int], p_value: float) -> str:
    """Names the node that has most beyond its share."""
    part = actual / actual.sum()
    at = int(np.argmax(part - shares))
    if shares[at] > 0:
        promise = f"where {percent(float(shares[at]))} were promised; {rare(p_value)}"
    else:
        promise = "where none was promised"
    return f"{percent(float(part[at]))} on node {node_ids[at]} {promise}"


def fits(excess: int, pages: int, p_value: float, significance: float, misplaced: int) -> str:
    """As promised: how close it is."""
    if not excess:
        said = "every node has its share"
    elif p_value < significance:
        said = f"{percent(excess / pages)} of the pages are beyond the share of their node, {_TOLERATED}"
    else:
        said = f"{percent(excess / pages)} of the pages are beyond the share of their node; {rare(p_value)}"
    return f"{said}, although {_lie_elsewhere(misplaced)}" if misplaced else said


def too_small(pages: int, units: float, nodes: int, misplaced: int) -> str:
    """Too few independent units to tell a skew from chance."""
    said = counted(pages, "page")
    if units < pages * 0.99:
        said += f", allocated in the equivalent of {counted(max(1, round(units)), 'piece')},"
    said += f" {'is' if pages == 1 else 'are'} too few to tell a skew from chance on {nodes} nodes"
    return f"{said}; {_lie_elsewhere(misplaced)}" if misplaced else said


def too_small_turn(pages: int, turn: int, misplaced: int) -> str:
    """Weighted interleave did not even come round."""
    said = f"{counted(pages, 'page')} cannot show the weights, which come round after {counted(turn, 'page')}"
    return f"{said}; {_lie_elsewhere(misplaced)}" if misplaced else said


def _lie_elsewhere(pages: int) -> str:
    return f"{counted(pages, 'page')} {'lies' if pages == 1 else 'lie'} elsewhere than by {_theirs(pages)} address"


def _was(nodes: Sequence[int]) -> str:
    return "was" if len(nodes) == 1 else "were"


def _theirs(pages: int) -> str:
    return "its" if pages == 1 else "their"


def within(usable: Sequence[int], excess: int, pages: int) -> str:
    """A policy that names nodes and fixes no shares, and is kept."""
    if not excess:
        return f"all pages are on {named(usable)}"
    return f"{percent(excess / pages)} of the pages are elsewhere than on {named(usable)}, {_TOLERATED}"


def outside(usable: Sequence[int], outside_pages: Int64s, pages: int, node_ids: Sequence[int]) -> str:
    """A policy that names nodes and fixes no shares, and is not kept."""
    where = [node for node, count in zip(node_ids, outside_pages.tolist(), strict=True) if count > 0]
    share = percent(int(outside_pages.sum()) / pages)
    return f"{share} of the pages are on {named(where)} where {named(usable)} {_was(usable)} promised"
