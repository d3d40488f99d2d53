"""What is new in a snapshot, compared with what the rows so far say of its target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tracer.model.policies import Policies, Pressure
from tracer.model.policy import Spelling
from tracer.model.snapshot import Regions, Snapshot
from tracer.model.vma import Vma
from tracer.record.ledger import common
from tracer.record.policy_rows import policies_differ
from tracer.record.schema import DETAILS

__all__ = ["Written", "changes", "detail_rows", "region_changes", "starts_of"]

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Written:
    """What the rows so far say about an address space. details: int64 of shape (VMAs, 6), None where not read.
    policies: None where not asked for; pressure: that of the rows, which may be older than theirs."""

    vmas: tuple[Vma, ...]
    starts: Uint64s
    pages: Int64s
    details: Int64s | None
    spelling: Spelling
    regions: Regions | None
    policies: Policies | None
    pressure: Pressure | None


def changes(
    known: Written | None, now: Snapshot, details: Int64s | None, policies: Policies | None
) -> tuple[Uint64s, Bools, tuple[Uint64s, Uint64s]]:
    """Starts of all VMAs, which of them have to be written, and `start` and `end` of those that are gone."""
    if known is None:
        return starts_of(now.vmas), np.ones(len(now.vmas), np.bool_), _bounds(())
    if now.vmas is known.vmas:
        starts, gone = known.starts, _bounds(())
        changed = np.zeros(len(starts), np.bool_)
        here = there = np.arange(len(starts))
    else:
        starts = starts_of(now.vmas)
        here, there = common(starts, known.starts)
        changed = np.ones(len(starts), np.bool_)
        changed[here] = _differ(now.vmas, here, known.vmas, there)
        gone = _bounds([known.vmas[row] for row in _others(there, len(known.vmas))])
    if now.pages is not known.pages:
        changed[here] |= (now.pages[here] != known.pages[there]).any(axis=1)
    if details is not None and known.details is not None:
        changed[here] |= (details[here] != known.details[there]).any(axis=1)
    if policies is not None and known.policies is not None and policies is not known.policies:
        changed[here] |= policies_differ(policies, here, known.policies, there)
    if _begins(details, known.details) or _begins(policies, known.policies) or known.spelling is not now.spelling:
        changed[:] = True
    return starts, changed, gone


def _begins(now: object, before: object) -> bool:
    """Whether it is there and was not."""
    return now is not None and before is None


def region_changes(before: Regions | None, now: Regions) -> tuple[Int64s, Int64s]:
    """Addresses and counts of the spans to be written; counts of 0 for those that are gone."""
    kept = np.any(now.pages, axis=1)
    address, pages = now.address[kept], now.pages[kept]
    if before is None:
        return address, pages
    here, there = common(address, before.address)
    changed = np.ones(len(address), np.bool_)
    changed[here] = (pages[here] != before.pages[there]).any(axis=1)
    gone = [row for row in _others(there, len(before.address)) if before.pages[row].any()]
    none = np.zeros((len(gone), pages.shape[1]), np.int64)
    address = np.concatenate((address[changed], before.address[gone]))
    return address, np.concatenate((pages[changed], none))


def _others(rows: npt.NDArray[np.intp], count: int) -> list[int]:
    """Those of `count` rows that are not among `rows`."""
    left = np.ones(count, np.bool_)
    left[rows] = False
    return np.flatnonzero(left).tolist()


def _differ(
    new: Sequence[Vma], here: npt.NDArray[np.intp], old: Sequence[Vma], there: npt.NDArray[np.intp]
) -> list[bool]:
    """Which of these VMAs are not equal; mostly they are the same objects."""
    pairs = zip(here.tolist(), there.tolist(), strict=True)
    return [new[a] is not old[b] and new[a] != old[b] for a, b in pairs]


def starts_of(vmas: Sequence[Vma]) -> Uint64s:
    """Where they start."""
    return np.fromiter((vma.start for vma in vmas), np.uint64, len(vmas))


def _bounds(vmas: Sequence[Vma]) -> tuple[Uint64s, Uint64s]:
    return starts_of(vmas), np.fromiter((vma.end for vma in vmas), np.uint64, len(vmas))


def detail_rows(snapshot: Snapshot) -> Int64s | None:
    """int64 of shape (VMAs, 6); None where nothing was read."""
    details = snapshot.details
    return None if details is None else np.column_stack([getattr(details, name) for name in DETAILS])
