"""What differs between two samples: which memory areas came, went, grew, shrank, moved or changed their policy.

Two moments of one run know the same addresses. There an area of the one belongs to an area of the other if they
overlap and map the same: the same file, or both no file, with pages of the same size. An area that was split or merged
meanwhile has several at one end, and all that hang together by overlaps make one change.

Two runs share no addresses: address space layout is random. There areas belong together that have the same name, kind,
permissions, offset and size of pages. Where several have, those of equal length in order of address do first, and of
the rest the longest with the longest. Targets belong together by PID within a run, and else by name in order of PID.

Every page of both samples is in exactly one change or in an area that did not change. So the changes sum up to the
difference of the totals. Pure: the caller says which samples, and what flowed between them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import attrgetter
from typing import TypeAlias

from tracer.model.accumulate import FlowRow
from tracer.model.sample import Sample
from tracer.model.snapshot import Snapshot
from tracer.model.vma import Kind, Vma

__all__ = ["Area", "Change", "Difference", "Move", "Target", "compare"]

_DELETED = b" (deleted)"


@dataclass(frozen=True, slots=True)
class Area:
    """A VMA at one of the two times. policy: as numa_maps prints it. pages: on each node of the difference."""

    vma: Vma
    policy: str
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """Pages that went from one node to another for a reason of the kernel; kib: the same in KiB."""

    source: int
    destination: int
    reason: str
    pages: int
    kib: int


@dataclass(frozen=True, slots=True)
class Target:
    """A process at both times, or at one of them, None at the other. replaced: what it executed at the first time is
    not what it executed at the second one, so that nothing of its memory is the same."""

    before: Snapshot | None
    after: Snapshot | None
    replaced: bool = False

    @property
    def latest(self) -> Snapshot:
        """As last seen."""
        snapshot = self.after or self.before
        if snapshot is None:
            raise ValueError("a target is there at one time at least")
        return snapshot


Moves: TypeAlias = tuple[Move, ...]
_Span: TypeAlias = tuple[int, int, int]
"""Start, end, and the index of a change."""


@dataclass(frozen=True, slots=True)
class Change:
    """An area before and after. Usually one each; none where it was not there; several where it was split or merged.

    moves: what moved in between, None where that was not recorded, as always between two runs.
    """

    target: Target
    before: tuple[Area, ...]
    after: tuple[Area, ...]
    moves: Moves | None = None

    @property
    def delta(self) -> tuple[int, ...]:
        """Pages that each node has more."""
        nodes = len((self.before or self.after)[0].pages)
        return tuple(
            sum(area.pages[node] for area in self.after) - sum(area.pages[node] for area in self.before)
            for node in range(nodes)
        )

    @property
    def pages(self) -> int:
        """Pages that there are more, negative where there are fewer."""
        return sum(self.delta)

    @property
    def moved(self) -> int:
        """Pages that went to another node: as recorded, else the least that can be: what some nodes lost and others
        got."""
        if self.moves is not None:
            return sum(move.pages for move in self.moves)
        if not (self.before and self.after):
            return 0
        delta = self.delta
        return min(sum(count for count in delta if count > 0), -sum(count for count in delta if count < 0))

    @property
    def page_kb(self) -> int:
        """All its areas have pages of one size."""
        return (self.after or self.before)[0].vma.page_kb

    @property
    def policies(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Before and after, each in order of address and once."""
        before, after = (tuple(dict.fromkeys(area.policy for area in areas)) for areas in (self.before, self.after))
        return before, after

    @property
    def words(self) -> tuple[str, ...]:
        """What happened to it, the weightiest first; empty where nothing did."""
        words = ["moved"] * (self.moved > 0)
        if not self.before:
            return ("appeared", *words)
        if not self.after:
            return ("disappeared", *words)
        before, after = self.policies
        words += ["grew"] * (self.pages > 0) + ["shrank"] * (self.pages < 0)
        # Given back here and touched again there: as many pages, and none of them moved.
        words += ["shifted"] * (not words and any(self.delta))
        words += ["policy"] * (before != after)
        words += ["split"] * (len(self.before) < len(self.after)) + ["merged"] * (len(self.before) > len(self.after))
        words += ["resized"] * (_length(self.before) != _length(self.after))
        words += ["renamed"] * (_names(self.before) != _names(self.after))
        return tuple(words)

    @property
    def weight(self) -> tuple[int, int]:
        """How much it matters, in KiB: what changed or moved; then how long it is."""
        touched = max(self.moved, sum(abs(count) for count in self.delta))
        return touched * self.page_kb, max(_length(self.before), _length(self.after)) // 1024


@dataclass(frozen=True, slots=True)
class Difference:
    """node_ids: all nodes of both samples. before, after: pages on each, over all targets.

    changes: weightiest first. moves: all there were, also in areas that came and went in between; None where that was
    not recorded.
    """

    node_ids: tuple[int, ...]
    targets: tuple[Target, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    changes: tuple[Change, ...]
    moves: Moves | None = None

    @property
    def delta(self) -> tuple[int, ...]:
        """Pages that each node has more."""
        return tuple(after - before for before, after in zip(self.before, self.after, strict=True))

    @property
    def moved(self) -> int:
        """Pages that went to another node; without records of it the least that can be."""
        if self.moves is not None:
            return sum(move.pages for move in self.moves)
        return sum(change.moved for change in self.changes)


def compare(
    before: Sample,
    after: Sample,
    same_run: bool = True,
    replaced: Collection[int] = (),
    flows: Iterable[FlowRow] | None = None,
) -> Difference:
    """same_run: whether both belong to one recording, the first one to the earlier moment.

    replaced: PIDs whose address space ended in between. flows: what moved in between; None where it is not known.
    """
    node_ids = tuple(sorted({*before.node_ids, *after.node_ids}))
    targets = tuple(_targets(before.snapshots, after.snapshots, same_run, replaced))
    changes = [change for target in targets for change in _changes(target, node_ids, same_run)]
    moves: Moves | None = None
    if flows is not None:
        rows = [row for row in flows if row.source != row.destination and row.pages]
        moves = _sums(rows)
        changes = _with_moves(changes, rows)
    changed = [change for change in changes if change.words]
    totals = [_totals(sample, node_ids) for sample in (before, after)]
    return Difference(node_ids, targets, totals[0], totals[1], tuple(sorted(changed, key=_rank)), moves)


def _totals(sample: Sample, node_ids: tuple[int, ...]) -> tuple[int, ...]:
    pages = dict(zip(sample.node_ids, sample.totals.tolist(), strict=True))
    return tuple(pages.get(node, 0) for node in node_ids)


def _rank(change: Change) -> tuple[int, int, int, int]:
    kib, length = change.weight
    return -kib, -length, change.target.latest.pid, (change.after or change.before)[0].vma.start


# Which target belongs to which


def _targets(
    before: Sequence[Snapshot], after: Sequence[Snapshot], same_run: bool, replaced: Collection[int]
) -> Iterator[Target]:
    if same_run:
        first, second = ({snapshot.pid: snapshot for snapshot in snapshots} for snapshots in (before, after))
        for pid in sorted({*first, *second}):
            one, other = first.get(pid), second.get(pid)
            yield Target(one, other, one is not None and other is not None and pid in replaced)
        return
    if len(before) == len(after) == 1:
        # Whatever they are called now: that is what the user compares.
        yield Target(before[0], after[0])
        return
    by_name: defaultdict[bytes, tuple[list[Snapshot], list[Snapshot]]] = defaultdict(lambda: ([], []))
    for side, snapshots in enumerate((before, after)):
        for snapshot in sorted(snapshots, key=attrgetter("pid")):
            by_name[snapshot.comm][side].append(snapshot)
    for name in sorted(by_name):
        yield from (Target(one, other) for one, other in zip_longest(*by_name[name]))


# Which area belongs to which


def _changes(target: Target, node_ids: tuple[int, ...], same_run: bool) -> Iterator[Change]:
    before, after = _areas(target.before, node_ids), _areas(target.after, node_ids)
    if target.replaced:
        pairs: Iterable[tuple[list[Area], list[Area]]] = [
            *(([area], []) for area in before),
            *(([], [a]) for a in after),
        ]
    else:
        pairs = _pairs_by_address(before, after) if same_run else _pairs_by_name(before, after)
    for one, other in pairs:
        yield Change(target, tuple(one), tuple(other))


def _areas(snapshot: Snapshot | None, node_ids: tuple[int, ...]) -> list[Area]:
    if snapshot is None:
        return []
    spelling = snapshot.spelling
    rows: list[list[int]] = snapshot.pages.tolist()
    if snapshot.node_ids != node_ids:
        columns = [snapshot.node_ids.index(node) if node in snapshot.node_ids else None for node in node_ids]
        rows = [[0 if column is None else row[column] for column in columns] for row in rows]
    return [Area(vma, vma.policy.text(spelling), tuple(row)) for vma, row in zip(snapshot.vmas, rows, strict=True)]


def _pairs_by_address(before: list[Area], after: list[Area]) -> Iterator[tuple[list[Area], list[Area]]]:
    """Groups of areas that hang together by overlaps."""
    classes: defaultdict[tuple[object, ...], list[tuple[int, int, Area]]] = defaultdict(list)
    for side, areas in enumerate((before, after)):
        for area in areas:
            classes[_mapped(area.vma)].append((area.vma.start, side, area))
    for items in classes.values():
        group: tuple[list[Area], list[Area]] = ([], [])
        ends = [0, 0]
        for start, side, area in sorted(items, key=lambda item: item[:2]):
            # Areas of one side do not overlap: if this one does not touch the group, nothing that follows does.
            if start >= ends[1 - side] and any(group):
                yield group
                group, ends = ([], []), [0, 0]
            group[side].append(area)
            ends[side] = area.vma.end
        yield group


def _mapped(vma: Vma) -> tuple[object, ...]:
    """What an area maps. Memory without a file may get another name, and heap may lie beside other memory."""
    what = (vma.device, vma.inode, vma.path.removesuffix(_DELETED)) if vma.kind is Kind.FILE else ()
    return (vma.kind is Kind.FILE, vma.hugetlb, vma.page_kb, *what)


def _pairs_by_name(before: list[Area], after: list[Area]) -> Iterator[tuple[list[Area], list[Area]]]:
    classes: defaultdict[tuple[object, ...], tuple[list[Area], list[Area]]] = defaultdict(lambda: ([], []))
    for side, areas in enumerate((before, after)):
        for area in areas:
            classes[_called(area.vma)][side].append(area)
    for one, other in classes.values():
        lengths: defaultdict[int, tuple[list[Area], list[Area]]] = defaultdict(lambda: ([], []))
        for side, areas in enumerate((one, other)):
            for area in areas:
                lengths[area.vma.end - area.vma.start][side].append(area)
        rest: tuple[list[Area], list[Area]] = ([], [])
        for length in sorted(lengths, reverse=True):
            equal_one, equal_other = lengths[length]
            common = min(len(equal_one), len(equal_other))
            yield from (([a], [b]) for a, b in zip(equal_one[:common], equal_other[:common], strict=True))
            rest[0].extend(equal_one[common:])
            rest[1].extend(equal_other[common:])
        for a, b in zip_longest(*rest):
            yield [a] * (a is not None), [b] * (b is not None)


def _called(vma: Vma) -> tuple[object, ...]:
    offset = vma.offset if vma.kind is Kind.FILE else 0
    return vma.kind, vma.path.removesuffix(_DELETED), vma.perms, offset, vma.hugetlb, vma.page_kb


def _length(areas: Sequence[Area]) -> int:
    return sum(area.vma.end - area.vma.start for area in areas)


def _names(areas: Sequence[Area]) -> list[bytes]:
    return list(dict.fromkeys(area.vma.path for area in areas))


# What moved


def _sums(rows: Iterable[FlowRow]) -> Moves:
    """By node, node and reason, most pages first."""
    sums: defaultdict[tuple[int, int, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        both = sums[row.source, row.destination, row.reason]
        both[0] += row.pages
        both[1] += row.kib
    moves = [Move(*key, *both) for key, both in sums.items()]
    return tuple(sorted(moves, key=lambda move: (-move.pages, move.source, move.destination, move.reason)))


def _with_moves(changes: list[Change], rows: list[FlowRow]) -> list[Change]:
    """Each with the moves in its areas. Those in an area that is there at neither time are in none, and those of a
    process that executed another program meanwhile: at which of its addresses would be anybody's guess."""
    rows_of: defaultdict[int, list[FlowRow]] = defaultdict(list)
    for row in rows:
        if row.place.vma is not None:
            rows_of[row.place.pid].append(row)
    given: defaultdict[int, list[FlowRow]] = defaultdict(list)
    sides: defaultdict[int, tuple[list[_Span], list[_Span]]] = defaultdict(lambda: ([], []))
    for index, change in enumerate(changes):
        pid = change.target.latest.pid
        if pid in rows_of and not change.target.replaced:
            for side, areas in enumerate((change.before, change.after)):
                sides[pid][side].extend((area.vma.start, area.vma.end, index) for area in areas)
    for pid, its in rows_of.items():
        spans = [sorted(side) for side in sides[pid]]
        for row in its:
            where = _overlapped(row.place.vma, spans)
            if where is not None:
                given[where].append(row)
    return [replace(change, moves=_sums(given[index])) for index, change in enumerate(changes)]


def _overlapped(vma: Vma | None, sides: Sequence[list[_Span]]) -> int | None:
    """The change that most of a VMA lies in. sides: spans that do not overlap, each in order of address."""
    best, most = None, 0
    if vma is None:
        return None
    for spans in sides:
        first = max(bisect_right(spans, (vma.start,)) - 1, 0)
        for start, end, index in spans[first : bisect_left(spans, (vma.end,))]:
            common = min(end, vma.end) - max(start, vma.start)
            if common > most:
                best, most = index, common
    return best
