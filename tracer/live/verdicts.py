"""Verdicts on the VMAs that are shown: found out when they are asked for, and kept for as long as nothing changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.model.policies import Misplaced, Policies
from tracer.model.policy import Mode
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import Finding, Verdict, findings

__all__ = ["VERDICT_WORDS", "Verdicts", "identity", "own_bytes", "same_parts"]

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

VERDICT_WORDS = {
    Verdict.AS_PROMISED: "ok",
    Verdict.TOO_SMALL: "small",
    Verdict.SKEWED: "skewed",
    Verdict.CANNOT_APPLY: "n/a",
    Verdict.NO_POLICY: "",
}
"""As the table has them, in seven cells at most."""
_WORST_FIRST = (
    Verdict.SKEWED,
    Verdict.CANNOT_APPLY,
    Verdict.TOO_SMALL,
    Verdict.AS_PROMISED,
    Verdict.NO_POLICY,
)
_PLACE = {verdict: place for place, verdict in enumerate(_WORST_FIRST)}
_BY_TOUCH = frozenset({int(Mode.DEFAULT), int(Mode.LOCAL)})
_STEP = 1 << 48
"""More pages than any VMA has."""

_BY_VMA = ("own", "governed", "rule", "units", "huge")
"""Arrays of `Policies` with a row per VMA."""
_OF_ALL = ("allowed", "weights", "threads", "observed")
_ROWS = ("vma", "node", "expected", "cause", "reason", "pages")
"""Arrays of `Misplaced`."""


@dataclass(slots=True)
class _Known:
    """Of one target. shot: the snapshot that the findings are of. ranks: of all of its VMAs, None until asked for."""

    shot: Snapshot
    findings: dict[int, Finding | None] = field(default_factory=dict)
    words: list[str] | None = None
    ranks: Int64s | None = None


class Verdicts:
    """Findings by target and row; those of targets that are not shown any more are forgotten by `keep`.

    A VMA is judged again only when something that its verdict rests on has changed, and only if it is asked for.
    """

    def __init__(self) -> None:
        self.judged = 0
        """VMAs that were judged so far."""
        self._known: dict[int, _Known] = {}

    def keep(self, shots: Iterable[Snapshot]) -> None:
        """These are shown now."""
        self._known = {shot.pid: self._of(shot) for shot in shots if shot.policies is not None}

    def _of(self, shot: Snapshot) -> _Known:
        known = self._known.get(shot.pid)
        if known is None or not _same(known.shot, shot):
            kept = {} if known is None else _unchanged(known, shot)
            known = self._known[shot.pid] = _Known(shot, kept)
        return known

    def of(self, shot: Snapshot, rows: Sequence[int]) -> list[Finding | None]:
        """For each of these rows of its VMAs; None for one without pages, and where nobody read policies."""
        if shot.policies is None:
            return [None] * len(rows)
        known = self._of(shot)
        missing = sorted({row for row in rows if row not in known.findings})
        if missing:
            known.findings.update(_judge(shot, missing))
            self.judged += len(missing)
        return [known.findings[row] for row in rows]

    def words(self, shot: Snapshot) -> list[str]:
        """The word of every VMA, empty where there is none."""
        if shot.policies is None:
            return [""] * len(shot.vmas)
        known = self._of(shot)
        if known.words is None:
            found = self.ruled(shot)
            words = {row: VERDICT_WORDS[it.verdict] for row, it in found.items() if it is not None}
            known.words = [words.get(row, "") for row in range(len(shot.vmas))]
        return known.words

    def ranks(self, shot: Snapshot) -> Int64s:
        """The place of every VMA in the order of verdicts: skewed ones first, those with most pages elsewhere first."""
        last = np.full(len(shot.vmas), len(_WORST_FIRST) * _STEP, np.int64)
        if shot.policies is None:
            return last
        known = self._of(shot)
        if known.ranks is None:
            found = self.ruled(shot)
            last[list(found)] = [_rank(it) for it in found.values()]
            known.ranks = last
        return known.ranks

    def ruled(self, shot: Snapshot) -> dict[int, Finding | None]:
        """Of the VMAs that a policy says anything about: of the others the verdict is known, and they are many."""
        rows = [row for row, vma in enumerate(shot.vmas) if vma.policy.mode not in _BY_TOUCH]
        return dict(zip(rows, self.of(shot, rows), strict=True))


def _rank(finding: Finding | None) -> int:
    if finding is None:
        return len(_WORST_FIRST) * _STEP
    return _PLACE[finding.verdict] * _STEP - min(finding.excess, _STEP - 1)


def _judge(shot: Snapshot, rows: Sequence[int]) -> dict[int, Finding | None]:
    """rows: ascending."""
    if len(rows) == len(shot.vmas):
        found = {it.row: it for it in findings(shot)}
    else:
        found = {rows[it.row]: replace(it, row=rows[it.row]) for it in findings(_part(shot, np.array(rows, np.int64)))}
    return {row: found.get(row) for row in rows}


def _part(shot: Snapshot, rows: Int64s) -> Snapshot:
    """A snapshot of these VMAs only."""
    policies = shot.policies
    if policies is not None:
        misplaced = policies.misplaced
        mine = np.isin(misplaced.vma, rows)
        columns = {name: getattr(misplaced, name)[mine] for name in _ROWS}
        columns["vma"] = np.searchsorted(rows, columns["vma"])
        some: dict[str, Any] = {name: getattr(policies, name)[rows] for name in _BY_VMA}
        policies = replace(policies, **some, misplaced=Misplaced(misplaced.reasons, **columns))
    vmas = tuple(shot.vmas[row] for row in rows.tolist())
    return replace(
        shot, vmas=vmas, pages=shot.pages[rows], details=None, flows=None, faults=None, regions=None, policies=policies
    )


# -- what changes -------------------------------------------------------------------------------------------------


def same_parts(new: Policies | None, old: Policies | None) -> Policies | None:
    """`new` with the objects of `old` where they are equal; all of `old` where nothing differs and nothing changed."""
    if new is None or old is None or new is old:
        return new
    kept: dict[str, Any] = {}
    for name in (*_BY_VMA, "misplaced", "pressure", *_OF_ALL):
        was, now = getattr(old, name), getattr(new, name)
        if was is now or _equal(was, now):
            kept[name] = was
    nothing = not new.changes and not old.changes
    return old if nothing and len(kept) == len(_BY_VMA) + 2 + len(_OF_ALL) else replace(new, **kept)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, Misplaced):
        arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in _ROWS)
        return arrays and one.reasons == other.reasons
    if hasattr(one, "free"):
        return all(np.array_equal(getattr(one, it), getattr(other, it)) for it in ("foreign", "free", "low", "high"))
    return bool(one == other)


_THREAD_BYTES = 200
_CHANGE_BYTES = 300


def own_bytes(policies: Policies, old: Policies | None) -> int:
    """About how many bytes it needs that the one before does not have already."""
    size = _CHANGE_BYTES * len(policies.changes)
    for name in _BY_VMA:
        if old is None or getattr(policies, name) is not getattr(old, name):
            size += getattr(policies, name).nbytes
    if old is None or policies.misplaced is not old.misplaced:
        size += len(_ROWS) * policies.misplaced.vma.nbytes
    if old is None or policies.threads is not old.threads:
        size += _THREAD_BYTES * len(policies.threads)
    return size


def identity(policies: Policies | None) -> tuple[int, ...]:
    """Equal for two that verdicts are the same of, as long as both are kept: of the objects that verdicts rest on,
    which `same_parts` has made the same."""
    return () if policies is None else tuple(id(getattr(policies, name)) for name in (*_BY_VMA, "misplaced", *_OF_ALL))


def _same(old: Snapshot, new: Snapshot) -> bool:
    """Whether all verdicts are the same."""
    same = old.vmas is new.vmas and old.pages is new.pages
    return same and identity(old.policies) == identity(new.policies)


def _unchanged(known: _Known, new: Snapshot) -> dict[int, Finding | None]:
    """The findings that hold for the new snapshot as well: those of VMAs of which nothing changed."""
    old = known.shot
    was, now = old.policies, new.policies
    if was is None or now is None or old.vmas is not new.vmas or old.node_ids != new.node_ids:
        return {}
    if any(getattr(was, name) != getattr(now, name) for name in _OF_ALL):
        return {}
    changed = _differs(old.pages, new.pages)
    for name in _BY_VMA:
        changed |= _differs(getattr(was, name), getattr(now, name))
    changed |= _moved(was.misplaced, now.misplaced, len(changed))
    return {row: finding for row, finding in known.findings.items() if not changed[row]}


def _differs(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> Bools:
    """By row."""
    if old is new:
        return np.zeros(len(new), np.bool_)
    differs: Bools = (old != new).reshape(len(new), -1).any(axis=1)
    return differs


def _moved(old: Misplaced, new: Misplaced, count: int) -> Bools:
    """VMAs that have a row in one of the two that the other does not have."""
    changed = np.zeros(count, np.bool_)
    if old is new:
        return changed
    if old.reasons != new.reasons:
        return ~changed
    rows = np.concatenate([np.stack([getattr(it, name) for name in _ROWS], axis=1) for it in (old, new)])
    unique, times = np.unique(rows, axis=0, return_counts=True)
    changed[unique[times == 1, 0]] = True
    return changed
