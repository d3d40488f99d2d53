"""What a policy promises, what came of it, and whether that is more than chance: a finding for each VMA. Pure."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.model import why
from tracer.model.cause import Cause
from tracer.model.placement import Expectation, Promise, apportion, expectation
from tracer.model.policy import Mode, Policy
from tracer.model.significance import least_p_value, spread_p_value
from tracer.model.snapshot import Snapshot
from tracer.model.spans import REGION_SHIFT
from tracer.model.vma import Vma

__all__ = ["SIGNIFICANCE", "TOLERANCE", "CauseCount", "Finding", "Limits", "Summary", "Verdict", "findings", "summary"]

SIGNIFICANCE = 0.001
"""A spread that chance gives less often than this is no chance."""
TOLERANCE = 0.01
"""Share of the pages that may lie elsewhere before a verdict says so, however certain it is."""

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


class Verdict(enum.Enum):
    """AS_PROMISED: the spread is that of the policy, as far as chance and granularity let it be; also where misplaced
    pages cancel out.

    TOO_SMALL: too few pages to say, or too few allocations: even the most uneven spread of so few could be chance.
    SKEWED: the spread differs, by more than chance. CANNOT_APPLY: the policy does not govern these pages, can use none
    of its nodes, is an interleave with only one node to use, or is not known well enough to be judged. NO_POLICY: none
    is set, so each page is to be where it was touched first.
    """

    AS_PROMISED = "as promised"
    TOO_SMALL = "too small to say"
    SKEWED = "skewed"
    CANNOT_APPLY = "cannot apply"
    NO_POLICY = "no policy"


@dataclass(frozen=True, slots=True)
class Limits:
    """When a difference counts: see `SIGNIFICANCE` and `TOLERANCE`."""

    significance: float = SIGNIFICANCE
    tolerance: float = TOLERANCE


@dataclass(frozen=True, slots=True)
class CauseCount:
    """Pages of one VMA that lie elsewhere for one cause. reason: of a migration, else "". pages: of all; nodes: by id
    of the node where they lie."""

    cause: Cause
    reason: str
    pages: int
    nodes: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Finding:
    """One VMA of a snapshot. Arrays are of shape (len(node_ids),).

    row: of the snapshot's `vmas`. own: None where that is not known (a recording without policies).
    usable: ids of the nodes that the policy can really use: policy, cpuset and memory. promise, shares: as in
    `Expectation`, of the usable nodes. expected: pages, the shares apportioned; None where `shares` is.
    actual: pages. difference: actual - expected; for a policy without shares (bind, prefer (many)) pages on nodes that
    it does not allow; 0 where nothing is promised.
    excess: pages above what is expected, of all nodes: sum of the positive differences.
    units: how many independent decisions the spread was judged by: see `Policies.units`; for weighted interleave
    divided by the mean length of a run, because it puts as many neighbours on a node as that weighs.
    p_value: how often chance alone gives a spread that is at least as uneven; None where nothing was to be tested.
    causes: most pages first; all pages that lie elsewhere are in exactly one, UNKNOWN included, and so are those that
    fit the policy but are beyond the share of their node (GRANULARITY, PATTERN). Their sum is at least `excess`, and
    more where misplaced pages cancel out. why: one sentence that tells what the verdict rests on.
    """

    row: int
    vma: Vma
    own: bool | None
    usable: tuple[int, ...]
    promise: Promise
    shares: Float64s | None
    expected: Int64s | None
    actual: Int64s
    difference: Int64s
    excess: int
    units: float
    p_value: float | None
    verdict: Verdict
    why: str
    causes: Sequence[CauseCount]


@dataclass(frozen=True, slots=True)
class Summary:
    """All VMAs of a snapshot together, for the head of an output.

    verdicts: how many VMAs got each, in the order of `Verdict`, all five. pages: of all VMAs, a hugetlb page as one.
    excess: sum of theirs. causes: pages by cause and reason over all VMAs, most first.
    """

    verdicts: Mapping[Verdict, int]
    pages: int
    excess: int
    causes: Sequence[CauseCount]


def findings(snapshot: Snapshot, limits: Limits = Limits()) -> list[Finding]:
    """A finding for each VMA that has pages, in address order. Without `snapshot.policies` (a recording that did not
    ask for them) only shares are compared, a huge page is thought possible wherever 512 pages are, and all excess is
    UNKNOWN."""
    judge = _Judge(snapshot, limits)
    return [judge.finding(row) for row in np.flatnonzero(snapshot.pages.sum(axis=1)).tolist()]


def summary(found: Iterable[Finding]) -> Summary:
    """The sum of findings."""
    verdicts: Counter[Verdict] = Counter()
    pages = excess = 0
    causes: _Causes = defaultdict(Counter)
    for one in found:
        verdicts[one.verdict] += 1
        pages += int(one.actual.sum())
        excess += one.excess
        for count in one.causes:
            causes[count.cause, count.reason].update(count.nodes)
    return Summary({verdict: verdicts[verdict] for verdict in Verdict}, pages, excess, _ranked(causes))


_Causes = defaultdict[tuple[Cause, str], Counter[int]]
"""Pages by node id, by cause and reason."""


def _ranked(causes: _Causes) -> tuple[CauseCount, ...]:
    counts = [
        CauseCount(cause, reason, nodes.total(), dict(sorted(nodes.items())))
        for (cause, reason), nodes in causes.items()
        if nodes.total()
    ]
    return tuple(sorted(counts, key=lambda count: (-count.pages, count.cause, count.reason)))


@dataclass(frozen=True, slots=True)
class _Spread:
    """How a spread is to be judged. turn: after so many units it has come round: the number of its nodes, or the sum of
    their weights. run: mean number of neighbours on one node, as a unit of an interleave meets it."""

    turn: int
    run: float


class _Judge:
    """What all findings of a snapshot share."""

    def __init__(self, snapshot: Snapshot, limits: Limits) -> None:
        self._snapshot = snapshot
        self._limits = limits
        self._node_ids = snapshot.node_ids
        self._at = {node: at for at, node in enumerate(snapshot.node_ids)}
        policies = snapshot.policies
        weights = policies.weights if policies else None
        self._weights = None if weights is None else dict(zip(self._node_ids, weights, strict=True))
        rows = np.arange(len(snapshot.vmas) + 1)
        self._misplaced_at = (
            np.searchsorted(policies.misplaced.vma, rows) if policies else np.zeros(len(rows), np.int64)
        )
        self._promises: dict[Policy, tuple[Expectation, tuple[int, ...], _Spread | None]] = {}

    # -- what is promised --

    def _promise(self, policy: Policy) -> tuple[Expectation, tuple[int, ...], _Spread | None]:
        """What a policy promises, of the nodes that it can use; these; and how its spread is to be judged."""
        if policy not in self._promises:
            self._promises[policy] = self._make_promise(policy)
        return self._promises[policy]

    def _make_promise(self, policy: Policy) -> tuple[Expectation, tuple[int, ...], _Spread | None]:
        policies = self._snapshot.policies
        allowed = set(policies.allowed if policies else self._node_ids) & set(self._node_ids)
        named = policy.nodes[:1] if policy.mode == Mode.PREFERRED else policy.nodes
        usable = tuple(node for node in named if node in allowed)
        promised = expectation(dataclasses.replace(policy, nodes=usable), self._node_ids, self._weights)
        if promised.promise is not Promise.SPREAD or promised.shares is None or not usable:
            return promised, usable, None
        weights = self._weights if policy.mode == Mode.WEIGHTED_INTERLEAVE and self._weights else {}
        each = [weights.get(node, 1) for node in usable]
        return promised, usable, _Spread(sum(each), sum(weight * weight for weight in each) / sum(each))

    # -- one VMA --

    def finding(self, row: int) -> Finding:
        vma, actual = self._snapshot.vmas[row], self._snapshot.pages[row]
        policies = self._snapshot.policies
        promised, usable, spread = self._promise(vma.policy)
        total = int(actual.sum())
        shares = promised.shares if usable else None
        expected = apportion(shares, total, actual) if shares is not None else None
        difference = self._difference(promised, usable, actual, expected)
        excess = int(difference[difference > 0].sum())
        causes, misplaced = self._causes(row, actual, expected, difference, shares)
        units = self._units(row, total)
        if spread:
            units /= spread.run
        cannot = self._cannot_apply(row, promised, usable)
        p_value: float | None = None
        if promised.promise is Promise.TOUCH:
            verdict = Verdict.NO_POLICY
            said = "no policy is set: each page is to be on the node of the CPU that touched it first"
        elif cannot:
            verdict, said = Verdict.CANNOT_APPLY, cannot
        elif spread and shares is not None:
            verdict, p_value, said = self._judge_spread(actual, shares, units, spread, excess, misplaced)
        else:
            verdict, said = self._judge_nodes(usable, actual, difference, excess)
        return Finding(
            row=row,
            vma=vma,
            own=bool(policies.own[row]) if policies else None,
            usable=usable,
            promise=promised.promise,
            shares=shares,
            expected=expected,
            actual=actual,
            difference=difference,
            excess=excess,
            units=units,
            p_value=p_value,
            verdict=verdict,
            why=said,
            causes=causes,
        )

    def _difference(
        self, promised: Expectation, usable: tuple[int, ...], actual: Int64s, expected: Int64s | None
    ) -> Int64s:
        if expected is not None:
            return actual - expected
        names_nodes = promised.promise in (Promise.PREFER, Promise.PREFER_MANY, Promise.WITHIN)
        if not usable or not promised.whole or not names_nodes:
            return np.zeros_like(actual)
        inside = np.array([node in usable for node in self._node_ids])
        return np.where(inside, 0, actual)

    def _units(self, row: int, total: int) -> float:
        """Independent decisions behind the pages of a VMA: see `Policies.units`."""
        if self._snapshot.policies is not None:
            return min(max(float(self._snapshot.policies.units[row]), 1.0), float(total))
        vma = self._snapshot.vmas[row]
        if vma.hugetlb:
            return float(total)
        huge_pages = 1 << REGION_SHIFT - 12
        regions = (vma.end >> REGION_SHIFT) - (vma.start + (1 << REGION_SHIFT) - 1 >> REGION_SHIFT)
        huge = max(0, min(total // huge_pages, regions))
        return total * total / (huge * huge_pages * huge_pages + total - huge * huge_pages)

    # -- verdicts --

    def _cannot_apply(self, row: int, promised: Expectation, usable: tuple[int, ...]) -> str:
        """Why a policy cannot be held against these pages; "" if it can."""
        policy, policies = self._snapshot.vmas[row].policy, self._snapshot.policies
        if promised.promise is Promise.UNKNOWN:
            return "this version does not know the policy"
        if not promised.whole:
            return "the kernel cut the list of its nodes, so what it promises is not known"
        if policies and not policies.governed[row]:
            return "the pages are of the page cache of a file, which no policy of a VMA governs"
        if not usable:
            return f"none of its nodes can be used: {why.named(policy.nodes)}" if policy.nodes else "it names no node"
        if promised.promise is not Promise.SPREAD:
            return ""
        if len(usable) == 1:
            few = "it names" if len(policy.nodes) == 1 else f"of {why.named(policy.nodes)} it can use"
            return f"{few} only node {usable[0]}, so there is nothing to spread over"
        return "" if promised.shares is not None else "the weights are not known"

    def _judge_spread(
        self, actual: Int64s, shares: Float64s, units: float, spread: _Spread, excess: int, misplaced: int
    ) -> tuple[Verdict, float | None, str]:
        limits, total, nodes = self._limits, int(actual.sum()), int((shares > 0).sum())
        # Before weighted interleave has come round, all pages may rightly be on one node, however many.
        if spread.run > 1 and units * spread.run < spread.turn:
            return Verdict.TOO_SMALL, None, why.too_small_turn(total, spread.turn, misplaced)
        p_value = spread_p_value(actual, shares, units)
        if p_value < limits.significance and excess > limits.tolerance * total:
            return Verdict.SKEWED, p_value, why.skewed(actual, shares, self._node_ids, p_value)
        if units < nodes or least_p_value(shares, units) >= limits.significance:
            return Verdict.TOO_SMALL, p_value, why.too_small(total, units, nodes, misplaced)
        return Verdict.AS_PROMISED, p_value, why.fits(excess, total, p_value, limits.significance, misplaced)

    def _judge_nodes(
        self, usable: tuple[int, ...], actual: Int64s, difference: Int64s, excess: int
    ) -> tuple[Verdict, str]:
        """Of policies that promise where pages are not: nothing of this is chance."""
        total = int(actual.sum())
        if excess > self._limits.tolerance * total:
            return Verdict.SKEWED, why.outside(usable, np.maximum(difference, 0), total, self._node_ids)
        return Verdict.AS_PROMISED, why.within(usable, excess, total)

    # -- causes --

    def _causes(
        self, row: int, actual: Int64s, expected: Int64s | None, difference: Int64s, shares: Float64s | None
    ) -> tuple[tuple[CauseCount, ...], int]:
        """Causes, most pages first, and how many pages are misplaced in the sense of `Misplaced`."""
        causes, misplaced = self._misplaced(row)
        # What is beyond the share of its node and is not misplaced: the rule itself put it there, or nobody knows.
        rest = np.maximum(difference - misplaced, 0)
        by_rule = np.zeros_like(rest)
        if expected is not None and shares is not None:
            by_rule = np.minimum(rest, self._uneven_rule(row, actual, expected, shares))
        self._count(causes, self._coarse(row, int(actual.sum())), by_rule)
        self._count(causes, Cause.UNKNOWN, rest - by_rule)
        return _ranked(causes), int(misplaced.sum())

    def _misplaced(self, row: int) -> tuple[_Causes, Int64s]:
        """Misplaced pages of a VMA by cause, and by node (int64 of shape (len(node_ids),))."""
        causes: _Causes = defaultdict(Counter)
        by_node = np.zeros(len(self._node_ids), np.int64)
        policies = self._snapshot.policies
        if policies is None:
            return causes, by_node
        it = policies.misplaced
        here = slice(int(self._misplaced_at[row]), int(self._misplaced_at[row + 1]))
        columns = (it.cause[here], it.reason[here], it.node[here], it.pages[here])
        for cause, reason, node, pages in zip(*(column.tolist() for column in columns), strict=True):
            causes[Cause(cause), it.reasons[reason] if reason >= 0 else ""][node] += pages
            if node in self._at:
                by_node[self._at[node]] += pages
        return causes, by_node

    def _uneven_rule(self, row: int, actual: Int64s, expected: Int64s, shares: Float64s) -> Int64s:
        """Pages by which what the rule gives the nodes is beyond their shares; int64 of shape (len(node_ids),)."""
        policies = self._snapshot.policies
        if policies is None:
            return np.zeros_like(actual)
        rule = policies.rule[row]
        ruled = int(rule.sum())
        even = expected if ruled == int(actual.sum()) else apportion(shares, ruled, rule)
        uneven: Int64s = np.maximum(rule - even, 0)
        return uneven

    def _coarse(self, row: int, total: int) -> Cause:
        """The cause of a rule's own unevenness: huge pages, where most pages came as such."""
        policies = self._snapshot.policies
        huge = self._snapshot.vmas[row].hugetlb or (policies is not None and 2 * int(policies.huge[row]) >= total)
        return Cause.GRANULARITY if huge else Cause.PATTERN

    def _count(self, causes: _Causes, cause: Cause, pages: Int64s) -> None:
        for at in np.flatnonzero(pages).tolist():
            causes[cause, ""][self._node_ids[at]] += int(pages[at])
