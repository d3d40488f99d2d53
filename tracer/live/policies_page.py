"""What the screen about policies says, as lines: verdicts, policies of threads, changes, and how full nodes are."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from tracer.live.figures import bytes_text, count_text, fit, safe
from tracer.live.history import History
from tracer.live.sheet import Ink, Line, plain
from tracer.live.verdicts import Verdicts
from tracer.live.why import verdict_style
from tracer.model.policies import Policies, PolicyChange, Pressure, TaskPolicy
from tracer.model.policy import Mode, Policy, Spelling, format_nodes
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import Finding, Summary, Verdict, summary

__all__ = ["Ruling", "policy_lines", "ruling"]

_MOST_CHANGES = 200
_PAGE_BYTES = 4096
_POLICY = 24
"""Cells of a policy before the threads that have it."""
_TOLD = (Verdict.SKEWED, Verdict.CANNOT_APPLY, Verdict.TOO_SMALL, Verdict.AS_PROMISED)


@dataclass(frozen=True, slots=True)
class Ruling:
    """What is known of policies. shots: of the targets whose policies were read. changes: newest first, with the target
    of each. targets: how many live. summary: of all verdicts; None where policies were not read."""

    shots: Sequence[Snapshot]
    targets: int
    summary: Summary | None
    changes: Sequence[tuple[Snapshot, PolicyChange]]


def ruling(history: History, verdicts: Verdicts) -> Ruling:
    """What the history knows up to the sample that it shows."""
    sample = history.current
    shots = [shot for shot in sample.snapshots if shot.policies is not None]
    found: list[Finding] = []
    for shot in shots:
        found += [it for it in verdicts.ruled(shot).values() if it is not None]
    return Ruling(
        shots=shots,
        targets=len(sample.snapshots),
        summary=summary(found) if shots else None,
        changes=history.policy_changes(_MOST_CHANGES),
    )


def policy_lines(known: Ruling, width: int, ink: Ink) -> list[Line]:
    """As many lines as it takes, of `width` cells."""
    targets = f"{known.targets} target{'' if known.targets == 1 else 's'}"
    lines: list[Line] = [[plain(fit(f"policies of {targets}", width), ink.bold)]]
    if known.summary is None:
        return [*lines, [plain(fit("policies were not read here (numatrace live --policies)", width), ink.warning)]]
    lines.append(_verdicts(known.summary, ink))
    for shot in known.shots:
        lines += _target(shot, width, ink)
    lines += _changes(known.changes, width, ink)
    policies = known.shots[0].policies
    if policies is not None:
        lines += _pressure(policies.pressure, known.shots[0].node_ids, width, ink)
    return lines


def _verdicts(sums: Summary, ink: Ink) -> Line:
    counts = [(verdict, sums.verdicts.get(verdict, 0)) for verdict in _TOLD]
    line: Line = [plain("areas with a policy: ")]
    for place, (verdict, count) in enumerate(counts):
        text = f"{count} {verdict.value}"
        line += [plain(", " if place else ""), plain(text, verdict_style(verdict, ink) if count else ink.none)]
    return line


# -- task policies ------------------------------------------------------------------------------------------------


def _target(shot: Snapshot, width: int, ink: Ink) -> list[Line]:
    policies = shot.policies
    if policies is None:
        return []
    head = f"PID {shot.pid} {safe(shot.comm)}, may use N{format_nodes(policies.allowed)}{_weights(policies, shot)}"
    lines: list[Line] = [[], [plain(fit(head, width), ink.bold)]]
    main = policies.threads[0].policy if policies.threads else None
    for policy, threads in _by_policy(policies.threads):
        other = policy != main
        lines += _group(policy, threads, shot.spelling, other, width, ink)
    if not policies.threads:
        lines.append([plain("  no thread was seen", ink.dim)])
    return lines


def _weights(policies: Policies, shot: Snapshot) -> str:
    """Where there is a policy that they matter to."""
    ours = [vma.policy for vma in shot.vmas] + [thread.policy for thread in policies.threads]
    if policies.weights is None or not any(policy.mode == Mode.WEIGHTED_INTERLEAVE for policy in ours):
        return ""
    return ", weights " + " ".join(f"N{node}={w}" for node, w in zip(shot.node_ids, policies.weights, strict=True))


def _by_policy(threads: Sequence[TaskPolicy]) -> list[tuple[Policy, list[TaskPolicy]]]:
    """The main thread's first, then those of most threads."""
    groups: dict[Policy, list[TaskPolicy]] = {}
    for thread in threads:
        groups.setdefault(thread.policy, []).append(thread)
    if not groups:
        return []
    first, *others = groups.items()
    return [first, *sorted(others, key=lambda item: -len(item[1]))]


def _group(
    policy: Policy, threads: Sequence[TaskPolicy], spelling: Spelling, other: bool, width: int, ink: Ink
) -> list[Line]:
    """A policy and the threads that have it. other: than the main thread."""
    count = f"{len(threads)} thread{'' if len(threads) == 1 else 's'}"
    names = ", ".join(f"{it.thread} {safe(it.comm)}" for it in threads)
    room = max(width - _POLICY - 3, 20)
    text = textwrap.wrap(f"{count}: {names}", room, break_on_hyphens=False)
    style = ink.warning if other else ink.none
    label = fit(safe(policy.text(spelling)), _POLICY)
    lines: list[Line] = [[plain("  "), plain(label, style), plain(" " + text[0])]]
    return [*lines, *([plain(" " * (_POLICY + 3) + line)] for line in text[1:])]


# -- changes ------------------------------------------------------------------------------------------------------


def _changes(changes: Sequence[tuple[Snapshot, PolicyChange]], width: int, ink: Ink) -> list[Line]:
    lines: list[Line] = [[], [plain("changes of policies, newest first", ink.bold)]]
    if not changes:
        return [*lines, [plain("  none was seen")]]
    if any(not change.exact for _, change in changes):
        lines.append([plain(fit("  ~ found at that time; when and by which thread is not known", width), ink.dim)])
    for shot, change in changes:
        lines += _change(shot, change, width)
    return lines


def _change(shot: Snapshot, change: PolicyChange, width: int) -> list[Line]:
    time = f"{change.time.astimezone():%H:%M:%S}.{change.time.microsecond // 1000:03}"
    what = f"{change.start:x}-{change.end:x}" if change.end else f"thread {change.thread}" if change.thread else "task"
    by = f" by thread {change.thread}" if change.thread and change.end else ""
    call = f", {safe(change.call)}{by}" if change.call else by
    old, new = (_spelled(policy, shot.spelling) for policy in (change.old, change.new))
    text = f"{' ' if change.exact else '~'} {time} {shot.pid} {what}: {old} → {new}{call}"
    wrapped = textwrap.wrap(text, max(width, 20), subsequent_indent=" " * 15, break_on_hyphens=False)
    return [[plain(line)] for line in wrapped]


def _spelled(policy: Policy | None, spelling: Spelling) -> str:
    return "none" if policy is None else safe(policy.text(spelling))


# -- the machine --------------------------------------------------------------------------------------------------


def _pressure(pressure: Pressure, node_ids: Sequence[int], width: int, ink: Ink) -> list[Line]:
    """How full nodes are, now, and how often others had to serve them."""
    heading = f"{'node':6}{'free':>8}{'low':>8}{'high':>8}{'foreign':>10}"
    lines: list[Line] = [[], [plain(fit(heading, width), ink.dim)]]
    columns = (pressure.free, pressure.low, pressure.high, pressure.foreign)
    for node, free, low, high, foreign in zip(node_ids, *(column.tolist() for column in columns), strict=True):
        sizes = "".join(f"{bytes_text(pages * _PAGE_BYTES):>8}" for pages in (free, low, high))
        full = free <= low
        line: Line = [plain(fit(f"N{node}", 6), ink.node(node, bold=True)), plain(sizes, ink.warning if full else None)]
        lines.append([*line, plain(f"{count_text(foreign):>10}", ink.bold if foreign else ink.none)])
    return lines
