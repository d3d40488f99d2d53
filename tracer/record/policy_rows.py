"""Policies as the rows have them: what is said of VMAs and of targets, and what of it is news."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.model.policies import Misplaced, Policies, PolicyChange, Pressure, TaskPolicy
from tracer.model.policy import Policy, Spelling, format_nodes
from tracer.model.snapshot import Snapshot
from tracer.record.grouped import Grouped
from tracer.record.words import policy_text, text_and_raw

__all__ = ["head_values", "policies_differ", "pressure_is_news", "pressure_values", "thread_values", "vma_columns"]

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
Values = dict[str, Any]

_FREE_SHARE = 8
"""Free memory changes all the time: a change by less than one part in so many is no news, unless it passes a
watermark."""

_FIELDS = ("node", "expected", "cause", "pages")

# --- VMAs ---


def vma_columns(policies: Policies | None, rows: Rows, vmas: int) -> Values:
    """The columns of the rows of these VMAs, of all that there are; null without policies."""
    if policies is None:
        none = [None] * len(rows)
        columns: Values = dict.fromkeys(("own", "governed", "units", "huge_pages", "rule"), none)
        return columns | {"misplaced": Grouped.misplaced(None, rows, vmas)}
    return {
        "own": policies.own[rows],
        "governed": policies.governed[rows],
        "units": policies.units[rows],
        "huge_pages": policies.huge[rows],
        "rule": [pages if any(pages) else None for pages in policies.rule[rows].tolist()],
        "misplaced": Grouped.misplaced(policies.misplaced, rows, vmas),
    }


def policies_differ(now: Policies, here: Rows, before: Policies, there: Rows) -> Bools:
    """Whether something is new about each VMA that is row `here` now and was row `there` before."""
    differ: Bools = (now.rule[here] != before.rule[there]).any(axis=1)
    for name in ("own", "governed", "units", "huge"):
        differ |= getattr(now, name)[here] != getattr(before, name)[there]
    return differ | _misplaced_differ(now.misplaced, here, before.misplaced, there)


def _misplaced_differ(now: Misplaced, here: Rows, before: Misplaced, there: Rows) -> Bools:
    first, count = _of_vmas(now, here)
    old_first, old_count = _of_vmas(before, there)
    differ: Bools = count != old_count
    same = np.flatnonzero(~differ & (count > 0))
    if len(same):
        rows, old_rows = _ranges(first[same], count[same]), _ranges(old_first[same], count[same])
        columns = [getattr(now, name)[rows] != getattr(before, name)[old_rows] for name in _FIELDS]
        columns.append(_reasons(now, rows) != _reasons(before, old_rows))
        of = np.repeat(same, count[same])
        differ[of[np.logical_or.reduce(columns)]] = True
    return differ


def _of_vmas(misplaced: Misplaced, vmas: Rows) -> tuple[Rows, Rows]:
    """The first row of each of these VMAs, and how many it has."""
    first = np.searchsorted(misplaced.vma, vmas)
    return first, np.searchsorted(misplaced.vma, vmas, side="right") - first


def _ranges(first: Rows, count: Rows) -> Rows:
    """The row numbers of all these ranges, one after the other."""
    ends = np.cumsum(count)
    return np.repeat(first - ends + count, count) + np.arange(ends[-1])


def _reasons(misplaced: Misplaced, rows: Rows) -> npt.NDArray[np.object_]:
    return np.array([*misplaced.reasons, ""], object)[misplaced.reason[rows]]


# --- targets ---


def head_values(policies: Policies, snapshot: Snapshot) -> Values:
    """What a target's own row says in any case; threads and pressure are added by the caller where they are news."""
    spelling = snapshot.spelling
    return {
        "observed": policies.observed,
        "allowed": format_nodes(policies.allowed),
        "weights": policies.weights,
        "policy_changes": [_change(it, spelling) for it in policies.changes] or None,
    }


def thread_values(threads: tuple[TaskPolicy, ...], spelling: Spelling) -> list[Values]:
    """All of them."""
    return [_thread(it, spelling) for it in threads]


def _thread(task: TaskPolicy, spelling: Spelling) -> Values:
    comm, raw = text_and_raw(task.comm)
    return {"thread": task.thread, "comm": comm, "comm_raw": raw, **_policy(task.policy, spelling)}


def _policy(policy: Policy, spelling: Spelling) -> Values:
    return {
        "policy": policy_text(policy, spelling),
        "mode": policy.mode,
        "flags": policy.flags,
        "nodes": format_nodes(policy.nodes),
    }


def _change(change: PolicyChange, spelling: Spelling) -> Values:
    return {
        "time": change.time,
        "exact": change.exact,
        "thread": change.thread,
        "start": change.start,
        "end": change.end,
        "old": None if change.old is None else _policy(change.old, spelling),
        "new": None if change.new is None else _policy(change.new, spelling),
        "call": change.call,
    }


def pressure_is_news(now: Pressure, said: Pressure | None) -> bool:
    """Whether it is to be written. said: what was written last."""
    if said is None:
        return True
    if now is said:
        return False
    if any(not np.array_equal(getattr(now, name), getattr(said, name)) for name in ("foreign", "low", "high")):
        return True
    if (abs(now.free - said.free) * _FREE_SHARE > said.free).any():
        return True
    return any(((now.free < mark) != (said.free < mark)).any() for mark in (now.low, now.high))


def pressure_values(pressure: Pressure, node_ids: tuple[int, ...]) -> list[Values]:
    """One for each node."""
    names = ("foreign", "free", "low", "high")
    columns = [getattr(pressure, name).tolist() for name in names]
    return [{"node": node, **dict(zip(names, row, strict=True))} for node, *row in zip(node_ids, *columns, strict=True)]
