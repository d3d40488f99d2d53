"""What differs between two accounts of one address space: numatrace's own and the kernel's.

An account is a list of `Area`, as `numatrace maps` prints them and as /proc/PID/numa_maps does. Nothing here reads
anything: callers bring both, and say what may have changed between the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tracer.model.snapshot import Snapshot

__all__ = ["PAGE_SIZE", "Area", "Compared", "Comparison", "Mismatch", "TargetComparison", "Unstable", "compare"]

Value = int | str | None

PAGE_SIZE = "kernelpagesize_kB"
_UNVOUCHED = ("name", "anon", "dirty", "mapped", "mapmax", "swapcache", "active", "writeback")


@dataclass(frozen=True, slots=True)
class Area:
    """One VMA. start, end: addresses, end excluded. policy: as numa_maps prints it. name: the words that follow it
    there, in bytes (`file=/usr/bin/x`, `heap`, `stack huge`). nodes: node id -> pages. fields: all other counts that
    were printed, by their names in numa_maps (`anon`, `kernelpagesize_kB` and so on). path: its name in
    /proc/PID/maps, which is shown, not compared."""

    start: int
    end: int
    policy: str
    name: bytes
    nodes: Mapping[int, int]
    fields: Mapping[str, int]
    path: bytes = b""

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from all others."""
        return self.start, self.end


@dataclass(frozen=True, slots=True)
class Mismatch:
    """What both say of one field of one VMA. field: `N0` and so on, a name of numa_maps, `policy`, `name`, or `area`
    for a VMA that only one of the two knows. ours, kernel: None where that account does not have it."""

    area: Area
    field: str
    ours: Value
    kernel: Value

    @property
    def difference(self) -> int | None:
        """How much more is ours; None where they are no numbers."""
        if isinstance(self.ours, str) or isinstance(self.kernel, str):
            return None
        return (self.ours or 0) - (self.kernel or 0)


@dataclass(frozen=True, slots=True)
class Unstable:
    """A VMA that changed while it was looked at, so that nothing can be said of it; what changed of it."""

    area: Area
    what: str


@dataclass(slots=True)
class Compared:
    """equal: the VMAs in which both agree. wrong: those in which they do not, with all fields that differ.
    unstable: those that were changing. unvouched: those that differ in nothing but what no event tells of: names, which
    numatrace reads now and then, and the fields of --full, which other processes change as well."""

    equal: list[Area] = field(default_factory=list)
    wrong: list[list[Mismatch]] = field(default_factory=list)
    unstable: list[Unstable] = field(default_factory=list)
    unvouched: list[list[Mismatch]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TargetComparison:
    """What came of one target. snapshot: the last one of it. right: VMAs in which both agree. wrong: fields that
    differ, by VMA. unstable: VMAs that could not be compared."""

    snapshot: Snapshot
    right: tuple[Area, ...]
    wrong: tuple[Mismatch, ...]
    unstable: tuple[Unstable, ...]

    @property
    def wrong_areas(self) -> list[Area]:
        """VMAs in which anything differs, in address order."""
        return sorted({it.area.key: it.area for it in self.wrong}.values(), key=lambda area: area.key)

    @property
    def vmas(self) -> int:
        """How many could be compared."""
        return len(self.right) + len(self.wrong_areas)

    @property
    def nodes(self) -> dict[int, int]:
        """Node id -> pages that were compared, as the kernel counts them; nodes without any are left out."""
        total: Counter[int] = Counter()
        for area in (*self.right, *self.wrong_areas):
            total.update(area.nodes)
        return {node: pages for node, pages in sorted(total.items()) if pages}


@dataclass(frozen=True, slots=True)
class Comparison:
    """All targets, once. looks: how often the kernel's files were read for it; seconds: how long that took in all.
    frozen: the targets were held still."""

    time: datetime
    targets: tuple[TargetComparison, ...]
    looks: int
    seconds: float
    frozen: bool = False

    @property
    def wrong(self) -> bool:
        """Whether anything differs."""
        return any(target.wrong for target in self.targets)

    @property
    def complete(self) -> bool:
        """Whether all there is could be compared."""
        return bool(self.targets) and not any(target.unstable for target in self.targets)

    @property
    def vmas(self) -> int:
        """How many were compared."""
        return sum(target.vmas for target in self.targets)

    @property
    def nodes(self) -> dict[int, int]:
        """As of a target, over all."""
        total: Counter[int] = Counter()
        for target in self.targets:
            total.update(target.nodes)
        return dict(sorted(total.items()))


def compare(
    before: Sequence[Area],
    kernel: Sequence[Area],
    after: Sequence[Area],
    changing: Callable[[Area], str],
    list_changed: bool,
) -> Compared:
    """Hold the kernel's account against ours of just before and just after it.

    A VMA can be compared if ours is the same both times and nothing changed it in between. changing: what of it changed
    according to the events, or nothing. list_changed: VMAs came, went or changed in between, so that what is not in all
    three accounts may be neither's fault.
    """
    first, second = ({area.key: area for area in areas} for areas in (before, after))
    theirs = {area.key: area for area in kernel}
    result = Compared()
    for key in sorted(first.keys() | theirs.keys() | second.keys()):
        was, told, now = first.get(key), theirs.get(key), second.get(key)
        area = told or now or was
        assert area is not None
        what = _what_changed(was, now) or changing(area)
        differences = list(_differences(area, now, told))
        if not what and list_changed and any(it.field in ("area", "policy", "name") for it in differences):
            what = "the list of memory areas"
        _sort_in(result, area, what, differences)
    return result


def _sort_in(result: Compared, area: Area, what: str, differences: list[Mismatch]) -> None:
    if what:
        result.unstable.append(Unstable(area, what))
    elif not differences:
        result.equal.append(area)
    elif all(it.field in _UNVOUCHED for it in differences):
        result.unvouched.append(differences)
    else:
        result.wrong.append(differences)


def _what_changed(was: Area | None, now: Area | None) -> str:
    """Between our two accounts."""
    if was is None and now is None:
        return ""
    if was is None or now is None:
        return "the list of memory areas"
    if was.nodes != now.nodes:
        return "pages"
    if was.policy != now.policy:
        return "policy"
    changed = sorted(key for key in was.fields.keys() | now.fields.keys() if was.fields.get(key) != now.fields.get(key))
    return ", ".join(changed) if changed else "name" if was.name != now.name else ""


def _differences(area: Area, ours: Area | None, kernel: Area | None) -> Iterator[Mismatch]:
    if ours is None or kernel is None:
        yield Mismatch(area, "area", *("missing" if it is None else "present" for it in (ours, kernel)))
        return
    for name in ("policy", "name"):
        mine, told = getattr(ours, name), getattr(kernel, name)
        if mine != told:
            yield Mismatch(area, name, *(_text(it) for it in (mine, told)))
    for node in sorted(ours.nodes.keys() | kernel.nodes.keys()):
        if ours.nodes.get(node, 0) != kernel.nodes.get(node, 0):
            yield Mismatch(area, f"N{node}", ours.nodes.get(node, 0), kernel.nodes.get(node, 0))
    for key in sorted(ours.fields.keys() | kernel.fields.keys()):
        # The page size stands where there are pages, and those are compared above.
        if key == PAGE_SIZE and (key not in ours.fields or key not in kernel.fields):
            continue
        if ours.fields.get(key) != kernel.fields.get(key):
            yield Mismatch(area, key, ours.fields.get(key), kernel.fields.get(key))


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")
