"""The tables of a report: what stands in each cell, as text that is yet to be escaped for HTML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.model.placement import Promise, expectation
from tracer.model.policy import Policy, format_nodes
from tracer.report.history import FlowSum, History
from tracer.report.steps import ENDED, UNMAPPED
from tracer.report.words import amount, count, shortened, shown

__all__ = [
    "AreaRow",
    "FlowRow",
    "NodeCell",
    "NodeRow",
    "PolicyRow",
    "changed_areas",
    "faults",
    "flow_rows",
    "machine_rows",
    "node_rows",
    "pair_rows",
    "policy_rows",
]

Int64s = npt.NDArray[np.int64]

_NAME_CHARACTERS = 90
_FULL_NAME_CHARACTERS = 4200
_NEGLIGIBLE = 1e-3
"""What changed less than this part of what changed most is not worth a row."""
_AWAY = 0.05
"""From this difference of shares on, what a policy promises and what there is are said to differ."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node and what all targets had on it."""

    node: int
    cpus: str
    first: str
    last: str
    least: str
    most: str
    share: str


def node_rows(history: History) -> list[NodeRow]:
    """One for each node with memory."""
    sums = history.sums[: history.final + 1]
    whole = max(int(sums[-1].sum()), 1)
    return [
        NodeRow(
            node,
            history.info.cpus.get(node, ""),
            amount(int(column[0])),
            amount(int(column[-1])),
            amount(int(column.min())),
            amount(int(column.max())),
            f"{100 * int(column[-1]) / whole:.1f} %",
        )
        for node, column in zip(history.node_ids, sums.T, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class NodeCell:
    """An area on one node. span: from least to most. moved: what came and went, from and to other nodes."""

    first: str
    last: str
    span: str
    moved: str


@dataclass(frozen=True, slots=True)
class AreaRow:
    """A VMA. full_name: where `name` is shortened. fate: why it is no more, or empty."""

    address: str
    process: str
    name: str
    full_name: str
    fate: str
    policy: str
    cells: list[NodeCell]
    faults: str


def changed_areas(history: History, most: int) -> list[AreaRow]:
    """Those whose memory changed most: how far it went up and down on each node, and what moved. Most first."""
    steps, number = history.steps, len(history.steps)
    least, highest = steps.least[:number].copy(), steps.most[:number]
    began = steps.came[:number] >= history.first_rows
    least[began | (steps.holes[:number] > 0)] = 0
    into, out = np.zeros((2, number, len(history.node_ids)), np.int64)
    place = {node: index for index, node in enumerate(history.node_ids)}
    for (key, source, destination), kib in history.moved.items():
        if source in place:
            out[key, place[source]] += kib
        if destination in place:
            into[key, place[destination]] += kib
    score = (highest - least).sum(axis=1) + into.sum(axis=1) + out.sum(axis=1)
    score[score < score.max(initial=0) * _NEGLIGIBLE] = 0
    order = np.argsort(-score, kind="stable")[:most]
    return [_area_row(history, key, least[key], into[key], out[key]) for key in order.tolist() if score[key] > 0]


def _area_row(history: History, key: int, least: Int64s, into: Int64s, out: Int64s) -> AreaRow:
    steps, area = history.steps, history.areas[key]
    target = history.targets[int(steps.process[key])]
    values = (steps.first[key], steps.last[key], least, steps.most[key], into, out)
    cells = [_cell(*numbers) for numbers in zip(*(value.tolist() for value in values), strict=True)]
    full = shown(area.name)[:_FULL_NAME_CHARACTERS] or f"[{area.kind}]"
    name = shortened(full, _NAME_CHARACTERS)
    return AreaRow(
        f"{int(steps.start[key]):x}-{int(steps.end[key]):x}",
        f"{shown(target.comm)} {target.pid}" if len(history.targets) > 1 else "",
        name,
        full if full != name else "",
        {UNMAPPED: "unmapped", ENDED: "process ended"}.get(int(steps.why[key]), ""),
        shown(area.policy_text),
        cells,
        count(history.touched.get(key, 0)),
    )


def _cell(first: int, last: int, least: int, most: int, into: int, out: int) -> NodeCell:
    if not most:
        return NodeCell("", "", "", "")
    moved = " ".join([*[f"+{amount(into)}"] * bool(into), *[f"\N{MINUS SIGN}{amount(out)}"] * bool(out)])
    return NodeCell(amount(first), amount(last), f"{amount(least)} … {amount(most)}", moved)


@dataclass(frozen=True, slots=True)
class FlowRow:
    """label: the reason, or the pair of nodes."""

    label: str
    pages: str
    memory: str
    failed: str


def flow_rows(history: History) -> list[FlowRow]:
    """By reason, most memory first."""
    return _summed(history.flows, lambda flow: flow.reason)


def pair_rows(history: History, most: int) -> list[FlowRow]:
    """By pair of nodes and reason, most memory first."""
    rows = _summed(history.flows, lambda flow: f"{_node(flow.source)} → {_node(flow.destination)}, {flow.reason}")
    return rows[:most]


def _summed(flows: Sequence[FlowSum], label: Callable[[FlowSum], str]) -> list[FlowRow]:
    sums: dict[str, list[int]] = {}
    for flow in sorted(flows, key=lambda it: (it.source, it.destination, it.reason)):
        kept = sums.setdefault(shown(label(flow)), [0, 0, 0])
        for place, value in enumerate((flow.pages, flow.kib, flow.failed)):
            kept[place] += value
    ranked = sorted(sums.items(), key=lambda item: (-item[1][1], -item[1][2]))
    return [FlowRow(name, count(pages), amount(kib), count(failed)) for name, (pages, kib, failed) in ranked]


def _node(node: int) -> str:
    return f"node {node}" if node >= 0 else "unknown node"


def machine_rows(history: History) -> list[tuple[str, str, str]]:
    """Of the whole machine: reason, pages migrated, pages failed."""
    ranked = sorted(history.machine.items(), key=lambda item: (-item[1][0], -item[1][1], item[0]))
    return [(shown(reason), count(moved), count(failed)) for reason, (moved, failed) in ranked if moved or failed]


def faults(history: History) -> list[tuple[str, str]]:
    """Kind of fault, and how many."""
    return [(kind.name.lower(), count(number)) for kind, number in sorted(history.faults.items())]


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A policy in force. cells: for each node the share that lies there, what is promised, and whether they differ."""

    policy: str
    promise: str
    areas: str
    memory: str
    cells: list[tuple[str, str, bool]]


def policy_rows(history: History) -> list[PolicyRow]:
    """At the end of the recording, or of each process; those with most memory first."""
    nodes = len(history.node_ids)
    sums: dict[str, tuple[Policy, int, Int64s]] = {}
    for key in history.in_force():
        area = history.areas[key]
        policy, areas, kib = sums.get(area.policy_text, (area.policy, 0, np.zeros(nodes, np.int64)))
        sums[area.policy_text] = (policy, areas + 1, kib + history.steps.last[key])
    ranked = sorted(sums.items(), key=lambda item: (-int(item[1][2].sum()), item[0]))
    return [_policy_row(history, text, *what) for text, what in ranked]


def _policy_row(history: History, text: str, policy: Policy, areas: int, kib: Int64s) -> PolicyRow:
    promise = expectation(policy, history.node_ids)
    total = int(kib.sum())
    cells = []
    for place in range(len(history.node_ids)):
        share = int(kib[place]) / total if total else None
        due = None if promise.shares is None else float(promise.shares[place])
        away = share is not None and due is not None and abs(share - due) > _AWAY
        cells.append(
            ("" if share is None else f"{100 * share:.1f} %", "" if due is None else f"{100 * due:.1f} %", away)
        )
    return PolicyRow(shown(text), _promise(promise.promise, promise.nodes), count(areas), amount(total), cells)


def _promise(promise: Promise, nodes: tuple[int, ...]) -> str:
    among = f"node{'s' if len(nodes) > 1 else ''} {format_nodes(nodes)}" if nodes else "any node"
    return {
        Promise.TOUCH: "node of the CPU that touches first",
        Promise.PREFER: f"{among}, others when it is full",
        Promise.PREFER_MANY: f"nearest of {among}, others when these are full",
        Promise.WITHIN: f"only {among}",
        Promise.SPREAD: f"spread over {among} in fixed shares",
        Promise.UNKNOWN: "a policy that this version does not know",
    }[promise]
