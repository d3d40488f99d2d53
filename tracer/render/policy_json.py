"""Whether pages lie as the policies in force promise, and why not: of one target, as one line of JSON. The keys are
described in `policy.schema.json` beside this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.model.policies import Policies, PolicyChange
from tracer.model.policy import Policy, Spelling
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import CauseCount, Finding, summary
from tracer.render.causes import explain, remedy
from tracer.render.jsonl import by_node, target_fields, vma_fields
from tracer.render.paths import name_fields, text_name
from tracer.render.policy import Report, governed
from tracer.render.policy_vmas import WhatIf
from tracer.render.policy_why import meant_for
from tracer.render.policy_words import verdict_word
from tracer.render.stream import json_line
from tracer.render.timestamp import timestamp

__all__ = ["line"]


def line(report: Report, untraced: int = 0) -> str:
    """Everything, of all VMAs, on one line of ASCII without newline. untraced: as in `Sample`."""
    snapshot = report.snapshot
    fields = {
        "time": timestamp(snapshot.time),
        **target_fields(snapshot),
        "ended": report.ended,
        **_policies(snapshot),
        "changes": [_change(it, snapshot.spelling) for it in report.changes],
        "changes_left_out": report.left_out,
        "limits": {"significance": report.limits.significance, "tolerance": report.limits.tolerance},
        "vmas": [_finding(snapshot, it) for it in report.findings],
        "sum": _sum(report.findings),
        "as": None if report.what_if is None else _what_if(snapshot, report.what_if),
        "untraced": untraced,
    }
    return json_line("policy", fields)


def _policies(snapshot: Snapshot) -> dict[str, Any]:
    """What is known of the target's policies beside those of its VMAs; null where nobody read them."""
    policies = snapshot.policies
    if policies is None:
        return {"observed": False, "allowed": None, "weights": None, "threads": None, "pressure": None}
    return {
        "observed": policies.observed,
        "allowed": list(policies.allowed),
        "weights": None if policies.weights is None else by_node(snapshot.node_ids, policies.weights),
        "threads": [
            {"thread": it.thread, "comm": text_name(it.comm), "policy": it.policy.text(snapshot.spelling)}
            for it in policies.threads
        ],
        "pressure": _pressure(snapshot.node_ids, policies),
    }


def _pressure(node_ids: Sequence[int], policies: Policies) -> dict[str, dict[str, int]]:
    columns = {key: getattr(policies.pressure, key).tolist() for key in ("free", "low", "high", "foreign")}
    return {str(node): {key: column[at] for key, column in columns.items()} for at, node in enumerate(node_ids)}


def _change(change: PolicyChange, spelling: Spelling) -> dict[str, Any]:
    def text(policy: Policy | None) -> str | None:
        return None if policy is None else policy.text(spelling)

    of_vma = change.end > 0
    return {
        "time": timestamp(change.time),
        "exact": change.exact,
        "thread": change.thread or None,
        "start": f"{change.start:x}" if of_vma else None,
        "end": f"{change.end:x}" if of_vma else None,
        "old": text(change.old),
        "new": text(change.new),
        "call": change.call or None,
    }


def _finding(snapshot: Snapshot, it: Finding) -> dict[str, Any]:
    node_ids = snapshot.node_ids
    return {
        **vma_fields(it.vma, it.vma.policy.text(snapshot.spelling), node_ids, it.actual.tolist()),
        "own": it.own,
        "usable": list(it.usable),
        "promise": it.promise.name.lower().replace("_", "-"),
        "shares": _some(node_ids, it.shares),
        "expected": _some(node_ids, it.expected),
        "difference": _some(node_ids, it.difference),
        "excess": it.excess,
        "units": it.units,
        "p_value": it.p_value,
        "verdict": verdict_word(it.verdict),
        "why": it.why,
        "causes": [_cause(cause, meant_for(snapshot, [it.row], cause)) for cause in it.causes],
    }


def _some(node_ids: Sequence[int], numbers: npt.NDArray[np.number[Any]] | None) -> dict[str, Any] | None:
    """By node, without those that are 0."""
    if numbers is None:
        return None
    return {str(node): number for node, number in zip(node_ids, numbers.tolist(), strict=True) if number}


def _cause(it: CauseCount, meant: Mapping[int, int]) -> dict[str, Any]:
    return {
        **_counted(it),
        "meant_for": {str(node): pages for node, pages in sorted(meant.items())},
        "explanation": explain(it.cause, it.reason),
        "remedy": remedy(it.cause, it.reason),
    }


def _counted(it: CauseCount) -> dict[str, Any]:
    return {
        "cause": it.cause.word,
        "reason": it.reason or None,
        "pages": it.pages,
        "nodes": {str(node): pages for node, pages in sorted(it.nodes.items())},
    }


def _sum(findings: Sequence[Finding]) -> dict[str, Any]:
    total = summary(findings)
    return {
        "verdicts": {verdict_word(verdict): count for verdict, count in total.verdicts.items()},
        "pages": total.pages,
        "governed": governed(findings),
        "excess": total.excess,
        "elsewhere": sum(it.pages for it in total.causes),
        "causes": [_counted(it) for it in total.causes],
    }


def _what_if(snapshot: Snapshot, asked: WhatIf) -> dict[str, Any]:
    node_ids, total = snapshot.node_ids, asked.total
    moves = [
        {
            "start": f"{it.vma.start:x}",
            "end": f"{it.vma.end:x}",
            **name_fields(it.vma.path),
            "expected": _some(node_ids, it.expected),
            "difference": _some(node_ids, it.difference),
            "pages": it.pages,
            "bytes": it.bytes,
        }
        for it in asked.moves
    ]
    return {
        "policy": asked.policy.text(snapshot.spelling),
        "weights": None if asked.weights is None else {str(node): it for node, it in sorted(asked.weights.items())},
        "pages": sum(it.pages for it in asked.moves),
        "bytes": total.bytes,
        "of_bytes": total.of_bytes,
        "vmas": total.vmas,
        "moves": moves,
    }
