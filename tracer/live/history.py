"""What the view knows: the last samples, which of them is shown, and the sums of what happened up to it.

Memory is bounded: by the number of samples, and by their bytes. What does not change from sample to sample is kept
once. The thread that takes samples calls `arrive`; everything else belongs to the thread of the view.
"""

from __future__ import annotations

import copy
import enum
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from tracer.live.source import Tick
from tracer.live.verdicts import own_bytes, same_parts
from tracer.model.accumulate import FaultSums, FlowSums
from tracer.model.policies import PolicyChange
from tracer.model.sample import Sample
from tracer.model.snapshot import Regions, Snapshot

__all__ = ["MOST_BYTES", "MOST_SAMPLES", "History", "Unit"]

MOST_SAMPLES = 600
MOST_BYTES = 256 << 20


class Unit(enum.Enum):
    """In what pages are shown. PERCENT: of a VMA, of the pages of all that is shown."""

    PAGES = "pages"
    BYTES = "bytes"
    PERCENT = "percent"

    @property
    def next(self) -> Unit:
        """The one that a key turns to."""
        units = list(Unit)
        return units[(units.index(self) + 1) % len(units)]


@dataclass(slots=True)
class _Sums:
    """What happened in some samples."""

    flows: FlowSums
    faults: FaultSums
    seconds: float = 0.0

    def add(self, tick: Tick) -> None:
        self.seconds += tick.seconds
        for snapshot in (*tick.sample.ended, *tick.sample.snapshots):
            self.flows.add(snapshot)
            self.faults.add(snapshot)


def _nothing() -> _Sums:
    return _Sums(FlowSums(), FaultSums())


@dataclass(frozen=True, slots=True)
class _Kept:
    """number: of the sample, counted from the first one. size: bytes that it does not share with the one before.
    gone: PIDs of its targets that have exited."""

    number: int
    tick: Tick
    size: int
    gone: frozenset[int]


class _Ring:
    """The newest samples; what happened in those that had to go is added to `base`."""

    def __init__(self, most: int, most_bytes: int, base: _Sums) -> None:
        self.kept: deque[_Kept] = deque()
        self.base = base
        self.size = 0
        self._most = most
        self._most_bytes = most_bytes

    def append(self, kept: _Kept) -> None:
        self.kept.append(kept)
        self.size += kept.size
        while len(self.kept) > 2 and (len(self.kept) > self._most or self.size > self._most_bytes):
            self.drop()

    def drop(self) -> None:
        """Let the oldest go."""
        gone = self.kept.popleft()
        self.size -= gone.size
        self.base.add(gone.tick)


class History:
    """A series of samples with one that is shown. unit, colour: how the user wants to see them.

    current: the sample that is shown. previous: the one before, None for the first. seconds: between these two, 0.0
    where that is not known. gone: PIDs of targets of `current` that have exited and are shown as they last were.
    All stay as they are until `take_in`, `step`, `follow` or `restart` is called.

    keep_last: whether the targets of the last sample that has any stay when they have exited, so that there is
    something to look at.
    """

    def __init__(
        self, colour: bool = True, keep_last: bool = True, most: int = MOST_SAMPLES, most_bytes: int = MOST_BYTES
    ) -> None:
        self.colour = colour
        self.unit = Unit.PAGES
        self.gone: frozenset[int] = frozenset()
        self._keep_last = keep_last
        self.current = Sample(datetime.fromtimestamp(0).astimezone(), (), ())
        self.previous: Sample | None = None
        self.seconds = 0.0
        self.following = True
        self._limits = most, most_bytes
        self._lock = threading.Lock()
        self._newest: Tick | None = None
        self._count = 0
        self._empty_rings()
        self._shown = -1
        self._began: datetime | None = None
        self._sums = _nothing()
        self._summed = -1

    def _empty_rings(self) -> None:
        # One base: whatever had to go, before it was taken in or after, is in the same sums.
        base = _nothing()
        self._ring, self._arrived = _Ring(*self._limits, base), _Ring(*self._limits, base)

    # --- samples come in ---

    def arrive(self, tick: Tick) -> None:
        """A new sample. May be called from any one thread, and never waits for the view."""
        with self._lock:
            gone: frozenset[int] = frozenset()
            if self._keep_last and not tick.sample.snapshots:
                tick = _as_last_seen(tick, self._newest)
                gone = frozenset(shot.pid for shot in tick.sample.snapshots)
            tick = _share(tick, self._newest)
            size = _size(tick, self._newest)
            self._newest = tick
            self._arrived.append(_Kept(self._count, tick, size, gone))
            self._count += 1

    def take_in(self) -> bool:
        """Take over what has arrived, and show the newest unless the user looks at an earlier one. Whether there was
        anything."""
        with self._lock:
            arrived, self._arrived = self._arrived, _Ring(*self._limits, self._ring.base)
            if not arrived.kept:
                return False
            if arrived.kept[0].number > self._last_number + 1:
                # The terminal stood still for so long that samples had to go unseen; what is older goes as well.
                while self._ring.kept:
                    self._ring.drop()
            for kept in arrived.kept:
                self._ring.append(kept)
        self._began = self._began or arrived.kept[0].tick.sample.time
        if self.following:
            self._show(self._ring.kept[-1])
        return True

    def restart(self, ticks: Iterable[Tick], shown: int = -1) -> None:
        """Forget everything and begin with these, of which the one at index `shown` is shown: another place of a
        recording."""
        with self._lock:
            self._empty_rings()
            self._newest, self._count = None, 0
        self._shown, self._summed, self._began = -1, -1, None
        for tick in ticks:
            self.arrive(tick)
        self.take_in()
        if self._ring.kept:
            self._show(self._ring.kept[shown])

    # --- which one is shown ---

    @property
    def _last_number(self) -> int:
        return self._ring.kept[-1].number if self._ring.kept else -1

    @property
    def newest_time(self) -> datetime | None:
        """Of the last sample that was taken in; None before there is any."""
        return self._ring.kept[-1].tick.sample.time if self._ring.kept else None

    @property
    def behind(self) -> int:
        """How many samples that the history has are newer than the one shown."""
        return max(0, self._last_number - self._shown)

    @property
    def steps_back(self) -> int:
        """How many earlier ones it has."""
        return max(0, self._shown - self._ring.kept[0].number) if self._ring.kept else 0

    def step(self, by: int) -> bool:
        """Show an earlier (negative) or later sample, as far as there are any. Whether another one is shown now."""
        if not self._ring.kept:
            return False
        first = self._ring.kept[0].number
        number = min(max(self._shown + by, first), self._last_number)
        if number == self._shown:
            return False
        self._show(self._ring.kept[number - first])
        return True

    def hold(self) -> None:
        """Keep what is shown, whatever comes."""
        self.following = False

    def follow(self, following: bool) -> None:
        """Whether new samples are shown as they come; true also shows the newest."""
        self.following = following
        if following and self._ring.kept:
            self._show(self._ring.kept[-1])

    def _show(self, kept: _Kept) -> None:
        first = self._ring.kept[0].number
        before = self._ring.kept[kept.number - first - 1].tick.sample if kept.number > first else None
        self._shown, self.gone = kept.number, kept.gone
        self.current, self.previous, self.seconds = kept.tick.sample, before, kept.tick.seconds

    # --- sums ---

    @property
    def since(self) -> datetime | None:
        """The time of the first sample that the sums tell of; None before there is any."""
        return self._began

    @property
    def flows(self) -> FlowSums:
        """All flows from `since` up to the sample shown. Do not keep it: it grows."""
        return self._up_to_shown().flows

    @property
    def faults(self) -> FaultSums:
        """All faults from `since` up to the sample shown. Do not keep it: it grows."""
        return self._up_to_shown().faults

    @property
    def summed_s(self) -> float:
        """Seconds that the sums tell of."""
        return self._up_to_shown().seconds

    def policy_changes(self, most: int) -> list[tuple[Snapshot, PolicyChange]]:
        """The last changes of policies up to the sample that is shown, newest first, each with the target in which it
        was; of the samples that are kept."""
        found: list[tuple[Snapshot, PolicyChange]] = []
        for kept in reversed(self._ring.kept):
            if kept.number > self._shown:
                continue
            for shot in (*kept.tick.sample.snapshots, *kept.tick.sample.ended):
                if shot.policies is not None:
                    found += [(shot, change) for change in shot.policies.changes]
            if len(found) >= most:
                break
        found.sort(key=lambda pair: pair[1].time, reverse=True)
        return found[:most]

    def _up_to_shown(self) -> _Sums:
        if not self._ring.kept:
            return self._ring.base
        first = self._ring.kept[0].number
        # A sample that is shown although it had to go has the sums of the oldest that is left.
        shown = max(self._shown, first)
        if self._summed > shown or self._summed < first - 1:
            with self._lock:
                self._sums = copy.deepcopy(self._ring.base)
            self._summed = first - 1
        for number in range(self._summed + 1, shown + 1):
            self._sums.add(self._ring.kept[number - first].tick)
        self._summed = shown
        return self._sums


def _as_last_seen(tick: Tick, before: Tick | None) -> Tick:
    """A sample without live targets, with those that ended in it, or before, as if they still were there."""
    sample = tick.sample
    last = {shot.pid: _without_events(shot) for shot in before.sample.snapshots} if before else {}
    # One that was gone before it could be looked at has no VMAs to show.
    shown = {shot.pid: shot for shot in sample.ended if shot.vmas}
    others = tuple(shot for shot in sample.ended if shown.get(shot.pid) is not shot)
    return Tick(replace(sample, snapshots=tuple({**last, **shown}.values()), ended=others), tick.seconds)


def _without_events(shot: Snapshot) -> Snapshot:
    policies = None if shot.policies is None else replace(shot.policies, changes=())
    return replace(shot, flows=None, faults=None, policies=policies)


def _share(tick: Tick, before: Tick | None) -> Tick:
    """The same, with the objects of the sample before where they are equal: most of a target does not change."""
    if before is None:
        return tick
    old = {snapshot.pid: snapshot for snapshot in before.sample.snapshots}
    shots = tuple(_shared(shot, old.get(shot.pid)) for shot in tick.sample.snapshots)
    return Tick(replace(tick.sample, snapshots=shots), tick.seconds)


def _shared(shot: Snapshot, old: Snapshot | None) -> Snapshot:
    if old is None:
        return shot
    same_vmas = shot.vmas is old.vmas or (len(shot.vmas) == len(old.vmas) and shot.vmas == old.vmas)
    same_pages = shot.pages is old.pages or np.array_equal(shot.pages, old.pages)
    return replace(
        shot,
        vmas=old.vmas if same_vmas else shot.vmas,
        pages=old.pages if same_pages else shot.pages,
        regions=old.regions if _same_regions(shot.regions, old.regions) else shot.regions,
        policies=same_parts(shot.policies, old.policies),
    )


def _same_regions(new: Regions | None, old: Regions | None) -> bool:
    if new is None or old is None:
        return new is old
    return np.array_equal(new.address, old.address) and np.array_equal(new.pages, old.pages)


_VMA_BYTES = 240
_ROW_BYTES = 8


def _size(tick: Tick, before: Tick | None) -> int:
    """About how many bytes a sample needs that the one before does not have already."""
    old = {snapshot.pid: snapshot for snapshot in before.sample.snapshots} if before else {}
    return sum(_snapshot_size(shot, old.get(shot.pid)) for shot in tick.sample.snapshots) + sum(
        _snapshot_size(shot, None) for shot in tick.sample.ended
    )


def _snapshot_size(shot: Snapshot, old: Snapshot | None) -> int:
    size = 1000
    if old is None:
        size += len(shot.vmas) * _VMA_BYTES
    elif shot.vmas is not old.vmas:
        known = set(map(id, old.vmas))
        fresh = sum(id(vma) not in known for vma in shot.vmas)
        size += len(shot.vmas) * _ROW_BYTES + fresh * _VMA_BYTES
    if old is None or shot.pages is not old.pages:
        size += shot.pages.nbytes
    if shot.regions is not None and (old is None or shot.regions is not old.regions):
        size += shot.regions.address.nbytes + shot.regions.pages.nbytes
    for events in (shot.flows, shot.faults):
        if events is not None:
            size += 6 * _ROW_BYTES * len(events.vma)
    if shot.policies is not None and (old is None or shot.policies is not old.policies):
        size += own_bytes(shot.policies, old.policies if old is not None else None)
    return size
