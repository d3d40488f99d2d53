"""Policies of one target: who set them, what they promise, and how each page that lies elsewhere came there.

The settler says which regions changed; their pages are read one by one, and a ledger remembers of each how it came
(`tracer.model.ledger`). What happened since the last look comes from the epoch's events.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tracer.kernel.epoch import Drained, PolicyCall, policy_hash
from tracer.kernel.machinery import Machinery
from tracer.kernel.memory import Layout
from tracer.kernel.pages import PageReader
from tracer.kernel.pressure import PressureReader, allowed_nodes, free_hugepages, read_weights
from tracer.kernel.shared_memory import shared_memory_devices
from tracer.kernel.threads import ThreadPolicy, thread_policies
from tracer.model.cause import Cause
from tracer.model.events import Kind as FaultKind
from tracer.model.ledger import Arrival, Events, Key, PageLedger, Sums
from tracer.model.origin import ANYWHERE, Area, How, Origin, Standing, same_policy
from tracer.model.placement import apportion, expectation
from tracer.model.policies import Misplaced, Policies, PolicyChange, Pressure, TaskPolicy
from tracer.model.policy import DEFAULT, MODE_FLAGS, Mode, Policy
from tracer.model.rule import Backing
from tracer.model.spans import RESTLESS, gather_ranges
from tracer.model.vma import Kind, Vma
from tracer.session_events import Attribution
from tracer.session_settle import Settler

__all__ = ["Machine", "PolicyWatch"]

Int64s = npt.NDArray[np.int64]
_Range = tuple[int, int, Policy | None, Policy | None]
"""start, end, old, new"""

PROMISELESS = (Mode.DEFAULT, Mode.LOCAL)
PAGE = 4096
REGION_SHIFT = 21
REGION = 1 << REGION_SHIFT


class Machine:
    """What policies depend on beyond the target: weights, full nodes, pools of huge pages. One for all targets, read
    once a refresh."""

    def __init__(self, node_ids: tuple[int, ...]) -> None:
        self.node_ids = node_ids
        self._reader = PressureReader(node_ids)
        self._start = self.pressure = self._reader.read()
        self.pressure = self._since_start(self._start)
        self.full: frozenset[int] = frozenset()
        self.weights = read_weights(node_ids)
        self._pools: dict[int, frozenset[int]] = {}

    def refresh(self) -> None:
        """Look again. `full`: nodes whose allocations others had to serve since the last look."""
        before, now = self.pressure, self._since_start(self._reader.read())
        grown = now.foreign > before.foreign
        self.full = frozenset(node for node, more in zip(self.node_ids, grown.tolist(), strict=True) if more)
        if self.full or _differs(before, now):
            self.pressure = now
        self.weights = read_weights(self.node_ids)
        self._pools.clear()

    def _since_start(self, now: Pressure) -> Pressure:
        return replace(now, foreign=now.foreign - self._start.foreign)

    def weights_of(self) -> dict[int, int]:
        """Weights by node id; none where the kernel has none."""
        return dict(zip(self.node_ids, self.weights or (), strict=bool(self.weights)))

    def empty_pools(self, page_pages: int) -> frozenset[int]:
        """Nodes without a free hugetlb page of that size in 4 KiB pages."""
        if page_pages not in self._pools:
            free = free_hugepages(self.node_ids, page_pages * PAGE // 1024)
            self._pools[page_pages] = frozenset(n for n, left in zip(self.node_ids, free, strict=True) if not left)
        return self._pools[page_pages]

    def close(self) -> None:
        """Let go of the files."""
        self._reader.close()


def _differs(one: Pressure, other: Pressure) -> bool:
    """By more than a sixty-fourth of what is free: what is shown need not follow every page."""
    return bool((np.abs(one.free - other.free) * 64 > np.maximum(one.free, 1)).any())


@dataclass(slots=True)
class _Owned:
    """VMAs as they were at a look, and which policy each had of its own."""

    start: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    end: Int64s = field(default_factory=lambda: np.empty(0, np.int64))
    policies: list[Policy | None] = field(default_factory=list)

    @classmethod
    def of(cls, layout: Layout) -> _Owned:
        own = layout.own_policy.tolist()
        policies = [vma.policy if has else None for vma, has in zip(layout.vmas, own, strict=True)]
        return cls(layout.spans.start, layout.spans.end, policies)

    def at(self, address: int) -> tuple[bool, Policy | None]:
        """Whether there was a VMA, and its own policy."""
        row = int(np.searchsorted(self.start, address, "right")) - 1
        if row < 0 or address >= int(self.end[row]):
            return False, None
        return True, self.policies[row]

    def between(self, start: int, end: int) -> Iterator[tuple[int, int, Policy | None]]:
        """Parts of the range that a VMA covered, with its own policy."""
        row = int(np.searchsorted(self.end, start, "right"))
        while row < len(self.start) and int(self.start[row]) < end:
            yield max(start, int(self.start[row])), min(end, int(self.end[row])), self.policies[row]
            row += 1


@dataclass(slots=True)
class _Tasks:
    """Policies of the threads at a look: as shown, by thread, and by the hash of the kernel's pointer."""

    shown: tuple[TaskPolicy, ...] = ()
    by_thread: dict[int, Policy] = field(default_factory=dict)
    by_hash: dict[int, Policy] = field(default_factory=dict)

    @classmethod
    def of(cls, threads: tuple[ThreadPolicy, ...]) -> _Tasks:
        return cls(
            tuple(TaskPolicy(it.thread, it.comm, it.policy) for it in threads),
            {it.thread: it.policy for it in threads},
            {policy_hash(it.pointer): it.policy for it in threads},
        )


class PolicyWatch:
    """Gives `Policies` of one address space. born: it was seen to be forked: all that it began with is its parent's."""

    def __init__(
        self, machinery: Machinery, machine: Machine, work: Settler, attribution: Attribution, born: bool
    ) -> None:
        assert machinery.tables is not None
        self._machinery, self._machine, self._work, self._attribution = machinery, machine, work, attribution
        self._pid, self._born = work.pid, born
        self._reader = PageReader(work.memory, machinery.frames)
        self._ledger = PageLedger(machinery.topology.nr_node_ids)
        self._owned, self._tasks = _Owned(), _Tasks()
        self._layout: Layout | None = None
        self._areas: list[Area] = []
        self._made: dict[int, tuple[Vma, Area]] = {}
        self._fresh: set[tuple[int, int]] = set()
        self._looks = 0
        self._unsure = np.empty(0, np.int64)
        self._allowed: tuple[int, ...] = ()
        self._pressure: Pressure | None = None
        self._weights: tuple[int, ...] | None = None
        self.policies: Policies | None = None
        """As last found, without the changes."""

    # --- a look ---

    def look(self, drained: Drained | None) -> Policies | None:
        """Bring it up to date, after the settler has done its work. None while there is no VMA list."""
        layout = self._work.layout
        if layout is None:
            return None
        tables = self._machinery.tables
        assert tables is not None
        tasks = _Tasks.of(thread_policies(tables, self._work.mm, self._pid))
        allowed = allowed_nodes(self._pid) or self._allowed
        if self.policies is not None and self._still(layout, tasks, allowed, drained):
            return self.policies
        before, self._tasks, self._allowed = self._tasks, tasks, allowed
        owned = _Owned.of(layout) if layout is not self._layout else self._owned
        changes = self._changes(before, owned, drained) if self._looks else ()
        self._take_pages(layout, before, drained or Drained())
        self._layout, self._owned = layout, owned
        self._looks += 1
        self._pressure, self._weights = self._machine.pressure, self._machine.weights
        found = self._policies(layout)
        self.policies = found
        return replace(found, changes=changes) if changes else found

    def _still(self, layout: Layout, tasks: _Tasks, allowed: tuple[int, ...], drained: Drained | None) -> bool:
        """Nothing has happened that could change what was found at the last look."""
        return (
            self._looks > 1
            and drained is None
            and layout is self._layout
            and not self._fresh
            and not len(self._unsure)
            and not self._work.has_just_read()
            and tasks == self._tasks
            and allowed == self._allowed
            and self._pressure is self._machine.pressure
            and self._weights == self._machine.weights
            and not any(area.page_pages > 1 for area in self._areas)
        )

    @cached_property
    def _shared_devices(self) -> frozenset[str]:
        return shared_memory_devices(self._pid)

    # --- areas ---

    def _areas_of(self, layout: Layout) -> list[Area]:
        task = self._work.task_policy
        restless = (layout.spans.special & RESTLESS) != 0
        bias = layout.spans.bias.tolist()
        known, self._made = self._made, {}
        areas, fresh = [], set()
        for row, vma in enumerate(layout.vmas):
            own = bool(layout.own_policy[row])
            policy = vma.policy if own else task
            existed, was = self._owned.at(vma.start)
            new = bool(self._looks) and own and not (existed and same_policy(was, policy))
            if new:
                fresh.add((vma.start, vma.end))
            recent = new or (vma.start, vma.end) in self._fresh
            made = known.get(vma.start)
            if made is None or made[0] is not vma or made[1].policy != policy or made[1].fresh != recent:
                made = vma, self._area(vma, policy, own, bias[row], bool(restless[row]), recent)
            areas.append(made[1])
            self._made[vma.start] = made
        self._fresh = fresh
        return areas

    def _area(self, vma: Vma, policy: Policy, own: bool, bias: int, restless: bool, fresh: bool) -> Area:
        shared = vma.kind is Kind.FILE and not vma.hugetlb and vma.device in self._shared_devices
        return Area(
            vma.start,
            vma.end,
            policy,
            own,
            Backing(vma.start, (vma.start >> 12) + bias, vma.inode if shared else None, self._machinery.counts_by_ilx),
            shared=shared,
            file=vma.kind is Kind.FILE and not vma.hugetlb and not shared,
            page_pages=vma.page_kb * 1024 // PAGE if vma.hugetlb else 1,
            mergeable=restless,
            fresh=fresh,
        )

    # --- pages ---

    def _take_pages(self, layout: Layout, before: _Tasks, drained: Drained) -> None:
        ledger = self._ledger
        self._areas = self._areas_of(layout)
        ledger.cover(self._areas)
        ledger.weights = self._machine.weights_of()
        populated = ledger.covered(self._work.known_regions())
        wanted = np.union1d(ledger.covered(self._work.take_just_read()), ledger.unknown(populated))
        wanted = np.union1d(wanted, ledger.covered(self._unsure))
        if len(wanted):
            pages = self._reader.read(wanted, layout)
            ledger.take(wanted, pages.node, pages.file, pages.huge, self._events(before, drained))
        pools = {area.page_pages for area in self._areas if area.page_pages > 1}
        ledger.judge(
            Standing(
                frozenset(self._allowed),
                {it.thread: it.policy for it in self._tasks.shown},
                {size: self._machine.empty_pools(size) for size in pools},
            )
        )
        self._unsure = self._differing(layout, wanted)

    def _differing(self, layout: Layout, regions: Int64s) -> Int64s:
        """Of what was read: regions whose pages are not those that were counted, as they changed in between."""
        spans = layout.spans
        first = np.searchsorted(spans.end, regions << REGION_SHIFT, "right")
        last = np.searchsorted(spans.start, regions + 1 << REGION_SHIFT, "left")
        parts = []
        for row in np.unique(gather_ranges(first, last)).tolist():
            sums, total = self._ledger.sums.get(int(spans.start[row])), self._work.totals[row]
            if total.any() if sums is None else not np.array_equal(sums.present, total):
                parts.append(self._work.known_regions(int(spans.start[row]), int(spans.end[row])))
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)

    # --- what happened ---

    def _events(self, before: _Tasks, drained: Drained) -> Events:
        return Events(
            list(self._arrivals(before, drained)),
            self._moves(drained),
            self._found,
            self._reader.merged,
            self._reader.large,
        )

    def _arrivals(self, before: _Tasks, drained: Drained) -> Iterator[Arrival]:
        starts = np.array([area.start for area in self._areas], np.int64)
        ends = np.array([area.end for area in self._areas], np.int64)
        for rows in drained.placed:
            base = rows.address & -REGION
            first, last = np.searchsorted(ends, base, "right"), np.searchsorted(starts, base + REGION, "left")
            columns = (base, rows.kind, rows.sequence, rows.policy, rows.thread, first, last)
            for row, values in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
                begin, kind, sequence, hashed, thread, low, high = values
                task = self._tasks.by_hash.get(hashed, before.by_hash.get(hashed)) if hashed else DEFAULT
                how = How.COPIED if kind == FaultKind.COW else How.FAULT
                # One span then may be several now: setting a policy splits VMAs.
                for area in self._areas[low:high]:
                    pages = _within(rows.pages[row], begin, area)
                    if pages.any():
                        address = begin + (int(pages.argmax()) << 12)
                        origins = self._origins(area, address, sequence, task, thread, how, drained.calls)
                        yield Arrival(begin >> REGION_SHIFT, pages, origins, kind == FaultKind.HUGE)

    def _origins(
        self,
        area: Area,
        address: int,
        sequence: int,
        task: Policy | None,
        thread: int,
        how: How,
        calls: list[PolicyCall],
    ) -> tuple[Origin, ...]:
        """Under which policy a fault of this epoch was: the VMA's, when it had one then, or the thread's."""
        existed, was = self._owned.at(address)
        now = area.policy if area.own else None
        traced = _policy_by_calls(calls, address, sequence, was)
        if traced is not None:
            (own,) = traced
            own = now if same_policy(own, now) else own
            return (self._origin(how, own or task, own is not None, thread),)
        if now is None and was is None:
            return (self._origin(how, task, False, thread),)
        present = self._origin(how, now or task, now is not None, thread)
        if existed and same_policy(was, now):
            return (present,)
        return present, self._origin(how, was or task, was is not None, thread)

    def _origin(self, how: How, policy: Policy | None, own: bool, thread: int) -> Origin:
        weights: tuple[tuple[int, int], ...] = ()
        if policy is not None and policy.mode == Mode.WEIGHTED_INTERLEAVE:
            weights = tuple(sorted(self._machine.weights_of().items()))
        return Origin(how, policy, own, thread, weights, self._machine.full)

    def _moves(self, drained: Drained) -> dict[tuple[int, int, int], Counter[int]]:
        moves: dict[tuple[int, int, int], Counter[int]] = {}
        rows = self._attribution.moves(drained)
        for address, source, destination, reason, pages, _ in zip(*(column.tolist() for column in rows), strict=True):
            if pages:
                moves.setdefault((address >> REGION_SHIFT, source, destination), Counter())[reason] += pages
        return moves

    def _found(self, area: Area) -> Origin:
        """The origin of pages that no event tells of, in a region that was never looked at."""
        if self._looks:
            return Origin(How.APPEARED)  # or moved here by mremap()
        return Origin(How.INHERITED) if self._born else Origin(How.FOUND, area.policy, area.own)

    # --- changes ---

    def _changes(self, before: _Tasks, owned: _Owned, drained: Drained | None) -> tuple[PolicyChange, ...]:
        """What was set since the last look: as the system calls said, where they are traced, and as it shows."""
        now = datetime.now(UTC)
        calls = [_called(call, self._owned, before) for call in (drained.calls if drained else ()) if not call.result]
        told = {(it.thread if not it.end else 0, it.start) for it in calls}
        seen = [
            PolicyChange(now, False, it.thread, 0, 0, before.by_thread[it.thread], it.policy)
            for it in self._tasks.shown
            if it.thread in before.by_thread and before.by_thread[it.thread] != it.policy and (it.thread, 0) not in told
        ]
        if owned is not self._owned:
            seen += [
                PolicyChange(now, False, 0, start, end, old, new)
                for start, end, old, new in _differences(self._owned, owned)
                if not any(call.start <= start < call.end for call in calls)
            ]
        return tuple(sorted((*calls, *seen), key=lambda it: it.time))

    # --- results ---

    def _policies(self, layout: Layout) -> Policies:
        node_ids = list(self._machine.node_ids)
        count = len(layout.vmas)
        rule, units = np.zeros((count, len(node_ids)), np.int64), np.zeros(count)
        huge, governed = np.zeros(count, np.int64), np.ones(count, bool)
        misplaced: list[tuple[int, Key, int]] = []
        rows = layout.spans.index_of(np.array([area.start for area in self._areas], np.int64))
        for area, row in zip(self._areas, rows.tolist(), strict=True):
            sums = self._ledger.sums.get(area.start)
            if sums is None or area.policy.mode in PROMISELESS:
                continue
            pages = int(sums.present.sum())
            rule[row], huge[row] = sums.rule[node_ids], sums.huge
            units[row] = pages * pages / sums.squares if sums.squares else 0.0
            governed[row] = not (area.own and pages and int(sums.file.sum()) == pages)
            misplaced += [(row, key, number) for key, number in sums.misplaced.items()]
            misplaced += [(row, key, number) for key, number in self._surplus(area, sums)]
        found = Policies(
            own=layout.own_policy,
            governed=governed,
            allowed=tuple(node for node in self._machine.node_ids if node in self._allowed),
            weights=self._machine.weights,
            threads=self._tasks.shown,
            changes=(),
            rule=rule,
            units=units,
            huge=huge,
            misplaced=_misplaced(misplaced, self._attribution.reasons),
            pressure=self._machine.pressure,
            observed=self._looks > 1 or self._born,
        )
        return self.policies if self.policies is not None and _equal(self.policies, found) else found

    def _surplus(self, area: Area, sums: Sums) -> list[tuple[Key, int]]:
        """Of the page cache, which goes by the policy of the thread that read it, and by turn: whatever there is more
        of on a node than its share was read by somebody else."""
        total = int(sums.file.sum())
        if area.own or not total:
            return []
        ids = self._machine.node_ids
        shares = expectation(area.policy, ids, self._machine.weights_of() or None).shares
        if shares is None:
            return []
        more = sums.file[list(ids)] - apportion(shares, total)
        elsewhere = {key.node: pages for key, pages in sums.misplaced.items() if key.cause == Cause.PAGE_CACHE}
        return [
            (Key(node, ANYWHERE, Cause.PAGE_CACHE, -1), left)
            for node, surplus in zip(ids, more.tolist(), strict=True)
            if (left := surplus - elsewhere.get(node, 0)) > 0
        ]


def _within(pages: npt.NDArray[np.bool_], begin: int, area: Area) -> npt.NDArray[np.bool_]:
    """Those of the pages of a region, which begins at an address, that lie in an area."""
    low, high = max(0, area.start - begin >> 12), max(0, area.end - begin >> 12)
    if low == 0 and high >= len(pages):
        return pages
    inside = np.zeros_like(pages)
    inside[low:high] = pages[low:high]
    return inside


def _policy_by_calls(
    calls: list[PolicyCall], address: int, sequence: int, was: Policy | None
) -> tuple[Policy | None] | None:
    """A VMA's own policy when the target had made so many calls, from the calls that were traced; None without any."""
    mine = [it for it in calls if not it.result and it.call == "mbind" and it.start <= address < it.end]
    if not mine:
        return None
    earlier = [it for it in mine if (sequence - it.sequence) % 4096 < 2048]
    if not earlier:
        return (was,)
    last = earlier[-1]
    return (None if last.mode == Mode.DEFAULT else Policy(last.mode, last.flags & MODE_FLAGS, last.nodes),)


def _called(call: PolicyCall, owned: _Owned, before: _Tasks) -> PolicyChange:
    """A traced system call as a change."""
    late = time.monotonic_ns() - call.time_ns
    when = datetime.fromtimestamp(time.time() - late / 1e9, UTC)
    new = Policy(call.mode, call.flags & MODE_FLAGS, call.nodes)
    if call.call == "set_mempolicy":
        return PolicyChange(when, True, call.thread, 0, 0, before.by_thread.get(call.thread), new, call.call)
    old = owned.at(call.start)[1]
    ours = None if call.mode == Mode.DEFAULT and call.call == "mbind" else new
    if call.call == "set_mempolicy_home_node":
        ours = old
    return PolicyChange(when, True, call.thread, call.start, call.end, old, ours, call.call)


def _differences(before: _Owned, now: _Owned) -> list[_Range]:
    """Ranges of addresses whose VMA has another policy of its own than before; a new VMA had none."""
    found: list[_Range] = []
    for first, last, new in zip(now.start.tolist(), now.end.tolist(), now.policies, strict=True):
        at = first
        for start, end, old in (*before.between(first, last), (last, last, None)):
            for begin, stop, was in ((at, start, None), (start, end, old)):
                if begin < stop and was != new:
                    _extend(found, begin, stop, was, new)
            at = max(at, end)
    return found


def _extend(found: list[_Range], start: int, end: int, old: Policy | None, new: Policy | None) -> None:
    """Add a range, to the one before if it goes on there."""
    if found and found[-1][1:] == (start, old, new):
        found[-1] = (found[-1][0], end, old, new)
    else:
        found.append((start, end, old, new))


def _misplaced(rows: list[tuple[int, Key, int]], reasons: tuple[str, ...]) -> Misplaced:
    table = sorted((row, key.node, key.expected, int(key.cause), key.reason, pages) for row, key, pages in rows)
    columns = np.array(table, np.int64).reshape(-1, 6)
    return Misplaced(reasons, *(np.ascontiguousarray(columns[:, at]) for at in range(6)))


def _equal(one: Policies, other: Policies) -> bool:
    """Whether nothing changed, so that the same object may be shown again."""
    plain = ("allowed", "weights", "threads", "observed")
    if any(getattr(one, name) != getattr(other, name) for name in plain) or one.pressure is not other.pressure:
        return False
    arrays = ("own", "governed", "rule", "units", "huge")
    if not all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays):
        return False
    columns = ("vma", "node", "expected", "cause", "reason", "pages")
    return all(np.array_equal(getattr(one.misplaced, name), getattr(other.misplaced, name)) for name in columns)
