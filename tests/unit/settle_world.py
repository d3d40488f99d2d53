"""A kernel in small, for the settle protocol: a page table, threads that change it step by step, and the hooks.

Everything that a real thread does without being interrupted by the tracer is one step of a generator here; between
two steps anything else may happen: other threads, and the tracer. The hooks' programs (bpf/faults.c, rss.c, migrate.c,
log.h) are written out again in Python, with what they get wrong on purpose, such as slots of faults that are over.

A page table has REGIONS regions of two units (1 MiB); a unit has two places for pages, its first two. VMAs begin and
end with units. Numbers of places, units and regions count from 0; addresses begin at FIRST regions.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["ABSENT", "FIRST", "NODES", "PLACES", "PRESENT", "REGIONS", "UNITS", "WRITABLE", "Actor", "Area", "Cpu"]
__all__ += ["Kernel", "Op", "Overtaken", "World", "address_of", "node_of", "place_of", "region_of"]

REGIONS, UNITS, PLACES, NODES = 4, 8, 16, 2
FIRST = 64
REGION_BYTES, UNIT_BYTES, PAGE = 1 << 21, 1 << 20, 4096

ABSENT, PRESENT, WRITABLE, MOVING = 0, 1, 2, 4  # an entry; the node of a present one is in its bits from 4 on
CACHED_MOST = 2  # RSS changes that a thread keeps to itself where the kernel batches them; 64 in a real one
LOOP_MOST = 10_000

Steps = Generator[str, None, None]
Commit = Callable[["Cpu", int], None]


def region_of(place: int) -> int:
    """The region of a place, from 0."""
    return place >> 2


def address_of(place: int) -> int:
    """The address of a place."""
    return FIRST * REGION_BYTES + (place >> 1) * UNIT_BYTES + (place & 1) * PAGE


def place_of(address: int) -> int:
    """The place at an address that is one of a place."""
    offset = address - FIRST * REGION_BYTES
    return offset // UNIT_BYTES * 2 + offset % UNIT_BYTES // PAGE


def node_of(entry: int) -> int:
    """The node of a present entry."""
    return entry >> 4


def page(node: int, writable: bool = True) -> int:
    """A present entry."""
    return PRESENT | (WRITABLE if writable else 0) | node << 4


@dataclass(frozen=True, slots=True)
class Kernel:
    """What differs between kernels. sequence: mm_lock_seq is a `count` (odd during a change), a `plain` number (another
    one after it), or there is `none`. batched: a thread keeps RSS changes of its own to itself for a while, and the
    event comes later (6.1). exact: the tracer can read the exact RSS. log: records that the log of a CPU holds."""

    sequence: str = "count"
    batched: bool = False
    exact: bool = False
    log: int = 1000


class Area(NamedTuple):
    """A VMA: units from start to end (excluded). bias: page offset less page number. anon: identity of its anon_vma."""

    start: int
    end: int
    bias: int
    anon: int


class Op(NamedTuple):
    """Something that a thread can do. at, to: places or units, as the operation wants; node: where pages come from or
    go. how: variants, see the methods of `World` of the same names."""

    what: str
    at: int
    to: int = 0
    node: int = 0
    how: str = ""


@dataclass(slots=True, eq=False)
class Actor:
    """A thread. tid: 0 for one of another process. label: of its last step. critical: how many spinlocks it holds and
    programs it runs, so that a grace period waits for it. call: the ranges of addresses that the registers of its
    system call show; None outside of one and in one that shows none. ended: its faults that came to a good end."""

    name: str
    tid: int
    cpu: int
    job: Steps | None = None
    label: str = ""
    critical: int = 0
    in_fault: bool = False
    call: tuple[tuple[int, int], ...] | None = None
    asleep: bool = False
    killed: bool = False
    gone: bool = False
    cached: int = 0
    ended: int = 0


class Overtaken(NamedTuple):
    """An entry of the map `blocked`."""

    place: int
    write: bool
    sequence: int
    cpu: int
    ended: int


@dataclass(slots=True, eq=False)
class Cpu:
    """struct cpu of bpf/log.h. epoch: that of the pending fault's record, -1: none. logs: regions (int) and ranges."""

    number: int
    open: bool = False
    thread: Actor | None = None
    place: int = 0
    write: bool = False
    sequence: int = 0
    ended: int = 0
    epoch: int = -1
    range: tuple[int, int, int] | None = None
    unexplained: int = 0
    missed: int = 0
    dropped: int = 0
    busy: bool = False
    logs: tuple[list[int | tuple[int, int]], list[int | tuple[int, int]]] = field(default_factory=lambda: ([], []))
    remembered: dict[int, int] = field(default_factory=dict)

    def token(self) -> tuple[object, ...]:
        """What `Hooks.token` shows of it."""
        pending = self.open, self.thread and self.thread.name, self.place, self.write, self.sequence, self.epoch
        return *pending, self.range, self.unexplained, self.missed, self.dropped, len(self.logs[0]), len(self.logs[1])


class World:
    """The target and its kernel. areas: its VMAs at the start, as (start, end) in units.

    entries: of each place; leaves: of each region, in place of its four entries when it is one huge page.
    changed: the time (`now`) of the last change of each region, of pages or of VMAs; a lock that is still held counts
    as a change until it is released. history: the pages by node that each region has had, with the time.
    """

    def __init__(self, kernel: Kernel, areas: Iterable[tuple[int, int]] = ((0, UNITS),)) -> None:
        self.kernel = kernel
        self.now = 0
        self.entries = [ABSENT] * PLACES
        self.leaves = [ABSENT] * REGIONS
        self._identity = 0
        self.areas = [Area(start, end, 0, 0) for start, end in areas]
        self.cpus = [Cpu(0), Cpu(1)]
        self.epoch = 0
        self.blocked: dict[int, Overtaken] = {}
        self.unexplained = 0
        self.rss = 0
        self.sequence = 0
        self._locked: list[Actor | None] = [None] * REGIONS
        self._locked_at = [0] * REGIONS
        self._readers: set[Actor] = set()
        self._writer: Actor | None = None
        self._listed: set[int] = set()
        self.changed = [0] * REGIONS
        self.history: list[list[tuple[int, tuple[int, ...]]]] = [[(0, (0,) * NODES)] for _ in range(REGIONS)]
        self.unheard = [-1] * REGIONS
        self.threads = [Actor("A", 101, 0), Actor("B", 102, 1), Actor("C", 103, 0)]
        self.actors = {it.name: it for it in (*self.threads, Actor("X", 0, 1))}

    def begin(self) -> None:
        """What is there now is how it all begins."""
        self.rss = sum(bool(self.entry(place)) for place in range(PLACES))
        for region in range(REGIONS):
            self.history[region] = [(0, self.counts(range(region * 4, region * 4 + 4)))]
        self._identity = 1
        self.areas = [area._replace(anon=1) for area in self.areas]

    # --- running ---

    def start(self, actor: Actor, op: Op) -> None:
        """Give an actor that has nothing to do a job."""
        if actor.job is None and not actor.gone:
            actor.job = getattr(self, op.what)(actor, op)

    def advance(self, actor: Actor) -> bool:
        """One step of its job; False when it cannot go on."""
        if actor.job is None or (actor.asleep and not actor.killed):
            return False
        if any(it.critical for it in self.actors.values() if it.cpu == actor.cpu and it is not actor):
            return False
        self.now += 1
        try:
            actor.label = next(actor.job)
        except StopIteration:
            actor.job, actor.label = None, "done"
        return actor.label != "waiting"

    def run(self, actor: Actor, steps: int = LOOP_MOST, until: str = "") -> None:
        """Several steps, to the end of the job, or until it is at a label."""
        for _ in range(steps):
            if not self.advance(actor) or (until and actor.label == until):
                return

    def finish(self) -> None:
        """Let everybody come to an end, but for those who are asleep."""
        for _ in range(LOOP_MOST):
            went_on = [self.advance(actor) for actor in self.actors.values()]
            if not any(went_on):
                return
        raise AssertionError("the world does not come to rest")

    def grace(self) -> None:
        """Wait as an RCU grace period does: for programs that run and spinlocks that are held."""
        for actor in self.actors.values():
            while actor.critical:
                self.advance(actor)

    def move(self, actor: Actor, cpu: int) -> None:
        """The scheduler takes an actor to another CPU."""
        if not actor.critical:
            actor.cpu = cpu

    # --- what is there ---

    def entry(self, place: int) -> int:
        """The leaf entry at a place."""
        return self.leaves[region_of(place)] or self.entries[place]

    def counts(self, places: Iterable[int]) -> tuple[int, ...]:
        """Pages by node."""
        nodes = [0] * NODES
        for place in places:
            entry = self.entry(place)
            if entry & PRESENT:
                nodes[node_of(entry)] += 1
        return tuple(nodes)

    def area_at(self, place: int) -> Area | None:
        """The VMA of a place."""
        return next((area for area in self.areas if area.start <= place >> 1 < area.end), None)

    def truth(self) -> dict[int, tuple[int, ...]]:
        """Pages by node of each span that has any, by its address."""
        found: dict[int, tuple[int, ...]] = {}
        for area in self.areas:
            for unit in range(area.start, area.end):
                first = max(area.start, unit & ~1)
                here = self.counts((unit * 2, unit * 2 + 1))
                before = found.get(address_of(first * 2), (0,) * NODES)
                found[address_of(first * 2)] = tuple(a + b for a, b in zip(before, here, strict=True))
        return {address: counts for address, counts in found.items() if any(counts)}

    def at_rest(self, region: int, since: int) -> bool:
        """Nothing has changed in a region since a time, and nobody is about to."""
        return self.changed[region] <= since and region not in self.held()

    def held(self) -> set[int]:
        """Regions whose page table is locked, and those whose VMAs somebody is changing."""
        return self._listed | {region for region, owner in enumerate(self._locked) if owner is not None}

    def had(self, region: int, since: int) -> set[tuple[int, ...]]:
        """The pages by node that a region has had since a time, with those that it had then."""
        history = self.history[region]
        before = [counts for time, counts in history if time <= since][-1:]
        return {*before, *(counts for time, counts in history if time > since)}

    def _set(self, place: int, entry: int, heard: bool = True) -> None:
        self.entries[place] = entry
        self._has_changed(region_of(place), heard)

    def _set_leaf(self, region: int, entry: int, heard: bool = True) -> None:
        self.leaves[region] = entry
        self._has_changed(region, heard)

    def _has_changed(self, region: int, heard: bool) -> None:
        self.changed[region] = self.now
        if not heard:
            self.unheard[region] = self.now
        self.history[region].append((self.now, self.counts(range(region * 4, region * 4 + 4))))

    def _split_leaf(self, region: int) -> None:
        """One entry becomes four that say the same: no page moves."""
        leaf = self.leaves[region]
        if leaf:
            self.leaves[region] = ABSENT
            self.entries[region * 4 : region * 4 + 4] = [leaf] * 4

    # --- locks ---

    def _lock(self, actor: Actor, *regions: int) -> Steps:
        """The spinlocks of page tables."""
        while any(self._locked[region] for region in regions):
            yield "waiting"
        for region in regions:
            self._locked[region], self._locked_at[region] = actor, self.now
        actor.critical += 1
        yield "locked"

    def _unlock(self, actor: Actor, *regions: int) -> None:
        for region in regions:
            self._locked[region] = None
            if self.changed[region] > self._locked_at[region]:
                self.changed[region] = self.now
        actor.critical -= 1

    def _read_lock(self, actor: Actor) -> Steps:
        """mmap_lock."""
        while self._writer is not None:
            yield "waiting"
        self._readers.add(actor)

    def _write_lock(self, actor: Actor) -> Steps:
        while self._writer is not None or self._readers:
            yield "waiting"
        self._writer = actor
        if self.kernel.sequence == "count":
            self.sequence += 1
        yield "writing"

    def _write_unlock(self, actor: Actor, *units: int, downgrade: bool = False) -> None:
        self._list_changed(units)
        self._listed.clear()
        if self.kernel.sequence != "none":
            self.sequence += 1
        self._writer = None
        if downgrade:
            self._readers.add(actor)

    @property
    def written(self) -> bool:
        """Somebody holds mmap_lock for writing."""
        return self._writer is not None

    # --- the hooks' programs ---

    def _hook(self, actor: Actor, commit: Commit, can_miss: bool = True) -> Steps:
        """A program: it learns the epoch, and writes later. busy: it has interrupted another one on its CPU."""
        cpu = self.cpus[actor.cpu]
        actor.critical += 1
        epoch = self.epoch
        yield "hook"
        if cpu.busy and can_miss:
            cpu.missed += 1
        else:
            commit(cpu, epoch)
        cpu.busy = False
        actor.critical -= 1

    def _append(self, cpu: Cpu, epoch: int, record: int | tuple[int, int]) -> bool:
        log = cpu.logs[epoch & 1]
        if len(log) >= self.kernel.log:
            cpu.dropped += 1
            return False
        log.append(record)
        return True

    def _touch(self, cpu: Cpu, epoch: int, region: int) -> bool:
        if cpu.remembered.get(region) == epoch:
            return True
        if not self._append(cpu, epoch, region):
            return False
        cpu.remembered[region] = epoch
        return True

    def _satisfied(self, place: int, write: bool) -> bool:
        entry = self.entry(place)
        return bool(entry & PRESENT and (entry & WRITABLE or not write))

    def _resolve(self, cpu: Cpu, epoch: int, following: Actor) -> None:
        if cpu.epoch != epoch:
            self._touch(cpu, epoch, region_of(cpu.place))
        if self._satisfied(cpu.place, cpu.write) or cpu.thread is following:
            return
        assert cpu.thread is not None
        self.blocked[cpu.thread.tid] = Overtaken(cpu.place, cpu.write, cpu.sequence, cpu.number, cpu.ended)

    def _fault_hook(self, actor: Actor, place: int, write: bool) -> Steps:
        def commit(cpu: Cpu, epoch: int) -> None:
            if cpu.open:
                self._resolve(cpu, epoch, actor)
            cpu.epoch = epoch if self._touch(cpu, epoch, region_of(place)) else -1
            cpu.sequence += 1
            cpu.open, cpu.thread, cpu.place, cpu.write, cpu.ended = True, actor, place, write, actor.ended

        yield from self._hook(actor, commit, can_miss=False)

    def _rss_hook(self, actor: Actor) -> Steps:
        """kmem:rss_stat."""

        def commit(cpu: Cpu, epoch: int) -> None:
            if not self._explained(actor, cpu, epoch):
                self.unexplained += 1
                cpu.unexplained += 1

        yield from self._hook(actor, commit)

    def _explained(self, actor: Actor, cpu: Cpu, epoch: int) -> bool:
        if actor.in_fault and cpu.thread is actor and cpu.ended == actor.ended:
            if cpu.epoch != epoch and self._touch(cpu, epoch, region_of(cpu.place)):
                cpu.epoch = epoch
            return True
        if not actor.tid:
            return False
        if actor.in_fault:
            return self._mark_elsewhere(actor, cpu, epoch)
        for start, end in actor.call or ():
            if cpu.range != (start, end, epoch):
                cpu.range = start, end, epoch
                self._append(cpu, epoch, (start, end))
        return actor.call is not None

    def _mark_elsewhere(self, actor: Actor, cpu: Cpu, epoch: int) -> bool:
        it = self.blocked.get(actor.tid)
        if it is not None and it.ended == actor.ended:
            self._touch(cpu, epoch, region_of(it.place))
            return True
        for other in self.cpus:
            if other.thread is actor and other.ended == actor.ended:
                self._touch(cpu, epoch, region_of(other.place))
                return True
        return False

    def _migration_hook(self, actor: Actor, region: int) -> Steps:
        def commit(cpu: Cpu, epoch: int) -> None:
            self._touch(cpu, epoch, region)

        yield from self._hook(actor, commit)

    # --- page faults ---

    def fault(self, actor: Actor, op: Op) -> Steps:
        """Access `at`, to write if `to`. how: the page comes as `anon`, `file`, `around` (its neighbour, too) or
        `huge`, and the fault sleeps before that if the word ends with `!`."""
        actor.in_fault = True
        yield from self._fault_hook(actor, op.at, bool(op.to))
        yield "entered"
        yield from self._read_lock(actor)
        if op.how.endswith("!"):
            self._readers.discard(actor)
            actor.asleep = True
            yield "asleep"
            if not actor.killed:
                yield from self._read_lock(actor)
        if actor.killed:
            actor.gone = True
        elif self.area_at(op.at):
            yield from self._handle(actor, op, op.how.rstrip("!"))
            actor.ended += 1
        self._readers.discard(actor)
        actor.in_fault = False

    def _handle(self, actor: Actor, op: Op, how: str) -> Steps:
        yield from self._tell_rss(actor)
        self._prepare_anon(op.at)
        yield "prepared"
        region, write = region_of(op.at), bool(op.to)
        yield from self._lock(actor, region)
        entry = self.entry(op.at)
        if not entry:
            yield from self._map(actor, op.at, op.node, how)
        elif entry & PRESENT and write and not entry & WRITABLE:
            self._split_leaf(region)
            self._set(op.at, ABSENT, heard=False)
            yield "cleared"
            self._set(op.at, page(op.node), heard=False)
            yield "copied"
        self._unlock(actor, region)
        yield "mapped"

    def _tell_rss(self, actor: Actor) -> Steps:
        """check_sync_rss_stat() of 6.1, at the beginning of each fault."""
        if actor.cached >= CACHED_MOST:
            self.rss += actor.cached
            yield from self._rss_hook(actor)
            actor.cached = 0
            yield "counted"

    def _prepare_anon(self, place: int) -> None:
        """The first fault gives a VMA its anon_vma, without any lock for writing."""
        area = self.area_at(place)
        if area is not None and not area.anon:
            self._identity += 1
            self.areas[self.areas.index(area)] = area._replace(anon=self._identity)

    def _map(self, actor: Actor, at: int, node: int, how: str) -> Steps:
        """Put pages where there are none, under the lock. RSS changes before the entry does for memory of its own, and
        after it for a file's."""
        region, area = region_of(at), self.area_at(at)
        empty = not any(self.entries[region * 4 : region * 4 + 4])
        if how == "huge" and empty and area and area.start <= region * 2 and area.end >= region * 2 + 2:
            self._set_leaf(region, page(node))
            yield "set"
            self.rss += 4
            yield from self._rss_hook(actor)
            return
        places = [it for it in (at & ~1, at | 1) if not self.entries[it]] if how == "around" else [at]
        for place in places:
            if self.kernel.batched and actor.tid:
                actor.cached += 1
                yield "counted"
            elif how == "anon":
                self.rss += 1
                yield from self._rss_hook(actor)
                yield "counted"
            self._set(place, page(node), heard=not self.kernel.batched)
            yield "set"
        if how != "anon" and not (self.kernel.batched and actor.tid):
            self.rss += len(places)
            yield from self._rss_hook(actor)

    # --- system calls of the target ---

    def discard(self, actor: Actor, op: Op) -> Steps:
        """madvise(MADV_DONTNEED) of units from `at` to `to` (excluded)."""
        yield from self._read_lock(actor)
        actor.call = (self._addresses(op),)
        yield from self._zap(actor, range(op.at, op.to))
        actor.call = None
        self._readers.discard(actor)

    def unmap(self, actor: Actor, op: Op) -> Steps:
        """munmap of units from `at` to `to` (excluded): the list changes first, then pages go, with mmap_lock held for
        reading only by then; how `whole`: for writing all the time."""
        yield from self._write_lock(actor)
        actor.call = (self._addresses(op),)
        units = range(op.at, op.to)
        self._cut(units)
        yield "listed"
        if op.how != "whole":
            self._write_unlock(actor, *units, downgrade=True)
            yield "downgraded"
        yield from self._zap(actor, units)
        actor.call = None
        if op.how == "whole":
            self._write_unlock(actor, *units)
        self._readers.discard(actor)

    def map(self, actor: Actor, op: Op) -> Steps:
        """mmap of units from `at` to `to` (excluded). how: `fixed`, over whatever is there, or the kernel has chosen
        the place, which is free; with `populate` the pages are made at once."""
        yield from self._write_lock(actor)
        units = range(op.at, op.to)
        fixed = "fixed" in op.how
        if not fixed and any(self.area_at(unit * 2) for unit in units):
            self._write_unlock(actor)
            return
        actor.call = (self._addresses(op),) if fixed else None
        yield from self._zap(actor, units)
        self._cut(units)
        yield "listed"
        self._insert(Area(op.at, op.to, 0, 0))
        yield "inserted"
        self._write_unlock(actor, *units)
        yield "unlocked"
        if "populate" in op.how:
            yield from self._read_lock(actor)
            for place in range(op.at * 2, op.to * 2):
                yield from self._populate(actor, place, op.node)
            self._readers.discard(actor)
        actor.call = None

    def _populate(self, actor: Actor, place: int, node: int) -> Steps:
        """A page that the kernel faults in for itself, without any exception."""
        if not self.area_at(place):
            return
        yield from self._tell_rss(actor)
        self._prepare_anon(place)
        yield from self._lock(actor, region_of(place))
        if not self.entry(place):
            yield from self._map(actor, place, node, "anon")
        self._unlock(actor, region_of(place))
        yield "populated"

    def split(self, actor: Actor, op: Op) -> Steps:
        """mprotect or mbind of what begins with unit `at`: a VMA becomes two; or two, one."""
        yield from self._write_lock(actor)
        area, before = self.area_at(op.at * 2), self.area_at(op.at * 2 - 2) if op.at else None
        if area and area.start < op.at:
            at = self.areas.index(area)
            self.areas[at : at + 1] = [area._replace(end=op.at), area._replace(start=op.at)]
            self._list_changed((op.at,))
        elif area and before and (before.bias, before.anon) == (area.bias, area.anon):
            at = self.areas.index(before)
            self.areas[at : at + 2] = [before._replace(end=area.end)]
            self._list_changed((op.at,))
        yield "listed"
        self._write_unlock(actor, op.at)

    def remap(self, actor: Actor, op: Op) -> Steps:
        """mremap of the VMA of unit `at` to the free units that begin with `to`: first there is a new VMA, then the
        pages move, then the old one goes. RSS stays as it is."""
        yield from self._write_lock(actor)
        area = self.area_at(op.at * 2)
        if area is None or op.to + area.end - area.start > UNITS:
            self._write_unlock(actor)
            return
        length = area.end - area.start
        units = [*range(area.start, area.end), *range(op.to, op.to + length)]
        if any(self.area_at(unit * 2) for unit in units[length:]):
            self._write_unlock(actor)
            return
        self._insert(Area(op.to, op.to + length, area.bias + area.start - op.to, area.anon))
        yield "listed"
        for unit, to in zip(units[:length], units[length:], strict=True):
            yield from self._move_entries(actor, unit, to)
        self.areas.remove(area)
        self._list_changed(units)
        yield "removed"
        self._write_unlock(actor, *units)

    def _move_entries(self, actor: Actor, unit: int, to: int) -> Steps:
        regions = {unit >> 1, to >> 1}
        yield from self._lock(actor, *regions)
        self._split_leaf(unit >> 1)
        for slot in (0, 1):
            entry = self.entries[unit * 2 + slot]
            if entry:
                self._set(unit * 2 + slot, ABSENT, heard=False)
                yield "cleared"
                self._set(to * 2 + slot, entry, heard=False)
                yield "moved"
        self._unlock(actor, *regions)
        yield "unlocked"

    def _addresses(self, op: Op) -> tuple[int, int]:
        return address_of(op.at * 2), address_of(op.to * 2)

    def _zap(self, actor: Actor, units: range) -> Steps:
        """Take pages away, one page table after the other; RSS changes once for each."""
        for region in sorted({unit >> 1 for unit in units}):
            yield from self._lock(actor, region)
            gone = 0
            mine = [unit for unit in units if unit >> 1 == region]
            if self.leaves[region] and len(mine) == 2:
                self._set_leaf(region, ABSENT, heard=False)
                gone = 4
            self._split_leaf(region)
            for place in (unit * 2 + slot for unit in mine for slot in (0, 1)):
                if self.entries[place]:
                    self._set(place, ABSENT, heard=False)
                    gone += 1
                    yield "cleared"
            if gone:
                self.rss -= gone
                yield from self._rss_hook(actor)
            self._unlock(actor, region)
            yield "zapped"

    def _cut(self, units: range) -> None:
        """Take units out of all VMAs."""
        left = []
        for area in self.areas:
            if area.start < min(area.end, units.start):
                left.append(area._replace(end=min(area.end, units.start)))
            if max(area.start, units.stop) < area.end:
                left.append(area._replace(start=max(area.start, units.stop)))
        self.areas = left
        self._list_changed(units)

    def _insert(self, area: Area) -> None:
        self.areas = sorted([*self.areas, area])
        self._list_changed(range(area.start, area.end))

    def _list_changed(self, units: Iterable[int]) -> None:
        for unit in units:
            self.changed[unit >> 1] = self.unheard[unit >> 1] = self.now
            self._listed.add(unit >> 1)

    # --- what anybody does to the target ---

    def migrate(self, actor: Actor, op: Op) -> Steps:
        """Move the page at `at` to a node. The entry is replaced twice, with an event after each."""
        region = region_of(op.at)
        yield from self._lock(actor, region)
        entry, whole = self.entry(op.at), bool(self.leaves[region])
        if not entry & PRESENT:
            self._unlock(actor, region)
            return
        self._identity += 1
        moving = MOVING | self._identity << 4
        self._set_any(op.at, moving, whole)
        yield "taken"
        yield from self._migration_hook(actor, region)
        self._unlock(actor, region)
        yield "migrating"
        yield from self._put_back(actor, moving, page(op.node, bool(entry & WRITABLE)))

    def _put_back(self, actor: Actor, moving: int, new: int) -> Steps:
        """Wherever the entry is by now, and however often: a huge one may have been split."""
        while (found := self._find(moving)) is not None:
            region, whole = region_of(found), bool(self.leaves[region_of(found)])
            yield from self._lock(actor, region)
            if self.entry(found) == moving:
                self._set_any(found, new, whole)
                yield "put"
                yield from self._migration_hook(actor, region)
            self._unlock(actor, region)
            yield "migrated"

    def _find(self, entry: int) -> int | None:
        return next((place for place in range(PLACES) if self.entry(place) == entry), None)

    def _set_any(self, place: int, entry: int, whole: bool) -> None:
        if whole and self.leaves[region_of(place)]:
            self._set_leaf(region_of(place), entry)
        else:
            self._set(place, entry)

    def reclaim(self, actor: Actor, op: Op) -> Steps:
        """Somebody else takes the page at `at` away: nothing says where."""
        region = region_of(op.at)
        yield from self._lock(actor, region)
        if self.entry(op.at) & PRESENT:
            self._split_leaf(region)
            self._set(op.at, ABSENT, heard=False)
            yield "cleared"
            self.rss -= 1
            yield from self._rss_hook(actor)
        self._unlock(actor, region)

    def write(self, actor: Actor, op: Op) -> Steps:
        """process_vm_writev: somebody else has a page made at `at`."""
        yield from self._read_lock(actor)
        yield from self._populate(actor, op.at, op.node)
        self._readers.discard(actor)
