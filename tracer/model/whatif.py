"""What would have to move if a policy were set: how far today's placement is from one that is not in force. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.model.placement import Expectation, Promise, apportion, expectation
from tracer.model.policy import Mode, Policy, format_nodes, parse_nodes
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Vma

__all__ = ["Move", "MoveTotal", "move_total", "pages_off", "parse_policy", "what_if"]

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]

_MODES = {
    "interleave": Mode.INTERLEAVE,
    "weighted": Mode.WEIGHTED_INTERLEAVE,
    "bind": Mode.BIND,
    "prefer": Mode.PREFERRED,
    "prefer-many": Mode.PREFERRED_MANY,
    "local": Mode.LOCAL,
}
_FORMS = "interleave=0-3, weighted=0:3,1:1, bind=0, prefer=1, prefer-many=0,1 or local"
_HEAVIEST = 255
"""A weight is a u8 (struct weighted_interleave_state, before that iw_table), and sysfs refuses 0."""
_NODES = 1024
"""MAX_NUMNODES of the largest configuration."""


@dataclass(frozen=True, slots=True)
class Move:
    """One VMA under a policy that it does not have. Arrays are of shape (len(node_ids),).

    row: of the snapshot's `vmas`. promise, shares: as in `Expectation`; shares None where the policy fixes none (bind
    and prefer (many) of several nodes, local). expected: pages, the shares apportioned; None where `shares` is.
    actual: pages as numa_maps counts them. difference: actual - expected, or, without shares, pages on nodes that the
    policy does not allow. pages: the least number that would have to move, sum of the positive differences; bytes: the
    same, in bytes.
    """

    row: int
    vma: Vma
    promise: Promise
    shares: Float64s | None
    expected: Int64s | None
    actual: Int64s
    difference: Int64s
    pages: int
    bytes: int


@dataclass(frozen=True, slots=True)
class MoveTotal:
    """The sum of several `Move`s, in bytes, because a hugetlb page counts as one. Arrays as there.

    vmas: how many have something to move. expected: None where it is for one of them. difference: may be even where
    its parts are not, so `bytes`, what has to move, is the sum over VMAs. of_bytes: all bytes."""

    vmas: int
    expected: Int64s | None
    actual: Int64s
    difference: Int64s
    bytes: int
    of_bytes: int


def parse_policy(text: str) -> tuple[Policy, dict[int, int] | None]:
    """The policy that `--as` names, and its weights if it is a weighted interleave.

    `interleave=0-3`, `weighted=0:3,1:1`, `bind=0`, `prefer=1`, `prefer-many=0,1`, `local`. A weight goes for a range
    as well: `weighted=0-1:3,2:1`. ValueError, in words for the user, for anything else.
    """
    word, equals, rest = text.strip().partition("=")
    if word not in _MODES:
        raise ValueError(f"{text!r} names no policy; write {_FORMS}")
    mode = _MODES[word]
    if mode is Mode.LOCAL:
        if equals:
            raise ValueError(f"local takes no nodes, and {text!r} names some")
        return Policy(mode), None
    if not rest:
        raise ValueError(f"{word} needs nodes: {word}={'0:3,1:1' if word == 'weighted' else '0'}")
    if mode is Mode.WEIGHTED_INTERLEAVE:
        weights = _parse_weights(rest)
        return Policy(mode, nodes=tuple(sorted(weights))), weights
    nodes = _parse_nodes(rest)
    if mode is Mode.PREFERRED and len(nodes) > 1:
        raise ValueError(f"prefer takes one node, and {rest!r} are {len(nodes)}; prefer-many takes several")
    return Policy(mode, nodes=nodes), None


def _parse_nodes(text: str) -> tuple[int, ...]:
    """Ascending ids, each once."""
    try:
        if any(int(number) >= _NODES for number in text.replace("-", ",").split(",")):  # before a range is laid out
            raise ValueError(text)
        nodes = parse_nodes(text)
    except ValueError:
        nodes = ()
    if not nodes or len(set(nodes)) < len(nodes):
        raise ValueError(f"{text!r} is no list of nodes; write 0-3 or 0,2")
    return tuple(sorted(nodes))


def _parse_weights(text: str) -> dict[int, int]:
    weights: dict[int, int] = {}
    for item in text.split(","):
        nodes, colon, weight = item.partition(":")
        if not colon or not weight.isascii() or not weight.isdigit() or not 1 <= int(weight) <= _HEAVIEST:
            raise ValueError(f"{item!r} is no node with a weight from 1 to {_HEAVIEST}; write 0:3,1:1")
        for node in _parse_nodes(nodes):
            if node in weights:
                raise ValueError(f"{text!r} gives node {node} two weights")
            weights[node] = int(weight)
    return weights


def what_if(
    snapshot: Snapshot, policy: Policy, weights: Mapping[int, int] | None = None, rows: Sequence[int] | None = None
) -> list[Move]:
    """What would have to move under `policy`, for each VMA that has pages (of `rows`, if given), in address order.

    By shares alone, so the least number of pages. mbind() with MPOL_MF_MOVE goes by address and may move more:
    `pages_off` counts these where the node of each page is known. Under local a page would be where it is touched
    first, which a snapshot does not tell, so nothing has to move. weights: of weighted interleave, those of the
    snapshot if None. ValueError, in words for the user, where a node has no memory or is not in the cpuset, or where
    the weights are not known.
    """
    _check_nodes(snapshot, policy)
    policies = snapshot.policies
    if weights is None and policies is not None and policies.weights is not None:
        weights = dict(zip(snapshot.node_ids, policies.weights, strict=True))
    if weights is None and policy.mode == Mode.WEIGHTED_INTERLEAVE:
        raise ValueError("the weights of the nodes are not known; write them: weighted=0:3,1:1")
    promised = expectation(policy, snapshot.node_ids, weights)
    wanted = np.flatnonzero(snapshot.pages.sum(axis=1)).tolist()
    return [_move(snapshot, row, promised) for row in wanted if rows is None or row in set(rows)]


def _check_nodes(snapshot: Snapshot, policy: Policy) -> None:
    empty = [node for node in policy.nodes if node not in snapshot.node_ids]
    if empty:
        have = format_nodes(snapshot.node_ids)
        raise ValueError(f"no memory on {_named(empty)}; the nodes with memory are {have}")
    if snapshot.policies is not None:
        allowed = snapshot.policies.allowed
        outside = [node for node in policy.nodes if node not in allowed]
        if outside:
            are = "is" if len(outside) == 1 else "are"
            have = format_nodes(allowed)
            raise ValueError(f"{_named(outside)} {are} not in the cpuset of the process, which has {have}")


def _named(nodes: Sequence[int]) -> str:
    return f"node{'s' if len(nodes) > 1 else ''} {format_nodes(nodes)}"


def _move(snapshot: Snapshot, row: int, promised: Expectation) -> Move:
    vma, actual = snapshot.vmas[row], snapshot.pages[row]
    expected = None
    if promised.shares is not None:
        expected = apportion(promised.shares, int(actual.sum()), actual)
        difference = actual - expected
    else:
        allowed = np.array([promised.allows(node) for node in snapshot.node_ids])
        difference = np.where(allowed, 0, actual)
    pages = int(difference[difference > 0].sum())
    size = vma.page_kb * 1024
    return Move(row, vma, promised.promise, promised.shares, expected, actual, difference, pages, pages * size)


def move_total(moves: Iterable[Move], node_ids: Sequence[int]) -> MoveTotal:
    """The sum over VMAs. node_ids: those of the snapshot."""
    actual, expected, difference = (np.zeros(len(node_ids), np.int64) for _ in range(3))
    vmas = moved = 0
    whole = True
    for move in moves:
        size = move.vma.page_kb * 1024
        vmas += move.pages > 0
        moved += move.bytes
        actual += move.actual * size
        difference += move.difference * size
        if move.expected is None:
            whole = False
        else:
            expected += move.expected * size
    return MoveTotal(vmas, expected if whole else None, actual, difference, moved, int(actual.sum()))


def pages_off(nodes_by_page: npt.NDArray[np.integer], rule: npt.NDArray[np.integer]) -> int:
    """How many pages lie elsewhere than a rule gives them, so how many mbind() with MPOL_MF_MOVE would move.

    nodes_by_page: id of each page's node, negative where there is no page. rule: as from `rule_nodes`, of the same
    shape; a negative id fits any node.
    """
    return int(((nodes_by_page >= 0) & (rule >= 0) & (nodes_by_page != rule)).sum())
