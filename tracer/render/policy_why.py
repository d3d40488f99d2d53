"""Why the pages of one VMA do not lie as its policy promises: the verdict's reason, the causes, the remedies. Text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from tracer.model.cause import Cause
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import CauseCount, Finding
from tracer.render.causes import explain, remedy
from tracer.render.happened import counted
from tracer.render.policy_vmas import differences
from tracer.render.policy_words import by_node, cause_word, policy_word
from tracer.render.terminal import word

__all__ = ["meant_for", "why_lines"]


def why_lines(snapshot: Snapshot, finding: Finding) -> Iterator[str]:
    """An empty line, the VMA, what the verdict rests on, and each cause with its remedy."""
    vma = finding.vma
    name = f" {word(vma.path)}" if vma.path else ""
    yield ""
    yield f"{vma.start:x}-{vma.end:x}{name} {policy_word(vma.policy, snapshot.spelling)}: {finding.verdict.value}"
    yield f"  {finding.why}"
    if differing := differences(snapshot.node_ids, finding, " "):
        yield f"  pages more or less than expected: {differing}"
    elsewhere = sum(it.pages for it in finding.causes)
    for cause in finding.causes:
        yield from _cause(snapshot, finding, cause, elsewhere)


def _cause(snapshot: Snapshot, finding: Finding, it: CauseCount, elsewhere: int) -> Iterator[str]:
    """elsewhere: pages of all causes of this VMA."""
    where = f", on {by_node(it.nodes)}" if it.nodes else ""
    meant = meant_for(snapshot, finding.row, it)
    to = f", meant for {by_node(meant)}" if meant else ""
    share = 100 * it.pages / max(1, elsewhere)
    yield f"  {cause_word(it)}: {counted(it.pages, 'page')}, {share:.1f} % of those elsewhere{where}{to}"
    yield f"    {explain(it.cause, it.reason)}"
    if it.cause is Cause.NODE_FULL:
        yield from _pressure(snapshot, meant)
    yield f"    remedy: {remedy(it.cause, it.reason)}"


def meant_for(snapshot: Snapshot, row: int, it: CauseCount) -> dict[int, int]:
    """Pages of one cause by the node that the policy gives them, -1 for several; empty where that is not known."""
    policies = snapshot.policies
    if policies is None:
        return {}
    misplaced = policies.misplaced
    mine = (misplaced.vma == row) & (misplaced.cause == int(it.cause))
    if it.reason:
        mine &= np.isin(misplaced.reason, [at for at, reason in enumerate(misplaced.reasons) if reason == it.reason])
    pages: Counter[int] = Counter()
    for node, count in zip(misplaced.expected[mine].tolist(), misplaced.pages[mine].tolist(), strict=True):
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
