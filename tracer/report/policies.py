"""The tables about policies: verdicts with their causes, the policies of threads, changes, and how full nodes were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tracer.model.policies import Policies, TaskPolicy
from tracer.model.policy import Policy, Spelling, format_nodes
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import CauseCount, Finding, Verdict, findings, summary
from tracer.render.causes import explain, remedy
from tracer.render.policy_words import by_node
from tracer.render.terminal import printable
from tracer.render.timestamp import timestamp
from tracer.report.history import PolicyChange, Rulings
from tracer.report.words import amount, count, shortened, shown

__all__ = ["CauseCell", "ChangeRow", "ShareCell", "Told", "VerdictRow", "told"]

_AREAS = 60
_THREADS = 40
"""Names of threads that have the same policy."""
_NAME_CHARACTERS = 90
_PAGE_KB = 4
_WORST_FIRST = (Verdict.SKEWED, Verdict.CANNOT_APPLY, Verdict.TOO_SMALL, Verdict.AS_PROMISED)


@dataclass(frozen=True, slots=True)
class ShareCell:
    """A node's part of an area. due: what is promised, empty where nothing is; difference: in pages, with its sign."""

    share: str
    due: str
    difference: str
    away: bool


@dataclass(frozen=True, slots=True)
class CauseCell:
    """Why pages lie elsewhere. where: on which nodes. remedy: may be empty."""

    pages: str
    where: str
    text: str
    remedy: str


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """An area with a policy. whose: its own, or the task's. usable: nodes. bad: whether it is skewed."""

    address: str
    process: str
    name: str
    policy: str
    whose: str
    usable: str
    verdict: str
    bad: bool
    why: str
    cells: list[ShareCell]
    causes: list[CauseCell]


@dataclass(frozen=True, slots=True)
class ThreadRow:
    """Threads of one process that have the same policy. other: than that of its main thread."""

    process: str
    policy: str
    number: str
    threads: str
    other: bool


@dataclass(frozen=True, slots=True)
class TargetRow:
    """nodes: that the process may use, and weights of weighted interleave, where there are any."""

    process: str
    nodes: str
    weights: str


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """A change of a policy. exact: whether that was the time, and not that of the look that found it."""

    time: str
    exact: bool
    process: str
    what: str
    old: str
    new: str
    how: str


@dataclass(frozen=True, slots=True)
class Told:
    """All that the section says. verdicts: how many areas got each. more_areas, more_targets, more_changes: that are
    not told of. fullness: of each node: free memory, its low watermark, allocations that others served."""

    verdicts: list[tuple[str, str, bool]]
    areas: list[VerdictRow]
    more_areas: int
    targets: list[TargetRow]
    more_targets: int
    threads: list[ThreadRow]
    changes: list[ChangeRow]
    more_changes: int
    fullness: list[tuple[int, str, str, str, bool]]


def told(rulings: Rulings | None, node_ids: Sequence[int]) -> Told | None:
    """None where policies were not recorded. node_ids: those of the page, which all targets have."""
    if rulings is None:
        return None
    found = [(shot, finding) for shot in rulings.shots for finding in findings(shot)]
    sums = summary(finding for _, finding in found)
    ruled = [(shot, finding) for shot, finding in found if finding.verdict is not Verdict.NO_POLICY]
    ruled.sort(key=_weight)
    several = len(rulings.shots) > 1
    return Told(
        verdicts=[(verdict.value, count(sums.verdicts[verdict]), verdict is Verdict.SKEWED) for verdict in Verdict],
        areas=[_area(shot, finding, several) for shot, finding in ruled[:_AREAS]],
        more_areas=max(len(ruled) - _AREAS, 0),
        targets=[_target(shot) for shot in rulings.shots],
        more_targets=rulings.targets - len(rulings.shots),
        threads=[row for shot in rulings.shots for row in _threads(shot)],
        changes=[_change(change) for change in rulings.changes],
        more_changes=rulings.count - len(rulings.changes),
        fullness=_fullness(rulings.shots, node_ids),
    )


def _weight(item: tuple[Snapshot, Finding]) -> tuple[int, int, int]:
    """The worst ones first."""
    _, finding = item
    return _WORST_FIRST.index(finding.verdict), -finding.excess, -int(finding.actual.sum())


def _process(shot: Snapshot) -> str:
    return f"{printable(shot.comm)} {shot.pid}"


# -- areas --------------------------------------------------------------------------------------------------------


def _area(shot: Snapshot, finding: Finding, several: bool) -> VerdictRow:
    vma = finding.vma
    return VerdictRow(
        address=f"{vma.start:x}-{vma.end:x}",
        process=_process(shot) if several else "",
        name=shortened(printable(vma.path), _NAME_CHARACTERS) or f"[{vma.kind.value or 'anon'}]",
        policy=_spelled(vma.policy, shot.spelling),
        whose="its own" if finding.own else "the task's",
        usable=f"node{'' if len(finding.usable) == 1 else 's'} {format_nodes(finding.usable)}"
        if finding.usable
        else "none",
        verdict=finding.verdict.value,
        bad=finding.verdict is Verdict.SKEWED,
        why=shown(finding.why),
        cells=_cells(finding),
        causes=[_cause(it) for it in finding.causes],
    )


def _cells(finding: Finding) -> list[ShareCell]:
    total = max(int(finding.actual.sum()), 1)
    cells = []
    for place, (pages, difference) in enumerate(zip(finding.actual.tolist(), finding.difference.tolist(), strict=True)):
        due = "" if finding.shares is None else f"{100 * float(finding.shares[place]):.1f} %"
        away = finding.verdict is Verdict.SKEWED and abs(difference) > total // 100
        cells.append(ShareCell(f"{100 * pages / total:.1f} %", due, _signed(difference), away))
    return cells


def _signed(pages: int) -> str:
    return "" if not pages else f"+{count(pages)}" if pages > 0 else f"\N{MINUS SIGN}{count(-pages)}"


def _cause(it: CauseCount) -> CauseCell:
    text, advice = explain(it.cause, it.reason), remedy(it.cause, it.reason)
    return CauseCell(count(it.pages), by_node(it.nodes), shown(text), shown(advice))


# -- targets, threads, changes ------------------------------------------------------------------------------------


def _target(shot: Snapshot) -> TargetRow:
    policies = _policies(shot)
    weights = ""
    if policies.weights is not None:
        weights = ", ".join(f"node {node}: {w}" for node, w in zip(shot.node_ids, policies.weights, strict=True))
    return TargetRow(_process(shot), format_nodes(policies.allowed) or "none", weights)


def _threads(shot: Snapshot) -> list[ThreadRow]:
    """The main thread's policy first, then those of most threads."""
    threads = _policies(shot).threads
    groups: dict[Policy, list[TaskPolicy]] = {}
    for thread in threads:
        groups.setdefault(thread.policy, []).append(thread)
    main = threads[0].policy if threads else None
    ranked = sorted(groups.items(), key=lambda item: (item[0] != main, -len(item[1])))
    return [_thread_row(shot, policy, its, policy != main) for policy, its in ranked]


def _thread_row(shot: Snapshot, policy: Policy, threads: Sequence[TaskPolicy], other: bool) -> ThreadRow:
    names = ", ".join(f"{it.thread} {printable(it.comm)}" for it in threads[:_THREADS])
    if len(threads) > _THREADS:
        names += f" and {count(len(threads) - _THREADS)} more"
    return ThreadRow(_process(shot), _spelled(policy, shot.spelling), count(len(threads)), names, other)


def _change(change: PolicyChange) -> ChangeRow:
    what = f"{change.start:x}-{change.end:x}" if change.end else f"thread {change.thread}" if change.thread else "task"
    by = f" by thread {change.thread}" if change.end and change.thread else ""
    return ChangeRow(
        time=timestamp(change.time, "milliseconds"),
        exact=change.exact,
        process=f"{shown(change.comm)} {change.pid}",
        what=what,
        old=shown(change.old) or "none of its own",
        new=shown(change.new) or "none of its own",
        how=f"{shown(change.call)}{by}" if change.call or by else "found by a look",
    )


def _spelled(policy: Policy, spelling: Spelling) -> str:
    return shown(policy.text(spelling))


def _policies(shot: Snapshot) -> Policies:
    assert shot.policies is not None
    return shot.policies


# -- the machine --------------------------------------------------------------------------------------------------


def _fullness(shots: Sequence[Snapshot], node_ids: Sequence[int]) -> list[tuple[int, str, str, str, bool]]:
    """As the target that was seen last saw the nodes."""
    if not shots:
        return []
    pressure = _policies(max(shots, key=lambda shot: shot.time)).pressure
    columns = [column.tolist() for column in (pressure.free, pressure.low, pressure.foreign)]
    return [
        (node, amount(free * _PAGE_KB), amount(low * _PAGE_KB), count(foreign), free <= low)
        for node, free, low, foreign in zip(node_ids, *columns, strict=True)
    ]
