"""Tables of VMAs with the share of each node that there is, and the share that a policy promises. Text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tracer.model.policy import Policy, format_nodes
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import Finding
from tracer.model.whatif import Move, MoveTotal
from tracer.render.happened import counted
from tracer.render.policy_words import MOST_NODES, policy_word, verdict_word
from tracer.render.table import table
from tracer.render.terminal import word

__all__ = ["WhatIf", "differences", "vma_table", "what_if_lines"]

Cells = list[str | int]


def vma_table(snapshot: Snapshot, shown: Sequence[Finding | int]) -> Iterator[str]:
    """A row for each finding, and for each VMA without one, which stands here by its row in the snapshot."""
    nodes = _columns(snapshot.node_ids, [it for it in shown if isinstance(it, Finding)])
    header = ["VMA", "POLICY", "SET", "USABLE", "PAGES", *_names(snapshot, nodes), "EXCESS", "VERDICT", "NAME"]
    rows = (
        _judged(snapshot, it, nodes)
        if isinstance(it, Finding)
        else _unjudged(snapshot, it, len(_names(snapshot, nodes)))
        for it in shown
    )
    yield from table(header, rows, left=["VMA", "POLICY", "SET", "USABLE", "NODES", "VERDICT", "NAME"])


def _columns(node_ids: Sequence[int], placed: Sequence[Finding | Move]) -> list[int] | None:
    """Which nodes have a column: those with a page or the promise of one. None where there are too many for that."""
    used = np.zeros(len(node_ids), np.bool_)
    for it in placed:
        used |= it.actual > 0
        if it.shares is not None:
            used |= it.shares > 0
    columns: list[int] = np.flatnonzero(used).tolist()
    return columns if len(columns) <= MOST_NODES else None


def _names(snapshot: Snapshot, nodes: Sequence[int] | None) -> list[str]:
    return ["NODES"] if nodes is None else [f"N{snapshot.node_ids[at]}" for at in nodes]


def _judged(snapshot: Snapshot, it: Finding, nodes: Sequence[int] | None) -> Cells:
    vma = it.vma
    return [
        f"{vma.start:x}-{vma.end:x}",
        policy_word(vma.policy, snapshot.spelling),
        {None: "?", True: "own", False: "task"}[it.own],
        f"N{format_nodes(it.usable)}" if it.usable else "-",
        int(it.actual.sum()),
        *_shares(snapshot, it, nodes),
        it.excess,
        verdict_word(it.verdict),
        word(vma.path),
    ]


def _unjudged(snapshot: Snapshot, row: int, nodes: int) -> Cells:
    """nodes: how many columns there are for them."""
    vma = snapshot.vmas[row]
    own = "?" if snapshot.policies is None else "own" if snapshot.policies.own[row] else "task"
    where = f"{vma.start:x}-{vma.end:x}"
    policy = policy_word(vma.policy, snapshot.spelling)
    return [where, policy, own, "-", 0, *["-"] * nodes, 0, "no-pages", word(vma.path)]


def _shares(snapshot: Snapshot, it: Finding | Move, nodes: Sequence[int] | None) -> list[str]:
    """`75.0/25.0` for each column: percent that lie there, and that should."""
    if nodes is None:
        return [differences(snapshot.node_ids, it, ",") or "-"]
    percent = 100 * it.actual / max(1, int(it.actual.sum()))
    return [f"{percent[at]:.1f}/" + ("-" if it.shares is None else f"{100 * it.shares[at]:.1f}") for at in nodes]


def differences(node_ids: Sequence[int], it: Finding | Move, between: str) -> str:
    """`N0+9216 N1-3072`: pages more or less than expected, of the nodes that differ most, by node; empty for none."""
    order = np.argsort(-np.abs(it.difference), kind="stable")[:MOST_NODES]
    some = sorted(at for at in order.tolist() if it.difference[at])
    more = int(np.count_nonzero(it.difference)) - len(some)
    return between.join([f"N{node_ids[at]}{it.difference[at]:+d}" for at in some] + [f"{more}-more"] * bool(more))


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A policy that was asked about, with its weights where it is weighted, and what would have to move for it."""

    policy: Policy
    weights: Mapping[int, int] | None
    moves: Sequence[Move]
    total: MoveTotal


def what_if_lines(snapshot: Snapshot, asked: WhatIf, most: int) -> Iterator[str]:
    """The sum, and the VMAs of which something would have to move. most: of these, 0 for all."""
    total, pages = asked.total, sum(it.pages for it in asked.moves)
    weights = " ".join(f"N{node}={weight}" for node, weight in sorted((asked.weights or {}).items()))
    yield (
        f"# as {policy_word(asked.policy)}{f' with weights {weights}' if weights else ''}: "
        f"{counted(pages, 'page')} at least ({total.bytes // 1024} of {total.of_bytes // 1024} KiB) would have to "
        f"move, in {total.vmas} of {counted(len(asked.moves), 'VMA')}"
    )
    moves = sorted((it for it in asked.moves if it.pages), key=lambda it: (-it.bytes, it.row))
    if not moves:
        return
    shown = moves[: most or None]
    some = f": {most} of {len(moves)} (--vmas 0 shows all)" if most and most < len(moves) else ""
    yield f"# the VMAs, most to move first; share of each node in %, actual/as asked{some}"
    nodes = _columns(snapshot.node_ids, shown)
    header = ["VMA", "POLICY", "PAGES", *_names(snapshot, nodes), "MOVE", "KiB", "NAME"]
    yield from table(header, (_move(snapshot, it, nodes) for it in shown), left=["VMA", "POLICY", "NODES", "NAME"])


def _move(snapshot: Snapshot, it: Move, nodes: Sequence[int] | None) -> Cells:
    return [
        f"{it.vma.start:x}-{it.vma.end:x}",
        policy_word(it.vma.policy, snapshot.spelling),
        int(it.actual.sum()),
        *_shares(snapshot, it, nodes),
        it.pages,
        it.bytes // 1024,
        word(it.vma.path),
    ]
