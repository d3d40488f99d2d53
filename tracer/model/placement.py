"""What a policy promises, and how the pages of a VMA lie: shares per node, cells of a strip, matrices. Pure.

Shares are fractions of a whole and sum to 1. Whatever is per node has one element for each of `node_ids`, in their
order. Kernel facts are those of mm/mempolicy.c, by function name.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.model.accumulate import FaultRow, FlowRow, Place
from tracer.model.events import Kind
from tracer.model.policy import BUFFER_BYTES, Mode, Policy
from tracer.model.snapshot import Regions
from tracer.model.spans import REGION_SHIFT

__all__ = [
    "Cells",
    "Expectation",
    "FirstTouch",
    "FlowMatrix",
    "Promise",
    "apportion",
    "cell_unit",
    "cells",
    "expectation",
    "first_touch",
    "flow_matrix",
    "lies_in",
]

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

_REGION = 1 << REGION_SHIFT
_PORTION = 8192


class Promise(enum.Enum):
    """What kind of promise a policy makes about a page that is allocated under it (policy_nodemask()).

    TOUCH: the node of the CPU that touches it first, else the nearest one with room: default and local.
    PREFER: one node, else the one nearest to it: prefer. PREFER_MANY: of some nodes the one nearest to that CPU, else
    any other: prefer (many). WITHIN: the same without the else: bind.
    SPREAD: by its address over some nodes, in fixed shares, else the nearest: interleave, weighted interleave.
    UNKNOWN: a mode that this version does not know.
    """

    TOUCH = enum.auto()
    PREFER = enum.auto()
    PREFER_MANY = enum.auto()
    WITHIN = enum.auto()
    SPREAD = enum.auto()
    UNKNOWN = enum.auto()


_PROMISES = {
    Mode.DEFAULT: Promise.TOUCH,
    Mode.LOCAL: Promise.TOUCH,
    Mode.PREFERRED: Promise.PREFER,
    Mode.PREFERRED_MANY: Promise.PREFER_MANY,
    Mode.BIND: Promise.WITHIN,
    Mode.INTERLEAVE: Promise.SPREAD,
    Mode.WEIGHTED_INTERLEAVE: Promise.SPREAD,
}


@dataclass(frozen=True, slots=True)
class Expectation:
    """Where pages lie if a policy was in force when they were allocated, and its nodes had room.

    nodes: ids, ascending, of the nodes that the policy names and that have memory; () where it names none.
    shares: float64 of shape (len(node_ids),), summing to 1; None where it depends on what the caller did not tell.
    whole: whether `nodes` is complete: the kernel cuts a long list, and then no share is known either.
    """

    promise: Promise
    nodes: tuple[int, ...]
    shares: Float64s | None
    whole: bool = True

    def allows(self, node: int) -> bool:
        """Whether the policy would put a page on this node while it and its other nodes have room."""
        return not self.nodes or not self.whole or node in self.nodes


def expectation(
    policy: Policy,
    node_ids: Sequence[int],
    weights: Mapping[int, int] | None = None,
    touched: Mapping[int, int] | None = None,
    nearest: Mapping[int, Sequence[int]] | None = None,
) -> Expectation:
    """What `policy` promises on a machine with memory on `node_ids` (ascending, at least one; ValueError for none).

    `policy.nodes` are the nodes in force, so the flags `static` and `relative`, which only say how they are made anew
    when a cpuset changes, play no part here (mpol_rebind_nodemask()).
    weights: of weighted interleave, by node id, 1 where one is missing (/sys/kernel/mm/mempolicy/weighted_interleave);
    ValueError below 1. touched: how many pages CPUs of each node were the first to touch. nearest: for a CPU's node
    the nodes with memory, nearest first, as its zone list has them. Shares that need what is None are None.
    """
    if not node_ids:
        raise ValueError("no node has memory")
    promise = _PROMISES.get(Mode(policy.mode), Promise.UNKNOWN) if policy.mode in set(Mode) else Promise.UNKNOWN
    whole = len(policy.printed) < BUFFER_BYTES - 1
    nodes = tuple(node for node in policy.nodes if node in set(node_ids))
    if promise is Promise.UNKNOWN or not whole:
        return Expectation(promise, nodes, None, whole)
    if promise is Promise.TOUCH:
        nodes = ()
    elif promise is Promise.PREFER:
        nodes = nodes[:1]  # first_node() of what the mask holds
    return Expectation(promise, nodes, _shares(policy, promise, nodes, node_ids, weights, touched, nearest))


def _shares(
    policy: Policy,
    promise: Promise,
    nodes: tuple[int, ...],
    node_ids: Sequence[int],
    weights: Mapping[int, int] | None,
    touched: Mapping[int, int] | None,
    nearest: Mapping[int, Sequence[int]] | None,
) -> Float64s | None:
    if len(nodes) == 1:
        return _normal(np.array([node in nodes for node in node_ids], np.float64))
    if promise is Promise.SPREAD and nodes:
        if policy.mode == Mode.INTERLEAVE:
            weights = {}
        if weights is None:
            return None
        return _normal(np.array([_weight(weights, node) if node in nodes else 0 for node in node_ids], np.float64))
    # No node of the policy has memory, or they are all alike to it: then it is the CPU that decides. interleave_nid()
    # of an empty mask is numa_node_id(), where the others begin as well.
    return _touched_shares(nodes or tuple(node_ids), node_ids, touched, nearest)


def _weight(weights: Mapping[int, int], node: int) -> int:
    weight = weights.get(node, 1)
    if weight < 1:
        raise ValueError(f"node {node} has the weight {weight}")
    return weight


def _touched_shares(
    nodes: tuple[int, ...],
    node_ids: Sequence[int],
    touched: Mapping[int, int] | None,
    nearest: Mapping[int, Sequence[int]] | None,
) -> Float64s | None:
    """Shares where each page goes to the first of `nodes` in the zone list of the CPU's node; None if that is not
    known for one of them, or nothing was touched."""
    if not touched or not any(touched.values()):
        return None
    place = {node: at for at, node in enumerate(node_ids)}
    shares = np.zeros(len(node_ids))
    for cpu_node, count in touched.items():
        order = (cpu_node,) if cpu_node in nodes else (nearest or {}).get(cpu_node, ())
        node = next((node for node in order if node in nodes), None)
        if node is None and count:
            return None
        if node is not None:
            shares[place[node]] += count
    return _normal(shares)


def _normal(shares: Float64s) -> Float64s:
    normal: Float64s = shares / shares.sum()
    return normal


def apportion(shares: Float64s, total: int, actual: Int64s | None = None) -> Int64s:
    """`total` pages in these shares, as whole pages that sum to it: int64 of the shape of `shares`.

    By largest remainder (Hamilton): each is rounded down, and what is left goes one each to those that lost most; of
    equals to the one that has more pages beyond its share already (`actual`, where it is given), then to the first.
    With `actual` five pages on four nodes are as even as can be, whichever node has two.
    """
    exact = shares * total
    pages = np.floor(exact).astype(np.int64)
    left = total - int(pages.sum())
    # Stable, so that equals are in their order; rounded, so that 1/3 of three nodes are equals.
    lost = np.round(exact - pages, 9)
    most = np.lexsort((pages - actual if actual is not None else np.zeros(len(pages)), -lost))
    np.add.at(pages, most[np.arange(left) % len(shares)], 1)
    return pages


def lies_in(place: Place, pid: int, start: int) -> bool:
    """Whether a place is (or was) the VMA of this target that begins at `start`."""
    return place.pid == pid and place.vma is not None and place.vma.start == start


# -- the strip of a VMA's regions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cells:
    """Equal pieces of a VMA's addresses, and what lies in each.

    base: address of cell 0, which may lie below the VMA's start, because cells are aligned as regions are. size:
    bytes per cell. pages: int64 of shape (cells, len(node_ids)).
    """

    base: int
    size: int
    pages: Int64s

    @property
    def totals(self) -> Int64s:
        """Pages per cell, int64 of shape (cells,)."""
        totals: Int64s = self.pages.sum(axis=1)
        return totals

    def ranked(self) -> tuple[Int64s, Int64s, Float64s, Float64s]:
        """Per cell: column of the node with most pages and of the second one, -1 where there is none; and the shares
        of the cell's pages that these two hold, float64, 0 where there is none. Of equals the lower node is first."""
        count = len(self.pages)
        rows = np.arange(count)
        totals = np.maximum(self.totals, 1)
        left = self.pages.copy()
        found: list[tuple[Int64s, Float64s]] = []
        for _ in range(2):
            column = left.argmax(axis=1)
            most = left[rows, column]
            found.append((np.where(most > 0, column, -1).astype(np.int64), most / totals))
            left[rows, column] = 0
        (first, first_share), (second, second_share) = found
        return first, second, first_share, second_share


def cell_unit(page_kb: int) -> int:
    """Bytes of the smallest cell: a region, or the page where that is larger (a hugetlb page is one span)."""
    return max(_REGION, page_kb * 1024)


def cells(regions: Regions, start: int, end: int, size: int, first: int, count: int) -> Cells:
    """Cells `first` to `first + count` (without that) of the VMA from `start` to `end`; O(spans in them).

    size: bytes per cell, a multiple of `cell_unit` of the VMA (ValueError if not of a region). Cells beyond the VMA's
    end are empty.
    """
    if size <= 0 or size % _REGION:
        raise ValueError(f"cells of {size} bytes are not whole regions")
    base = start - start % _REGION + first * size
    edges = np.clip(base + size * np.arange(count + 1, dtype=np.int64), start, max(start, end))
    rows = np.searchsorted(regions.address, edges)
    pages = np.zeros((count, regions.pages.shape[1]), np.int64)
    filled = np.flatnonzero(rows[1:] > rows[:-1])
    # reduceat() goes through all rows once per column, so they are taken in portions that stay in the cache.
    portion = max(1, _PORTION * len(filled) // max(1, int(rows[-1] - rows[0])))
    for at in range(0, len(filled), portion):
        some = filled[at : at + portion]
        begin, stop = rows[some[0]], rows[some[-1] + 1]
        pages[some] = np.add.reduceat(regions.pages[begin:stop], rows[some] - begin, axis=0)
    return Cells(base, size, pages)


# -- matrices -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FirstTouch:
    """Who was the first to touch pages, and where these then lay.

    cpu_nodes, page_nodes: ids, ascending. pages: int64 of shape (len(cpu_nodes), len(page_nodes)), pages that page
    faults placed. faults: how many faults there were of each kind, also of those that placed nothing.
    """

    cpu_nodes: tuple[int, ...]
    page_nodes: tuple[int, ...]
    pages: Int64s
    faults: Mapping[Kind, int]

    @property
    def local(self) -> float | None:
        """The share of these pages that lie on the node of the CPU that touched them; None of no page."""
        total = int(self.pages.sum())
        near = np.equal.outer(self.cpu_nodes, self.page_nodes)
        return int(self.pages[near].sum()) / total if total else None

    @property
    def touched(self) -> dict[int, int]:
        """Pages by node of the CPU: the `touched` of `expectation`."""
        return dict(zip(self.cpu_nodes, self.pages.sum(axis=1).tolist(), strict=True))


def first_touch(rows: Iterable[FaultRow], node_ids: Iterable[int] = ()) -> FirstTouch:
    """The sum of `rows`. node_ids: nodes that are in the matrix in any case."""
    pages: Counter[tuple[int, int]] = Counter()
    faults: Counter[Kind] = Counter()
    for row in rows:
        faults[row.kind] += row.count
        if row.placing:
            pages[row.cpu_node, row.page_node] += row.pages
    cpu_nodes = sorted({*node_ids, *(cpu_node for cpu_node, _ in pages)})
    page_nodes = sorted({*node_ids, *(page_node for _, page_node in pages)})
    matrix = _matrix(pages, cpu_nodes, page_nodes)
    return FirstTouch(tuple(cpu_nodes), tuple(page_nodes), matrix, dict(faults))


@dataclass(frozen=True, slots=True)
class FlowMatrix:
    """Pages that moved from node to node, and those that failed to.

    nodes: ids, ascending, with -1 last where one end is not known. pages: int64 of shape (len(nodes), len(nodes)),
    row: the node they left. reasons: by the kernel's word, pages that moved and pages that failed, most moved first.
    """

    nodes: tuple[int, ...]
    pages: Int64s
    reasons: Mapping[str, tuple[int, int]]

    @property
    def moved(self) -> int:
        """All pages that moved."""
        return int(self.pages.sum())


def flow_matrix(rows: Iterable[FlowRow], node_ids: Iterable[int] = (), reason: str | None = None) -> FlowMatrix:
    """The sum of `rows`. node_ids: nodes that are in the matrix in any case. reason: only pages that moved for it;
    `reasons` has all of them."""
    pages: Counter[tuple[int, int]] = Counter()
    reasons: dict[str, list[int]] = {}
    for row in rows:
        sums = reasons.setdefault(row.reason, [0, 0])
        sums[0] += row.pages
        sums[1] += row.failed
        if row.pages and reason in (None, row.reason):
            pages[row.source, row.destination] += row.pages
    ids = sorted({*node_ids, *(node for pair in pages for node in pair)} - {-1})
    nodes = [*ids, *([-1] if any(-1 in pair for pair in pages) else [])]
    ranked = sorted(reasons.items(), key=lambda item: (-item[1][0], -item[1][1], item[0]))
    return FlowMatrix(tuple(nodes), _matrix(pages, nodes, nodes), {name: (sums[0], sums[1]) for name, sums in ranked})


def _matrix(counts: Mapping[tuple[int, int], int], rows: Sequence[int], columns: Sequence[int]) -> Int64s:
    matrix = np.zeros((len(rows), len(columns)), np.int64)
    row_at = {node: at for at, node in enumerate(rows)}
    column_at = {node: at for at, node in enumerate(columns)}
    for (row, column), count in counts.items():
        matrix[row_at[row], column_at[column]] = count
    return matrix
