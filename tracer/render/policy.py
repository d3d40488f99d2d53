"""Whether pages lie as the policies in force promise, and why not: of one target, as text. `policy_json` has the same
for programs. What a verdict, a cause and a remedy are is said in docs/policy.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tracer.model.policies import Policies, PolicyChange, TaskPolicy
from tracer.model.policy import Mode, Policy, Spelling, format_nodes
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import Finding, Limits, Verdict, summary
from tracer.render.happened import counted
from tracer.render.policy_vmas import WhatIf, vma_table, what_if_lines
from tracer.render.policy_why import alike, why_lines
from tracer.render.policy_words import cause_word, policy_word, verdict_word
from tracer.render.terminal import printable, word
from tracer.render.timestamp import timestamp

__all__ = ["Report", "governed", "lines"]

_MOST_VMAS = 20
_MOST_CHANGES = 10
_MOST_NAMED = 3
"""Threads of one policy that are named, not only counted."""
_PLAIN = (Verdict.AS_PROMISED, Verdict.NO_POLICY)
"""Verdicts that need no explanation."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one report is about. findings: those of the snapshot, by these limits.

    changes: of policies, since the report before this one; left_out: how many earlier ones are not among them.
    ended: the target is no more, and this is how it was seen last.
    """

    snapshot: Snapshot
    findings: Sequence[Finding]
    changes: Sequence[PolicyChange] = ()
    left_out: int = 0
    ended: bool = False
    limits: Limits = field(default_factory=Limits)
    what_if: WhatIf | None = None


def lines(report: Report, most: int = _MOST_VMAS, everything: bool = False) -> Iterator[str]:
    """The target, its VMAs, those that are not as promised one by one, and the sum; everything foreign escaped.

    most: VMAs that are shown, 0 for all. everything: also those without a policy and those without pages.
    """
    yield from _heading(report)
    yield from _vmas(report, most, everything)
    if report.what_if is not None:
        yield from what_if_lines(report.snapshot, report.what_if, most)
    yield _sum(report.findings)


def governed(findings: Iterable[Finding]) -> int:
    """Pages of the VMAs that a policy decides about."""
    return sum(int(it.actual.sum()) for it in findings if it.verdict not in (Verdict.NO_POLICY, Verdict.CANNOT_APPLY))


# -- the target ---------------------------------------------------------------------------------------------------


def _heading(report: Report) -> Iterator[str]:
    snapshot = report.snapshot
    inner = snapshot.namespace_pid or snapshot.pid
    namespace = f" ({inner} in its namespace)" if inner != snapshot.pid else ""
    ended = ", which has ended, as it was last seen" if report.ended else ""
    totals = snapshot.pages.sum(axis=0).tolist()
    nodes = "".join(f" N{node}={pages}" for node, pages in zip(snapshot.node_ids, totals, strict=True) if pages)
    yield (
        f"# policies of PID {snapshot.pid}{namespace} {printable(snapshot.comm)}{ended} at "
        f"{timestamp(snapshot.time, 'milliseconds')}: {counted(sum(totals), 'page')}{nodes}"
    )
    policies = snapshot.policies
    if policies is None:
        without = "without hooks " if snapshot.hooks == "none" else ""
        yield f"# {without}nothing is known of its threads, its cpuset and how its pages came: every cause is unknown"
        return
    if not policies.observed:
        yield _unobserved(snapshot)
    yield f"# task policies: {_threads(policies.threads, snapshot.spelling)}"
    yield f"# nodes that it may use: {_allowed(policies, snapshot.node_ids)}"
    yield from _weights(snapshot, policies)
    yield from _changes(report)


def _unobserved(snapshot: Snapshot) -> str:
    if snapshot.hooks == "none":
        return "# without hooks nobody sees how pages come and go: most causes are unknown"
    return "# after one look most causes are unknown: --duration SEC watches, and -- CMD does from the first page on"


def _threads(threads: Sequence[TaskPolicy], spelling: Spelling) -> str:
    """`12 threads default; 1 thread interleave:0-3 (main)`, most threads first."""
    groups: dict[str, list[TaskPolicy]] = {}
    for thread in threads:
        groups.setdefault(policy_word(thread.policy, spelling), []).append(thread)
    ranked = sorted(groups.items(), key=lambda item: -len(item[1]))
    return "; ".join(_group(text, its, threads[0]) for text, its in ranked) or "not known"


def _group(text: str, threads: Sequence[TaskPolicy], main: TaskPolicy) -> str:
    if len(threads) > _MOST_NAMED:
        names = ["main among them"] * (main in threads)
    else:
        names = ["main" if it is main else f"{it.thread} {word(it.comm)}".rstrip() for it in threads]
    return f"{counted(len(threads), 'thread')} {text}" + (f" ({', '.join(names)})" if names else "")


def _allowed(policies: Policies, node_ids: Sequence[int]) -> str:
    if not policies.allowed:
        return "none that has memory"
    if set(policies.allowed) == set(node_ids):
        return f"N{format_nodes(node_ids)}, all that have memory"
    return f"N{format_nodes(policies.allowed)}, as its cpuset excludes others of N{format_nodes(node_ids)}"


def _weights(snapshot: Snapshot, policies: Policies) -> Iterator[str]:
    """Where there is a weighted policy that they matter to."""
    ours = [vma.policy for vma in snapshot.vmas] + [thread.policy for thread in policies.threads]
    if not any(policy.mode == Mode.WEIGHTED_INTERLEAVE for policy in ours):
        return
    if policies.weights is None:
        yield "# weights of weighted interleave: not known here"
        return
    pairs = zip(snapshot.node_ids, policies.weights, strict=True)
    yield "# weights of weighted interleave now: " + " ".join(f"N{node}={weight}" for node, weight in pairs)


def _changes(report: Report) -> Iterator[str]:
    count = len(report.changes) + report.left_out
    if not count:
        return
    shown = report.changes[-_MOST_CHANGES:]
    some = f", of which the last {len(shown)}" if len(shown) < count else ""
    yield f"# {counted(count, 'change')} of policies seen{some}:"
    for change in shown:
        yield f"#   {_change(change, report.snapshot.spelling)}"


def _change(change: PolicyChange, spelling: Spelling) -> str:
    def text(policy: Policy | None) -> str:
        return "none of its own" if policy is None else policy_word(policy, spelling)

    when = f"{'at' if change.exact else 'before'} {timestamp(change.time, 'milliseconds')}"
    what = f"{change.start:x}-{change.end:x}" if change.end else "task policy"
    who = f" of thread {change.thread}" if change.thread and not change.end else ""
    by = f" by thread {change.thread}" if change.thread and change.end else ""
    call = f" ({change.call}){by}" if change.call else by
    return f"{when}: {what}{who}{call}: {text(change.old)} -> {text(change.new)}"


# -- its VMAs -----------------------------------------------------------------------------------------------------


def _vmas(report: Report, most: int, everything: bool) -> Iterator[str]:
    """The table, and what there is to say of those in it that are not as promised."""
    ranked = _ranked(report, everything)
    if not ranked:
        others = len(report.findings)
        more = f": --all shows the {counted(others, 'VMA')} with pages" if others else ""
        yield f"# no VMA that has pages has a policy{more}"
        return
    shown = ranked[: most or None]
    some = f": {most} of {len(ranked)} (--vmas 0 shows all)" if most and most < len(ranked) else ""
    yield f"# VMAs, most pages above what is expected first; share of each node in %, actual/expected{some}"
    yield from vma_table(report.snapshot, shown)
    explained = [it for it in shown if isinstance(it, Finding) and it.verdict not in _PLAIN]
    for together in alike(explained):
        yield from why_lines(report.snapshot, together)
    if explained:
        yield ""


def _ranked(report: Report, everything: bool) -> list[Finding | int]:
    """Findings, and after them the rows of VMAs without one, that are to be shown."""
    found = [it for it in report.findings if everything or it.own or it.vma.policy.mode != Mode.DEFAULT]
    ranked: list[Finding | int] = [*sorted(found, key=_weight)]
    if everything:
        judged = {it.row for it in report.findings}
        ranked += [row for row in range(len(report.snapshot.vmas)) if row not in judged]
    return ranked


def _weight(finding: Finding) -> tuple[int, bool, int, int]:
    """The worst excess first, then what is certain, then the largest."""
    return (-finding.excess, finding.verdict is not Verdict.SKEWED, -int(finding.actual.sum()), finding.row)


def _sum(findings: Sequence[Finding]) -> str:
    """`# sum: 4 VMAs with pages (3 as-promised, 1 skewed), 16384 pages under a policy, 9216 elsewhere ...`."""
    total = summary(findings)
    verdicts = ", ".join(f"{count} {verdict_word(verdict)}" for verdict, count in total.verdicts.items() if count)
    elsewhere = sum(it.pages for it in total.causes)
    causes = ", ".join(f"{it.pages} {cause_word(it)}" for it in total.causes)
    judged = counted(len(findings), "VMA") + " with pages" + (f" ({verdicts})" if verdicts else "")
    why = f" than promised: {causes}" if causes else ""
    return f"# sum: {judged}, {counted(governed(findings), 'page')} under a policy, {elsewhere} elsewhere{why}"
