"""What a policy promises, what came of it, and whether that is more than chance: a finding for each VMA. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.model.cause import Cause
from tracer.model.placement import Promise
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Vma

__all__ = ["SIGNIFICANCE", "TOLERANCE", "CauseCount", "Finding", "Limits", "Summary", "Verdict", "findings", "summary"]

SIGNIFICANCE = 0.001
"""A spread that chance gives less often than this is no chance."""
TOLERANCE = 0.01
"""Share of the pages that may lie elsewhere before a verdict says so, however certain it is."""

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]


class Verdict(enum.Enum):
    """AS_PROMISED: the spread is that of the policy, as far as chance and granularity let it be.

    TOO_SMALL: too few pages to say. SKEWED: the spread differs, by more than chance. CANNOT_APPLY: the policy does not
    govern these pages, or leaves no choice of node. NO_POLICY: none is set, so each page is to be where it was touched
    first.
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
    actual: pages. difference: actual - expected, 0 where nothing is expected of a node; for a policy without shares
    (bind, prefer (many)) pages on nodes that it does not allow.
    excess: pages above what is expected, of all nodes: sum of the positive differences.
    p_value: how often chance alone gives a spread that is at least as uneven; None where nothing was to be tested.
    causes: most pages first; all pages that lie elsewhere are in exactly one, UNKNOWN included. why: one sentence that
    tells what the verdict rests on.
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
    raise NotImplementedError


def summary(found: Iterable[Finding]) -> Summary:
    """The sum of findings."""
    raise NotImplementedError
