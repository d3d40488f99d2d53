"""All VMAs of a sample as columns of numbers, and the order in which they are shown. Nothing here draws.

Everything that is done for each VMA is done by numpy, or once for each list of VMAs: there may be 10^5 of them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tracer.live.figures import safe
from tracer.live.verdicts import VERDICT_WORDS, Verdicts
from tracer.model.events import Faults, Flows
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.verdict import Finding
from tracer.model.vma import Vma

__all__ = ["DESCENDING", "SMALL_KIB", "Column", "Hidden", "Layout", "Listings", "Rows", "order", "rows_of"]

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Column(enum.Enum):
    """What the table shows, in its order; the value is the heading."""

    PID = "PID"
    ADDRESS = "ADDRESS"
    NAME = "NAME"
    POLICY = "POLICY"
    VERDICT = "VERDICT"
    SIZE = "SIZE"
    PAGES = "PAGES"
    NODES = "NODES"
    CHANGE = "CHANGE"
    FAULTS = "FLT/s"
    MOVES = "MOV/s"


DESCENDING = frozenset({Column.SIZE, Column.PAGES, Column.NODES, Column.CHANGE, Column.FAULTS, Column.MOVES})
"""Numbers of which the largest come first."""


_HEX_DIGITS = frozenset("0123456789abcdef")


class _Distinct:
    """A column of text of which most rows share theirs with others. text: what is shown of a value, in lower case."""

    def __init__(self, values: list[Any], text: Callable[[Any], str]) -> None:
        numbers: dict[Any, int] = {}
        self.which = np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), np.int64, len(values))
        self.texts = [text(value) for value in numbers]

    def matches(self, needle: str) -> npt.NDArray[np.bool_]:
        """The rows that have `needle` in it."""
        hits = np.fromiter((needle in text for text in self.texts), np.bool_, len(self.texts))
        return hits[self.which]


class _Listing:
    """What can be said of a list of VMAs, found out when it is asked for."""

    def __init__(self, vmas: tuple[Vma, ...]) -> None:
        self.vmas = vmas
        count = len(vmas)
        self.start = np.fromiter((vma.start for vma in vmas), np.uint64, count)
        self.size = (np.fromiter((vma.end for vma in vmas), np.uint64, count) - self.start).astype(np.int64)
        self.page_kb = np.fromiter((vma.page_kb for vma in vmas), np.int64, count)
        self._distinct: dict[Column, _Distinct] = {}
        self._matches: dict[str, npt.NDArray[np.bool_]] = {}

    def distinct(self, column: Column) -> _Distinct:
        """The names, or else the policies."""
        if column not in self._distinct:
            if column is Column.NAME:
                self._distinct[column] = _Distinct([vma.path for vma in self.vmas], lambda path: safe(path).lower())
            else:
                # To spell or to hash a policy takes longer than to recognize it.
                policies = {id(vma.policy): vma.policy for vma in self.vmas}
                texts = {key: policy.text().lower() for key, policy in policies.items()}
                self._distinct[column] = _Distinct([id(vma.policy) for vma in self.vmas], texts.__getitem__)
        return self._distinct[column]

    def matches(self, needle: str) -> npt.NDArray[np.bool_]:
        """Which ones have `needle` (lower case) in their name, policy or address."""
        if needle not in self._matches:
            if len(self._matches) > 4:
                self._matches.clear()
            found = self.distinct(Column.NAME).matches(needle) | self.distinct(Column.POLICY).matches(needle)
            if set(needle) <= _HEX_DIGITS:
                found |= np.fromiter((needle in f"{vma.start:x}" for vma in self.vmas), np.bool_, len(self.vmas))
            self._matches[needle] = found
        return self._matches[needle]


class Listings:
    """Those of the samples that are shown; what is not asked for any more is forgotten. verdicts: on their VMAs."""

    def __init__(self) -> None:
        self.verdicts = Verdicts()
        self._known: dict[int, _Listing] = {}
        self._ranks: dict[tuple[Column, tuple[int, ...]], Int64s] = {}

    def of(self, sample: Sample, previous: Sample | None) -> dict[int, _Listing]:
        """By the identity of the tuple of VMAs."""
        shots = (*sample.snapshots, *(previous.snapshots if previous else ()))
        self._known = {id(shot.vmas): self._known.get(id(shot.vmas)) or _Listing(shot.vmas) for shot in shots}
        self.verdicts.keep(sample.snapshots)
        return self._known

    def rank(self, rows: Rows, column: Column) -> Int64s:
        """The place of each row in the order of a column of text."""
        key = column, tuple(map(id, rows.listings))
        if key not in self._ranks:
            self._ranks.clear()
            columns = [listing.distinct(column) for listing in rows.listings]
            texts = sorted({text for part in columns for text in part.texts})
            place = {text: number for number, text in enumerate(texts)}
            ranks = [np.array([place[text] for text in part.texts], np.int64)[part.which] for part in columns]
            self._ranks[key] = _joined(ranks, np.int64)
        return self._ranks[key]


@dataclass(frozen=True, slots=True)
class Rows:
    """A row per VMA of all targets. shots: the targets. begins: int64 of shape (targets + 1,), where the rows of each
    begin. listings: one per target.

    start: uint64. size: bytes. pages: on all nodes. kib: the same in KiB. nodes: shape (rows, nodes). change: of
    pages since the sample before; has_change: whether that is known. faults, moved: per second, NaN where unknown.
    verdicts: on them, for those who ask.
    """

    shots: tuple[Snapshot, ...]
    listings: tuple[_Listing, ...]
    node_ids: tuple[int, ...]
    begins: Int64s
    start: npt.NDArray[np.uint64]
    size: Int64s
    pages: Int64s
    kib: Int64s
    page_kb: Int64s
    nodes: Int64s
    change: Int64s
    has_change: npt.NDArray[np.bool_]
    faults: Floats
    moved: Floats
    verdicts: Verdicts

    def __len__(self) -> int:
        return len(self.start)

    def place(self, row: int) -> tuple[int, int]:
        """The target (its index) and the row in its snapshot."""
        shot = int(np.searchsorted(self.begins, row, side="right")) - 1
        return shot, row - int(self.begins[shot])

    def vma(self, row: int) -> Vma:
        """The VMA of a row."""
        shot, index = self.place(row)
        return self.shots[shot].vmas[index]

    @property
    def owner(self) -> Int64s:
        """The index of each row's target."""
        return np.repeat(np.arange(len(self.shots)), np.diff(self.begins))

    @property
    def columns(self) -> list[Column]:
        """Those that there is anything to say in: without policies nobody can judge."""
        return [column for column in Column if column is not Column.VERDICT or self.judged]

    @property
    def judged(self) -> bool:
        """Whether any target's policies were read."""
        return any(shot.policies is not None for shot in self.shots)

    def judge(self, rows: Sequence[int]) -> dict[int, Finding]:
        """The findings of some rows; none of those without pages."""
        if not self.judged:
            return {}
        found: dict[int, Finding] = {}
        places = [self.place(row) for row in rows]
        for index, shot in enumerate(self.shots):
            mine = [(row, place) for row, (owner, place) in zip(rows, places, strict=True) if owner == index]
            answers = self.verdicts.of(shot, [place for _, place in mine])
            found |= {row: finding for (row, _), finding in zip(mine, answers, strict=True) if finding is not None}
        return found

    def matches(self, index: int, needle: str) -> npt.NDArray[np.bool_]:
        """Which VMAs of a target have `needle` (lower case) in their name, policy, verdict or address."""
        matching = self.listings[index].matches(needle)
        shot = self.shots[index]
        # All VMAs are judged for it, so only where it can be a verdict that is looked for: not at its first letter.
        if shot.policies is None or len(needle) < 2 or not any(needle in word for word in VERDICT_WORDS.values()):
            return matching
        words = self.verdicts.words(shot)
        return matching | np.fromiter((needle in word for word in words), np.bool_, len(words))

    def find(self, pid: int, start: int) -> int | None:
        """The row of a VMA."""
        for index, shot in enumerate(self.shots):
            if shot.pid == pid:
                starts = self.listings[index].start
                row = int(np.searchsorted(starts, np.uint64(start)))
                if row < len(starts) and int(starts[row]) == start:
                    return int(self.begins[index]) + row
        return None


def rows_of(sample: Sample, previous: Sample | None, seconds: float, listings: Listings) -> Rows:
    """seconds: between the two samples, 0.0 where that is not known."""
    known = listings.of(sample, previous)
    shots = sample.snapshots
    mine = tuple(known[id(shot.vmas)] for shot in shots)
    before = {shot.pid: shot for shot in previous.snapshots} if previous else {}
    pages = [shot.pages.sum(axis=1) for shot in shots]
    changes = [
        _change(shot, total, listing, before.get(shot.pid), known)
        for shot, total, listing in zip(shots, pages, mine, strict=True)
    ]
    totals = _joined(pages, np.int64)
    page_kb = _joined([listing.page_kb for listing in mine], np.int64)
    counts = [len(shot.vmas) for shot in shots]
    return Rows(
        shots=shots,
        listings=mine,
        node_ids=sample.node_ids,
        begins=np.concatenate(([0], np.cumsum(counts, dtype=np.int64))).astype(np.int64),
        start=_joined([listing.start for listing in mine], np.uint64),
        size=_joined([listing.size for listing in mine], np.int64),
        pages=totals,
        kib=totals * page_kb,
        page_kb=page_kb,
        nodes=_joined([shot.pages for shot in shots], np.int64).reshape(len(totals), len(sample.node_ids)),
        change=_joined([change for change, _ in changes], np.int64),
        has_change=np.repeat(np.array([known for _, known in changes], np.bool_), counts),
        faults=_joined([_rate(shot.faults, "count", len(shot.vmas), seconds) for shot in shots], np.float64),
        moved=_joined([_rate(shot.flows, "pages", len(shot.vmas), seconds) for shot in shots], np.float64),
        verdicts=listings.verdicts,
    )


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)


def _change(
    shot: Snapshot, total: Int64s, listing: _Listing, before: Snapshot | None, known: dict[int, _Listing]
) -> tuple[Int64s, bool]:
    """Pages more than in the snapshot before, per VMA, and whether there is one. A VMA that is new has all of its
    pages more."""
    if before is None:
        return np.zeros(len(total), np.int64), False
    if before.vmas is shot.vmas and before.pages is shot.pages:
        return np.zeros(len(total), np.int64), True
    old_total = before.pages.sum(axis=1)
    if before.vmas is shot.vmas:
        return total - old_total, True
    old = known[id(before.vmas)].start
    if not len(old):
        return total, True
    place = np.minimum(np.searchsorted(old, listing.start), len(old) - 1)
    return total - np.where(old[place] == listing.start, old_total[place], 0), True


def _rate(events: Faults | Flows | None, what: str, count: int, seconds: float) -> Floats:
    if events is None or seconds <= 0:
        return np.full(count, np.nan)
    known = events.vma >= 0
    return np.bincount(events.vma[known], getattr(events, what)[known], count).astype(np.float64) / seconds


class Hidden(enum.Enum):
    """Which VMAs are left out. The value says it to the user."""

    NOTHING = "all VMAs are shown"
    EMPTY = "VMAs without pages are hidden"
    SMALL = "VMAs with less than 1 MiB of pages are hidden"

    @property
    def next(self) -> Hidden:
        """The one that a key turns to."""
        choices = list(Hidden)
        return choices[(choices.index(self) + 1) % len(choices)]


SMALL_KIB = 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """How the user wants the rows. needle: only those with this text. tree: by process. folded: PIDs of those whose
    VMAs are not shown."""

    sort: Column = Column.ADDRESS
    inverted: bool = False
    needle: str = ""
    hidden: Hidden = Hidden.NOTHING
    tree: bool = False
    folded: frozenset[int] = frozenset()


def order(rows: Rows, layout: Layout, listings: Listings) -> Int64s:
    """The rows that are shown, in order. In a tree there is a line for each process as well: -1 less its index."""
    kept = np.flatnonzero(_wanted(rows, layout))
    if layout.sort is not Column.ADDRESS and layout.sort is not Column.PID:
        key = _key(rows, layout.sort, listings)[kept]
        # Stable, also downwards: what is equal stays in the order of addresses.
        kept = kept[np.argsort(-key if layout.sort in DESCENDING else key, kind="stable")]
    if layout.inverted:
        kept = kept[::-1]
    return _tree(rows, kept, layout) if layout.tree else kept


def _wanted(rows: Rows, layout: Layout) -> npt.NDArray[np.bool_]:
    wanted = np.ones(len(rows), np.bool_)
    if layout.hidden is Hidden.EMPTY:
        wanted &= rows.pages > 0
    elif layout.hidden is Hidden.SMALL:
        wanted &= rows.kib >= SMALL_KIB
    if layout.needle:
        needle = layout.needle.lower()
        wanted &= _joined([_matching(rows, index, needle) for index in range(len(rows.shots))], np.bool_)
    return wanted


def _matching(rows: Rows, index: int, needle: str) -> npt.NDArray[np.bool_]:
    """Which VMAs of a target match. If the target itself does, all of them, where there are several."""
    shot = rows.shots[index]
    if len(rows.shots) > 1 and (needle in safe(shot.comm).lower() or needle == str(shot.pid)):
        return np.ones(len(shot.vmas), np.bool_)
    return rows.matches(index, needle)


def _key(rows: Rows, column: Column, listings: Listings) -> npt.NDArray[Any]:
    if column is Column.NODES:
        # How many are not where most are.
        most: Int64s = rows.nodes.max(axis=1, initial=0)
        return rows.pages - most
    if column is Column.CHANGE:
        return np.abs(rows.change)
    if column in (Column.FAULTS, Column.MOVES):
        return np.nan_to_num(rows.faults if column is Column.FAULTS else rows.moved)
    if column in (Column.NAME, Column.POLICY):
        return listings.rank(rows, column)
    if column is Column.VERDICT:
        return _joined([rows.verdicts.ranks(shot) for shot in rows.shots], np.int64)
    return rows.size if column is Column.SIZE else rows.kib


def _tree(rows: Rows, kept: Int64s, layout: Layout) -> Int64s:
    owner = rows.owner[kept]
    parts = []
    for index, shot in enumerate(rows.shots):
        parts.append(np.array([-1 - index], np.int64))
        if shot.pid not in layout.folded:
            parts.append(kept[owner == index])
    return np.concatenate(parts) if parts else kept
