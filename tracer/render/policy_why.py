"""Why the pages of a VMA do not lie as its policy promises: the verdict's reason, the causes, the remedies. Text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tracer.model.cause import Cause
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import CauseCount, Finding, Verdict, summary
from tracer.render.causes import explain, remedy
from tracer.render.happened import counted
from tracer.render.policy_vmas import differences
from tracer.render.policy_words import by_node, cause_word, policy_word
from tracer.render.terminal import word

__all__ = ["alike", "meant_for", "why_lines"]

_MOST_NAMED = 3
"""Of VMAs that are told together."""


def why_lines(snapshot: Snapshot, found: Sequence[Finding]) -> Iterator[str]:
    """An empty line, the VMA, what the verdict rests on, and each cause with its remedy.

    found: of one VMA, or of several of which the same is to be said: that is then said once (see `alike`).
    """
    one = found[0]
    name = f"{len(found)} VMAs" if len(found) > 1 else _name(one)
    yield ""
    yield f"{name} {policy_word(one.vma.policy, snapshot.spelling)}: {one.verdict.value}"
    if len(found) > 1:
        more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        yield f"  {', '.join(map(_name, found[:_MOST_NAMED]))}{more}"
    yield f"  {one.why}"
    if len(found) == 1 and (differing := differences(snapshot.node_ids, one, " ")):
        yield f"  pages more or less than expected: {differing}"
    causes = summary(found).causes
    elsewhere = sum(it.pages for it in causes)
    for cause in causes:
        yield from _cause(snapshot, [it.row for it in found], cause, elsewhere)


def alike(found: Iterable[Finding]) -> list[list[Finding]]:
    """The findings, those of which the same is to be said together, in the order of the first of each.

    A task policy governs no mapped library, and it would be said of each. Skewed ones are always told one by one.
    """
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for it in found:
        key = (it.row,) if it.verdict is Verdict.SKEWED else (it.verdict, it.why, it.vma.policy)
        groups.setdefault(key, []).append(it)
    return list(groups.values())


def _name(finding: Finding) -> str:
    vma = finding.vma
    return f"{vma.start:x}-{vma.end:x}{f' {word(vma.path)}' if vma.path else ''}"


def _cause(snapshot: Snapshot, rows: Sequence[int], it: CauseCount, elsewhere: int) -> Iterator[str]:
    """rows: the VMAs that it is counted over. elsewhere: pages of all causes of these."""
    where = f", on {by_node(it.nodes)}" if it.nodes else ""
    meant = meant_for(snapshot, rows, it)
    to = f", meant for {by_node(meant)}" if meant else ""
    share = 100 * it.pages / max(1, elsewhere)
    yield f"  {cause_word(it)}: {counted(it.pages, 'page')}, {share:.1f} % of those elsewhere{where}{to}"
    yield f"    {explain(it.cause, it.reason)}"
    if it.cause is Cause.NODE_FULL:
        yield from _pressure(snapshot, meant)
    yield f"    remedy: {remedy(it.cause, it.reason)}"


def meant_for(snapshot: Snapshot, rows: Sequence[int], it: CauseCount) -> dict[int, int]:
    """Pages of one cause in these VMAs by the node that the policy gives them, -1 for several; empty where that is not
    known."""
    policies = snapshot.policies
    if policies is None:
        return {}
    misplaced, reasons = policies.misplaced, policies.misplaced.reasons
    pages: Counter[int] = Counter()
    firsts, ends = (np.searchsorted(misplaced.vma, rows, side=side) for side in ("left", "right"))
    for first, end in zip(firsts.tolist(), ends.tolist(), strict=True):
        columns = (misplaced.cause, misplaced.reason, misplaced.expected, misplaced.pages)
        for cause, reason, node, count in zip(*(column[first:end].tolist() for column in columns), strict=True):
            if cause == it.cause and (reasons[reason] if reason >= 0 else "") == it.reason:
                pages[node] += count
    return dict(pages)


def _pressure(snapshot: Snapshot, nodes: Iterable[int]) -> Iterator[str]:
    """What the kernel says of nodes that were full: of those that pages were meant for, or of all."""
    if snapshot.policies is None:
        return
    pressure = snapshot.policies.pressure
    place = {node: at for at, node in enumerate(snapshot.node_ids)}
    for node in sorted(set(nodes) & place.keys()) or snapshot.node_ids:
        at = place[node]
        yield (
            f"    N{node} now: {counted(int(pressure.free[at]), 'page')} free (watermarks: low {pressure.low[at]}, "
            f"high {pressure.high[at]}); it turned away {counted(int(pressure.foreign[at]), 'allocation')} of the "
            "whole machine since tracing began"
        )
