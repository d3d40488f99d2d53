"""The real `Settler` at work on a simulated kernel, with everything that it asks for as a place where others may act.

`Tracer.refresh` does what `Session` does for one target. Each of the small looks that a refresh consists of passes
`Tracer.reach` before and after; what a script wants to happen there happens there.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import NamedTuple, cast
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from tests.unit.settle_world import (
    FIRST,
    NODES,
    PRESENT,
    REGIONS,
    UNIT_BYTES,
    Actor,
    Area,
    Op,
    World,
    address_of,
    node_of,
    place_of,
    region_of,
)
from tracer import session_settle
from tracer.kernel.epoch import Drained
from tracer.kernel.hooks import Detail, Pending
from tracer.kernel.machinery import Machinery, Options
from tracer.kernel.memory import Glance, WalkedMemory
from tracer.kernel.pagemap import Pagemap
from tracer.kernel.vma_list import Layout
from tracer.kernel.walk import Survey
from tracer.model.policy import DEFAULT
from tracer.model.spans import Spans, VmaList
from tracer.model.state import State
from tracer.model.vma import Kind, Vma
from tracer.session_settle import Budget, Settler

__all__ = ["Go", "Refresh", "Script", "Swap", "Tracer", "Wrong", "play"]

Int64s = npt.NDArray[np.int64]
Uint64s = npt.NDArray[np.uint64]

NUMBER = 1  # of the target
LIST_TRIES = 4  # as in tracer/kernel/vma_list.py
READ_COST_S = 0.2  # CPU time of an audit for each span: an audit of everything takes more than one refresh
PACE_S, PATIENT_PACE_S = 1.0, 100.0  # between two refreshes; the longer one fills the budget
REFRESHES_MOST = 10  # until all is known, once the world is at rest


class Wrong(AssertionError):
    """The tracer shows what it must not show."""


class Go(NamedTuple):
    """Somebody does something: begins `op` if there is nothing to do, and then takes some steps, or all until one with
    a label. `op` may also be `move` (to CPU `at`), `wake`, `kill` or `busy` (a program on CPU `at`)."""

    actor: str
    op: Op | None = None
    steps: int = 1000
    until: str = ""


class Refresh(NamedTuple):
    """A refresh, and what happens in it: at the n-th place, or the first time that a place of that name is reached.
    swaps: the epoch is ended once more in the midst of it, as for full logs."""

    meanwhile: tuple[tuple[int | str, Go], ...] = ()
    swaps: bool = False


class Swap(NamedTuple):
    """The epoch is ended between two refreshes."""


Script = Sequence[Go | Refresh | Swap]


class _Clock:
    """What the settler takes for the module time."""

    def __init__(self) -> None:
        self.now, self.cpu = 1000.0, 0.0

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.cpu


class _Hooks:
    """`tracer.kernel.hooks.Hooks`."""

    detail = Detail()
    graces = 0

    def __init__(self, tracer: Tracer) -> None:
        self._tracer, self._world = tracer, tracer.world
        self.held: set[int] = set()

    def token(self) -> bytes:
        parts = []
        for cpu in self._world.cpus:
            self._tracer.reach("token")
            parts.append(cpu.token())
        return repr(parts).encode()

    def pending(self) -> dict[int, list[Pending]]:
        found = []
        for cpu in self._world.cpus:
            self._tracer.reach("pending")
            if cpu.open:
                key = -1 - cpu.number, cpu.sequence
                found.append(Pending(key, address_of(cpu.place), cpu.write, NUMBER, 0))
        self._tracer.reach("blocked")
        for tid, it in self._world.blocked.items():
            found.append(Pending((tid, it.sequence << 16 | it.cpu), address_of(it.place), it.write, NUMBER, tid))
        return {NUMBER: found}

    def forget(self, thread: int) -> None:
        self._tracer.reach("forget")
        self._world.blocked.pop(thread, None)

    def unexplained(self, number: int) -> int:
        self._tracer.reach("unexplained")
        return self._world.unexplained

    def lost(self) -> int:
        self._tracer.reach("lost")
        return sum(cpu.dropped + cpu.missed for cpu in self._world.cpus)

    def quiet(self) -> bool:
        self._tracer.reach("quiet")
        return not any(cpu.logs[self._world.epoch & 1] for cpu in self._world.cpus)

    def grace(self) -> None:
        self._tracer.reach("grace")
        self._world.grace()
        self.graces += 1
        self._tracer.reach("graced")

    def swap(self) -> Drained:
        """The target's part of the epoch that ends."""
        self._tracer.reach("swap")
        parity = self._world.epoch & 1
        self._world.epoch += 1
        self.grace()
        records = [record for cpu in self._world.cpus for record in cpu.logs[parity]]
        for cpu in self._world.cpus:
            cpu.logs[parity].clear()
        regions = _numbers({FIRST + it for it in records if isinstance(it, int)})
        ranges = sorted({it for it in records if not isinstance(it, int)})
        return Drained(regions, np.zeros((len(regions), NODES), np.int64), ranges)

    def touched_now(self, number: int) -> Int64s:
        found: set[int] = set()
        for cpu in self._world.cpus:
            self._tracer.reach("touched now")
            found |= {FIRST + it for it in cpu.logs[self._world.epoch & 1] if isinstance(it, int)}
        self.held |= self._world.held()
        return _numbers(found)


class _Tables:
    """The little of `tracer.kernel.walk.PageTables` that is asked for directly."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def entries(self, pgd: int, addresses: Int64s) -> Uint64s:
        found = []
        for address in addresses.tolist():
            self._tracer.reach("entry")
            found.append(self._tracer.world.entry(place_of(address)))
        return np.array(found, np.uint64)


class _Memory:
    """`tracer.kernel.memory.WalkedMemory`."""

    pgd = 0
    reader = "walk"

    def __init__(self, tracer: Tracer) -> None:
        self._tracer, self._world = tracer, tracer.world
        self._known: list[Area] = []
        self._spans = VmaList.empty()

    def _look(self) -> tuple[int, int, int, bool, int]:
        """mm_lock_seq, map_count, total_vm, whether somebody is writing, and RSS, which takes longest."""
        world = self._world
        self._tracer.reach("glance")
        total = sum(area.end - area.start for area in world.areas)
        rss = world.rss
        self._tracer.reach("rss")
        cached = sum(thread.cached for thread in world.threads)
        return world.sequence, len(world.areas), total, world.written, rss + cached if world.kernel.exact else -1

    def glance(self) -> Glance:
        sequence, count, _, _, rss = self._look()
        return Glance((sequence, count) if self._world.kernel.sequence != "none" else None, DEFAULT, -1, rss)

    def is_dying(self) -> bool:
        return False

    def token(self) -> bytes:
        return repr(self._look()).encode()

    # --- the list ---

    def _walk(self) -> list[Area]:
        """VMA by VMA, whatever happens to the list meanwhile."""
        found: list[Area] = []
        while True:
            self._tracer.reach("vma")
            reach = found[-1].end if found else 0
            area = next((area for area in self._world.areas if area.end > reach), None)
            if area is None:
                return found
            found.append(area)

    def layout(self) -> Layout | None:
        """As `VmaListReader.read` and its proof."""
        sane: list[Area] | None = None
        for _ in range(LIST_TRIES):
            before, areas = self._look(), self._walk()
            if any(b.start < a.end for a, b in itertools.pairwise(areas)):
                continue
            sane = areas
            if self._proven(before, areas):
                self._tracer.reach("listed")
                return self._take(areas, True)
        return None if sane is None else self._take(sane, False)

    def _proven(self, before: tuple[int, int, int, bool, int], areas: list[Area]) -> bool:
        after = self._look()
        if before[1:3] != after[1:3] or len(areas) != before[1]:
            return False
        if self._world.kernel.sequence == "count":
            return before[0] == after[0] and not before[0] & 1
        if before[3] or after[3]:
            return False
        return areas == self._known or (self._walk() == areas and self._look()[1:3] == before[1:3])

    def _take(self, areas: list[Area], consistent: bool) -> Layout:
        if areas != self._known:
            self._known, self._spans = areas, _vma_list(areas)
        vmas = tuple(
            Vma(start, end, "rw-p", 0, "00:00", 0, b"", Kind.ANON, DEFAULT)
            for start, end in zip(self._spans.start.tolist(), self._spans.end.tolist(), strict=True)
        )
        return Layout(vmas, self._spans, np.zeros(len(areas), bool), consistent)

    def renamed(self, layout: Layout) -> Layout:
        return layout

    # --- pages ---

    def survey(self, starts: Int64s, ends: Int64s) -> Survey:
        """Region by region. One whose page table is there but empty need not be found, so it is not."""
        regions, leaves = [], []
        for region in range(REGIONS):
            low, high = address_of(region * 4), address_of(region * 4 + 4)
            if not ((starts < high) & (ends > low)).any():
                continue
            self._tracer.reach("survey")
            leaf = self._world.leaves[region]
            if leaf or any(self._world.entries[region * 4 : region * 4 + 4]):
                regions.append(FIRST + region)
                leaves.append(leaf if leaf & PRESENT else 0)
        return Survey(np.array(regions, np.int64), np.array(leaves, np.uint64))

    def counts(self, spans: Spans, leaves: Uint64s | None = None) -> Int64s:
        """Place by place, or what the leaves say."""
        result = np.zeros((len(spans), NODES), np.int64)
        known = np.zeros(len(spans), np.uint64) if leaves is None else leaves
        for row, start, end, leaf in zip(result, spans.start.tolist(), spans.end.tolist(), known.tolist(), strict=True):
            units = range((start - address_of(0)) // UNIT_BYTES, (end - address_of(0)) // UNIT_BYTES)
            for place in (unit * 2 + slot for unit in units for slot in (0, 1)):
                self._tracer.reach(f"read {place}")
                entry = leaf or self._world.entry(place)
                if entry & PRESENT:
                    row[node_of(entry)] += 1
            self._tracer.clock.cpu += READ_COST_S
        return result


def _numbers(values: set[int]) -> Int64s:
    return np.array(sorted(values), np.int64)


def _vma_list(areas: list[Area]) -> VmaList:
    columns = [
        [address_of(0) + area.start * UNIT_BYTES for area in areas],
        [address_of(0) + area.end * UNIT_BYTES for area in areas],
        *([0] * len(areas) for _ in range(3)),
        [area.bias for area in areas],
        [area.anon for area in areas],
    ]
    return VmaList(*(np.array(column, np.int64) for column in columns))


class Tracer:
    """A settler of a class, and what is around it. share: of a CPU, for audits."""

    def __init__(self, world: World, kind: type[Settler] = Settler, share: float = 0.3) -> None:
        self.world = world
        self.clock = _Clock()
        self.hooks = _Hooks(self)
        self._plan: dict[int | str, list[Go]] = {}
        self._reached = 0
        self.places: list[str] = []
        self._saved: Drained | None = None
        with self._time():
            self._budget = Budget(share)
            self.settler = self._made(kind)

    def _made(self, kind: type[Settler]) -> Settler:
        machinery = SimpleNamespace(
            hooks=self.hooks,
            tables=_Tables(self),
            reader="walk",
            frames=None,
            topology=SimpleNamespace(nr_node_ids=NODES),
            options=Options(seed="pagemap"),
            notes=[],
        )
        settler = kind(
            cast(Machinery, machinery),
            cast(Pagemap, SimpleNamespace(pid=1)),
            0,
            NUMBER,
            self._budget,
            lambda what, done, total: None,
            cast(WalkedMemory, _Memory(self)),
        )
        settler._thread_gone = self._thread_gone  # type: ignore[method-assign]
        return settler

    def _thread_gone(self, it: Pending) -> bool:
        self.reach("thread")
        return next(thread for thread in self.world.threads if thread.tid == it.key[0]).gone

    @contextlib.contextmanager
    def _time(self) -> Iterator[None]:
        """The settler's time is ours, and its audits stop after any region."""
        with patch.object(session_settle, "time", self.clock), patch.object(session_settle, "AUDIT_STEP", 1):
            yield

    # --- what others do ---

    def reach(self, place: str) -> None:
        """The tracer is about to look, or has just looked."""
        at, self._reached = self._reached, self._reached + 1
        self.places.append(place)
        for go in (*self._plan.pop(at, ()), *self._plan.pop(place, ())):
            self.go(go)

    def go(self, go: Go) -> None:
        """Something happens."""
        actor, op = self.world.actors[go.actor], go.op
        if op is not None and op.what in ("move", "wake", "kill", "busy"):
            self._affect(actor, op)
            return
        if op is not None:
            self.world.start(actor, op)
        self.world.run(actor, go.steps, go.until)

    def _affect(self, actor: Actor, op: Op) -> None:
        if op.what == "move":
            self.world.move(actor, op.at)
        elif op.what == "busy":
            self.world.cpus[op.at].busy = True
        elif actor.asleep:
            actor.asleep, actor.killed = False, op.what == "kill"

    # --- what the tracer does ---

    def swap(self) -> None:
        """End the epoch, and keep what it held."""
        drained = self.hooks.swap()
        if not len(drained.regions) and not drained.ranges:
            return
        if self._saved is None:
            self._saved = Drained()
        self._saved.absorb(drained)

    def refresh(self, what: Refresh, pace: float = PACE_S) -> State:
        """One refresh; raises `Wrong` when it shows what is not so."""
        self._plan = {}
        for at, go in what.meanwhile:
            self._plan.setdefault(at, []).append(go)
        self._reached, self.places, self.hooks.held = 0, [], self.world.held()
        self.clock.now += pace
        began = self.world.now
        with self._time():
            state = self._refreshed(what.swaps)
        self._plan = {}
        self._check(state, began)
        return state

    def _refreshed(self, swaps: bool) -> State:
        """`Session._refresh_targets`."""
        self._budget.begin()
        token = self.hooks.token()
        pending = self.hooks.pending()
        self.settler.look(token, pending.get(NUMBER, []))
        if not self.hooks.quiet():
            self.swap()
        working, self._saved = self._saved, None
        if swaps:
            self.swap()
        return self.settler.work(working)

    # --- what it must have found ---

    def _check(self, state: State, began: int) -> None:
        """Where there is no doubt, what has not changed since before the refresh is right, and what has changed was so
        at some moment of the refresh."""
        trust = state.trust
        if trust.unexplained or trust.oldest_read_s or self.settler._list_settling:
            return
        truth, shown = self.world.truth(), self.shown()
        held = self.hooks.held | self.world.held()
        for region in set(range(REGIONS)) - {number - FIRST for number in self.settler._dirty.tolist()}:
            here, there = _part(shown, region), _part(truth, region)
            if self.world.at_rest(region, began):
                if here != there:
                    raise Wrong(f"region {region} is shown as {here}, has been {there} all the time, and no doubt")
            elif region not in held and self.world.unheard[region] <= began:
                total = tuple(sum(column) for column in zip((0,) * NODES, *here.values(), strict=True))
                if total not in self.world.had(region, began):
                    raise Wrong(f"region {region} is shown as {total}, which it never was, and no doubt")

    def shown(self) -> dict[int, tuple[int, ...]]:
        """Pages by node of each span that has any, by its address."""
        table = self.settler._table
        rows = zip(table.address.tolist(), table.counts.tolist(), strict=True)
        return {address: tuple(counts) for address, counts in rows if any(counts)}

    def come_to_rest(self) -> None:
        """Nobody does anything any more. A few refreshes later all is right, and without any doubt."""
        self.world.finish()
        for _ in range(REFRESHES_MOST):
            trust = self.refresh(Refresh(), PATIENT_PACE_S).trust
        shown, truth = self.shown(), self.world.truth()
        if shown != truth:
            raise Wrong(f"{shown} is shown in the end, {truth} is there")
        if trust.settling or trust.unexplained or trust.oldest_read_s:
            raise Wrong(f"doubts in the end: {trust}")
        spans = self.settler._table.vmas
        if list(zip(spans.start.tolist(), spans.end.tolist(), strict=True)) != [
            (address_of(area.start * 2), address_of(area.end * 2)) for area in self.world.areas
        ]:
            raise Wrong("the list of VMAs is another one in the end")
        if not np.array_equal(self.settler.totals, self._totals()):
            raise Wrong("the totals of the VMAs are wrong in the end")

    def _totals(self) -> Int64s:
        rows = [self.world.counts(range(area.start * 2, area.end * 2)) for area in self.world.areas]
        return np.array(rows, np.int64).reshape(len(rows), NODES)


def _part(spans: Mapping[int, tuple[int, ...]], region: int) -> dict[int, tuple[int, ...]]:
    return {at: counts for at, counts in spans.items() if region_of(place_of(at)) == region}


def play(tracer: Tracer, script: Script) -> None:
    """Let things happen, then let all come to rest: with the sleeping faults asleep, and after they have ended."""
    for it in script:
        if isinstance(it, Go):
            tracer.go(it)
        elif isinstance(it, Refresh):
            tracer.refresh(it)
        else:
            tracer.swap()
    tracer.come_to_rest()
    for actor in tracer.world.threads:
        actor.asleep = False
    tracer.come_to_rest()
