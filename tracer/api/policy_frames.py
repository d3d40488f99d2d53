"""DataFrames about policies out of samples: findings, causes, threads; what each column means stands in docs/api.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from tracer.api import frames
from tracer.model.cause import Cause
from tracer.model.policies import PolicyChange
from tracer.model.policy import Policy, Spelling, format_nodes
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import Finding, Limits, findings
from tracer.record.words import policy_text

__all__ = ["NO_NODE", "POLICY_CHANGES", "causes", "change_columns", "policies", "thread_policies"]

NO_NODE = -1
"""A node where there is not just one, or pages that nothing is expected of."""

_INT, _FLOAT, _BOOL, _TEXT, _TIME = "int64", "float64", "bool", "text", "time"

_VMA = {"time": _TIME, "pid": _INT, "start": _INT, "end": _INT, "name": _TEXT}
_POLICIES = _VMA | {
    "policy": _TEXT,
    "own": _BOOL,
    "usable": _TEXT,
    "promise": _TEXT,
    "verdict": _TEXT,
    "pages": _INT,
    "excess": _INT,
    "units": _FLOAT,
    "p_value": _FLOAT,
    "why": _TEXT,
}
_CAUSES = _VMA | {
    "policy": _TEXT,
    "cause": _TEXT,
    "reason": _TEXT,
    "node": _INT,
    "expected": _INT,
    "pages": _INT,
    "bytes": _INT,
}
_THREADS = {"time": _TIME, "pid": _INT, "thread": _INT, "comm": _TEXT, "policy": _TEXT}
POLICY_CHANGES: frames.Schema = {
    "time": _TIME,
    "pid": _INT,
    "changed": _TIME,
    "exact": _BOOL,
    "thread": _INT,
    "start": _INT,
    "end": _INT,
    "old": _TEXT,
    "new": _TEXT,
    "call": _TEXT,
}


# --- findings ---


def policies(sample: Sample, node_ids: Sequence[int], limits: Limits) -> pd.DataFrame:
    """A row per VMA with pages of every live target."""
    pairs = [(shot, one) for shot in sample.snapshots for one in findings(shot, limits)]
    found = [one for _, one in pairs]
    columns = _vma_columns(sample, pairs) | {
        "own": [bool(one.own) for one in found],
        "usable": [format_nodes(one.usable) for one in found],
        "promise": [one.promise.name.lower() for one in found],
        "verdict": [one.verdict.value for one in found],
        "pages": [int(one.actual.sum()) for one in found],
        "excess": [one.excess for one in found],
        "units": [one.units for one in found],
        "p_value": [np.nan if one.p_value is None else one.p_value for one in found],
        "why": [one.why for one in found],
    }
    schema = dict(_POLICIES)
    for letter, name, missing in (("N", "actual", 0), ("E", "expected", NO_NODE), ("D", "difference", 0)):
        names = [f"{letter}{node}" for node in node_ids]
        schema |= dict.fromkeys(names, _INT)
        counts = _by_node(pairs, name, node_ids, missing)
        columns |= dict(zip(names, counts.T, strict=True))
    return frames.frame(schema, columns)


def _vma_columns(sample: Sample, pairs: Sequence[tuple[Snapshot, Finding]]) -> dict[str, Any]:
    return {
        "time": np.full(len(pairs), frames.microseconds(sample.time)),
        "pid": [shot.pid for shot, _ in pairs],
        "start": [frames.address(one.vma.start) for _, one in pairs],
        "end": [frames.address(one.vma.end) for _, one in pairs],
        "name": [frames.text(one.vma.path) for _, one in pairs],
        "policy": [one.vma.policy.text(shot.spelling) for shot, one in pairs],
    }


def _by_node(pairs: Sequence[tuple[Snapshot, Finding]], name: str, node_ids: Sequence[int], missing: int) -> Any:
    """An array of the findings, one below the other, with a column for each of these nodes; `missing` where a finding
    has none, and of nodes that its snapshot does not have."""
    column = {node: index for index, node in enumerate(node_ids)}
    counts = np.full((len(pairs), len(node_ids)), missing, np.int64)
    for row, (shot, one) in enumerate(pairs):
        values = getattr(one, name)
        if values is not None:
            counts[row, [column[node] for node in shot.node_ids]] = values
    return counts


# --- causes ---


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """Pages of one VMA that lie elsewhere, by what the last columns of `_CAUSES` tell apart."""

    cause: str
    reason: str
    node: int
    expected: int
    pages: int


def causes(sample: Sample) -> pd.DataFrame:
    """A row per VMA, cause, reason, node where the pages lie and node that the policy gives them."""
    rows = [
        ((shot, one), it)
        for shot in sample.snapshots
        for found in [findings(shot)]
        for known in [_misplaced(shot)]
        for one in found
        for it in _elsewhere(one, known)
    ]
    columns = _vma_columns(sample, [pair for pair, _ in rows])
    values = zip(*(astuple(it) for _, it in rows), strict=True) if rows else [()] * len(fields(_Elsewhere))
    columns |= dict(zip((it.name for it in fields(_Elsewhere)), values, strict=True))
    page_kb = [one.vma.page_kb for (_, one), _ in rows]
    columns["bytes"] = [it.pages * kb << 10 for (_, it), kb in zip(rows, page_kb, strict=True)]
    return frames.frame(_CAUSES, columns)


_Known = dict[tuple[int, Cause, str, int], dict[int, int]]
"""Pages by the node that the policy gives them, of a VMA (its row), cause, reason and node where they lie."""


def _misplaced(shot: Snapshot) -> _Known:
    known: _Known = {}
    if shot.policies is None:
        return known
    rows = shot.policies.misplaced
    names = (*rows.reasons, "")
    columns = (rows.vma, rows.node, rows.expected, rows.cause, rows.reason, rows.pages)
    for vma, node, expected, cause, reason, pages in zip(*(it.tolist() for it in columns), strict=True):
        known.setdefault((vma, Cause(cause), names[reason], node), {})[expected] = pages
    return known


def _elsewhere(finding: Finding, known: _Known) -> Iterator[_Elsewhere]:
    """What a finding adds to the known ones (those that fit the rule, and what nobody saw) has no one node where it is
    expected."""
    for count in finding.causes:
        for node, pages in count.nodes.items():
            places = known.get((finding.row, count.cause, count.reason, node), {})
            left = pages - sum(places.values())
            for expected, some in places.items():
                yield _Elsewhere(count.cause.word, count.reason, node, expected, some)
            if left > 0:
                yield _Elsewhere(count.cause.word, count.reason, node, NO_NODE, left)


# --- threads ---


def thread_policies(sample: Sample) -> pd.DataFrame:
    """A row per thread of every live target; none of one whose policies were not read."""
    rows = [(shot, task) for shot in sample.snapshots if shot.policies is not None for task in shot.policies.threads]
    columns = {
        "time": np.full(len(rows), frames.microseconds(sample.time)),
        "pid": [shot.pid for shot, _ in rows],
        "thread": [task.thread for _, task in rows],
        "comm": [frames.text(task.comm) for _, task in rows],
        "policy": [policy_text(task.policy, shot.spelling) for shot, task in rows],
    }
    return frames.frame(_THREADS, columns)


# --- changes ---


def change_columns(shot: Snapshot, changes: Sequence[PolicyChange]) -> dict[str, Any]:
    """The columns of `POLICY_CHANGES`, but for the time of the sample."""
    return {
        "pid": [shot.pid] * len(changes),
        "changed": [frames.microseconds(it.time) for it in changes],
        "exact": [it.exact for it in changes],
        "thread": [it.thread for it in changes],
        "start": [frames.address(it.start) for it in changes],
        "end": [frames.address(it.end) for it in changes],
        "old": [_text(it.old, shot.spelling) for it in changes],
        "new": [_text(it.new, shot.spelling) for it in changes],
        "call": [it.call for it in changes],
    }


def _text(policy: Policy | None, spelling: Spelling) -> str:
    """Empty for none."""
    return "" if policy is None else policy_text(policy, spelling)
